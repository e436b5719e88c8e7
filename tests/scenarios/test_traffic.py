"""`bus tail`, `bus inbox` and `bus replay`: what is seen of the bus, and by whom."""

from __future__ import annotations

import fcntl
import json
import os
import signal
import subprocess
import sys
import termios
import time
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, cast

import anyio
import pytest

from taskbus import codec
from taskbus.cli import inbox as inbox_module
from taskbus.client import Bus
from taskbus.delivery import Release
from taskbus.envelope import MAX_BYTES, Acknowledgment, Delegation, compose
from tests import entries
from tests.conftest import BusCommand
from tests.scenarios.conftest import Console
from tests.servers import bundled_binary, end, running, start

if TYPE_CHECKING:
    from pathlib import Path

    from taskbus.delivery import Delivery


def shown(process: subprocess.Popen[str]) -> Any:
    """The next record that a process prints."""
    assert process.stdout is not None
    return json.loads(process.stdout.readline())


@pytest.fixture
def story(bus: Console) -> Console:
    """Three tasks, two of them one tree, of two agents, with a question open."""
    bus.ok("delegate", "@kilo", "the root", "--task", "R", "--priority", "high")
    bus.ok("delegate", "@opencode", "a part", "--task", "P", "--parent", "R", "--as", "@kilo")
    bus.ok("delegate", "@cline", "another", "--task", "X")
    bus.ok("ack", "P")
    bus.ok("ask", "P", "Which?")
    return bus


def records(bus: Console, *arguments: str) -> list[Any]:
    """What a command prints as records."""
    done = bus(*arguments, "--json")
    assert done.code == 0, done
    return done.lines()


def tasks(found: list[Any]) -> list[str]:
    """Task and type of each record, in short."""
    return [f"{each['task']} {each['type']}" for each in found]


ALL = ["R delegation", "P delegation", "X delegation", "P acknowledgment", "P question"]
FILTERS = [
    ((), ALL),
    (("--agent", "cline"), ["X delegation"]),
    (("--agent", "@kilo", "--agent", "@cline"), ALL),
    (("--type", "question", "--type", "acknowledgment"), ["P acknowledgment", "P question"]),
    (("--task", "P"), ["P delegation", "P acknowledgment", "P question"]),
    (("--tree", "R"), [each for each in ALL if each[0] in "RP"]),
    (("--tree", "P"), [each for each in ALL if each[0] in "RP"]),
    (("--priority", "high"), ["R delegation"]),
    (("--tree", "R", "--agent", "@opencode", "--type", "delegation"), ["P delegation"]),
]


@pytest.mark.parametrize(("filters", "expected"), FILTERS)
def test_filters(story: Console, filters: tuple[str, ...], expected: list[str]) -> None:
    """Each filter takes what it says, together they take what all of them say; tail and replay alike."""
    assert tasks(records(story, "tail", "--no-follow", *filters)) == expected
    assert tasks(records(story, "replay", *filters)) == expected


def test_a_latecomer_sees_the_last_ones(story: Console) -> None:
    """-n counts what the filters take, and takes the newest of them, in the log's order."""
    assert tasks(records(story, "tail", "--no-follow", "-n", "2")) == ALL[-2:]
    assert tasks(records(story, "tail", "--no-follow", "-n", "2", "--type", "delegation")) == ALL[1:3]
    assert records(story, "tail", "--no-follow", "-n", "0") == []
    for number in range(12):
        story.ok("delegate", "@kilo", str(number), "--task", f"T{number}")
    assert len(records(story, "tail", "--no-follow")) == 10


def test_the_last_ones_of_a_long_log(bus: Console) -> None:
    """The newest that the filters take are found behind pages of what they do not."""
    many = [compose(Delegation(goal="g"), sender="@a", recipient="@b", task=f"T{number}") for number in range(1200)]
    wanted = compose(Delegation(goal="g"), sender="@a", recipient="@c", task="W")

    async def fill(on: Bus) -> None:
        await on.publish_many([wanted, *many])

    bus.on_bus(fill)
    assert tasks(records(bus, "tail", "--no-follow", "--agent", "@c")) == ["W delegation"]


