"""Sums: rows that only ever grow, added up in memory for a batch, and to what stands in the table when it ends.

What a read model counts by day, task, agent or model goes here: no row is loaded for it. Numbers that nobody said are
no zeros, and no sum is more than SQLite can hold, whatever an envelope claims.
"""

from __future__ import annotations

from dataclasses import Field, fields
from operator import attrgetter
from typing import TYPE_CHECKING, Any, Final, TypeVar

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Sequence

R = TypeVar("R")

MOST: Final = 2**63 - 1
"""The greatest integer of SQLite: what would be more stays there, and what would be less at the negative of it."""


def plus(before: int | None, more: int | None) -> int | None:
    """A sum with one more number; what is not said leaves it as it is, so that a sum of nothing is None and not 0."""
    if more is None:
        return before
    return more if before is None else min(MOST, before + more)


class Sums(dict[Any, R]):
    """The rows of a table of sums: `sums[key]` is what the batch adds to one, a dataclass that begins with nothing.

    The fields of the dataclass are the columns in order, those that are given by name alone last: the first `key` are
    the primary key, then come `fixed` ones that stay as they were first, then the sums. Of the columns in `least` and
    `greatest` the one or the other is kept. `sums[key]` takes the values of all fields before the sums, as a tuple.
    """

    def __init__(
        self,
        table: str,
        row: type[R],
        *,
        key: int,
        fixed: int = 0,
        least: Sequence[str] = (),
        greatest: Sequence[str] = (),
    ) -> None:
        super().__init__()
        found: tuple[Field[Any], ...] = fields(row)  # pyright: ignore[reportArgumentType] - a dataclass, as said
        columns = [field.name for field in sorted(found, key=attrgetter("kw_only"))]
        names = ", ".join(columns)
        changes = ", ".join(f"{name} = {_joined(name, least, greatest)}" for name in columns[key + fixed :])
        self._row = row
        self._values: Any = attrgetter(*columns)
        self._store = (
            f"INSERT INTO {table} ({names}) VALUES ({', '.join('?' * len(columns))}) "  # noqa: S608 - our own names
            f"ON CONFLICT ({', '.join(columns[:key])}) DO UPDATE SET {changes}"
        )

    def __missing__(self, key: Sequence[Any]) -> R:
        row = self[key] = self._row(*key)
        return row

    def finish(self, database: sqlite3.Connection) -> None:
        """Add the sums of the batch to those of the table."""
        database.executemany(self._store, map(self._values, self.values()))


def _joined(name: str, least: Sequence[str], greatest: Sequence[str]) -> str:
    """What becomes of a column: in SQL, a sum with NULL is NULL, and one that is too great is a real number."""
    if name in least or name in greatest:
        better = "min" if name in least else "max"
        return f"{better}(coalesce({name}, excluded.{name}), coalesce(excluded.{name}, {name}))"
    return f"max(-{MOST}, min({MOST}, coalesce({name} + excluded.{name}, {name}, excluded.{name})))"
