"""The log: the append-only stream of all envelopes of a namespace, read from any position to any other.

Reading never changes anything. Following survives a restart of the server: it goes on after the last entry that it
gave out, so that nothing is lost and nothing repeated, and reports each incident.
"""

from __future__ import annotations

from collections import deque
from contextlib import aclosing
from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

import anyio
from msgspec import Struct

from taskbus import codec, replies
from taskbus.chain import Head
from taskbus.errors import ForeignEntry, Gap, TaskbusError, TimedOut, Unavailable
from taskbus.position import START, Position

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Mapping

    from taskbus.connection import Connection
    from taskbus.envelope import AnyEnvelope
    from taskbus.keys import Keys

PAGE = 1000
PAGE_BYTES = 4 << 20
"""About so many bytes of envelopes make a page; where they are long, it holds fewer of them."""
EVERYSEC = 2.0
"""So many seconds after an append it is on disk with durability `everysec`: once a second, and that may take one."""
_FIRST = 100
"""Entries of the first page, by which the size of the next ones is judged."""
PATIENCE = 5.0
"""For so many seconds a follower waits before it looks whether the log is still the one that it was."""
_CONTENT_TYPES = {b"json": codec.JSON, b"xml": codec.XML}
_BACKOFF = (0.05, 0.1, 0.2, 0.5, 1.0)


class Entry(Struct, frozen=True, dict=True):
    """One envelope as it stands in the log.

    `body` are the bytes as the sender wrote them, in `content_type`. Where they were made from something else, the
    handoff shorthand or a model's free text, `source` keeps that, in `source_type`.
    """

    position: Position
    id: str
    type: str
    sender: str
    recipient: str
    task: str
    root: str
    priority: str
    content_type: str
    body: bytes
    source: bytes | None = None
    source_type: str | None = None

    @property
    def envelope(self) -> AnyEnvelope:
        """The envelope, decoded once. Raises InvalidEnvelope for a body that this version cannot read."""
        # A cached_property takes a lock before Python 3.12, and half as long as decoding does.
        kept = cast("dict[str, AnyEnvelope]", self.__dict__)
        if "envelope" not in kept:
            kept["envelope"] = codec.decode(self.body, self.content_type, type=self.type, id=self.id)
        return kept["envelope"]

    @classmethod
    def of(cls, position: str, fields: Mapping[bytes, bytes], *, shard: int = 0) -> Entry:
        """Read a stream entry. Raises ForeignEntry for one that is not from taskbus."""
        try:
            task, id, kind, sender, recipient = fields[b"head"].decode().split(" ")
            origin = fields.get(b"origin")
            ms, _, sequence = position.partition("-")
            return cls(
                Position(shard, int(ms), int(sequence)),  # as the server writes it, with no need for the rules
                *(id, kind, sender, recipient, task),
                fields[b"root"].decode() if b"root" in fields else task,
                fields[b"priority"].decode() if b"priority" in fields else "normal",
                _CONTENT_TYPES[fields.get(b"form", b"json")],
                fields[b"body"],
                fields.get(b"source"),
                origin.decode() if origin is not None else None,
            )
        except (KeyError, ValueError) as error:
            raise ForeignEntry(f"The log's entry {position} was not written by taskbus.", position=position) from error


@dataclass(frozen=True, slots=True)
class Incident:
    """Something that went wrong while following, and was dealt with."""

    what: str
    position: Position


class Trimmed(Struct, frozen=True):
    """Up to where the log was trimmed, by the server's own record, and the segment that holds the end of that."""

    head: Head
    store: str
    segment: str