@pytest.mark.parametrize(
    "arguments",
    [
        ("tail", "-n", "99999999999999999999"),
        ("tail", "-n", "1" * 5000),
        ("tail", "-n", "-1"),
        ("tail", "--no-follow", "--since", "99999999999999999999-0"),
        ("tail", "--no-follow", "--since", "3/1763625600000-0"),
        ("replay", "--from", "1763625600000-99999999999999999999"),
        ("replay", "--to", "99999999999999999999-0"),
        ("replay", "--to", "3/1763625600000-0"),
        ("inbox", "-n", "99999999999999999999"),
        ("inbox", "-n", "0"),
    ],
)
def test_numbers_that_cannot_be_meant(bus: Console, arguments: tuple[str, ...]) -> None:
    """They are the caller's mistake, told as such, and never the server's."""
    done = bus(*arguments)
    assert (done.code, done.stdout) == (2, "")
    assert "server" not in done.stderr


def test_since_a_moment(story: Console) -> None:
    """--since takes a position, inclusive, a time or how long ago it was; all since then, not ten."""
    position = str(story.log()[2].position)
    assert tasks(records(story, "tail", "--no-follow", "--since", position)) == ALL[2:]
    assert tasks(records(story, "tail", "--no-follow", "--since", position, "-n", "1")) == ALL[-1:]
    assert tasks(records(story, "tail", "--no-follow", "--since", "1h")) == ALL
    assert records(story, "tail", "--no-follow", "--since", "2199-01-01T00:00:00Z") == []
    assert story("tail", "--no-follow", "--since", "2026-11-20T10:00:00").code == 2


def test_a_record(story: Console) -> None:
    """A record has the position, the header fields and the whole envelope."""
    entry = story.log()[1]
    record = records(story, "tail", "--no-follow")[1]
    assert record == {
        "position": str(entry.position),
        "time": record["time"],
        "id": entry.id,
        "type": "delegation",
        "from": "@kilo",
        "to": "@opencode",
        "task": "P",
        "root": "R",
        "priority": "normal",
        "content_type": "application/json",
        "envelope": json.loads(codec.encode(entry.envelope)),
    }
    assert datetime.fromisoformat(record["time"]) == entry.position.time


def test_envelopes_as_xml(story: Console) -> None:
    """--xml prints a document for each, which reads as the same envelope; XML bodies as their senders wrote them."""
    xml = codec.encode(compose(Delegation(goal="g"), sender="@a", recipient="@b"), codec.XML)
    story.ok("publish", input=xml)
    printed = story.ok("tail", "--no-follow", "--xml").encode()
    documents = [b"<agent-message>" + each for each in printed.split(b"<agent-message>")[1:]]
    assert [codec.read(each).envelope for each in documents] == [entry.envelope for entry in story.log()]
    assert printed.endswith(xml.strip())
    assert story("tail", "--no-follow", "--xml", "--json").code == 2


def test_following(bus: Console, run_bus: BusCommand) -> None:
    """What arrives is shown at once, after what was there, each once; SIGTERM ends it quietly with 0."""
    bus.ok("delegate", "@kilo", "before", "--task", "A")
    with run_bus.start("tail", "--json") as process:
        assert shown(process)["task"] == "A"
        for number in range(3):
            bus.ok("delegate", "@kilo", "after", "--task", f"B{number}")
            assert shown(process)["task"] == f"B{number}"
        process.send_signal(signal.SIGTERM)
        assert process.wait(20) == 0
        assert process.stdout is not None
        assert process.stderr is not None
        assert (process.stdout.read(), process.stderr.read()) == ("", "")


def test_following_with_a_filter(bus: Console, run_bus: BusCommand) -> None:
    """What arrives is filtered as what was there: only what the filter takes is shown."""
    first = bus.ok("delegate", "@kilo", "before")
    with run_bus.start("tail", "--json", "--type", "acknowledgment") as process:
        bus.ok("ack", first)
        assert shown(process)["task"] == first
        bus.ok("delegate", "@kilo", "in between")
        second = bus.ok("delegate", "@kilo", "later")
        bus.ok("ack", second)
        record = shown(process)
        process.send_signal(signal.SIGTERM)
        assert process.wait(20) == 0
    assert (record["type"], record["task"]) == ("acknowledgment", second)


