"""The runner: one command as an agent's subprocess, from its start to its end.

Owns the time limit and the limit on silence, and the end of everything that the command started: it ends with the
command, also when the caller is cancelled or its process killed. It knows nothing of envelopes. Every adapter that
drives a command line program runs it through here.
"""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final, Literal, cast

import anyio

from taskbus.envelope import MAX_BYTES
from taskbus.errors import Retryable
from taskbus_agents import life
from taskbus_agents.child import Child
from taskbus_agents.guard import Guard

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from types import EllipsisType, TracebackType
    from typing import Self

GRACE: Final = 5.0
"""Seconds between TERM and KILL."""

Cut = Literal["timeout", "silence", "output"]
"""Why the runner ended a command: its time was up, it showed no life, or its stdout grew over the limit."""


@dataclass(frozen=True, slots=True)
class Ended:
    """How a command ended.

    `code` is its exit code, or the negative number of the signal that killed it. `cut` says that the runner ended
    it, and why. `stderr` are its last bytes. `left` are the processes of it that could not be ended, by their IDs:
    they belong to another user, or wait for a broken device.
    """

    code: int
    stdout: bytes
    stderr: bytes
    seconds: float
    cut: Cut | None = None
    left: tuple[int, ...] = ()


class Runner:
    """Runs commands, any number at a time; `async with`, so that nothing outlives it.

    Whatever a command starts is ended with it, even if this process is killed. On Linux nothing escapes that, on
    other systems only a process that has both left the command's process group and lost its parent.

    `timeout`, `silence` and `grace` are in seconds, `output` in bytes. A command that for `silence` seconds writes
    nothing, uses no CPU time and changes no file in its folder is ended, at most half as long again after it fell
    silent; in its folder the nearest `life.MOST_FILES` files count, whoever changes them. Several runners may share a
    `guard`, which whoever made it then closes.
    """

    def __init__(
        self,
        *,
        timeout: float | None = None,
        silence: float | None = None,
        grace: float = GRACE,
        output: int = MAX_BYTES,
        guard: Guard | None = None,
    ) -> None:
        self.timeout = timeout
        self.silence = silence
        self.grace = grace
        self.output = output
        self._guard = guard or Guard()
        self._closes = guard is None
        self._children: set[Child] = set()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._closes:
            self._guard.close()

    async def run(
        self,
        command: Sequence[str],
        *,
        stdin: bytes = b"",
        cwd: str | Path | None = None,
        env: Mapping[str, str] | None = None,
        timeout: float | EllipsisType | None = ...,
        silence: float | EllipsisType | None = ...,
        output: int | None = None,
        on_stderr: Callable[[bytes], None] | None = None,
        on_cancelled: Callable[[Ended], None] | None = None,
    ) -> Ended:
        """Run a command to its end, and end what it left running. Raises OSError when it cannot be started,
        and Retryable when it might be at another time.

        `timeout`, `silence` and `output` are other limits than the runner's, for this command.
        `on_stderr` is given what it writes to stderr, in pieces, as it comes. Cancelling this ends everything that
        the command started before the cancellation goes on: TERM, `grace`, KILL; `on_cancelled` is then told how
        it ended.
        """
        folder = Path(cwd) if cwd is not None else Path.cwd()
        try:
            launched = self._guard.launch()
        except OSError as error:
            raise Retryable(f"The command was not started: {error.strerror}.") from error
        child = Child(launched, self.output if output is None else output, on_stderr)
        self._children.add(child)
        cut: Cut | None = None
        is_done = False
        began = time.perf_counter()
        try:
            environment = dict(os.environ if env is None else env)
            await child.start({"command": list(command), "cwd": str(folder), "env": environment, "grace": self.grace})
            began = time.perf_counter()
            seconds = self.timeout if timeout is ... else timeout
            cut = await self._heard_out(child, stdin, folder, seconds, self.silence if silence is ... else silence)
            is_done = True
        finally:
            with anyio.CancelScope(shield=True):
                await child.end()
            child.close()
            self._children.discard(child)
            ended = Ended(
                cast("int", child.code),
                bytes(child.stdout),
                bytes(child.stderr),
                time.perf_counter() - began,
                cut,
                child.left,
            )
            if not is_done and child.code is not None and on_cancelled is not None:
                on_cancelled(ended)
        return ended

    @property
    def running(self) -> int:
        """How many commands run."""
        return len(self._children)

    def kill(self) -> None:
        """Kill all commands, and what they started, at once and without grace; each `run` then returns."""
        self.grace = 0.0
        for child in self._children:
            child.kill()

    async def _heard_out(
        self, child: Child, stdin: bytes, folder: Path, timeout: float | None, silence: float | None
    ) -> Cut | None:
        """Let the command say all that it has to say, or cut it short."""
        is_silent = False

        async def watch(seconds: float, scope: anyio.CancelScope) -> None:
            nonlocal is_silent
            await life.silence(child, folder, seconds)
            if child.code is None:
                is_silent = True
                scope.cancel()

        with anyio.move_on_after(timeout) as clock:
            async with anyio.create_task_group() as group:
                if silence is not None:
                    group.start_soon(watch, silence, group.cancel_scope)
                await child.talk(stdin)
                group.cancel_scope.cancel()
        if child.overflow:
            return "output"
        if clock.cancelled_caught:
            return "timeout"
        return "silence" if is_silent else None
