"""Documents in a stream: one document, or one per line (NDJSON).

It reads no more at once than one document may have, so that an endless input costs nothing, and leaves it to
the readers to refuse what is too long. Called by the commands that take files and standard input.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import chain
from typing import TYPE_CHECKING, Final

import msgspec

from taskbus.envelope import MAX_BYTES

if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import BinaryIO

LINES: Final = frozenset({".ndjson", ".jsonl"})
"""Endings of the names of files that hold one document per line."""
_MOST: Final = MAX_BYTES + 1
_BOM: Final = b"\xef\xbb\xbf"
_WHOLE_XML: Final = (b"<agent-message", b"</agent-message>")


@dataclass(frozen=True, slots=True)
class Part:
    """One document of a stream; `line` is its line where each line is a document of its own."""

    data: bytes
    line: int | None = None


def split(stream: BinaryIO, *, lines: bool = False) -> Iterator[Part]:
    """Give out the documents of a stream, at least one, each as soon as it has been read.

    Each line is a document with `lines`, else where the first line is a whole JSON object, or where the first
    two lines both begin a document. A document that is too long is given out cut off, one byte longer than
    any may be.
    """
    blank, skipped = bytearray(), 0
    first = stream.readline(_MOST)
    while first and not first.strip() and len(blank) < MAX_BYTES:
        blank += first
        skipped += 1
        first = stream.readline(_MOST)
    second = b""
    if not lines and not _is_object(first):
        second = stream.readline(_MOST)
        if not _both_begin(first, second):
            # What stands before the document belongs to it: the lines of its errors are counted from there.
            head = bytes(blank + first + second)[:_MOST]
            yield Part(head + stream.read(_MOST - len(head)))
            return
    yield from _each_line(stream, skipped, (first, second)) if first else (Part(bytes(blank)),)


def _is_object(line: bytes) -> bool:
    line = line.removeprefix(_BOM).strip()
    if not line.startswith(b"{"):
        return False
    try:
        msgspec.json.decode(line, type=msgspec.Raw)
    except (msgspec.DecodeError, RecursionError):  # the reader says what is wrong with it
        return False
    return True


def _both_begin(first: bytes, second: bytes) -> bool:
    first, second = first.removeprefix(_BOM).strip(), second.strip()
    if first.startswith(b"{"):
        return second.startswith(b"{")
    begin, end = _WHOLE_XML
    return first.startswith(begin) and first.endswith(end) and second.startswith(begin)


def _each_line(stream: BinaryIO, skipped: int, read: tuple[bytes, ...]) -> Iterator[Part]:
    rest = iter(lambda: stream.readline(_MOST), b"")
    for number, line in enumerate(chain(filter(None, read), rest), start=skipped + 1):
        cut = line
        while len(cut) == _MOST and not cut.endswith(b"\n"):
            cut = stream.readline(_MOST)
        if document := line.strip():
            yield Part(document if len(line) < _MOST else line, number)
