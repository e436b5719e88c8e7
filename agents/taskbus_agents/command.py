"""The command adapter: any program as an agent, one subprocess for each delivery.

The program reads its task from stdin, works in a folder, and leaves a completion, a question or an escalation in
`completion.json` or on stdout. It is the pattern for the adapters of real agents: a handler over the shared runner.
"""

from __future__ import annotations

import os
import sysconfig
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Final, TypeVar

import anyio
import anyio.to_thread

from taskbus.envelope import MAX_BYTES
from taskbus.errors import NotFound, Permanent, TimedOut, Unavailable
from taskbus.lifecycle import DELIVERED
from taskbus_agents import outcome, retry, talk
from taskbus_agents.folders import Files, Folders, Printed
from taskbus_agents.outcome import Words

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping
    from pathlib import Path

    from taskbus.client import Bus
    from taskbus.codec import Document
    from taskbus.work import Work
    from taskbus_agents.runner import Ended, Runner

COMPLETION_FILE: Final = "completion.json"
"""Where an agent may leave its outcome, in its working folder."""
_LONGEST_LINE: Final = 65_536
_PAUSE: Final = 0.5
_T = TypeVar("_T")
WORK: Final = frozenset({"delegation", "answer", "verdict"})
"""The messages that begin or continue an assignee's work; all others only inform."""


@dataclass(frozen=True, slots=True)
class CommandAgent:
    """A handler that runs `command` for each delivery; `environment` is what it finds besides the variables of
    its delivery.

    `on_start` is told of each run, `on_incident` of what is odd and no failure, `on_stderr` is given each line of
    stderr, with its task.
    """

    command: tuple[str, ...]
    runner: Runner
    folders: Folders
    environment: Mapping[str, str]
    on_start: Callable[[Work], None] = lambda _work: None
    on_incident: Callable[[str], None] = lambda _incident: None
    on_stderr: Callable[[str, str], None] | None = None

    async def __call__(self, work: Work) -> list[Document] | None:
        """Run the command, and return what it left; nothing for a message that asks for no work.

        Cancelling it ends the command and whatever it started. Raises Retryable and QuotaLimited as `retry` reads
        them from the command's end, and Permanent where the log has lost what is to be done.
        """
        delivery = work.delivery
        if not asks_for_work(work):
            return None
        await work.acknowledged()  # the command may speak about its task from its first moment
        try:
            task = await work.bus.task(delivery.task)
            said = await talk.talk(work.bus, delivery)
        except NotFound as error:
            raise Permanent(error.message, advice=error.advice) from error  # what the log has lost it will not find
        folder = self.folders.make(delivery.task, task.attempt)
        file = folder / COMPLETION_FILE
        before = _fingerprint(file)
        variables = {"BUS_TASK": delivery.task, "BUS_TOKEN": str(delivery.token), "BUS_ATTEMPT": str(task.attempt)}
        variables["BUS_TRY"] = str(delivery.tries)
        if (previous := self.folders.before(folder)) is not None:
            variables["BUS_PREVIOUS"] = str(previous)
        try:
            ended = await self._run(work, folder, task.attempt, talk.lines(said), variables)
        except OSError as error:
            message = f"The agent's command could not be started: {error.strerror or error}: {self.command[0]}"
            return [outcome.failure(work, "not-started", message)]
        words = Words(ended.stdout, "stdout")
        if _fingerprint(file) not in (None, before):
            words = _read(file)
        printed = Printed(self.folders, delivery.task, task.attempt, folder, ended)
        if ended.left:
            left = ", ".join(map(str, ended.left))
            self._report(delivery.task, f"What the agent started could not be ended, and still runs: process {left}.")
        task = await _answered(lambda: work.bus.task(delivery.task))
        if task.state not in DELIVERED or task.token != delivery.token:
            # The agent has published its outcome itself, or the task was taken away from it.
            printed.keep()
            self.folders.leave(folder)
            return None
        if retry.is_wanted(ended):
            kept = printed.keep()
            self.folders.leave(folder)
            raise retry.failure(ended, words, kept=kept)
        return await self._settling(work, ended, words, printed)

    async def _run(self, work: Work, folder: Path, attempt: int, stdin: bytes, variables: Mapping[str, str]) -> Ended:
        lines = _Lines(partial(self.on_stderr, work.delivery.task)) if self.on_stderr is not None else None

        def cancelled(ended: Ended) -> None:
            Printed(self.folders, work.delivery.task, attempt, folder, ended).keep()
            self.folders.leave(folder)

        self.on_start(work)
        try:
            return await self.runner.run(
                self.command,
                stdin=stdin,
                cwd=folder,
                env={**self.environment, **variables},
                on_stderr=lines,
                on_cancelled=cancelled,
            )
        finally:
            if lines is not None:
                lines.end()

    async def _settling(self, work: Work, ended: Ended, words: Words, printed: Printed) -> list[Document]:
        """What the delivery is settled with."""
        folder = printed.folder
        files = Files(folder, self.folders.fixed is None, partial(self._report, work.delivery.task))
        # Beside the event loop, since it may hash large files while other leases are to be renewed.
        settling = await anyio.to_thread.run_sync(
            partial(outcome.outcome, work, ended, words, keep=printed.keep, published=files.published)
        )
        printed.keep(stdout=words.origin != "stdout")  # what stdout said as the outcome stands in the log
        self.folders.leave(folder)
        # An ID of our own may stand there: an attempt before this one, whose worker was lost, has settled it so.
        is_own = settling.envelope.id == work.delivery.outcome_id(1)
        if not is_own and await _answered(lambda: _stands(work.bus, settling.envelope.id)):
            # Appending it again would change nothing, and leave the task without an outcome.
            said = f"The envelope that the agent wrote ({settling.envelope.id}) stands in the log already."
            return [outcome.failure(work, "invalid-completion", said, category="validation", words=words.text)]
        return [settling]

    def _report(self, task: str, incident: str) -> None:
        self.on_incident(f"Task {task}: {incident}")


