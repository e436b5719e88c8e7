"""The schema: everything in it is explained, and what is asked of it finds its rows without looking at all of them."""

from __future__ import annotations

import json
import re

import pytest
from click.testing import CliRunner

from taskbus_projections.commands.schema import schema
from taskbus_projections.model import ReadModel
from taskbus_projections.registry import BUILTIN
from taskbus_projections.schema import tables
from tests.taskbus_projections.histories import fold, open_database, seeded, written

LARGE = {"events", "texts", "tasks", "transitions", "usage", "task_spending", "tree_spending"}
LARGE |= {"gates", "escalations", "holds", "parked"}
"""The tables that grow with the log; the others hold a row for each day and agent at most."""

PLANS = {
    "SELECT * FROM events WHERE n BETWEEN 10 AND 20": "PRIMARY KEY",
    "SELECT * FROM events WHERE id = 'x'": "events_by_id",
    "SELECT * FROM events WHERE task = 'x' ORDER BY n": "events_by_task",
    "SELECT * FROM events WHERE root = 'x' ORDER BY n DESC LIMIT 9": "events_by_root",
    "SELECT * FROM events WHERE sender = 'x' AND type = 'y' ORDER BY n DESC LIMIT 9": "events_by_sender",
    "SELECT * FROM events WHERE recipient = 'x' AND type = 'y' ORDER BY n DESC LIMIT 9": "events_by_recipient",
    "SELECT * FROM events WHERE type = 'x' ORDER BY n DESC LIMIT 9": "events_by_type",
    "SELECT * FROM events WHERE causation = 'x' ORDER BY n": "events_by_causation",
    "SELECT * FROM events WHERE by_hand = 1 ORDER BY n DESC LIMIT 9": "events_by_hand",
    "SELECT rowid FROM texts WHERE texts MATCH 'x' ORDER BY rowid DESC LIMIT 9": "VIRTUAL TABLE INDEX",
    "SELECT * FROM tasks ORDER BY n DESC LIMIT 9": "tasks_by_change",
    "SELECT * FROM tasks WHERE root = 'x'": "tasks_by_root",
    "SELECT * FROM tasks WHERE parent = 'x'": "tasks_by_parent",
    "SELECT * FROM tasks WHERE state = 'x' ORDER BY n DESC LIMIT 9": "tasks_by_state",
    "SELECT * FROM tasks WHERE assignee = 'x' AND state = 'y' ORDER BY n DESC LIMIT 9": "tasks_by_assignee",
    "SELECT * FROM tasks WHERE delegator = 'x' AND state = 'y' ORDER BY n DESC LIMIT 9": "tasks_by_delegator",
    "SELECT * FROM tasks WHERE task_type = 'x' ORDER BY n DESC LIMIT 9": "tasks_by_type",
    "SELECT count(*) FROM tasks WHERE created >= 'x' AND created < 'y'": "tasks_by_age",
    "SELECT * FROM tasks WHERE finished IS NULL ORDER BY created LIMIT 9": "tasks_unfinished",
    "SELECT * FROM tasks WHERE elapsed_ms IS NOT NULL ORDER BY elapsed_ms DESC LIMIT 9": "tasks_by_time",
    "SELECT * FROM transitions WHERE task = 'x' ORDER BY n": "transitions_by_task",
    "SELECT * FROM transitions WHERE n BETWEEN 10 AND 20": "PRIMARY KEY",
    "SELECT * FROM usage WHERE task = 'x'": "usage_by_task",
    "SELECT provider, sum(cost_microusd) FROM usage WHERE root = 'x' GROUP BY 1": "usage_by_root",
    "SELECT * FROM task_spending ORDER BY cost_microusd DESC LIMIT 9": "task_spending_by_cost",
    "SELECT * FROM task_spending WHERE root = 'x'": "task_spending_by_root",
    "SELECT * FROM holds WHERE state = 'open' ORDER BY opened": "holds_open",
    "SELECT * FROM holds WHERE hold = 'x'": "holds_by_name",
    "SELECT account, held_microusd FROM accounts WHERE span = '2026-11' AND period = 'month'": "accounts_by_span",
    "SELECT account, microusd, decided_by FROM caps WHERE period = 'month'": "cap_decisions_by_account",
    "SELECT * FROM holds WHERE task = 'x'": "holds_by_task",
    "SELECT * FROM holds WHERE agent = 'x' ORDER BY n DESC LIMIT 9": "holds_by_agent",
    "SELECT * FROM escalations WHERE outcome IS NULL ORDER BY n DESC LIMIT 9": "escalations_open",
    "SELECT * FROM escalations WHERE incident = 7": "escalations_by_incident",
    "SELECT * FROM escalations WHERE task = 'x'": "escalations_by_task",
    "SELECT * FROM escalations WHERE agent = 'x' ORDER BY n DESC LIMIT 9": "escalations_by_agent",
    "SELECT * FROM escalations WHERE level = 3 ORDER BY n DESC LIMIT 9": "escalations_by_level",
    "SELECT * FROM escalations WHERE human = 1 ORDER BY n DESC LIMIT 9": "escalations_to_human",
    "SELECT * FROM gates WHERE outcome = 'failed' ORDER BY n DESC LIMIT 9": "gates_failed",
    "SELECT * FROM gates WHERE agent = 'x' AND outcome = 'passed' ORDER BY n DESC LIMIT 9": "gates_by_agent",
    "SELECT * FROM parked WHERE state = 'parked' ORDER BY parked_n": "parked_now",
    "SELECT * FROM parked WHERE task = 'x'": "parked_by_task",
    "SELECT * FROM agent_days WHERE day BETWEEN '2026-11-01' AND '2026-11-30'": "agent_days_by_day",
    "SELECT * FROM spending WHERE day BETWEEN '2026-11-01' AND '2026-11-30'": "PRIMARY KEY",
    "SELECT * FROM cost_by_tree LIMIT 9": "tree_spending_by_cost",
    "SELECT * FROM cost_by_task LIMIT 9": "task_spending_by_cost",
    "SELECT * FROM open_work LIMIT 9": "tasks_unfinished",
    "SELECT * FROM slowest_tasks LIMIT 9": "tasks_by_time",
    "SELECT * FROM open_escalations LIMIT 9": "escalations_open",
}
"""What is asked, and what finds it."""


