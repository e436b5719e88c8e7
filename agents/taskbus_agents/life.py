"""The life of a command that says nothing: the CPU time of its processes, and what changes in its folder.

Called by the runner, which hears what the command writes. A look costs a walk over the system's processes and over
the folder, beside the event loop: it is taken a few times per silence, and only while no output comes.
"""

from __future__ import annotations

import time
from collections import deque
from dataclasses import dataclass
from functools import partial
from os import scandir
from typing import TYPE_CHECKING, Final

import anyio
import anyio.to_thread

if TYPE_CHECKING:
    from pathlib import Path

    from taskbus_agents.child import Child

LOOKS: Final = 4
"""How often one looks in the time after which silence is too long."""
MOST_FILES: Final = 10_000
"""How many files and folders one look takes in, those nearest to the working folder first."""
LEAST_CPU: Final = 0.001
"""The share of one core that is no sign of life yet: a program that only waits wakes up now and then."""


@dataclass(frozen=True, slots=True)
class Look:
    """What was seen: the CPU seconds that all processes of a command have used, and a sum over its files that
    changes with each of them.
    """

    cpu: float
    files: tuple[int, int]

    def is_life(self, before: Look, seconds: float) -> bool:
        """Whether something has happened since a look that was taken so many seconds before."""
        # It falls when a process ends whose parent does not wait for it: that is a sign of life, too.
        return self.files != before.files or not 0 <= self.cpu - before.cpu <= LEAST_CPU * seconds


async def silence(child: Child, folder: Path, seconds: float) -> None:
    """Return once the child has shown no life for so many seconds, at most half as long again after that began."""
    step = seconds / LOOKS
    alive = looked = time.monotonic()
    before: Look | None = None
    while True:
        await anyio.sleep(step)
        if time.monotonic() - child.heard < step:
            before = None
            continue
        now = time.monotonic()
        seen = await anyio.to_thread.run_sync(partial(look, child.keeper, folder), abandon_on_cancel=True)
        if before is None or seen.is_life(before, now - looked):
            alive = now
        elif now - max(alive, child.heard) >= seconds:
            return
        before, looked = seen, now


def look(keeper: int, folder: Path) -> Look:
    """Look at everything that a keeper's command has started, and at its working folder. Never raises OSError."""
    return Look(_cpu(keeper), _files(folder))


def _cpu(keeper: int) -> float:
    import psutil

    try:
        root = psutil.Process(keeper)
        # What the keeper itself does is no sign of life, but what it has reaped was.
        ended = root.cpu_times()
        total = ended.children_user + ended.children_system
        running = root.children(recursive=True)
    except psutil.Error:
        return 0.0
    for process in running:
        try:
            used = process.cpu_times()
        except psutil.Error:
            continue  # it has ended in the meantime, or is not ours to look at
        total += used.user + used.system + used.children_user + used.children_system
    return total


def _files(folder: Path) -> tuple[int, int]:
    count = total = 0
    waiting = deque([str(folder)])
    while waiting and count < MOST_FILES:
        try:
            with scandir(waiting.popleft()) as entries:
                for entry in entries:
                    status = entry.stat(follow_symlinks=False)
                    count += 1
                    # A sum and not the newest: one file from the future would hide all that comes after it.
                    total += status.st_mtime_ns + status.st_size
                    if entry.is_dir(follow_symlinks=False):
                        waiting.append(entry.path)
                    if count >= MOST_FILES:
                        break
        except OSError:
            continue  # removed while we looked, or not ours to read
    return count, total
