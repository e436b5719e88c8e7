"""The read models: the same rows as a fold in plain Python gives, for any history, however it is cut."""

from __future__ import annotations

import tempfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from msgspec import structs

from taskbus.codec import document
from taskbus.envelope import Acknowledgment, Delegation, Status, Usage, compose
from taskbus.errors import ProjectionStopped
from taskbus.log import Entry
from taskbus.money import MOST, Ledger
from taskbus.position import Position
from taskbus_projections import dump
from tests.taskbus_projections.histories import PREFIX, fold, open_database, seeded, stories, written
from tests.taskbus_projections.plain_fold import plain_fold
from tests.taskbus_projections.plain_history import histories, history, taken, total

CUTS = st.lists(st.integers(1, 120), max_size=6)
_UNHURRIED = {"deadline": None, "suppress_health_check": [HealthCheck.too_slow, HealthCheck.data_too_large]}


def rows(database, table, columns):
    """The rows of a table, in an order of their own."""
    names = ", ".join(f'"{name}"' for name in columns)
    found = database.connection.execute(f"SELECT {names} FROM {table}").fetchall()
    return sorted((dict(zip(columns, row, strict=True)) for row in found), key=repr)


def columns(database, table):
    """The names of its columns."""
    return [row[1] for row in database.connection.execute(f"PRAGMA table_info({table})")]


def agrees(database, entries):
    """Every table has the rows, and the columns, of the plain fold."""
    for table, expected in plain_fold(PREFIX, entries).items():
        names = [name for name in columns(database, table) if (table, name) != ("events", "summary")]
        if expected:
            assert sorted(expected[0]) == sorted(names), table
        ordered = sorted(({name: row[name] for name in names} for row in expected), key=repr)
        assert rows(database, table, names) == ordered, table


@settings(max_examples=50, **_UNHURRIED)
@given(story=stories, cuts=CUTS)
def test_any_legal_history_is_folded_as_plain_python_folds_it(story, cuts):
    """Row by row and column by column, in every table; and the same when it is cut into other batches, or rebuilt."""
    entries = written(story, legal=True)
    with (
        tempfile.TemporaryDirectory() as folder,
        open_database(Path(folder, "one.db")) as one,
        open_database(Path(folder, "two.db"), new=True) as two,
    ):
        fold(one, entries, cuts)
        agrees(one, entries)
        fold(two, entries)
        two.complete()
        assert dump.digests(one) == dump.digests(two)
        assert said(one) == said(two)


def said(database):
    """What the full-text search has: each word with the places where it stands."""
    database.connection.execute("CREATE VIRTUAL TABLE temp.words USING fts5vocab(main, texts, instance)")
    return database.connection.execute("SELECT term, doc, col, offset FROM words ORDER BY 1, 2, 3, 4").fetchall()


@settings(max_examples=30, **_UNHURRIED)
@given(story=stories, cuts=CUTS)
def test_any_history_is_folded_up_to_what_the_lifecycle_has_no_rule_for(story, cuts):
    """There it stops, with everything before it folded; told to set it aside, it goes on with all the rest."""
    entries = written(story, legal=False)
    strange = [each for each in history(PREFIX, entries) if each.strange]
    with tempfile.TemporaryDirectory() as folder:
        with open_database(Path(folder, "one.db")) as one:
            if strange:
                with pytest.raises(ProjectionStopped, match="read model tasks cannot fold") as stopped:
                    fold(one, entries, cuts)
                assert stopped.value.position == str(strange[0].entry.position)
                agrees(one, entries[: strange[0].n - 1])
            else:
                fold(one, entries, cuts)
        with open_database(Path(folder, "two.db")) as two:
            fold(two, entries, cuts, set_aside=True)
            agrees(two, entries)
            aside = two.connection.execute("SELECT n, model FROM set_aside ORDER BY n").fetchall()
            assert aside == [(each.n, "tasks") for each in strange]


@pytest.fixture(scope="module")
def entries():
    """A long history in which much has happened."""
    return written(seeded(48), legal=True)


@pytest.fixture(scope="module")
def plain(entries):
    """Its rows in every table, by the plain fold."""
    return plain_fold(PREFIX, entries)


@pytest.fixture(scope="module")
def database(entries, tmp_path_factory):
    """It is folded here."""
    with open_database(tmp_path_factory.mktemp("models") / "models.db") as database:
        fold(database, entries, (17, 40, 41, 90))
        yield database


