"""The schema: what tables, views and columns there are, and what each of them means.

Read from the comments in the statements that make them: they stand in every database too, for whoever opens it with
other programs. Called by the command, which prints it, and by the tests, which refuse what nobody has explained.
"""

from __future__ import annotations

import re
import sqlite3
from contextlib import closing
from typing import TYPE_CHECKING, Final, NamedTuple

from taskbus_projections.database import TABLES

if TYPE_CHECKING:
    from taskbus_projections.registry import Models

ENGINE: Final = "-"
"""Stands for the read model of the tables that are no read model's."""
_SQL: Final = """
    SELECT list.name, list.type, master.sql FROM pragma_table_list AS list JOIN sqlite_master AS master USING (name)
    WHERE list.type <> 'shadow' ORDER BY master.rowid
"""


class Column(NamedTuple):
    """A column: its type, empty in a view; whether it is in the primary key; to what it refers; and what it means."""

    name: str
    type: str
    key: bool
    refers: str | None
    meaning: str


class Table(NamedTuple):
    """A table or a view: which read model makes it, what its rows are, and its columns.

    `kind` is table, view or search; a search is a virtual table of SQLite's FTS5.
    """

    name: str
    kind: str
    model: str
    meaning: str
    columns: tuple[Column, ...]


def tables(models: Models) -> list[Table]:
    """All tables and views of a database with these read models, in the order in which they are made."""
    with closing(sqlite3.connect(":memory:")) as made:
        found: dict[str, Table] = {}
        for model, script in ((ENGINE, TABLES), *((model.name, model.tables) for model in models)):
            made.executescript(script)
            for name, kind, sql in made.execute(_SQL).fetchall():
                if name not in found:
                    found[name] = _table(made, name, kind, model, sql)
    return list(found.values())


def _table(made: sqlite3.Connection, name: str, kind: str, model: str, sql: str) -> Table:
    quoted = name.replace('"', '""')
    refers = {row[3]: f"{row[2]}.{row[4]}" for row in made.execute(f'PRAGMA foreign_key_list("{quoted}")')}
    columns = tuple(
        Column(column, type if kind == "table" else "", bool(key), refers.get(column), _meaning(column, sql))
        for _, column, type, _, _, key in made.execute(f'PRAGMA table_info("{quoted}")')
    )
    first = re.search(r"\A[^\n]*(?:\(|\bAS) *-- (\S.*)", sql)
    return Table(name, {"virtual": "search"}.get(kind, kind), model, first[1].rstrip() if first else "", columns)


def _meaning(column: str, sql: str) -> str:
    """The comment behind a column: behind its definition, or behind its name in the list of a view."""
    name = re.escape(column)
    found = re.search(rf"^[^\S\n]*{name}[ ,][^\n]*-- (\S.*)|\b{name},? -- (\S.*)", _body(sql), re.MULTILINE)
    return (found[1] or found[2]).rstrip() if found else ""


def _body(sql: str) -> str:
    return sql.partition("\n")[2]
