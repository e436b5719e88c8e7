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
from taskbus_projections import database as database_module
from taskbus_projections import dump, projector, rebuilding, swapping
from taskbus_projections.database import Checkpoint, Database
from taskbus_projections.model import ReadModel
from taskbus_projections.projector import Projector
from taskbus_projections.rebuilding import rebuild, up_to_date
from taskbus_projections.registry import BUILTIN
from taskbus_projections.tasks import Tasks
from tests import entries
from tests.taskbus_projections import folding
from tests.taskbus_projections.stories import story

pytestmark = pytest.mark.anyio


class NewerTasks(Tasks):
    """The read model after a change of its tables."""

    version = Tasks.version + 1
    tables = Tasks.tables.replace("goal TEXT NOT NULL,", "goal TEXT NOT NULL CHECK (goal <> ''),")


NEWER = tuple(NewerTasks if model is Tasks else model for model in BUILTIN)


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
        if file.name not in (path.name, f"{path.name}.lock") and not file.name.endswith(("-wal", "-shm", "-journal"))
    )


async def test_a_rebuild_of_a_sound_database_changes_nothing(bus, path):
    """The new rows are compared with the old ones, and nothing is left beside the database."""
    before = await folded(bus, path, 1, 150)
    checkpoint, difference, _ = await rebuild(bus, path, BUILTIN)
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
    checkpoint, difference, _ = await rebuild(bus, path, BUILTIN)
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


async def test_an_empty_file_is_left_to_whoever_is_about_to_fill_it(bus, path):
    """Another process has just made it: it is not taken away from under it, and the rebuild goes into it."""
    path.parent.mkdir(parents=True)
    path.touch()
    inode = path.stat().st_ino
    swapping.clear(path)
    assert path.stat().st_ino == inode
    await bus.publish_many(list(story(7, 30)))
    assert (await rebuild(bus, path, BUILTIN)).checkpoint.folded == 30
    assert path.stat().st_ino == inode
    with closing(sqlite3.connect(path)) as made:
        assert made.execute("PRAGMA page_size").fetchone() == (database_module.PAGE_SIZE,)


async def test_a_database_that_is_made_while_it_is_looked_at_is_left_alone(bus, path, monkeypatch):
    """What stands in the file is asked for in several statements; all answers are of one moment."""

    def make():
        with Database.open(path, bus.namespace, BUILTIN):
            pass

    makers = []

    class Looking(sqlite3.Connection):
        def execute(self, statement, *parameters):
            if "sqlite_master" in statement:
                makers.append(threading.Thread(target=make))
                makers[0].start()
                makers[0].join(0.5)
            return super().execute(statement, *parameters)

    path.parent.mkdir(parents=True)
    path.touch()
    connect = sqlite3.connect

    def looking(*arguments, **options):
        return connect(*arguments, **options) if makers else connect(*arguments, factory=Looking)

    monkeypatch.setattr(sqlite3, "connect", looking)
    swapping.clear(path)
    makers[0].join()
    with Database.read(path, bus.namespace, BUILTIN) as made:
        assert made.checkpoint() == Checkpoint()


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
    assert f"version {NewerTasks.version} is installed" in said[0]
    await folding_anew_is_the_same(bus, path, NEWER)
    with pytest.raises(ProjectionStopped, match="other read models"):
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
    """Of ten thousand reads each sees one whole state, never an empty or half a database; a projector loses nothing."""
    envelopes = list(story(9, 600))
    await bus.publish_many(envelopes[:200])
    await up_to_date(bus, path, BUILTIN)
    stop, torn, reads = threading.Event(), [], [0] * 3

    def read(reader):
        with Database.read(path, bus.namespace, BUILTIN) as database:
            while not stop.is_set() or sum(reads) < 10_000:
                with database.snapshot():
                    rows = database.connection.execute(
                        "SELECT (SELECT folded FROM checkpoint), (SELECT count(*) FROM events),"
                        " (SELECT max(n) FROM events), (SELECT sum(envelopes) FROM tasks),"
                        " (SELECT version FROM read_models WHERE name = 'tasks')"
                    ).fetchone()
                    (heads,) = database.connection.execute(
                        "SELECT (SELECT head FROM checkpoint) = (SELECT link FROM events ORDER BY n DESC LIMIT 1)"
                    ).fetchone()
                reads[reader] += 1
                if rows != (rows[0], rows[0], rows[0], rows[0], Tasks.version) or rows[0] < 200 or not heads:
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
    assert sum(reads) >= 10_000
    assert min(reads) > 20
    await folding_anew_is_the_same(bus, path, BUILTIN)


