"""`bus swarm`: the workers of many agents, started, started again and ended as processes."""

from __future__ import annotations

import json
import os
import pty
import re
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from contextlib import contextmanager, suppress
from pathlib import Path

import anyio
import click
import psutil
import pytest

from taskbus.cli.rendering import cells
from taskbus.errors import ConfigurationError
from taskbus_agents.commands import swarm_view
from taskbus_agents.swarm import crew as crews
from taskbus_agents.swarm import terms
from taskbus_agents.swarm.board import Board
from taskbus_agents.swarm.lines import Broken, Incident, Ready, Settled, Started
from taskbus_agents.swarm.swarm import Crew, Swarm, shared_out

SCRIPT = """
import json, pathlib, sys, time
goal = [json.loads(line) for line in sys.stdin][0]["payload"]["goal"]
word, _, seconds = goal.partition(" ")
pathlib.Path("begun").write_text("")
if word == "sleep":
    time.sleep(float(seconds))
if word == "fail":
    sys.exit(3)
print(json.dumps({"status": "success", "description": "done"}))
"""
POLICY = '[swarm]\nagents = ["@*"]\nprocesses = 2\ngrace = "20s"\n'


class Stage:
    """A project with some agents, and the swarms that run on it."""

    def __init__(self, run_bus, folder: Path) -> None:
        self.run_bus = run_bus
        self.folder = folder
        (folder / "agents").mkdir()
        (folder / "agent.py").write_text(SCRIPT)
        words = json.dumps([sys.executable, str(folder / "agent.py")])
        defaults = f'adapter = "command"\ncommand = {words}\nlease = "1s"\n'
        (folder / "bus.toml").write_text(f'agent_folders = ["agents"]\n[agent_defaults]\n{defaults}')
        self.policy = folder / "policy.toml"
        self.policy.write_text(POLICY)

    def define(self, *names: str, more: str = "") -> None:
        """Write the files of agents."""
        for name in names:
            (self.folder / "agents" / f"{name}.md").write_text(f"---\nname: {name}\n{more}---\nDo it.\n")

    def delegate(self, name: str, goal: str, task: str) -> None:
        """Delegate a task that needs no review."""
        done = self.run_bus("delegate", f"@{name}", goal, "--task", task, "--no-review")
        assert done.code == 0, done.stderr

    def state(self, task: str) -> str:
        """What became of a task."""
        return self.run_bus("task", task, "--json").json()["task"]["state"]

    @contextmanager
    def up(self, *words: str):
        """Run a swarm, and end what is left of it."""
        process = self.run_bus.start("swarm", "up", self.policy, "--json", *words)
        try:
            yield Running(process)
        finally:
            process.kill()
            process.communicate()


class Running:
    """A swarm that runs, and the lines that it prints."""

    def __init__(self, process) -> None:
        self.process = process
        self.seen: list[dict] = []

    def until(self, count: int = 1, **wanted) -> dict:
        """Read lines until so many were like this; the last of them."""
        for text in self.process.stdout:
            told = json.loads(text)
            self.seen.append(told)
            if wanted.items() <= told.items():
                count -= 1
                if count == 0:
                    return told
        pytest.fail(f"the swarm ended without {wanted}: {self.seen}\n{self.process.stderr.read()}")

    @property
    def crews(self) -> list[psutil.Process]:
        """The processes of its crews."""
        children = psutil.Process(self.process.pid).children()
        return [each for each in children if "taskbus_agents.swarm.crew" in each.cmdline()]

    def end(self) -> int:
        """End it by a signal; its exit code."""
        self.process.send_signal(signal.SIGTERM)
        self.seen += [json.loads(text) for text in self.process.stdout]
        return self.process.wait(30)


@pytest.fixture
def stage(run_bus, tmp_path):
    """A project without agents."""
    return Stage(run_bus, tmp_path)


def gone(processes, seconds=10.0):
    """Whether all of them end within a time."""
    return not psutil.wait_procs(processes, timeout=seconds)[1]


def test_agents_of_a_folder_work_together_and_end_together(stage):
    """Each agent of the folder does its task; a signal ends all, and no process is left."""
    names = ["a", "b", "c", "d", "e"]
    stage.define(*names)
    for name in names:
        stage.delegate(name, "go", f"of-{name}")
    with stage.up() as swarm:
        swarm.until(count=5, event="settled", result="succeeded")
        crews = swarm.crews
        below = [each for crew in crews for each in crew.children(recursive=True)]
        assert len(crews) == 2
        assert swarm.end() == 0
    assert gone(crews + below)
    assert {told["agent"] for told in swarm.seen if told["event"] == "settled"} == {f"@{name}" for name in names}


