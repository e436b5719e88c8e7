"""Histories: what each process did and was told, one JSON object to a line, in a file that outlives its kill.

Each line is one write to the kernel before the next thing happens, so that SIGKILL loses nothing of it. Times are
of the monotonic clock, which all processes of a machine share and no step of the wall clock changes.
"""

from __future__ import annotations

import json
import os
import time
from typing import TYPE_CHECKING, Any, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

Event: TypeAlias = dict[str, Any]
"""`t` (seconds), `who`, `pid`, `what`, and what belongs to that; see the roles for what they note."""


class History:
    """The history of one role, which goes on in the same file when its process is started again."""

    def __init__(self, folder: Path, who: str) -> None:
        self._who = who
        self._pid = os.getpid()
        self._file = os.open(folder / f"{who}.jsonl", os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)

    def note(self, what: str, **more: object) -> float:
        """Write a line; returns its time."""
        now = time.monotonic()
        event = {"t": now, "who": self._who, "pid": self._pid, "what": what, **more}
        os.write(self._file, json.dumps(event, default=str).encode() + b"\n")
        return now


def read(path: Path) -> list[Event]:
    """The events of one role, in their order; none where it has no file yet, and no last line that was cut off."""
    if not path.exists():
        return []
    lines = path.read_bytes().split(b"\n")
    return [json.loads(line) for line in lines[:-1]]


def merged(histories: Iterable[list[Event]]) -> list[Event]:
    """All events of several roles, in the order of time."""
    return sorted((event for events in histories for event in events), key=lambda event: event["t"])
