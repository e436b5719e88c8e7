"""`bus agents`, `bus gates`, `bus escalations`, and costs against caps, as people and programs ask for them."""

from __future__ import annotations

import csv
import io
from datetime import UTC, datetime

import pytest
from click.shell_completion import ShellComplete

from taskbus.cli import main
from taskbus.envelope import (
    Acknowledgment,
    Answer,
    Completion,
    Cost,
    Delegation,
    ErrorDetails,
    Escalation,
    Gate,
    QualityGates,
    Result,
    Usage,
    Verdict,
    compose,
)
from tests.scenarios.terminal import on_terminal, uncoloured

POLICY = """
[tiers.high]
models = ["*opus*"]
[tiers.low]
agents = ["@kilo"]
[caps]
anthropic = "1.00"
"@kilo" = "0.0001"
"""


@pytest.fixture
def story(bus):
    """@kilo's task was accepted, with a gate that failed; @cline's reached a human, and another one is open."""
    done = Completion(result=Result(status="success"))
    gates = QualityGates(input=Gate(outcome="passed"), output=Gate(outcome="failed", note="No tests"))
    stuck = [
        Escalation(error_details=ErrorDetails(level=level, category="execution", message="No disk")) for level in (4, 1)
    ]
    dear = Usage(provider="anthropic", model="opus", cost=Cost(source="priced", microusd=900_000, table="t"))
    cheap = Usage(provider="anthropic", model="haiku", cost=Cost(source="priced", microusd=300, table="t"))
    free = Usage(provider="local", model="qwen3")
    tasks = {
        name: compose(Delegation(goal=name), sender="@boss", recipient=agent, task=name)
        for name, agent in (("one", "@kilo"), ("two", "@cline"), ("three", "@cline"))
    }

    def about(name, payload, **more):
        sender = tasks[name].recipient
        return compose(payload, sender=sender, recipient="@boss", task=name, cause=tasks[name], **more)

    taken = Acknowledgment(accepted=True, model="opus")
    envelopes = [
        *tasks.values(),
        *(about(name, taken) for name in tasks),
        about("one", done, quality_gates=gates, usage=(cheap, free)),
        compose(Verdict(decision="accepted"), sender="@boss", recipient="@kilo", task="one"),
        about("two", stuck[0], usage=(dear,)),
        compose(Answer(answer="Buy one"), sender="@human", recipient="@cline", task="two"),
        about("three", stuck[1]),
    ]

    async def publish(found):
        for answer in await found.publish_many(envelopes):
            assert not isinstance(answer, Exception), answer

    bus.on_bus(publish)
    bus.ok("project")
    (bus.command.folder / "policy.toml").write_text(POLICY, encoding="utf-8")


def rows(text):
    """The rows of CSV."""
    return list(csv.DictReader(io.StringIO(text)))


def test_agents_in_a_list_and_one_by_one(bus, story):
    """Who did how much, and how well; with a name, all about that one; an unknown one is not found."""
    listed = bus("agents", "--json", "--no-sync").json()["agents"]
    assert [(row["agent"], row["success_rate"], row["open"]) for row in listed] == [
        ("@cline", 0.0, 2),
        ("@kilo", 1.0, 0),
    ]
    shown = bus.ok("agents", "--no-sync")
    assert "@kilo" in shown
    assert "@boss" not in shown
    assert "@boss" in bus.ok("agents", "--all", "--no-sync")
    kilo = bus("agents", "kilo", "--json", "--no-sync").json()
    assert kilo["agent"] == listed[1]
    assert kilo["states"] == {"accepted": 1}
    for text in ("100% of what was completed", "$0.0003 + 1 unpriced call", "Quality gates"):
        assert text in bus.ok("agents", "@kilo", "--no-sync")
    assert "Open work" in bus.ok("agents", "@cline", "--no-sync")
    assert [row["agent"] for row in rows(bus.ok("agents", "--csv", "--no-sync"))] == ["@cline", "@kilo"]
    assert {row["model"] for row in rows(bus.ok("agents", "@kilo", "--csv", "--no-sync"))} == {
        "",
        "haiku",
        "opus",
        "qwen3",
    }
    assert bus("agents", "@nobody", "--no-sync").code == 3
    assert bus("agents", "--month", "2020-01", "--json", "--no-sync").json()["agents"] == []


def test_agents_is_a_group_that_answers_by_itself(bus, story):
    """Options and names go to the query; its help is that of `bus agents`; mistakes name that command."""
    for arguments in (("--help",), ("@kilo", "--help")):
        shown = bus.ok("agents", *arguments)
        assert shown.startswith("Usage: bus agents [OPTIONS] [@AGENT]")
        assert "bus agents @kilo" in shown
    wrong = bus("agents", "--nonsense", "--json")
    assert (wrong.code, wrong.json()["advice"]) == (2, "See `bus agents --help`.")
    assert bus("agents", "no name").code == 2
    assert bus("agents", "@kilo", "@cline").code == 2


