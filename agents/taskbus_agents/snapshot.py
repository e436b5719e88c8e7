"""The snapshot: what stands in a folder, so that what a run has changed is told from what it says it has.

By content where that can be read in a moment, never by names and times alone: a file that was only touched has not
changed. Follows no symbolic link. Owned by the workspace.
"""

from __future__ import annotations

import hashlib
import os
import stat
from collections import Counter, deque
from contextlib import suppress
from dataclasses import dataclass, field
from fnmatch import fnmatch
from pathlib import Path
from typing import TYPE_CHECKING, Final, Literal, NamedTuple, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

MOST_FILES: Final = 20_000
"""So many files of a folder are looked at, the nearest first."""
LARGEST: Final = 32 << 20
"""Bytes. Larger files are told apart by their size and time."""
MOST_BYTES: Final = 512 << 20
"""Bytes that are read for one snapshot in all; files beyond that are told apart by their size and time."""
_TEXT: Final = 128 << 10
_MOST_TEXT: Final = 16 << 20
_REPOSITORY: Final = ".git"

Kind: TypeAlias = Literal["added", "changed", "removed"]


class Seen(NamedTuple):
    """A file or a symbolic link: `digest` is the SHA-256 of its bytes, or the target of a link; `text` its lines."""

    size: int
    stamp: tuple[int, int, int]
    digest: str | None
    is_link: bool
    text: tuple[bytes, ...] | None = None


@dataclass(frozen=True, slots=True)
class Change:
    """One file that a run has added, changed or removed, by its path in the folder.

    `added` and `removed` are lines, None for what is no text or too large. `is_sure` is false for a file that is too
    large to be read: it may have been touched only.
    """

    path: str
    kind: Kind
    size: int | None = None
    sha256: str | None = None
    added: int | None = None
    removed: int | None = None
    is_link: bool = False
    is_sure: bool = True

    @property
    def is_something(self) -> bool:
        """Whether it shows that work was done: an empty file does not."""
        return self.is_sure and (self.kind == "removed" or bool(self.size) or self.is_link)

    def __str__(self) -> str:
        lines = "" if self.added is None else f", +{self.added} \N{MINUS SIGN}{self.removed} lines"
        return f"{self.kind}{lines}{'' if self.is_sure else ', or only touched: it is too large to be compared'}"


@dataclass(slots=True)
class Snapshot:
    """What stood in a folder at one moment. `is_whole` is false where it has more files than are looked at."""

    files: dict[str, Seen] = field(default_factory=dict[str, Seen])
    is_whole: bool = True
    taken: float = 0.0
    _read: int = 0
    _kept: int = 0

    @classmethod
    def of(cls, folder: Path, *, skip: Iterable[Path] = (), litter: Iterable[str] = ()) -> Snapshot:
        """Look at a folder, but for these folders in it and files that match one of these globs."""
        found = cls()
        globs = tuple(litter)
        for path, place, status in _walk(folder, places(skip)):
            if matches(path, globs):
                continue
            if len(found.files) >= MOST_FILES:
                found.is_whole = False
                break
            found.files[path] = found._seen(place, status)
        found.taken = max((each.stamp[1] for each in found.files.values()), default=0)
        return found

    def changes(self, later: Snapshot) -> list[Change]:
        """What is otherwise in a later snapshot, in the order of the paths."""
        return sorted(self._changes(later), key=lambda change: change.path)

    def _changes(self, later: Snapshot) -> Iterator[Change]:
        for path, seen in later.files.items():
            before = self.files.get(path)
            # In a folder with more files than are looked at, another file may only have come into sight.
            if before is None and (self.is_whole or seen.stamp[1] > self.taken):
                yield _change(path, "added", None, seen)
            elif before is not None and not _is_same(before, seen):
                sure = before.size != seen.size or (before.digest is not None and seen.digest is not None)
                yield _change(path, "changed", before, seen, is_sure=sure)
        if self.is_whole and later.is_whole:
            for path, seen in self.files.items():
                if path not in later.files:
                    lines = len(seen.text) if seen.text is not None else None
                    yield Change(path, "removed", None, None, None if lines is None else 0, lines, seen.is_link)

    def _seen(self, place: str, status: os.stat_result) -> Seen:
        stamp = (status.st_mtime_ns, status.st_ctime_ns, status.st_ino)
        try:
            if stat.S_ISLNK(status.st_mode):
                return Seen(status.st_size, stamp, os.readlink(place), is_link=True)  # noqa: PTH115 - a name of any bytes
            if status.st_size > LARGEST or self._read + status.st_size > MOST_BYTES:
                return Seen(status.st_size, stamp, None, is_link=False)
            data = Path(place).read_bytes()
        except OSError:  # it is gone again, or not ours to read: its time tells whether it changed
            return Seen(status.st_size, stamp, None, is_link=False)
        self._read += len(data)
        return Seen(len(data), stamp, hashlib.sha256(data).hexdigest(), is_link=False, text=self._text(data))

    def _text(self, data: bytes) -> tuple[bytes, ...] | None:
        if len(data) > _TEXT or b"\0" in data or self._kept + len(data) > _MOST_TEXT:
            return None
        self._kept += len(data)
        return tuple(data.splitlines())


def matches(path: str, globs: Iterable[str]) -> bool:
    """Whether a path, or a folder that it is in, is one of these."""
    return any(fnmatch(path, glob) or fnmatch(path, f"{glob}/*") for glob in globs)


def places(folders: Iterable[Path]) -> frozenset[tuple[int, int]]:
    """What these folders are, whichever names and links lead to them."""
    found: set[tuple[int, int]] = set()
    for each in folders:
        with suppress(OSError):  # one that is not there is in nobody's way
            status = each.stat()
            found.add((status.st_dev, status.st_ino))
    return frozenset(found)


def _walk(folder: Path, skip: frozenset[tuple[int, int]]) -> Iterator[tuple[str, str, os.stat_result]]:
    """Each file and link with its path in the folder: the nearest first, in the order of names, no repositories."""
    queue = deque([("", str(folder))])
    while queue:
        prefix, place = queue.popleft()
        try:
            with os.scandir(place) as scan:
                entries = sorted(scan, key=lambda entry: entry.name)
        except OSError:  # a folder that is gone again, or not ours to read
            continue
        for entry in entries:
            if entry.name == _REPOSITORY:
                continue
            path = f"{prefix}{entry.name}"
            try:
                status = entry.stat(follow_symlinks=False)
            except OSError:
                continue
            if stat.S_ISDIR(status.st_mode):
                if (status.st_dev, status.st_ino) not in skip:
                    queue.append((f"{path}/", entry.path))
            elif stat.S_ISREG(status.st_mode) or stat.S_ISLNK(status.st_mode):
                yield path, entry.path, status


def _is_same(before: Seen, seen: Seen) -> bool:
    if before.is_link != seen.is_link:
        return False
    if before.digest is not None and seen.digest is not None:
        return before.digest == seen.digest
    # The time of the last change of the inode is not for anybody to set.
    return (before.size, before.stamp) == (seen.size, seen.stamp)


def _change(path: str, kind: Kind, before: Seen | None, seen: Seen, *, is_sure: bool = True) -> Change:
    added = removed = None
    old = before.text if before is not None else ()
    if old is not None and seen.text is not None:
        # As a multiset: what was only moved is neither, and it takes no time worth mentioning.
        one, other = Counter(old), Counter(seen.text)
        added, removed = (other - one).total(), (one - other).total()
    digest = None if seen.is_link else seen.digest
    return Change(path, kind, seen.size, digest, added, removed, seen.is_link, is_sure)