def test_ctrl_c(bus: Console, run_bus: BusCommand) -> None:
    """Ctrl-C ends a tail quietly with 0."""
    bus.ok("delegate", "@kilo", "g")
    with run_bus.start("tail") as process:
        assert process.stdout is not None
        assert process.stdout.readline()
        process.send_signal(signal.SIGINT)
        assert process.wait(20) == 0
        assert process.stderr is not None
        assert process.stderr.read() == ""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_reader_that_stalls(bus: Console, run_bus: BusCommand, number: signal.Signals) -> None:
    """A tail that is stuck in a write, since nobody reads its output, ends at a signal all the same, and quietly."""
    many = [compose(Delegation(goal="x" * 5000), sender="@a", recipient="@b") for _ in range(100)]

    async def fill(on: Bus) -> None:
        await on.publish_many(many)

    bus.on_bus(fill)
    with run_bus.start("tail", "--since", "1h", "--json") as process:
        assert process.stdout is not None
        assert process.stderr is not None
        pipe = process.stdout.fileno()
        fcntl.fcntl(pipe, fcntl.F_SETPIPE_SZ, 4096)
        deadline = time.monotonic() + 20
        while unread(pipe) < 4096 and time.monotonic() < deadline:
            time.sleep(0.01)
        assert unread(pipe) == 4096
        process.send_signal(number)
        try:
            assert process.wait(20) == 0
        finally:
            process.kill()
        assert process.stderr.read() == ""


def unread(pipe: int) -> int:
    """How many bytes stand in a pipe."""
    return int.from_bytes(fcntl.ioctl(pipe, termios.FIONREAD, bytes(4)), sys.byteorder)


def test_a_reader_that_has_had_enough(bus: Console, run_bus: BusCommand) -> None:
    """A closed pipe ends a tail without a word."""
    bus.ok("delegate", "@kilo", "g")
    with run_bus.start("tail", "--json") as process:
        assert shown(process)["type"] == "delegation"
        assert process.stdout is not None
        process.stdout.close()
        bus.ok("delegate", "@kilo", "g")
        process.wait(20)
        assert process.stderr is not None
        assert process.stderr.read() == ""


async def until_somebody_waits(on: Bus) -> None:
    """Wait until a client blocks on the server, as a tail does that has shown everything."""
    with anyio.fail_after(20):
        while b"blocked_clients:0" in cast("bytes", await on.connection.execute("INFO", "clients")):  # noqa: ASYNC110
            await anyio.sleep(0.01)


def test_a_tail_survives_the_server(bus_environment: dict[str, str], namespace: str, tmp_path: Path) -> None:
    """The server dies and comes back: the tail goes on, without loss or repeat, and says what happened."""
    with running(bundled_binary()) as server:
        environment = {**bus_environment, "BUS_URL": server.url, "BUS_NAMESPACE": namespace}
        command = BusCommand(environment, tmp_path)
        console = Console(command)
        console.ok("delegate", "@kilo", "g", "--task", "A")
        with command.start("tail", "--json") as process:
            assert shown(process)["task"] == "A"
            console.on_bus(until_somebody_waits)
            server.process.kill()
            server.process.wait()
            assert process.stderr is not None
            assert str(server.socket) in process.stderr.readline()
            revived = start(bundled_binary(), server.folder)
            try:
                console.ok("delegate", "@kilo", "g", "--task", "B")
                assert shown(process)["task"] == "B"
                assert "back" in process.stderr.readline()
                console.ok("delegate", "@kilo", "g", "--task", "C")
                assert shown(process)["task"] == "C"
                process.send_signal(signal.SIGTERM)
                assert process.wait(20) == 0
            finally:
                end(revived)


HOSTILE = "\x9b31mred\x9b0m \u202egnp.exe \x7f end"


def test_nothing_of_an_envelope_steers_the_terminal(bus: Console) -> None:
    """Control characters, escape sequences and direction marks are shown, not sent, by every pretty output."""
    bus.ok("delegate", "@kilo", HOSTILE, "--task", "T", "--type", HOSTILE)
    bus.ok("ack", "T")
    bus.ok("ask", "T", HOSTILE)
    printed = "".join(
        bus(*arguments).stdout
        for arguments in (("tail", "--no-follow"), ("replay",), ("inbox", "@kilo"), ("inbox", "@human"))
    )
    for character in "\x9b\u202e\x7f\x1b":
        assert character not in printed
    assert "\\x9b31mred" in printed
    assert "\\u202e" in printed