class Extra(ReadModel):
    """A read model that comes and goes."""

    name = "extra"
    version = 1
    tables = "CREATE TABLE extra (n INTEGER PRIMARY KEY) STRICT"

    def fold(self, fact):
        """Keep the number."""
        self.database.execute("INSERT INTO extra VALUES (?)", (fact.n,))


async def test_readers_see_the_old_read_models_or_the_new(bus, path):
    """While a read model comes and goes: tables, versions and rows belong together in every read."""
    await folded(bus, path, 15, 150)
    stop, torn, seen = threading.Event(), [], set()

    def read():
        with closing(sqlite3.connect(path, isolation_level=None)) as database:
            while not stop.is_set():
                database.execute("BEGIN")
                (recorded,) = database.execute("SELECT count(*) FROM read_models WHERE name = 'extra'").fetchone()
                (there,) = database.execute("SELECT count(*) FROM sqlite_master WHERE name = 'extra'").fetchone()
                (rows,) = database.execute("SELECT count(*) FROM extra").fetchone() if there else (0,)
                (events,) = database.execute("SELECT count(*) FROM events").fetchone()
                database.execute("ROLLBACK")
                seen.add(there)
                if (recorded, there, rows, events) not in ((0, 0, 0, 150), (1, 1, 150, 150)):
                    torn.append((recorded, there, rows, events))

    reader = threading.Thread(target=read)
    reader.start()
    try:
        for models in (*((*BUILTIN, Extra), BUILTIN) * 3, (*BUILTIN, Extra)):
            await rebuild(bus, path, models)
    finally:
        stop.set()
        reader.join()
    assert torn == []
    assert seen == {0, 1}


async def test_a_cancelled_rebuild_leaves_the_old_database(bus, path, monkeypatch):
    """The next rebuild goes on where it was, compares all of it, and leaves nothing beside the database."""
    monkeypatch.setattr(projector, "BULK", 100)
    before = await folded(bus, path, 10, 300)
    told = []

    def cancel(progress):
        told.append(progress.checkpoint)
        scope.cancel()

    with anyio.CancelScope() as scope:
        await rebuild(bus, path, BUILTIN, on_commit=cancel)
    assert scope.cancelled_caught
    assert digest(path, bus.namespace) == before
    assert beside(path) == [f"{path.name}.new"]
    done = await rebuild(bus, path, BUILTIN, on_commit=lambda progress: told.append(progress.checkpoint))
    assert (done.begun, done.changed, done.checkpoint.folded) == (told[0], (), 300)
    assert 0 < told[0].folded < told[1].folded
    assert beside(path) == []


async def test_a_rebuild_that_fails_leaves_the_old_database(bus, path):
    """An envelope that cannot be folded stops the rebuild with its position, and the old rows stay."""
    before = await folded(bus, path, 11, 30)
    position = await bus.connection.execute("XADD", bus.keys.log, "*", *entries.words(body="{"))
    with pytest.raises(ProjectionStopped) as stopped:
        await rebuild(bus, path, BUILTIN)
    assert stopped.value.position == position.decode()
    assert digest(path, bus.namespace) == before
    await bus.connection.execute("XDEL", bus.keys.log, position)
    assert (await rebuild(bus, path, BUILTIN)).begun.folded == 30
    assert beside(path) == []


REBUILD = """
import asyncio, os, signal, sqlite3, sys
from pathlib import Path
from taskbus.client import Bus
from taskbus.connection import Connection
from taskbus_projections import projector, swapping
from taskbus_projections.rebuilding import rebuild
from tests.taskbus_projections import folding

class Dying(sqlite3.Connection):
    def backup(self, target, **terms):
        super().backup(target, **{**terms, "pages": 5, "progress": self.die})

    def die(self, _status, left, total):
        if left < total / 2:
            os.kill(os.getpid(), signal.SIGKILL)

class Swapping:
    Error = sqlite3.Error
    SQLITE_OK = sqlite3.SQLITE_OK
    connect = staticmethod(lambda path: sqlite3.connect(path, factory=Dying))

async def main(url, namespace, path, at):
    projector.BULK = 20
    if at == "swap":
        swapping.sqlite3 = Swapping
    elif at == "complete":
        folding.Deadly.complete = lambda self: os.kill(os.getpid(), signal.SIGKILL)
    else:
        folding.Deadly.at = int(at)
    async with Connection.open(url) as connection:
        done = await rebuild(Bus(connection, namespace), Path(path), folding.MODELS)
        print(done.begun.folded, done.checkpoint.folded, done.changed)

asyncio.run(main(*sys.argv[1:]))
"""


