"""The log: the append-only stream of all envelopes of a namespace, read from any position to any other.

Reading never changes anything. Following survives a restart of the server: it goes on after the last entry that it
gave out, so that nothing is lost and nothing repeated, and reports each incident.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import anyio

from taskbus import codec
from taskbus.errors import ForeignEntry, TimedOut, Unavailable
from taskbus.position import START, Position

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Mapping

    from taskbus.connection import Connection
    from taskbus.envelope import AnyEnvelope
    from taskbus.keys import Keys

PAGE = 1000
PATIENCE = 5.0
"""For so many seconds a follower waits before it looks whether the log is still the one that it was."""
_CONTENT_TYPES = {b"json": codec.JSON, b"xml": codec.XML}
_BACKOFF = (0.05, 0.1, 0.2, 0.5, 1.0)


@dataclass(frozen=True)
class Entry:
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

    @cached_property
    def envelope(self) -> AnyEnvelope:
        """The envelope, decoded. Raises InvalidEnvelope for a body that this version cannot read."""
        return codec.decode(self.body, self.content_type, type=self.type, id=self.id)

    @classmethod
    def of(cls, position: str, fields: Mapping[bytes, bytes], *, shard: int = 0) -> Entry:
        """Read a stream entry. Raises ForeignEntry for one that is not from taskbus."""
        try:
            task = fields[b"task"].decode()
            return cls(
                position=Position.parse(position, shard=shard),
                id=fields[b"id"].decode(),
                type=fields[b"type"].decode(),
                sender=fields[b"from"].decode(),
                recipient=fields[b"to"].decode(),
                task=task,
                root=fields[b"root"].decode() if b"root" in fields else task,
                priority=fields.get(b"priority", b"normal").decode(),
                content_type=_CONTENT_TYPES[fields.get(b"form", b"json")],
                body=fields[b"body"],
                source=fields.get(b"source"),
                source_type=fields[b"origin"].decode() if b"origin" in fields else None,
            )
        except (KeyError, UnicodeDecodeError) as error:
            raise ForeignEntry(f"The log's entry {position} was not written by taskbus.", position=position) from error


@dataclass(frozen=True, slots=True)
class Incident:
    """Something that went wrong while following, and was dealt with."""

    what: str
    position: Position


class Log:
    """The log of one shard. It uses the connection and never closes it."""

    def __init__(self, connection: Connection, keys: Keys) -> None:
        self._connection = connection
        self._keys = keys

    async def end(self) -> Position:
        """The position of the newest entry there ever was; START for an empty log."""
        return Position.parse(await self._connection.last_id(self._keys.log), shard=self._keys.shard)

    async def latest(self, count: int) -> list[Entry]:
        """The newest `count` entries, the oldest of them first."""
        found = await self._connection.revrange(self._keys.log, "+", "-", count)
        return [Entry.of(position, fields, shard=self._keys.shard) for position, fields in reversed(found)]

    async def get(self, position: Position) -> Entry | None:
        """The entry at a position, if there is one."""
        found = await self._connection.range(self._keys.log, position.entry, position.entry, 1)
        return Entry.of(*found[0], shard=self._keys.shard) if found else None

    async def read(
        self, after: Position = START, until: Position | None = None, *, page: int = PAGE
    ) -> AsyncGenerator[Entry]:
        """All entries after `after`, up to and including `until`, in order; memory holds one page.

        A page that takes too long, since its entries are large, is asked for again in smaller parts.
        """
        last = until.entry if until else "+"
        while True:
            try:
                found = await self._connection.range(self._keys.log, f"({after.entry}", last, page)
            except TimedOut:
                if page == 1:
                    raise
                page = max(1, page // 8)
                continue
            for position, fields in found:
                entry = Entry.of(position, fields, shard=self._keys.shard)
                after = entry.position
                yield entry
            if len(found) < page:
                return

    async def follow(
        self, after: Position = START, *, on_incident: Callable[[Incident], None] | None = None
    ) -> AsyncGenerator[Entry]:
        """All entries after `after`, then each new one as it arrives; ends only by cancellation.

        When the server is gone it is tried again, at most a second apart. When the log does not hold any more what
        was given out last, that is an incident: following goes on after what is left of it, and from the log's start
        when nothing is. Raises ForeignEntry.
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
                async for entry in self.read(after):
                    after = entry.position
                    given.append(after)
                    yield entry
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
        end = await self.end()
        left = max((position for position in given if position <= end), default=START)
        on = after if end >= after else left if left != START and await self.get(left) is not None else START
        report(Incident(f"The log does not hold {after} any more: it was emptied, restored or trimmed.", on))
        given.clear()
        return on


def _ignore(_incident: Incident) -> None:
    pass
