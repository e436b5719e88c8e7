"""Feeding: the documents of a file or of stdin, in batches of what is there, without ever waiting for more.

A producer that waits for the answer to its line gets it at once; one that writes faster than the bus appends
gets its lines taken a hundred at a time. Reading blocks in a thread of its own, so that Ctrl-C is heard.
Memory holds one batch, however long the input.
"""

from __future__ import annotations

import asyncio
import os
import sys
import threading
from io import BufferedIOBase, UnsupportedOperation
from typing import TYPE_CHECKING, Final, cast

from taskbus.documents import Part, is_document, split

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import BinaryIO

_MOST: Final = 100
_MOST_BYTES: Final = 4 << 20
_CHUNK: Final = 1 << 18


class Feed:
    """The documents of one source."""

    def __init__(
        self, read: Callable[[int], bytes], close: Callable[[], None], *, lines: bool, whole: int | None
    ) -> None:
        self._stream = _Stream(read)
        self._close = close
        stream = cast("BinaryIO", self._stream)
        self._parts: Iterator[Part] = self._whole(whole) if whole else split(stream, lines=lines)

    @classmethod
    def of(cls, name: str, *, lines: bool = False, whole: int | None = None) -> Feed:
        """Open a file, or stdin for `-`. With `whole`, all of it, up to so many bytes, is one document."""
        if name == "-":
            try:
                number = sys.stdin.fileno()
            except UnsupportedOperation:  # a stdin that somebody has put there in this process
                return cls(cast("BufferedIOBase", sys.stdin.buffer).read1, lambda: None, lines=lines, whole=whole)
            return cls(lambda most: os.read(number, most), lambda: None, lines=lines, whole=whole)
        file = os.open(name, os.O_RDONLY)
        return cls(lambda most: os.read(file, most), lambda: os.close(file), lines=lines, whole=whole)

    async def parts(self) -> list[Part]:
        """The next documents, waiting for the first of them only; empty at the end."""
        loop = asyncio.get_running_loop()
        found: asyncio.Future[list[Part]] = loop.create_future()

        def finish(parts: list[Part], error: Exception | None) -> None:
            if found.cancelled():
                return
            if error is not None:
                found.set_exception(error)
            else:
                found.set_result(parts)

        def run() -> None:
            parts: list[Part] = []
            failed: Exception | None = None
            try:
                parts = self._gathered()
            except Exception as error:  # noqa: BLE001 - raised again where the documents are waited for
                failed = error
            try:
                loop.call_soon_threadsafe(finish, parts, failed)
            except RuntimeError:
                # The command has ended while its input kept us waiting: nobody wants this any more.
                return

        # A daemon: at Ctrl-C the process ends, though this thread still waits for input.
        threading.Thread(target=run, daemon=True).start()
        return await found

    def close(self) -> None:
        """Close what was opened."""
        self._close()

    def _gathered(self) -> list[Part]:
        parts: list[Part] = []
        size = 0
        for part in self._parts:
            parts.append(part)
            size += len(part.data)
            if len(parts) >= _MOST or size >= _MOST_BYTES or not self._stream.has_line:
                break
        return parts

    def _whole(self, most: int) -> Iterator[Part]:
        yield Part(self._stream.read(most + 1))


class _Stream:
    """As much of a binary stream as reading documents takes, which knows what can be had without waiting."""

    def __init__(self, read: Callable[[int], bytes]) -> None:
        self._read = read
        self._buffer = bytearray()
        self._ended = False

    @property
    def has_line(self) -> bool:
        """Whether a whole line with a document is here already."""
        start = 0
        while (end := self._buffer.find(b"\n", start)) >= 0:
            if is_document(self._buffer[start:end]):
                return True
            start = end + 1
        return False

    def read(self, most: int) -> bytes:
        """Read to the end, but at most so much."""
        while len(self._buffer) < most and self._more():
            pass
        return self._take(most)

    def readline(self, most: int) -> bytes:
        """Read to the end of the line, but at most so much."""
        looked = 0
        while (end := self._buffer.find(b"\n", looked, most)) < 0:
            looked = len(self._buffer)
            if looked >= most or not self._more():
                return self._take(most)
        return self._take(end + 1)

    def _more(self) -> bool:
        if not self._ended:
            chunk = self._read(_CHUNK)
            self._ended = not chunk
            self._buffer += chunk
        return not self._ended

    def _take(self, most: int) -> bytes:
        taken = bytes(self._buffer[:most])
        del self._buffer[:most]
        return taken