async def test_a_rebuild_that_is_killed_goes_on_where_it_was(bus, path, valkey):
    """Wherever SIGKILL hits it: the old rows stay, the next one goes on from the last transaction, and all is right."""
    await bus.publish_many(story(12, 200))
    await up_to_date(bus, path, folding.MODELS)
    before = digest(path, bus.namespace, folding.MODELS)
    ends = [(30, 20), (75, 60), (76, 60), (150, 140), (200, 180), ("complete", 200), ("swap", 200)]
    for at, left in ends:
        assert (await killed(valkey, bus.namespace, path, at)).returncode == -signal.SIGKILL
        assert f"{path.name}.new" in beside(path)
        assert digest(path, bus.namespace, folding.MODELS) == before
        with closing(sqlite3.connect(path.with_name(f"{path.name}.new"))) as new:
            assert new.execute("SELECT folded FROM checkpoint").fetchone() == (left,)
    done = await killed(valkey, bus.namespace, path, 0)
    assert done.stdout == b"200 200 ()\n"
    assert beside(path) == []
    assert digest(path, bus.namespace, folding.MODELS) == before


async def test_what_another_log_left_is_no_beginning(bus, path, valkey):
    """A rebuild that was interrupted before the log began anew is not gone on with."""
    await bus.publish_many(story(16, 100))
    assert (await killed(valkey, bus.namespace, path, 90)).returncode == -signal.SIGKILL
    await bus.connection.execute("DEL", bus.keys.log, bus.keys.index, bus.keys.meta)
    await bus.publish_many(story(17, 50))
    assert (await killed(valkey, bus.namespace, path, 0)).stdout == b"0 50 None\n"


async def test_what_a_crash_of_the_machine_has_left_is_no_beginning(bus, path, valkey, monkeypatch):
    """While it is made, nothing is forced to the disk: after the machine was started anew, it begins afresh."""
    await bus.publish_many(story(20, 100))
    assert (await killed(valkey, bus.namespace, path, 90)).returncode == -signal.SIGKILL
    monkeypatch.setattr(database_module, "_boot", lambda: "another start")
    assert (await rebuild(bus, path, folding.MODELS)).begun.folded == 0


async def killed(url, namespace, path, at):
    """Run a rebuild of its own that kills itself at an envelope, at its completion, or in the middle of the swap."""
    return await anyio.run_process(
        [sys.executable, "-c", REBUILD, url, namespace, path, str(at)],
        check=False,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )


class Endless(ReadModel):
    """A read model whose completion never ends by itself."""

    name = "endless"
    version = 1
    tables = "CREATE TABLE endless (n INTEGER PRIMARY KEY) STRICT"
    begun = threading.Event()

    def complete(self):
        """Count to infinity."""
        self.begun.set()
        self.database.execute("WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT count(*) FROM n")


async def test_a_rebuild_can_be_cancelled_at_any_moment(bus, path):
    """Also within one long statement of SQLite, which is interrupted and rolled back."""
    await bus.publish_many(story(18, 50))
    Endless.begun.clear()
    async with anyio.create_task_group() as together:
        together.start_soon(lambda: rebuild(bus, path, (*BUILTIN, Endless)))
        await anyio.to_thread.run_sync(Endless.begun.wait)
        together.cancel_scope.cancel()
    assert not path.exists()
    with Database.open(path.with_name(f"{path.name}.new"), bus.namespace, (*BUILTIN, Endless), new=True) as new:
        assert new.unfinished
        assert new.checkpoint().folded == 50


async def test_the_first_database_of_a_long_log_is_made_as_a_rebuild_makes_it(bus, path, monkeypatch):
    """It is the same as one that was folded as it came."""
    monkeypatch.setattr(rebuilding, "LONG", 100)
    await bus.publish_many(story(19, 150))
    told = []
    assert (await up_to_date(bus, path, BUILTIN, on_rebuild=told.append)).folded == 150
    assert told == []
    await folding_anew_is_the_same(bus, path, BUILTIN)
    with (
        Database.read(path, bus.namespace, BUILTIN) as made,
        Database.read(path.with_name("anew.db"), bus.namespace, BUILTIN) as anew,
    ):
        schemas = [each.query("SELECT name, sql FROM sqlite_master ORDER BY name") for each in (made, anew)]
        assert schemas[0] == schemas[1]


async def test_a_swap_does_not_wait_forever(bus, path, monkeypatch):
    """Against a writer that never ends it gives up, and the old database stays as it was."""
    before = await folded(bus, path, 13, 30)
    monkeypatch.setattr(swapping, "PATIENCE", 0.05)
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(TimedOut, match="has been writing"):
            await rebuild(bus, path, BUILTIN)
    assert digest(path, bus.namespace) == before
    assert (await rebuild(bus, path, BUILTIN)).begun.folded == 30
    assert beside(path) == []
