"""Causes: what led to an envelope, and what came of it, as a tree.

Owns the walk along the causation that senders have named: which may miss (the envelope is not in this log), branch,
and even run in a circle. Called by `bus audit --causes`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Literal, TypeAlias

from taskbus_projections.queries.answer import Page, at_most, flagged, marks, rows
from taskbus_projections.queries.envelopes import BODIES, COLUMNS, FROM

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from taskbus_projections.database import Database
    from taskbus_projections.queries.answer import Row

Direction: TypeAlias = Literal["up", "down", "both"]

_CHUNK: Final = 500


def causes(
    database: Database, n: int, direction: Direction = "both", *, bodies: bool = False, limit: int | None = None
) -> Page:
    """The envelope with its causes before it, from the first on, and its effects below it, each with its `depth`.

    `relation` says of each whether it is a cause, the envelope itself, or an effect. At most `limit` rows: of causes
    the nearest, then of effects those with the fewest steps between.
    """
    columns = COLUMNS + (BODIES if bodies else "")
    (self,) = _by_number(database, columns, [n])
    above, more_above = _up(database, columns, self, limit) if direction != "down" else ([], False)
    left = None if limit is None else max(0, limit - len(above) - 1)
    below, more_below = (
        _down(database, columns, self, {row["n"] for row in above}, left) if direction != "up" else ({}, False)
    )
    found = [row | {"relation": "cause", "depth": depth} for depth, row in enumerate(above)]
    found += _ordered(self, below, len(above))
    return Page([flagged(row, "by_hand") for row in found], more=more_above or more_below)


def _up(database: Database, columns: str, self: Row, limit: int | None) -> tuple[list[Row], bool]:
    found: list[Row] = []
    seen, row = {self["n"]}, self
    while (cause := row["cause_n"]) is not None and cause not in seen:
        if limit is not None and len(found) + 1 >= limit:
            return found[::-1], True
        (row,) = _by_number(database, columns, [cause])
        seen.add(cause)
        found.append(row)
    return found[::-1], False


def _down(
    database: Database, columns: str, self: Row, above: set[int], limit: int | None
) -> tuple[dict[int, list[Row]], bool]:
    """The effects of each envelope by its number, one generation after the other."""
    found: dict[int, list[Row]] = {}
    seen = {self["n"], *above}
    parents, room = [self], limit
    while parents:
        most = None if room is None else room + len(seen) + 1
        children = [row for row in _caused(database, columns, parents, most) if row["n"] not in seen]
        for row in children[:room]:
            seen.add(row["n"])
            found.setdefault(row["cause_n"], []).append(row)
        if room is not None:
            if len(children) > room:
                return found, True
            room -= len(children)
        parents = children
    return found, False


def _caused(database: Database, columns: str, parents: Sequence[Row], most: int | None) -> Iterator[Row]:
    for at in range(0, len(parents), _CHUNK):
        ids = [row["id"] for row in parents[at : at + _CHUNK]]
        # Of the envelopes that name these as their cause.
        yield from rows(
            database,
            f"SELECT {columns} FROM {FROM} WHERE e.causation IN ({marks(ids)}) ORDER BY e.n LIMIT ?",  # noqa: S608 - names of our own
            (*ids, at_most(most)),
        )


def _ordered(self: Row, below: dict[int, list[Row]], depth: int) -> list[Row]:
    found: list[Row] = []
    waiting: list[tuple[Row, int]] = [(self | {"relation": "self"}, depth)]
    while waiting:
        row, depth = waiting.pop()
        found.append({"relation": "effect"} | row | {"depth": depth})
        waiting += [(child, depth + 1) for child in reversed(below.get(row["n"], []))]
    return found


def _by_number(database: Database, columns: str, numbers: Sequence[int]) -> list[Row]:
    return rows(database, f"SELECT {columns} FROM {FROM} WHERE e.n IN ({marks(numbers)})", numbers)  # noqa: S608 - the same
