"""The swap: a rebuilt database takes the place of the old one, in one step, while others read and write that.

It is one transaction of SQLite (its backup, within WAL), not a rename: a renamed file would leave the old one's
write-ahead log beside the new one, and whoever has the database open would never see the new rows. Only where there is
no old one, the new one gets its name. Refuses what is another program's. Called by the rebuild.
"""

from __future__ import annotations

import asyncio
import os
import sqlite3
import threading
import time
from contextlib import closing
from typing import TYPE_CHECKING

from anyio import CancelScope, to_thread

from taskbus.errors import ProjectionStopped, TimedOut
from taskbus_projections.database import APPLICATION, PAGE_SIZE, PATIENCE, explained

if TYPE_CHECKING:
    from pathlib import Path


class Cancelled(Exception):
    """Nobody waits for the swap any more."""


async def swap(new: Path, path: Path) -> None:
    """Put the rows of `new` into `path`; readers see all of them at once. Cancelled, it leaves the old ones.

    Raises TimedOut where another process writes for too long.
    """
    if await to_thread.run_sync(_named, new, path):
        return
    cancelled = threading.Event()
    running = asyncio.ensure_future(to_thread.run_sync(_copy, new, path, cancelled))
    try:
        await asyncio.shield(running)
    except asyncio.CancelledError:
        cancelled.set()
        with CancelScope(shield=True):
            await asyncio.wait([running])
        if not running.cancelled():
            running.exception()  # that it was cancelled is no news
        raise


def _named(new: Path, path: Path) -> bool:
    """Give the new file the name, where nothing has it; whether that was so."""
    with explained(path):
        try:
            os.link(new, path)
        except FileExistsError:
            return False
        except OSError:
            return False  # a file system without links: it is copied
    return True


def _copy(new: Path, path: Path, cancelled: threading.Event) -> None:
    deadline = time.monotonic() + PATIENCE

    def patience(status: int, _remaining: int, _total: int) -> None:
        if cancelled.is_set():
            raise Cancelled
        if status != sqlite3.SQLITE_OK and time.monotonic() > deadline:
            message = f"Another process has been writing to {path} for more than {PATIENCE:g} s."
            raise TimedOut(message, advice="End it, then rebuild again; the old database is as it was.")

    with explained(path), closing(sqlite3.connect(new)) as source, closing(sqlite3.connect(path)) as target:
        target.execute(f"PRAGMA page_size = {PAGE_SIZE}")
        target.execute("PRAGMA journal_mode = WAL")
        source.backup(target, pages=4096, progress=patience, sleep=0.02)
        target.execute("PRAGMA wal_checkpoint(TRUNCATE)")


def clear(path: Path) -> None:
    """Remove what cannot be read as a database; refuse what is another program's."""
    if not path.exists():
        return
    with explained(path), closing(sqlite3.connect(path)) as found:
        try:
            found.execute("BEGIN")  # all three of one moment: another process may be making it
            (application,) = found.execute("PRAGMA application_id").fetchone()
            (tables,) = found.execute("SELECT count(*) FROM sqlite_master").fetchone()
            (page_size,) = found.execute("PRAGMA page_size").fetchone()
        except sqlite3.DatabaseError as error:
            if error.sqlite_errorcode & 0xFF not in (sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_CORRUPT):
                raise
            remove(path)
            return
    if tables and application != APPLICATION:
        message = f"{path} is a database, but not from taskbus."
        raise ProjectionStopped(message, advice="Move it away, or choose another BUS_HOME.")
    # A swap is a copy page by page. What is empty has no pages yet.
    if tables and page_size != PAGE_SIZE:
        remove(path)


def remove(path: Path) -> None:
    """Remove a database with what SQLite keeps beside it."""
    with explained(path):
        for suffix in ("", "-wal", "-shm", "-journal"):
            path.with_name(path.name + suffix).unlink(missing_ok=True)
