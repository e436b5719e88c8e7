"""Documents in a stream: one document, or one per line (NDJSON).

It reads no more at once than one document may have, so that an endless input costs nothing, and leaves it to
the readers to refuse what is too long. Whoever writes one document per line and waits for each answer gets it: a
second line is looked at only where the first one leaves it open what the stream is. Called by the commands that
take files and standard input.
"""

from __future__ import annotations

import re
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
_NOT_YET: Final = b"\xfe\xff\0" + _BOM
"""What may stand before the first character: byte order marks, and the zero bytes of UTF-16."""
_WHOLE_XML: Final = re.compile(rb"(?:<\?xml[^<>]*\?>\s*)?<agent-message\b.*</agent-message>", re.DOTALL)
_COMMENT: Final = re.compile(rb"<!--(?:(?!--).)*-->", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Part:
    """One document of a stream; `line` is its line where each line is a document of its own."""

    data: bytes
    line: int | None = None


def split(stream: BinaryIO, *, lines: bool = False) -> Iterator[Part]:
    """Give out the documents of a stream, at least one, each as soon as it has been read.

    Each line is a document with `lines`, else where the first line is a whole document, or cannot be the beginning
    of one, or where the first two lines both begin a JSON object. A document that is too long is given out cut off,
    one byte longer than any may be; where the first line is, nothing more is read.
    """
    blank, skipped = bytearray(), 0
    first = stream.readline(_MOST)
    while first and not first.strip() and len(blank) < MAX_BYTES:
        blank += first
        skipped += 1
        first = stream.readline(_MOST)
    second = b""
    if not lines and not _stands_alone(first):
        second = stream.readline(_MOST)
        if not (_begins_object(first) and second.lstrip().startswith(b"{")):
            # What stands before the document belongs to it: the lines of its errors are counted from there.
            head = bytes(blank + first + second)[:_MOST]
            yield Part(head + stream.read(_MOST - len(head)))
            return
    yield from _each_line(stream, skipped, (first, second)) if first else (Part(bytes(blank)),)


def is_document(line: bytes | bytearray) -> bool:
    """Whether a line of many holds a document at all: it is neither blank nor an XML comment."""
    line = line.strip()
    return bool(line) and not _COMMENT.fullmatch(line)


def _begins_object(line: bytes) -> bool:
    return line.removeprefix(_BOM).lstrip().startswith(b"{")


def _stands_alone(line: bytes) -> bool:
    """Whether a first line tells by itself that each line is a document, or is meant to be one."""
    if not line.strip() or (len(line) == _MOST and not line.endswith(b"\n")):
        return False
    line = line.removeprefix(_BOM).strip()
    if line.startswith(b"{"):
        try:
            msgspec.json.decode(line, type=msgspec.Raw)
        except msgspec.DecodeError as error:
            # With its last bracket there, it is a bad line; else more lines may complete it.
            return line.endswith(b"}") and "truncated" not in str(error)
        except RecursionError:  # the reader says what is wrong with it
            return False
        return True
    return line.lstrip(_NOT_YET)[:1] not in (b"<", b"{") or _WHOLE_XML.fullmatch(line) is not None


def _each_line(stream: BinaryIO, skipped: int, read: tuple[bytes, ...]) -> Iterator[Part]:
    rest = iter(lambda: stream.readline(_MOST), b"")
    for number, line in enumerate(chain(filter(None, read), rest), start=skipped + 1):
        cut = line
        while len(cut) == _MOST and not cut.endswith(b"\n"):
            cut = stream.readline(_MOST)
        if is_document(line):
            yield Part(line.strip() if len(line) < _MOST else line, number)