def test_a_crew_that_dies_comes_back_and_its_work_is_done_once(stage):
    """Killed in the middle of a task, it is started again, and the task completed by the next try."""
    stage.define("a", "b")
    with stage.up() as swarm:
        swarm.until(count=2, event="ready")
        stage.delegate("a", "sleep 2", "t")
        swarm.until(event="started", task="t")
        (crew,) = [each for each in swarm.crews if each.children(recursive=True)]
        below = crew.children(recursive=True)
        crew.kill()
        assert gone(below)
        assert "SIGKILL" in swarm.until(event="incident")["text"]
        swarm.until(event="settled", task="t", result="succeeded")
        assert swarm.end() == 0
    log = stage.run_bus("replay", "--json").lines()
    assert Counter(each["envelope"]["type"] for each in log)["completion"] == 1


def test_crews_end_when_the_swarm_is_killed(stage):
    """Nobody is left to end them, so they end by themselves: after what they have in hand."""
    stage.define("a", "b")
    with stage.up() as swarm:
        swarm.until(count=2, event="ready")
        stage.delegate("a", "sleep 1", "t")
        swarm.until(event="started", task="t")
        crews = swarm.crews
        swarm.process.kill()
        assert gone(crews, 20.0)
    assert stage.state("t") == "accepted"


def test_a_second_signal_ends_everything_at_once(stage):
    """What was in hand is handed back, and not waited for."""
    stage.define("a")
    with stage.up() as swarm:
        swarm.until(event="ready")
        stage.delegate("a", "sleep 600", "t")
        swarm.until(event="started", task="t")
        below = psutil.Process(swarm.process.pid).children(recursive=True)
        swarm.process.send_signal(signal.SIGTERM)
        time.sleep(0.5)  # the two must not be seen as one
        began = time.monotonic()
        swarm.end()
        assert time.monotonic() - began < 15  # the grace is 20
    assert gone(below)
    assert stage.state("t") == "working"


def test_output_that_nobody_reads_any_more_ends_it_like_ctrl_c(stage):
    """As with `| head -1`: what is in hand is finished, and nothing is complained of."""
    stage.define("a")
    stage.delegate("a", "sleep 2", "t")
    with stage.up() as swarm:
        swarm.until(event="started", task="t")
        swarm.process.stdout.close()
        stage.delegate("a", "go", "next")
        assert swarm.process.wait(30) == 0
        assert "Traceback" not in swarm.process.stderr.read()
    assert stage.state("t") == "accepted"


def test_a_full_disk_under_its_output_ends_nothing(monkeypatch):
    """What cannot be written is lost, and the agents work on; only where nobody reads any more do they end."""
    gone: list[bool] = []
    with Path("/dev/full").open("w") as full:
        monkeypatch.setattr(sys, "stdout", full)
        screen = swarm_view.Screen(as_json=True, on_gone=lambda: gone.append(True))
        screen.record({"event": "settled"})
        screen.line("a line")
        with suppress(OSError):
            full.close()
    assert gone == []


def test_a_terminal_that_is_closed_ends_it_like_ctrl_c(stage):
    """Its board is drawn over itself, without colours as well; when the terminal is gone, work in hand is finished."""
    stage.define("a")
    stage.delegate("a", "sleep 3", "t")
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-m", "taskbus", "swarm", "up", str(stage.policy)],
        stdin=subprocess.DEVNULL,
        stdout=theirs,
        stderr=subprocess.PIPE,
        env={**stage.run_bus.environment, "NO_COLOR": "1", "TERM": "xterm"},
        cwd=stage.run_bus.folder,
        start_new_session=True,
    )
    try:
        os.close(theirs)
        shown = ""
        while not re.search(r"\x1b\[\d+F.*@a +working", shown, re.DOTALL):
            shown += os.read(ours, 65536).decode()
        os.close(ours)
        process.send_signal(signal.SIGHUP)
        process.send_signal(signal.SIGHUP)
        assert process.wait(30) == 0
        assert b"Traceback" not in process.stderr.read()
    finally:
        process.kill()
        process.communicate()
    assert not re.search(r"\x1b\[[\d;]*m", shown)
    assert stage.state("t") == "accepted"


def test_an_agent_that_cannot_be_run_stops_no_other(stage):
    """What is wrong with it is told once, and the others work."""
    stage.define("good")
    stage.define("bad", more="permission: bypass\nadapter: claude\n")
    stage.delegate("good", "go", "t")
    with stage.up("--processes", "1") as swarm:
        broken = swarm.until(event="broken", agent="@bad")
        assert "permission" in broken["text"]
        swarm.until(event="settled", task="t", result="succeeded")
        assert swarm.end() == 0


