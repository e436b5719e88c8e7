"""The canonical dump: the same text, byte for byte, for every database that was folded from the same log.

Tables stand in the order of their names, rows in the order of their primary keys, one JSON array to a line;
bytes are written in base64. Called by the rebuild, which compares, and by whoever wants to see that two folds
agree.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

import msgspec

from taskbus_projections.database import explained

if TYPE_CHECKING:
    from collections.abc import Iterator

    from taskbus_projections.database import Database


def dump(database: Database) -> Iterator[bytes]:
    """The lines of the dump; for each table its definition, then its rows."""
    for table, definition in _tables(database):
        yield definition.encode() + b"\n"
        yield from _rows(database, table)


def digest(database: Database) -> str:
    """SHA-256 of the whole dump, in hexadecimal digits."""
    found = hashlib.sha256()
    with explained(database.path), database.snapshot():
        for line in dump(database):
            found.update(line)
    return found.hexdigest()


def digests(database: Database) -> dict[str, str]:
    """SHA-256 of the rows of each table, by its name."""
    found: dict[str, str] = {}
    for table, _ in _tables(database):
        of = hashlib.sha256()
        for line in _rows(database, table):
            of.update(line)
        found[table] = of.hexdigest()
    return found


def _tables(database: Database) -> list[tuple[str, str]]:
    rows = database.query("SELECT name, sql FROM sqlite_master WHERE type = 'table' AND name NOT LIKE 'sqlite%'")
    return sorted((row["name"], row["sql"]) for row in rows)


def _rows(database: Database, table: str) -> Iterator[bytes]:
    from sqlite_utils import Database as Tables  # slow to import

    key = Tables(database.connection, recursive_triggers=False, execute_plugins=False).table(table).pks
    order = ", ".join(f'"{column}"' for column in key)
    for row in database.connection.execute(f'SELECT * FROM "{table}" ORDER BY {order}'):  # noqa: S608 - our own names
        yield msgspec.json.encode(row) + b"\n"
