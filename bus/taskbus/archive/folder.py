"""The archive in a folder of this machine: each file on disk before its name is, and one process at a time writing.

Owns the lock and the order of writes. It refuses nothing but what the file system refuses. Called through
`taskbus.archive.stores`, from threads.
"""

from __future__ import annotations

import errno
import fcntl
import os
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Final

from taskbus import home as homes
from taskbus.archive.manifest import UNFINISHED
from taskbus.archive.stores import Claim
from taskbus.errors import ArchiveFault

if TYPE_CHECKING:
    from collections.abc import Generator

LOCK: Final = ".lock"
_FULL: Final = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})


class Folder:
    """A folder of this machine, made when the first file is; only this user can read it."""

    is_guarded: bool = True

    def __init__(self, path: Path) -> None:
        self.path = path
        self.url = str(path)

    def names(self) -> list[str]:
        """The names of all files."""
        with explained(self.url, "read"):
            try:
                return [path.name for path in self.path.iterdir()]
            except FileNotFoundError:
                return []

    def read(self, name: str, start: int = 0, end: int | None = None) -> bytes | None:
        """Bytes of a file."""
        with explained(self.url, "read"):
            try:
                with (self.path / name).open("rb") as file:
                    file.seek(start)
                    return file.read(-1 if end is None else end - start)
            except FileNotFoundError:
                return None

    @contextmanager
    def making(self) -> Generator[Path]:
        """A file in the same folder, so that its name can be changed for the one that counts."""
        made = self.path / f"{os.getpid()}{UNFINISHED}"
        with explained(self.url, "written"):
            made.touch(mode=0o600)
            try:
                yield made
            finally:
                made.unlink(missing_ok=True)

    def put(self, made: Path, name: str) -> None:
        """On disk first, then under its name, then the name on disk."""
        with explained(self.url, "written"):
            descriptor = os.open(made, os.O_RDONLY)
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
            made.rename(self.path / name)
            _sync(self.path)

    def write(self, name: str, content: bytes) -> None:
        """The same with a small file."""
        with self.making() as made:
            made.write_bytes(content)
            self.put(made, name)

    def remove(self, name: str) -> None:
        """Remove a file."""
        with explained(self.url, "written"):
            (self.path / name).unlink(missing_ok=True)

    def claim(self) -> Claim | None:
        """A lock that the system takes away from a process that is gone."""
        with explained(self.url, "written"):
            self._make()
            descriptor = os.open(self.path / LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                os.close(descriptor)
                return None
            except BaseException:
                os.close(descriptor)
                raise
            return Claim(descriptor)

    def _make(self) -> None:
        if self.path.is_dir():
            return
        path = self.path.absolute()
        missing = [each for each in (path, *path.parents) if not each.exists()]
        if path.parent.name == homes.ARCHIVE:
            homes.make(path.parent.parent)
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        for each in missing:
            _sync(each.parent)


def _sync(folder: Path) -> None:
    """Let the names in a folder be on disk."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def explained(url: str, what: str) -> Generator[None]:
    """Errors of the file system, said as those of an archive."""
    try:
        yield
    except OSError as error:
        full = error.errno in _FULL
        advice = "Make room" if full else "Let yourself read and write it, or name another place with --archive"
        message = f"The archive {url} cannot be {what}: {error.strerror or error}."
        raise ArchiveFault(message, advice=f"{advice}; nothing is lost, and the next run goes on here.") from error
