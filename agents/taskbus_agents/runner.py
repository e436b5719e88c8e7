"""The runner: one command as an agent's subprocess, in a process group of its own, from its start to its end.

Owns the pipes, the time limit, the bound on what is kept of the output, and the end of the whole group: whatever
the command started ends with it, also when the caller is cancelled or its process killed. It knows nothing of
envelopes. Every adapter that drives a command line program runs it through here.
"""

from __future__ import annotations

import os
import signal
import subprocess
import time
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Literal, cast

import anyio

from taskbus.envelope import MAX_BYTES
from taskbus_agents.guard import POLL, Guard, signaled

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Mapping, Sequence
    from pathlib import Path
    from types import TracebackType
    from typing import IO, Self

GRACE: Final = 5.0
"""Seconds between TERM and KILL."""
STDERR_KEPT: Final = 16_384
"""How many of the last bytes of stderr are kept."""

_CHUNK = 65_536
# How long the pipes may stay open after the command has exited: something that it left behind holds them.
_DRAIN = 0.5
_LONGEST_POLL = 0.1


@dataclass(frozen=True, slots=True)
class Ended:
    """How a command ended.

    `code` is its exit code, or the negative number of the signal that killed it. `cut` says that the runner ended
    it, and why: its time was up, or its stdout grew over the limit. `stderr` are its last bytes.
    """

    code: int
    stdout: bytes
    stderr: bytes
    seconds: float
    cut: Literal["timeout", "output"] | None = None


class Runner:
    """Runs commands, any number at a time; `async with`, so that nothing outlives it.

    A command that waits for its stdin is ended even if this process is killed: it gets none before its guard knows
    of it. `timeout` and `grace` are in seconds, `output` in bytes.
    """

    def __init__(self, *, timeout: float | None = None, grace: float = GRACE, output: int = MAX_BYTES) -> None:
        self.timeout = timeout
        self.grace = grace
        self.output = output
        self._guard = Guard(grace)
        self._groups: set[int] = set()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._guard.close()

    async def run(
        self,
        command: Sequence[str],
        *,
        stdin: bytes = b"",
        cwd: str | Path | None = None,
        env: Mapping[str, str] | None = None,
        on_stderr: Callable[[bytes], None] | None = None,
    ) -> Ended:
        """Run a command to its end, and end what it left running. Raises OSError when it cannot be started.

        `on_stderr` is given what it writes to stderr, in pieces, as it comes.

        Cancelling this ends the whole group as well, before the cancellation goes on: TERM, `grace`, KILL.
        """
        self._guard.start()
        began = time.perf_counter()
        child = _Child(_started(command, cwd, env), self.output, on_stderr)
        with self._watched(child.group), child.pipes(), anyio.move_on_after(self.timeout) as clock:
            try:
                await child.talk(stdin)
            finally:
                with anyio.CancelScope(shield=True):
                    await child.end(self.grace)
        cut = "output" if child.overflow else "timeout" if clock.cancelled_caught else None
        code = cast("int", child.process.returncode)
        return Ended(code, bytes(child.stdout), bytes(child.stderr), time.perf_counter() - began, cut)

    @property
    def running(self) -> int:
        """How many commands run."""
        return len(self._groups)

    def kill(self) -> None:
        """Kill all groups at once, without grace; each `run` then returns."""
        self.grace = 0.0
        for group in self._groups:
            signaled(group, signal.SIGKILL)

    @contextmanager
    def _watched(self, group: int) -> Generator[None]:
        self._groups.add(group)
        self._guard.watch(group)
        try:
            yield
        finally:
            self._groups.discard(group)
            self._guard.forget(group)


