"""`bus demo` as a stranger runs it: a real process, its story, and what it leaves behind."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from taskbus.client import Bus
from taskbus.envelope import Completion
from taskbus.settings import Settings
from tests.conftest import BusCommand
from tests.servers import is_alive

if TYPE_CHECKING:
    from collections.abc import Iterator

STATES = {
    "release": ("accepted", 1, "@orchestrator"),
    "scout": ("accepted", 1, "@scout"),
    "notes": ("accepted", 2, "@writer"),
    "check-1": ("accepted", 1, "@tester"),
    "check-2": ("accepted", 1, "@tester"),
    "pack": ("accepted", 3, "@packer"),
}


def processes(folder: Path) -> dict[int, str]:
    """The processes that have this temporary folder in their environment or, as its server, in their command."""
    listed = subprocess.run(["ps", "axeww", "-o", "pid=,command="], capture_output=True, text=True, check=True)
    mark = f"TMPDIR={folder} "
    found = {}
    for line in listed.stdout.splitlines():
        pid, _, command = line.strip().partition(" ")
        is_server = "valkey-server" in command and f"{folder}/" in command
        if (mark in f"{command} " or is_server) and int(pid) != os.getpid():
            found[int(pid)] = command.partition(mark)[0]
    return found


def left(folder: Path, *expected: int) -> dict[int, str]:
    """Its processes once none but the expected are left: the parents of commands end a moment after they said so.

    Those that are left in the end, if it does not come to that.
    """
    end = time.monotonic() + 5
    while (found := processes(folder)).keys() != set(expected) and time.monotonic() < end:
        time.sleep(0.05)
    return found


@contextmanager
def started(bus: BusCommand, *words: str) -> Iterator[subprocess.Popen[str]]:
    """A command that runs beside the test; whatever happens, its end is waited for, and its pipes are closed."""
    with bus.start(*words) as process:
        try:
            yield process
        finally:
            process.kill()


@pytest.fixture
def temporary():
    """A short temporary folder: what the demo makes, it makes in here; at the end nothing may be left of it."""
    folder = Path(tempfile.mkdtemp(prefix="td", dir="/tmp")).resolve()
    yield folder
    remaining = left(folder)
    for pid in remaining:
        os.kill(pid, signal.SIGKILL)
    shutil.rmtree(folder)
    assert remaining == {}


@pytest.fixture
def bus(bus_environment, tmp_path, temporary):
    """Runs `bus` with that temporary folder."""
    return BusCommand({**bus_environment, "TMPDIR": str(temporary)}, tmp_path)


def test_the_whole_story_and_nothing_left(bus, temporary):
    """The story is told to its end on stdout, in plain text; server, workers and files are gone."""
    done = bus("demo")
    assert done.code == 0, done.stderr
    assert done.stderr == ""
    text = done.stdout
    assert "\x1b" not in text
    assert max(map(len, text.splitlines())) <= 80
    for part in (
        "@human → @orchestrator    delegates    Release version 1.4.0",
        "@scout → @orchestrator    reports      50% read 3 files",
        "@writer → @orchestrator   asks         Which version is it?",
        "@orchestrator → @writer   answers      1.4.0",
        "@orchestrator → @writer   rejects      4 of 7 changes are listed",
        "@flaky → @orchestrator    fails        The agent ended with exit code 1.",
        "@flaky → @orchestrator    escalates    There is no signing.key",
        "@packer → @orchestrator   completes    release.tar.gz, 4 files",
        "@human → @orchestrator    accepts      7 of 7; 4 files come out",
        "The task board (bus tasks)",
        "The audit trail of one task (bus audit --task pack)",
        "sample figures, no model ran",
        "2 unpriced calls",
        "bus demo --keep",
    ):
        assert part in text
    assert list(temporary.iterdir()) == []


def test_the_summary_is_one_object_and_agrees_with_the_log(bus, temporary, tmp_path):
    """With --json --keep a program learns what happened, and finds it again in the log that stays."""
    import anyio

    done = bus("demo", "--json", "--keep")
    assert done.code == 0, done.stderr
    summary = done.json()
    assert (summary["ok"], summary["kept"]) == (True, True)
    assert 0 < summary["seconds"] < 60
    home = Path(summary["home"])
    assert home.is_relative_to(temporary)
    assert list(left(temporary, summary["server_pid"])) == [summary["server_pid"]]

    async def entries():
        settings = Settings.load(home=home, environ={}, cwd=tmp_path)
        async with Bus.connect(settings=settings) as connected:
            return [entry async for entry in connected.log.read()]

    log = anyio.run(entries)
    try:
        assert summary["envelopes"] == len(log) == sum(summary["by_type"].values())
        assert set(summary["by_type"]) == {entry.type for entry in log}
        assert summary["agents"] == sorted({entry.sender for entry in log} - {"@human"})
        board = {task["id"]: (task["state"], task["attempt"], task["assignee"]) for task in summary["tasks"]}
        assert board == STATES
        usage = [call for entry in log for call in entry.envelope.usage]
        total = summary["costs"]["total"]
        assert summary["costs"]["are_samples"] is True
        assert total["calls"] == len(usage)
        assert total["unpriced_calls"] == sum(call.cost is None for call in usage) == 2
        assert total["cost_microusd"] == sum(call.cost.microusd for call in usage if call.cost)
        assert {call.provider for call in usage} == {"sample"}
        assert {call.cost.table for call in usage if call.cost} == {"sample figures"}
        # The three wire forms, as their senders wrote them.
        forms = {entry.content_type for entry in log if entry.type == "delegation"}
        assert forms == {"application/json", "application/xml"}
        order = next(entry for entry in log if entry.type == "delegation")
        assert json.loads(order.source)["target_agent"] == "orchestrator"
        reports = [entry for entry in log if entry.sender == "@tester" and entry.type == "completion"]
        assert all(b"here is my report" in entry.source for entry in reports)
        failed = [
            entry.envelope.payload.error_details.message
            for entry in log
            if isinstance(entry.envelope.payload, Completion) and entry.envelope.payload.result.status == "failure"
        ]
        (message,) = failed
        assert message.startswith("The agent ended with exit code 1. What it printed is in ")
        assert message.endswith("/runs/pack/1.\ncannot open signing.key")
    finally:
        kept = BusCommand({**bus.environment, "BUS_HOME": str(home)}, bus.folder)
        assert kept("down").code == 0
    assert not is_alive(summary["server_pid"])


def test_the_commands_that_it_names_work(bus, temporary):
    """With --keep the last lines can be pasted into a shell, whatever that shell was set to before."""
    (bus.folder / "bus.toml").write_text('url = "redis://127.0.0.1:1"\nnamespace = "other:"\n')
    scripts = Path(sys.executable).parent
    environment = {
        **bus.environment,
        "BUS_URL": "redis://127.0.0.1:1",
        "PATH": f"{scripts}{os.pathsep}{bus.environment['PATH']}",
    }
    done = BusCommand(environment, bus.folder)("demo", "--keep")
    assert done.code == 0, done.stderr
    commands = [line[2:] for line in done.stdout.partition("Look further")[2].splitlines() if line.startswith("$ ")]
    assert [command.partition(" ")[0] for command in commands].count("bus") == 4
    script = "set -e\n" + "\n".join(commands).replace("bus tail", "bus tail --no-follow")
    played = subprocess.run(
        ["sh"], input=script, text=True, capture_output=True, env=environment, cwd=bus.folder, check=False
    )
    assert played.returncode == 0, played.stderr
    for word in ("Write RELEASE.md from the changes", "delegation", "@packer"):
        assert word in played.stdout
    assert list(temporary.iterdir()) == []


@pytest.mark.parametrize(("number", "again"), [(signal.SIGINT, False), (signal.SIGTERM, False), (signal.SIGINT, True)])
def test_a_signal_in_the_middle_leaves_nothing(bus, temporary, number, again):
    """Ctrl-C, also twice, ends everything that was started: server, workers, agents, files."""
    with started(bus, "demo") as process:
        while "asks" not in process.stdout.readline():
            assert process.poll() is None
        assert len(processes(temporary)) > 5
        process.send_signal(number)
        if again:
            process.send_signal(number)
        out, err = process.communicate(timeout=30)
    assert process.returncode == 128 + number, err
    assert err == "Ended: server, workers and files are gone.\n"
    assert "Traceback" not in out
    assert list(temporary.iterdir()) == []
    assert left(temporary) == {}


def test_it_fails_loudly_when_the_story_breaks_off(bus, temporary):
    """A worker that dies in the middle is an error with exit code 1, also with --keep, and leaves nothing."""
    with started(bus, "demo", "--keep", "--json") as process:
        while "asks" not in process.stderr.readline():
            assert process.poll() is None
        (worker,) = [pid for pid, words in processes(temporary).items() if "agent run @packer" in words]
        os.kill(worker, signal.SIGKILL)
        out, err = process.communicate(timeout=60)
    assert process.returncode == 1, err
    told = json.loads(out)
    assert "`bus agent run @packer" in told["message"]
    assert "ended with -9" in told["message"]
    assert list(temporary.iterdir()) == []


def test_whoever_reads_only_the_beginning_disturbs_nothing(bus, temporary):
    """`bus demo | head -3`: the reader goes away, and everything is cleaned up all the same."""
    with started(bus, "demo") as process:
        for _ in range(3):
            process.stdout.readline()
        process.stdout.close()
        assert process.wait(60) == 0
        assert process.stderr.read() == ""
    assert list(temporary.iterdir()) == []


def test_two_at_once_do_not_meet(bus):
    """Each has a server, a folder and workers of its own."""
    with started(bus, "demo", "--json") as one, started(bus, "demo", "--json") as other:
        summaries = []
        for process in (one, other):
            out, err = process.communicate(timeout=120)
            assert process.returncode == 0, err
            summaries.append(json.loads(out))
    assert len({summary["folder"] for summary in summaries}) == 2
    assert len({summary["envelopes"] for summary in summaries}) == 1


def test_a_narrow_terminal_gets_narrow_lines(bus):
    """On a telephone, or beside an editor: no line of the story is wider than the terminal."""
    done = bus("demo", env={"COLUMNS": "44"})
    assert done.code == 0, done.stderr
    story = done.stdout.partition("The task board")[0]
    # But for commands, which are there to be pasted.
    assert max(len(line) for line in story.splitlines() if not line.startswith("$ ")) <= 44
    assert "  @writer → @orchestrator  asks\n      Which version is it?" in story
