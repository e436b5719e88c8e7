"""A story about a budget through the command line: a cap, what it refuses, a human's decision, and what is left."""

from __future__ import annotations

import json

import pytest

from taskbus.codec import encode
from taskbus.envelope import (
    Acknowledgment,
    Completion,
    Cost,
    Delegation,
    Hold,
    Result,
    Status,
    Usage,
    compose,
    new_id,
)
from taskbus.keys import Keys

POLICY = """
[caps]
"*" = 20
google = 3
"@kilo" = 2
[caps_per_day]
anthropic = "0.75"
[caps_per_task]
"*" = 5
"""


@pytest.fixture
def work(bus):
    """A bus on which @kilo is to do two tasks."""
    for task in ("cache-1", "cache-2"):
        bus.on_bus(lambda client, task=task: client.publish(given(task)))
    return bus


def given(task):
    """A task for @kilo."""
    return compose(Delegation(goal="g", review_required=False), sender="@boss", recipient="@kilo", task=task)


def reserving(task, microusd, provider="anthropic"):
    """The acknowledgment that reserves money for a task, as a document."""
    hold = Hold(id=new_id(), microusd=microusd)
    payload = Acknowledgment(accepted=True, provider=provider, model="opus", hold=hold)
    return encode(compose(payload, sender="@kilo", recipient="@boss", task=task))


def done(task, microusd):
    """The end of a task, which cost so much."""
    cost = None if microusd is None else Cost(source="reported", microusd=microusd)
    used = Usage(provider="anthropic", model="opus", cost=cost)
    return encode(
        compose(
            Completion(result=Result(status="success")), sender="@kilo", recipient="@boss", task=task, usage=(used,)
        )
    )


def accounts(bus, *arguments):
    """What is shown of the accounts: spent, reserved, cap, left; by account and span."""
    found = json.loads(bus.ok("budget", "show", "--json", *arguments))["accounts"]
    names = ("committed_microusd", "held_microusd", "cap_microusd", "left_microusd")
    return {(row["account"], row["period"]): tuple(row[name] for name in names) for row in found}


def test_a_cap_refuses_until_a_human_raises_it(work):
    """Exit code 7 with the choices, and nothing is changed; once the cap is raised, the same envelope goes."""
    assert "No money was spent" in work("budget", "show").stderr
    assert "Nothing was spent or capped of provider:nope" in work("budget", "show", "nope").stderr
    shown = work("budget", "set", "anthropic", "0.50", "--reason", "what we agreed on")
    assert (shown.code, "$0.50" in shown.stdout, "human" in shown.stdout) == (0, True, True)
    asked = reserving("cache-1", 600_000)
    before = len(work.log())
    refused = work("publish", "-", input=asked)
    assert refused.code == 7
    for words in ("$0.60", "provider:anthropic", "Reserve less", "bus delegate", "bus budget set"):
        assert words in refused.stdout
    told = json.loads(work("publish", "-", "--json", input=asked).stdout)
    wanted = {"error": "OverBudget", "cap": 500_000, "committed": 0, "held": 0, "asked": 600_000, "period": "month"}
    assert {name: told[name] for name in wanted} == wanted
    assert told["resets"].endswith("-01T00:00:00+00:00")
    assert len(work.log()) == before
    assert work.ok("budget", "holds") == ""
    raised = work("budget", "set", "provider:anthropic", "$1", "--reason", "it is worth it", "--json")
    assert (raised.code, raised.json()["microusd"], raised.json()["now"]["left_microusd"]) == (0, 1_000_000, 1_000_000)
    assert work("publish", "-", input=asked).code == 0
    (hold,) = work("budget", "holds", "--json").json()["holds"]
    assert (hold["task"], hold["agent"], hold["microusd"], hold["model"]) == ("cache-1", "@kilo", 600_000, "opus")
    assert "cache-1" in work.ok("budget", "holds")
    assert accounts(work)["provider:anthropic", "month"] == (0, 600_000, 1_000_000, 400_000)
    assert work("publish", "-", input=reserving("cache-2", 400_001)).code == 7
    assert work("publish", "-", input=done("cache-1", 250_000)).code == 0
    assert accounts(work)["provider:anthropic", "month"] == (250_000, 0, 1_000_000, 750_000)
    assert work("publish", "-", input=reserving("cache-2", 750_000)).code == 0
    taken = work("budget", "set", "anthropic", "none", "--reason", "no more")
    assert "none" in taken.stdout
    assert accounts(work)["provider:anthropic", "month"] == (250_000, 750_000, None, None)
    decisions = json.loads(work.ok("sql", "--json", "SELECT reason FROM cap_decisions ORDER BY n"))["rows"]
    assert [row["reason"] for row in decisions] == ["what we agreed on", "it is worth it", "no more"]


