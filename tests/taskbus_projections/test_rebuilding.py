"""The rebuild: a new database beside the old one, compared, and swapped in while others read and write."""

from __future__ import annotations

import os
import signal
import sqlite3
import sys
import threading
from contextlib import closing

import anyio
import pytest

from taskbus.errors import ProjectionStopped, TimedOut
from taskbus_projections import dump, rebuilding
from taskbus_projections.database import Checkpoint, Database
from taskbus_projections.projector import Projector
from taskbus_projections.rebuilding import rebuild, up_to_date
from taskbus_projections.registry import BUILTIN
from taskbus_projections.tasks import Tasks
from tests.taskbus_projections import folding
from tests.taskbus_projections.stories import story

pytestmark = pytest.mark.anyio


class NewerTasks(Tasks):
    """The read model after a change of its tables."""

    version = 2
    tables = Tasks.tables.replace("goal TEXT NOT NULL,", "goal TEXT NOT NULL CHECK (goal <> ''),")


NEWER = (NewerTasks, *BUILTIN[1:])


async def folded(bus, path, seed, length):
    """A database with a story folded into it; its digest."""
    await bus.publish_many(story(seed, length))
    await up_to_date(bus, path, BUILTIN)
    return digest(path, bus.namespace)


def digest(path, namespace, models=BUILTIN):
    """The digest of a database's dump."""
    with Database.read(path, namespace, models) as database:
        return dump.digest(database)


def changed(path, *statements):
    """Change a database past this package."""
    with closing(sqlite3.connect(path)) as connection, connection:
        for statement in statements:
            connection.execute(statement)


def beside(path):
    """What stands beside a database, apart from what SQLite and the lock need."""
    return sorted(
        file.name
        for file in path.parent.iterdir()
        if file.name not in (path.name, f"{path.name}-wal", f"{path.name}-shm", f"{path.name}.lock")
    )


async def test_a_rebuild_of_a_sound_database_changes_nothing(bus, path):
    """The new rows are compared with the old ones, and nothing is left beside the database."""
    before = await folded(bus, path, 1, 150)
    checkpoint, difference = await rebuild(bus, path, BUILTIN)
    assert (checkpoint.folded, difference) == (150, ())
    assert digest(path, bus.namespace) == before
    assert beside(path) == []


async def test_a_rebuild_names_the_tables_that_were_not_what_the_log_says(bus, path):
    """Rows that were changed, added or removed by hand are found and made right."""
    before = await folded(bus, path, 2, 150)
    changed(path, "UPDATE tasks SET state = 'accepted', goal = 'other'", "DELETE FROM usage WHERE call = 1")
    assert (await rebuild(bus, path, BUILTIN)).changed == ("tasks", "usage")
    assert digest(path, bus.namespace) == before


async def test_without_an_old_database_there_is_nothing_to_compare(bus, path):
    """A rebuild makes the database where there is none."""
    await bus.publish_many(story(3, 50))
    checkpoint, difference = await rebuild(bus, path, BUILTIN)
    assert (checkpoint.folded, difference) == (50, None)


@pytest.mark.parametrize("how", ["no database", "cut off", "overwritten within"])
async def test_a_broken_database_is_made_anew(bus, path, how):
    """What cannot be read is no reason not to rebuild: it is why one does."""
    before = await folded(bus, path, 4, 150)
    changed(path, "PRAGMA wal_checkpoint(TRUNCATE)")
    content = path.read_bytes()
    broken = {
        "no database": b"nothing that SQLite could read" * 1000,
        "cut off": content[:10_000],
        "overwritten within": content[:20_000] + b"\xff" * (len(content) - 20_000),
    }
    path.write_bytes(broken[how])
    assert (await rebuild(bus, path, BUILTIN)).changed is None
    assert digest(path, bus.namespace) == before
    with Database.open(path, bus.namespace, BUILTIN) as database:
        assert database.query("PRAGMA integrity_check") == [{"integrity_check": "ok"}]


async def test_a_database_with_other_pages_is_made_anew(bus, path):
    """Whoever has changed the size of its pages gets a database like any other."""
    before = await folded(bus, path, 14, 60)
    changed(path, "PRAGMA journal_mode = DELETE")
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute("PRAGMA page_size = 4096")
        connection.execute("VACUUM")
    assert (await rebuild(bus, path, BUILTIN)).checkpoint.folded == 60
    assert digest(path, bus.namespace) == before


async def test_another_programs_database_is_not_overwritten(bus, path):
    """A rebuild replaces only what is ours."""
    path.parent.mkdir(parents=True)
    changed(path, "CREATE TABLE precious (id)")
    before = path.read_bytes()
    with pytest.raises(ProjectionStopped, match="not from taskbus"):
        await rebuild(bus, path, BUILTIN)
    assert path.read_bytes() == before


async def test_a_log_that_began_anew_is_folded_from_its_beginning(bus, path):
    """After the log was emptied, a rebuild is the way on."""
    await folded(bus, path, 5, 60)
    await bus.connection.execute("DEL", bus.keys.log, bus.keys.index, bus.keys.meta)
    with pytest.raises(ProjectionStopped):
        await up_to_date(bus, path, BUILTIN)
    assert (await rebuild(bus, path, BUILTIN)).checkpoint == Checkpoint()
    await bus.publish_many(story(6, 40))
    assert (await up_to_date(bus, path, BUILTIN)).folded == 40


async def test_changed_read_models_are_rebuilt_on_the_way(bus, path):
    """Whoever catches up with newer read models gets a rebuild, and is told why; once, not every time."""
    await folded(bus, path, 7, 80)
    said = []
    for _ in range(2):
        assert (await up_to_date(bus, path, NEWER, on_rebuild=said.append)).folded == 80
    assert len(said) == 1
    assert "version 2 is installed" in said[0]
    await folding_anew_is_the_same(bus, path, NEWER)
    with pytest.raises(ProjectionStopped, match="another taskbus"):
        await up_to_date(bus, path, BUILTIN)
    assert (await rebuild(bus, path, BUILTIN)).changed is None


