"""The rebuild: the log folded anew from its beginning, while everybody goes on with the old database.

It folds into a new file beside the old one, compares the two, and swaps the new one in. The swap is one
transaction of SQLite (its backup, within WAL), not a rename: a renamed file would leave the old one's
write-ahead log beside the new one, and whoever has the database open would never see the new rows. So readers
see the old rows or the new ones, and a process that dies on the way leaves the old ones.
"""

from __future__ import annotations

import fcntl
import sqlite3
import time
from contextlib import asynccontextmanager, closing
from typing import TYPE_CHECKING, Final, NamedTuple

import anyio
from anyio import to_thread

from taskbus.errors import NotFound, ProjectionStopped, TimedOut
from taskbus_projections import dump
from taskbus_projections.database import (
    APPLICATION,
    OWN,
    PAGE_SIZE,
    PATIENCE,
    Checkpoint,
    Database,
    Outdated,
    explained,
    make_folder,
)
from taskbus_projections.projector import Projector

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable
    from pathlib import Path

    from taskbus.client import Bus
    from taskbus_projections.projector import Progress
    from taskbus_projections.registry import Models

_TRIES: Final = 3


class Rebuilt(NamedTuple):
    """What a rebuild did: the checkpoint, and the tables whose rows were not what the log says.

    `changed` is None where there was nothing to compare with: no old database, other read models, another
    log.
    """

    checkpoint: Checkpoint
    changed: tuple[str, ...] | None


async def up_to_date(
    bus: Bus,
    path: Path,
    models: Models,
    *,
    on_commit: Callable[[Progress], None] | None = None,
    on_rebuild: Callable[[str], None] | None = None,
) -> Checkpoint:
    """Catch up with the log; where the read models have changed, by a rebuild, after telling `on_rebuild`
    why.

    Raises what `Projector.catch_up` and `Database.open` raise.
    """
    try:
        with Database.open(path, bus.namespace, models) as database:
            return await Projector(bus, database).catch_up(on_commit=on_commit)
    except Outdated as error:
        if on_rebuild:
            on_rebuild(error.message)
        return (await _rebuild(bus, path, models, on_commit, again=False)).checkpoint


async def rebuild(
    bus: Bus, path: Path, models: Models, *, on_commit: Callable[[Progress], None] | None = None
) -> Rebuilt:
    """Fold the whole log into a new database and swap it in; the old one may be broken, outdated or missing.

    Of several rebuilds of one database, one works and the others wait. Cancelled or failed, it leaves the old
    database as it was. Raises ProjectionStopped.
    """
    return await _rebuild(bus, path, models, on_commit, again=True)


async def _rebuild(
    bus: Bus, path: Path, models: Models, on_commit: Callable[[Progress], None] | None, *, again: bool
) -> Rebuilt:
    with explained(path):
        make_folder(path)
    new = path.with_name(f"{path.name}.new")
    changed = None
    async with _alone(path):
        if again or _outdated(path, bus.namespace, models):
            _clear(path)
            _remove(new)
            try:
                with Database.open(new, bus.namespace, models, scratch=True) as database:
                    projector = Projector(bus, database)
                    changed = await _compared(projector, path, database, on_commit)
                    await projector.catch_up(on_commit=on_commit)
                await to_thread.run_sync(_swap, new, path)
            finally:
                _remove(new)
    with Database.open(path, bus.namespace, models) as database:
        return Rebuilt(await Projector(bus, database).catch_up(on_commit=on_commit), changed)


async def _compared(
    projector: Projector, path: Path, new: Database, on_commit: Callable[[Progress], None] | None
) -> tuple[str, ...] | None:
    """Fold up to the old database's checkpoint, and name the tables that differ; None where unknown."""
    try:
        for _ in range(_TRIES):
            with Database.read(path, new.namespace, new.models) as old:
                checkpoint = old.checkpoint()
                if await projector.catch_up(until=checkpoint.position, on_commit=on_commit) != checkpoint:
                    return None
                with old.snapshot():
                    if old.checkpoint() == checkpoint:
                        before = await to_thread.run_sync(dump.digests, old)
                        after = await to_thread.run_sync(dump.digests, new)
                        return tuple(
                            sorted(name for name in after if name not in OWN and before.get(name) != after[name])
                        )
    except (NotFound, ProjectionStopped, sqlite3.Error):
        return None  # there is no old one, or it cannot be read: that may be why it is rebuilt
    return None


def _outdated(path: Path, namespace: str, models: Models) -> bool:
    try:
        with Database.read(path, namespace, models):
            return False
    except Outdated:
        return True


def _swap(new: Path, path: Path) -> None:
    deadline = time.monotonic() + PATIENCE

    def patience(status: int, _remaining: int, _total: int) -> None:
        if status != sqlite3.SQLITE_OK and time.monotonic() > deadline:
            message = f"Another process has been writing to {path} for more than {PATIENCE:g} s."
            raise TimedOut(message, advice="End it, then rebuild again; the old database is as it was.")

    with explained(path), closing(sqlite3.connect(new)) as source, closing(sqlite3.connect(path)) as target:
        target.execute(f"PRAGMA page_size = {PAGE_SIZE}")
        target.execute("PRAGMA journal_mode = WAL")
        source.backup(target, pages=4096, progress=patience, sleep=0.02)
        target.execute("PRAGMA wal_checkpoint(TRUNCATE)")


def _clear(path: Path) -> None:
    """Remove what cannot be read as a database; refuse what is another program's."""
    if not path.exists():
        return
    with explained(path), closing(sqlite3.connect(path)) as found:
        try:
            (application,) = found.execute("PRAGMA application_id").fetchone()
            (tables,) = found.execute("SELECT count(*) FROM sqlite_master").fetchone()
            (page_size,) = found.execute("PRAGMA page_size").fetchone()
        except sqlite3.DatabaseError as error:
            if error.sqlite_errorcode & 0xFF not in (sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_CORRUPT):
                raise
            _remove(path)
            return
    if tables and application != APPLICATION:
        message = f"{path} is a database, but not from taskbus."
        raise ProjectionStopped(message, advice="Move it away, or choose another BUS_HOME.")
    if page_size != PAGE_SIZE:
        _remove(path)  # a swap is a copy page by page


def _remove(path: Path) -> None:
    with explained(path):
        for suffix in ("", "-wal", "-shm", "-journal"):
            path.with_name(path.name + suffix).unlink(missing_ok=True)


@asynccontextmanager
async def _alone(path: Path) -> AsyncGenerator[None]:
    """One rebuild of this database at a time; the lock ends with the process, however that ends."""
    with explained(path):
        lock = path.with_name(f"{path.name}.lock").open("w")
    with lock:
        while True:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                await anyio.sleep(0.05)
        yield
