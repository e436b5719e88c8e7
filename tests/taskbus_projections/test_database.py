"""The database: how it is made and opened, and what it refuses to be."""

from __future__ import annotations

import re
import sqlite3
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import pytest

from taskbus.errors import NotFound, ProjectionStopped, TimedOut
from taskbus.position import Position
from taskbus_projections import database as module
from taskbus_projections.database import OWN, SCHEMA, Checkpoint, Database, Outdated, place
from taskbus_projections.registry import BUILTIN
from taskbus_projections.tasks import Tasks

NAMESPACE = "shop:"


@pytest.fixture
def path(tmp_path):
    """Where the database of the namespace belongs."""
    return place(tmp_path, NAMESPACE)


@pytest.fixture
def made(path):
    """A database that is there, and closed."""
    with Database.open(path, NAMESPACE, BUILTIN):
        pass
    return path


def written(path, *statements):
    """Change a database past this package."""
    with closing(sqlite3.connect(path)) as connection, connection:
        for statement in statements:
            connection.execute(statement)


def test_each_namespace_has_a_file_of_its_own():
    """No two namespaces share a file, whatever stands in their names, nor one with a file beside another."""
    names = ["a:", "a:b:", "a_b:", "a.b:", "a-b:", "a.new:", "a.db:", "a.lock:", "A:"]
    files = {place(Path("/home"), name).name for name in names}
    assert len(files) == len(names)
    assert all(file.endswith(".db") for file in files)


def test_a_new_database_is_empty_and_only_its_users(path):
    """Its checkpoint is before the first envelope; its folder can be read by nobody else."""
    with Database.open(path, NAMESPACE, BUILTIN) as database:
        assert database.checkpoint() == Checkpoint()
        assert database.query("SELECT count(*) AS n FROM tasks") == [{"n": 0}]
    assert path.parent.stat().st_mode & 0o777 == 0o700


def test_every_table_is_strict_and_every_column_documented(made):
    """The comment behind a column is its documentation, and the database carries it to whoever opens it."""
    with Database.read(made, NAMESPACE, BUILTIN) as database:
        tables = database.query(
            "SELECT name, sql FROM sqlite_master WHERE name NOT LIKE 'sqlite%'"
            " AND name IN (SELECT name FROM pragma_table_list WHERE type = 'table')"
        )
        assert {row["name"] for row in tables} >= {*OWN, "tasks", "events", "usage"}
        for row in tables:
            assert re.search(r"\) STRICT(, WITHOUT ROWID)?\s*\Z", row["sql"]), row["name"]
            for column in database.query("SELECT name FROM pragma_table_info(?)", [row["name"]]):
                assert re.search(rf"^\s*{column['name']} [A-Z].*-- \S", row["sql"], re.MULTILINE), column


def test_processes_that_make_it_at_once_make_one(path):
    """Whoever comes second finds it made; none fails because another is making it."""

    def make(_):
        with Database.open(path, NAMESPACE, BUILTIN) as database:
            return database.inode

    with ThreadPoolExecutor(8) as threads:
        assert len(set(threads.map(make, range(16)))) == 1


def test_a_transaction_that_fails_leaves_nothing(made):
    """Rows and checkpoint come back together."""
    with Database.open(made, NAMESPACE, BUILTIN) as database:

        def half_done():
            with database.transaction():
                database.move(Checkpoint(Position(0, 5, 1), "id", 1))
                database.connection.execute("INSERT INTO read_models VALUES ('other', 1)")
                raise ZeroDivisionError

        with pytest.raises(ZeroDivisionError):
            half_done()
        assert database.checkpoint() == Checkpoint()
        assert len(database.query("SELECT name FROM read_models")) == len(BUILTIN)


def test_the_checkpoint_is_kept_exactly(made):
    """Position, envelope and count come back, also from a connection that only reads."""
    checkpoint = Checkpoint(Position(0, 1763625600000, 7), "some-id", 12, b"head")
    with Database.open(made, NAMESPACE, BUILTIN) as database, database.transaction():
        database.move(Checkpoint(Position(0, 1, 1), "older", 1))
        database.move(checkpoint)
    with Database.read(made, NAMESPACE, BUILTIN) as database:
        assert database.checkpoint() == checkpoint


def test_several_queries_of_a_snapshot_see_one_state(made):
    """What is committed in between is not seen until the snapshot ends."""
    count = "SELECT count(*) AS n FROM read_models"
    with Database.read(made, NAMESPACE, BUILTIN) as database:
        with database.snapshot():
            assert database.query(count) == [{"n": len(BUILTIN)}]
            written(made, "INSERT INTO read_models VALUES ('other', 1)")
            assert database.query(count) == [{"n": len(BUILTIN)}]
        assert database.query(count) == [{"n": len(BUILTIN) + 1}]


def test_reading_changes_nothing(made):
    """A connection for reading cannot write."""
    with Database.read(made, NAMESPACE, BUILTIN) as database, pytest.raises(ProjectionStopped, match="readonly"):
        database.query("INSERT INTO bus VALUES ('x:') RETURNING namespace")


