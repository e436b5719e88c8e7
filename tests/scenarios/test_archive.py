"""Archiving as a user does it: the log is sealed and trimmed, and everything still answers."""

from __future__ import annotations

import json
import signal
import subprocess
import time

import pytest
import zstandard

from taskbus.envelope import Cancellation, Delegation, compose
from taskbus.position import START
from taskbus.trimming import announce
from taskbus_agents.talk import talk


def work(bus, task, *, ends="accept"):
    """A task that is delegated, done and judged, and whose messages are settled."""
    bus.ok("delegate", "@kilo", f"The goal of {task}.", "--task", task)
    if ends == "cancel":
        bus.ok("cancel", task, "Not needed.")
    else:
        bus.ok("ack", task)
        bus.ok("complete", task, "--status", "success")
        if ends == "accept":
            bus.ok("accept", task)
    settle(bus)


def settle(bus):
    """Settle what needs nothing more."""
    for agent in ("@human", "@kilo"):
        bus.ok("inbox", agent, "--settle")


def replayed(bus):
    """Everything that `bus replay` shows."""
    return [json.loads(line) for line in bus.ok("replay", "--json").splitlines()]


def live(bus):
    """How many envelopes the log has."""
    return bus.on_bus(lambda bus: bus.log.count())


def archived(bus, *arguments):
    """What `bus archive` did."""
    return json.loads(bus.ok("archive", "--json", *arguments))


def test_a_log_is_archived_and_everything_still_answers(bus, tmp_path):
    """Queries, audit, replay and what is sent again answer after the archive as before, and the work goes on."""
    for task in ("a", "b", "c"):
        work(bus, task)
    work(bus, "d", ends="done")
    asked = (("tasks", "--json"), ("task", "a", "--json"), ("audit", "--json"))
    before, history = [bus.ok(*words) for words in asked], replayed(bus)
    sent = tmp_path / "sent.json"
    sent.write_text(json.dumps(history[0]["envelope"]))
    done = archived(bus, "--all", "--size", "6")
    assert [each["count"] for each in done["sealed"]] == [6, 6, 3]
    assert (done["trimmed"], done["log"], done["unsealed"], done["held"]) == (14, {"first": 15, "count": 1}, 0, [])
    assert live(bus) == 1
    assert [bus.ok(*words) for words in asked] == before
    assert replayed(bus) == history
    bus.ok("rebuild")
    assert [bus.ok(*words) for words in asked] == before
    refused = bus("publish", sent)
    assert (refused.code, live(bus)) == (4, 1)
    assert "ended" in refused.stdout + refused.stderr
    copy = json.loads(bus.ok("replay", "--into", "copy:", "--json"))
    assert (copy["appended"], copy["refused"]) == (15, 0)
    work(bus, "e")
    bus.ok("accept", "d")
    settle(bus)
    lagging = archived(bus, "--all")
    assert [each["kind"] for each in lagging["held"]] == ["projection"]
    bus.ok("project")
    assert lagging["trimmed"] + archived(bus)["trimmed"] == 5
    assert len(replayed(bus)) == 20
    assert archived(bus)["trimmed"] == 0
    assert [each["state"] for each in json.loads(bus.ok("tasks", "--json"))["tasks"]] == ["accepted"] * 5


def test_a_task_goes_on_though_its_delegation_is_archived(bus):
    """A result that is rejected after the archive: its agent still learns what it was to do."""
    bus.ok("delegate", "@kilo", "Count the stars.", "--task", "t")
    bus.ok("ack", "t")
    bus.ok("complete", "t", "--status", "success")
    bus.on_bus(lambda bus: bus.connection.execute("DEL", *bus.keys.inboxes("@human")))
    work(bus, "u", ends="cancel")
    assert archived(bus, "--all")["trimmed"] == 4
    bus.ok("reject", "t", "--comment", "All of them.")

    async def read(bus):
        (delivery,) = (await bus.inbox("@kilo").take(10)).deliveries
        return await talk(bus, delivery)

    said = bus.on_bus(read)
    assert [entry.type for entry in said] == ["delegation", "completion", "verdict"]
    assert said[0].envelope.payload.goal == "Count the stars."


