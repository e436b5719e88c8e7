"""The folders of deliveries: where an agent works, what it finds there of before, and what it leaves.

Owns their names, the logs of what an agent printed, and what a completion says of files that stand there. It reads
no envelopes but completions. Called by the adapters.
"""

from __future__ import annotations

import hashlib
import re
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Final

from msgspec import structs

from taskbus.findings import printable
from taskbus_agents import room

if TYPE_CHECKING:
    from collections.abc import Callable

    from taskbus.envelope import Artifact, Completion
    from taskbus_agents.runner import Ended

STDOUT_LOG: Final = "stdout.log"
STDERR_LOG: Final = "stderr.log"

_NAME: Final = re.compile(r"([0-9]+)(?:\.([0-9]+))?")
_URL: Final = re.compile(r"[A-Za-z][A-Za-z0-9+.\-]*:")
_SHOWN: Final = 200
_LAST: Final = (1 << 62, 0)


@dataclass(frozen=True, slots=True)
class Folders:
    """Where deliveries are worked on: all in `fixed`, or each in a new folder under `root`."""

    root: Path
    fixed: Path | None = None

    def make(self, task: str, attempt: int | str) -> Path:
        """The folder to work in: `fixed`, or `root/task/attempt`, with a number behind it from the second on.

        What is no attempt of the task itself has a name instead of its number.
        """
        return self.fixed if self.fixed is not None else self.own(task, attempt)

    def own(self, task: str, attempt: int | str) -> Path:
        """A new folder under `root`, for this delivery alone. Raises Permanent or Retryable where none can be made."""
        parent = self.root / task
        number = 1
        try:
            parent.mkdir(parents=True, exist_ok=True)
            while True:
                folder = parent / (str(attempt) if number == 1 else f"{attempt}.{number}")
                try:
                    folder.mkdir()
                except FileExistsError:
                    number += 1
                else:
                    return folder
        except OSError as error:
            raise room.failure(f"No folder can be made for {task}", error) from error

    def before(self, folder: Path) -> Path | None:
        """The folder of the task's delivery before that of `folder`, of those that are still there."""
        if self.fixed is not None:
            return None
        mine = _order(folder) if _order(folder) > (0, 0) else _LAST
        earlier = [each for each in folder.parent.iterdir() if each.is_dir() and (0, 0) < _order(each) < mine]
        return max(earlier, key=_order, default=None)

    def leave(self, folder: Path) -> None:
        """Remove the folder of a delivery if nothing was left in it."""
        if self.fixed is None:
            with suppress(FileNotFoundError):  # the agent has removed it itself
                if not any(folder.iterdir()):
                    folder.rmdir()


@dataclass(slots=True)
class Printed:
    """What an agent printed in one delivery, and where it is kept: in `logs` where that is named, else beside its
    work, but never in the folder of --cwd, which is the user's.
    """

    folders: Folders
    task: str
    attempt: int | str
    folder: Path
    ended: Ended
    logs: Path | None = None
    _kept: Path | None = field(default=None, init=False)

    def keep(self, *, stdout: bool = True) -> Path | None:
        """Write the logs, of stdout only where asked for; returns their folder, None where there is nothing."""
        logs = {STDERR_LOG: self.ended.stderr, STDOUT_LOG: self.ended.stdout if stdout else b""}
        for name, text in logs.items():
            if not text.strip():
                continue
            # What cannot be kept (a full disk, a folder that the agent removed) must not cost the outcome as well.
            # A file of this name that is there already is the agent's own.
            with suppress(OSError):
                if self._kept is None and self.logs is not None:
                    self.logs.mkdir(exist_ok=True)
                    self._kept = self.logs
                elif self._kept is None:
                    fixed = self.folders.fixed is not None
                    self._kept = self.folders.own(self.task, self.attempt) if fixed else self.folder
                with (self._kept / name).open("xb") as file:
                    file.write(text)
        return self._kept


@dataclass(frozen=True, slots=True)
class Files:
    """The files that a completion in short names, relative to the folder of its delivery.

    `absolute`: the folder is one that nobody would look in, so that their full paths are published. `report` is
    told of each that is not there.
    """

    folder: Path
    absolute: bool
    report: Callable[[str], None]

    def published(self, completion: Completion) -> Completion:
        """The completion with the size and the SHA-256 of each file that is there. Reads every one of them."""
        artifacts = tuple(self._seen(each) for each in completion.result.artifacts)
        if artifacts == completion.result.artifacts:
            return completion
        return structs.replace(completion, result=structs.replace(completion.result, artifacts=artifacts))

    def _seen(self, artifact: Artifact) -> Artifact:
        if _URL.match(artifact.path):
            return artifact
        file = self.folder / artifact.path
        try:
            if not file.exists():
                self.report(f"{printable(artifact.path, _SHOWN)} is named as an output, and is not in {self.folder}.")
                return artifact
            found = artifact if not self.absolute else structs.replace(artifact, path=str(file))
            if not file.is_file() or artifact.sha256 is not None or artifact.size is not None:
                return found
            with file.open("rb") as opened:
                digest = hashlib.file_digest(opened, "sha256").hexdigest()
            return structs.replace(found, sha256=digest, size=file.stat().st_size)
        except (OSError, ValueError) as error:
            self.report(f"{printable(artifact.path, _SHOWN)} is named as an output, and cannot be read: {error}.")
            return artifact


def _order(folder: Path) -> tuple[int, int]:
    """By what the folders of a task come one after another; (0, 0) for what is none of them."""
    found = _NAME.fullmatch(folder.name)
    return (int(found[1]), int(found[2] or 1)) if found else (0, 0)
