"""The command adapter: any program as an agent, one subprocess for each delivery.

The program reads its task from stdin, works in a folder, and leaves a completion, a question or an escalation in
`completion.json` or on stdout. It is the pattern for the adapters of real agents: a handler over the shared runner.
"""

from __future__ import annotations

import os
import sysconfig
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from taskbus.envelope import MAX_BYTES
from taskbus.lifecycle import DELIVERED
from taskbus_agents import outcome, talk
from taskbus_agents.outcome import Words

if TYPE_CHECKING:
    from collections.abc import Mapping

    from taskbus.client import Bus
    from taskbus.codec import Document
    from taskbus.worker import Work
    from taskbus_agents.runner import Runner

COMPLETION_FILE: Final = "completion.json"
"""Where an agent may leave its outcome, in its working folder."""
WORK: Final = frozenset({"delegation", "answer", "verdict"})
"""The messages that begin or continue an assignee's work; all others only inform."""


@dataclass(frozen=True, slots=True)
class Folders:
    """Where deliveries are worked on: all in `fixed`, or each in a new folder under `root`."""

    root: Path
    fixed: Path | None = None

    def make(self, task: str, attempt: int) -> Path:
        """The folder for a delivery: `root/task/attempt`, with a number behind it from the second delivery on."""
        if self.fixed is not None:
            return self.fixed
        parent = self.root / task
        parent.mkdir(parents=True, exist_ok=True)
        number = 1
        while True:
            folder = parent / (str(attempt) if number == 1 else f"{attempt}.{number}")
            try:
                folder.mkdir()
            except FileExistsError:
                number += 1
            else:
                return folder

    def leave(self, folder: Path) -> None:
        """Remove the folder of a delivery if nothing was left in it."""
        if self.fixed is None and not any(folder.iterdir()):
            folder.rmdir()


@dataclass(frozen=True, slots=True)
class CommandAgent:
    """A handler that runs `command` for each delivery; `environment` is what it finds besides the variables of
    its delivery.
    """

    command: tuple[str, ...]
    runner: Runner
    folders: Folders
    environment: Mapping[str, str]

    async def __call__(self, work: Work) -> list[Document] | None:
        """Run the command, and return what it left; nothing for a message that asks for no work.

        Cancelling it ends the command and whatever it started.
        """
        delivery = work.delivery
        if delivery.state not in DELIVERED or work.envelope.type not in WORK:
            return None
        task = await work.bus.task(delivery.task)
        said = await talk.talk(work.bus, delivery)
        folder = self.folders.make(delivery.task, task.attempt)
        file = folder / COMPLETION_FILE
        before = _fingerprint(file)
        variables = {"BUS_TASK": delivery.task, "BUS_TOKEN": str(delivery.token), "BUS_ATTEMPT": str(task.attempt)}
        try:
            ended = await self.runner.run(
                self.command, stdin=talk.lines(said), cwd=folder, env={**self.environment, **variables}
            )
        except OSError as error:
            message = f"The agent's command could not be started: {error.strerror or error}: {self.command[0]}"
            return [outcome.failure(work, "not-started", message)]
        words = Words(ended.stdout, "stdout")
        if _fingerprint(file) not in (None, before):
            words = _read(file)
        self.folders.leave(folder)
        task = await work.bus.task(delivery.task)
        if task.state not in DELIVERED or task.token != delivery.token:
            return None  # the agent has published its outcome itself, or the task was taken away from it
        settling = outcome.outcome(work, ended, words)
        if await _stands(work.bus, settling.envelope.id):
            # Appending it again would change nothing, and leave the task without an outcome.
            said = f"The envelope that the agent wrote ({settling.envelope.id}) stands in the log already."
            return [outcome.failure(work, "invalid-completion", said, category="validation", words=words.text)]
        return [settling]


def environment(inherited: Mapping[str, str], *, agent: str, url: str, namespace: str, home: Path) -> dict[str, str]:
    """What a command finds in its environment, so that it can call `bus` itself.

    The folder of the `bus` that runs comes last on its PATH, so that there is one.
    """
    path = inherited.get("PATH", os.defpath)
    return {
        **inherited,
        "PATH": f"{path}{os.pathsep}{sysconfig.get_path('scripts')}",
        "BUS_URL": url,
        "BUS_NAMESPACE": namespace,
        "REDIS_PREFIX": namespace,
        "BUS_HOME": str(home),
        "BUS_AGENT": agent,
    }


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