def test_plain_tools_read_a_segment(bus):
    """A segment is lines of JSON under zstd, and `bus archive ls` says which file is which."""
    for task in ("a", "b"):
        work(bus, task, ends="cancel")
    archived(bus, "--all", "--no-trim")
    (segment,) = json.loads(bus.ok("archive", "ls", "--json"))["segments"]
    (file,) = bus.command.folder.rglob(segment["file"])
    with zstandard.open(file, "rt") as lines:
        found = [json.loads(line) for line in lines]
    assert [each["position"] for each in found] == [each["position"] for each in replayed(bus)]
    assert [json.loads(each["body"])["context"]["task_id"] for each in found] == ["a", "a", "b", "b"]
    shown = bus.ok("archive", "ls")
    assert segment["name"] in shown


def test_what_holds_the_trim_is_told_with_what_to_do(bus):
    """Each holder is named, and doing what is advised lets the log go."""
    work(bus, "a", ends="cancel")
    bus.ok("delegate", "@kilo", "goal", "--task", "open")
    bus.ok("ack", "open")
    work(bus, "b", ends="cancel")
    held = archived(bus, "--all")["held"]
    assert [(each["kind"], each["name"], each["task"]) for each in held if each["kind"] == "task"] == [
        ("task", "@kilo", "open")
    ]
    assert "bus cancel open" in held[0]["advice"]
    shown = bus.ok("archive")
    assert "the open task open (working, with @kilo)" in shown
    assert "bus cancel open" in shown
    bus.ok("cancel", "open", "Not needed.")
    settle(bus)
    assert archived(bus)["held"] == []
    assert live(bus) == 1


def test_the_inbox_of_a_person_is_told_of(bus):
    """What nobody has looked at is kept, and `bus inbox --settle` lets it go."""
    bus.ok("delegate", "@kilo", "goal", "--task", "t", "--no-review")
    bus.ok("ack", "t")
    bus.ok("complete", "t", "--status", "success")
    bus.ok("delegate", "@kilo", "goal", "--task", "newest")
    held = archived(bus, "--all")["held"]
    assert [(each["kind"], each["name"], each["advice"]) for each in held] == [
        ("inbox", "@human", "bus inbox @human --settle")
    ]
    bus.ok("inbox", "@human", "--settle")
    assert archived(bus)["trimmed"] == 2


def test_a_projection_that_is_used_no_more_is_forgotten(bus):
    """A database that lags behind keeps the log from being trimmed, until it is forgotten."""
    work(bus, "a", ends="cancel")
    work(bus, "b", ends="cancel")
    bus.on_bus(lambda bus: announce(bus.connection, bus.keys, "old-laptop:bus.db", START))
    (held,) = archived(bus, "--all")["held"]
    assert (held["kind"], held["name"]) == ("projection", "old-laptop:bus.db")
    assert "bus archive --forget 'old-laptop:bus.db'" in bus.ok("archive")
    unknown = bus("archive", "--forget", "older-laptop")
    assert unknown.code == 3
    assert "old-laptop" in unknown.stderr
    bus.ok("archive", "--forget", "old-laptop:bus.db")
    assert archived(bus)["trimmed"] == 3


def test_a_dry_run_changes_nothing_and_is_right(bus):
    """It says what would be sealed and trimmed, and then just that is done."""
    for task in ("a", "b", "c"):
        work(bus, task, ends="cancel")
    bus.ok("delegate", "@kilo", "goal", "--task", "open")
    before = live(bus)
    said = archived(bus, "--dry-run", "--all", "--size", "4")
    assert json.loads(bus.ok("archive", "ls", "--json"))["segments"] == []
    assert live(bus) == before == 7
    assert "Would trim 6 envelopes" in bus.ok("archive", "--dry-run", "--all")
    done = archived(bus, "--all", "--size", "4")
    assert [(each["name"], each["count"]) for each in said["sealed"]] == [
        (each["name"], each["count"]) for each in done["sealed"]
    ]
    assert said["trimmed"] == done["trimmed"] == 6
    assert said["held"] == done["held"] == []


