"""The walk through a copy that carries links: what was done to it is told from the copy alone."""

from __future__ import annotations

import pytest
from msgspec import structs

from taskbus import chain
from taskbus.chain import Head
from taskbus.log import Entry
from taskbus.position import Position
from taskbus.verification.discrepancy import Absent, Item, Resumption
from taskbus.verification.walk import Walk

START = chain.start("bus:{0}:")
COUNT = 20


def sound():
    """Twenty envelopes, as a copy has them, and how they end."""
    head, items = START, []
    for n in range(1, COUNT + 1):
        position = Position(0, 1000 + n, 0)
        entry = Entry(position, f"id-{n}", "status", "@a", "@b", "t", "t", "normal", "application/json", b"%d" % n)
        head = chain.advance(head, entry)
        items.append(Item(n, entry, head.link, f"line {n}"))
    return items, head


ITEMS, END = sound()


def walked(items, end=END):
    """What is found, in short, and where the walk ends."""
    walk = Walk("archive", START)
    walk.through(items, end)
    return [(each.kind, each.n, each.last) for each in walk.found], walk


def numbered(items):
    """The same with numbers from 1 on, as somebody would write them who hides what is missing."""
    return [item._replace(n=n) for n, item in enumerate(items, 1)]


def changed(n, **fields):
    """The items with other fields in one envelope."""
    return [item._replace(entry=structs.replace(item.entry, **fields)) if item.n == n else item for item in ITEMS]


def without(*numbers):
    """The items without some."""
    return [item for item in ITEMS if item.n not in numbers]


def before(n, *items):
    """The items with others before one of them."""
    return [*ITEMS[: n - 1], *items, *ITEMS[n - 1 :]]


def swapped(i, j, *, hidden=False):
    """Two items in each other's place; hidden: with the number that belongs there."""
    items = list(ITEMS)
    items[i - 1], items[j - 1] = items[j - 1], items[i - 1]
    return numbered(items) if hidden else items


FORGED = Item(7, structs.replace(ITEMS[6].entry, id="forged"), bytes(32), "line 7")
UNREAD = ITEMS[8]._replace(entry=None, flaw="no JSON")

CASES = {
    "nothing": (ITEMS, []),
    "the first is gone": (without(1), [("removed", 1, 1)]),
    "one is gone": (without(5), [("removed", 5, 5)]),
    "three are gone": (without(5, 6, 7), [("removed", 5, 7)]),
    "the last is gone": (without(20), [("removed", 20, 20)]),
    "one is gone, and the numbers are closed up": (numbered(without(5)), [("removed", 5, 5)]),
    "another body": (changed(5, body=b"x"), [("changed", 5, None)]),
    "another sender in the last": (changed(20, sender="@c"), [("changed", 20, None)]),
    "another link": (
        [item._replace(link=bytes(32)) if item.n == 5 else item for item in ITEMS],
        [("changed", 5, None)],
    ),
    "another number": ([item._replace(n=77) if item.n == 5 else item for item in ITEMS], [("changed", 5, None)]),
    "a flaw": ([item._replace(flaw="a space") if item.n == 5 else item for item in ITEMS], [("changed", 5, None)]),
    "one cannot be read": ([UNREAD if item.n == 9 else item for item in ITEMS], [("changed", 9, None)]),
    "one that cannot be read, and the next is gone": (
        [UNREAD if item.n == 9 else item for item in without(10)],
        [("changed", 9, None), ("removed", 10, 10)],
    ),
    "one that cannot be read, and an old one behind": (
        [*ITEMS[:8], UNREAD, ITEMS[2], *ITEMS[9:]],
        [("changed", 9, None), ("inserted", 3, None)],
    ),
    "one that cannot be read, and a foreign one in the place of the next": (
        [*ITEMS[:8], UNREAD, ITEMS[16], *ITEMS[10:]],
        [("changed", 9, None), ("removed", 10, 10), ("inserted", 17, None)],
    ),
    "a copy of a later one": (before(5, ITEMS[10]), [("inserted", 11, None)]),
    "a copy of the next but one's neighbour": (before(5, ITEMS[5]), [("inserted", 6, None)]),
    "a copy of an earlier one": (before(9, ITEMS[2]), [("inserted", 3, None)]),
    "a forged one": (before(7, FORGED), [("inserted", 7, None)]),
    "a forged one, and the numbers are moved on": (numbered(before(7, FORGED)), [("inserted", 7, None)]),
    "one more at the end": ([*ITEMS, FORGED._replace(n=21)], [("inserted", 21, None)]),
    "neighbours in each other's place": (swapped(5, 6), [("moved", 5, None)]),
    "the same with their numbers": (swapped(5, 6, hidden=True), [("moved", 5, None)]),
    "the last two in each other's place": (swapped(19, 20, hidden=True), [("moved", 19, None)]),
    "two in each other's place": (swapped(5, 11), [("moved", 5, None), ("moved", 11, None)]),
    "two in each other's place with their numbers": (
        swapped(5, 11, hidden=True),
        [("moved", 5, None), ("moved", 11, None)],
    ),
    "one moved back": ([*ITEMS[:4], *ITEMS[5:12], ITEMS[4], *ITEMS[12:]], [("moved", 5, None)]),
    "one moved forward": ([*ITEMS[:4], ITEMS[12], *ITEMS[4:12], *ITEMS[13:]], [("moved", 13, None)]),
    "a part that cannot be read": (
        [*ITEMS[:5], Resumption(8, ITEMS[7].link, "line 6", "broken"), *ITEMS[8:]],
        [("changed", 6, 8)],
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_what_was_done_is_told_from_the_copy_alone(case):
    """Which envelope it is about, and whether it was changed, removed, inserted or moved; and nothing else is wrong."""
    items, expected = CASES[case]
    found, walk = walked(items)
    assert found == expected
    assert walk.head == END


def test_links_that_were_all_taken_anew_are_told_by_the_end():
    """Somebody changed an envelope, and made every link behind it agree: the end is another one."""
    head, items = START, []
    for item in changed(5, body=b"x"):
        head = chain.advance(head, item.entry)
        items.append(item._replace(link=head.link))
    found, _ = walked(items)
    assert found == [("changed", 20, None)]
    assert walked(items, head)[0] == []
    assert walked(items, None)[0] == []


def test_what_a_copy_leaves_out_is_no_discrepancy():
    """An envelope that was set aside has no link there: what stands behind it is unproven, and then sure again."""
    left_out = Absent(5, ITEMS[4].entry.position)
    found, walk = walked([*ITEMS[:4], left_out, *ITEMS[5:]])
    assert found == []
    assert [item.n for item in walk.unproven] == [6]
    found, _ = walked([*ITEMS[:3], left_out, *ITEMS[5:]])
    assert found == [("removed", 4, 4)]
    found, _ = walked([*ITEMS[:4], left_out, ITEMS[5]._replace(flaw="a space"), *ITEMS[6:]])
    assert found == [("changed", 6, None)]


def test_a_copy_that_ends_too_early_or_too_late():
    """The end is known: what is missing there is named, and so is what stands behind it."""
    assert walked(ITEMS[:12])[0] == [("removed", 13, 20)]
    end = Head(12, ITEMS[11].entry.position, ITEMS[11].link)
    assert walked(ITEMS, end)[0] == [("inserted", 13, None)]
