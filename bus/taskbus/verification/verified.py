"""What verifying takes and gives: the copies that carry links, and the result.

Owns what a copy must be able to do. Called by the verification, and by whoever shows its result.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from msgspec import Struct, field

from taskbus.chain import Head
from taskbus.position import START

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from taskbus.position import Position
    from taskbus.verification.discrepancy import Absent, Copy, Discrepancy, Item


class Linked(Protocol):
    """A copy of the log that carries links. Its calls block.

    `check` recomputes everything, and tells how many envelopes were read; then `found` holds what is wrong, `count`
    how many envelopes there are, `end` the newest one up to which it is unbroken, `marks` some of its heads,
    `unproven` what stands behind something that it leaves out, and `unchecked` what could not be looked at.
    """

    copy: Copy
    found: list[Discrepancy]
    unchecked: list[str]
    unproven: list[Item]
    count: int
    end: Head | None
    marks: list[Head]

    def check(self, moved: Callable[[int], None]) -> None:
        """Recompute everything; what `moved` raises ends it."""
        ...

    def head_at(self, n: int) -> Head | None:
        """The head at an envelope, by its number; None where the copy does not have it."""
        ...

    def pages(self, after: Position, until: Position) -> Iterator[Sequence[Item | Absent]]:
        """What stands after a position, up to and including another, in order."""
        ...


class Verified(Struct):
    """What was found: discrepancies, the first of them first, and how much was verified of each copy.

    `head` is the newest envelope of all; `unwitnessed` of the log's newest ones stand nowhere else. `marks` are heads
    to export. `unchecked` says what could not be looked at, and why.
    """

    discrepancies: list[Discrepancy] = field(default_factory=list)
    counts: dict[Copy, int] = field(default_factory=dict)
    head: Head = Head(0, START, b"")
    unwitnessed: int = 0
    marks: list[Head] = field(default_factory=list)
    unchecked: list[str] = field(default_factory=list)