def test_colours_are_for_terminals(bus: Console, run_bus: BusCommand) -> None:
    """A pipe gets no colours; a terminal does, unless NO_COLOR is set."""
    bus.ok("delegate", "@kilo", "g")
    assert "\x1b" not in run_bus("tail", "--no-follow", env={"NO_COLOR": ""}).stdout
    assert "\x1b[" in _on_a_terminal(run_bus, {"NO_COLOR": "", "TERM": "xterm"})
    assert "\x1b[" not in _on_a_terminal(run_bus, {"NO_COLOR": "1", "TERM": "xterm"})


def _on_a_terminal(run_bus: BusCommand, environment: dict[str, str]) -> str:
    import pty

    master, slave = pty.openpty()
    command = [sys.executable, "-m", "taskbus", "tail", "--no-follow"]
    subprocess.run(command, stdout=slave, env={**run_bus.environment, **environment}, timeout=30, check=True)
    os.close(slave)
    printed = b""
    try:
        while chunk := os.read(master, 4096):
            printed += chunk
    except OSError:  # Linux says so when the other side is closed
        pass
    os.close(master)
    return printed.decode()


def test_a_tail_of_an_empty_log(run_bus: BusCommand) -> None:
    """Whoever waits for the first envelope is told that there is none yet."""
    with run_bus.start("tail") as process:
        assert process.stderr is not None
        assert "empty" in process.stderr.readline()
        process.send_signal(signal.SIGTERM)
        assert process.wait(20) == 0


def test_an_entry_of_a_later_version(bus: Console, namespace: str) -> None:
    """A body that this version cannot read is shown as such by each form, and ends no command."""
    bus.ok("delegate", "@kilo", "before")

    async def write(on: Bus) -> None:
        words = entries.words(id="7", type="delegation", task="T", body='{"spec": "9.9"}')
        await on.connection.execute("XADD", on.keys.log, "*", *words)

    bus.on_bus(write)
    bus.ok("delegate", "@kilo", "after")
    assert "cannot read it" in bus.ok("tail", "--no-follow")
    _, unread, _ = records(bus, "replay")
    assert (unread["envelope"], unread["body"]) == (None, '{"spec": "9.9"}')
    xml = bus("replay", "--xml")
    assert xml.stdout.count("<agent-message>") == 2
    assert "cannot be written" in xml.stderr
    copied = bus("replay", "--into", f"{namespace.removesuffix(':')}_copy:")
    assert copied.code == 8
    assert "2 appended" in copied.stderr


def test_a_tail_of_nothing_says_so(bus: Console) -> None:
    """An empty log, and a task that nobody knows, are told on stderr; stdout stays empty."""
    done = bus("tail", "--no-follow", "--task", "T")
    assert (done.code, done.stdout) == (0, "")
    assert "no task T" in done.stderr


def take(bus: Console, agent: str, *, lease: float = 30.0) -> Delivery:
    """Take a delivery from an agent's inbox, as a worker does."""

    async def taken(on: Bus) -> Delivery:
        found = await on.inbox(agent, consumer="w", lease=lease).take()
        return found.deliveries[0]

    return bus.on_bus(taken)


def test_an_inbox(story: Console) -> None:
    """It shows what waits, the most urgent first, from whom, how old, and what the agent is to do about it."""
    story.ok("delegate", "@kilo", "urgent", "--task", "U", "--priority", "critical")
    waiting = story("inbox", "kilo", "--json").json()["waiting"]
    assert [(each["task"], each["type"], each["needs"]) for each in waiting] == [
        ("U", "delegation", "work"),
        ("R", "delegation", "work"),
        ("P", "acknowledgment", None),
        ("P", "question", "answer"),
    ]
    assert all(each["age"] >= 0 and each["leased_by"] is None for each in waiting)
    printed = story.ok("inbox", "@kilo")
    assert 'bus answer P "…"' in printed
    assert "bus ack R" in printed


