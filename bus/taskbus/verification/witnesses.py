"""Witnesses: two copies that each agree with themselves, side by side, and which of them is to be believed.

It asks for few of their envelopes. Its calls block. Called by the verification, from threads.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from taskbus.chain import Head
from taskbus.position import START
from taskbus.verification.discrepancy import Item

if TYPE_CHECKING:
    from collections.abc import Sequence

    from taskbus.position import Position
    from taskbus.verification.verified import Linked


def first_difference(one: Linked, other: Linked) -> int | None:
    """The number of the first envelope at which two copies have other links; None where they agree.

    Links are a chain: from the first difference on, all of them differ.
    """
    low, high = 1, min(one.end.n if one.end else 0, other.end.n if other.end else 0)
    if _agree(one, other, high):
        return None
    while low < high:
        middle = (low + high) // 2
        if _agree(one, other, middle):
            low = middle + 1
        else:
            high = middle
    return low


def _agree(one: Linked, other: Linked, n: int) -> bool:
    """Whether both have the same up to an envelope, or up to the last one before it that neither leaves out."""
    while n > 0:
        first, second = one.head_at(n), other.head_at(n)
        if first and second:
            return first == second
        n -= 1
    return True


def liar(one: Linked, other: Linked, first: int, marks: Sequence[tuple[str, Head]]) -> tuple[Linked | None, str]:
    """Which of two copies was made anew from an envelope on, and by whose word: heads that are known otherwise."""
    for name, mark in marks:
        if mark.n >= first:
            agree = [copy.head_at(mark.n) == mark for copy in (one, other)]
            if agree[0] != agree[1]:
                return (other if agree[0] else one), name
    return None, ""


def item_at(copy: Linked, n: int) -> Item | None:
    """What a copy has at a number."""
    marks = [mark.position for mark in copy.marks if mark.n < n]
    for page in copy.pages(max(marks, default=START), copy.end.position if copy.end else START):
        if page[-1].n >= n:
            return next((item for item in page if isinstance(item, Item) and item.n == n), None)
    return None


def head_before(copy: Linked, position: Position, beginning: Head) -> Head:
    """The newest head that a copy has up to a position; the beginning where it has none."""
    found = max((mark for mark in copy.marks if mark.position <= position), default=beginning, key=lambda mark: mark.n)
    for page in copy.pages(found.position, position):
        for item in page:
            if isinstance(item, Item) and item.entry is not None:
                found = Head(item.n, item.entry.position, item.link)
    return found
