"""Files beside a run: those that a program is to find before it begins, and those that it leaves about its run.

Writes in the run's home and nowhere else, so that no program's settings in its user's home are ever overwritten.
Blocking. Called by the shared run of agents.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Final

from taskbus.errors import Permanent

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

LARGEST: Final = 16 << 20
"""Bytes of a file that are read, its last ones."""
_LOOKED_AT: Final = 1000


def write(files: Mapping[Path, bytes], home: Path) -> None:
    """Write files, for their owner's eyes only. Raises Permanent for one that is not in the run's home."""
    for path, data in files.items():
        if not path.resolve().is_relative_to(home.resolve()):
            raise Permanent(f"{path} is not in the home of the run, {home}, and is not written.")
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
            file.write(data)


def read(names: Mapping[str, str], home: Path, *, since: float) -> dict[str, bytes]:
    """The files of these names, by globs below a home or by full paths, globs as well, as far as they are there.

    Of several, the one that was written last. `since` is when the run began, in seconds since the epoch: what was
    not written after it belongs to another run.
    """
    found: dict[str, bytes] = {}
    for name, glob in names.items():
        newest = _newest(_candidates(glob, home), since)
        if newest is not None:
            try:
                with newest.open("rb") as file:
                    file.seek(max(0, newest.stat().st_size - LARGEST))
                    found[name] = file.read(LARGEST)
            except OSError:
                continue  # it is gone again: the adapter does without it, as when it was never there
    return found


def _candidates(glob: str, home: Path) -> Iterable[Path]:
    path = Path(glob)
    if not path.is_absolute():
        return home.glob(glob)
    return [path] if path.is_file() else Path(path.anchor).glob(str(path.relative_to(path.anchor)))


def _newest(files: Iterable[Path], since: float) -> Path | None:
    newest: tuple[float, Path] | None = None
    for number, each in enumerate(files):
        if number >= _LOOKED_AT:
            break
        try:
            status = each.stat()
        except OSError:
            continue
        # File systems keep times of a second or two at worst.
        if each.is_file() and status.st_mtime >= since - 2 and (newest is None or status.st_mtime > newest[0]):
            newest = (status.st_mtime, each)
    return newest[1] if newest is not None else None
