"""Witnesses: where two copies that agree with themselves differ, and which of them is believed."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest
from msgspec import structs

from taskbus import chain
from taskbus.chain import Head
from taskbus.log import Entry
from taskbus.position import Position
from taskbus.verification import witnesses
from taskbus.verification.discrepancy import Absent, Item

START = chain.start("bus:{0}:")


@dataclass
class Listed:
    """A copy that is a list; `marks` are its heads at each fifth envelope."""

    items: list[Item | Absent]
    copy: str = "archive"
    found: list = field(default_factory=list)
    unchecked: list = field(default_factory=list)
    unproven: list = field(default_factory=list)

    @property
    def count(self):
        """How many there are."""
        return len(self.items)

    @property
    def end(self):
        """The last one."""
        return self.head_at(self.items[-1].n) if self.items else None

    @property
    def marks(self):
        """Some heads."""
        return [head for n in range(5, len(self.items) + 1, 5) if (head := self.head_at(n))]

    def check(self, moved):
        """Nothing to check."""
        moved(self.count)

    def head_at(self, n):
        """The head there."""
        items = [item for item in self.items if item.n == n and isinstance(item, Item)]
        return Head(n, items[0].entry.position, items[0].link) if items else None

    def pages(self, after, until):
        """Three at a time."""
        page = []
        for item in self.items:
            position = item.position if isinstance(item, Absent) else item.entry.position
            if after < position <= until:
                page.append(item)
                if len(page) == 3:
                    yield page
                    page = []
        if page:
            yield page


def copy_of(count, *, changed=None, absent=()):
    """A copy of so many envelopes; from `changed` on it was made anew with another body in that one."""
    head, items = START, []
    for n in range(1, count + 1):
        position = Position(0, 1000 + n, 0)
        entry = Entry(position, f"id-{n}", "status", "@a", "@b", "t", "t", "normal", "application/json", b"%d" % n)
        if n == changed:
            entry = structs.replace(entry, body=b"forged")
        head = chain.advance(head, entry)
        items.append(Absent(n, position) if n in absent else Item(n, entry, head.link, f"line {n}"))
    return Listed(items)


@pytest.mark.parametrize("changed", [1, 2, 7, 16, 17])
@pytest.mark.parametrize("absent", [(), (2,), (6, 7, 8)])
def test_the_first_envelope_that_differs_is_found(changed, absent):
    """However long the copies are, and whatever one of them leaves out around it."""
    other = copy_of(17, changed=changed)
    first = witnesses.first_difference(copy_of(23, absent=absent), other)
    left_out = [n for n in absent if n == changed]
    assert first == changed if not left_out else first >= changed


def test_copies_that_agree_as_far_as_both_reach_do_not_differ():
    """Also where one of them is empty, or leaves out all that both have."""
    assert witnesses.first_difference(copy_of(9), copy_of(17)) is None
    assert witnesses.first_difference(copy_of(9), Listed([])) is None
    assert witnesses.first_difference(copy_of(3, absent=(1, 2, 3)), copy_of(3, changed=2)) is None


def test_a_head_that_is_known_otherwise_tells_who_lies():
    """The first one that is behind the difference and agrees with one of the two; without any, nobody knows."""
    true, forged = copy_of(17), copy_of(17, changed=7)
    early, late = true.head_at(6), true.head_at(12)
    assert early is not None
    assert late is not None
    marks = [("an early one", early), ("an exported head", late)]
    assert witnesses.liar(true, forged, 7, marks) == (forged, "an exported head")
    assert witnesses.liar(forged, true, 7, marks) == (forged, "an exported head")
    assert witnesses.liar(true, forged, 7, marks[:1]) == (None, "")
    strange = Head(12, late.position, bytes(32))
    assert witnesses.liar(true, forged, 7, [("nobody's", strange)]) == (None, "")


def test_an_envelope_and_a_head_are_found_by_number_and_by_position():
    """Near a mark and far from one; what is left out, or was never there, is None, and the head before it stands."""
    copy = copy_of(17, absent=(8,))
    for n in (1, 5, 6, 17):
        assert witnesses.item_at(copy, n) == copy.items[n - 1]
    assert witnesses.item_at(copy, 8) is None
    assert witnesses.item_at(copy, 18) is None
    assert witnesses.item_at(Listed([]), 1) is None
    assert witnesses.head_before(copy, Position(0, 1012, 5), START) == copy.head_at(12)
    assert witnesses.head_before(copy, Position(0, 1008, 0), START) == copy.head_at(7)
    assert witnesses.head_before(copy, Position(0, 9, 0), START) == START
