"""The plans: how SQLite answers every question of the command line. None may read a table that grows with the log."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from taskbus_projections import queries
from taskbus_projections.database import Database
from taskbus_projections.queries import narrowing, spending
from taskbus_projections.registry import BUILTIN
from tests.bench import questions
from tests.bench.questions import QUESTIONS, Sample, plan, statements
from tests.bench.synthetic import fold
from tests.taskbus_projections.stories import story

SUMS = {"agent_days", "agents", "cycles", "escalation_days", "gate_days", "spending", "standing"}
"""Tables that the read models keep small: a row for each day, agent and model, however many envelopes there are."""


@pytest.fixture(scope="module")
def folded(tmp_path_factory):
    """A database of a few thousand envelopes."""
    path = tmp_path_factory.mktemp("plans") / "story.db"
    with Database.open(path, "story:", BUILTIN) as database:
        fold(database, (getattr(said, "envelope", said) for said in story(11, 3000)))
        yield database


@pytest.fixture(scope="module")
def sample(folded):
    """What is asked about."""
    return Sample.of(folded)


def scanned(steps):
    """The tables that a plan reads from one end to the other: no results of its own parts, no small sums."""
    found = [re.match(r"SCAN ([^\s(]+)", step) for step in steps if not re.search("VIRTUAL TABLE|CONSTANT", step)]
    return [match[1] for match in found if match and match[1] not in SUMS | {"found"}]


@pytest.mark.parametrize("few", [3, 2000], ids=["values that many rows have", "values that few rows have"])
@pytest.mark.parametrize("question", QUESTIONS)
def test_no_question_scans_a_table(folded, sample, monkeypatch, question, few):
    """Whichever condition leads, an index finds the rows."""
    monkeypatch.setattr(narrowing, "FEW", few)
    asked = statements(folded, QUESTIONS[question], sample)
    assert asked
    assert [(table, statement) for statement in asked for table in scanned(plan(folded, statement))] == []


def test_a_scan_is_seen(folded):
    """A question without an index is found out."""
    assert scanned(plan(folded, "SELECT n FROM events WHERE summary = 'x'")) == ["events"]
    assert scanned(plan(folded, "SELECT id FROM tasks WHERE goal LIKE '%x%'")) == ["tasks"]


def test_every_question_is_looked_at():
    """What `taskbus_projections.queries` offers is asked somewhere in the list."""
    text = Path(questions.__file__).read_text(encoding="utf-8")
    asked = {name for name in queries.__all__ if name.islower() and f"queries.{name}" in text}
    # These ask nothing of their own.
    assert {name for name in queries.__all__ if name.islower()} - asked == {"known_task", "states"}


def wanted(sample):
    """Conditions of the board, and the same for SQL."""
    agent, other, then = sample.agent, sample.delegator, sample.now.isoformat()
    both = "state IN ('accepted', 'failed')"
    return [
        ({"assignee": agent}, f"assignee = '{agent}'"),
        ({"states": ("accepted", "failed")}, both),
        ({"states": ("accepted", "failed"), "assignee": agent}, f"{both} AND assignee = '{agent}'"),
        ({"delegator": other, "task_type": "review"}, f"delegator = '{other}' AND task_type = 'review'"),
        ({"task_type": "review", "states": ("accepted", "failed")}, f"task_type = 'review' AND {both}"),
        ({"created_until": then}, f"created <= '{then}'"),
        ({"created_since": then, "states": ("accepted", "failed")}, f"created >= '{then}' AND {both}"),
        ({"root": sample.root}, f"root = '{sample.root}'"),
    ]


def sought(sample):
    """Conditions of the trail, and the same for SQL."""

    def says(text):
        return f"n IN (SELECT rowid FROM texts('{text}'))"

    agent = sample.agent
    side, tree = f"'{agent}' IN (sender, recipient)", f"root = '{sample.root}'"
    return [
        ({"agent": agent}, side),
        ({"agent": agent, "types": ("status", "verdict")}, f"{side} AND type IN ('status', 'verdict')"),
        ({"types": ("escalation",), "root": sample.root}, f"type = 'escalation' AND {tree}"),
        ({"search": "way"}, says("way")),
        ({"search": "way", "agent": agent}, f"{says('way')} AND {side}"),
        ({"search": "done", "types": ("completion",), "root": sample.root}, f"{says('done')} AND {tree}"),
        (
            {"match": "stuck OR busy", "since": sample.early, "until": sample.middle},
            f"{says('stuck OR busy')} AND n BETWEEN 301 AND 1500",
        ),
        ({"agent": agent, "since": sample.middle}, f"{side} AND n >= 1500"),
    ]


@pytest.mark.parametrize("by", ["task", "tree"])
@pytest.mark.parametrize("limit", [1, 9, 100])
def test_the_dearest_of_a_month_are_the_same(folded, sample, monkeypatch, by, limit):
    """Whether they are found among the dearest of all, or call by call."""
    for provider in (None, "local"):
        spent = queries.Spent(month=sample.month, provider=provider)
        whole = queries.costs(folded, by, spent).rows
        for step, furthest in ((2, 4000), (200, 4000), (200, 4)):
            monkeypatch.setattr(spending, "_STEP", step)
            monkeypatch.setattr(spending, "_FURTHEST", furthest)
            page = queries.costs(folded, by, spent, limit=limit)
            assert (page.rows, page.more) == (whole[:limit], len(whole) > limit)


@pytest.mark.parametrize("few", [3, 2000])
@pytest.mark.parametrize("limit", [1, 7, None])
def test_whatever_leads_the_answer_is_the_same(folded, sample, monkeypatch, few, limit):
    """The board and the trail agree with plain conditions, looked at row by row."""
    monkeypatch.setattr(narrowing, "FEW", few)
    orders = {
        "changed": ("1", "n DESC"),
        "open": ("finished IS NULL", "created, rowid"),
        "slow": ("elapsed_ms IS NOT NULL", "elapsed_ms DESC, rowid DESC"),
    }
    for asked, condition in wanted(sample):
        for order, (kept, by) in orders.items():
            sql = f"SELECT id FROM tasks WHERE {condition} AND {kept} ORDER BY {by}"
            rows = [row[0] for row in folded.connection.execute(sql)]
            page = queries.board(folded, queries.Wanted(**asked), order=order, limit=limit)
            assert [row["id"] for row in page.rows] == rows[:limit], asked
            assert page.total in (None, len(rows))
            assert page.more == (limit is not None and len(rows) > limit)
    for asked, condition in sought(sample):
        rows = [row[0] for row in folded.connection.execute(f"SELECT n FROM events WHERE {condition} ORDER BY n DESC")]
        assert rows
        page = queries.audit(folded, queries.Sought(**asked), limit=limit)
        assert [row["n"] for row in page.rows] == rows[:limit][::-1], asked
        assert page.more == (limit is not None and len(rows) > limit)
