"""The chain: a SHA-256 over the whole log, envelope by envelope, so that no copy of it can be changed unseen.

Each link is taken over the link before it, the position, and everything that the log holds of the envelope, byte for
byte. Owned by nobody: the archive, the audit table and whoever exported a head compute the same. It refuses nothing.
"""

from __future__ import annotations

from hashlib import sha256
from typing import TYPE_CHECKING, Final

from msgspec import Struct

from taskbus.position import Position

if TYPE_CHECKING:
    from taskbus.log import Entry

SIZE: Final = 32
"""Bytes of a link."""


class Head(Struct, frozen=True):
    """The newest envelope of a part of the log: its number from 1, its position, and its link; n is 0 before any."""

    n: int
    position: Position
    link: bytes


def start(prefix: str, shard: int = 0) -> Head:
    """The head before the first envelope of a log."""
    return Head(0, Position(shard, 0, 0), beginning(prefix))


def advance(head: Head, entry: Entry) -> Head:
    """The head with one more envelope behind it."""
    return Head(head.n + 1, entry.position, link(head.link, entry))


def beginning(prefix: str) -> bytes:
    """The link before the first envelope of a log, by the prefix of its keys: no log passes for another."""
    return sha256(b"taskbus chain 1\0" + prefix.encode()).digest()


def link(before: bytes, entry: Entry) -> bytes:
    """The link of an entry, by the one before it."""
    position, source = entry.position, entry.source
    # Names have no spaces, and lengths stand before the bytes: no two entries give the same text.
    head = (
        f"{position.ms}-{position.sequence} {entry.id} {entry.type} {entry.sender} {entry.recipient} {entry.task} "
        f"{entry.root} {entry.priority} {entry.content_type} {len(entry.body)} "
        f"{-1 if source is None else len(source)} {entry.source_type or '-'}\n"
    )
    return sha256(b"".join((before, head.encode(), entry.body, source or b""))).digest()
