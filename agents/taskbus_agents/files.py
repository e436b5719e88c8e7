"""Files beside a run: those that a program is to find before it begins, and those that it leaves about its run.

Writes in the run's home and nowhere else, so that no program's settings in its user's home are ever overwritten.
Blocking. Called by the shared run of agents.
"""

from __future__ import annotations

import os
import stat
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Final, TypeAlias

from taskbus.errors import Permanent
from taskbus_agents import room

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

LARGEST: Final = 16 << 20
"""Bytes of a file that are read, its last ones."""
MOST_FILES: Final = 50_000
"""So many files of one name are looked at: a user's sessions of years."""
Stamp: TypeAlias = tuple[int, int, int]
"""The time of its last change in nanoseconds, its size, its inode: no clock is asked, which may be set meanwhile."""


def write(files: Mapping[Path, bytes], home: Path) -> None:
    """Write files, for their owner's eyes only. Raises Permanent for one that is not in the run's home, and Permanent
    or Retryable where it cannot be written.
    """
    for path, data in files.items():
        if not path.resolve().is_relative_to(home.resolve()):
            raise Permanent(f"{path} is not in the home of the run, {home}, and is not written.")
        try:
            path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
                file.write(data)
        except OSError as error:
            raise room.failure(f"{path}, which the program is to find, cannot be written", error) from error


def stamps(names: Mapping[str, str], home: Path) -> dict[Path, Stamp]:
    """Which files of these names are there before a run, and as which: by what they are told from those of the run."""
    return {path: stamp for glob in names.values() for path, stamp in _looked_at(glob, home)}


def read(names: Mapping[str, str], home: Path, *, before: Mapping[Path, Stamp]) -> dict[str, bytes]:
    """The files of these names, by globs below a home or by full paths, globs as well, as far as they are there.

    Of several, the one that was written last. What is as it was `before` the run belongs to another one.
    """
    found: dict[str, bytes] = {}
    for name, glob in names.items():
        written = [(stamp, path) for path, stamp in _looked_at(glob, home) if before.get(path) != stamp]
        newest = max(written, default=None)
        if newest is not None:
            try:
                with newest[1].open("rb") as file:
                    file.seek(max(0, newest[0][1] - LARGEST))
                    found[name] = file.read(LARGEST)
            except OSError:
                continue  # it is gone again: the adapter does without it, as when it was never there
    return found


def _looked_at(glob: str, home: Path) -> Iterator[tuple[Path, Stamp]]:
    for path in islice(_candidates(glob, home), MOST_FILES):
        try:
            status = path.stat()
        except OSError:
            continue
        if stat.S_ISREG(status.st_mode):
            yield path, (status.st_mtime_ns, status.st_size, status.st_ino)


def _candidates(glob: str, home: Path) -> Iterable[Path]:
    path = Path(glob)
    if not path.is_absolute():
        return home.glob(glob)
    return [path] if path.is_file() else Path(path.anchor).glob(str(path.relative_to(path.anchor)))
