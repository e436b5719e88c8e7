"""Whole stories through the command line: what the queries say right after the commands."""

from __future__ import annotations

import asyncio
import csv
import io
import json
import signal
import sqlite3
from contextlib import closing
from datetime import datetime, timedelta, timezone
from pathlib import Path

import pytest

from taskbus.client import Bus
from taskbus.connection import Connection
from taskbus.envelope import (
    Acknowledgment,
    Answer,
    Artifact,
    Completion,
    Cost,
    CriterionResult,
    Delegation,
    ErrorDetails,
    Escalation,
    Question,
    Result,
    Usage,
    Verdict,
    compose,
)
from taskbus.keys import Keys
from tests.scenarios.terminal import on_terminal, uncoloured


@pytest.fixture
def say(valkey, namespace):
    """A function that publishes envelopes: quicker than a process for each."""

    async def publish(envelopes):
        async with Bus.connect(valkey, namespace=namespace) as bus:
            answers = await bus.publish_many(envelopes)
            assert not [answer for answer in answers if isinstance(answer, Exception)]

    return lambda *envelopes: asyncio.run(publish(envelopes))


@pytest.fixture
def story(say):
    """A task that was asked about and completed with a cost, and a part of it that is escalated; their IDs."""
    tasks = ("0199f0a2-7c4e-7d31-9b5a-3e6f1c2d4a58", "0199f0a3-1b22-7e5c-8f11-5d2e9b7f4a01")
    cache = compose(Delegation(goal="Cache the price list"), sender="@boss", recipient="@kilo", task=tasks[0])
    measure = Delegation(goal="Measure it")
    part = compose(measure, sender="@kilo", recipient="@cline", task=tasks[1], parent=tasks[0], cause=cache)
    paid = Usage(provider="openrouter", model="qwen3", input_tokens=1200, cost=Cost(source="reported", microusd=12_300))
    stuck = ErrorDetails(level=2, category="execution", message="No disk")
    asked = Question(question="Which eviction policy?")
    done = Completion(result=Result(status="success", description="Done"))
    say(
        cache,
        about(cache, Acknowledgment(accepted=True)),
        part,
        about(cache, asked),
        compose(Answer(answer="LRU"), sender="@boss", recipient="@kilo", task=cache.task),
        about(cache, done, usage=(paid,)),
        about(part, Acknowledgment(accepted=True)),
        about(part, Escalation(error_details=stuck)),
    )
    return tasks


def about(cause, payload, **more):
    """What the assignee says of a task."""
    return compose(
        payload, sender=cause.recipient, recipient=cause.sender, task=cause.task, cause=cause, by_hand=True, **more
    )


def test_what_was_just_done_is_on_the_board(run_bus):
    """Without anybody running a projector, the board is true right after each command."""
    task = run_bus("delegate", "@kilo", "Cache the price list", "--as", "@boss").stdout.strip()
    for command, state in (
        (("ack", task), "working"),
        (("complete", task, "--status", "success"), "completed"),
        (("accept", task, "--as", "@boss"), "accepted"),
    ):
        assert run_bus(*command).code == 0
        (row,) = run_bus("tasks", "--json").json()["tasks"]
        assert (row["id"], row["state"]) == (task, state)


def test_the_board_as_people_see_it(run_bus, story):
    """A line for each task, and nothing on stderr."""
    cache, part = story
    shown = run_bus("tasks", "--state", "completed")
    assert cache in shown.stdout
    assert part not in shown.stdout
    assert (shown.code, shown.stderr) == (0, "")


def test_the_board_for_programs(run_bus, story):
    """JSON says how many there are and as of which position; CSV has a line for each task."""
    answer = run_bus("tasks", "--limit", "1", "--json").json()
    assert (len(answer["tasks"]), answer["total"], answer["namespace"]) == (1, 2, run_bus.environment["BUS_NAMESPACE"])
    assert answer["position"] == answer["tasks"][0]["position"]
    shown = run_bus("tasks", "--csv")
    rows = list(csv.DictReader(io.StringIO(shown.stdout)))
    assert [row["id"] for row in rows] == list(reversed(story))
    assert rows[0]["review"] == "1"
    assert "1 of 2 tasks" in run_bus("tasks", "-n", "1").stderr