class _Lines:
    """Cuts what comes in pieces into lines."""

    def __init__(self, write: Callable[[str], None]) -> None:
        self._write = write
        self._rest = b""

    def __call__(self, piece: bytes) -> None:
        *lines, self._rest = (self._rest + piece).split(b"\n")
        for line in lines:
            self._write(line.decode(errors="replace").rstrip("\r"))
        if len(self._rest) > _LONGEST_LINE:
            self.end()

    def end(self) -> None:
        """Write what is left without the end of its line."""
        if self._rest:
            self._write(self._rest.decode(errors="replace"))
            self._rest = b""


def asks_for_work(work: Work) -> bool:
    """Whether this delivery begins or continues the agent's work on an open task."""
    return work.delivery.is_work and work.envelope.type in WORK


def environment(inherited: Mapping[str, str], *, agent: str, url: str, namespace: str, home: Path) -> dict[str, str]:
    """What a command finds in its environment, so that it can call `bus` itself.

    The folder of the `bus` that runs comes last on its PATH, so that there is one.
    """
    path = inherited.get("PATH", os.defpath)
    # A worker may have been started by an agent itself, whose previous folder is none of this one's.
    kept = {name: value for name, value in inherited.items() if name != "BUS_PREVIOUS"}
    return {
        **kept,
        "PATH": f"{path}{os.pathsep}{sysconfig.get_path('scripts')}",
        "BUS_URL": url,
        "BUS_NAMESPACE": namespace,
        "REDIS_PREFIX": namespace,
        "BUS_HOME": str(home),
        "BUS_AGENT": agent,
    }


async def _answered(ask: Callable[[], Awaitable[_T]]) -> _T:
    """Ask the server until it answers: the command is done, and an outage must not cost its result."""
    while True:
        try:
            return await ask()
        except (Unavailable, TimedOut):  # the worker says so
            await anyio.sleep(_PAUSE)


async def _stands(bus: Bus, envelope: str) -> bool:
    return await bus.connection.field(bus.keys.index, envelope) is not None


def _fingerprint(file: Path) -> tuple[int, int, int] | None:
    """By what a file that the agent wrote is told from one that lay there before."""
    try:
        found = file.stat()
    except OSError:
        return None
    return found.st_ino, found.st_mtime_ns, found.st_size


def _read(file: Path) -> Words:
    if not file.is_file():
        return Words(b"", file.name, "it is no file")
    try:
        with file.open("rb") as opened:
            text = opened.read(MAX_BYTES + 1)
    except OSError as error:
        return Words(b"", file.name, error.strerror or str(error))
    if len(text) > MAX_BYTES:
        return Words(b"", file.name, f"it is longer than {MAX_BYTES} bytes")
    return Words(text, file.name)
