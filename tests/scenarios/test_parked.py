"""`bus parked`: what failed for good is found, understood, delivered again or dropped, and the log has who did it."""

from __future__ import annotations

import os
import pty
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest

from taskbus import parked as parking
from taskbus.client import Bus
from taskbus.envelope import Completion, Parking, Result
from taskbus.errors import Permanent
from tests import entries
from tests.scenarios.terminal import on_terminal, uncoloured

if TYPE_CHECKING:
    from taskbus.work import Work
    from tests.conftest import BusCommand
    from tests.scenarios.conftest import Console

DONE = Completion(result=Result(status="success", description="done"))


def fail(bus: Console, agent: str = "@kilo") -> None:
    """A worker fails on everything that its agent has, for good."""

    async def handler(work: Work) -> None:
        raise Permanent(f"cannot do {work.envelope.task}\nfor a reason")

    async def run(on: Bus) -> None:
        await on.worker(agent, handler, supervision=None).run(until_idle=True)

    bus.on_bus(run)


def succeed(bus: Console, agent: str = "@kilo") -> list[str]:
    """A worker does everything that its agent has; what it was given, in order."""
    given: list[str] = []

    async def handler(work: Work) -> Completion | None:
        given.append(f"{work.envelope.task} {work.envelope.type}")
        return DONE if work.delivery.is_work else None

    async def run(on: Bus) -> None:
        await on.worker(agent, handler, supervision=None).run(until_idle=True)

    bus.on_bus(run)
    return given


def decisions(bus: Console) -> list[tuple[str, str, str]]:
    """What the log holds of parkings: who, what, of which task."""
    found = [(entry, entry.envelope.payload) for entry in bus.log()]
    return [(entry.sender, said.parking, entry.task) for entry, said in found if isinstance(said, Parking)]


@pytest.fixture
def stuck(bus: Console) -> Console:
    """Two tasks of @kilo whose work is parked, and an answer that waits behind the first."""
    bus.ok("delegate", "@kilo", "the first", "--task", "task-a")
    bus.ok("delegate", "@kilo", "the second", "--task", "task-b")
    fail(bus)
    bus.ok("answer", "task-a", "like this")
    fail(bus)
    return bus


def listed(bus: Console, *arguments: str) -> list[tuple[Any, ...]]:
    """What `bus parked ls` lists, in short."""
    found = bus("parked", "ls", *arguments, "--json").json()["parked"]
    return [(each["agent"], each["task"], each["reason"], each["behind"]) for each in found]


TRIED = """printf 'no network' >&2; exit 75"""
WORKED = """printf '{"status": "success", "description": "done"}'"""


def test_from_a_failing_command_to_its_result(run_bus: BusCommand) -> None:
    """A command fails twice, its work is found with the reason, delivered again, and done; all of it is in the log."""
    run_bus("delegate", "@kilo", "build it", "--task", "cache-1")
    words = ("agent", "run", "kilo", "--attempts", "2", "--backoff", "0.05", "--until-idle", "--", "sh", "-c")
    assert run_bus(*words, TRIED).code == 0
    table = run_bus("parked", "ls")
    assert table.code == 0
    assert [line.split()[:5] for line in table.stdout.splitlines()] == [
        ["agent", "task", "what", "reason", "tries"],
        ["-----", "-------", "----------", "---------", "-----"],
        ["@kilo", "cache-1", "delegation", "retryable", "2"],
    ]
    shown = run_bus("parked", "show", "cache")
    assert "parked for @kilo after 2 tries" in shown.stdout
    assert "build it" in shown.stdout
    assert "retryable: The agent asks to be tried again (exit code 75)." in shown.stdout
    assert "no network" in shown.stdout
    assert "The task is escalated, with @human." in shown.stderr
    assert "bus parked replay cache-1" in shown.stderr
    replayed = run_bus("parked", "replay", "cache-1")
    assert replayed.stdout == "cache-1  @kilo  1 delivery delivered again; the task is submitted\n"
    assert run_bus(*words, WORKED).code == 0
    assert run_bus("parked", "ls").stderr == "Nothing is parked.\n"
    log = run_bus("tail", "--no-follow", "--json", "-n", "20").lines()
    assert [each["type"] for each in log] == [
        "delegation", "acknowledgment", "escalation", "parking", "parking", "acknowledgment", "completion"
    ]  # fmt: skip
    assert run_bus("task", "cache-1", "--json").json()["task"]["state"] == "completed"