@pytest.fixture(scope="module")
def database(tmp_path_factory):
    """A database with some history in it."""
    with open_database(tmp_path_factory.mktemp("schema") / "schema.db") as database:
        fold(database, written(seeded(11), legal=True))
        yield database


def plan(database, sql):
    """How SQLite would find the rows."""
    return [row[3] for row in database.connection.execute(f"EXPLAIN QUERY PLAN {sql}")]


@pytest.mark.parametrize("sql", PLANS)
def test_what_is_asked_is_found_by_an_index(database, sql):
    """In the order that is asked for, so that nothing is sorted but groups."""
    steps = plan(database, sql)
    assert any(PLANS[sql] in step for step in steps), steps
    assert not any("ORDER BY" in step for step in steps), steps


@pytest.mark.parametrize("view", [table.name for table in tables(BUILTIN) if table.kind == "view"])
def test_no_view_reads_a_whole_table_that_grows_with_the_log(database, view):
    """It goes along an index, and stops with the limit; only sums by day, agent and model are read to their end."""
    for step in plan(database, f"SELECT * FROM {view} LIMIT 9"):
        scanned = re.match(r"SCAN (\w+)(.*)", step)
        table = scanned and {"s": "tree_spending", "t": "tasks"}.get(scanned[1], scanned[1])
        assert not scanned or table not in LARGE or "USING INDEX" in scanned[2], step


@pytest.mark.parametrize("table", tables(BUILTIN), ids=lambda table: table.name)
def test_each_table_and_each_column_says_what_it_is(table):
    """Nothing in the database is left to be guessed."""
    assert re.fullmatch(r"[A-Z].+\.", table.meaning)
    assert table.columns
    assert [column.name for column in table.columns if not column.meaning] == []


def test_each_index_serves_a_question():
    """What no known question needs is not kept up to date."""
    made = {name for model in BUILTIN for name in re.findall(r"CREATE INDEX (\w+)", model.indexes)}
    assert made <= set(PLANS.values())


def test_the_command_prints_what_a_table_means():
    """With its name the columns, without one all tables; as JSON both."""
    shown = CliRunner().invoke(schema, ["holds"])
    assert shown.exit_code == 0
    assert "holds (table): Money that was reserved before a model ran" in shown.stdout
    assert re.search(r"ended_n +INTEGER +events\.n +the envelope that ended it", shown.stdout)
    every = CliRunner().invoke(schema, ["--json"])
    assert [each["name"] for each in json.loads(every.stdout)["tables"]] == [each.name for each in tables(BUILTIN)]
    listed = CliRunner().invoke(schema, [])
    assert re.search(r"^open_work +view +Tasks for which", listed.stdout, re.MULTILINE)
    missing = CliRunner().invoke(schema, ["nope"])
    assert (missing.exit_code, "`bus schema` lists" in missing.stderr) == (3, True)


def test_read_models_of_other_packages_are_shown_with_ours():
    """Also where nobody has written what a column means."""

    class Theirs(ReadModel):
        name = "theirs"
        version = 1
        tables = "CREATE TABLE theirs (n INTEGER PRIMARY KEY, said TEXT) STRICT;"

    last = tables((*BUILTIN, Theirs))[-1]
    assert (last.name, last.model, last.meaning) == ("theirs", "theirs", "")
    assert [column.meaning for column in last.columns] == ["", ""]