def test_a_definition_that_is_wrong_leaves_its_agent_out(stage):
    """Each mistake is told once with its place, the others work, and it ends with 1; so does a worker of another."""
    stage.define("good", "else")
    stage.define("bad", more="model: [x\nlease: soon\n")
    stage.define("worse", more="lease: soon\n")
    stage.delegate("good", "go", "t")
    with stage.up() as swarm:
        swarm.until(event="settled", task="t", result="succeeded")
        assert swarm.end() == 1
        assert "@bad, @worse" in swarm.process.stderr.read()
    broken = {(each["agent"], Path(each["file"]).name, each["line"]) for each in swarm.seen if "file" in each}
    assert broken == {("@bad", "bad.md", 4), ("@worse", "worse.md", 3)}
    assert len([each for each in swarm.seen if each["event"] == "broken"]) == 2
    with stage.up("--only", "@good") as swarm:
        swarm.until(event="ready")
        assert swarm.end() == 0
    assert not [each for each in swarm.seen if each["event"] == "broken"]
    assert stage.run_bus("agent", "run", "@good", "--until-idle").code == 0


@pytest.mark.parametrize("more", [("--only", "@bad"), ("--only", "good", "--only", "bad"), ("--only", "b*")])
def test_nothing_is_started_where_the_agent_that_was_asked_for_is_wrong(stage, more):
    """One that is named, and where nobody else is left, is an error at once."""
    stage.define("good")
    stage.define("bad", more="lease: soon\n")
    done = stage.run_bus("swarm", "up", stage.policy, *more)
    assert done.code == 2
    assert "bad.md, line 3" in done.stderr


def test_nothing_is_started_where_what_is_said_for_all_is_wrong(stage):
    """Every agent would be another than it is meant to be."""
    stage.define("good")
    with (stage.folder / "bus.toml").open("a") as file:
        file.write('permission = "raed"\n')
    done = stage.run_bus("swarm", "up", stage.policy)
    assert (done.code, "agent_defaults.permission" in done.stderr) == (2, True)
    assert stage.run_bus("agent", "run", "@good", "--until-idle").code == 2


def test_a_folder_that_is_not_there_leaves_somebody_out(stage):
    """Whose it is nobody knows: that is told, unless all who are to work are named, and there."""
    stage.define("good")
    file = stage.folder / "bus.toml"
    file.write_text(file.read_text().replace('["agents"]', '["agents", "gone"]'))
    with stage.up() as swarm:
        assert "gone" in swarm.until(event="broken", agent=None)["text"]
        swarm.until(event="ready")
        assert swarm.end() == 1
    with stage.up("--only", "good") as swarm:
        swarm.until(event="ready")
        assert swarm.end() == 0


def test_a_program_that_is_not_installed_is_told_at_the_start(stage):
    """Before the first delivery of its agent would be parked for it, with how to install it."""
    stage.define("good")
    stage.define("bare", more="adapter: claude\nenvironment: {PATH: /nowhere}\n")
    with stage.up("--processes", "1") as swarm:
        assert "npm install" in swarm.until(event="broken", agent="@bare")["text"]
        swarm.until(event="ready")
        assert swarm.end() == 0


def test_a_swarm_of_nothing_but_what_cannot_be_run_ends(stage):
    """Trying again would change nothing: it ends with 1, and says why."""
    stage.define("bad", more="permission: bypass\nadapter: claude\n")
    with stage.up() as swarm:
        swarm.until(event="broken", agent="@bad")
        assert swarm.process.wait(30) == 1