def test_the_list(stuck: Console) -> None:
    """By agent and task, the oldest first, with what waits behind; of one agent where it is named."""
    assert listed(stuck) == [("@kilo", "task-a", "permanent", 1), ("@kilo", "task-b", "permanent", 0)]
    assert listed(stuck, "kilo") == listed(stuck)
    empty = stuck("parked", "ls", "@cline")
    assert (empty.code, empty.stdout, empty.stderr) == (0, "", "Nothing is parked for @cline.\n")
    [first, _] = stuck("parked", "ls", "--json").json()["parked"]
    assert (first["type"], first["tries"], len(first["deliveries"])) == ("delegation", 1, 2)
    assert first["age"] >= 0
    assert first["since"].endswith("Z")
    rows = [line.split() for line in stuck.ok("parked", "ls").splitlines()]
    assert rows[0] == ["agent", "task", "what", "reason", "tries", "age", "behind"]
    assert rows[2][:5] + rows[2][6:] == ["@kilo", "task-a", "delegation", "permanent", "1", "1"]


def test_the_list_on_a_narrow_terminal(bus: Console, run_bus: BusCommand) -> None:
    """No line is longer than the terminal; the cut IDs are told apart, and `bus parked show` takes them."""
    tasks = [bus.ok("delegate", "@kilo", "the same") for _ in range(3)]
    fail(bus)
    lines = uncoloured(on_terminal(run_bus, "parked", "ls", columns=80)).splitlines()
    assert max(map(len, lines)) <= 80
    short = [line.split()[1] for line in lines[2:]]
    assert [task.startswith(begin) for task, begin in zip(tasks, short, strict=True)] == [True] * 3
    assert len(set(short)) == 3
    assert bus("parked", "show", short[0], "--json").json()["task"] == tasks[0]
    assert tasks[0] in on_terminal(run_bus, "parked", "ls", columns=140)
    assert tasks[0] in bus.ok("parked", "ls")


def test_what_is_shown(stuck: Console) -> None:
    """The deliveries in order, the one that failed with all of what went wrong, and what to do next."""
    shown = stuck("parked", "show", "task-a")
    assert shown.stdout.index("the first") < shown.stdout.index("permanent: cannot do task-a")
    assert shown.stdout.index("for a reason") < shown.stdout.index("waits behind that for @kilo")
    assert "like this" in shown.stdout
    assert "Once what is wrong is put right: bus parked replay task-a" in shown.stderr
    found = stuck("parked", "show", "task-a", "--json").json()
    assert (found["task"], found["state"]) == ("task-a", "working")
    first, behind = found["parked"]
    assert (first["reason"], first["error"]) == ("permanent", "cannot do task-a\nfor a reason")
    assert first["envelope"]["payload"]["goal"] == "the first"
    assert first["recorded"] in {str(entry.position) for entry in stuck.log() if entry.type == "parking"}
    assert (behind["reason"], behind["error"], behind["recorded"]) == ("behind", None, None)


def test_what_cannot_be_read_is_shown_with_the_error(bus: Console) -> None:
    """An envelope that no worker could decode is parked with what is wrong with it."""
    bus.ok("delegate", "@kilo", "g", "--task", "task-a")

    async def damage(on: Bus) -> None:
        (entry,) = await on.log.latest(1)
        told = {"id": entry.id, "type": "delegation", "sender": "@human", "recipient": "@kilo", "task": "task-a"}
        await on.connection.execute("DEL", on.keys.log)
        await on.connection.execute("XADD", on.keys.log, entry.position.entry, *entries.words(**told, body="{"))

    bus.on_bus(damage)
    assert succeed(bus) == []
    shown = bus("parked", "show", "task-a")
    assert "This version cannot read it" in shown.stdout
    assert "undecodable: " in shown.stdout
    assert "For a worker of a version that can read it" in shown.stderr