@pytest.mark.parametrize(
    ("steps", "agent", "needs"),
    [
        ([("complete", "P", "--status", "success")], "@kilo", ("completion", "verdict")),
        (
            [("complete", "P", "--status", "success"), ("reject", "P", "--comment", "no")],
            "@opencode",
            ("verdict", "work"),
        ),
        ([("escalate", "P", "help", "--to", "@chief")], "@chief", ("escalation", "decision")),
        ([("complete", "P", "--status", "failure")], "@kilo", ("completion", "delegation")),
    ],
)
def test_what_an_agent_is_to_do(
    story: Console, steps: list[tuple[str, ...]], agent: str, needs: tuple[str, str | None]
) -> None:
    """A result is to be judged, a rejection worked on, an escalation decided, a failure handed out again."""
    story.ok("answer", "P", "this")
    for verb, *rest in steps:
        story.ok(verb, *rest, env={"BUS_AGENT": "@opencode" if verb in ("complete", "escalate") else "@kilo"})
    newest = story("inbox", agent, "--json").json()["waiting"][-1]
    assert (newest["type"], newest["needs"]) == needs


def test_an_inbox_shows_leases(story: Console) -> None:
    """What a worker has is named with the worker, and is no longer for the agent to take up."""
    take(story, "@cline")
    [waiting] = story("inbox", "@cline", "--json").json()["waiting"]
    assert waiting["leased_by"] == "w"
    assert "leased by w" in story.ok("inbox", "@cline")


@pytest.mark.parametrize(
    ("release", "shown", "waits"),
    [
        ({"wait": 11.5, "counts": True, "reason": "retryable"}, "tried again in 1", ("retryable", 1)),
        ({"wait": 0.0, "counts": True, "reason": "retryable"}, "to be tried again (1 try so far)", ("retryable", 1)),
        ({"wait": 7200.0, "reason": "quota-limited"}, "waits for its quota until ", ("quota-limited", 0)),
        ({"wait": 0.0, "reason": "quota-limited"}, "its quota is reset", ("quota-limited", 0)),
        (
            {"wait": 9.0, "reason": "refused-by-budget"},
            "waits for money that other runs hold",
            ("refused-by-budget", 0),
        ),
        ({}, "handed back", ("handed-back", 0)),
    ],
)
def test_an_inbox_shows_what_waits_to_be_taken_again(
    story: Console, release: dict[str, Any], shown: str, waits: tuple[str, int]
) -> None:
    """What was given back is leased by nobody; it says why it waits, and how long."""

    async def give_back(on: Bus) -> None:
        inbox = on.inbox("@cline", consumer="w")
        (delivery,) = (await inbox.take()).deliveries
        await inbox.release([Release(delivery, **release)])

    story.on_bus(give_back)
    [waiting] = story("inbox", "@cline", "--json").json()["waiting"]
    assert (waiting["leased_by"], waiting["needs"]) == (None, "work")
    assert (waiting["waits"]["reason"], waiting["waits"]["tries"]) == waits
    wait = datetime.fromisoformat(waiting["waits"]["until"]) - datetime.now(UTC)
    assert wait.total_seconds() <= release.get("wait", 0.0)
    printed = story.ok("inbox", "@cline")
    assert shown in printed
    assert "leased" not in printed
    assert "→ bus ack X" in printed


def test_what_was_given_back_is_settled_like_what_nobody_took(story: Console) -> None:
    """A message that waits for another try, and needs nothing of its agent, goes with --settle."""
    story.ok("ack", "X")

    async def give_back(on: Bus) -> None:
        inbox = on.inbox("@human", consumer="w")
        (delivery,) = (await inbox.take()).deliveries
        await inbox.release([Release(delivery, 60.0, counts=True, reason="retryable")])

    story.on_bus(give_back)
    [waiting] = story("inbox", "@human", "--settle", "--json").json()["waiting"]
    assert (waiting["settled"], waiting["stays"]) == (True, None)
    assert story("inbox", "@human", "--json").json()["waiting"] == []


def test_whose_inbox(story: Console) -> None:
    """Without a name it is that of BUS_AGENT, else of @human; nobody's is empty, and no error."""
    assert story("inbox", "--json").json()["agent"] == "@human"
    assert story("inbox", "--json", env={"BUS_AGENT": "kilo"}).json()["agent"] == "@kilo"
    empty = story("inbox", "@nobody")
    assert (empty.code, empty.stdout) == (0, "")
    assert "Nothing waits" in empty.stderr