def view(database, name):
    """The rows of a view, as it gives them."""
    return [dict(row) for row in database.query(f"SELECT * FROM {name}")]


def added(rows, name):
    """A sum that is None where nobody said a number."""
    return total(row[name] for row in rows)


def test_open_work_is_what_is_not_finished_the_oldest_first(database, plain):
    """With whose turn it is: the assignee's, of what is escalated the coordinator's, else the delegator's."""
    turns = {"submitted": "assignee", "working": "assignee", "escalated": "coordinator"}
    waiting = sorted((row for row in plain["tasks"] if row["finished"] is None), key=lambda row: row["created"])
    expected = [(row["id"], row[turns.get(row["state"], "delegator")], row["goal"]) for row in waiting]
    assert [(row["id"], row["holder"], row["goal"]) for row in view(database, "open_work")] == expected
    assert len({row["state"] for row in waiting}) > 2


def test_the_slowest_tasks_come_first_and_say_where_the_time_went(database, plain):
    """The times in all states together are the time from the first delegation to the end."""
    found = view(database, "slowest_tasks")
    times = sorted((row["elapsed_ms"] for row in plain["tasks"] if row["elapsed_ms"] is not None), reverse=True)
    assert [row["elapsed_ms"] for row in found] == times
    for row in found:
        parts = [row[name] for name in row if name.endswith("_ms") and name != "elapsed_ms"]
        assert sum(parts) == row["elapsed_ms"]
    assert len(found) > 5


@pytest.mark.parametrize(
    ("name", "keys"),
    [
        ("cost_by_month", ("month", "provider")),
        ("cost_by_day", ("day",)),
        ("cost_by_agent", ("agent",)),
        ("cost_by_model", ("provider", "model")),
        ("cost_by_tree", ("root",)),
        ("cost_by_task", ("task",)),
    ],
)
def test_costs_add_up_by_whatever_is_asked_for(database, plain, name, keys):
    """From the calls themselves; what nobody priced is no zero, and counted beside."""
    ledger = [row | {"day": row["time"][:10], "month": row["time"][:7]} for row in plain["usage"]]
    found = {tuple(row[key] for key in keys): row for row in view(database, name)}
    assert set(found) == {tuple(row[key] for key in keys) for row in ledger}
    for key, row in found.items():
        calls = [call for call in ledger if tuple(call[name] for name in keys) == key]
        assert row["calls"] == len(calls)
        assert row["unpriced_calls"] == sum(call["cost_microusd"] is None for call in calls)
        assert row["cost_microusd"] == added(calls, "cost_microusd")
    if name in ("cost_by_tree", "cost_by_task"):
        costs = [row["cost_microusd"] or 0 for row in view(database, name)]
        assert costs == sorted(costs, reverse=True)


def test_held_and_spent_stand_beside_the_cap_on_record(database, plain):
    """By account and span; what is left is told where the newest decision is a cap."""
    caps = {(row["account"], row["period"]): row["microusd"] for row in plain["cap_decisions"]}
    found = view(database, "budget_use")
    assert len(found) == len(plain["accounts"])
    for row in found:
        (of,) = [each for each in plain["accounts"] if (each["account"], each["span"]) == (row["account"], row["span"])]
        assert {name: row[name] for name in of} == of
        cap = caps.get((row["account"], row["period"]))
        used = of["committed_microusd"] + of["held_microusd"]
        assert (row["cap_microusd"], row["left_microusd"]) == (cap, None if cap is None else cap - used)
    assert {row["account"] for row in found} >= {"provider:unknown", "provider:local", "agent:@kilo", "task:task-0"}
    assert {(row["account"], row["period"]): row["microusd"] for row in view(database, "caps")} == caps
    assert caps


@settings(max_examples=40, **_UNHURRIED)
@given(story=stories)
def test_the_accounts_are_those_of_the_rule_that_the_server_keeps(story):
    """Sums, open holds and caps of any legal history are those of the fold that the counters are checked against."""
    entries = written(story, legal=True)
    ledger = Ledger()
    for entry in entries:
        ledger.fold(entry)
    with tempfile.TemporaryDirectory() as folder, open_database(Path(folder, "one.db")) as database:
        fold(database, entries)
        found = {
            (row["account"], row["span"]): (
                min(row["committed_microusd"], MOST),
                row["held_microusd"],
                row["unpriced_calls"],
            )
            for row in database.query("SELECT * FROM accounts")
        }
        holds = {row["task"]: row["hold"] for row in database.query("SELECT * FROM holds WHERE state = 'open'")}
        caps = {(row["account"], row["period"]): row["microusd"] for row in database.query("SELECT * FROM caps")}
    sums = {key: (each.committed, each.held, each.unpriced) for key, each in ledger.accounts.items()}
    assert found == sums
    assert holds == {task: hold.id for task, hold in ledger.holds.items()}
    assert caps == ledger.caps


