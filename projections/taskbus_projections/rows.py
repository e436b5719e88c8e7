"""Rows that change: those of one table that a batch is about, loaded once, changed in memory, written together.

What a read model that keeps one row for each task, day or agent folds into. It refuses nothing, and knows of no
envelope; called by read models from `begin` to `finish`.
"""

from __future__ import annotations

from dataclasses import fields
from operator import attrgetter
from typing import TYPE_CHECKING, Any, Generic, TypeVar

if TYPE_CHECKING:
    import sqlite3

R = TypeVar("R")


class Rows(Generic[R]):
    """The rows of a table, as a dataclass whose fields are its columns in order; the first `key` are the primary key.

    Rows are written in the order in which they were first asked for, so that it depends on the log alone.
    """

    def __init__(self, table: str, row: type[R], *, key: int = 1) -> None:
        columns = [field.name for field in fields(row)]  # pyright: ignore[reportArgumentType] - a dataclass, as said
        names, keys = ", ".join(columns), columns[:key]
        changes = ", ".join(f"{column} = excluded.{column}" for column in columns[key:])
        self._row = row
        self._values: Any = attrgetter(*columns)
        self._key: Any = attrgetter(*keys)
        self._single = key == 1
        where = " AND ".join(f"{column} = ?" for column in keys)
        self._load = f"SELECT {names} FROM {table} WHERE {where}"  # noqa: S608 - names of the model's own
        self._store = (
            f"INSERT INTO {table} ({names}) VALUES ({', '.join('?' * len(columns))}) "  # noqa: S608 - the same
            f"ON CONFLICT ({', '.join(keys)}) DO {f'UPDATE SET {changes}' if changes else 'NOTHING'}"
        )
        self._kept: dict[object, R] = {}

    def begin(self, database: sqlite3.Connection) -> None:
        """Begin a batch: no row is known yet."""
        self._database = database
        self._kept = {}

    def get(self, *key: object) -> R | None:
        """The row with this key, to be changed in place; None where there is none."""
        name = key[0] if self._single else key
        row = self._kept.get(name)
        if row is None:
            found = self._database.execute(self._load, key).fetchone()
            if found is None:
                return None
            row = self._kept[name] = self._row(*found)
        return row

    def known(self, *key: object) -> R:
        """The row with this key. Raises KeyError where there is none."""
        row = self.get(*key)
        if row is None:
            raise KeyError(*key)
        return row

    def add(self, row: R) -> R:
        """Keep a new row; returns it."""
        self._kept[self._key(row)] = row
        return row

    def finish(self) -> None:
        """Write the rows that the batch was about."""
        self._database.executemany(self._store, map(self._values, self._kept.values()))