def test_settling_an_inbox(story: Console) -> None:
    """--settle takes out what needs nothing more, and keeps questions, results to judge, and open work."""
    story.ok("ack", "R")
    story.ok("complete", "R", "--status", "success")
    done = story("inbox", "@human", "--settle", "--json").json()["waiting"]
    assert [(each["type"], each["settled"]) for each in done] == [("acknowledgment", True), ("completion", False)]
    story.ok("accept", "R")
    story.ok("inbox", "@human", "--settle")
    assert story("inbox", "@human", "--json").json()["waiting"] == []
    story.ok("inbox", "@kilo", "--settle")
    assert [each["type"] for each in story("inbox", "@kilo", "--json").json()["waiting"]] == ["question"]
    story.ok("inbox", "@cline", "--settle")
    assert take(story, "@cline").task == "X", "open work stays for its worker"


def test_settling_what_a_worker_let_lapse(story: Console) -> None:
    """What a worker took and did not settle in time is nobody's, and goes like what nobody ever took."""
    story.ok("ack", "X")

    async def lapse(on: Bus) -> None:
        await on.inbox("@human", consumer="w", lease=0.001).take()
        with anyio.fail_after(20):
            while (await inbox_module._waiting(on, "@human", 10))[0].worker is not None:  # noqa: ASYNC110
                await anyio.sleep(0.01)

    story.on_bus(lapse)
    [waiting] = story("inbox", "@human", "--settle", "--json").json()["waiting"]
    assert (waiting["settled"], waiting["stays"]) == (True, None)
    assert story("inbox", "@human", "--json").json()["waiting"] == []


def test_why_a_delivery_stays(story: Console) -> None:
    """Each that --settle leaves where it is has its reason, for people and for programs."""
    story.ok("delegate", "@kilo", "by a worker", "--task", "W", "--priority", "critical")
    take(story, "@kilo")
    told = story("inbox", "@kilo", "--settle").stderr
    assert "the delegation of task W, since the worker w has it under a lease" in told
    assert "the delegation of task R, since it is open work" in told
    assert "the question of task P, since the question has no answer yet" in told
    assert "1 settled, 3 stay" in told
    waiting = story("inbox", "@kilo", "--settle", "--json").json()["waiting"]
    assert [each["stays"] for each in waiting][1:] == ["it is open work", "the question has no answer yet"]


def test_settling_leaves_leases_alone(story: Console) -> None:
    """What a worker has under a lease is not taken away from it, even when it needs nothing of the agent."""
    delivery = take(story, "@human", lease=60.0) if story("inbox", "--json").json()["waiting"] else None
    assert delivery is None
    story.ok("ack", "X")
    delivery = take(story, "@human", lease=60.0)
    assert delivery.entry.type == "acknowledgment"
    story.ok("inbox", "@human", "--settle")
    [waiting] = story("inbox", "@human", "--json").json()["waiting"]
    assert waiting["delivery"] == delivery.name


def test_a_worker_that_is_faster(story: Console) -> None:
    """A delivery that a worker takes between looking and settling stays the worker's."""
    story.ok("ack", "X")

    async def race(on: Bus) -> str | None:
        [seen] = await inbox_module._waiting(on, "@human", 10)
        await on.inbox("@human", consumer="w").take()
        return await inbox_module._settled(on, "@human", seen)

    assert "meanwhile" in story.on_bus(race)
    [waiting] = story("inbox", "@human", "--json").json()["waiting"]
    assert waiting["leased_by"] == "w"


def test_a_delivery_of_a_task_that_is_gone(story: Console) -> None:
    """What is left of a task whose record was lost needs nothing, and can be settled."""

    async def lose(on: Bus) -> None:
        await on.connection.execute("HDEL", on.keys.index, "task:X")

    story.on_bus(lose)
    [waiting] = story("inbox", "@cline", "--settle", "--json").json()["waiting"]
    assert (waiting["needs"], waiting["settled"]) == (None, True)


def test_an_inbox_has_a_limit(story: Console) -> None:
    """-n shows so many and says that there is more; only what was shown is settled."""
    printed = story("inbox", "@kilo", "-n", "1", "--json").json()
    assert (len(printed["waiting"]), printed["more"]) == (1, True)
    assert "more" in story("inbox", "@kilo", "-n", "1").stderr