def test_gates_by_layer_and_what_failed(bus, story):
    """The five layers with their outcomes; the notes of those that failed."""
    found = bus("gates", "--json", "--no-sync").json()["gates"]
    assert [(row["agent"], row["layer"], row["failed_share"]) for row in found] == [
        ("@kilo", "input", 0.0),
        ("@kilo", "output", 1.0),
    ]
    assert "100%" in bus.ok("gates", "--by", "layer", "--no-sync")
    assert "No tests" in bus.ok("gates", "--failed", "--no-sync")
    (failed,) = rows(bus.ok("gates", "--failed", "--csv", "--no-sync"))
    assert (failed["layer"], failed["task"]) == ("output", "one")
    month = datetime.now(UTC).strftime("%Y-%m")
    assert {row["month"] for row in rows(bus.ok("gates", "--by", "month", "--csv", "--no-sync"))} <= {month}
    assert "matches" in bus("gates", "--agent", "@cline", "--no-sync").stderr
    assert bus("gates", "--failed", "--layer", "input").code == 2


def test_escalations_open_past_and_in_sum(bus, story):
    """The newest first, with who dealt with them; rates with the share that reached a human."""
    answer = bus("escalations", "--json", "--no-sync").json()
    assert [(row["task"], row["outcome"], row["human"]) for row in answer["escalations"]] == [
        ("three", None, False),
        ("two", "answer", True),
    ]
    assert (answer["open"], answer["rates"]["human"], answer["rates"]["tasks"]) == (1, 1, 3)
    shown = bus.ok("escalations", "--no-sync")
    for text in (
        "answer by @human",
        "2 incidents in 3 tasks (67%)",
        "1 reached a human (33% of the tasks)",
        "Open: 1.",
    ):
        assert text in shown
    assert [row["task"] for row in rows(bus.ok("escalations", "--open", "--csv", "--no-sync"))] == ["three"]
    assert [row["task"] for row in rows(bus.ok("escalations", "--human", "--csv", "--no-sync"))] == ["two"]
    (agent,) = rows(bus.ok("escalations", "--by", "agent", "--agent", "@cline", "--csv", "--no-sync"))
    assert (agent["agent"], agent["incidents"], agent["tasks"]) == ("@cline", "2", "2")
    assert "No escalation matches" in bus("escalations", "--agent", "@kilo", "--no-sync").stderr
    for mistake in (
        ("--level", "5"),
        ("--by", "mood"),
        ("--by", "day", "--open"),
        ("--month", "2026-11"),
        ("--category", "x"),
    ):
        assert bus("escalations", *mistake).code == 2


def test_costs_against_the_caps_of_a_policy(bus, story):
    """Tiers, what is left of each cap, and what the month will have cost, with how that is reckoned."""
    policy = ("--policy", "policy.toml", "--no-sync")
    tiers = bus("costs", "--by", "tier", *policy, "--json").json()
    assert [(row["tier"], row["cost_microusd"], row["unpriced_calls"]) for row in tiers["costs"]] == [
        ("high", 900_000, 0),
        ("low", 300, 1),
    ]
    budgets = {(row["of"], row["name"]): row["left_microusd"] for row in tiers["budgets"]["rows"]}
    assert budgets == {("provider", "anthropic"): 99_700, ("agent", "@kilo"): -200}
    shown = bus.ok("costs", *policy)
    assert "-$0.0002" in shown
    month = datetime.now(UTC).strftime("%Y-%m")
    assert f"Caps of {month}" in shown
    assert bus("costs", "--month", month, *policy, "--json").json()["total"]["cost_microusd"] == 900_300
    past = bus("costs", "--month", "2020-01", *policy, "--json").json()
    assert (past["costs"], past["forecast"]) == ([], None)
    assert bus("costs", "--by", "tier", "--no-sync").code == 2
    assert bus("costs", "--month", "2026-13").code == 2
    assert bus("costs", "--policy", "nowhere.toml", "--no-sync").code == 2
    assert [row["agent"] for row in rows(bus.ok("costs", "--by", "agent", "-n", "1", "--csv", "--no-sync"))] == [
        "@cline"
    ]
    assert bus("costs", "--provider", "local", "--json", "--no-sync").json()["total"]["unpriced_calls"] == 1
    assert bus("costs", "--tree", "two", "--agent", "@cline", "--json", "--no-sync").json()["total"]["calls"] == 1


def test_the_board_can_be_narrowed_and_ordered(bus, story):
    """By delegator, age and kind of work; open work by age, finished work by the time it took."""

    def ids(*arguments):
        return [row["id"] for row in bus("tasks", *arguments, "--json", "--no-sync").json()["tasks"]]

    assert ids("--open") == ["two", "three"]
    assert ids("--slow") == ["one"]
    assert set(ids("--delegator", "boss")) == {"one", "two", "three"}
    assert ids("--type", "review") == ids("--older", "1h") == []
    assert len(ids("--newer", "1h")) == 3
    assert "age" in bus.ok("tasks", "--open", "--no-sync").splitlines()[0]
    assert "took" in bus.ok("tasks", "--slow", "--no-sync").splitlines()[0]
    assert bus("tasks", "--open", "--slow").code == 2
    assert bus("tasks", "--older", "last week").code == 2