def test_what_the_log_does_not_hold_any_more(bus: Console) -> None:
    """A trimmed log leaves what is parked without its text; it is listed, shown and dropped all the same."""
    bus.ok("delegate", "@kilo", "g", "--task", "task-a")
    fail(bus)

    async def trim(on: Bus) -> None:
        await on.connection.execute("XTRIM", on.keys.log, "MAXLEN", 0)

    bus.on_bus(trim)
    assert [line.split()[:4] for line in bus.ok("parked", "ls").splitlines()][2] == [
        "@kilo",
        "task-a",
        "?",
        "permanent",
    ]
    shown = bus.ok("parked", "show", "task-a")
    assert "The log does not hold" in shown
    assert "permanent" in shown
    [plain] = bus("parked", "show", "task-a", "--json").json()["parked"]
    assert (plain["type"], plain["error"]) == (None, None)
    assert bus("parked", "drop", "task-a", "--json").json()["dropped"][0]["count"] == 1


@pytest.fixture
def overtaken(stuck: Console, monkeypatch: pytest.MonkeyPatch) -> Console:
    """Somebody drops the first of the two tasks just before the next decision about it."""
    whole = parking.commit
    done: list[bool] = []

    async def commit(connection: Any, keys: Any, units: Any) -> Any:
        if not done:
            done.append(True)
            async with Bus.connect(stuck.command.environment["BUS_URL"], namespace=keys.namespace) as on:
                await parking.drop(on, "@kilo", "task-a", sender="@other")
        return await whole(connection, keys, units)

    monkeypatch.setattr(parking, "commit", commit)
    return stuck


@pytest.mark.parametrize(("act", "key"), [("replay", "replayed"), ("drop", "dropped")])
def test_what_somebody_else_decides_meanwhile(overtaken: Console, act: str, key: str) -> None:
    """What is gone when its turn comes is passed over, where all of an agent was meant."""
    moved = overtaken("parked", act, "--agent", "@kilo", "--json").json()[key]
    assert [each["task"] for each in moved] == ["task-b"]
    assert decisions(overtaken)[-2][0] == "@other"


@pytest.mark.parametrize("act", ["replay", "drop"])
def test_what_was_named_and_is_gone_meanwhile(overtaken: Console, act: str) -> None:
    """Whoever names a task that somebody else drops first is told that nothing is there."""
    assert overtaken("parked", act, "task-a").code == 3


@pytest.mark.parametrize("arguments", [("show", "task-c"), ("replay", "task-c"), ("drop", "task-c")])
def test_what_is_not_parked(stuck: Console, arguments: tuple[str, ...]) -> None:
    """A task that has nothing parked, and one that is not there, are 3, and say how to look."""
    assert stuck("parked", *arguments).code == 3
    stuck.ok("delegate", "@kilo", "g", "--task", "task-c")
    done = stuck("parked", *arguments)
    assert (done.code, done.stdout) == (3, "")
    assert "Nothing of task task-c is parked." in done.stderr
    assert "bus parked ls" in done.stderr
    assert stuck("parked", arguments[0], "task-a", "--agent", "@cline").code == 3


@pytest.mark.parametrize(
    "arguments", [("replay",), ("drop",), ("replay", "--all", "task-a"), ("replay", "--all", "--agent", "@kilo")]
)
def test_what_is_meant_must_be_clear(stuck: Console, arguments: tuple[str, ...]) -> None:
    """Nothing is moved by a call that could mean anything."""
    before = listed(stuck)
    assert stuck("parked", *arguments).code == 2
    assert listed(stuck) == before


def test_an_abbreviation_of_several_tasks(stuck: Console) -> None:
    """The beginning of two IDs names neither."""
    done = stuck("parked", "replay", "task-")
    assert done.code == 2
    assert "task-a, task-b" in done.stderr


def test_a_replay_of_one_task(stuck: Console) -> None:
    """Its deliveries come in order, the other task stays; a second call finds nothing."""
    told = stuck("parked", "replay", "task-a", "--json", "--as", "@boss").json()
    [moved] = told["replayed"]
    assert (moved["agent"], moved["task"], moved["count"], moved["state"]) == ("@kilo", "task-a", 2, "working")
    assert told["left"] == 1
    assert listed(stuck) == [("@kilo", "task-b", "permanent", 0)]
    assert succeed(stuck) == ["task-a delegation", "task-a answer"]
    assert stuck("parked", "replay", "task-a").code == 3
    assert decisions(stuck)[-1] == ("@boss", "replayed", "task-a")


