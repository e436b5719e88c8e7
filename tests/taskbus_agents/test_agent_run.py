"""`bus agent run` as a user runs it: a process, its output, its signals, its death."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from contextlib import contextmanager

import anyio
import pytest

from taskbus.client import Bus
from tests.taskbus_agents.waiting import gone, line_of

OK = """printf '{"status": "success", "description": "done"}'"""


@pytest.fixture
def delegate(run_bus):
    """Delegates a task to @kilo."""

    def delegated(task: str = "t") -> None:
        done = run_bus("delegate", "@kilo", "do it", "--task", task)
        assert done.code == 0, done.stderr

    return delegated


@pytest.fixture
def worker(run_bus):
    """Starts workers for @kilo; whatever of them still runs at the end is killed."""
    started: list[subprocess.Popen[str]] = []

    @contextmanager
    def running(*words: str):
        process = run_bus.start("agent", "run", "kilo", *words)
        started.append(process)
        yield process

    yield running
    for process in started:
        process.kill()
        process.communicate()


@pytest.fixture
def state(valkey, namespace):
    """Asks the bus for the state of a task."""

    async def ask(task: str) -> str:
        async with Bus.connect(valkey, namespace=namespace) as bus:
            return (await bus.task(task)).state

    return lambda task="t": anyio.run(ask, task)


def test_each_settled_delivery_is_a_line_of_json(run_bus, delegate):
    """A program that starts workers reads from stdout what became of each delivery."""
    delegate("a")
    delegate("b")
    script = f'[ "$BUS_TASK" = a ] && {OK}'
    done = run_bus("agent", "run", "kilo", "--json", "--until-idle", "--", "sh", "-c", script)
    assert done.code == 0
    first, second = done.lines()
    assert (first["agent"], first["task"], first["received"]) == ("@kilo", "a", "delegation")
    assert (first["outcome"], first["status"]) == ("completion", "success")
    assert (second["task"], second["status"]) == ("b", "failure")
    assert "exit code 1" in second["message"]
    assert set(first) == {
        "agent", "task", "received", "position", "seconds", "outcome", "status", "id", "appended",
    }  # fmt: skip


def test_people_read_one_line_per_delivery_on_stderr(run_bus, delegate):
    """Nothing of it is a result that a program would want, so stdout stays empty."""
    delegate("a")
    delegate("b")
    script = f"""[ "$BUS_TASK" = a ] && {OK} || {{ printf 'bad \\033[31m\\n' >&2; exit 2; }}"""
    done = run_bus("agent", "run", "@kilo", "--limit", "2", "--", "sh", "-c", script)
    assert (done.code, done.stdout) == (0, "")
    start, first, second = done.stderr.splitlines()
    assert start.startswith("@kilo works for ")
    assert "a  delegation → completion success" in first
    assert "b  delegation → completion failure" in second
    assert "The agent ended with exit code 2." in second
    assert "\x1b" not in done.stderr


def test_what_asks_for_nothing_is_noted(run_bus):
    """A message that only informs is read, and told as that."""
    run_bus("delegate", "@codex", "part", "--task", "p", "--as", "@kilo")
    run_bus("ack", "p", "--as", "@codex")
    done = run_bus("agent", "run", "kilo", "--once", "--", "false")
    assert "p  acknowledgment → noted" in done.stderr


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["kilo", "--", "no-such-program"], "no program on the PATH"),
        (["kilo", "--once", "--limit", "2", "--", "true"], "use one of them"),
        (["kilo", "--cwd", ".", "--workdir-root", "x", "--", "true"], "use one of them"),
        (["kilo", "--cwd", ".", "--concurrency", "2", "--", "true"], "--workdir-root"),
        (["not a name", "--", "true"], "agent's name"),
        (["kilo", "--lease", "soon", "--", "true"], "no duration"),
        (["kilo", "--lease", "0", "--", "true"], "lease"),
        (["kilo"], "COMMAND"),
    ],
)
def test_what_cannot_be_meant_is_refused_before_anything_runs(run_bus, words, said):
    """Exit code 2, and a message that says what to write instead."""
    done = run_bus("agent", "run", *words)
    assert done.code == 2
    assert said in done.stderr
    assert "Traceback" not in done.stderr


def test_a_script_beside_the_user_is_pointed_out(run_bus, delegate):
    """Each delivery has a folder of its own, in which `agent.py` is not; that is said before it fails."""
    (run_bus.folder / "agent.sh").write_text("true")
    done = run_bus("agent", "run", "kilo", "--until-idle", "--", "sh", "agent.sh")
    assert "'agent.sh' is a file here" in done.stderr
    assert "--cwd ." in done.stderr
    done = run_bus("agent", "run", "kilo", "--until-idle", "--cwd", ".", "--", "sh", "agent.sh")
    assert "is a file here" not in done.stderr


def test_a_program_beside_the_user_is_found_from_any_folder(run_bus, delegate):
    """`-- ./agent.sh` means the file here, not one in the delivery's folder."""
    script = run_bus.folder / "agent.sh"
    script.write_text(f"#!/bin/sh\n{OK}\n")
    script.chmod(0o755)
    delegate()
    done = run_bus("agent", "run", "kilo", "--json", "--once", "--", "./agent.sh")
    assert done.lines()[0]["status"] == "success"


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


