"""The outlook of a month: what is left of caps, and a forecast that says how it is reckoned."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from taskbus.envelope import Acknowledgment, Completion, Cost, Delegation, Hold, Result, Status, Usage, compose
from taskbus.errors import UsageError
from taskbus_projections import queries
from taskbus_projections.database import Database
from taskbus_projections.queries import Spent
from taskbus_projections.queries.outlook import WINDOW
from taskbus_projections.registry import BUILTIN
from taskbus_projections.sums import MOST
from tests.bench.synthetic import fold
from tests.taskbus_projections import handmade

DAY = 86_400_000
FIRST = datetime(2026, 11, 1, tzinfo=UTC)


def call(microusd, provider="openrouter"):
    """A call; unpriced without a cost."""
    cost = None if microusd is None else Cost(source="reported", microusd=microusd)
    return Usage(provider=provider, model="qwen3", cost=cost)


@pytest.fixture
def spend(tmp_path):
    """A function that folds what was spent: agent and calls, one envelope a day at noon; the database."""
    opened = []

    def folded(begin, *days):
        envelopes = []
        for number, (agent, *calls) in enumerate(days):
            task = f"task-{number}"
            envelopes.append(compose(Delegation(goal="g"), sender="@boss", recipient=agent, task=task))
            taken = Acknowledgment(accepted=True)
            envelopes.append(compose(taken, sender=agent, recipient="@boss", task=task, usage=tuple(calls)))
        database = Database.open(tmp_path / "spent.db", "spent:", BUILTIN)
        opened.append(database)
        connection = database.__enter__()
        # Two envelopes a day: the delegation at midnight, the call at noon.
        fold(connection, envelopes, begin=int(begin.timestamp() * 1000) - DAY // 2, step=DAY // 2)
        return connection

    yield folded
    for database in opened:
        database.__exit__(None, None, None)


def test_a_month_goes_on_as_it_has_gone(spend):
    """What was spent, and for the days that are left the mean of the whole days before; unpriced calls are in none."""
    database = spend(FIRST, *[("@kilo", call(1_000_000), call(None))] * 10)
    now = FIRST + timedelta(days=10)
    found = queries.forecast(database, "2026-11", now)
    assert found is not None
    assert (found.microusd, found.daily, found.days, found.left) == (30_000_000, 1_000_000, 10, 20)
    assert "20.0 days that are left" in found.method
    assert "the last 10 whole days" in found.method
    assert queries.forecast(database, "2026-10", now) is None
    assert queries.forecast(database, "2026-12", now) is None
    assert queries.forecast(database, "2026-11", now, of=("agent", "@nobody")).microusd == 0


def test_days_without_a_call_count_and_old_days_do_not(spend):
    """The mean is that of the newest days, idle ones included, also of those of the month before."""
    begin = FIRST - timedelta(days=20)
    database = spend(begin, *[("@kilo", call(14_000_000))] * 10)
    now = FIRST + timedelta(days=1)
    found = queries.forecast(database, "2026-11", now)
    # Of the last 14 days, from 19 October on, the first three had a call.
    assert (found.days, found.daily, found.microusd) == (WINDOW, 3_000_000, 29 * 3_000_000)


def test_a_first_day_says_something_once_an_hour_has_passed(spend):
    """At the rate of that day, which is said; right after midnight nothing is known, nor where nothing was spent."""
    database = spend(FIRST, ("@kilo", call(500_000)))
    assert queries.forecast(database, "2026-11", FIRST + timedelta(minutes=10)) is None
    found = queries.forecast(database, "2026-11", FIRST + timedelta(hours=12))
    assert (found.daily, found.microusd) == (1_000_000, 30_000_000)
    assert "first day" in found.method


def test_nothing_is_forecast_from_nothing(spend):
    """A bus without calls has no forecast, and no budgets."""
    database = spend(FIRST, ("@kilo",))
    assert queries.forecast(database, "2026-11", FIRST) is None
    assert queries.budgets(database, "provider", lambda _: 1, "2026-11", FIRST) == []


def test_caps_have_what_is_left_of_them(spend):
    """Spent and left of the month alone; below zero where a cap was exceeded; None without a cap."""
    database = spend(
        FIRST - timedelta(days=1),
        ("@kilo", call(9_000_000), call(5, "old")),
        ("@kilo", call(3_000_000), call(None, "local")),
        ("@cline", call(4_000_000)),
    )
    caps = {"openrouter": 5_000_000, "local": 1_000_000}
    rows = queries.budgets(database, "provider", caps.get, "2026-11", FIRST + timedelta(days=2))
    assert [
        (row["provider"], row["calls"], row["unpriced_calls"], row["cost_microusd"], row["left_microusd"])
        for row in rows
    ] == [
        ("openrouter", 2, 0, 7_000_000, -2_000_000),
        ("local", 1, 1, None, 1_000_000),
        ("old", 0, 0, None, None),
    ]
    assert rows[0]["expected_microusd"] > 7_000_000
    agents = queries.budgets(database, "agent", {"@kilo": 3_000_000}.get, "2026-11", FIRST + timedelta(days=40))
    assert [(row["agent"], row["left_microusd"], row["expected_microusd"]) for row in agents] == [
        ("@cline", None, None),
        ("@kilo", 0, None),
    ]


@pytest.mark.parametrize(
    ("by", "spent", "found"),
    [
        ("day", Spent(), [("2026-10-31", 9_000_005), ("2026-11-01", 3_000_000), ("2026-11-02", 4_000_000)]),
        ("month", Spent(), [("2026-10", 9_000_005), ("2026-11", 7_000_000)]),
        ("month", Spent(agent="@cline"), [("2026-11", 4_000_000)]),
        ("agent", Spent(month="2026-11"), [("@cline", 4_000_000), ("@kilo", 3_000_000)]),
        ("task", Spent(month="2026-11"), [("task-2", 4_000_000), ("task-1", 3_000_000)]),
        ("tree", Spent(provider="local", month="2026-11"), [("task-1", None)]),
        ("day", Spent(root="task-1"), [("2026-11-01", 3_000_000)]),
        ("provider", Spent(task="task-0"), [("openrouter", 9_000_000), ("old", 5)]),
        ("task", Spent(), [("task-0", 9_000_005), ("task-2", 4_000_000), ("task-1", 3_000_000)]),
    ],
)
def test_costs_can_be_narrowed(spend, by, spent, found):
    """By month, agent, provider, task and tree, from the sums of days or call by call: the same."""
    database = spend(
        FIRST - timedelta(days=1),
        ("@kilo", call(9_000_000), call(5, "old")),
        ("@kilo", call(3_000_000), call(None, "local")),
        ("@cline", call(4_000_000)),
    )
    rows = queries.costs(database, by, spent).rows
    assert [(next(iter(row.values())), row["cost_microusd"]) for row in rows] == found
    whole = queries.total(database, spent)
    assert whole["cost_microusd"] == (sum(cost for _, cost in found if cost) or None)
    first = queries.costs(database, by, spent, limit=1)
    assert (first.rows, first.more) == (rows[:1], len(rows) > 1)


def test_what_would_read_every_call_is_refused(spend):
    """Tasks of an agent are in no sum that is kept: a month, or a tree, has to be named."""
    database = spend(FIRST, ("@kilo", call(1)))
    with pytest.raises(UsageError, match="every call"):
        queries.costs(database, "task", Spent(agent="@kilo"))
    assert queries.costs(database, "task", Spent(agent="@kilo", root="task-0")).rows[0]["cost_microusd"] == 1


def test_tiers_add_up_to_the_whole(spend):
    """Each call belongs to one tier, or to none; what is unpriced is counted in each."""
    database = spend(FIRST, ("@kilo", call(1), call(None)), ("@cline", call(7)), ("@gemini", call(None)))
    rows = queries.tiers(database, lambda agent, _provider, _model: {"@kilo": "low", "@cline": "high"}.get(agent))
    assert [(row["tier"], row["calls"], row["unpriced_calls"], row["cost_microusd"]) for row in rows] == [
        ("high", 1, 0, 7),
        ("low", 2, 1, 1),
        (None, 1, 1, None),
    ]


def test_what_is_held_is_not_left(database):
    """An open hold counts until it ends, beside what was spent under it, for its provider and its agent."""
    said = []
    for task, agent, microusd, *calls in (
        ("open", "@kilo", 5_000_000, call(2_000_000), call(None)),
        ("beyond", "@kilo", 1_000_000, call(3_000_000)),
        ("idle", "@cline", 700_000),
        ("done", "@cline", 900_000, call(100_000)),
    ):
        taken = Acknowledgment(accepted=True, provider="openrouter", hold=Hold(id=f"h-{task}", microusd=microusd))
        said += [
            compose(Delegation(goal="g"), sender="@boss", recipient=agent, task=task),
            compose(taken, sender=agent, recipient="@boss", task=task),
            compose(Status(progress="half"), sender=agent, recipient="@boss", task=task, usage=tuple(calls)),
        ]
    done = Completion(result=Result(status="success"))
    said.append(compose(done, sender="@cline", recipient="@boss", task="done"))
    handmade.fold(database, [(FIRST, envelope) for envelope in said])
    (row,) = queries.budgets(database, "provider", lambda _: 10_000_000, "2026-11", FIRST)
    assert (row["cost_microusd"], row["held_microusd"], row["left_microusd"]) == (5_100_000, 6_700_000, -1_800_000)
    agents = {row["agent"]: row for row in queries.budgets(database, "agent", lambda _: 6_000_000, "2026-11", FIRST)}
    assert {name: (row["held_microusd"], row["left_microusd"]) for name, row in agents.items()} == {
        "@kilo": (6_000_000, -5_000_000),
        "@cline": (700_000, 5_200_000),
    }


def test_a_hold_alone_is_a_budget(database):
    """Who has spent nothing yet, and has a hold, is listed."""
    taken = Acknowledgment(accepted=True, provider="google", hold=Hold(id="h", microusd=500_000))
    given = compose(Delegation(goal="g"), sender="@boss", recipient="@kilo", task="t")
    held = compose(taken, sender="@kilo", recipient="@boss", task="t")
    handmade.fold(database, [(FIRST, given), (FIRST, held)])
    (row,) = queries.budgets(database, "provider", lambda _: 2_000_000, "2026-11", FIRST)
    wanted = {"provider": "google", "calls": 0, "cost_microusd": None, "left_microusd": 1_500_000}
    assert {name: row[name] for name in wanted} == wanted
    assert queries.budgets(database, "provider", lambda _: 2_000_000, "2026-10", FIRST) == []


@pytest.mark.parametrize("by", ["provider", "model", "agent", "task", "tree", "month", "day"])
def test_no_sum_is_too_great(spend, by):
    """Numbers that no envelope should claim stop at the greatest that SQLite has, instead of stopping the query."""
    greatest = 2**53 - 1
    huge = Usage(provider="p", model="m", input_tokens=greatest, cost=Cost(source="reported", microusd=greatest))
    database = spend(FIRST, *[("@kilo", *[huge] * 700), ("@cline", *[huge] * 700)] * 2)
    for spent in (Spent(), Spent(month="2026-11")):
        rows = queries.costs(database, by, spent).rows
        assert max(row["cost_microusd"] for row in rows) <= MOST
        assert sum(row["calls"] for row in rows) == 2800
        whole = queries.total(database, spent)
        assert (whole["cost_microusd"], whole["input_tokens"]) == (MOST, MOST)
    (tier,) = queries.tiers(database, lambda *_: "all")
    assert tier["cost_microusd"] == MOST
    assert queries.total(database, Spent(agent="@kilo", month="2026-11"))["cost_microusd"] == MOST
    assert queries.budgets(database, "provider", lambda _: 1, "2026-11", FIRST)[0]["cost_microusd"] == MOST
    one = queries.task(database, "task-0")["id"]
    (attempt,) = queries.attempts(database, one, queries.transitions(database, one))
    assert attempt["cost_microusd"] == 700 * greatest


def test_holds_of_any_size_are_folded(spend):
    """What is reserved, and given back, in numbers that no envelope should claim does not stop the projector."""
    greatest, count = 2**53 - 1, 1100
    taken = Acknowledgment(accepted=True, provider="p", hold=Hold(id="h", microusd=greatest))
    done = Completion(result=Result(status="failure"))
    database = spend(FIRST)
    for _ in range(2):
        tasks = [f"task-{database.checkpoint().folded}-{number}" for number in range(count)]
        given = [compose(Delegation(goal="g"), sender="@boss", recipient="@kilo", task=task) for task in tasks]
        fold(database, [*given, *(compose(taken, sender="@kilo", recipient="@boss", task=task) for task in tasks)])
        fold(database, [compose(done, sender="@kilo", recipient="@boss", task=task) for task in tasks])
    (row,) = database.connection.execute("SELECT sum(open_holds), max(reserved_microusd) FROM budgets")
    assert row == (0, MOST)