def test_a_replay_of_a_part(story: Console) -> None:
    """--from and --to take positions and times, both inclusive."""
    entries = story.log()
    first, last = str(entries[1].position), str(entries[3].position)
    assert tasks(records(story, "replay", "--from", first, "--to", last)) == ALL[1:4]
    moment = entries[1].position.time.isoformat()
    assert tasks(records(story, "replay", "--from", moment))[0] == ALL[1]
    assert tasks(records(story, "replay", "--to", moment))[-1] == ALL[1]
    assert records(story, "replay", "--from", last, "--to", first) == []


def test_a_replay_at_the_speed_of_the_log(bus: Console) -> None:
    """--speed keeps the gaps, divided by the speed; without it there are none."""
    bus.ok("delegate", "@kilo", "g")
    time.sleep(0.5)
    bus.ok("delegate", "@kilo", "g")
    first, second = bus.log()
    gap = (second.position.ms - first.position.ms) / 1000

    def took(speed: str) -> float:
        started = time.monotonic()
        assert len(records(bus, "replay", "--speed", speed)) == 2
        return time.monotonic() - started

    half, tenth = took("2x"), took("10x")
    assert half >= gap / 2
    assert half - tenth > gap / 5, "a greater speed is faster"
    assert bus("replay", "--speed", "0x").code == 2


def test_a_replay_into_another_namespace(story: Console, namespace: str) -> None:
    """The same bytes in the same order, once: a second replay changes nothing, and tasks are as they were."""
    xml = codec.encode(compose(Delegation(goal="g"), sender="@a", recipient="@b", task="Q"), codec.XML)
    story.ok("publish", input=xml)
    story.ok("delegate", "-", input='{"target_agent": "kilo", "context": {"goal": "short"}}')
    other = f"{namespace.removesuffix(':')}_copy:"
    first = story("replay", "--into", other, "--json").json()
    assert (first["appended"], first["repeated"], first["refused"]) == (7, 0, 0)
    again = story("replay", "--into", other, "--json").json()
    assert (again["appended"], again["repeated"]) == (0, 7)

    async def copied(on: Bus) -> list[Any]:
        copy = Bus(on.connection, other)
        assert (await copy.task("P")).state == "input-required"
        assert (await copy.task("P")).root == "R"
        return [entry async for entry in copy.log.read()]

    kept = ("id", "body", "content_type", "source", "source_type", "root", "priority")
    originals = [[getattr(entry, name) for name in kept] for entry in story.log()]
    assert [[getattr(entry, name) for name in kept] for entry in story.on_bus(copied)] == originals


def test_a_replay_that_is_refused(story: Console, namespace: str) -> None:
    """What the other namespace refuses is named with its position, and decides the exit code; the rest goes on."""
    other = f"{namespace.removesuffix(':')}_copy:"
    story.ok("delegate", "@kilo", "in the way", "--task", "P", "--namespace", other)
    done = story("replay", "--into", other, "--json")
    assert done.code == 4
    printed = done.json()
    assert (printed["refused"], printed["skipped"]) == (len(printed["errors"]), 2) == (1, 2)
    assert printed["errors"][0]["position"] == str(story.log()[1].position)
    assert printed["appended"] == 2
    again = story("replay", "--into", other)
    assert again.stdout == ""
    assert "2 left out" in again.stderr


@pytest.mark.parametrize("speed", ["max", "1000x"])
def test_a_replay_from_the_middle_twice(bus: Console, namespace: str, speed: str) -> None:
    """What is refused stops its task, so that the second replay finds the state that the first one found."""
    bus.ok("delegate", "@kilo", "g", "--task", "T")
    middle = str(bus.log()[0].position).replace("-0", "-1")
    bus.ok("escalate", "T", "help")
    bus.ok("delegate", "@kilo", "again", "--task", "T")
    bus.ok("delegate", "@kilo", "another", "--task", "U")
    other = f"{namespace.removesuffix(':')}_copy:"

    def replayed() -> tuple[list[int], list[str]]:
        printed = bus("replay", "--from", middle, "--into", other, "--speed", speed, "--json").json()

        async def copied(on: Bus) -> list[str]:
            return [f"{entry.task} {entry.type}" async for entry in Bus(on.connection, other).log.read()]

        return [printed[name] for name in ("appended", "repeated", "refused", "skipped")], bus.on_bus(copied)

    assert replayed() == ([1, 0, 1, 1], ["U delegation"])
    assert replayed() == ([0, 1, 1, 1], ["U delegation"])