class Log:
    """The log of one shard, as far as it is live; with what was trimmed, `taskbus.history` reads it.

    It uses the connection and never closes it.
    """

    def __init__(self, connection: Connection, keys: Keys) -> None:
        self._connection = connection
        self._keys = keys

    async def end(self) -> Position:
        """The position of the newest entry there ever was; START for an empty log."""
        return Position.parse(await self._connection.last_id(self._keys.log), shard=self._keys.shard)

    async def count(self) -> int:
        """How many entries are live."""
        length = (await self._connection.info_stream(self._keys.log)).get("length", 0)
        return length if isinstance(length, int) else 0

    async def clock(self) -> float:
        """The server's clock, in seconds since 1970."""
        return await self._connection.time()

    async def exposure(self) -> float:
        """For how many seconds a new entry may still be lost when the server's machine dies; 0 where it syncs at once.

        0 as well without an append-only file, since then there is no time after which an entry is safe.
        """
        try:
            reply = await self._connection.execute("CONFIG", "GET", "append*")
        except TaskbusError:
            # Hosted servers and restricted users have no CONFIG; most of them write once a second.
            return EVERYSEC
        found = replies.texts(reply)
        return EVERYSEC if found.get("appendonly") == "yes" and found.get("appendfsync") != "always" else 0.0

    async def latest(self, count: int) -> list[Entry]:
        """The newest `count` entries, the oldest of them first."""
        found = await self._connection.revrange(self._keys.log, "+", "-", count)
        return [Entry.of(position, fields, shard=self._keys.shard) for position, fields in reversed(found)]

    async def get(self, position: Position) -> Entry | None:
        """The entry at a position, if there is one."""
        found = await self._connection.range(self._keys.log, position.entry, position.entry, 1)
        return Entry.of(*found[0], shard=self._keys.shard) if found else None

    async def trimmed(self) -> Trimmed | None:
        """Up to where it was trimmed; None where it never was."""
        record = await self._connection.hash(self._keys.archive)
        if "position" not in record:
            return None
        position = Position.parse(record["position"], shard=self._keys.shard)
        head = Head(int(record["count"]), position, bytes.fromhex(record["head"]))
        return Trimmed(head, record.get("store", ""), record.get("segment", ""))

    async def read(
        self, after: Position = START, until: Position | None = None, *, page: int = PAGE
    ) -> AsyncGenerator[Entry]:
        """All entries after `after`, up to and including `until`, in order; memory holds one page.

        A page that takes too long, since its entries are large, is asked for again in smaller parts. Raises Gap
        where entries after `after` were trimmed, and ForeignEntry.
        """
        async with aclosing(self.pages(after, until, page=page)) as pages:
            async for entries in pages:
                for entry in entries:
                    yield entry

    async def pages(
        self, after: Position = START, until: Position | None = None, *, page: int = PAGE
    ) -> AsyncGenerator[list[Entry]]:
        """The same, by pages of at most `page` entries; what stands before a foreign entry is given out first."""
        last = until.entry if until else "+"
        count = min(_FIRST, page)
        while until is None or after < until:
            try:
                found = await self._connection.range(self._keys.log, f"({after.entry}", last, count)
            except TimedOut:
                if count == 1:
                    raise
                page = count = max(1, count // 8)
                continue
            # Asked afterwards: a trim that came between the two has taken nothing that was read.
            await self._check_trim(after)
            entries: list[Entry] = []
            try:
                for position, fields in found:
                    entries.append(Entry.of(position, fields, shard=self._keys.shard))
            except ForeignEntry:
                if entries:
                    yield entries
                raise
            if entries:
                after = entries[-1].position
                yield entries
            if len(found) < count:
                return
            size = sum(len(entry.body) + len(entry.source or b"") for entry in entries) // count + 1
            count = min(page, max(1, PAGE_BYTES // size))

    async def _check_trim(self, after: Position) -> None:
        """Raise Gap where something after a position was trimmed."""
        position = await self._connection.field(self._keys.archive, "position")
        if position is None or Position.parse(position, shard=self._keys.shard) <= after:
            return
        trimmed = await self.trimmed()
        if trimmed is not None:
            raise gap(after, trimmed)

    async def follow(
        self,
        after: Position = START,
        *,
        on_incident: Callable[[Incident], None] | None = None,
        read: Callable[[Position], AsyncGenerator[Entry]] | None = None,
    ) -> AsyncGenerator[Entry]:
        """All entries after `after`, then each new one as it arrives; ends only by cancellation.

        When the server is gone it is tried again, at most a second apart. When the log does not hold any more what
        was given out last, that is an incident: following goes on after what is left of it, and from the log's start
        when nothing is. Where something after `after` was trimmed, that is an incident, too, and following goes on
        behind what is missing. `read` is how entries after a position are read, where it is not from this log alone.
        Raises ForeignEntry.
        """
        report: Callable[[Incident], None] = _ignore if on_incident is None else on_incident
        given: deque[Position] = deque(maxlen=PAGE)
        failures = 0
        while True:
            try:
                if failures:
                    await self.end()
                    report(Incident(f"The server is back; going on after {after}.", after))
                    failures = 0
                after = await self._checked(after, given, report)
                try:
                    async for entry in (read or self.read)(after):
                        after = entry.position
                        given.append(after)
                        yield entry
                except Gap as missing:
                    after = max(after, Position.parse(missing.until, shard=self._keys.shard))
                    report(Incident(missing.message, after))
                    continue
                await self._connection.wait({self._keys.log: after.entry}, timeout=PATIENCE, count=1)
            except (Unavailable, TimedOut) as error:
                if not failures:
                    report(Incident(error.message, after))
                await anyio.sleep(_BACKOFF[min(failures, len(_BACKOFF) - 1)])
                failures += 1

    async def _checked(self, after: Position, given: deque[Position], report: Callable[[Incident], None]) -> Position:
        """Where to go on: `after`, or what is left of what was given out, when the log lost its end."""
        if not given or await self.get(after) is not None:
            return after
        trimmed = await self.trimmed()
        if trimmed is not None and after <= trimmed.head.position:
            return after
        end = await self.end()
        left = max((position for position in given if position <= end), default=START)
        on = after if end >= after else left if left != START and await self.get(left) is not None else START
        report(Incident(f"The log does not hold {after} any more: it was emptied or restored.", on))
        given.clear()
        return on


def gap(after: Position, trimmed: Trimmed, *, here: str | None = None) -> Gap:
    """What to raise where entries after a position were trimmed and are not in the archive `here`, if there is one."""
    end, where = trimmed.head, trimmed.store or "the archive"
    if trimmed.segment:
        where += f", up to segment {trimmed.segment}"
    message = f"The log was trimmed up to {end.position}, envelope {end.n}: what follows {after} is in {where}."
    if here is not None:
        message += f" The archive {here} does not have it."
    return Gap(
        message,
        advice=(
            "Read where that archive can be seen, or name it: --archive, BUS_ARCHIVE, or `archive` in bus.toml. "
            f"What is still in the log begins after {end.position}."
        ),
        after=str(after),
        until=str(end.position),
        last=end.n,
        store=trimmed.store,
        segment=trimmed.segment,
    )


def _ignore(_incident: Incident) -> None:
    pass