def test_one_task_has_its_history(bus, story):
    """States with the time in each, gates, escalations and costs."""
    answer = bus("task", "one", "--json", "--no-sync").json()
    assert [row["to_state"] for row in answer["transitions"]] == ["submitted", "working", "completed", "accepted"]
    assert set(answer["states"]) <= {"submitted", "working", "completed"}
    assert [(row["layer"], row["outcome"]) for row in answer["gates"]] == [("input", "passed"), ("output", "failed")]
    assert (len(answer["attempts"]), answer["parked"], answer["holds"]) == (1, [], [])
    assert "Quality gates" in bus.ok("task", "one", "--no-sync")
    assert "answer by @human" in bus.ok("task", "two", "--no-sync")
    assert "newest 1 envelopes" in bus("task", "one", "-n", "1", "--no-sync").stderr


def test_the_chain_of_causation(bus, story):
    """Drawn as a tree; up, down or both; by number, position or ID; what is not there is not found."""
    first = bus("audit", "--task", "one", "--json", "--no-sync").json()["envelopes"][0]
    for name in (f"#{first['n']}", first["position"], first["id"]):
        answer = bus("audit", "--causes", name, "--json", "--no-sync").json()["envelopes"]
        assert [(row["type"], row["depth"]) for row in answer] == [
            ("delegation", 0),
            ("acknowledgment", 1),
            ("completion", 1),
        ]
    shown = bus.ok("audit", "--causes", "#1", "--no-sync")
    assert "├── acknowledgment" in shown
    assert "└── completion" in shown
    up = bus("audit", "--causes", "#1", "--direction", "up", "--csv", "--no-sync")
    assert [row["relation"] for row in rows(up.stdout)] == ["self"]
    assert bus("audit", "--causes", "#999", "--no-sync").code == 3
    for mistake in (("--direction", "up"), ("--causes", "#1", "--agent", "@kilo"), ("--search", "a", "--match", "b")):
        assert bus("audit", *mistake, "--no-sync").code == 2


def test_searching_for_words_and_with_expressions(bus, story):
    """Plain words are plain, whatever signs are in them; a wrong expression says what is wrong."""

    def found(*arguments):
        return [row["n"] for row in bus("audit", *arguments, "--json", "--no-sync").json()["envelopes"]]

    assert found("--search", "DISK no") == found("--match", '"no disk"') == [9, 11]
    assert found("--search", "no disk", "--task", "two") == [9]
    assert found("--match", "buy OR tests") == [7, 10]
    assert found("--search", "buy OR tests") == []
    assert found("--search", "dis*") == [9, 11]
    wrong = bus("audit", "--match", "disk OR", "--no-sync")
    assert (wrong.code, "does not understand 'disk OR'" in wrong.stderr) == (2, True)
    assert bus("audit", "--search", "%", "--no-sync").code == 2


def test_a_shell_completes_tasks_and_agents(bus, story, monkeypatch):
    """From what was folded, without a server; nothing where nothing was folded."""
    for name, value in bus.command.environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("BUS_URL", "unix:///nowhere/at/all.sock")

    def offered(*words):
        *before, incomplete = words
        return [
            item.value for item in ShellComplete(main, {}, "bus", "_BUS_COMPLETE").get_completions(before, incomplete)
        ]

    assert offered("task", "t") == ["three", "two"]
    assert offered("tasks", "--assignee", "@k") == ["@kilo"]
    assert offered("tasks", "--assignee", "cl") == ["@cline"]
    assert offered("agents", "@c") == ["@cline"]
    assert offered("agents", "--json", "") == ["@boss", "@cline", "@human", "@kilo"]
    assert "--month" in offered("agents", "--m")
    assert offered("audit", "--tree", "o") == ["one"]
    monkeypatch.setenv("BUS_HOME", str(bus.command.folder / "nowhere"))
    assert offered("task", "t") == []


def test_on_a_terminal_everything_fits(run_bus, bus, story):
    """Also on a narrow one."""
    for arguments in (
        ("agents",), ("agents", "@cline"), ("gates",), ("gates", "--failed"), ("escalations",), ("task", "two"),
        ("escalations", "--by", "agent"), ("costs", "--policy", "policy.toml"), ("audit", "--causes", "#1"),
        ("tasks", "--open"),
    ):  # fmt: skip
        lines = uncoloured(on_terminal(run_bus, *arguments, "--no-sync", columns=80)).splitlines()
        assert max(map(len, lines)) <= 80, (arguments, lines)


@pytest.mark.parametrize("command", ["agents", "gates", "escalations"])
def test_an_empty_bus_says_how_to_begin(bus, command):
    """Exit code 0, and a line on stderr."""
    done = bus(command)
    assert (done.code, done.stdout) == (0, "")
    assert "bus delegate" in done.stderr