def test_a_replay_goes_up_to_what_is_refused(bus: Console, namespace: str) -> None:
    """What stands before a refusal goes in, also where the refusal is that nobody can read the entry any more."""
    bus.ok("delegate", "@kilo", "g", "--task", "T")

    async def write(on: Bus, source: int, body: str) -> None:
        told = {"id": f"bad{source}", "type": "acknowledgment", "sender": "@kilo", "recipient": "@human", "task": "T"}
        words = entries.words(**told, body=body, source="x" * source, origin="text/plain")
        await on.connection.execute("XADD", on.keys.log, "*", *words)

    body = codec.encode(compose(Acknowledgment(accepted=True), sender="@kilo", recipient="@human", task="T"))
    bus.on_bus(lambda on: write(on, MAX_BYTES + 1, body.decode()))
    bus.on_bus(lambda on: write(on, 1, "{}"))
    bus.ok("ack", "T")
    bus.ok("delegate", "@kilo", "another", "--task", "U")
    done = bus("replay", "--into", f"{namespace.removesuffix(':')}_copy:", "--json")
    printed = done.json()
    assert [printed[name] for name in ("appended", "refused", "skipped")] == [2, 1, 2]
    assert printed["errors"][0]["problems"][0]["place"] == "source"
    assert done.code == 8


def test_a_replay_into_itself_is_refused(story: Console, namespace: str) -> None:
    """A replay into the namespace that is read is a usage error, with and without the closing colon."""
    assert story("replay", "--into", namespace).code == 2
    assert story("replay", "--into", namespace.removesuffix(":")).code == 2
    assert story("replay", "--into", "elsewhere", "--xml").code == 2
    assert len(story.log()) == 5


def test_a_replay_into_another_namespace_at_the_speed_of_the_log(story: Console, namespace: str) -> None:
    """With a speed each envelope is published when its time has come."""
    other = f"{namespace.removesuffix(':')}_copy:"
    assert story("replay", "--into", other, "--speed", "1000x", "--json").json()["appended"] == 5


def test_the_clock_of_a_record_is_the_server_s(story: Console) -> None:
    """The time of a record is when the server appended it, whatever the sender claims."""
    record = records(story, "tail", "--no-follow", "-n", "1")[0]
    assert abs((datetime.now(UTC) - datetime.fromisoformat(record["time"])).total_seconds()) < 60


def test_the_hint_follows_the_state(story: Console) -> None:
    """What has been taken on is not to be taken on again, and a failure is handed out again."""
    story.ok("answer", "P", "this", "--as", "@kilo")
    told = story.ok("inbox", "@opencode")
    assert "→ bus complete P" in told
    assert "bus ack" not in told
    story.ok("complete", "P", "--status", "failure")
    assert '→ bus delegate @agent "…" --task P' in story.ok("inbox", "@kilo")
    assert "→ bus" not in story.ok("inbox", "@opencode")


def test_settling_keeps_failures(story: Console) -> None:
    """A failed or declined task stays in its delegator's inbox until it is handed out again."""
    story.ok("ack", "X")
    story.ok("complete", "X", "--status", "failure")
    story.ok("ack", "R", "--decline", "no access")
    story.ok("inbox", "@human", "--settle")
    waiting = story("inbox", "@human", "--json").json()["waiting"]
    assert sorted((each["task"], each["type"]) for each in waiting) == [("R", "acknowledgment"), ("X", "completion")]
    for task in ("X", "R"):
        story.ok("delegate", "@opencode", "again", "--task", task)
    story.ok("inbox", "@human", "--settle")
    assert story("inbox", "@human", "--json").json()["waiting"] == []


def test_a_long_envelope_says_where_all_of_it_is(bus: Console) -> None:
    """What is cut names the command that shows the task."""
    bus.ok("delegate", "@kilo", "word " * 400, "--task", "long")
    assert "bus task long" in bus.ok("tail", "--no-follow")
