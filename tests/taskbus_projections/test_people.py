"""Agents, gates, escalations, and the history of a task: what the counts of a small story are."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from taskbus.envelope import (
    Acknowledgment,
    Answer,
    Completion,
    Cost,
    Delegation,
    ErrorDetails,
    Escalation,
    Gate,
    Hold,
    QualityGates,
    Result,
    Usage,
    Verdict,
    compose,
)
from taskbus.errors import NotFound
from taskbus_projections import queries
from taskbus_projections.database import Database
from taskbus_projections.queries.agents import percentile
from taskbus_projections.registry import BUILTIN
from tests.bench.synthetic import BEGIN, fold

MINUTE = 60_000
MONTH = datetime.fromtimestamp(BEGIN / 1000, UTC).strftime("%Y-%m")


def cost(microusd):
    """A call; unpriced without a cost."""
    return Usage(
        provider="openrouter", model="qwen3", cost=Cost(source="reported", microusd=microusd) if microusd else None
    )


def trouble(level, category="execution"):
    """An escalation."""
    return Escalation(error_details=ErrorDetails(level=level, category=category, message="no disk"))


@pytest.fixture
def database(tmp_path):
    """A rejected and repeated task of @kilo, an escalated one that a human answered, an open one; a minute between."""

    def says(payload, task, sender="@kilo", recipient="@boss", **more):
        return compose(payload, sender=sender, recipient=recipient, task=task, **more)

    def given(task, recipient="@kilo"):
        return says(Delegation(goal=task), task, "@boss", recipient)

    done = Completion(result=Result(status="success"))
    gates = QualityGates(input=Gate(outcome="passed"), output=Gate(outcome="failed", note="no tests"))
    taken = Acknowledgment(accepted=True, provider="openrouter", model="qwen3")
    held = Acknowledgment(accepted=True, provider="openrouter", model="qwen3", hold=Hold(id="h1", microusd=500))
    envelopes = [
        given("one"),
        says(held, "one"),
        says(done, "one", usage=(cost(300),), quality_gates=gates),
        says(Verdict(decision="rejected", comment="no tests"), "one", "@boss", "@kilo"),
        says(taken, "one"),
        says(done, "one", usage=(cost(200), cost(None)), quality_gates=QualityGates(output=Gate(outcome="passed"))),
        says(Verdict(decision="accepted"), "one", "@boss", "@kilo"),
        given("two"),
        says(taken, "two"),
        says(trouble(4, "validation"), "two", recipient="@human"),
        says(Answer(answer="Buy one"), "two", "@human", "@kilo"),
        given("three", "@cline"),
        says(taken, "three", "@cline"),
        says(trouble(1), "three", "@cline"),
    ]
    with Database.open(tmp_path / "people.db", "people:", BUILTIN) as database:
        fold(database, envelopes, step=MINUTE)
        yield database


def test_each_agent_with_its_rates(database):
    """Deliveries, success, rework, cycle times, costs and open work; those with the most work first."""
    kilo, cline = queries.agents(database)
    assert (kilo["agent"], cline["agent"]) == ("@kilo", "@cline")
    wanted = {
        "assigned": 3, "repeats": 1, "taken": 3, "completed": 2, "escalated": 1, "accepted": 1, "rejected": 1,
        "success_rate": 0.6667, "rework_rate": 0.5, "escalation_rate": 0.3333, "calls": 3, "unpriced_calls": 1,
        "cost_microusd": 500, "microusd_per_accepted": 500, "open": 1,
    }  # fmt: skip
    assert {name: kilo[name] for name in wanted} == wanted
    assert 55_000 <= kilo["cycle_p50_ms"] <= kilo["cycle_p95_ms"] <= MINUTE
    assert (cline["cost_microusd"], cline["microusd_per_accepted"], cline["cycle_p50_ms"]) == (None, None, None)
    assert (cline["success_rate"], cline["rework_rate"], cline["open"]) == (0.0, None, 1)
    assert {row["agent"] for row in queries.agents(database, everybody=True)} == {"@boss", "@cline", "@human", "@kilo"}
    assert queries.agents(database, month="2020-01") == []
    assert queries.agents(database, month=MONTH)[0]["assigned"] == 3


def test_one_agent(database):
    """The same numbers as in the list, by model, and its tasks by state; one that nobody knows is not found."""
    kilo = queries.agent(database, "@kilo")
    assert kilo == queries.agents(database)[0]
    models = {row["model"]: row for row in queries.by_model(database, "@kilo")}
    assert (models["qwen3"]["completed"], models["qwen3"]["cost_microusd"], models["qwen3"]["calls"]) == (2, 500, 3)
    assert sum(row["assigned"] for row in models.values()) == 3
    assert queries.standing(database, "@kilo") == {"accepted": 1, "working": 1}
    assert queries.agent(database, "@human")["assigned"] == 0
    with pytest.raises(NotFound, match="@nobody"):
        queries.agent(database, "@nobody")


@pytest.mark.parametrize(
    ("buckets", "share", "found"),
    [
        ([], 0.5, None),
        ([(10, 1)], 0.95, 10),
        ([(10, 1), (20, 1)], 0.5, 10),
        ([(10, 19), (20, 1)], 0.95, 10),
        ([(10, 18), (20, 2)], 0.95, 20),
    ],
)
def test_a_percentile_of_a_histogram(buckets, share, found):
    """The least time within which such a share was done."""
    assert percentile(buckets, share) == found


def test_gates_by_layer_agent_and_time(database):
    """Outcomes are counted, and the share that failed is of those that passed or failed."""
    rows = queries.gates(database)
    assert {(row["agent"], row["model"]) for row in rows} == {("@kilo", "qwen3")}
    assert [(row["layer"], row["passed"], row["failed"], row["failed_share"]) for row in rows] == [
        ("input", 1, 0, 0.0),
        ("output", 1, 1, 0.5),
    ]
    assert [row["layer"] for row in queries.gates(database, "layer", layer="output")] == ["output"]
    assert queries.gates(database, "agent", agent="@cline") == []
    assert queries.gates(database, "month", month="2020-01") == []
    assert {row["month"] for row in queries.gates(database, "month", model="qwen3")} == {MONTH}
    (failed,) = queries.failed_gates(database).rows
    assert (failed["n"], failed["layer"], failed["note"], failed["task"]) == (3, "output", "no tests", "one")
    assert queries.failed_gates(database, agent="@cline").rows == []


def test_escalations_open_and_past(database):
    """Who dealt with it and how long it took; the newest first; filters are all met at once."""
    new, old = queries.escalations(database).rows
    assert (old["level"], old["category"], old["human"], old["outcome"]) == (4, "validation", True, "answer")
    assert (old["answered_by"], old["answer_ms"]) == ("@human", MINUTE)
    assert (new["outcome"], new["answer_ms"], new["human"]) == (None, None, False)
    for asked, found in (
        ({"open_only": True}, [14]),
        ({"human": True}, [10]),
        ({"level": 4, "agent": "@kilo"}, [10]),
        ({"level": 4, "open_only": True}, []),
        ({"category": "execution"}, [14]),
        ({"agent": "@cline", "human": True}, []),
    ):
        assert [row["n"] for row in queries.escalations(database, **asked).rows] == found
    assert queries.escalations(database, limit=1).more
    assert queries.open_escalations(database) == 1
    assert queries.open_escalations(database, agent="@kilo") == 0


def test_how_much_is_escalated_and_reaches_a_human(database):
    """Shares of the tasks that were delegated for the first time, in all and by agent."""
    (whole,) = queries.escalation_rates(database)
    wanted = {"incidents": 2, "human": 1, "answered": 1, "tasks": 3, "human_share": 0.5, "mean_answer_ms": MINUTE}
    assert {name: whole[name] for name in wanted} == wanted
    assert (whole["rate"], whole["human_rate"]) == (0.6667, 0.3333)
    agents = queries.escalation_rates(database, "agent")
    assert [(row["agent"], row["incidents"], row["tasks"], row["rate"]) for row in agents] == [
        ("@cline", 1, 1, 1.0),
        ("@kilo", 1, 2, 0.5),
    ]
    assert [row["tasks"] for row in queries.escalation_rates(database, "category")] == [None, None]
    assert queries.escalation_rates(database, "month", month="2020-01") == []
    (none,) = queries.escalation_rates(database, agent="@nobody")
    assert (none["incidents"], none["rate"], none["human_share"], none["mean_answer_ms"]) == (0, None, None, None)


def test_the_history_of_a_task(database):
    """States with the time in each, attempts with what each cost, gates, escalations, holds."""
    changes = queries.transitions(database, "one")
    assert [(row["event"], row["to_state"], row["after_ms"]) for row in changes] == [
        ("delegation", "submitted", None),
        ("acknowledgment:accepted", "working", MINUTE),
        ("completion:done", "completed", MINUTE),
        ("verdict:rejected", "submitted", MINUTE),
        ("acknowledgment:accepted", "working", MINUTE),
        ("completion:done", "completed", MINUTE),
        ("verdict:accepted", "accepted", MINUTE),
    ]
    first, second = queries.attempts(database, "one", changes)
    assert (first["state"], first["calls"], first["cost_microusd"], first["unpriced_calls"]) == ("completed", 1, 300, 0)
    assert (second["state"], second["calls"], second["cost_microusd"], second["unpriced_calls"]) == (
        "accepted",
        2,
        200,
        1,
    )
    assert second["ended"] is not None
    assert [(row["layer"], row["outcome"]) for row in queries.gates_of(database, "one")] == [
        ("input", "passed"),
        ("output", "failed"),
        ("output", "passed"),
    ]
    (hold,) = queries.holds_of(database, "one")
    assert (hold["hold"], hold["microusd"], hold["state"], hold["cost_microusd"]) == ("h1", 500, "settled", 300)
    assert [row["n"] for row in queries.escalations_of(database, "two")] == [10]
    assert queries.parked_of(database, "one") == []


def test_the_time_in_each_state(database):
    """Stays that have ended, and the one that goes on until now; of a finished task none goes on."""
    now = datetime.fromtimestamp((BEGIN + 20 * MINUTE) / 1000, UTC)
    one, two = queries.task(database, "one"), queries.task(database, "two")
    assert queries.states(one, now) == {"submitted": 2 * MINUTE, "working": 2 * MINUTE, "completed": 2 * MINUTE}
    assert queries.states(two, now) == {"submitted": MINUTE, "working": 10 * MINUTE, "escalated": MINUTE}
    assert queries.states(two, now - timedelta(days=1))["working"] == MINUTE


def test_the_board_by_age_and_by_time(database):
    """Open work has the oldest first; of the finished tasks the slowest is the first."""
    assert [row["id"] for row in queries.board(database, order="open").rows] == ["two", "three"]
    assert [row["id"] for row in queries.board(database, order="slow").rows] == ["one"]