def test_a_dry_run_refuses_what_the_run_would(bus):
    """The archive is of a log that was emptied since: nothing would be done, and neither of them says that it was."""
    work(bus, "a", ends="cancel")
    archived(bus, "--all")
    bus.on_bus(lambda bus: bus.connection.execute("DEL", bus.keys.log, bus.keys.archive))
    for task in ("b", "c", "d"):
        work(bus, task, ends="cancel")
    refused = bus("archive", "--all")
    assert (refused.code, "--archive" in refused.stderr) == (1, True)
    assert bus("archive", "--all", "--dry-run").stderr == refused.stderr


def test_only_sealing_and_keeping(bus):
    """--no-trim leaves the log as it is; --keep leaves what is young; what is too little for a segment is told of."""
    for task in ("a", "b"):
        work(bus, task, ends="cancel")
    done = bus("archive")
    assert (done.code, "4 envelopes" in done.stderr, "--all" in done.stderr) == (0, True, True)
    assert archived(bus, "--all", "--no-trim")["log"] == {"first": 1, "count": 4}
    assert archived(bus, "--keep", "1h")["trimmed"] == 0
    assert archived(bus)["trimmed"] == 3


@pytest.mark.parametrize(
    ("words", "code"),
    [(("--all", "ls"), 2), (("--size", "0"), 2), (("--keep", "soon"), 2), (("--forget", "x"), 3)],
)
def test_mistakes(bus, words, code):
    """What is wrong with the call is told, also in JSON, and nothing is done."""
    done = bus("archive", *words, "--json")
    assert done.code == code
    assert done.json()["error"] in ("UsageError", "NotFound")


def test_an_archive_that_was_damaged_stops_the_trim(bus):
    """A segment that cannot be read back is an error with its name, and the log keeps everything."""
    for task in ("a", "b"):
        work(bus, task, ends="cancel")
    archived(bus, "--all", "--no-trim")
    (segment,) = json.loads(bus.ok("archive", "ls", "--json"))["segments"]
    (file,) = bus.command.folder.rglob(segment["file"])
    file.write_bytes(file.read_bytes()[:-5])
    done = bus("archive", "--json")
    assert (done.code, done.json()["error"], done.json()["segment"]) == (1, "Damaged", segment["name"])
    assert live(bus) == 4


def test_an_interrupted_archive_goes_on(bus, run_bus):
    """Ctrl-C in the middle of it: nothing is lost, nothing twice, and the next run does the rest."""
    tasks = [f"t{n}" for n in range(5000)]

    async def fill(bus):
        for payload in (Delegation(goal="g"), Cancellation(reason="r")):
            await bus.publish_many(
                [compose(payload, sender="@human", recipient="@kilo", task=task) for task in tasks], batch=1000
            )
        await bus.connection.execute("DEL", *bus.keys.inboxes("@kilo"))

    bus.on_bus(fill)
    before = [entry.id for entry in bus.log()]
    process = run_bus.start("archive", "--all", "--size", "250")
    until = time.monotonic() + 30
    while process.poll() is None and time.monotonic() < until and not list(run_bus.folder.rglob("*-*.json")):
        time.sleep(0.005)
    process.send_signal(signal.SIGINT)
    try:
        _, told = process.communicate(timeout=30)
    except subprocess.TimeoutExpired:
        process.kill()
        raise
    assert process.returncode == 130, told
    assert told == "Stopped. What was sealed and trimmed so far is complete; the next run goes on behind it.\n"
    sealed = json.loads(bus.ok("archive", "ls", "--json"))["segments"]
    assert 0 < len(sealed) < 40
    done = archived(bus, "--all", "--size", "250")
    assert len(done["sealed"]) == 40 - len(sealed)
    assert (done["trimmed"], done["log"]) == (9999, {"first": 10000, "count": 1})
    assert [each["id"] for each in replayed(bus)] == before