def test_what_was_routed_climbs_in_a_swarm_and_steps_of_plans_climb_by_their_plan(stage):
    """A failed task goes to the next rung, which is told; a plan's routed step does so once, and its run succeeds."""
    stage.define("a", "b")
    stage.policy.write_text(
        POLICY + '[[ladder]]\nrung = "free"\nagent = "@a"\n[[ladder]]\nrung = "next"\nagent = "@b"\n'
        '[fallback]\non = { failure = "climb" }\n'
    )
    script = (stage.folder / "agent.py").read_text()
    # @a cannot do what @b can.
    (stage.folder / "agent.py").write_text(script.replace('word == "fail"', 'os.environ["BUS_AGENT"] == "@a"', 1))
    (stage.folder / "agent.py").write_text("import os\n" + (stage.folder / "agent.py").read_text())
    (stage.folder / "p.toml").write_text('[steps.one]\ngoal = "go"\n[steps.two]\ngoal = "go"\nafter = ["one"]\n')
    file = stage.folder / "bus.toml"
    file.write_text(f"policy = {json.dumps(str(stage.policy))}\n{file.read_text()}")
    done = stage.run_bus("delegate", "--route", "go", "--task", "t", "--no-review")
    assert done.code == 0, done.stderr
    with stage.up() as swarm:
        assert swarm.until(event="climbed", task="t")["agent"] == "@b"
        swarm.until(event="settled", task="t", result="succeeded")
        done = stage.run_bus("plan", "run", stage.folder / "p.toml", "--json")
        assert done.code == 0, done.stderr
        assert swarm.end() == 0
    settled = Counter((told["task"], told["agent"]) for told in swarm.seen if told["event"] == "settled")
    assert {
        (f"p.1.{name}", agent): settled[f"p.1.{name}", agent] for name in ("one", "two") for agent in ("@a", "@b")
    } == {(f"p.1.{name}", agent): 1 for name in ("one", "two") for agent in ("@a", "@b")}
    assert [told["task"] for told in swarm.seen if told["event"] == "climbed"] == ["t"]


def test_files_that_are_broken_for_a_while_end_nobody(stage):
    """A crew that is started again while its agents' files are being edited comes back once they are mended."""
    stage.define("a")
    with stage.up() as swarm:
        swarm.until(event="ready")
        file = stage.folder / "agents" / "a.md"
        (text, _) = file.read_text(), file.write_text("---\nname: a\nlease: soon\n---\n")
        swarm.crews[0].kill()
        swarm.until(event="broken", agent="@a")
        file.write_text(text)
        swarm.until(event="ready")
        stage.delegate("a", "go", "t")
        swarm.until(event="settled", task="t", result="succeeded")
        assert swarm.end() == 0


def test_two_machines_run_parts_of_one_policy(stage):
    """Each works for the agents that it was told, and for no others."""
    stage.define("front-a", "front-b", "back-a")
    for name in ("front-a", "front-b", "back-a"):
        stage.delegate(name, "go", f"of-{name}")
    with stage.up("--only", "front-*") as front, stage.up("--without", "@front-*") as back:
        front.until(count=2, event="settled", result="succeeded")
        back.until(event="settled", agent="@back-a", result="succeeded")
        assert (front.end(), back.end()) == (0, 0)
    assert {told["agent"] for told in front.seen if told["event"] == "settled"} == {"@front-a", "@front-b"}


def test_nobody_to_work_for_is_an_error(stage):
    """Patterns that match no agent end it before anything is started."""
    stage.define("a")
    done = stage.run_bus("swarm", "up", stage.policy, "--only", "@nobody")
    assert done.code == 3
    assert "bus agents list" in done.stderr


@pytest.mark.parametrize(
    ("text", "line", "words"),
    [
        ("[swarm]\nagents = 3\n", 2, "a list of texts"),
        ('[swarm]\nagents = ["@a b"]\n', 2, "the name of an agent"),
        ("[swarm]\nprocesses = 0\n", 2, "a whole number from 1"),
        ('[swarm]\n\ngrace = "soon"\n', 3, "grace"),
        ("[swarm]\nprocess = 1\n", 2, "Did you mean `swarm.processes`"),
    ],
)
def test_mistakes_in_the_policy_are_told_with_their_line(tmp_path, text, line, words):
    """File, line and key, and what would be right."""
    file = tmp_path / "policy.toml"
    file.write_text(text)
    with pytest.raises(ConfigurationError) as raised:
        terms.read(file)
    assert f"{file}, line {line}" in raised.value.message
    assert words in f"{raised.value.message} {raised.value.advice}"


def test_agents_are_shared_out_evenly():
    """As many shares as processes, none empty, sizes at most one apart."""
    assert shared_out([], 4) == []
    assert shared_out(["a"], 4) == [("a",)]
    shares = shared_out([f"{n:02}" for n in range(47)], 4)
    assert sorted(each for share in shares for each in share) == [f"{n:02}" for n in range(47)]
    assert {len(share) for share in shares} == {11, 12}