async def folding_anew_is_the_same(bus, path, models):
    """The database is what a fold from zero gives."""
    with Database.open(path.with_name("anew.db"), bus.namespace, models) as anew:
        await Projector(bus, anew).catch_up()
        assert dump.digest(anew) == digest(path, bus.namespace, models)


async def test_rebuilds_at_once_work_one_after_the_other(bus, path):
    """Nobody who catches up with newer read models fails, and one of them does the work."""
    await folded(bus, path, 8, 200)
    said, commits = [], []

    async def catch_up():
        await up_to_date(bus, path, NEWER, on_commit=commits.append, on_rebuild=said.append)

    async with anyio.create_task_group() as together:
        for _ in range(4):
            together.start_soon(catch_up)
    assert len(said) == 4
    assert sum(progress.checkpoint.folded == 200 for progress in commits) == 1
    await folding_anew_is_the_same(bus, path, NEWER)


async def test_readers_and_writers_go_on_during_rebuilds(bus, path):
    """Readers see whole states only, never an empty or half a database; a projector beside loses nothing."""
    envelopes = list(story(9, 600))
    await bus.publish_many(envelopes[:200])
    await up_to_date(bus, path, BUILTIN)
    stop, torn, reads = threading.Event(), [], [0] * 3

    def read(reader):
        with Database.read(path, bus.namespace, BUILTIN) as database:
            while not stop.is_set():
                with database.snapshot():
                    rows = database.connection.execute(
                        "SELECT (SELECT folded FROM checkpoint), (SELECT count(*) FROM events),"
                        " (SELECT max(n) FROM events), (SELECT sum(envelopes) FROM tasks),"
                        " (SELECT version FROM read_models WHERE name = 'tasks')"
                    ).fetchone()
                reads[reader] += 1
                if rows != (rows[0], rows[0], rows[0], rows[0], 1) or rows[0] < 200:
                    torn.append(rows)

    readers = [threading.Thread(target=read, args=(reader,)) for reader in range(3)]
    for reader in readers:
        reader.start()
    try:
        with Database.open(path, bus.namespace, BUILTIN) as database:
            async with anyio.create_task_group() as following:
                following.start_soon(Projector(bus, database, page=50).follow)
                for turn in range(8):
                    await bus.publish_many(envelopes[200 + 50 * turn : 250 + 50 * turn])
                    assert (await rebuild(bus, path, BUILTIN)).changed in ((), None)
                following.cancel_scope.cancel()
            await Projector(bus, database).catch_up()
    finally:
        stop.set()
        for reader in readers:
            reader.join()
    assert torn == []
    assert min(reads) > 20
    await folding_anew_is_the_same(bus, path, BUILTIN)


async def test_a_cancelled_rebuild_leaves_the_old_database(bus, path):
    """Nothing of the new one is left, and the next rebuild begins afresh."""
    before = await folded(bus, path, 10, 300)
    with anyio.CancelScope() as scope:
        await rebuild(bus, path, BUILTIN, on_commit=lambda _: scope.cancel())
    assert scope.cancelled_caught
    assert digest(path, bus.namespace) == before
    assert beside(path) == []
    assert (await rebuild(bus, path, BUILTIN)).changed == ()


async def test_a_rebuild_that_fails_leaves_the_old_database(bus, path):
    """An envelope that cannot be folded stops the rebuild with its position, and the old rows stay."""
    before = await folded(bus, path, 11, 30)
    words = ["id", "i", "type", "status", "from", "@a", "to", "@b", "task", "t", "body", "{"]
    position = await bus.connection.execute("XADD", bus.keys.log, "*", *words)
    with pytest.raises(ProjectionStopped) as stopped:
        await rebuild(bus, path, BUILTIN)
    assert stopped.value.position == position.decode()
    assert digest(path, bus.namespace) == before
    assert beside(path) == []


REBUILD = """
import asyncio, sys
from pathlib import Path
from taskbus.client import Bus
from taskbus.connection import Connection
from taskbus_projections.rebuilding import rebuild
from tests.taskbus_projections import folding

async def main(url, namespace, path, at):
    folding.Deadly.at = int(at)
    async with Connection.open(url) as connection:
        await rebuild(Bus(connection, namespace), Path(path), folding.MODELS)

asyncio.run(main(*sys.argv[1:]))
"""


async def test_a_rebuild_that_is_killed_leaves_the_old_database(bus, path, valkey):
    """The lock ends with the process, what it left is removed by the next rebuild, and the old rows stay."""
    await bus.publish_many(story(12, 200))
    await up_to_date(bus, path, folding.MODELS)
    before = digest(path, bus.namespace, folding.MODELS)
    for at, ended in ((150, -signal.SIGKILL), (0, 0)):
        done = await anyio.run_process(
            [sys.executable, "-c", REBUILD, valkey, bus.namespace, path, str(at)],
            check=False,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        )
        assert done.returncode == ended
        assert beside(path) == ([f"{path.name}.new"] if at else [])
        assert digest(path, bus.namespace, folding.MODELS) == before


async def test_a_swap_does_not_wait_forever(bus, path, monkeypatch):
    """Against a writer that never ends it gives up, and the old database stays as it was."""
    before = await folded(bus, path, 13, 30)
    monkeypatch.setattr(rebuilding, "PATIENCE", 0.05)
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(TimedOut, match="has been writing"):
            await rebuild(bus, path, BUILTIN)
    assert digest(path, bus.namespace) == before
    assert beside(path) == []
