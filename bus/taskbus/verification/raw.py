"""Raw entries: the log's stream as the server has it, page by page, and whether each is as an append writes it.

Refuses nothing: what cannot be read is said to be so. A page is as long as its envelopes are short. Called by the
verification.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple, cast

from taskbus import codec
from taskbus.errors import ForeignEntry, TimedOut
from taskbus.log import PAGE_BYTES, Entry
from taskbus.position import Position

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    from taskbus.chain import Head
    from taskbus.client import Bus

PAGE = 1000
_FIRST = 100
_FORMS = {codec.JSON: b"json", codec.XML: b"xml"}


class Raw(NamedTuple):
    """An entry of the stream as the server gave it; `entry` is None where it cannot be read.

    `flaw` says what is not as an append writes it, though it can be read.
    """

    position: Position
    entry: Entry | None
    flaw: str | None = None

    @classmethod
    def of(cls, position: bytes, words: list[bytes], shard: int) -> Raw:
        """Read it as far as that goes."""
        fields = dict(zip(words[::2], words[1::2], strict=True))
        try:
            entry = Entry.of(position.decode(), fields, shard=shard)
        except ForeignEntry:
            return cls(Position.of(position, shard), None, "it cannot be read")
        wanted = _fields(entry)
        if fields == wanted and len(words) == 2 * len(wanted):
            return cls(entry.position, entry)
        names = sorted(name for name, _ in fields.items() ^ wanted.items())
        if not names:
            return cls(entry.position, entry, "it has a field twice")
        return cls(entry.position, entry, f"its field {names[0].decode(errors='replace')!r} is not as it was written")


async def entries(
    bus: Bus, end: Position, *, after: Position, overtaken: Callable[[Position], Awaitable[Head | None]]
) -> AsyncIterator[list[Raw | Head]]:
    """The log up to a position, by pages. Where it was trimmed meanwhile, the head up to which stands first.

    `overtaken` tells up to where, where that is behind the position that it is given.
    """
    connection, keys = bus.connection, bus.keys
    start, most, count = "-", PAGE, _FIRST
    while True:
        try:
            reply = await connection.execute("XRANGE", keys.log, start, end.entry, "COUNT", count)
        except TimedOut:
            if count == 1:
                raise
            most = count = max(1, count // 8)
            continue
        found = cast("list[tuple[bytes, list[bytes]]]", reply or [])
        page: list[Raw | Head] = [Raw.of(position, words, keys.shard) for position, words in found]
        # Asked afterwards: of what was read before, a trim that came between the two took nothing.
        gone = await overtaken(after)
        if gone is not None:
            page = [gone, *(raw for raw in page if raw.position > gone.position)]
            after = gone.position
        if page:
            yield page
        if len(found) < count:
            return
        after = max(after, Position.of(found[-1][0], keys.shard))
        start = f"({after.entry}"
        size = sum(len(word) for _, words in found for word in words) // len(found) + 1
        count = min(most, max(1, PAGE_BYTES // size))


def _fields(entry: Entry) -> dict[bytes, bytes]:
    """The fields of a stream entry, as an append writes them."""
    found = {
        b"head": f"{entry.task} {entry.id} {entry.type} {entry.sender} {entry.recipient}".encode(),
        b"body": entry.body,
    }
    if entry.root != entry.task:
        found[b"root"] = entry.root.encode()
    if entry.priority != "normal":
        found[b"priority"] = entry.priority.encode()
    if entry.content_type != codec.JSON:
        found[b"form"] = _FORMS[entry.content_type]
    if entry.source:
        found[b"source"] = entry.source
        found[b"origin"] = (entry.source_type or "-").encode()
    return found