def test_there_is_nothing_to_read_before_it_is_made(path):
    """A query without a server says what would make the database; so also while another process makes it."""
    with (
        pytest.raises(NotFound, match="no projection of shop: yet") as missing,
        Database.read(path, NAMESPACE, BUILTIN),
    ):
        pass
    assert "--no-sync" in missing.value.advice
    path.parent.mkdir(parents=True)
    path.touch()
    with pytest.raises(NotFound), Database.read(path, NAMESPACE, BUILTIN):
        pass
    assert not path.read_bytes()


@pytest.mark.parametrize("way", [Database.open, Database.read])
def test_another_namespace_is_refused(made, way):
    """Two logs are never mixed."""
    with pytest.raises(ProjectionStopped, match="holds the namespace shop:, not cart:"), way(made, "cart:", BUILTIN):
        pass


@pytest.mark.parametrize("way", [Database.open, Database.read])
def test_another_programs_database_is_refused_and_left_alone(path, way):
    """Nothing is changed in a file that is not ours, not even its journal mode."""
    path.parent.mkdir(parents=True)
    written(path, "CREATE TABLE precious (id)")
    before = path.read_bytes()
    with pytest.raises(ProjectionStopped, match="not from taskbus"), way(path, NAMESPACE, BUILTIN):
        pass
    assert path.read_bytes() == before


@pytest.mark.parametrize("way", [Database.open, Database.read])
def test_what_is_no_database_is_refused(path, way):
    """A broken file says that a rebuild makes it anew."""
    path.parent.mkdir(parents=True)
    path.write_bytes(b"not a database at all, but long enough to be read as one" * 100)
    with pytest.raises(ProjectionStopped, match="cannot be read") as broken, way(path, NAMESPACE, BUILTIN):
        pass
    assert "bus rebuild" in broken.value.advice


def test_a_folder_that_cannot_be_used_is_refused(tmp_path):
    """What the file system says is said, with what to do."""
    (tmp_path / "projections").touch()
    path = place(tmp_path, NAMESPACE)
    with pytest.raises(ProjectionStopped, match="cannot be used") as refused, Database.open(path, NAMESPACE, BUILTIN):
        pass
    assert "BUS_HOME" in refused.value.advice
    (tmp_path / "projections").unlink()
    path.mkdir(parents=True)
    with pytest.raises(ProjectionStopped, match="cannot be used"), Database.open(path, NAMESPACE, BUILTIN):
        pass


class NewerTasks(Tasks):
    """The same read model after a change."""

    version = Tasks.version + 1


@pytest.mark.parametrize("way", [Database.open, Database.read])
def test_older_read_models_are_outdated(made, way):
    """A read model that was changed, or added, asks for a rebuild."""
    with (
        pytest.raises(Outdated, match=f"tasks is of version {Tasks.version}, and here version {NewerTasks.version}"),
        way(made, NAMESPACE, tuple(NewerTasks if model is Tasks else model for model in BUILTIN)),
    ):
        pass
    written(made, "DELETE FROM read_models WHERE name = 'usage'")
    with pytest.raises(Outdated, match="usage is missing") as outdated, way(made, NAMESPACE, BUILTIN):
        pass
    assert "bus rebuild" in outdated.value.advice


@pytest.mark.parametrize(
    ("statement", "reason"),
    [
        ("UPDATE read_models SET version = 99 WHERE name = 'tasks'", r"version 99, and here version \d is installed"),
        ("INSERT INTO read_models VALUES ('theirs', 1)", "theirs is of version 1, and here it is not installed"),
        ("PRAGMA user_version = 99", f"tables are of version 99, here of {SCHEMA}"),
    ],
)
def test_newer_read_models_are_not_taken_back(made, statement, reason):
    """An older installation does not rebuild by itself what a newer one has made: they would do so in turns."""
    written(made, statement)
    with pytest.raises(ProjectionStopped, match=reason) as refused, Database.open(made, NAMESPACE, BUILTIN):
        pass
    assert not isinstance(refused.value, Outdated)


def test_an_older_schema_is_outdated(made):
    """A change of the tables around the read models asks for a rebuild, too."""
    written(made, "PRAGMA user_version = 0")
    with pytest.raises(Outdated, match="tables are of version 0"), Database.open(made, NAMESPACE, BUILTIN):
        pass


def test_a_writer_that_never_ends_is_not_waited_for_forever(made, monkeypatch):
    """Whoever waits for another writer is told so in the end."""
    monkeypatch.setattr(module, "PATIENCE", 0.05)
    with closing(sqlite3.connect(made, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(TimedOut, match="has been writing"), Database.open(made, NAMESPACE, BUILTIN):
            pass


def test_what_the_caller_raises_is_not_explained(made):
    """An error of the block's own passes through as it is, and the database is closed."""
    with pytest.raises(OSError, match="theirs"), Database.open(made, NAMESPACE, BUILTIN) as database:
        raise OSError("theirs")
    with pytest.raises(sqlite3.ProgrammingError, match="closed"):
        database.connection.execute("SELECT 1")
