"""The canonical dump: the same text, byte for byte, for every database that was folded from the same log.

Tables stand in the order of their names, rows in the order of their primary keys, one JSON array to a line;
bytes are written in base64. Virtual tables and those that SQLite keeps for them are left out: they say in their own
way what stands in the others. Called by the rebuild, which compares, and by whoever wants to see that two folds agree.
"""

from __future__ import annotations

import hashlib
from itertools import starmap, zip_longest
from operator import ne
from typing import TYPE_CHECKING

import msgspec

from taskbus_projections.database import explained

if TYPE_CHECKING:
    import sqlite3
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


def differing(one: Database, other: Database) -> list[str]:
    """The tables whose rows are not the same in both, by name: in one pass, at a fraction of what digests cost."""
    tables = [dict(_tables(each)) for each in (one, other)]
    found = set(tables[0]) ^ set(tables[1])
    for table in set(tables[0]) & set(tables[1]):
        rows = (_select(each, table) for each in (one, other))
        if any(starmap(ne, zip_longest(*rows))):
            found.add(table)
    return sorted(found)


def _tables(database: Database) -> list[tuple[str, str]]:
    found: list[tuple[str, str]] = database.connection.execute(
        "SELECT name, sql FROM sqlite_master WHERE name IN (SELECT name FROM pragma_table_list "
        "WHERE schema = 'main' AND type = 'table') AND name NOT LIKE 'sqlite%' AND name <> 'unfinished' ORDER BY name"
    ).fetchall()
    return found


def _select(database: Database, table: str) -> sqlite3.Cursor:
    keys = database.connection.execute(
        "SELECT name FROM pragma_table_info(?) WHERE pk ORDER BY pk", (table,)
    ).fetchall()
    order = ", ".join(f'"{column}"' for (column,) in keys) or "rowid"
    return database.connection.execute(f'SELECT * FROM "{table}" ORDER BY {order}')  # noqa: S608 - our own names


def _rows(database: Database, table: str) -> Iterator[bytes]:
    for row in _select(database, table):
        yield msgspec.json.encode(row) + b"\n"