def test_one_task_from_every_side(run_bus, story):
    """The beginning of an ID is enough; JSON has the fields, the tree, the timeline, the costs."""
    cache, part = story
    answer = run_bus("task", cache, "--json").json()
    assert answer["task"]["state"] == "completed"
    assert [(row["id"], row["depth"]) for row in answer["tree"]] == [(cache, 0), (part, 1)]
    types = ["delegation", "acknowledgment", "question", "answer", "completion"]
    assert [row["type"] for row in answer["timeline"]] == types
    assert answer["costs"][0]["cost_microusd"] == answer["total"]["cost_microusd"] == 12_300
    shown = run_bus("task", cache).stdout
    for text in ("Cache the price list", "Which eviction policy?", "LRU", "$0.0123", "@cline", "required", "└── "):
        assert text in shown
    rows = list(csv.DictReader(io.StringIO(run_bus("task", cache, "--csv").stdout)))
    assert [row["type"] for row in rows] == types


LONG = "Every price comes from the cache, and the cache knows when a price has changed. " * 5


@pytest.fixture
def judged(say):
    """A task with constraints, criteria and files, that was completed and judged; the ID of the task."""
    asked = Delegation(
        goal="Cache the price list",
        constraints=("No new dependency",),
        acceptance_criteria=("The tests pass", "It is documented", "It is fast"),
        artifacts=(Artifact(path="prices.py", summary="the lookup"),),
    )
    task = compose(asked, sender="@boss", recipient="@kilo", task="task-judged")
    made = Result(status="success", description=LONG, artifacts=(Artifact(path="cache.py"),))
    verdict = Verdict(
        decision="rejected",
        criteria=(
            CriterionResult(criterion="The tests pass", met=True, evidence="12 passed"),
            CriterionResult(criterion="It is documented", met=False),
        ),
        comment="Say how to empty it.",
    )
    say(
        task,
        about(task, Acknowledgment(accepted=True)),
        about(task, Completion(result=made, verification_result="pytest, all green", next_steps="Measure it.")),
        compose(verdict, sender="@boss", recipient="@kilo", task=task.task),
    )
    return task.task


def test_one_task_says_what_is_asked_for_and_what_came_of_it(run_bus, judged):
    """Constraints, criteria with their evidence, files and the whole result, and nothing that only programs need."""
    shown = run_bus("task", judged).stdout
    for text in (
        "- No new dependency", "✓ The tests pass\n", " 12 passed", "✗ It is documented", "· It is fast",
        "- prices.py: the lookup", f"success: {LONG.strip()}", "- cache.py", "pytest, all green", "Measure it.",
        "rejected: Say how to empty it.",
    ):  # fmt: skip
        assert text in shown
    names = [line.split("  ")[0] for line in shown.split("\n\n")[0].splitlines() if not line.startswith(" ")]
    assert not {"position", "n", "coordinator", "questions", "escalations", "cost"} & set(names)
    task = run_bus("task", judged, "--json").json()["task"]
    assert [(each["met"], each["evidence"]) for each in task["criteria"]] == [
        (True, "12 passed"), (False, None), (None, None),
    ]  # fmt: skip
    assert task["constraints"] == ["No new dependency"]
    assert task["artifacts"] == [{"path": "prices.py", "summary": "the lookup"}]
    assert (task["result"]["description"], task["result"]["artifacts"]) == (LONG, [{"path": "cache.py"}])
    assert (task["position"] is not None, task["verdict"]["decision"]) == (True, "rejected")


def test_on_a_terminal_a_long_result_is_wrapped_and_not_cut(run_bus, judged):
    """All of its words are there, in lines that fit, broken between words."""
    lines = uncoloured(on_terminal(run_bus, "task", judged, columns=60)).splitlines()
    assert max(map(len, lines)) <= 60
    begin = next(at for at, line in enumerate(lines) if line.startswith("result "))
    end = next(at for at, line in enumerate(lines) if line.startswith("made "))
    assert " ".join(" ".join(lines[begin:end]).split()) == f"result success: {LONG.strip()}"


def test_what_a_task_waits_for_is_said_in_full(run_bus, say):
    """An open question with what it blocks, an escalation with what was tried; once answered, it is gone."""
    task = compose(Delegation(goal="Make it"), sender="@boss", recipient="@kilo", task="task-waits")
    question = Question(question=f"Which one? {LONG}", blocks=("the schema",))
    error = ErrorDetails(level=2, category="execution", message="No disk", attempted_recovery="Emptied /tmp")
    say(task, about(task, Acknowledgment(accepted=True)), about(task, question))
    shown = run_bus("task", "task-waits").stdout
    assert f"Which one? {LONG.strip()}" in shown
    assert "- the schema" in shown
    say(
        compose(Answer(answer="The first"), sender="@boss", recipient="@kilo", task=task.task),
        about(task, Escalation(error_details=error)),
    )
    shown = run_bus("task", "task-waits").stdout
    assert "tried: Emptied /tmp" in shown
    assert "- the schema" not in shown
    say(compose(Delegation(goal="Make it so"), sender="@boss", recipient="@cline", task=task.task))
    answer = run_bus("task", "task-waits", "--json").json()["task"]
    assert (answer["question"], answer["escalation"], answer["result"]) == (None, None, None)