def test_open_escalations_are_those_that_nobody_dealt_with(database, plain):
    """The oldest first."""
    expected = sorted(row["n"] for row in plain["escalations"] if row["outcome"] is None)
    assert [row["n"] for row in view(database, "open_escalations")] == expected
    assert expected


def test_the_months_of_escalations_count_incidents(database, plain):
    """An incident reached a human where any of its escalations did."""
    firsts = [row for row in plain["escalations"] if row["n"] == row["incident"]]
    reached = {row["incident"] for row in plain["escalations"] if row["human"]}
    for row in view(database, "escalation_months"):
        these = [each for each in firsts if each["time"][:7] == row["month"]]
        human = sum(each["n"] in reached for each in these)
        assert (row["incidents"], row["human"]) == (len(these), human)
        assert row["human_share"] == pytest.approx(human / len(these), abs=1e-4)
        times = [each["answer_ms"] for each in these if each["outcome"]]
        assert row["answered"] == len(times)
        assert row["mean_answer_ms"] == (sum(times) // len(times) if times else None)


def test_the_rates_of_an_agent_come_from_its_days(database, plain):
    """Success of what was completed, failed or escalated; rework of what was judged; escalation of what was given."""
    for row in view(database, "agent_totals"):
        days = [day for day in plain["agent_days"] if day["agent"] == row["agent"]]
        sums = {name: sum(day[name] for day in days) for name in ("assigned", "completed", "failed", "escalated")}
        assert {name: row[name] for name in sums} == sums
        tried = sums["completed"] + sums["failed"] + sums["escalated"]
        assert row["success_rate"] == (pytest.approx(sums["completed"] / tried, abs=1e-4) if tried else None)
        judged = sum(day["accepted"] + day["rejected"] for day in days)
        rejected = sum(day["rejected"] for day in days)
        assert row["rework_rate"] == (pytest.approx(rejected / judged, abs=1e-4) if judged else None)
        assert row["cycle_max_ms"] == max((day["cycle_max_ms"] or 0 for day in days if day["cycles"]), default=None)


def test_the_months_of_work_say_how_much_of_it_was_done_again(database, plain):
    """Further attempts of what was given to somebody, rejected results of those judged, and what reached a human."""
    found = view(database, "work_by_month")
    firsts = [row for row in plain["escalations"] if row["n"] == row["incident"]]
    assert {row["month"] for row in found} == {day["day"][:7] for day in plain["agent_days"]}
    for row in found:
        days = [day for day in plain["agent_days"] if day["day"][:7] == row["month"]]
        names = ("assigned", "repeats", "completed", "failed", "accepted", "rejected")
        sums = {name: sum(day[name] for day in days) for name in names}
        assert {name: row[name] for name in names} == sums
        assert row["incidents"] == sum(each["time"][:7] == row["month"] for each in firsts)
        assert row["repeat_rate"] == share(sums["repeats"], sums["assigned"])
        assert row["rework_rate"] == share(sums["rejected"], sums["accepted"] + sums["rejected"])
        assert row["escalation_rate"] == share(row["incidents"], sums["assigned"])
        assert row["human_share"] == share(row["human"], row["incidents"])


def share(part, whole):
    """A share from 0 to 1; None of nothing."""
    return pytest.approx(part / whole, abs=1e-4) if whole else None


def test_half_of_the_deliveries_took_less_than_the_median_bucket(database, entries):
    """And it is no more than a sixteenth below the time itself."""
    told = histories(history(PREFIX, entries))
    times = {}
    for of in told.values():
        for at, each in enumerate(of):
            ack = taken(of[:at]) if each.entry.type == "completion" else None
            if ack:
                times.setdefault(each.agent, []).append(each.ms - ack.ms)
    found = {row["agent"]: row for row in view(database, "cycle_times")}
    assert set(found) == set(times)
    for agent, row in found.items():
        ordered = sorted(times[agent])
        assert row["deliveries"] == len(ordered)
        for name, share in (("p50_ms", 50), ("p95_ms", 95)):
            time = ordered[-(-len(ordered) * share // 100) - 1]
            assert row[name] <= time
            assert time - row[name] <= time / 16


def test_an_accepted_result_costs_what_all_tries_together_cost(database, plain):
    """By month, agent and model, also where nothing was accepted: then there is no cost of one."""
    for row in view(database, "cost_of_acceptance"):
        key = (row["month"], row["agent"], row["model"])
        calls = [call for call in plain["usage"] if (call["time"][:7], call["agent"], call["model"]) == key]
        days = [day for day in plain["agent_days"] if (day["day"][:7], day["agent"], day["model"]) == key]
        accepted, cost = sum(day["accepted"] for day in days), added(calls, "cost_microusd")
        assert (row["accepted"], row["cost_microusd"]) == (accepted, cost)
        assert row["microusd_per_accepted"] == (cost // accepted if accepted and cost is not None else None)


def test_the_rates_of_gates_count_each_outcome(database, plain):
    """By agent, model and layer; what was skipped is neither a pass nor a failure."""
    for row in view(database, "gate_rates"):
        key = (row["agent"], row["model"], row["layer"])
        these = [each for each in plain["gates"] if (each["agent"], each["model"] or "", each["layer"]) == key]
        outcomes = [each["outcome"] for each in these]
        passed, failed = outcomes.count("passed"), outcomes.count("failed")
        assert (row["passed"], row["failed"], row["skipped"]) == (passed, failed, outcomes.count("skipped"))
        share = pytest.approx(failed / (passed + failed), abs=1e-4) if passed + failed else None
        assert row["failed_share"] == share


@pytest.mark.parametrize(
    ("asked", "text"),
    [
        ("reset", "Reset the cache; reset it twice"),
        ("prosim", "Zkontroluj to, prosím"),
        ('"no disk"', "no disk"),
        ("prices*", "100% of prices_list"),
    ],
)
def test_what_was_said_is_found_by_its_words(database, plain, asked, text):
    """In any case and without accents, as a phrase or by its beginning: in whatever field of the payload it stands."""
    found = [row[0] for row in database.connection.execute("SELECT rowid FROM texts WHERE texts MATCH ?", (asked,))]
    quoted = text.encode()
    expected = [row["n"] for row in plain["events"] if quoted in row["body"]]
    assert set(found) == set(expected)
    assert len(found) > 10


def test_an_id_that_was_used_before_stops_nothing(tmp_path):
    """Once a task that has ended is archived, the server knows its IDs no more: another task may use one anew."""
    first = entry_of(compose(Delegation(goal="one"), sender="@boss", recipient="@kilo", task="one"), 1)
    second = entry_of(compose(Delegation(goal="two"), sender="@boss", recipient="@kilo", task="two"), 2)
    again = structs.replace(second, id=first.id)
    with open_database(tmp_path / "again.db") as database:
        fold(database, [first, again], (1,))
        assert database.query("SELECT id, task FROM events ORDER BY n") == [
            {"id": first.id, "task": "one"},
            {"id": first.id, "task": "two"},
        ]
        assert database.query("SELECT count(*) AS n FROM tasks") == [{"n": 2}]
        assert database.query("PRAGMA foreign_key_check") == []


def test_a_sum_is_never_more_than_sqlite_can_hold(tmp_path):
    """Whatever envelopes claim, folding goes on, and what is too much stays at the greatest number."""
    calls = tuple(Usage(provider="p", model="m", input_tokens=2**53 - 1) for _ in range(700))
    first = entry_of(compose(Delegation(goal="g"), sender="@boss", recipient="@kilo", task="t", usage=calls), 1)
    second = entry_of(compose(Status(progress="p"), sender="@kilo", recipient="@boss", task="t", usage=calls), 2)
    ack = entry_of(compose(Acknowledgment(accepted=True), sender="@kilo", recipient="@boss", task="t", usage=calls), 1)
    with open_database(tmp_path / "sums.db") as database:
        fold(database, [first, ack, second], (1, 2))
        for table in ("spending", "task_spending", "tree_spending"):
            most = database.query(f"SELECT sum(calls) AS calls, max(input_tokens) AS most FROM {table}")
            assert most == [{"calls": 2100, "most": 2**63 - 1}]


def entry_of(envelope, ms):
    """An envelope as the log holds it."""
    made = document(envelope)
    heads = (envelope.id, envelope.type, envelope.sender, envelope.recipient, envelope.task, envelope.task)
    return Entry(Position(0, 1_763_625_600_000, ms), *heads, envelope.priority, made.content_type, made.body)
