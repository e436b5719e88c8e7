"""The walk: through one copy that carries links, which are computed anew, one after the other.

It judges by that copy alone: by its numbers, its links, and how it ends. Where one envelope breaks the chain, it finds
how the chain goes on behind it, and so what happened: a changed envelope, one that is missing, one too many, one in
another's place. It refuses nothing, and goes on behind each discrepancy.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

from msgspec import structs

from taskbus import chain
from taskbus.chain import Head
from taskbus.position import Position
from taskbus.verification.discrepancy import MOST, Absent, Discrepancy, Item, Resumption

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from taskbus.log import Entry
    from taskbus.verification.discrepancy import Copy, Kind


class Walk:
    """Walks through a copy, from a head on. `found` are its discrepancies in order; `head` is where it is.

    `count` says how many envelopes were read. `on_item` is told of each that agrees with the chain. `unproven` are
    those behind what the copy leaves out: nothing in it tells whether their links are right. With too many
    discrepancies it stops, and `stopped` is where.
    """

    def __init__(self, copy: Copy, start: Head, *, on_item: Callable[[Item], None] | None = None) -> None:
        self.copy: Copy = copy
        self.head = start
        self.count = 0
        self.found: list[Discrepancy] = []
        self.unproven: list[Item] = []
        self.stopped: int | None = None
        self._on_item = on_item
        self._is_sure = True
        self._shift = 0
        self._skips: list[tuple[int, int]] = []
        self._ahead: deque[Item | Resumption | Absent] = deque()
        self._items: Iterable[Item | Resumption | Absent] = ()

    def through(self, items: Iterable[Item | Resumption | Absent], end: Head | None = None) -> None:
        """Walk on through items. With `end`, they must end with that envelope, and that link."""
        self._items = iter(items)
        began = len(self.found)
        while (item := self._take()) is not None:
            if isinstance(item, Resumption):
                self._resume(item)
            elif isinstance(item, Absent):
                self._leave_out(item)
            else:
                self.count += 1
                self._step(item)
            if len(self.found) >= MOST:
                self.stopped = self.head.n
                break
        if end is not None and self.stopped is None:
            self._close(end, began)
        self._pair(began)

    def _step(self, item: Item) -> None:
        entry, expected = item.entry, self.head.n + 1
        if entry is None:
            self._report("changed", expected, None, item.place, f"it cannot be read: {item.flaw}")
            self.head = Head(expected, self.head.position, item.link)
            self._is_sure = False
            return
        if self._is_sure and chain.link(self.head.link, entry) == item.link:
            if item.n + self._shift != expected:
                self._report("changed", expected, entry, item.place, f"its number is {item.n}")
            elif item.flaw:
                self._report("changed", expected, entry, item.place, item.flaw)
            elif self._on_item:
                self._on_item(item)
            self.head = Head(expected, entry.position, item.link)
        elif self._is_sure:
            self._broken(item, entry)
        else:
            self._unsure(item, entry)

    def _broken(self, item: Item, entry: Entry) -> None:
        """What happened where an item does not go on from the head."""
        expected, number = self.head.n + 1, item.n + self._shift
        second = self._peek(0)
        if second and second.entry and chain.link(self.head.link, second.entry) == second.link:
            third = self._peek(1)
            is_twice = third is not None and third.link == item.link and _goes_on(second.link, third)
            if chain.link(second.link, entry) == item.link and not is_twice:
                self._report(
                    "moved", expected, second.entry, second.place, f"it stands behind #{expected + 1}, {entry.id}"
                )
                self._take()
                self.count += 1
                self.head = Head(expected + 1, entry.position, item.link)
                return
            self._inserted(item, entry)
            if second.n + self._shift == expected + 1:
                self._shift -= 1
            return
        if number == expected or (second is not None and second.n + self._shift == expected + 1):
            if number == expected:
                self._report(
                    "changed", expected, entry, item.place, "it is not what its link, or the next one, was taken over"
                )
            else:
                self._report("removed", expected, None, item.place, f"#{item.n} stands in its place")
                self._inserted(item, entry)
            self._go_on(expected, item, entry)
        elif number > expected:
            self._removed(expected, number - 1, item.place)
            self._go_on(number, item, entry)
        else:
            self._inserted(item, entry)

    def _go_on(self, n: int, item: Item, entry: Entry) -> None:
        """Choose the link that the next item goes on from: the one that stands there, or the one that it should be."""
        following = self._peek(0)
        links = (item.link, chain.link(self.head.link, entry))
        link = next((link for link in links if following and _goes_on(link, following)), None)
        if link == item.link and self.found[-1].kind == "changed":
            self._skips.append((len(self.found) - 1, n))
        self._is_sure = link is not None
        self.head = Head(n, entry.position, link or item.link)

    def _unsure(self, item: Item, entry: Entry) -> None:
        """The chain was lost: an item whose number follows is taken as it is, and what follows it is judged again."""
        expected, number = self.head.n + 1, item.n + self._shift
        if number < expected:
            self._inserted(item, entry)
            return
        if number > expected:
            second = self._peek(0)
            if second is not None and second.n + self._shift == expected + 1:
                self._report("removed", expected, None, item.place, f"#{item.n} stands in its place")
                self._inserted(item, entry)
                self.head = Head(expected, entry.position, item.link)
                return
            self._removed(expected, number - 1, item.place)
        if item.flaw:
            self._report("changed", number, entry, item.place, item.flaw)
        if not self.head.link and number == expected:
            self.unproven.append(item)
        self.head = Head(number, entry.position, item.link)
        self._is_sure = True

    def _resume(self, part: Resumption) -> None:
        if part.n > self.head.n:
            first = self.head.n + 1
            what = f"it cannot be read any more: {part.why}"
            self._report("changed", first, None, part.place, what, last=part.n)
        self.head = Head(part.n, self.head.position, part.link)
        self._is_sure = True

    def _leave_out(self, absent: Absent) -> None:
        if absent.n > self.head.n + 1:
            self._removed(self.head.n + 1, absent.n - 1, f"#{absent.n}")
        self.head = Head(absent.n, absent.position, b"")
        self._is_sure = False

    def _close(self, end: Head, began: int) -> None:
        """Compare how the items ended with how they should."""
        if self.head.n < end.n and end.n - self.head.n == len(self._skips):
            # The numbers were closed up behind what is missing: one less at the end for each place like that.
            for at, gone in self._skips:
                what = "it is missing, and all numbers behind it are one less"
                self.found[at] = Discrepancy(self.copy, "removed", what, gone, gone, place=self.found[at].place)
        elif self.head.n < end.n:
            self._removed(self.head.n + 1, end.n, "the end", end=end.position)
        elif self.head.n > end.n:
            what = f"it stands behind the last one, #{end.n}"
            late = [at for at, each in enumerate(self.found) if each.kind == "changed" and (each.n or 0) > end.n]
            for at in late:
                self.found[at] = structs.replace(self.found[at], kind="inserted", what=what)
            if not late:
                self._report("inserted", end.n + 1, None, "the end", what)
        elif len(self.found) == began and self.head.link and self.head.link != end.link:
            what = "one envelope or more up to here were changed, and all links behind taken anew"
            self._report("changed", end.n, None, "the end", what)
        elif len(self.found) == began and self.head.position != end.position:
            what = f"it stands at {self.head.position}, and the end is said to be at {end.position}"
            self._report("changed", end.n, None, "the end", what)
        self.head = end
        self._is_sure, self._shift = True, 0
        self._skips.clear()

    def _pair(self, began: int) -> None:
        """What is missing in one place and stands in another has been moved."""
        fresh = self.found[began:]
        missing = {each.n: each for each in fresh if each.kind == "removed" and each.last == each.n}
        for strange in [each for each in fresh if each.kind == "inserted"]:
            gone = missing.pop(strange.n, None)
            if gone is None:
                continue
            what = f"it stands at {strange.place}, and is missing at {gone.place}"
            moved = Discrepancy(
                self.copy, "moved", what, strange.n, None, strange.position, strange.id, strange.task, strange.place
            )
            first, second = sorted((self.found.index(gone), self.found.index(strange)))
            self.found[first] = moved
            del self.found[second]
        self._cross(began)

    def _cross(self, began: int) -> None:
        """Two that were changed, and whose positions are in the wrong order, stand in each other's place."""
        changed = [each for each in self.found[began:] if each.kind == "changed" and each.position]
        if len(changed) == 2 and Position.parse(changed[0].position or "") > Position.parse(changed[1].position or ""):
            for one, other in (changed, reversed(changed)):
                what = f"{one.id} stands in its place, and it in that of #{other.n}"
                at = self.found.index(one)
                self.found[at] = structs.replace(other, kind="moved", n=one.n, what=what, place=one.place)

    def _inserted(self, item: Item, entry: Entry) -> None:
        what = f"nothing in the chain stands for it, with the number {item.n}"
        self._report("inserted", item.n, entry, item.place, what)

    def _removed(self, first: int, last: int, place: str, *, end: Position | None = None) -> None:
        what = "it is missing" if first == last else f"#{first} to #{last} are missing"
        position = end if first == last else None
        self._report("removed", first, None, f"before {place}", what, last=last, position=position)

    def _report(
        self,
        kind: Kind,
        n: int,
        entry: Entry | None,
        place: str,
        what: str,
        *,
        last: int | None = None,
        position: Position | None = None,
    ) -> None:
        last = last or n if kind == "removed" else last
        self.found.append(Discrepancy.of(self.copy, kind, what, n, entry, last=last, position=position, place=place))

    def _take(self) -> Item | Resumption | Absent | None:
        return self._ahead.popleft() if self._ahead else next(iter(self._items), None)

    def _peek(self, index: int) -> Item | None:
        """An item that comes later, without taking it; None behind the end, or behind what cannot be read."""
        while len(self._ahead) <= index:
            item = next(iter(self._items), None)
            if item is None:
                return None
            self._ahead.append(item)
        found = self._ahead[index]
        return found if isinstance(found, Item) and found.entry is not None else None


def _goes_on(link: bytes, item: Item) -> bool:
    return item.entry is not None and chain.link(link, item.entry) == item.link
