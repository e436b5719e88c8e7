"""`bus supervise`: tells of what was not done in time, until it is stopped, and over a restart of the server."""

from __future__ import annotations

import json
import signal
from typing import TYPE_CHECKING, Any

import pytest

from taskbus.settings import Settings
from taskbus.supervision import Supervision
from tests.conftest import BusCommand
from tests.servers import bundled_binary, end, running, start

if TYPE_CHECKING:
    import subprocess

    from taskbus.client import Bus
    from tests.scenarios.conftest import Console

LATE = ("--acknowledge", "0.001s")


@pytest.fixture
def late(bus: Console) -> Console:
    """Two tasks that nobody took on, some milliseconds ago."""
    bus.ok("delegate", "@kilo", "g", "--task", "a", "--as", "@boss")
    bus.ok("delegate", "@kilo", "g", "--task", "b", "--as", "@boss")
    return bus


def line(process: subprocess.Popen[str]) -> str:
    """The next line that a process prints."""
    assert process.stdout is not None
    return process.stdout.readline()


def said(process: subprocess.Popen[str]) -> str:
    """The next line that a process tells people."""
    assert process.stderr is not None
    return process.stderr.readline()


def test_one_look(late: Console) -> None:
    """--once prints a line for each escalation, and the next time there is nothing to be told."""
    done = late("supervise", "--once", *LATE)
    assert (done.code, done.stderr) == (0, "")
    first, second = done.stdout.splitlines()
    assert "a → @boss  level 2  @kilo was to take the task on, and has not since 20" in first
    assert "b → @boss" in second
    again = late("supervise", "--once", *LATE)
    assert (again.code, again.stdout, again.stderr) == (0, "", "Nothing is to be escalated.\n")
    assert late.on_bus(lambda on: on.task("a")).state == "escalated"


def test_one_look_for_programs(late: Console) -> None:
    """With --json each escalation is a line with its envelope."""
    found: list[Any] = late("supervise", "--once", "--json", *LATE).lines()
    assert [(each["task"], each["to"], each["level"]) for each in found] == [("a", "@boss", 2), ("b", "@boss", 2)]
    assert [each["envelope"]["sender"] for each in found] == ["@bus", "@bus"]
    assert late.last().id == found[1]["id"]
    assert late("supervise", "--once", "--json", *LATE).stdout == ""


def test_in_time(late: Console) -> None:
    """By default there are minutes for everything."""
    assert late("supervise", "--once").stderr == "Nothing is to be escalated.\n"


def test_times_of_the_file_and_of_the_command(late: Console, run_bus: BusCommand) -> None:
    """bus.toml says after how long, options go before it, and a mistake in either is 2 and names what is wrong."""
    file = run_bus.folder / "bus.toml"
    file.write_text('[supervision]\nacknowledge = 0.001\nstale = "1h"\nlead = "@lead"\n')
    assert late("supervise", "--once", "--acknowledge", "1h").stdout == ""
    assert len(late.ok("supervise", "--once").splitlines()) == 2

    async def wait_long(on: Bus) -> None:
        for task in ("a", "b"):
            await on.connection.execute("ZADD", on.keys.escalations, 1, task)

    late.on_bus(wait_long)
    assert "a → @lead  level 3" in late.ok("supervise", "--once")
    late.on_bus(wait_long)
    assert "a → @human  level 4" in late.ok("supervise", "--once", "--lead", "@chief")
    for options in (("--stale", "soon"), ("--silent", "0s"), ("--lead", "no name"), ("--interval", "2y")):
        assert late("supervise", "--once", *options).code == 2
    file.write_text("[supervision]\nsilent = -3\n")
    done = late("supervise", "--once")
    assert done.code == 2
    assert "line 2, key `supervision.silent`: -3 is no time" in done.stderr


def test_the_table_that_init_prepares_has_the_defaults(bus: Console, run_bus: BusCommand) -> None:
    """Without its comment signs, the table of bus.toml says what holds without it; the lead is an example."""
    bus.ok("init")
    file = run_bus.folder / "bus.toml"
    head, mark, table = file.read_text().partition("# [supervision]\n")
    file.write_text(head + (mark + table).replace("# ", "", 1).replace("\n# ", "\n"))
    assert Settings.load(cwd=run_bus.folder, environ={}).supervision == Supervision(lead="@boss")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_it_goes_on_until_it_is_stopped(late: Console, run_bus: BusCommand, number: signal.Signals) -> None:
    """It tells as it finds, and ends quietly with 0."""
    process = run_bus.start("supervise", "--json", "--interval", "0.05s", *LATE)
    try:
        assert said(process).startswith("Watching test_")
        assert [json.loads(line(process))["task"] for _ in range(2)] == ["a", "b"]
        late.ok("delegate", "@kilo", "g", "--task", "c")
        assert json.loads(line(process))["task"] == "c"
        process.send_signal(number)
        assert process.communicate(timeout=30) == ("", "")
        assert process.returncode == 0
    finally:
        process.kill()
        process.communicate()


def test_of_several_one_tells(late: Console, run_bus: BusCommand) -> None:
    """Three that watch together make each escalation once between them, and none prints another's."""
    tasks = [late.ok("delegate", "@kilo", "g") for _ in range(10)]
    processes = [run_bus.start("supervise", "--json", "--interval", "0.02s", *LATE) for _ in range(3)]
    for process in processes:
        assert said(process).startswith("Watching")

    async def all_told(on: Bus) -> None:
        async for entry in on.log.follow():
            if entry.type == "escalation":
                left.discard(entry.task)
            if not left:
                return

    left = {"a", "b", *tasks}
    late.on_bus(all_told)
    for process in processes:
        process.send_signal(signal.SIGTERM)
    printed = [
        json.loads(each)["task"] for process in processes for each in process.communicate(timeout=30)[0].splitlines()
    ]
    # One that was stopped while it heard of its last escalation did not come to print that.
    assert len(printed) == len(set(printed))
    assert set(printed) <= {"a", "b", *tasks}
    assert sum(entry.type == "escalation" for entry in late.log()) == 12


def test_a_restart_of_the_server(bus_environment: dict[str, str], namespace: str, run_bus: BusCommand) -> None:
    """While the server is away that is said once; when it is back, that too, and the watching goes on."""
    with running(bundled_binary()) as server:
        command = BusCommand({**bus_environment, "BUS_URL": server.url, "BUS_NAMESPACE": namespace}, run_bus.folder)
        process = command.start("supervise", "--json", "--interval", "0.05s", *LATE)
        try:
            assert said(process).startswith("Watching")
            end(server)
            assert "Trying again." in said(process)
            back = start(bundled_binary(), server.folder)
            try:
                assert said(process) == "The server is back.\n"
                assert command("delegate", "@kilo", "g", "--task", "t").code == 0
                assert json.loads(line(process))["task"] == "t"
                process.send_signal(signal.SIGTERM)
                assert process.communicate(timeout=30)[1] == ""
                assert process.returncode == 0
            finally:
                end(back)
        finally:
            process.kill()
            process.communicate()


def test_without_a_server(bus: Console) -> None:
    """A server that is not there from the beginning is 5."""
    assert bus("supervise", "--url", "redis://127.0.0.1:1").code == 5
    assert bus("supervise", "--once", "--url", "redis://127.0.0.1:1").code == 5