def test_a_second_signal_ends_everything_at_once(worker, delegate, tmp_path, state):
    """Even an agent that ignores TERM is gone; nothing is published in its name."""
    delegate()
    script = f"trap '' TERM; sleep 600 & echo $! $$ > {tmp_path}/pids; while :; do sleep 0.05; done"
    with worker("--json", "--", "sh", "-c", script) as process:
        pids = [int(word) for word in line_of(tmp_path / "pids").split()]
        process.send_signal(signal.SIGTERM)
        process.stderr.readline()
        process.stderr.readline()
        began = time.monotonic()
        process.send_signal(signal.SIGTERM)
        assert process.wait(20) == 128 + signal.SIGTERM
        # The grace of five seconds is not waited for.
        assert time.monotonic() - began < 5
        assert process.stdout.read() == ""
    gone(*pids)
    assert state() == "working"


def test_after_kill_9_another_worker_takes_the_delivery_over(run_bus, worker, delegate, tmp_path, state):
    """The lease runs out, the task is done once, and the dead worker's agent does not go on beside the new one."""
    delegate()
    script = f"""read delegation; if mkdir {tmp_path}/first 2> /dev/null
        then sleep 600 & echo $! $$ > {tmp_path}/pids; wait
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


def test_without_a_server_the_exit_code_says_so(run_bus, tmp_path):
    """5, as everywhere."""
    done = run_bus("agent", "run", "kilo", "--", "true", env={"BUS_URL": f"unix://{tmp_path}/none.sock"})
    assert done.code == 5
    assert "Traceback" not in done.stderr


def test_its_help_says_what_a_subprocess_finds(run_bus):
    """The contract of a subprocess stands where its author looks first."""
    text = run_bus("agent", "run", "--help").stdout
    for word in ("BUS_TASK", "BUS_TOKEN", "completion.json", "stdin", "--until-idle"):
        assert word in text


def test_the_group_alone_says_what_it_has(run_bus):
    """`bus agent` is no error, and names its commands."""
    assert "run" in run_bus("agent", "--help").stdout


def test_an_agent_may_be_run_with_nothing_on_the_path(run_bus, delegate):
    """A cron job has a short PATH; the worker adds where `bus` is, at the end."""
    delegate()
    script = """printf '{"status": "success", "description": "%s"}' "$PATH" """
    path = os.pathsep.join(["/usr/bin", "/bin"])
    done = run_bus("agent", "run", "kilo", "--json", "--once", "--", "sh", "-c", script, env={"PATH": path})
    assert done.lines()[0]["status"] == "success"
