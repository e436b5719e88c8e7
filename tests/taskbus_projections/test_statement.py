"""Statements of one's own: what they may do, how they end, and where a mistake in them is."""

from __future__ import annotations

import signal

import pytest

from taskbus.errors import TimedOut, UsageError
from taskbus_projections.database import Database
from taskbus_projections.queries.statement import Table, ask
from taskbus_projections.registry import BUILTIN
from tests.bench.synthetic import fold
from tests.taskbus_projections.stories import story


@pytest.fixture(scope="module")
def folded(tmp_path_factory):
    """A database that was folded, open for reading and writing: it is the statement that is held back."""
    path = tmp_path_factory.mktemp("statement") / "story.db"
    with Database.open(path, "story:", BUILTIN) as database:
        fold(database, (getattr(said, "envelope", said) for said in story(5, 200)))
        yield database


@pytest.fixture
def database(folded):
    """The same within a snapshot, as a query sees it."""
    with folded.snapshot():
        yield folded


def test_rows_come_with_their_columns(database):
    """Names stand once each, values are as SQLite has them, and a limit says whether there would be more."""
    found = ask(database, "SELECT n, n AS n, 'x' AS t, NULL AS t FROM events ORDER BY n", limit=2)
    assert found == Table(("n", "n_2", "t", "t_2"), [(1, 1, "x", None), (2, 2, "x", None)], more=True)
    assert list(found.named())[1] == {"n": 2, "n_2": 2, "t": "x", "t_2": None}
    assert ask(database, "SELECT count(*) FROM events").rows == [(200,)]
    assert not ask(database, "SELECT n FROM events WHERE n < 3", limit=2).more
    assert ask(database, "SELECT n FROM events WHERE n < 0") == Table(("n",), [])


@pytest.mark.parametrize(
    ("value", "kind"), [(5, "integer"), (0.5, "real"), ("5", "text"), (None, "null"), (b"\0", "blob")]
)
def test_parameters_are_values_and_never_text_of_the_statement(database, value, kind):
    """They keep their types; a value cannot end the statement that it stands in."""
    assert ask(database, "SELECT :v, typeof(:v)", {"v": value}).rows == [(value, kind)]
    assert ask(database, "SELECT count(*) FROM tasks WHERE id = @v", {"v": "x' OR 1 --"}).rows == [(0,)]


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT rowid FROM texts WHERE texts MATCH 'done'",
        "WITH RECURSIVE r(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM r LIMIT 3) SELECT x FROM r",
        "SELECT name FROM pragma_table_info('tasks')",
        "PRAGMA table_info(tasks)",
        "PRAGMA journal_mode",
        "PRAGMA quick_check",
        "VALUES (1, 'a')",
        "EXPLAIN QUERY PLAN SELECT * FROM open_work",
        "SELECT * FROM slowest_tasks",
        "SELECT ':not, a parameter' -- nor :this",
        'SELECT 1 AS "a:b"',
        "SELECT name FROM sqlite_master;",
    ],
)
def test_everything_can_be_read(database, sql):
    """Tables, views, the full-text search, what SQLite knows of itself."""
    assert ask(database, sql).columns


@pytest.mark.parametrize(
    "sql",
    [
        "DELETE FROM tasks",
        "UPDATE tasks SET state = 'accepted'",
        "INSERT INTO events SELECT * FROM events",
        "INSERT INTO texts (texts) VALUES ('rebuild')",
        "WITH x AS (SELECT 1) DELETE FROM tasks",
        "DROP TABLE tasks",
        "CREATE TABLE mine (a)",
        "CREATE TEMP TABLE mine (a)",
        "CREATE VIEW mine AS SELECT 1",
        "ATTACH 'other.db' AS other",
        "DETACH main",
        "COMMIT",
        "BEGIN",
        "SAVEPOINT s",
        "VACUUM",
        "VACUUM INTO 'copy.db'",
        "REINDEX",
        "ANALYZE",
        "PRAGMA query_only = OFF",
        "PRAGMA writable_schema = ON",
        "PRAGMA journal_mode = DELETE",
        "PRAGMA user_version = 7",
        "PRAGMA wal_checkpoint",
        "UPDATE sqlite_master SET sql = ''",
        "SELECT load_extension('x')",
    ],
)
def test_nothing_can_be_changed(database, tmp_path, monkeypatch, sql):
    """Whatever a statement tries, it is told that it may only read, and the snapshot stands."""
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UsageError, match="may only read"):
        ask(database, sql)
    assert database.connection.in_transaction
    assert ask(database, "SELECT count(*) FROM events").rows == [(200,)]
    assert list(tmp_path.iterdir()) == []