def test_counters_log_and_read_models_say_the_same(work):
    """What is left is one number, whoever is asked: the server, the fold of the log, `bus costs` and the report."""
    for account, amount in (("anthropic", "10"), ("@kilo", "4")):
        work.ok("budget", "set", account, amount, "--reason", "agreed")
    work("publish", "-", input=reserving("cache-1", 600_000))
    unpriced = (Usage(provider="anthropic", model="odd"), Usage(provider="local", model="x"))
    said = Status(progress="half")
    half = compose(said, sender="@kilo", recipient="@boss", task="cache-1", usage=unpriced)
    work.on_bus(lambda client: client.publish(half))
    work("publish", "-", input=done("cache-1", 250_000))
    work("publish", "-", input=reserving("cache-2", 1_000_000))
    assert work("budget", "rebuild", "--check", "--json").json()["differences"] == []
    shown = accounts(work, "--all")
    rows = work("costs", "--json").json()["budgets"]["rows"]
    assert {(f"{row['of']}:{row['name']}", "month"): row["left_microusd"] for row in rows} == {
        ("provider:anthropic", "month"): 8_750_000,
        ("agent:@kilo", "month"): 2_750_000,
    }
    for (account, period), (spent, held, cap, left) in shown.items():
        sql = f"SELECT * FROM budget_use WHERE account = '{account}' AND period = '{period}'"
        (row,) = work("sql", sql, "--json").json()["rows"]
        names = ("committed_microusd", "held_microusd", "cap_microusd", "left_microusd")
        assert tuple(row[name] for name in names) == (spent, held, cap, left)
    text = work.ok("report")
    assert "| provider:anthropic | month | $10.00 | `@human` |" in text
    assert "$8.75" in text
    assert "$8.75" in work.ok("costs")


def test_caps_of_a_policy_stand_until_a_human_decides(work):
    """Those that it names are shown before anything is spent; a recorded one goes before, also a higher one."""
    (work.command.folder / "policy.toml").write_text(POLICY, encoding="utf-8")
    with_policy = ("--policy", "policy.toml")
    assert accounts(work, *with_policy) == {
        ("provider:anthropic", "day"): (0, 0, 750_000, 750_000),
        ("provider:google", "month"): (0, 0, 3_000_000, 3_000_000),
        ("agent:@kilo", "month"): (0, 0, 2_000_000, 2_000_000),
    }
    work("publish", "-", input=reserving("cache-1", 600_000))
    found = accounts(work, *with_policy, "--tasks")
    assert found["provider:anthropic", "month"] == (0, 600_000, 20_000_000, 19_400_000)
    assert found["task:cache-1", "task"] == (0, 600_000, 5_000_000, 4_400_000)
    work.ok("budget", "set", "google", "100", "--reason", "more of it")
    work.ok("budget", "set", "task:cache-1", "0.60", "--reason", "this one is done soon")
    shown = work("budget", "show", "google", "task:cache-1", *with_policy, "--json").json()["accounts"]
    assert [(row["cap_by"], row["left_microusd"], row["used"]) for row in shown] == [
        ("human", 100_000_000, 0.0),
        ("human", 0, 1.0),
    ]
    assert "policy" in work.ok("budget", "show", *with_policy)


def test_lost_counters_refuse_until_they_are_rebuilt(work):
    """Whoever empties them gets no money for it: exit code 7 with what to do; a rebuild brings back every number."""
    work.ok("budget", "set", "anthropic", "1", "--reason", "agreed")
    work("publish", "-", input=reserving("cache-1", 600_000))
    before = accounts(work, "--all")
    keys = Keys(work.command.environment["BUS_NAMESPACE"])
    work.on_bus(lambda client: client.connection.execute("DEL", keys.budget, keys.holds))
    for arguments in (("publish", "-"), ("budget", "show")):
        lost = work(*arguments, input=reserving("cache-2", 1))
        assert (lost.code, "bus budget rebuild" in lost.stdout + lost.stderr) == (7, True)
    check = work("budget", "rebuild", "--check")
    assert (check.code, "provider:anthropic" in check.stdout) == (1, True)
    assert "It counts what the log says now." in work("budget", "rebuild").stderr
    assert accounts(work, "--all") == before
    assert work("budget", "rebuild", "--check").code == 0
    assert work("publish", "-", input=reserving("cache-2", 400_001)).code == 7
    assert work("publish", "-", input=reserving("cache-2", 400_000)).code == 0


def test_what_is_reserved_can_be_given_back(work):
    """Once, by a human and with a reason in the log; there is nothing to give back after that."""
    work("publish", "-", input=reserving("cache-1", 600_000))
    refused = work("budget", "release", "cache-1", env={"BUS_AGENT": "@kilo"})
    assert (refused.code, "Only a human" in refused.stderr) == (4, True)
    assert "$0.60 given back" in work.ok("budget", "release", "cache-1", "--reason", "the machine is gone")
    assert work("budget", "holds", "--json").json()["holds"] == []
    again = work("budget", "release", "cache-1", "--json")
    assert (again.code, again.json()["error"]) == (3, "NotFound")
    assert "the machine is gone" in work.ok("audit", "--type", "budget")
    (hold,) = work("task", "cache-1", "--json").json()["holds"]
    assert (hold["state"], hold["ended_by"]) == ("released", "budget:released")


