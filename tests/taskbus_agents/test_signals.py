"""Signals to `bus agent run`: what is under way is finished or handed back, and nothing is left running."""

from __future__ import annotations

import json
import signal
import time

import pytest

from tests.servers import bundled_binary, running
from tests.taskbus_agents.place import OK
from tests.taskbus_agents.waiting import eventually, gone, line_of


@pytest.fixture
def own_server():
    """A server of this test alone, which it may kill."""
    with running(bundled_binary()) as server:
        yield server


@pytest.fixture
def valkey(request, valkey_server):
    """The URL of the server that the commands use: the test's own, where it has one."""
    return request.getfixturevalue("own_server" if "own_server" in request.fixturenames else "valkey_server").url


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_signal_lets_an_idle_worker_end(worker, number):
    """Exit code 0: it was asked to end, and it has."""
    with worker("--", "true") as process:
        assert process.stderr.readline().startswith("@kilo works for ")
        process.send_signal(number)
        assert process.wait(20) == 0


def test_a_signal_lets_the_work_be_finished_and_no_more_be_taken(worker, delegate, tmp_path, state):
    """What was begun is settled; what waits stays for another worker."""
    delegate("t")
    delegate("next")
    script = f"echo $$ > {tmp_path}/pid; while [ ! -e {tmp_path}/go ]; do sleep 0.02; done; {OK}"
    with worker("--json", "--", "sh", "-c", script) as process:
        line_of(tmp_path / "pid")
        process.send_signal(signal.SIGTERM)
        assert process.stderr.readline().startswith("@kilo works")
        assert "SIGTERM: taking no more; 1 still at work" in process.stderr.readline()
        (tmp_path / "go").touch()
        assert process.wait(20) == 0
        (told,) = map(json.loads, process.stdout)
    assert (told["task"], told["status"]) == ("t", "success")
    assert state() == "completed"
    assert state("next") == "submitted"


def test_what_is_not_done_within_the_grace_is_handed_back(run_bus, worker, delegate, tmp_path, state):
    """The agent is ended, the exit code is 0, and another worker has the delivery long before the lease is over."""
    delegate()
    script = f"""if mkdir {tmp_path}/first 2> /dev/null
        then setsid sleep 600 & echo $! $$ > {tmp_path}/pids; wait
        else {OK}; fi"""
    with worker("--lease", "600", "--grace", "0.3", "--", "sh", "-c", script) as process:
        pids = [int(word) for word in line_of(tmp_path / "pids").split()]
        process.send_signal(signal.SIGTERM)
        assert process.wait(20) == 0
        said = process.stderr.read()
    assert "SIGTERM: taking no more; 1 still at work, for 0.3 s at most." in said
    assert said.endswith("\n0 deliveries, 0 succeeded, 0 failed.\n")
    gone(*pids)
    assert state() == "working"
    done = run_bus("agent", "run", "kilo", "--json", "--attempts", "1", "--once", "--", "sh", "-c", script)
    (told,) = done.lines()
    assert (told["task"], told["status"]) == ("t", "success")


def test_a_second_signal_ends_everything_at_once(run_bus, worker, delegate, tmp_path, state):
    """Even an agent that ignores TERM is gone; nothing is published in its name, and what it had is handed back."""
    delegate()
    script = f"""[ ! -e {tmp_path}/pids ] || {{ {OK}; exit; }}
        trap '' TERM; sleep 600 & echo $! $$ > {tmp_path}/pids; while :; do sleep 0.05; done"""
    with worker("--json", "--lease", "600", "--grace", "600", "--", "sh", "-c", script) as process:
        pids = [int(word) for word in line_of(tmp_path / "pids").split()]
        process.send_signal(signal.SIGTERM)
        process.stderr.readline()
        process.stderr.readline()
        began = time.monotonic()
        process.send_signal(signal.SIGTERM)
        assert process.wait(20) == 128 + signal.SIGTERM
        # Neither the grace of the worker nor the five seconds between TERM and KILL are waited for.
        assert time.monotonic() - began < 5
        assert process.stdout.read() == ""
    gone(*pids)
    assert state() == "working"
    done = run_bus("agent", "run", "kilo", "--json", "--once", "--", "sh", "-c", script)
    assert [told["status"] for told in done.lines()] == ["success"]


def test_a_second_signal_without_a_server_ends_as_soon(worker, delegate, own_server, tmp_path):
    """What cannot be handed back is left to its lease."""
    delegate()
    with worker("--", "sh", "-c", f"echo $$ > {tmp_path}/pid; sleep 600") as process:
        pid = int(line_of(tmp_path / "pid"))
        own_server.process.kill()
        own_server.process.wait()
        process.send_signal(signal.SIGTERM)
        eventually(lambda: "taking no more" in process.stderr.readline())
        began = time.monotonic()
        process.send_signal(signal.SIGINT)
        assert process.wait(20) == 128 + signal.SIGINT
        assert time.monotonic() - began < 10
    gone(pid)


def test_after_kill_9_another_worker_takes_the_delivery_over(run_bus, worker, delegate, tmp_path, state):
    """The lease runs out, the task is done once, and the dead worker's agent does not go on beside the new one."""
    delegate()
    script = f"""read delegation; if mkdir {tmp_path}/first 2> /dev/null
        then trap '' TERM; (setsid sleep 600 & echo $! $$ > {tmp_path}/pids); while :; do sleep 0.05; done
        else {OK}; fi"""
    with worker("--lease", "1", "--", "sh", "-c", script) as process:
        pids = [int(word) for word in line_of(tmp_path / "pids").split()]
        process.kill()
        process.wait()
    gone(*pids)
    done = run_bus("agent", "run", "kilo", "--json", "--once", "--lease", "5", "--", "sh", "-c", script)
    (told,) = done.lines()
    assert (told["task"], told["status"]) == ("t", "success")
    assert state() == "completed"