def test_times_are_those_of_the_terminal_and_utc_elsewhere(run_bus, story):
    """A person reads the time of the place, a program ISO 8601 in UTC."""
    times = [row["time"] for row in run_bus("task", story[0], "--json").json()["timeline"]]
    assert all(time in run_bus("task", story[0]).stdout for time in times)
    shown = uncoloured(on_terminal(run_bus, "task", story[0], columns=140, env={"TZ": "XYZ-13:45"}))
    local = datetime.fromisoformat(times[0]).astimezone(timezone(timedelta(hours=13, minutes=45)))
    assert f"{local:%H:%M:%S}" in shown.split("Timeline")[1]
    assert times[0] not in shown


def test_a_task_that_is_not_there_or_not_told_apart(run_bus, story):
    """Not found is 3; a beginning that several tasks have is 2, and names them."""
    missing = run_bus("task", "no-such-task")
    assert (missing.code, "bus tasks" in missing.stderr) == (3, True)
    assert run_bus("task", "no-such-task", "--json").json()["error"] == "NotFound"
    several = run_bus("task", "0199f0a")
    assert several.code == 2
    assert all(task in several.stderr for task in story)
    assert run_bus("tasks", "--tree", "no-such-task").code == 3
    assert run_bus("audit", "--task", "no-such-task").code == 3


def test_the_audit_trail_answers_why(run_bus, story):
    """Filters by task, tree, agent, type, time and text; bodies byte for byte where they are asked for."""
    _, part = story
    rows = run_bus("audit", "--json").json()["envelopes"]
    assert [row["n"] for row in rows] == list(range(1, 9))
    assert run_bus("audit", "--tree", part, "--json").json()["envelopes"] == rows
    assert {row["task"] for row in run_bus("audit", "--task", part, "--json").json()["envelopes"]} == {part}
    (question,) = run_bus("audit", "--type", "question", "--search", "EVICTION", "--json", "--bodies").json()[
        "envelopes"
    ]
    assert json.loads(question["body"])["payload"]["question"] == "Which eviction policy?"
    assert run_bus("audit", "--agent", "cline", "--type", "escalation", "--csv").stdout.count("\n") == 2
    at = rows[4]["position"]
    since = run_bus("audit", "--since", at, "--json").json()["envelopes"]
    until = run_bus("audit", "--until", at, "--json").json()["envelopes"]
    assert until + since[1:] == rows
    assert run_bus("audit", "--since", "1h", "--json").json()["envelopes"] == rows
    shown = run_bus("audit", "--limit", "2")
    assert "No disk" in shown.stdout
    assert "newest 2 envelopes" in shown.stderr


def test_costs_say_what_has_no_price(run_bus, say, story):
    """A call without a price stands beside the sum, in the table, in JSON and in CSV."""
    more = compose(Delegation(goal="More"), sender="@boss", recipient="@cline", parent=story[0])
    say(more, about(more, Acknowledgment(accepted=True), usage=(Usage(provider="local", model="llama"),)))
    shown = run_bus("costs", "--by", "agent").stdout
    assert "1 unpriced call" in shown
    assert "Total: $0.0123 + 1 unpriced call, for 2 calls." in shown
    answer = run_bus("costs", "--by", "model", "--json").json()
    assert [(row["model"], row["cost_microusd"]) for row in answer["costs"]] == [("qwen3", 12_300), ("llama", None)]
    assert (answer["by"], answer["total"]["unpriced_calls"]) == ("model", 1)
    rows = list(csv.DictReader(io.StringIO(run_bus("costs", "--by", "tree", "--csv").stdout)))
    assert [(row["calls"], row["unpriced_calls"], row["cost_microusd"]) for row in rows] == [("2", "1", "12300")]
    for by in ("provider", "task", "month", "day"):
        assert run_bus("costs", "--by", by).code == 0


