"""The read models of money: what becomes of holds, in which month money counts, and what was decided and warned of."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from taskbus.envelope import (
    Acknowledgment,
    Answer,
    Budget,
    Cancellation,
    Completion,
    Cost,
    Delegation,
    ErrorDetails,
    Escalation,
    Hold,
    Parking,
    Question,
    Result,
    Status,
    Usage,
    compose,
)
from taskbus.money import Ledger
from taskbus_projections import queries
from tests.taskbus_projections import handmade

NOVEMBER = datetime(2026, 11, 30, 23, 59, 59, 999000, tzinfo=UTC)
DECEMBER = NOVEMBER + timedelta(milliseconds=1)
ERROR = ErrorDetails(level=1, category="execution", message="stuck")
DONE = Completion(result=Result(status="success"))
HOLD = Hold(id="h-1", microusd=500_000)


def call(microusd, provider="anthropic"):
    """A call; unpriced without a cost."""
    cost = None if microusd is None else Cost(source="reported", microusd=microusd)
    return Usage(provider=provider, model="opus", cost=cost)


def say(payload, sender="@kilo", task="t", usage=(), **context):
    """An envelope about a task, from its assignee."""
    return compose(payload, sender=sender, recipient="@boss", task=task, usage=tuple(usage), **context)


def begun(task="t", hold=HOLD, **context):
    """A task that was taken on, with a hold."""
    given = compose(Delegation(goal="g"), sender="@boss", recipient="@kilo", task=task, **context)
    taken = Acknowledgment(accepted=True, provider="anthropic", model="opus", hold=hold)
    return [given, say(taken, task=task, **context)]


def reserved(id="h-2", **more):
    """The record of a reservation."""
    said = {"provider": "anthropic", "model": "opus", "table": "policy 7", **more}
    return Budget(budget="reserved", hold=Hold(id=id, microusd=200_000), **said)


def fold(database, envelopes, at=NOVEMBER):
    """Fold them all at one time; the holds as they stand then, and the fold in which the server is checked."""
    facts = handmade.fold(database, [each if isinstance(each, tuple) else (at, each) for each in envelopes])
    ledger = Ledger()
    for fact in facts:
        ledger.fold(fact.entry)
    return ledger


def holds(database):
    """Name, state and end of every hold."""
    return [(row["hold"], row["state"], row["ended_by"]) for row in database.query("SELECT * FROM holds ORDER BY n")]


def sums(database):
    """Committed, held and unpriced of every account."""
    return {
        (row["account"], row["span"]): (row["committed_microusd"], row["held_microusd"], row["unpriced_calls"])
        for row in database.query("SELECT * FROM accounts")
    }


@pytest.mark.parametrize(
    ("envelope", "state", "by"),
    [
        (say(Status(progress="half"), usage=[call(5)]), "open", None),
        (say(DONE, usage=[call(5)]), "settled", "completion:done"),
        (say(Completion(result=Result(status="failure"))), "settled", "completion:failure"),
        (say(Question(question="Which?")), "settled", "question"),
        (say(Escalation(error_details=ERROR)), "settled", "escalation"),
        (say(Escalation(error_details=ERROR), "@bus"), "released", "escalation"),
        (say(Cancellation(reason="no"), "@boss"), "released", "cancellation"),
        (say(reserved()), "replaced", "budget:reserved"),
        (say(Budget(budget="settled", hold=HOLD), usage=[call(5)]), "settled", "budget:settled"),
        (say(Budget(budget="settled", hold=Hold(id="older", microusd=1)), usage=[call(5)]), "open", None),
        (say(Budget(budget="settled", hold=HOLD), "@cline", usage=[call(5)]), "open", None),
        (say(Budget(budget="released", hold=HOLD, ended="lost"), "@bus"), "released", "budget:released"),
        (say(Budget(budget="released", hold=Hold(id="older", microusd=1)), "@bus"), "open", None),
        (say(Parking(parking="parked", agent="@kilo", deliveries=()), "@bus"), "released", "parking:parked"),
        (say(Parking(parking="parked", agent="@cline", deliveries=()), "@bus"), "open", None),
        (say(Budget(budget="warned", account="agent:@kilo"), "@bus"), "open", None),
    ],
)
def test_what_ends_a_hold(database, envelope, state, by):
    """Whatever ends the work, or reserves anew; what tells of a hold ends that one alone. Usage counts in any case."""
    ledger = fold(database, [*begun(), envelope])
    assert holds(database)[0] == ("h-1", state, by)
    spent = 5 if envelope.usage else 0
    left = 500_000 if state == "open" else 200_000 if state == "replaced" else 0
    assert sums(database)["provider:anthropic", "2026-11"] == (spent, left, 0)
    assert sums(database) == {key: (s.committed, s.held, s.unpriced) for key, s in ledger.accounts.items()}
    (row,) = database.query("SELECT * FROM budgets")
    assert row["open_holds"] == (state in ("open", "replaced"))


def test_a_cancelled_run_leaks_no_hold(database):
    """The task is given up while a model runs: nothing stays reserved, and what it had used by then counts later."""
    late = say(Budget(budget="settled", hold=HOLD), usage=[call(70_000)])
    fold(database, [*begun(), say(Cancellation(reason="no"), "@boss"), late])
    assert sums(database)["provider:anthropic", "2026-11"] == (70_000, 0, 0)
    assert database.query("SELECT sum(held_microusd) AS held FROM accounts") == [{"held": 0}]


def test_a_run_after_a_question_reserves_anew(database):
    """While nobody works nothing is held; the next hold has its price table, and is settled by the outcome."""
    fold(
        database,
        [
            *begun(),
            say(Question(question="Which?"), usage=[call(10)]),
            say(Answer(answer="That"), "@boss"),
            say(reserved()),
            say(DONE, usage=[call(20)]),
        ],
    )
    assert holds(database) == [("h-1", "settled", "question"), ("h-2", "settled", "completion:done")]
    tables = database.query("SELECT price_table, cost_microusd, attempt FROM holds ORDER BY n")
    assert [tuple(row.values()) for row in tables] == [(None, 10, 1), ("policy 7", 20, 1)]


def test_spend_counts_in_whatever_envelope_it_stands(database):
    """Of any type, from anybody, with a hold or without: there is no other form of a call that is not counted."""
    said = [
        *begun(hold=None),
        say(Status(progress="half"), usage=[call(1), call(10, "openai")]),
        say(Question(question="Which?"), usage=[call(100)]),
        say(Answer(answer="That"), "@boss", usage=[call(1000)]),
        say(DONE, usage=[call(10_000), call(None)]),
        say(Budget(budget="settled", hold=HOLD), "@cline", usage=[call(100_000)]),
    ]
    fold(database, said)
    found = sums(database)
    assert found["provider:anthropic", "2026-11"] == (111_101, 0, 1)
    assert found["provider:openai", "2026-11-30"] == (10, 0, 0)
    assert found["agent:@boss", "2026-11"] == (1000, 0, 0)
    assert found["agent:@cline", "2026-11"] == (100_000, 0, 0)
    assert found["task:t", "ever"] == (111_111, 0, 1)


def test_the_tree_pays_for_its_parts(database):
    """The account of a task is that of its root."""
    part = begun("part", Hold(id="h-9", microusd=7), parent="t")
    fold(database, [*begun(), *part, say(DONE, task="part", usage=[call(3)])])
    assert sums(database)["task:t", "ever"] == (3, 500_000, 0)
    assert ("task:part", "ever") not in sums(database)


def test_the_month_turns_by_one_rule(database):
    """A hold and what its run costs count in the month and on the day in which it was made; other spend when told."""
    beside = say(Budget(budget="settled"), "@kilo", "u", usage=[call(4_000)])
    given = compose(Delegation(goal="g"), sender="@boss", recipient="@kilo", task="u")
    said = [say(Status(progress="half"), usage=[call(30_000), call(None)]), beside]
    others = say(Budget(budget="settled"), "@cline", usage=[call(100)])
    ledger = fold(database, [*begun(), given, *((DECEMBER, each) for each in (*said, others))])
    found = sums(database)
    assert found["provider:anthropic", "2026-11"] == found["agent:@kilo", "2026-11-30"] == (30_000, 500_000, 1)
    assert found["provider:anthropic", "2026-12"] == (4_100, 0, 0)
    assert found["agent:@kilo", "2026-12-01"] == (4_000, 0, 0)
    assert found["task:t", "ever"] == (30_100, 500_000, 1)
    assert found == {key: (each.committed, each.held, each.unpriced) for key, each in ledger.accounts.items()}

    def left(month):
        (row,) = queries.budgets(database, "provider", lambda _: 1_000_000, month, DECEMBER)
        return row["left_microusd"]

    assert (left("2026-11"), left("2026-12")) == (470_000, 995_900)


def test_a_hold_of_last_month_is_given_back_to_last_month(database):
    """Its end in the next month takes it from where it was, and counts what it cost there, though it cost more."""
    ledger = fold(database, [*begun(), (DECEMBER, say(DONE, usage=[call(530_000)]))])
    assert sums(database)["provider:anthropic", "2026-11"] == (530_000, 0, 0)
    assert ("provider:anthropic", "2026-12") not in sums(database)
    assert sums(database) == {key: (s.committed, s.held, s.unpriced) for key, s in ledger.accounts.items()}


def test_what_a_replaced_run_cost_counts_once(database):
    """The record that reserves anew may tell what the run before has used: that is no cost of the next one."""
    fold(database, [*begun(), say(reserved(), usage=[call(70)])])
    costs = database.query("SELECT hold, calls, cost_microusd FROM holds ORDER BY n")
    assert [tuple(row.values()) for row in costs] == [("h-1", 1, 70), ("h-2", 0, None)]
    assert database.query("SELECT calls, cost_microusd FROM budgets") == [{"calls": 1, "cost_microusd": 70}]


def test_the_newest_decision_counts(database):
    """Each one is kept with who, when and why; no cap is a decision as well, and goes before that of a policy."""
    said = [
        compose(
            Budget(budget="cap", account=account, period=period, microusd=cap, reason=reason),
            sender="@human",
            recipient="@bus",
            task="budget",
        )
        for account, period, cap, reason in (
            ("provider:anthropic", "month", 1, "first"),
            ("provider:anthropic", "month", 5_000_000, "second"),
            ("provider:anthropic", "day", 2, "a day"),
            ("provider:google", "month", 3, "some"),
            ("provider:google", "month", None, "none"),
        )
    ]
    fold(database, said)
    caps = database.query("SELECT account, period, microusd, decided_by, reason FROM caps ORDER BY account, period")
    assert [tuple(row.values()) for row in caps] == [
        ("provider:anthropic", "day", 2, "@human", "a day"),
        ("provider:anthropic", "month", 5_000_000, "@human", "second"),
        ("provider:google", "month", None, "@human", "none"),
    ]
    rows = {
        row["provider"]: (row["cap_microusd"], row["cap_recorded"])
        for row in queries.budgets(database, "provider", lambda _: 7, "2026-11", NOVEMBER)
    }
    assert rows == {"anthropic": (5_000_000, True), "google": (None, True)}
    assert database.query("SELECT count(*) AS n FROM tasks") == [{"n": 0}]
    assert database.query("SELECT count(*) AS n FROM cap_decisions") == [{"n": 5}]


def test_a_warning_is_kept_with_what_was_seen(database):
    """The account, its span and cap, and how much of it was used; the task goes on as it was."""
    warned = Budget(
        budget="warned",
        account="provider:anthropic",
        period="month",
        span="2026-11",
        microusd=600_000,
        committed=0,
        held=500_000,
    )
    fold(database, [*begun(), say(warned, "@bus")])
    (row,) = database.query("SELECT * FROM budget_warnings")
    seen = ("account", "span", "cap_microusd", "committed_microusd", "held_microusd", "task")
    assert tuple(row[name] for name in seen) == ("provider:anthropic", "2026-11", 600_000, 0, 500_000, "t")
    assert database.query("SELECT state FROM tasks") == [{"state": "working"}]
