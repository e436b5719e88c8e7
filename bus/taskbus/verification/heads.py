"""Exported heads: what is written down elsewhere of the chain, so that no copy can be made anew unseen.

Owns the form of the file. It refuses a file that is not one, and one of another log. Called by `bus verify`.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Final

import msgspec

from taskbus.chain import SIZE, Head
from taskbus.errors import InvalidEnvelope, OtherLog, Problem, UsageError
from taskbus.keys import Keys
from taskbus.position import Position

VERSION: Final = 1


class _Mark(msgspec.Struct, frozen=True):
    n: int
    position: str
    link: str


class _Heads(msgspec.Struct, frozen=True):
    version: int
    namespace: str
    prefix: str
    shard: int
    exported: str
    heads: list[_Mark]


def write(keys: Keys, heads: list[Head]) -> bytes:
    """A file of heads, as JSON; the last of them stands for the whole log."""
    marks = [_Mark(head.n, head.position.entry, head.link.hex()) for head in heads]
    now = datetime.now(UTC).isoformat(timespec="seconds")
    document = _Heads(VERSION, keys.namespace, keys.prefix, keys.shard, now, marks)
    return msgspec.json.format(msgspec.json.encode(document), indent=1) + b"\n"


def read(content: bytes, keys: Keys) -> list[Head]:
    """The heads of a file, by number. Raises InvalidEnvelope for what is no such file, OtherLog for another log's."""
    try:
        found = msgspec.json.decode(content, type=_Heads)
        heads = [_head(mark, found.shard) for mark in found.heads]
    except (ValueError, UsageError, RecursionError) as error:
        raise InvalidEnvelope([Problem("heads", str(error), "a file that `bus verify --export` wrote")]) from error
    if found.version != VERSION:
        raise InvalidEnvelope([Problem("version", str(found.version), str(VERSION))])
    if (found.prefix, found.shard) != (keys.prefix, keys.shard):
        message = f"The heads are those of {found.prefix!r}, not of {keys.prefix!r}."
        raise OtherLog(message, advice="Name the file that was exported from this namespace.")
    return sorted(heads, key=lambda head: head.n)


def _head(mark: _Mark, shard: int) -> Head:
    link = bytes.fromhex(mark.link)
    if len(link) != SIZE or mark.n < 1:
        raise ValueError(f"the head with the number {mark.n} has no link of {2 * SIZE} hexadecimal digits")
    return Head(mark.n, Position.parse(mark.position, shard=shard), link)
