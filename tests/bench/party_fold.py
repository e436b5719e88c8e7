"""Folds a whole log into a new database, or writes the rows of a folded one with nothing but executemany.

Arguments: URL, namespace, folder. Each command answers with its seconds, and with the peak of its process's memory.
"""

from __future__ import annotations

import asyncio
import resource
import sqlite3
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from parties import attend

from taskbus import codec
from taskbus.client import Bus
from taskbus.connection import Connection
from taskbus_projections.database import Database
from taskbus_projections.rebuilding import rebuild
from taskbus_projections.registry import BUILTIN
from taskbus_projections.texts import spoken

CHUNK = 10_000
Rows = list[tuple[Any, ...]]


def peak() -> int:
    """The most memory that this process has had, in bytes."""
    status = Path("/proc/self/status")
    if status.exists():
        # What Linux says in ru_maxrss begins with that of the process which started this one.
        (line,) = [line for line in status.read_text(encoding="ascii").splitlines() if line.startswith("VmHWM")]
        return int(line.split()[1]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


async def main(url: str, namespace: str, folder: str) -> None:
    """Wait for commands."""
    folded, bare = Path(folder) / "folded.db", Path(folder) / "bare.db"
    async with Connection.open(url) as connection:
        bus = Bus(connection, namespace)

        async def fold(_number: int) -> dict[str, float]:
            start, began = peak(), time.perf_counter()
            done = await rebuild(bus, folded, BUILTIN)
            seconds = time.perf_counter() - began
            return {"seconds": seconds, "start": start, "peak": peak(), "folded": done.checkpoint.folded}

        async def write(_number: int) -> dict[str, float]:
            return written(folded, bare, namespace)

        async def write_new(_number: int) -> dict[str, float]:
            return written(folded, bare.with_name("new.db"), namespace, new=True)

        await attend({"fold": fold, "write": write, "write_new": write_new})


def written(folded: Path, bare: Path, namespace: str, *, new: bool = False) -> dict[str, float]:
    """The same rows into the same tables, in as few and as large steps as a program would that has them all.

    With `new` it does what a rebuild does, too: indexes at the end, and no waiting for the disk.
    """
    seconds, count = 0.0, 0
    with (
        Database.read(folded, namespace, BUILTIN) as source,
        Database.open(bare, namespace, BUILTIN, new=new) as target,
    ):
        # As seldom as the rebuild does it: most pages are written once.
        target.connection.execute("PRAGMA wal_autocheckpoint = 8192")
        for sql, rows in contents(source.connection):
            began = time.perf_counter()
            target.connection.execute("BEGIN IMMEDIATE")
            target.connection.executemany(sql, rows)
            target.connection.execute("COMMIT")
            seconds += time.perf_counter() - began
            count += len(rows)
        began = time.perf_counter()
        target.complete()
        seconds += time.perf_counter() - began
    return {"seconds": seconds, "rows": count}


def contents(database: sqlite3.Connection) -> Iterator[tuple[str, Rows]]:
    """All rows of the read models, a chunk at a time, in an order that the foreign keys allow."""
    tables = database.execute(
        "SELECT s.name FROM sqlite_master AS s JOIN pragma_table_list AS l USING (name) WHERE l.type = 'table' "
        "AND l.schema = 'main' AND name NOT LIKE 'sqlite%' AND name NOT IN ('bus', 'read_models') ORDER BY s.rowid"
    ).fetchall()
    for (table,) in tables:
        rows = database.execute(f"SELECT * FROM {table}")
        marks = ", ".join("?" * len(rows.description))
        while chunk := rows.fetchmany(CHUNK):
            yield f"INSERT INTO {table} VALUES ({marks})", chunk
            if table == "events":
                yield "INSERT INTO texts (rowid, text) VALUES (?, ?)", texts(rows.description, chunk)


def texts(description: Any, chunk: Rows) -> Rows:
    """What the full-text search has of some rows of `events`."""
    names = [column[0] for column in description]
    n, body, kind = (names.index(name) for name in ("n", "body", "content_type"))
    return [(row[n], spoken(codec.decode(row[body], row[kind]))) for row in chunk]


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
