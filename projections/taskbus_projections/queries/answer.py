"""Answers: rows by column, and the clauses that narrow them down.

Owns how a question is put to the database: conditions of our own, values always as parameters, one plain dictionary
for each row. Called by the other modules of this package.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeAlias

from taskbus_projections.database import explained
from taskbus_projections.sums import MOST

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from taskbus_projections.database import Database

Row: TypeAlias = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Page:
    """Some rows of an answer, and how many there are without the limit; None where that was not counted."""

    rows: list[Row]
    total: int | None = None
    more: bool = False


@dataclass(slots=True)
class Where:
    """Conditions that are all to be met, each with the values of its question marks."""

    conditions: list[str] = field(default_factory=list[str])
    values: list[object] = field(default_factory=list[object])

    def add(self, condition: str, *values: object) -> None:
        """One more condition."""
        self.conditions.append(condition)
        self.values.extend(values)

    def equal(self, column: str, value: object) -> None:
        """A condition that a column has a value; none for None."""
        if value is not None:
            self.add(f"{column} = ?", value)

    def among(self, column: str, values: Sequence[object]) -> None:
        """A condition that a column has one of some values; none where none are given."""
        if values:
            self.add(f"{column} IN ({marks(values)})", *values)

    def __str__(self) -> str:
        return f"WHERE {' AND '.join(self.conditions)}" if self.conditions else ""


def rows(database: Database, sql: str, parameters: Mapping[str, object] | Sequence[object] = ()) -> list[Row]:
    """The rows of a query, each by its column names."""
    # Not through sqlite-utils, which takes a tenth of a second to import.
    with explained(database.path):
        found = database.connection.execute(sql, parameters)
        names = [column[0] for column in found.description]
        return [dict(zip(names, row, strict=True)) for row in found]


def value(database: Database, sql: str, parameters: Mapping[str, object] | Sequence[object] = ()) -> Any:
    """The one value of a query; None without a row."""
    with explained(database.path):
        row = database.connection.execute(sql, parameters).fetchone()
    return row[0] if row else None


def summed(column: str, condition: str = "") -> str:
    """The sum of a column of counts or amounts, at most `MOST`: where `sum` would fail, this is as great as can be.

    `condition` narrows down what is added up.
    """
    rows = f" FILTER (WHERE {condition})" if condition else ""
    # In halves: no number of rows makes either of them too great. What is too great together is a real number.
    return f"min({MOST}, sum({column} >> 32){rows} * 4294967296 + sum({column} & 4294967295){rows})"


def marks(values: Sequence[object]) -> str:
    """A question mark for each value."""
    return ", ".join("?" * len(values))


def flagged(row: Row, *names: str) -> Row:
    """The row, with numbers that mean yes or no as such."""
    return row | {name: bool(row[name]) for name in names}


def at_most(limit: int | None) -> int:
    """A limit as SQLite has it; None is none."""
    return -1 if limit is None else limit