class _Child:
    """A command that runs. Its pipes are read here and not by asyncio's subprocesses, whose `wait` also waits for
    everybody who inherited a pipe (Python 3.11.7: a command that left a `sleep 2` behind "ended" two seconds late).
    """

    def __init__(
        self, process: subprocess.Popen[bytes], limit: int, on_stderr: Callable[[bytes], None] | None = None
    ) -> None:
        self.process = process
        self.group = process.pid
        self.stdout = bytearray()
        self.stderr = bytearray()
        self.overflow = False
        self._limit = limit
        self._on_stderr = on_stderr
        self._silent = anyio.Event()

    @contextmanager
    def pipes(self) -> Generator[None]:
        """The three pipes, closed at the end."""
        files = cast("list[IO[bytes]]", [self.process.stdin, self.process.stdout, self.process.stderr])
        for file in files:
            os.set_blocking(file.fileno(), False)
        try:
            yield
        finally:
            for file in files:
                _close(file)

    async def talk(self, stdin: bytes) -> None:
        """Feed stdin, read stdout and stderr, until the command has exited or its output grows over the limit."""
        async with anyio.create_task_group() as group:
            group.start_soon(self._feed, stdin)
            group.start_soon(self._listen, group.cancel_scope)
            await self._exited()
            with anyio.move_on_after(_DRAIN):
                await self._silent.wait()
            group.cancel_scope.cancel()

    async def end(self, grace: float) -> None:
        """End whoever is left of the group: TERM, `grace` seconds, KILL; returns when the command is gone."""
        deadline = time.monotonic() + grace
        left = signaled(self.group, signal.SIGTERM)
        while left and time.monotonic() < deadline:
            self.process.poll()
            left = signaled(self.group, 0)
            if left:
                await anyio.sleep(POLL)
        if left:
            signaled(self.group, signal.SIGKILL)
        while self.process.poll() is None:  # noqa: ASYNC110 - nothing tells of the end of a process that is reaped here
            await anyio.sleep(POLL)

    async def _exited(self) -> None:
        pause = 0.005
        while self.process.poll() is None:
            if self._silent.is_set():
                await anyio.sleep(pause)
                pause = min(pause * 1.5, _LONGEST_POLL)
                continue
            with anyio.move_on_after(_LONGEST_POLL):
                await self._silent.wait()  # most commands close their pipes by exiting

    async def _feed(self, data: bytes) -> None:
        pipe = cast("IO[bytes]", self.process.stdin)
        rest = memoryview(data)
        while rest:
            await anyio.wait_writable(pipe)
            try:
                rest = rest[os.write(pipe.fileno(), rest[:_CHUNK]) :]
            except BlockingIOError:
                continue
            except BrokenPipeError:
                break  # an agent need not read what it is given
        _close(pipe)

    async def _listen(self, scope: anyio.CancelScope) -> None:
        async with anyio.create_task_group() as group:
            group.start_soon(self._read_stdout, scope)
            group.start_soon(self._read_stderr)
        self._silent.set()

    async def _read_stdout(self, scope: anyio.CancelScope) -> None:
        while chunk := await _chunk(cast("IO[bytes]", self.process.stdout)):
            self.stdout += chunk
            if len(self.stdout) > self._limit:
                self.overflow = True
                scope.cancel()

    async def _read_stderr(self) -> None:
        while chunk := await _chunk(cast("IO[bytes]", self.process.stderr)):
            self.stderr += chunk
            del self.stderr[:-STDERR_KEPT]
            if self._on_stderr is not None:
                self._on_stderr(chunk)


def _started(command: Sequence[str], cwd: str | Path | None, env: Mapping[str, str] | None) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        command,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        cwd=cwd,
        env=env,
        start_new_session=True,
    )


async def _chunk(pipe: IO[bytes]) -> bytes:
    while True:
        await anyio.wait_readable(pipe)
        try:
            return os.read(pipe.fileno(), _CHUNK)
        except BlockingIOError:
            continue


def _close(file: IO[bytes]) -> None:
    # Nothing is ever buffered, since the pipes are written to directly, so nothing is lost.
    with suppress(BrokenPipeError):
        file.close()
