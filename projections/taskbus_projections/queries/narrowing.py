"""Narrowing: which of several conditions an index is to be used for.

SQLite knows nothing of how many rows have one value and not another (a table of statistics has averages), so they are
counted in the indexes, up to a number that costs nothing. The condition that few rows meet leads; the others are looked
at row by row. Called by the queries whose conditions people combine as they like.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from taskbus_projections.queries.answer import value

if TYPE_CHECKING:
    from collections.abc import Sequence

    from taskbus_projections.database import Database

FEW: Final = 2_000
"""So many rows are looked at one by one, whatever the other conditions are, in a few milliseconds."""


@dataclass(frozen=True, slots=True)
class Condition:
    """A condition on one column, `column` and what is asked of it, with the values of its question marks.

    One with `led` has an index that gives its rows in the order that is asked for.
    """

    column: str
    asked: str
    values: tuple[object, ...] = ()
    led: bool = True

    def sql(self, *, leading: bool) -> str:
        """The condition; no index is used for one that does not lead."""
        return f"{'' if leading else '+'}{self.column} {self.asked}"


def equal(column: str, wanted: object) -> list[Condition]:
    """A condition that a column has a value; none for None."""
    return [] if wanted is None else [Condition(column, "= ?", (wanted,))]


def leading(database: Database, table: str, conditions: Sequence[Condition]) -> Condition | None:
    """The condition that the fewest rows meet; of those that many meet the first that keeps the order, if any."""
    counted = [(count(database, table, each), at, each) for at, each in enumerate(conditions)]
    few = [(rows, at, each) for rows, at, each in counted if rows < FEW]
    if few:
        return min(few, key=lambda found: found[:2])[2]
    return next((each for each in conditions if each.led), None)


def count(database: Database, table: str, condition: Condition) -> int:
    """How many rows meet a condition, counted in its index, up to `FEW`."""
    found: int = value(
        database,
        f"SELECT count(*) FROM (SELECT 1 FROM {table} WHERE {condition.sql(leading=True)} LIMIT {FEW})",  # noqa: S608 - our own words
        condition.values,
    )
    return found


def where(conditions: Sequence[Condition], leader: Condition | None) -> str:
    """All of the conditions, with an index for the one that leads."""
    clause = " AND ".join(each.sql(leading=each is leader) for each in conditions)
    return f"WHERE {clause}" if clause else ""


def values(conditions: Sequence[Condition]) -> list[object]:
    """The values of all conditions, in their order."""
    return [each for condition in conditions for each in condition.values]
