"""`bus sql` as people and programs use it: rows in three forms, values, files, and mistakes that explain themselves."""

from __future__ import annotations

import csv
import io
import json

import pytest

from taskbus.envelope import Acknowledgment, Delegation, compose
from tests.scenarios.terminal import on_terminal, uncoloured


@pytest.fixture
def story(bus):
    """Two tasks, one of them taken on; folded."""
    first = compose(Delegation(goal="Cache the price list"), sender="@boss", recipient="@kilo", task="cache-1")
    second = compose(Delegation(goal="Write it down"), sender="@boss", recipient="@cline", task="docs")
    taken = compose(Acknowledgment(accepted=True), sender="@kilo", recipient="@boss", task="cache-1", cause=first)
    bus.on_bus(lambda found: found.publish_many([first, second, taken]))
    bus.ok("project")


def test_rows_as_a_table_as_json_and_as_csv(bus, story):
    """The same rows in the form that was asked for; JSON says as of which position."""
    asked = ("sql", "SELECT id, state, length(goal) AS length, deadline FROM tasks ORDER BY id", "--no-sync")
    assert bus.ok(*asked).splitlines() == [
        "id       state      length  deadline",
        "-------  ---------  ------  --------",
        "cache-1  working        20",
        "docs     submitted      13",
    ]
    answer = bus(*asked, "--json").json()
    assert answer["columns"] == ["id", "state", "length", "deadline"]
    assert answer["rows"][0] == {"id": "cache-1", "state": "working", "length": 20, "deadline": None}
    assert (answer["more"], answer["position"]) == (False, str(bus.last().position))
    rows = list(csv.DictReader(io.StringIO(bus.ok(*asked, "--csv"))))
    assert [row["state"] for row in rows] == ["working", "submitted"]


def test_more_columns_than_a_terminal_has_room_for_stand_below_one_another(bus, story):
    """Rows of twenty columns would be cut to nothing; not on a terminal they are a table all the same."""
    asked = ("sql", "SELECT * FROM tasks ORDER BY id", "--no-sync")
    shown = uncoloured(on_terminal(bus.command, *asked)).splitlines()
    assert [line.split() for line in shown if line.startswith("goal")] == [
        ["goal", "Cache", "the", "price", "list"],
        ["goal", "Write", "it", "down"],
    ]
    assert len(bus.ok(*asked).splitlines()) == 4


def test_it_catches_up_first(bus, story):
    """What was said a moment ago is there; with --no-sync it is not."""
    bus.ok("delegate", "@kilo", "One more", "--as", "@boss")
    count = "SELECT count(*) AS n FROM tasks"
    assert bus("sql", count, "--no-sync", "--json").json()["rows"] == [{"n": 2}]
    assert bus("sql", count, "--json").json()["rows"] == [{"n": 3}]


@pytest.mark.parametrize(
    ("given", "kind", "value"),
    [("5", "integer", 5), ("0.5", "real", 0.5), ("05", "text", "05"), ("", "text", ""), ("a=b", "text", "a=b")],
)
def test_values_stand_apart_from_the_query(bus, story, given, kind, value):
    """A number is one where it is written like one; whatever else it is, it is a text."""
    (row,) = bus("sql", "SELECT :v AS v, typeof(:v) AS t", "-p", f"v={given}", "--no-sync", "--json").json()["rows"]
    assert row == {"v": value, "t": kind}
    asked = ("sql", "SELECT id FROM tasks WHERE assignee = :who", "--param", "who=@kilo", "--no-sync")
    assert bus.ok(*asked, "--csv").split() == ["id", "cache-1"]


def test_a_query_from_a_file_and_from_stdin(bus, story):
    """- is stdin, as the query and as the file; lines and comments are kept."""
    text = "-- all of them\nSELECT count(*) AS n\nFROM events;\n"
    (bus.command.folder / "count.sql").write_text(text, encoding="utf-8")
    for arguments, given in ((("-",), text), (("--file", "-"), text), (("--file", "count.sql"), "")):
        assert bus.ok("sql", *arguments, "--no-sync", "--csv", input=given) == "n\n3"
    assert bus("sql", "--file", "nowhere.sql").code == 3
    assert bus("sql", "--file", "-", input=b"\xff\xfe").code == 2