def test_who_decides(stuck: Console) -> None:
    """--as goes before BUS_AGENT, and without both it is @human."""
    stuck.ok("parked", "replay", "task-a", env={"BUS_AGENT": "boss"})
    stuck.ok("parked", "drop", "task-b")
    assert [who for who, _, _ in decisions(stuck)[-2:]] == ["@boss", "@human"]


def test_a_replay_stops_after_so_many(stuck: Console) -> None:
    """--stop-at counts over all tasks, the oldest first; what is left stays parked in its order, and comes later."""
    done = stuck("parked", "replay", "--all", "--stop-at", "2")
    assert done.stdout.splitlines() == [
        "task-a  @kilo  1 delivery delivered again; the task is working",
        "task-b  @kilo  1 delivery delivered again; the task is submitted",
    ]
    assert done.stderr == "1 delivery stays parked.\n"
    assert listed(stuck) == [("@kilo", "task-a", "behind", 0)]
    assert succeed(stuck) == ["task-a delegation", "task-b delegation"]
    stuck.ok("parked", "replay", "--agent", "kilo", "--stop-at", "1")
    assert succeed(stuck) == ["task-a answer"]
    assert stuck("parked", "replay", "--all").stderr == "Nothing is parked.\n"


def test_work_that_nobody_wants_is_not_delivered_again(stuck: Console) -> None:
    """The work of a cancelled task is a conflict where it is named, and passed over with the rest."""
    cancelled = stuck("cancel", "task-b", "not needed")
    assert "1 delivery of it is parked for @kilo still: bus parked drop task-b" in cancelled.stderr
    refused = stuck("parked", "replay", "task-b")
    assert refused.code == 4
    assert "Task task-b is canceled: nobody wants this work of @kilo any more." in refused.stderr
    assert "bus parked drop task-b" in refused.stderr
    assert "any more: bus parked drop task-b" in stuck("parked", "show", "task-b").stderr
    others = stuck("parked", "replay", "--all")
    assert others.stdout.startswith("task-a")
    assert "Task task-b is canceled" in others.stderr
    assert stuck("parked", "replay", "--all", "--json").json() == {"replayed": [], "unwanted": ["task-b"], "left": 1}
    stuck.ok("parked", "drop", "task-b")
    assert listed(stuck) == []


def test_work_that_went_to_somebody_else(stuck: Console) -> None:
    """When @kilo is not to do it any more, its parked work is not delivered to it again."""
    stuck.ok("delegate", "@cline", "you do it", "--task", "task-b")
    refused = stuck("parked", "replay", "task-b")
    assert refused.code == 4
    assert "Task task-b is submitted, and @cline does it" in refused.stderr


def test_a_drop(stuck: Console) -> None:
    """What was dropped is gone with what waited behind it, and whose turn it is now is said."""
    done = stuck("parked", "drop", "task-b", "--as", "@boss")
    assert done.stdout == "task-b  @kilo  1 delivery dropped\n"
    assert "Task task-b is escalated, and @human is to decide: bus answer task-b" in done.stderr
    assert decisions(stuck)[-1] == ("@boss", "dropped", "task-b")
    assert listed(stuck) == [("@kilo", "task-a", "permanent", 1)]
    left = stuck("parked", "drop", "task-a")
    assert "Task task-a is working, and nobody has its work any more: bus cancel task-a" in left.stderr
    assert stuck("parked", "drop", "--agent", "@kilo").stderr == "Nothing is parked for @kilo.\n"
    assert succeed(stuck) == []


def test_a_drop_of_everything_of_an_agent(stuck: Console) -> None:
    """All tasks of the agent, and nobody else's."""
    stuck.ok("delegate", "@cline", "g", "--task", "task-c")
    fail(stuck, "@cline")
    dropped = stuck("parked", "drop", "--agent", "@kilo", "--json").json()["dropped"]
    assert [(each["task"], each["count"]) for each in dropped] == [("task-a", 2), ("task-b", 1)]
    assert listed(stuck) == [("@cline", "task-c", "permanent", 0)]