def test_the_board_says_what_everybody_does():
    """Work, its end, what cannot be run, and a crew that died are each seen in the rows."""
    crew = Crew(("@a", "@b"))
    board = Board(["@c", "@b", "@a"], {"@0": "its file, line 3: it has no end."})
    left_out = board.rows["@0"]
    assert (next(iter(board.rows)), left_out.state, left_out.last) == (
        "@0",
        "broken",
        "its file, line 3: it has no end.",
    )
    board.hear(crew, Ready(agents=("@a", "@b")))
    board.hear(crew, Started(agent="@a", task="t", type="delegation"))
    board.hear(Crew(("@c",)), Broken(agent="@c", text="It has no command."))
    board.hear(crew, Started(agent="@a", task="t", type="delegation"))
    assert board.rows["@a"].tasks == ["t"], "a second try is the same work"
    assert [row.state for row in board.rows.values()] == ["broken", "working", "idle", "broken"]
    board.hear(crew, Settled(agent="@a", task="t", received="delegation", result="failed", message="no luck"))
    assert (board.rows["@a"].state, board.rows["@a"].last) == ("idle", "failed: no luck")
    assert board.counts == {"failed": 1}
    crew.again = 12.0
    board.note(crew, 10.5)
    board.hear(crew, Incident(text="odd", agent="@b"))
    assert board.rows["@a"].state == "restarting"
    assert "2 s" in board.rows["@a"].last
    assert board.rows["@b"].last == "odd"
    crew.is_over = True
    board.note(crew, 11.0)
    assert board.rows["@a"].state == "ended"


@pytest.mark.parametrize("width", [20, 47, 80, 200])
@pytest.mark.parametrize("height", [1, 3, 6, 24])
def test_the_board_fits_into_any_terminal(width, height):
    """No line is wider than the terminal, and none is scrolled out of it, whatever names and last words are like."""
    names = ["@" + "n" * 63, *(f"@a{n:02}" for n in range(12))]
    board = Board(names)
    board.rows["@a00"].last = "failed: 界" * 40
    lines = [click.unstyle(each) for each in swarm_view.drawn(board, {"@a01": 7}, width, height, stopping=False)]
    assert max(map(cells, lines)) <= width
    assert len(lines) <= max(1, height - 1)
    if (width, height) == (200, 24):
        assert any(line.startswith("@a01") and " 7 " in line for line in lines)
        assert len(lines) == len(names) + 2


@pytest.mark.anyio
async def test_what_is_no_line_of_a_crew_is_told_and_let_go_of():
    """Megabytes without an end, and words that are none of ours, are incidents; what stands behind them is read."""
    told = []
    swarm = Swarm([("@a",)], {}, grace=1.0, on_line=lambda _crew, line: told.append(line))
    send, receive = anyio.create_memory_object_stream[bytes](100)
    for piece in [b"x" * 65536] * 40 + [b"\n", b"\xff?\n", b'{"event": "ready", "agents": ["@a"]}\n']:
        send.send_nowait(piece)
    send.close()
    async with receive:
        await swarm._read(swarm.crews[0], receive)
    assert told[-1] == Ready(agents=("@a",))
    assert all(isinstance(each, Incident) and len(each.text) <= 2000 for each in told[:-1])
    assert told[-2].text == "\ufffd?"


def test_a_crew_works_on_while_nobody_reads_what_it_tells(monkeypatch):
    """Telling never waits, as for a swarm that was stopped by Ctrl-Z; what was told is printed when it goes on."""
    read, printed = threading.Event(), []

    def write(_stream, data):
        read.wait(10)
        printed.append(bytes(data))
        return len(data)

    monkeypatch.setattr(crews.os, "write", write)
    teller = crews.Teller(most=100)
    teller.start()
    for number in range(500):
        teller.tell(Incident(text=str(number)))
    assert printed == []
    read.set()
    while teller._lines.qsize():
        time.sleep(0.01)
    teller.tell(None)
    teller.join(10)
    assert json.loads(printed[0])["text"] == "0"
    assert 100 <= len(printed) <= 101


def test_a_crew_that_dies_of_something_unforeseen_is_gone():
    """It does not stay as a process that works for nobody: its exit code tells, and what happened is on stderr."""
    script = """if True:
        import anyio
        from taskbus_agents.swarm import crew

        async def work(_order, _settings):
            async with anyio.create_task_group() as group:
                group.start_soon(crew._listen, [])
                await anyio.sleep(0.2)
                raise ZeroDivisionError

        crew.work = work
        crew.main()
    """
    process = subprocess.Popen([sys.executable, "-c", script], stdin=subprocess.PIPE, stderr=subprocess.PIPE)
    process.stdin.write(b'{"agents": ["@a"]}\n')
    process.stdin.flush()
    try:
        assert process.wait(20) == 1
        assert b"ZeroDivisionError" in process.stderr.read()
    finally:
        process.kill()
        process.communicate()