@pytest.mark.parametrize("command", ["tasks", "audit", "costs"])
def test_an_empty_bus_says_how_to_begin(run_bus, command):
    """Exit code 0, a line on stderr, and an empty answer in the form that was asked for."""
    plain, asked, table = (run_bus(command, *option) for option in ((), ("--json",), ("--csv",)))
    assert [each.code for each in (plain, asked, table)] == [0, 0, 0]
    assert plain.stdout == ""
    assert "bus delegate" in plain.stderr
    assert [] in asked.json().values()
    assert table.stdout.count("\n") == 1


def test_nothing_that_matches_is_no_error(run_bus, say):
    """On a bus that is not empty the answer says that nothing matches."""
    say(compose(Delegation(goal="Make it"), sender="@boss", recipient="@kilo"))
    for arguments in (("tasks", "--assignee", "@nobody"), ("audit", "--search", "zebra"), ("costs",)):
        found = run_bus(*arguments)
        assert (found.code, found.stdout) == (0, "")
        assert "matches" in found.stderr or "reports a call" in found.stderr


def test_without_a_server_the_last_state_is_still_there(run_bus, story):
    """--no-sync asks no server; without it the server's absence is 5; without a database there is nothing: 3."""
    gone = {"BUS_URL": "unix:///nowhere/at/all.sock"}
    missing = run_bus("tasks", "--no-sync", env=gone)
    assert missing.code == 3
    before = run_bus("tasks", "--json").json()
    assert run_bus("tasks", "--json", env=gone).code == 5
    assert run_bus("tasks", "--json", "--no-sync", env=gone).json() == before


@pytest.mark.parametrize(
    "arguments",
    [
        ("tasks", "--json", "--csv"),
        ("tasks", "--state", "sleeping"),
        ("tasks", "--assignee", "not a name"),
        ("audit", "--since", "last week"),
        ("audit", "--until", "2026-11-20"),
        ("audit", "--bodies"),
        ("audit", "--type", "gossip"),
        ("costs", "--by", "mood"),
        ("task",),
    ],
)
def test_what_cannot_be_meant_is_a_usage_error(run_bus, arguments):
    """Exit code 2, and a word about what would do."""
    found = run_bus(*arguments)
    assert found.code == 2
    assert found.stderr or "advice" in found.json()


def test_on_a_terminal_a_row_is_a_line(run_bus, say, story):
    """Tables fit the width, states are coloured, IDs are cut to what tells them apart and still mean their task."""
    cache, _ = story
    say(compose(Delegation(goal="word " * 100), sender="@boss", recipient="@kilo"))
    for arguments in (("tasks",), ("audit",), ("costs",)):
        plain = [uncoloured(line) for line in on_terminal(run_bus, *arguments, columns=90).splitlines()]
        assert max(map(len, plain)) <= 90
    shown = on_terminal(run_bus, "tasks")
    assert "\x1b[92mcompleted\x1b[0m" in shown
    assert cache not in shown
    (cut,) = (uncoloured(line).split()[0] for line in shown.splitlines() if "Cache the price" in line)
    assert cache.startswith(cut)
    assert "Which eviction policy?" in on_terminal(run_bus, "task", cut)
    assert "\x1b[" not in run_bus("tasks").stdout


@pytest.mark.parametrize("columns", [60, 48])
def test_a_narrow_terminal_breaks_no_row(run_bus, story, columns):
    """The board keeps task, state, assignee and goal, and leaves out what can be spared."""
    shown = uncoloured(on_terminal(run_bus, "tasks", columns=columns)).splitlines()
    assert max(map(len, shown)) <= columns
    assert {"task", "state", "assignee", "goal"} <= set(shown[0].split())
    assert "progress" not in shown[0]
    for arguments in (("audit",), ("task", story[0])):
        assert max(map(len, uncoloured(on_terminal(run_bus, *arguments, columns=60)).splitlines())) <= 60


@pytest.mark.parametrize(("command", "values"), [("tasks", ("input-required", "canceled")), ("audit", ("verdict",))])
def test_the_help_lists_the_values_of_a_choice(run_bus, command, values):
    """Nobody has to guess states and types."""
    shown = " ".join(run_bus(command, "--help").stdout.split())
    assert all(value in shown for value in values)


