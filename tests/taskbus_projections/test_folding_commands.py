"""The commands that fold, as a user calls them: following, setting aside, parts of the log, rebuilding."""

from __future__ import annotations

import os
import sqlite3
from contextlib import closing

import pytest

from taskbus.codec import encode
from taskbus.envelope import Status, compose
from tests import entries
from tests.scenarios.terminal import on_terminal

pytestmark = pytest.mark.anyio


@pytest.fixture
def delegated(run_bus):
    """The IDs of three tasks."""
    return [run_bus("delegate", "@kilo", goal, "--json").json()["task"] for goal in ("one", "two", "three")]


async def stray(connection, namespace):
    """Write a status of no task into the log, as no bus would; its position."""
    envelope = compose(Status(progress="half"), sender="@kilo", recipient="@boss", task="none")
    told = {"id": envelope.id, "sender": "@kilo", "recipient": "@boss", "task": "none", "body": encode(envelope)}
    position = await connection.execute("XADD", f"{namespace}{{0}}:log", "*", *entries.words(**told))
    return position.decode()


async def test_what_cannot_be_folded_stops_or_is_set_aside(run_bus, delegated, connection, namespace):
    """By default with exit code 1, the position and what can be done; with --set-aside it is noted, and said."""
    position = await stray(connection, namespace)
    for command in ("project", "rebuild"):
        stopped = run_bus(command, "--json")
        assert stopped.code == 1
        assert stopped.json()["position"] == position
        assert "--set-aside" in stopped.json()["advice"]
    done = run_bus("project", "--set-aside", "--json")
    assert "1 set aside" in done.stderr
    assert (done.code, done.json()["folded"]) == (0, 4)
    with closing(sqlite3.connect(done.json()["database"])) as database:
        assert database.execute("SELECT DISTINCT n, position FROM set_aside").fetchall() == [(4, position)]
    assert run_bus("rebuild").code == 1
    assert run_bus("rebuild", "--set-aside", "--json").json()["changed"] == []


def test_a_part_of_the_log_is_folded_into_a_file(run_bus, delegated, tmp_path):
    """By `bus project --into` and by `bus replay --into FILE.db`; a file that is there is not touched."""
    places = [event["position"] for event in run_bus("replay", "--json").lines()]
    done = run_bus("replay", "--to", places[1], "--into", "two.db", "--json")
    assert done.json() == {"database": "two.db", "position": places[1], "n": 2, "set_aside": 0}
    again = run_bus("replay", "--into", "two.db")
    assert (again.code, "is there already" in again.stderr) == (2, True)
    assert run_bus("project", "--into", "last.db", "--from", places[2], "--json").json()["n"] == 3
    with closing(sqlite3.connect(tmp_path / "last.db")) as database:
        assert database.execute("SELECT n, task FROM events").fetchall() == [(3, delegated[2])]
        assert database.execute("SELECT goal FROM tasks").fetchall() == [("three",)]


@pytest.mark.parametrize(
    "arguments",
    [
        ("project", "--into", "x.db", "--follow"),
        ("project", "--from", "1h"),
        ("replay", "--into", "x.db", "--speed", "2x"),
        ("replay", "--into", "x.db", "--xml"),
    ],
)
def test_what_cannot_be_meant_together_is_refused(run_bus, arguments, tmp_path):
    """With exit code 2, and nothing is made."""
    assert run_bus(*arguments).code == 2
    assert not (tmp_path / "x.db").exists()


def test_a_rebuild_on_a_terminal_shows_how_far_it_is(run_bus, delegated):
    """How many of how many, and the rate."""
    shown = on_terminal(run_bus, "rebuild", both=True)
    assert "3 envelopes folded anew" in shown
    assert "Rebuilding" in shown


MODEL = """
from taskbus_projections import ReadModel

class Goals(ReadModel):
    name = "goals"
    version = {version}
    tables = "CREATE TABLE goals (n INTEGER PRIMARY KEY, goal TEXT NOT NULL{more}) STRICT"

    def delegation(self, fact, payload):
        self.database.execute("INSERT INTO goals (n, goal) VALUES (?, ?)", (fact.n, payload.goal))
"""


def test_a_read_model_of_another_package_is_folded_with_the_others(run_bus, delegated, tmp_path):
    """By its entry point; when it comes, and with each new version of it, the log is folded anew, which is said."""
    package = tmp_path / "site"
    info = package / "their_models-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: their-models\nVersion: 1.0\n", encoding="utf-8")
    (info / "entry_points.txt").write_text("[taskbus.projections]\ngoals = their_models:Goals\n", encoding="utf-8")
    env = {"PYTHONPATH": os.pathsep.join([str(package), os.environ.get("PYTHONPATH", "")]).rstrip(os.pathsep)}
    path = run_bus("project", "--json").json()["database"]
    for version, more, said in ((1, "", "goals is missing"), (2, ", note TEXT", "goals is of version 1")):
        (package / "their_models.py").write_text(MODEL.format(version=version, more=more), encoding="utf-8")
        done = run_bus("project", env=env)
        assert said in done.stderr
        assert "Folding the log anew" in done.stderr
        with closing(sqlite3.connect(path)) as database:
            goals = database.execute("SELECT goal FROM goals ORDER BY n").fetchall()
            columns = database.execute("SELECT count(*) FROM pragma_table_info('goals')").fetchone()
        assert goals == [("one",), ("two",), ("three",)]
        assert columns == (1 + version,)
    without = run_bus("project")
    assert (without.code, "goals" in without.stderr) == (1, True)


async def test_a_rebuild_says_from_where_it_goes_on(run_bus, delegated, connection, namespace):
    """What an earlier one had folded before it stopped is not folded again."""
    position = await stray(connection, namespace)
    assert run_bus("rebuild").code == 1
    await connection.execute("XDEL", f"{namespace}{{0}}:log", position)
    done = run_bus("rebuild", "--json").json()
    assert done["folded"] == 3
    assert done["resumed"] == done["position"]
    assert run_bus("rebuild", "--json").json()["resumed"] is None
