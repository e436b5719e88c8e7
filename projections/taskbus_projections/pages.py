"""Pages: the history after a checkpoint, read, decoded, numbered and linked, as the projector folds it.

The one place where the projections read the history. A page is read while the one before it is folded. It skips
nothing: an entry that cannot be read ends the pages with its error, unless it is to be set aside.
"""

from __future__ import annotations

from contextlib import aclosing
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, NamedTuple

from taskbus import chain
from taskbus.codec import decode
from taskbus.errors import CheckpointLost, ForeignEntry, InvalidEnvelope, ProjectionStopped, TaskbusError
from taskbus.log import Entry
from taskbus.position import Position
from taskbus.readahead import ahead
from taskbus_projections.database import Checkpoint, SetAside
from taskbus_projections.instants import appended
from taskbus_projections.model import Fact

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Mapping, Sequence

    from taskbus.chain import Head
    from taskbus.client import Bus

PAGE: Final = 1000
"""The most envelopes that are read at once."""
PAGE_BYTES: Final = 8 << 20
"""With so many bytes of bodies a page is long enough, however few they are."""
GO_ON: Final = (
    "Everything before it is folded: queries with `--no-sync` answer from that. A newer taskbus or read model may be "
    "able to fold it; `--set-aside` notes it in the table set_aside, and goes on."
)
"""What to do about an envelope that cannot be folded."""
ANYBODY: Final = "*"
"""Stands for all read models where an entry cannot be read."""


