"""`bus agent run` as a user runs it: a process, its output, its signals, its death."""

from __future__ import annotations

import os
import sys

import pytest

OK = """printf '{"status": "success", "description": "done"}'"""


def test_a_subprocess_that_takes_too_long_is_ended(run_bus, delegate):
    """--timeout ends the subprocess, and the task has failed for that reason."""
    delegate()
    done = run_bus("agent", "run", "kilo", "--once", "--json", "--timeout", "0.3", "--", "sleep", "600")
    assert done.code == 0
    (line,) = done.lines()
    assert (line["outcome"], line["status"]) == ("completion", "failure")
    assert "not done after 0.3 s" in line["message"]


TRIED = """echo no network >&2; exit 75"""


def test_what_is_tried_again_and_parked_is_told(run_bus, delegate, state):
    """Each try is a line with its reason; the end of it counts as a failure for --strict."""
    delegate()
    words = ("--strict", "--attempts", "2", "--backoff", "0.1", "--until-idle", "--", "sh", "-c", TRIED)
    done = run_bus("agent", "run", "kilo", *words)
    assert done.code == 1
    assert done.stderr.count("delegation → started") == 2
    assert "1 of 2 tries" in done.stderr
    assert "exit code 75" in done.stderr
    assert "no network" not in done.stderr
    assert "t  delegation → parked (retryable)  The agent asks to be tried again" in done.stderr
    assert done.stderr.endswith("\n1 delivery, 0 succeeded, 0 failed, 1 parked.\n")
    assert state() == "escalated"


def test_a_parked_delivery_is_a_line_of_json(run_bus, delegate):
    """With its reason, how often it was tried, and where the record of it stands."""
    delegate()
    words = ("--json", "--attempts", "1", "--until-idle", "--", "sh", "-c", TRIED)
    (told,) = run_bus("agent", "run", "kilo", *words).lines()
    assert (told["outcome"], told["reason"], told["attempts"]) == ("parking", "retryable", 1)
    assert told["message"].endswith("no network")
    assert "seconds" not in told
    assert told["id"]
    assert told["appended"]


def test_limits_end_a_subprocess_in_two_ways(run_bus, delegate):
    """Silence is tried again, the hard limit is not."""
    delegate("a")
    words = ("--attempts", "1", "--until-idle", "--json", "--", "sleep", "600")
    silent = run_bus("agent", "run", "kilo", "--silence", "1", *words).lines()
    assert [told["reason"] for told in silent] == ["retryable"]
    delegate("b")
    limited = run_bus("agent", "run", "kilo", "--hard-limit", "0.5", *words).lines()
    assert [told["reason"] for told in limited] == ["timed-out"]


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
    start, begun, first, again, second, last = done.stderr.splitlines()
    assert start.startswith("@kilo works for ")
    assert begun.endswith("a  delegation → started")
    assert again.endswith("b  delegation → started")
    assert last == "2 deliveries, 1 succeeded, 1 failed."
    assert "a  delegation → completion success" in first
    assert "b  delegation → completion failure" in second
    assert "The agent ended with exit code 2." in second
    assert "\x1b" not in done.stderr


def test_what_asks_for_nothing_is_read(run_bus):
    """A message that only informs is read, and told as that."""
    run_bus("delegate", "@codex", "part", "--task", "p", "--as", "@kilo")
    run_bus("ack", "p", "--as", "@codex")
    done = run_bus("agent", "run", "kilo", "--once", "--", "false")
    assert "p  acknowledgment → read, nothing to do" in done.stderr
    assert done.stderr.endswith("\n1 delivery, 0 succeeded, 0 failed, 1 read.\n")


@pytest.mark.parametrize(
    ("script", "line", "count"),
    [
        ("""printf '{"question": "which?"}'""", "→ question", "1 asked"),
        ('bus complete "$BUS_TASK" --status success', "→ completed by itself", "1 succeeded"),
        ('bus escalate "$BUS_TASK" "stuck" --level 2 --category execution', "→ escalated by itself", "1 escalated"),
    ],
)
def test_every_outcome_has_a_name(run_bus, delegate, script, line, count):
    """A question, and what the agent published itself, are told as what they are."""
    delegate()
    command = script.replace("bus ", f"{sys.executable} -m taskbus ", 1) if script.startswith("bus ") else script
    done = run_bus("agent", "run", "kilo", "--once", "--", "sh", "-c", f"{command} || cat >&2")
    assert line in done.stderr
    assert count in done.stderr.splitlines()[-1]


