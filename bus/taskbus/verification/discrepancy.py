"""Discrepancies: what is wrong with one copy of the log, right to the envelope.

Owns the words for it. Found by the walk through a copy that carries links, and by comparing copies with each other.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Literal, NamedTuple, TypeAlias

from msgspec import Struct

if TYPE_CHECKING:
    from taskbus.log import Entry
    from taskbus.position import Position

MOST: Final = 10_000
"""With so many discrepancies in it, a copy is not read any further."""

Kind: TypeAlias = Literal["changed", "removed", "inserted", "moved"]
Copy: TypeAlias = Literal["archive", "log", "audit table", "trim record", "exported heads"]


class Discrepancy(Struct, frozen=True, omit_defaults=True):
    """One thing that is wrong with a copy.

    `n` is the number in the log of the envelope that it is about, `last` that of the last one where several in a row
    are; `position` and `id` are given as far as they are known, `place` says where in the copy it stands or is missing.
    `what` is a sentence for people.
    """

    copy: Copy
    kind: Kind
    what: str
    n: int | None = None
    last: int | None = None
    position: str | None = None
    id: str | None = None
    task: str | None = None
    place: str | None = None

    @classmethod
    def of(
        cls,
        copy: Copy,
        kind: Kind,
        what: str,
        n: int | None,
        entry: Entry | None,
        *,
        last: int | None = None,
        position: Position | None = None,
        place: str | None = None,
    ) -> Discrepancy:
        """One that is about an envelope, as far as that is known."""
        if entry is None:
            return cls(copy, kind, what, n, last, str(position) if position else None, place=place)
        return cls(copy, kind, what, n, last, str(entry.position), entry.id, entry.task, place)


class Item(NamedTuple):
    """One envelope of a copy that carries links, as it stands there.

    `entry` is None where nothing can be read; `flaw` says what cannot be as it was written, though link and entry
    agree. `place` is where it stands.
    """

    n: int
    entry: Entry | None
    link: bytes
    place: str
    flaw: str | None = None


class Resumption(NamedTuple):
    """A part of a copy that cannot be read, from an item on; what follows goes on after envelope `n` with its link."""

    n: int
    link: bytes
    place: str
    why: str


class Absent(NamedTuple):
    """An envelope that the copy leaves out, and says so: nothing is known of its link."""

    n: int
    position: Position