def test_what_an_envelope_says_does_not_steer_the_terminal(run_bus, say):
    """Control characters that an envelope can carry are shown, not obeyed."""
    goal = "up\u009b2J and \u202eback\nnext line"
    say(compose(Delegation(goal=goal), sender="@boss", recipient="@kilo", task="task-1"))
    for arguments in (("tasks",), ("task", "task-1"), ("audit",)):
        shown = run_bus(*arguments).stdout
        assert "\u009b" not in shown
        assert "\u202e" not in shown
        assert "\\x9b2J" in shown


def test_projecting_says_how_far_and_where(run_bus, story):
    """The file is named, so that other programs can open it; it is an ordinary SQLite database."""
    found = run_bus("project", "--json").json()
    assert found["folded"] == 8
    with closing(sqlite3.connect(found["database"])) as database:
        assert database.execute("SELECT count(*) FROM events").fetchone() == (8,)
    assert f"8 envelopes folded into {found['database']}" in run_bus("project").stdout


def test_following_tells_of_each_commit_until_it_is_stopped(run_bus, say, story):
    """NDJSON, one line for each transaction; SIGINT ends it with 0."""
    process = run_bus.start("project", "--follow", "--json")
    try:
        assert json.loads(process.stdout.readline())["folded"] == 8
        say(compose(Delegation(goal="One more"), sender="@boss", recipient="@kilo", task="one-more"))
        told = json.loads(process.stdout.readline())
        assert told["folded"] == 9
        row = run_bus("tasks", "--no-sync", "--json").json()["tasks"][0]
        assert (row["id"], row["position"]) == ("one-more", told["position"])
        process.send_signal(signal.SIGINT)
        assert process.wait(20) == 0
    finally:
        process.kill()
        process.communicate()


def test_a_rebuild_repairs_and_says_what_was_wrong(run_bus, story):
    """Rows changed by hand are made right, and their table is named; so is a file that is no database."""
    before = run_bus("tasks", "--json").json()
    path = run_bus("project", "--json").json()["database"]
    sound = run_bus("rebuild", "--json").json()
    assert (sound["folded"], sound["changed"]) == (8, [])
    with closing(sqlite3.connect(path)) as database, database:
        database.execute("UPDATE tasks SET state = 'accepted'")
    repaired = run_bus("rebuild")
    assert "8 envelopes folded anew" in repaired.stdout
    assert "tasks" in repaired.stderr
    assert run_bus("tasks", "--json").json() == before
    Path(path).write_bytes(b"nothing" * 10_000)
    broken = run_bus("tasks")
    assert (broken.code, "bus rebuild" in broken.stderr) == (1, True)
    assert run_bus("rebuild", "--json").json()["changed"] is None
    assert run_bus("tasks", "--json").json() == before


def test_a_rebuild_on_a_terminal_shows_how_far_it_is(run_bus, story):
    """A progress bar counts the envelopes."""
    assert "8 of 8" in on_terminal(run_bus, "rebuild", both=True)


def test_an_emptied_log_is_said_loudly(run_bus, story, valkey):
    """Queries do not pretend that nothing happened: they end with 1 and say what to do; a rebuild does it."""
    run_bus("project")

    async def empty():
        async with Connection.open(valkey) as connection:
            await connection.execute("DEL", Keys(run_bus.environment["BUS_NAMESPACE"]).log)

    asyncio.run(empty())
    found = run_bus("tasks")
    assert (found.code, found.stdout) == (1, "")
    assert "does not hold" in found.stderr
    assert "bus rebuild" in found.stderr
    assert len(run_bus("tasks", "--no-sync", "--json").json()["tasks"]) == 2
    assert run_bus("rebuild").code == 0
    assert run_bus("tasks", "--json").json()["tasks"] == []


def test_two_buses_in_one_home_do_not_mix(run_bus, story):
    """Each namespace has a database of its own."""
    other = ("--namespace", "test_other_shop:")
    assert run_bus("tasks", "--json", *other).json()["tasks"] == []
    assert len(run_bus("tasks", "--json").json()["tasks"]) == 2


@pytest.mark.parametrize("command", ["tasks", "task", "audit", "costs", "project", "rebuild"])
def test_every_help_has_an_example(run_bus, command):
    """As it is to be typed, one to a line."""
    shown = run_bus(command, "--help").stdout
    assert "Example" in shown
    assert f"\n    bus {command}" in shown


@pytest.mark.parametrize("command", ["tasks", "audit"])
def test_a_number_that_cannot_be_meant(run_bus, command):
    """More rows than any database has are a usage error, not a fault."""
    done = run_bus(command, "-n", "99999999999999999999")
    assert done.code == 2
    assert "Traceback" not in done.stderr