@pytest.mark.parametrize(("script", "code"), [(OK, 0), ("exit 3", 1)])
def test_strict_ends_with_1_when_a_delivery_failed(run_bus, delegate, script, code):
    """A script that runs a worker may ask for an exit code that it can go by; without it, failing is no error."""
    delegate("a")
    delegate("b")
    words = ("--once", "--", "sh", "-c", script)
    assert run_bus("agent", "run", "kilo", *words).code == 0
    assert run_bus("agent", "run", "kilo", "--strict", *words).code == code


def test_verbose_shows_what_the_agent_complains_of(run_bus, delegate):
    """As it comes, behind the name of its task; without it stderr stays in the folder."""
    delegate("a")
    delegate("b")
    words = ("--once", "--", "sh", "-c", f"printf 'one\\ntwo' >&2; {OK}")
    assert "one" not in run_bus("agent", "run", "kilo", *words).stderr
    lines = run_bus("agent", "run", "kilo", "--verbose", *words).stderr.splitlines()
    assert [line for line in lines if line.startswith("b |")] == ["b | one", "b | two"]


def test_the_example_of_the_help_asks_and_then_completes(run_bus, delegate, state):
    """The lines that stand in the help are an agent as they stand."""
    text = run_bus("agent", "run", "--help").stdout
    script = text[text.index("talk=$(cat)") : text.index("esac") + 4]
    delegate()
    words = ("agent", "run", "kilo", "--until-idle", "--", "sh", "-c", script)
    assert run_bus(*words).code == 0
    assert state() == "input-required"
    assert run_bus("answer", "t", "blue").code == 0
    run_bus(*words)
    assert state() == "completed"


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
        (["kilo", "--silence", "0.5", "--", "true"], "at least 1 s"),
        (["kilo", "--hard-limit", "0", "--", "true"], "hard limit"),
        (["kilo", "--attempts", "0", "--", "true"], "--attempts"),
        (["kilo", "--prefetch", "-1", "--", "true"], "--prefetch"),
        (["kilo", "--grace", "soon", "--", "true"], "no duration"),
        (["kilo"], "COMMAND"),
    ],
)
def test_what_cannot_be_meant_is_refused_before_anything_runs(run_bus, words, said):
    """Exit code 2, and a message that says what to write instead."""
    done = run_bus("agent", "run", *words)
    assert done.code == 2
    assert said in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("words", [["sh", "agent.sh"], ["sh", "./agent.sh"], ["sh", "-c", ":", "--file=agent.sh"]])
def test_a_file_beside_the_user_is_refused_before_anything_is_taken(run_bus, delegate, state, words):
    """Each delivery has a folder of its own, in which `agent.sh` is not: it would fail them all, one by one."""
    delegate()
    (run_bus.folder / "agent.sh").write_text(OK)
    done = run_bus("agent", "run", "kilo", "--until-idle", "--", *words)
    assert done.code == 2
    assert "is a file here" in done.stderr
    assert f"{run_bus.folder}/agent.sh, or use --cwd ." in done.stderr
    assert state() == "submitted"


@pytest.mark.parametrize("words", [["--cwd", ".", "--", "sh", "agent.sh"], ["--", "sh", "{folder}/agent.sh"]])
def test_a_file_that_the_agent_finds_is_run(run_bus, delegate, state, words):
    """With the folder of the user, or under its full path, it is where the command looks."""
    delegate()
    (run_bus.folder / "agent.sh").write_text(OK)
    done = run_bus("agent", "run", "kilo", "--until-idle", *[word.format(folder=run_bus.folder) for word in words])
    assert done.code == 0
    assert state() == "completed"


def test_a_program_beside_the_user_is_found_from_any_folder(run_bus, delegate):
    """`-- ./agent.sh` means the file here, not one in the delivery's folder."""
    script = run_bus.folder / "agent.sh"
    script.write_text(f"#!/bin/sh\n{OK}\n")
    script.chmod(0o755)
    delegate()
    done = run_bus("agent", "run", "kilo", "--json", "--once", "--", "./agent.sh")
    assert done.lines()[0]["status"] == "success"


def test_without_a_server_the_exit_code_says_so(run_bus, tmp_path):
    """5, as everywhere."""
    done = run_bus("agent", "run", "kilo", "--", "true", env={"BUS_URL": f"unix://{tmp_path}/none.sock"})
    assert done.code == 5
    assert "Traceback" not in done.stderr


def test_its_help_says_what_a_subprocess_finds(run_bus):
    """The contract of a subprocess stands where its author looks first."""
    text = run_bus("agent", "run", "--help").stdout
    for word in (
        "BUS_TASK",
        "BUS_TOKEN",
        "completion.json",
        "stdin",
        "--until-idle",
        "BUS_PREVIOUS",
        "--strict",
        "stdout.log",
        "Exit code 75",
        "retry_after",
        "--silence",
        "--grace",
    ):
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
