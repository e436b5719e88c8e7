"""The stores: where the files of an archive are, in a folder of this machine or wherever fsspec reaches.

Owns what a store must promise: a file stands whole or not at all. A store knows nothing of envelopes. Its calls
block, so they are made from threads. Called by the archive alone.
"""

from __future__ import annotations

import os
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Generator


class Store(Protocol):
    """Files under names, in one place. Raises ArchiveFault for whatever goes wrong there.

    `url` says where, without secrets. A store that is guarded lets one archiver at a time work.
    """

    url: str
    is_guarded: bool

    def names(self) -> list[str]:
        """The names of all files; none where there is no such place yet."""
        ...

    def read(self, name: str, start: int = 0, end: int | None = None) -> bytes | None:
        """Bytes of a file from `start` up to before `end`, fewer where it is shorter; None where there is none."""
        ...

    @contextmanager
    def making(self) -> Generator[Path]:
        """An empty file to write to, for `put`; what was not put is gone at the end."""
        ...

    def put(self, made: Path, name: str) -> None:
        """Let a file stand under a name: whole and on disk, or not at all."""
        ...

    def write(self, name: str, content: bytes) -> None:
        """The same with a small file of this content."""
        ...

    def remove(self, name: str) -> None:
        """Remove a file, where there is one."""
        ...

    def claim(self) -> Claim | None:
        """The right to write here; None while somebody else has it."""
        ...


class Claim:
    """The right to write to a store, until it is released or this process ends, however it ends."""

    def __init__(self, descriptor: int | None = None) -> None:
        self._descriptor = descriptor

    def release(self) -> None:
        """Let others write."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None


def opened(where: str, *parts: str) -> Store:
    """The store at a path or a URL, in a folder of it. Raises ConfigurationError where its driver is missing."""
    scheme, mark, rest = where.partition("://")
    if mark and scheme != "file":
        from taskbus.archive.remote import Remote

        return Remote("/".join((where.rstrip("/"), *parts)))
    from taskbus.archive.folder import Folder

    return Folder(Path(rest if mark else where, *parts))