@pytest.mark.parametrize("amount", ["0.0000001", "nan", "inf", "1e3", "", "abc", "1,5", "1.", ".5", "9999999999", "١"])
def test_what_is_no_amount_is_refused(bus, amount):
    """It is said how an amount is written, and no cap is recorded."""
    refused = bus("budget", "set", "openai", amount, "--reason", "r")
    assert (refused.code, "US dollars" in refused.stderr) == (2, True)
    assert bus.log() == []


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (("set", "openai", "-1", "--reason", "r"), 2, "-1"),
        (("set", "openai", "5"), 2, "--reason"),
        (("set", "openai", "5", "--reason", " "), 2, "needs a reason"),
        (("set", "openai", "5", "--reason", "a\x1b[2J"), 2, "in one line"),
        (("set", "planet:x", "5", "--reason", "r"), 2, "is no account"),
        (("set", "provider:", "5", "--reason", "r"), 2, "is no account"),
        (("set", "@no body", "5", "--reason", "r"), 2, "is no account"),
        (("set", "agent:no\nbody", "5", "--reason", "r"), 2, "is no account"),
        (("set", "anthropic\nopenai", "5", "--reason", "r"), 2, "ACCOUNT"),
        (("set", "provider:anthr\u2028opic", "5", "--reason", "r"), 2, "is no account"),
        (("set", "provider:*", "5", "--reason", "r"), 2, "under [caps]"),
        (("set", "open?i", "5", "--reason", "r"), 2, "names several"),
        (("set", "", "5", "--reason", "r"), 2, "is no account"),
        (("set", "task:t", "5", "--per", "day", "--reason", "r"), 2, "There is no account"),
        (("set", "openai", "5", "--per", "year", "--reason", "r"), 2, "year"),
        (("release", "nobody-knows"), 3, "No money is reserved"),
        (("show", "--policy", "none.toml"), 2, "There is no file"),
    ],
)
def test_a_mistake_says_what_to_do(bus, arguments, code, words):
    """Each ends with its exit code, and records nothing."""
    refused = bus("budget", *arguments)
    assert (refused.code, words in refused.stderr) == (code, True), refused
    assert bus.log() == []


def test_an_agent_decides_on_no_cap(bus):
    """Its hooks say who it is: what a human decides does not come from there."""
    refused = bus("budget", "set", "openai", "500", "--reason", "I need it", env={"BUS_AGENT": "@kilo"})
    assert (refused.code, "Only a human decides" in refused.stderr) == (4, True)
    assert bus.log() == []


def test_an_account_that_nobody_has_used_is_pointed_out(work):
    """A cap of a name that was mistyped would hold nothing: the known ones are named, and the cap is set."""
    work("publish", "-", input=reserving("cache-1", 1))
    typed = work("budget", "set", "anthropc", "5", "--reason", "r")
    assert (typed.code, "did you mean provider:anthropic?" in typed.stderr) == (0, True)
    written = work("budget", "set", "Anthropic", "5", "--reason", "r").stderr
    assert "of provider:Anthropic before: did you mean provider:anthropic?" in written
    assert "Known: provider:Anthropic, provider:anthropc, provider:anthropic." in work(
        "budget", "set", "z", "5", "--reason", "r"
    ).stderr.replace("\n", " ")
    assert "did you mean @kilo?" in work("budget", "set", "@kiloo", "5", "--reason", "r").stderr
    assert "did you mean" not in work("budget", "set", "anthropic", "5", "--reason", "r").stderr


def test_what_a_budget_refused_is_named_when_the_cap_is_raised(work):
    """A worker whose reservation is refused parks its work with an escalation; the raise says how it goes on."""
    work.ok("budget", "set", "anthropic", "0.10", "--reason", "little")

    async def handler(one):
        await one.acknowledged()
        hold = await one.bus.budget.reserve(one.delivery, provider="anthropic", model="opus", microusd=200_000)
        return Completion(result=Result(status="success", description=hold.task))

    async def serve(client):
        await client.worker("@kilo", handler).run(until_idle=True)

    work.on_bus(serve)
    parked = work("parked", "ls", "--json").json()["parked"]
    assert {line["reason"] for line in parked} == {"refused-by-budget"}
    escalated = json.loads(work.ok("escalations", "--json"))["escalations"]
    assert len(escalated) == 2
    assert all("bus budget set" in str(row) for row in escalated)
    raised = work("budget", "set", "anthropic", "1", "--reason", "more")
    assert "bus parked replay cache-1" in raised.stderr
    work.ok("parked", "replay", "--all")
    work.on_bus(serve)
    assert {row["state"] for row in json.loads(work.ok("tasks", "--json"))["tasks"]} == {"accepted"}
    assert "bus parked replay" not in work("budget", "set", "anthropic", "2", "--reason", "more").stderr