def test_afterwards_the_database_is_as_it_was(folded):
    """Who folds into it goes on: a statement leaves nothing behind."""
    with pytest.raises(UsageError):
        ask(folded, "DELETE FROM tasks")
    with folded.transaction():
        folded.connection.execute("UPDATE tasks SET progress = NULL WHERE 0")


@pytest.mark.parametrize(
    ("sql", "said", "place", "mark"),
    [
        ("SELECT * FORM tasks", 'near "FORM"', "Line 1, column 10", "         ^"),
        ("SELECT 'FORM' FROM tasks\nWHERE id FORM 'a'", 'near "FORM"', "Line 2, column 10", "         ^"),
        ("SELECT id,\n  stat\nFROM tasks", "no such column: stat", "Line 2, column 3", "    ^"),
        ("SELECT 'task' FROM task", "no such table: task", "Line 1, column 20", "^"),
        ("SELECT nope(1)", "no such function: nope", "Line 1, column 8", "^"),
        ("SELECT (1", "incomplete input", "Line 1, column 10", "^"),
        ("SELECT 'a", "unrecognized token", "Line 1, column 8", "^"),
    ],
)
def test_a_mistake_is_shown_where_it_is(database, sql, said, place, mark):
    """The message has the line, the column, and a mark below it."""
    with pytest.raises(UsageError) as wrong:
        ask(database, sql)
    assert said in wrong.value.message
    assert f"{place}:" in wrong.value.message
    assert wrong.value.message.endswith(mark)


def test_a_misspelt_name_is_guessed(database):
    """The nearest tables and columns are named."""
    with pytest.raises(UsageError) as wrong:
        ask(database, "SELECT asignee FROM tasks")
    assert "Is it assignee" in wrong.value.advice
    with pytest.raises(UsageError) as wrong:
        ask(database, "SELECT * FROM event")
    assert "events" in wrong.value.advice


@pytest.mark.parametrize(
    ("sql", "parameters", "said"),
    [
        ("", {}, "empty"),
        (" ;\n-- nothing\n/* at all */", {}, "empty"),
        ("SELECT 1; SELECT 2", {}, "one statement"),
        ("SELECT ?", {}, "no name"),
        ("SELECT :who", {}, ":who, which has no value"),
        ("SELECT 1", {"who": 1}, "no parameter :who"),
        ("SELECT 1\0", {}, "NUL"),
        ("SELECT '\ud800'", {}, "cannot be asked"),
        ("SELECT json('x')", {}, "malformed JSON"),
        ("SELECT rowid FROM texts WHERE texts MATCH 'a OR'", {}, "syntax error"),
        ("SELECT hex(zeroblob(200000000))", {}, "too long"),
    ],
)
def test_what_cannot_be_asked_is_a_usage_error(database, sql, parameters, said):
    """None of it is a fault of the database, and each says what is wrong."""
    with pytest.raises(UsageError, match=said) as wrong:
        ask(database, sql, parameters)
    assert wrong.value.advice


ENDLESS = "WITH RECURSIVE r(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM r) SELECT {} FROM r"


def test_a_statement_ends_in_time(database):
    """One that takes too long is ended, and said so; one that gives rows is ended by its limit."""
    with pytest.raises(TimedOut, match=r"longer than 0\.05 s"):
        ask(database, ENDLESS.format("count(x)"), seconds=0.05)
    assert ask(database, ENDLESS.format("x"), limit=3, seconds=60).rows == [(1,), (2,), (3,)]


def test_an_interrupt_ends_a_statement(database):
    """Ctrl-C is heard while SQLite works, and is not mistaken for a fault of the file."""

    def interrupt(*_):
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGALRM, interrupt)
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.05)
        with pytest.raises(KeyboardInterrupt):
            ask(database, ENDLESS.format("count(x)"), seconds=60)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def test_text_that_is_no_utf8_is_shown_as_far_as_it_can_be(database):
    """A statement can make such a text; it is no reason to fail."""
    assert ask(database, "SELECT CAST(x'61ff62' AS TEXT)").rows == [("a\ufffdb",)]