@dataclass(frozen=True, slots=True)
class Page:
    """What one transaction folds: the facts between two checkpoints, and the entries that cannot be read."""

    before: Checkpoint
    after: Checkpoint
    facts: list[Fact]
    aside: list[SetAside]

    def since(self, at: Checkpoint) -> Page:
        """What is left of it after a checkpoint within. Raises CheckpointLost where that is of another log."""
        for fact in self.facts:
            if fact.entry.position == at.position and fact.link != at.head:
                raise other(at)
        facts = [fact for fact in self.facts if fact.entry.position > at.position]
        return Page(at, self.after, facts, [each for each in self.aside if each.n > at.folded])

    def halves(self) -> tuple[Page, Page]:
        """The page in two parts."""
        middle = self.facts[len(self.facts) // 2 - 1]
        at = Checkpoint(middle.entry.position, middle.entry.id, middle.n, middle.link)
        aside = [each for each in self.aside if each.n <= at.folded]
        rest = [each for each in self.aside if each.n > at.folded]
        first = Page(self.before, at, self.facts[: len(self.facts) // 2], aside)
        return first, Page(at, self.after, self.facts[len(self.facts) // 2 :], rest)


class Stop(NamedTuple):
    """An entry that ends the pages: where it stands, and the error."""

    position: Position
    error: ForeignEntry | ProjectionStopped


class Reader:
    """Reads the history of a bus, at most `most` envelopes a page; with `set_aside` it goes on behind what it cannot
    read.
    """

    def __init__(self, bus: Bus, *, most: int, set_aside: bool = False) -> None:
        self._bus = bus
        self._most = most
        self._set_aside = set_aside

    async def end(self) -> Position:
        """The position of the newest envelope."""
        return await self._bus.log.end()

    async def pages(self, after: Checkpoint, end: Position) -> AsyncGenerator[Page]:
        """The pages after a checkpoint up to a position, each read while the one before it is in use.

        Raises CheckpointLost where the history does not hold the checkpoint, ProjectionStopped at an entry that
        cannot be read, after everything before it was given out.
        """
        await self._anchor(after)
        async with aclosing(ahead(self._gathered(after, end))) as pages:
            async for page in pages:
                yield page

    async def arrived(self, after: Checkpoint, found: Sequence[tuple[str, Mapping[bytes, bytes]]]) -> Page | None:
        """The page of what a wait has found right after a checkpoint; None where `pages` must look at it.

        With one question to the server instead of six.
        """
        if not found or after.envelope is None:
            return None
        stands = await self._bus.log.get(after.position)
        if stands is None or stands.id != after.envelope:
            return None
        shard = after.position.shard
        try:
            page, stop = self._made(after, [Entry.of(position, fields, shard=shard) for position, fields in found])
        except ForeignEntry:
            return None
        return None if stop else page

    async def _anchor(self, checkpoint: Checkpoint) -> None:
        """See that the history holds what was folded last."""
        if checkpoint.envelope is None:
            return
        if await self._anchored_in_archive(checkpoint):
            return
        entry = await self._bus.log.get(checkpoint.position)
        if entry is None and await self._anchored_in_archive(checkpoint):
            return  # it was trimmed between the two questions
        if entry is None or entry.id != checkpoint.envelope:
            async with aclosing(self._bus.log.pages(checkpoint.position, page=1)) as found:
                first = await anext(found, None)
            raise lost(checkpoint, f"it goes on at {first[0].position}" if first else "it is empty there")

    async def _anchored_in_archive(self, checkpoint: Checkpoint) -> bool:
        """Whether what was folded last was trimmed; raises where the archive has something else there."""
        trimmed = await self._bus.log.trimmed()
        if trimmed is None or checkpoint.position > trimmed.head.position:
            return False
        head: Head | None = trimmed.head
        if checkpoint.position < trimmed.head.position:
            archive = self._bus.history.archive
            head = await archive.head_at(checkpoint.position) if archive else None
        # Where the archive has nothing, whoever reads on from there is told which segment is missing.
        if head and (head.n, head.position, head.link) != (checkpoint.folded, checkpoint.position, checkpoint.head):
            raise other(checkpoint)
        return True

    async def _gathered(self, at: Checkpoint, end: Position) -> AsyncGenerator[Page]:
        """Pages as long as they may be, of those that are read: fewer of the latter wait in memory."""
        parts: list[Page] = []
        async with aclosing(self._pages(at, end)) as pages:
            try:
                async for page in pages:
                    parts.append(page)
                    if sum(len(part.facts) for part in parts) + PAGE > self._most or _size(parts) > PAGE_BYTES:
                        yield _joined(parts)
                        parts = []
            except TaskbusError:
                if parts:
                    yield _joined(parts)
                raise
        if parts:
            yield _joined(parts)

    async def _pages(self, at: Checkpoint, end: Position) -> AsyncGenerator[Page]:
        place = at.position
        while place < end:
            stop = None
            try:
                async with aclosing(self._bus.history.pages(place, end, page=min(self._most, PAGE))) as found:
                    async for entries in found:
                        page, stop = self._made(at, entries)
                        at, place = page.after, page.after.position
                        if page.facts or page.aside:
                            yield page
                        if stop:
                            break
                    else:
                        return  # that is all; what stood at the end may have been deleted from the log
            except ForeignEntry as error:
                stop = Stop(Position.parse(error.position or "", shard=at.position.shard), error)
                if self._set_aside:
                    aside = SetAside(at.folded, ANYBODY, str(stop.position), None, None, error.message)
                    yield Page(at, at, [], [aside])
                    place = stop.position
            if stop and not self._set_aside:
                raise _unreadable(stop)

    def _made(self, before: Checkpoint, entries: list[Entry]) -> tuple[Page, Stop | None]:
        """A page of entries, up to the first that cannot be read, which stops it unless it is to be set aside."""
        facts: list[Fact] = []
        aside: list[SetAside] = []
        stop: Stop | None = None
        n, head, last = before.folded, before.head or chain.beginning(self._bus.keys.prefix), None
        for entry in entries:
            position = entry.position
            text = f"{position.ms}-{position.sequence}" if position.shard == 0 else str(position)
            try:
                envelope = decode(entry.body, entry.content_type, type=entry.type, id=entry.id)
            except InvalidEnvelope as error:
                stop = Stop(position, _undecoded(entry, error))
                if not self._set_aside:
                    break
                stop, envelope = None, None
                aside.append(SetAside(n + 1, ANYBODY, text, entry.id, entry.task, error.message))
            n, head, last = n + 1, chain.link(head, entry), entry
            if envelope is not None:
                facts.append(Fact(n, entry, envelope, appended(position), text, head))
        after = Checkpoint(last.position, last.id, n, head) if last else before
        return Page(before, after, facts, aside), stop


def _size(parts: list[Page]) -> int:
    return sum(len(fact.entry.body) for part in parts for fact in part.facts)


def _joined(parts: list[Page]) -> Page:
    facts = [fact for part in parts for fact in part.facts]
    return Page(parts[0].before, parts[-1].after, facts, [each for part in parts for each in part.aside])


def lost(checkpoint: Checkpoint, instead: str) -> CheckpointLost:
    """The history does not hold what was folded last."""
    return CheckpointLost(
        f"The log does not hold the envelope at {checkpoint.position}, up to which it was folded: {instead}. "
        "It was emptied, trimmed or restored to an earlier state, or this is another server.",
        position=str(checkpoint.position),
        envelope=checkpoint.envelope,
    )


def other(checkpoint: Checkpoint) -> CheckpointLost:
    """The history holds something else than what was folded."""
    return CheckpointLost(
        f"Up to {checkpoint.position} the history is not the one that was folded: the chain over it has another head. "
        "Something in it was changed, or this is another log.",
        position=str(checkpoint.position),
        envelope=checkpoint.envelope,
    )


def _undecoded(entry: Entry, error: InvalidEnvelope) -> ProjectionStopped:
    message = f"The body of the envelope at {entry.position} cannot be decoded: {error.message}"
    stopped = ProjectionStopped(message, advice=GO_ON, position=str(entry.position), envelope=entry.id, task=entry.task)
    stopped.__cause__ = error
    return stopped


def _unreadable(stop: Stop) -> ProjectionStopped:
    error = stop.error
    if isinstance(error, ProjectionStopped):
        return error
    stopped = ProjectionStopped(error.message, advice=f"{error.advice} {GO_ON}", position=error.position)
    stopped.__cause__ = error
    return stopped
