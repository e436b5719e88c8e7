"""Verifying: the archive, the log and the audit table, each by itself and beside the others.

Owns who is believed. A copy that carries links and agrees with them from end to end is sound, and a witness for the
log, whose entries carry none. Two sound copies that differ are told apart by whatever else is known: exported heads,
the server's record of the trim, the log itself. It changes nothing. Called by `bus verify`.
"""

from __future__ import annotations

import asyncio
import threading
from typing import TYPE_CHECKING, cast

from anyio import CancelScope, to_thread

from taskbus import chain, moment
from taskbus.chain import Head
from taskbus.errors import UsageError
from taskbus.position import START, Position
from taskbus.replies import text
from taskbus.verification import exported, witnesses
from taskbus.verification.comparison import Comparison
from taskbus.verification.discrepancy import Discrepancy
from taskbus.verification.raw import entries
from taskbus.verification.verified import Verified

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Sequence

    from taskbus.client import Bus
    from taskbus.log import Trimmed
    from taskbus.verification.discrepancy import Absent, Copy, Item
    from taskbus.verification.raw import Raw
    from taskbus.verification.verified import Linked


class Stopped(Exception):
    """Nobody waits for the result any more."""


class Verification:
    """Verifies the log of a bus, the copies of it, and the heads that were exported of it.

    `copies` opens the other copies: it is called once what the server says of its trim is known, so that they reach at
    least that far, and before the log is read, so that it holds at least what they have. `moved` is told the name of a
    copy, and how many of its envelopes were read so far.
    """

    def __init__(
        self,
        bus: Bus,
        copies: Callable[[], Sequence[Linked]],
        *,
        heads: Sequence[Head] = (),
        moved: Callable[[Copy, int], None] | None = None,
    ) -> None:
        self._bus = bus
        self._open = copies
        self._exported = heads
        self._moved: Callable[[Copy, int], None] = moved or _unheard
        self._result = Verified()
        self._trimmed: Trimmed | None = None

    async def run(self) -> Verified:
        """Verify everything. Raises what reading the log and the copies raises."""
        result = self._result
        self._trimmed = await self._record()
        copies = await to_thread.run_sync(self._open)
        end = await self._bus.log.end()
        for copy in copies:
            await self._check(copy)
            result.counts[copy.copy] = copy.count
            result.discrepancies += copy.found
            result.unchecked += copy.unchecked
            result.marks += copy.marks
        sound = [copy for copy in copies if not copy.found and copy.end]
        if len(sound) > 1:
            sound = await self._agreeing(sound[0], sound[1])
        start = await self._start(copies, sound)
        comparison = await self._compare(start, end, copies, sound)
        await to_thread.run_sync(self._prove, comparison, copies, sound)
        await to_thread.run_sync(exported.check, self._exported, comparison, sound, result)
        result.discrepancies.sort(key=lambda each: each.n if each.n is not None else float("inf"))
        marks = {mark.n: mark for mark in [*result.marks, *comparison.marks, result.head] if mark.n and mark.link}
        result.marks = sorted(marks.values(), key=lambda mark: mark.n)
        return result

    async def _check(self, copy: Linked) -> None:
        """Check a copy in a thread, which ends soon after this call is cancelled."""
        stopped = threading.Event()

        def moved(count: int) -> None:
            if stopped.is_set():
                raise Stopped
            self._moved(copy.copy, count)

        running = asyncio.ensure_future(to_thread.run_sync(copy.check, moved))
        try:
            await asyncio.shield(running)
        except asyncio.CancelledError:
            stopped.set()
            with CancelScope(shield=True):
                await asyncio.wait([running])
            if not running.cancelled():
                running.exception()  # that it was stopped is no news
            raise

    async def _record(self) -> Trimmed | None:
        """The server's record of its trim; None where there is none, or one that cannot be read: that is said."""
        try:
            return await self._bus.log.trimmed()
        except (ValueError, KeyError, UsageError) as error:
            self._blame_record(f"it cannot be read: {error}", None)
            return None

    def _blame_record(self, what: str, head: Head | None) -> None:
        n, position = (head.n, head.position) if head else (None, None)
        self._result.discrepancies.append(
            Discrepancy.of("trim record", "changed", what, n, None, position=position, place=self._bus.keys.archive)
        )

    async def _start(self, copies: Sequence[Linked], sound: Sequence[Linked]) -> Head:
        """Where the log begins, by the server's record; where that is not to be believed, by the log itself."""
        beginning = chain.start(self._bus.keys.prefix, self._bus.keys.shard)
        head = self._trimmed.head if self._trimmed else None
        found = await self._bus.connection.range(self._bus.keys.log, "-", "+", 1)
        first = Position.parse(found[0][0], shard=self._bus.keys.shard) if found else None
        if head is None:
            if not self._result.discrepancies or first is None:
                return beginning
        else:
            known = {copy.copy: await to_thread.run_sync(copy.head_at, head.n) for copy in sound}
            other = next((copy for copy, at in known.items() if at is not None and at != head), None)
            if other is not None:
                what = f"the server says that the log was trimmed up to it, and the {other} has something else there"
                self._blame_record(what, head)
            elif first is not None and first <= head.position:
                self._blame_record(
                    f"it says that the log was trimmed up to there, and {first} still stands in it", head
                )
            else:
                self._check_archive(copies, head)
                return head
        if first is None or not sound:
            return head or beginning
        return await to_thread.run_sync(witnesses.head_before, sound[0], moment.before(first), beginning)

    def _check_archive(self, copies: Sequence[Linked], head: Head) -> None:
        """See that what was trimmed is in the archive, which nothing else is all of."""
        archive = next((copy for copy in copies if copy.copy == "archive"), None)
        reached = archive.end.n if archive and archive.end else 0
        if reached < head.n and not (archive and archive.found):
            what = f"#{reached + 1} to #{head.n} were trimmed from the log, and the archive does not have them"
            place = (self._trimmed.store if self._trimmed else None) or None
            self._result.discrepancies.append(Discrepancy("archive", "removed", what, reached + 1, head.n, place=place))

    async def _compare(
        self, start: Head, end: Position, copies: Sequence[Linked], sound: Sequence[Linked]
    ) -> Comparison:
        wanted = {head.n for head in self._exported} | {item.n - 1 for copy in copies for item in copy.unproven}
        comparison = Comparison(start, self._known, wanted=wanted)
        log = entries(self._bus, end, after=start.position, overtaken=self._overtaken)
        await comparison.run(self._counted(log), self._witness(start.position, sound))
        result = self._result
        result.discrepancies += comparison.found
        result.counts["log"] = comparison.witnessed + comparison.unwitnessed
        wrong = not sound and any(copy.found for copy in copies)
        result.unwitnessed = 0 if wrong else comparison.unwitnessed
        result.head = comparison.head
        if wrong:
            result.unchecked.append("the log against anything, since no other copy agrees with itself")
        if comparison.overtaken:
            first, last = comparison.overtaken
            result.unchecked.append(f"#{first} to #{last}, which were archived and trimmed meanwhile: verify again")
        if comparison.stopped:
            result.unchecked.append(f"the log behind #{comparison.head.n}, since so much is wrong before")
        return comparison

    async def _counted(self, pages: AsyncIterator[list[Raw | Head]]) -> AsyncIterator[list[Raw | Head]]:
        count = 0
        async for page in pages:
            yield page
            count += len(page)
            self._moved("log", count)

    async def _overtaken(self, after: Position) -> Head | None:
        """Up to where the log was trimmed since this began, behind a position."""
        trimmed = await self._bus.log.trimmed() if self._is_readable() else None
        if trimmed is None or trimmed == self._trimmed or trimmed.head.position <= after:
            return None
        return trimmed.head

    def _is_readable(self) -> bool:
        return not any(each.copy == "trim record" for each in self._result.discrepancies)

    async def _known(self, raws: Sequence[Raw]) -> list[str | None]:
        """Where the server's index says that envelopes stand; where they do, of those that were trimmed meanwhile."""
        ids = [raw.entry.id if raw.entry else "" for raw in raws]
        reply = await self._bus.connection.execute("HMGET", self._bus.keys.index, *ids)
        places = [None if place is None else text(place) for place in cast("list[bytes | None]", reply)]
        if all(place == raw.position.entry for place, raw in zip(places, raws, strict=True)):
            return places
        gone = await self._overtaken(START)
        return [
            raw.position.entry if gone and raw.position <= gone.position else place
            for place, raw in zip(places, raws, strict=True)
        ]

    async def _witness(self, after: Position, sound: Sequence[Linked]) -> AsyncIterator[Sequence[Item | Absent]]:
        """What the sound copies have after a position, each going on where the one before it ends."""
        for copy in sound:
            until = copy.end.position if copy.end else START
            if until <= after:
                continue
            pages = copy.pages(after, until)
            while (page := await to_thread.run_sync(next, pages, None)) is not None:
                yield page
            after = until

    def _prove(self, comparison: Comparison, copies: Sequence[Linked], sound: Sequence[Linked]) -> None:
        """Look at what stands behind something that a copy leaves out: another copy knows the link before it."""
        for copy in copies:
            for item in copy.unproven:
                heads = [other.head_at(item.n - 1) for other in sound if other is not copy]
                before = next((head for head in heads if head), comparison.heads.get(item.n - 1))
                if before is None or item.entry is None:
                    self._result.unchecked.append(f"{item.place} of the {copy.copy}, since #{item.n - 1} is not there")
                elif chain.link(before.link, item.entry) != item.link:
                    what = "it is not what its link was taken over"
                    wrong = Discrepancy.of(copy.copy, "changed", what, item.n, item.entry, place=item.place)
                    self._result.discrepancies.append(wrong)

    async def _agreeing(self, one: Linked, other: Linked) -> list[Linked]:
        """Both, where they agree as far as both reach; else the one that is believed: where they differ is said."""
        first = await to_thread.run_sync(witnesses.first_difference, one, other)
        if first is None:
            return [one, other]
        item = await to_thread.run_sync(witnesses.item_at, one, first)
        marks = [("an exported head", head) for head in self._exported]
        if self._trimmed:
            marks.append(("the server's record of the trim", self._trimmed.head))
        liar, witness = await to_thread.run_sync(witnesses.liar, one, other, first, marks)
        if liar is None:
            liar, witness = await self._liar(one, other, first), "the log"
        what = f"{one.copy} and {other.copy} differ from here on, and each agrees with its own links"
        if liar is not None:
            what = f"it was changed, and all its links behind were taken anew: {witness} says so"
        self._result.discrepancies.append(
            Discrepancy.of((liar or other).copy, "changed", what, first, item.entry if item else None)
        )
        return [copy for copy in (one, other) if liar is not None and copy is not liar]

    async def _liar(self, one: Linked, other: Linked, first: int) -> Linked | None:
        """Which of two copies was made anew from an envelope on, by what the log has there; None where that is gone."""
        before = await to_thread.run_sync(one.head_at, first - 1)
        link = before.link if before else chain.beginning(self._bus.keys.prefix)
        for copy, another in ((one, other), (other, one)):
            item = await to_thread.run_sync(witnesses.item_at, copy, first)
            if item is None or item.entry is None:
                continue
            entry = await self._bus.log.get(item.entry.position)
            if entry is not None and chain.link(link, entry) == item.link:
                return another
        return None


def _unheard(_copy: Copy, _count: int) -> None:
    """What becomes of progress that nobody wants to hear of."""