def test_a_limit_says_that_there_is_more(bus, story):
    """On stderr, and in JSON; 0 shows all."""
    done = bus("sql", "SELECT n FROM events ORDER BY n", "-n", "2", "--no-sync")
    assert (done.code, len(done.stdout.splitlines())) == (0, 4)
    assert "The first 2 rows" in done.stderr
    assert bus("sql", "SELECT n FROM events", "-n", "2", "--no-sync", "--json").json()["more"] is True
    assert len(bus("sql", "SELECT n FROM events", "-n", "0", "--no-sync", "--json").json()["rows"]) == 3


def test_what_is_no_text_can_still_be_printed(bus, story):
    """Bytes in base64 or hexadecimal digits, numbers that JSON has no sign for as words, no control characters."""
    sql = "SELECT x'ff00' AS raw, 9e999 AS big, body AS sent, char(27) AS control FROM events WHERE n = 1"
    (row,) = bus("sql", sql, "--no-sync", "--json").json()["rows"]
    assert (row["raw_base64"], row["big"]) == ("/wA=", "inf")
    assert json.loads(row["sent"])["payload"]["goal"] == "Cache the price list"
    shown = bus.ok("sql", sql, "--no-sync")
    assert "x'ff00'" in shown
    assert "\x1b" not in shown


def test_nothing_found_is_no_error(bus, story):
    """The columns are there, and a word on stderr."""
    done = bus("sql", "SELECT id FROM tasks WHERE id = 'x'", "--no-sync")
    assert (done.code, done.stdout.split()) == (0, ["id", "--"])
    assert "found nothing" in done.stderr
    assert bus("sql", "SELECT id FROM tasks WHERE id = 'x'", "--no-sync", "--json").json()["rows"] == []


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ((), "no query"),
        (("",), "empty"),
        (("SELECT 1", "--file", "x"), "exclude"),
        (("SELECT 1", "--json", "--csv"), "exclude"),
        (("SELECT :a",), ":a, which has no value"),
        (("SELECT 1", "-p", "a"), "no parameter a value"),
        (("SELECT 1", "-p", "a=1"), "no parameter :a"),
        (("SELECT * FORM tasks",), "Line 1, column 10"),
        (("DELETE FROM tasks",), "may only read"),
        (("ATTACH 'x.db' AS x",), "may only read"),
        (("PRAGMA journal_mode = DELETE",), "may only read"),
        (("SELECT 1", "--timeout", "soon"), "no duration"),
        (("SELECT 1", "-n", "-1"), "-1"),
    ],
)
def test_mistakes_are_usage_errors(bus, story, arguments, said):
    """Exit code 2, nothing on stdout, and what is wrong."""
    done = bus("sql", *arguments, *(() if "--json" in arguments else ("--no-sync",)))
    assert done.code == 2
    assert said in (done.stderr or done.json()["message"])
    assert (bus.command.folder / "x.db").exists() is False


def test_a_query_that_takes_too_long_is_ended(bus, story):
    """Exit code 6, as for everything that does not end in time."""
    endless = "WITH RECURSIVE r(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM r) SELECT count(*) FROM r"
    done = bus("sql", endless, "--timeout", "0.1s", "--no-sync")
    assert (done.code, done.stdout) == (6, "")
    assert "--timeout" in done.stderr


def test_a_function_that_does_not_end_is_ended(run_bus, bus, story):
    """SQLite hears of no time while one of its functions works: the whole command ends, with the same exit code."""
    endless = "SELECT instr(zeroblob(40000000), zeroblob(20000000) || x'01')"
    done = run_bus("sql", endless, "--timeout", "0.1s", "--no-sync", "--json")
    assert done.code == 6
    assert done.json()["error"] == "TimedOut"


def test_on_a_terminal_it_fits(run_bus, bus, story):
    """Texts give way, numbers do not."""
    shown = on_terminal(run_bus, "sql", "SELECT n, id, body, 1234567890 AS number FROM events", "--no-sync", columns=70)
    lines = uncoloured(shown).splitlines()
    assert max(map(len, lines)) <= 70
    assert all(line.endswith("1234567890") for line in lines[2:])
