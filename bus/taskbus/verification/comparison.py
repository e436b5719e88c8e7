"""The comparison: the log beside copies that carry links, position by position.

The log's entries carry no links, so the copies are the witness: what the log holds at a position must be what the link
there was taken over, to the last field. What no witness has seen yet is compared with the server's index. A trim that
overtakes it is nothing wrong. It refuses nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Generic, TypeVar

from msgspec import structs

from taskbus import chain
from taskbus.chain import Head
from taskbus.verification.discrepancy import MOST, Absent, Discrepancy, Item
from taskbus.verification.raw import Raw

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Sequence

    from taskbus.log import Entry
    from taskbus.position import Position
    from taskbus.verification.discrepancy import Kind

T = TypeVar("T")

MARK = 1000
"""The head at each such envelope is kept, so that what is exported says where a change lies."""
_SINGLE = 1000
"""So many missing envelopes are told of one by one, to see whether they stand elsewhere; then as one."""


class Comparison:
    """Compares; `found` are the discrepancies, `head` is where the chain stands behind the last envelope.

    `witnessed` and `unwitnessed` count the envelopes of the log that a witness has, and the newer ones; `overtaken` are
    the numbers of those that were trimmed before they were read, and that no witness has. `heads` are those of the
    numbers that are `wanted`, `marks` those at each thousandth envelope. `known` tells where the server's index has
    envelopes, by their IDs: it is the only witness for the newest.
    """

    def __init__(
        self,
        start: Head,
        known: Callable[[Sequence[Raw]], Awaitable[list[str | None]]],
        *,
        wanted: Collection[int] = (),
    ) -> None:
        self.head = start
        self._known = known
        self._fresh: list[Raw] = []
        self.heads: dict[int, Head] = {}
        self.marks: list[Head] = []
        self._wanted = frozenset(wanted)
        self.found: list[Discrepancy] = []
        self.witnessed = 0
        self.unwitnessed = 0
        self.overtaken: tuple[int, int] | None = None
        self.stopped = False
        self._instead: dict[int, str] = {}

    async def run(
        self, log: AsyncIterator[Sequence[Raw | Head]], witness: AsyncIterator[Sequence[Item | Absent]]
    ) -> None:
        """Compare all of both; each in the order of positions. A head in the log is up to where it was trimmed."""
        entries, items = _Source(log), _Source(witness)
        while not self.stopped:
            raw, item = await entries.peek(), await items.peek()
            if isinstance(raw, Head):
                await self._overtake(raw, items)
                entries.pop()
                continue
            place = _place(item) if item else None
            if item is None or place is None:
                if raw is None:
                    break
                self._alone(raw)
                entries.pop()
                if len(self._fresh) >= MARK:
                    await self._look_up()
            elif raw is None or raw.position > place:
                self._missing(item)
                items.pop()
            elif raw.position < place:
                self._strange(raw)
                entries.pop()
            else:
                self._compare(raw, item)
                entries.pop()
                items.pop()
            self.stopped = len(self.found) >= MOST
        await self._look_up()
        self._pair()

    async def _look_up(self) -> None:
        """Compare the newest with the server's index."""
        fresh, self._fresh = self._fresh, []
        places = await self._known(fresh) if fresh else []
        for raw, place in zip(fresh, places, strict=True):
            if raw.entry and place != raw.position.entry:
                what = f"the server's index has it {f'at {place}' if place else 'nowhere'}"
                self._report("inserted", what, None, raw.entry)

    async def _overtake(self, trimmed: Head, items: _Source[Item | Absent]) -> None:
        """Go on behind what was trimmed while it was read; the archive has it."""
        while (item := await items.peek()) is not None and (place := _place(item)) and place <= trimmed.position:
            self._advance(item)
            items.pop()
        if self.head.n < trimmed.n:
            self.overtaken = (self.overtaken[0] if self.overtaken else self.head.n + 1, trimmed.n)
            self._stand(trimmed)

    def _compare(self, raw: Raw, item: Item | Absent) -> None:
        self.witnessed += 1
        entry, wanted = raw.entry, None if isinstance(item, Absent) else item.entry
        if entry is None or raw.flaw:
            self._report("changed", raw.flaw or "", item.n, wanted, raw.position)
        elif isinstance(item, Absent) or wanted is None:
            self._stand(self._behind(item.n, entry))
            return
        elif entry.id != wanted.id:
            self._instead[item.n] = entry.id
            self._report("changed", f"{entry.id} stands in its place", item.n, wanted)
        elif chain.link(self.head.link, entry) != item.link if self.head.link else entry != wanted:
            self._report("changed", "it is not what its link was taken over", item.n, wanted)
        self._advance(item)

    def _behind(self, n: int, entry: Entry) -> Head:
        """The head with one more envelope; without a link where that before it is not known."""
        return chain.advance(self.head, entry) if self.head.link else Head(n, entry.position, b"")

    def _missing(self, item: Item | Absent) -> None:
        last = self.found[-1] if self.found else None
        if last and last.kind == "removed" and len(self.found) > _SINGLE and (last.last or last.n) == item.n - 1:
            what = f"#{last.n} to #{item.n} are missing"
            self.found[-1] = structs.replace(last, last=item.n, what=what)
        else:
            entry = None if isinstance(item, Absent) else item.entry
            self._report("removed", "it is missing", item.n, entry, _place(item))
        self._advance(item)

    def _advance(self, item: Item | Absent) -> None:
        if isinstance(item, Absent):
            self._stand(Head(item.n, item.position, b""))
        elif item.entry is not None:
            self._stand(Head(item.n, item.entry.position, item.link))

    def _stand(self, head: Head) -> None:
        self.head = head
        if head.n in self._wanted and head.link:
            self.heads[head.n] = head
        if head.n % MARK == 0 and head.link:
            self.marks.append(head)

    def _alone(self, raw: Raw) -> None:
        """What is newer than every witness can only be read, and added to the chain."""
        self.unwitnessed += 1
        if raw.entry is None or raw.flaw:
            self._report("inserted", raw.flaw or "", None, raw.entry, raw.position)
            return
        self._fresh.append(raw)
        self._stand(self._behind(self.head.n + 1, raw.entry))

    def _strange(self, raw: Raw) -> None:
        what = f"no witness has it; it stands behind #{self.head.n}"
        self._report("inserted", what, None, raw.entry, raw.position)

    def _report(
        self, kind: Kind, what: str, n: int | None, entry: Entry | None, position: Position | None = None
    ) -> None:
        self.found.append(Discrepancy.of("log", kind, what, n, entry, position=position))

    def _pair(self) -> None:
        """What is missing at its position, and stands at another one, has been moved; what is missing is one."""
        strange = {each.id: each for each in self.found if each.kind == "inserted" and each.id}
        elsewhere = {id: n for n, id in self._instead.items()}
        for at, each in enumerate(self.found):
            if each.kind not in {"removed", "changed"} or each.id is None:
                continue
            if each.id in strange:
                what = f"it stands at {strange[each.id].position}"
            elif each.id in elsewhere and elsewhere[each.id] != each.n:
                what = f"it stands in the place of #{elsewhere[each.id]}"
            else:
                continue
            self.found[at] = structs.replace(each, kind="moved", what=what)
        moved = {each.id for each in self.found if each.kind == "moved"}
        rest = [each for each in self.found if each.kind != "inserted" or each.id not in moved]
        self.found = []
        for each in rest:
            last = self.found[-1] if self.found else None
            if last and last.kind == each.kind == "removed" and each.n and (last.last or last.n) == each.n - 1:
                end = each.last or each.n
                what = f"#{last.n} to #{end} are missing"
                self.found[-1] = structs.replace(last, last=end, what=what)
            else:
                self.found.append(each)


class _Source(Generic[T]):
    """Pages, one thing at a time."""

    def __init__(self, pages: AsyncIterator[Sequence[T]]) -> None:
        self._pages = pages
        self._page: Sequence[T] = ()
        self._at = 0

    async def peek(self) -> T | None:
        """The next one; None at the end."""
        while self._at == len(self._page):
            found = await anext(self._pages, None)
            if found is None:
                return None
            self._page, self._at = found, 0
        return self._page[self._at]

    def pop(self) -> None:
        """Go on to the one behind it."""
        self._at += 1


def _place(item: Item | Absent) -> Position | None:
    if isinstance(item, Absent):
        return item.position
    return item.entry.position if item.entry is not None else None