@pytest.mark.parametrize(("answer", "code", "left"), [("n\n", 1, 2), ("y\n", 0, 0)])
def test_a_terminal_is_asked_before_several_are_dropped(
    stuck: Console, run_bus: BusCommand, answer: str, code: int, left: int
) -> None:
    """Three deliveries of two tasks are not dropped by a slip of the hand."""
    ours, theirs = pty.openpty()
    command = [sys.executable, "-m", "taskbus", "parked", "drop", "--agent", "@kilo"]
    process = subprocess.Popen(
        command,
        stdin=theirs,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=dict(run_bus.environment),
        cwd=run_bus.folder,
        text=True,
    )
    os.write(ours, answer.encode())
    _, told = process.communicate(timeout=60)
    os.close(theirs)
    os.close(ours)
    assert process.returncode == code
    assert "Drop 3 deliveries of 2 tasks? [y/N]" in told
    assert ("Nothing was dropped." in told) == (code == 1)
    assert len(listed(stuck)) == left


def test_one_delivery_and_yes_are_not_asked_about(stuck: Console, run_bus: BusCommand) -> None:
    """There is nobody to ask without a terminal, nothing to ask about one delivery, and --yes has answered."""
    ours, theirs = pty.openpty()
    for arguments in (("task-b",), ("--agent", "@kilo", "--yes")):
        done = subprocess.run(
            [sys.executable, "-m", "taskbus", "parked", "drop", *arguments],
            stdin=theirs,
            capture_output=True,
            env=dict(run_bus.environment),
            cwd=run_bus.folder,
            text=True,
            timeout=60,
            check=True,
        )
        assert "Drop" not in done.stderr
    os.close(theirs)
    os.close(ours)
    assert listed(stuck) == []


def test_an_answer_says_that_it_waits_behind(bus: Console) -> None:
    """Whoever answers or delegates again is told that the parked delivery goes first, and how to bring it back."""
    bus.ok("delegate", "@kilo", "g", "--task", "task-a")
    fail(bus)
    told = bus("answer", "task-a", "like this")
    assert told.stdout == "working\n"
    assert "1 delivery of it is parked for @kilo, and this waits behind." in told.stderr
    assert "bus parked replay task-a" in told.stderr
    assert bus("escalate", "task-a", "stuck", "--as", "@kilo").code == 0
    again = bus("delegate", "@kilo", "once more", "--task", "task-a", "--json").json()
    assert (again["state"], again["parked"]) == ("submitted", 1)
    bus.ok("escalate", "task-a", "stuck", "--as", "@bus")
    assert "waits behind" in bus("delegate", "@kilo", "and again", "--task", "task-a").stderr
    bus.ok("escalate", "task-a", "stuck", "--as", "@bus")
    assert "parked" not in bus("delegate", "@cline", "you then", "--task", "task-a").stderr
    assert "parked" not in bus("delegate", "@kilo", "another", "--json").json()


def test_an_escalation_by_hand_says_what_is_parked(bus: Console) -> None:
    """The coordinator of a task that is escalated once more is shown the parked delivery first."""
    bus.ok("delegate", "@kilo", "g", "--task", "task-a")
    fail(bus)
    bus.ok("answer", "task-a", "like this")
    told = bus("escalate", "task-a", "still stuck", "--as", "@bus")
    assert "1 delivery of it is parked for @kilo: bus parked show task-a" in told.stderr


def test_the_inbox_of_the_coordinator_leads_to_what_is_parked(stuck: Console) -> None:
    """An escalation that came with a parking is dealt with by a replay, for an answer would wait behind it."""
    shown = stuck.ok("inbox", "@human")
    assert "→ bus parked replay task-b, or bus delegate @agent" in shown
    parked = stuck("inbox", "@kilo")
    assert "3 parked: bus parked ls @kilo" in parked.stderr
    assert stuck("inbox", "@kilo", "--json").json()["parked"] == 3
    assert "parked" not in stuck("inbox", "@cline").stderr
