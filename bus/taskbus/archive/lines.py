"""The lines of a segment: one envelope each, as JSON that every tool can read, and that gives back every byte.

Owns the form of a line. Bodies and sources are text where they are UTF-8, and base64 under a name of its own where
they are not. It refuses nothing that stands in a log. Called by whatever writes frames or reads them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

import msgspec

from taskbus.log import Entry
from taskbus.position import Position

if TYPE_CHECKING:
    from collections.abc import Iterable


class Sealed(NamedTuple):
    """An envelope of the archive: its number in the log, the entry, and its link as the segment has it."""

    n: int
    entry: Entry
    link: bytes


class Line(msgspec.Struct, frozen=True, omit_defaults=True, gc=False):
    """One line. Of each pair `body` and `body_base64`, `source` and `source_base64`, at most one is there."""

    n: int
    position: str
    id: str
    type: str
    sender: str = msgspec.field(name="from")
    recipient: str = msgspec.field(name="to")
    task: str
    root: str
    priority: str
    content_type: str
    link: str
    body: str | None = None
    body_base64: bytes | None = None
    source: str | None = None
    source_base64: bytes | None = None
    source_type: str | None = None


_ENCODE: Final = msgspec.json.Encoder().encode
_DECODER: Final = msgspec.json.Decoder(Line)


def write(n: int, entry: Entry, link: bytes) -> bytes:
    """The line of an entry, without its end."""
    body, body_base64 = _text(entry.body)
    source, source_base64 = (None, None) if entry.source is None else _text(entry.source)
    return _ENCODE(
        Line(
            n,
            entry.position.entry,
            entry.id,
            entry.type,
            entry.sender,
            entry.recipient,
            entry.task,
            entry.root,
            entry.priority,
            entry.content_type,
            link.hex(),
            body,
            body_base64,
            source,
            source_base64,
            entry.source_type,
        )
    )


def read(frame: bytes) -> list[Line]:
    """The lines of a frame. Raises ValueError, as msgspec's errors are, for what is none."""
    return _DECODER.decode_lines(frame)


def entries(found: Iterable[Line], shard: int) -> list[Entry]:
    """The entries of lines. Raises ValueError."""
    made: list[Entry] = []
    for line in found:
        ms, _, sequence = line.position.partition("-")
        made.append(
            Entry(
                Position(shard, int(ms), int(sequence)),
                line.id,
                line.type,
                line.sender,
                line.recipient,
                line.task,
                line.root,
                line.priority,
                line.content_type,
                line.body_base64 or b"" if line.body is None else line.body.encode(),
                _bytes(line.source, line.source_base64),
                line.source_type,
            )
        )
    return made


def _text(given: bytes) -> tuple[str | None, bytes | None]:
    try:
        return given.decode(), None
    except UnicodeDecodeError:
        return None, given


def _bytes(text: str | None, raw: bytes | None) -> bytes | None:
    return raw if text is None else text.encode()
