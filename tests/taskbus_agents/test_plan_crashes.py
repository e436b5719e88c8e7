"""Plans whose runners and workers are killed: what was done stays done, and no gate is broken."""

from __future__ import annotations

import json
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from contextlib import suppress
from pathlib import Path

import anyio
import anyio.to_thread
import pytest

from taskbus_agents.plans import document
from tests.taskbus_agents.crew import Crew, breaches, done

pytestmark = pytest.mark.anyio
WORKER = Path(__file__).with_name("plan_worker.py")
AGENTS = ("@kilo", "@cline", "@gemini")
STEPS = 200
KILLS = 10


def drawn_plan(seed: int) -> str:
    """A plan of 200 steps in a random graph, with gates of each kind that needs nobody."""
    draw = random.Random(seed)
    lines = ["parallel = 24", "retries = 2"]
    names: list[str] = []
    for number in range(STEPS):
        before = draw.sample(names[-40:], min(len(names), draw.choice((0, 1, 1, 2, 3))))
        if names and draw.random() < 0.08:
            gate = f"g{number}"
            lines += [f"[gates.{gate}]", f"after = {draw.sample(names[-20:], min(len(names), 3))}"]
            lines += ['check = "true"'] if draw.random() < 0.3 else []
            before.append(gate)
        name = f"s{number}"
        lines += [f"[steps.{name}]", f'goal = "do {name}"', f'agent = "{draw.choice(AGENTS)}"', f"after = {before}"]
        names.append(name)
    return "\n".join(lines)


@pytest.fixture
async def crew(place, tmp_path):
    """A crew on the shared server, in a namespace of this test; it only looks on."""
    return Crew(place.bus, place.settings, tmp_path)


class Troupe:
    """The processes of one test: a runner, perhaps two, and workers; each is killed and started again."""

    def __init__(self, run_bus, runners: int) -> None:
        self._run_bus = run_bus
        self._environment = {**run_bus.environment, "PYTHONPATH": run_bus.environment.get("PYTHONPATH", "")}
        self.members: dict[str, subprocess.Popen] = {}
        for number in range(runners):
            self.start(f"runner-{number}")
        for agent in AGENTS:
            self.start(agent)

    def start(self, name: str) -> None:
        """Start one, as a process of its own."""
        words = [sys.executable, "-m", "taskbus", "plan", "run", "p.toml", "--lease", "1"]
        if name.startswith("@"):
            words = [sys.executable, str(WORKER), name]
        self.members[name] = subprocess.Popen(
            words,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE if name.startswith("runner") else subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env=self._environment,
            cwd=self._run_bus.folder,
        )

    def kill(self, name: str) -> None:
        """Kill one, and start it again."""
        self.members[name].kill()
        self.members[name].communicate()
        self.start(name)

    def end(self) -> None:
        """Kill all that are left."""
        for process in self.members.values():
            process.kill()
            with suppress(ValueError):
                process.communicate()


@pytest.fixture
def troupe(run_bus):
    """Starts the processes of a test, and leaves none behind."""
    made: list[Troupe] = []

    def start(runners: int = 1) -> Troupe:
        made.append(Troupe(run_bus, runners))
        return made[-1]

    yield start
    for each in made:
        each.end()


@pytest.mark.parametrize(("seed", "runners"), [(11, 1), (12, 2)])
async def test_a_random_plan_keeps_every_gate_whoever_is_killed(crew, troupe, seed, runners):
    """200 steps in a random graph are each done once, in an order that the plan allows, under ten kills -9."""
    plan = crew.plan(drawn_plan(seed))
    draw, began = random.Random(seed), time.monotonic()
    cast = troupe(runners)
    killed: Counter[str] = Counter()
    await crew.until(lambda entries: any(e.task.startswith("p.1.") and e.type == "completion" for e in entries))
    for _ in range(KILLS):
        await anyio.sleep(draw.uniform(0.4, 1.5))
        name = draw.choice(list(cast.members))
        killed[name.partition("-")[0]] += 1
        await anyio.to_thread.run_sync(cast.kill, name)
    runner = cast.members["runner-0"]
    with anyio.fail_after(55):
        stdout, _ = await anyio.to_thread.run_sync(runner.communicate, abandon_on_cancel=True)
    entries = await crew.entries()
    assert breaches(plan, "p.1", entries) == []
    run = await crew.fold("p.1")
    assert runner.returncode == 0, stdout
    assert (run.state, set(run.settled.values()), len(run.settled)) == ("accepted", {"done"}, len(plan.nodes))
    begun = Counter(e.task for e in entries if e.type == "delegation")
    assert {task: count for task, count in begun.items() if count > 3} == {}
    accepted = Counter(
        e.task for e in entries if e.type == "completion" and e.envelope.payload.result.status == "success"
    )
    assert set(accepted.values()) == {1}
    assert killed["runner"] > 0, "the draw killed no runner"
    print(f"{len(entries)} envelopes, {dict(killed)}, {time.monotonic() - began:.1f} s")


async def test_a_run_that_is_interrupted_anywhere_goes_on(crew, run_bus):
    """After Ctrl-C and after kill -9, `bus plan resume` goes on, and no step is begun twice."""
    text = "".join(
        f'[steps.s{n}]\ngoal = "x"\nagent = "@kilo"\n' + (f'after = ["s{n - 1}"]\n' if n else "") for n in range(9)
    )
    plan = crew.plan(text)
    async with crew.at_work("@kilo"):
        for number, how in enumerate(("terminate", "kill", "send_signal")):
            words = ("run", "p.toml") if number == 0 else ("resume", "p.1")
            process = run_bus.start("plan", *words, "--lease", "0.5")
            seen = number * 2

            def far_enough(entries, least=seen):
                return sum(e.type == "completion" and e.task.startswith("p.1.s") for e in entries) > least

            await crew.until(far_enough)
            getattr(process, how)(*((2,) if how == "send_signal" else ()))
            await anyio.to_thread.run_sync(process.communicate)
        done = await anyio.to_thread.run_sync(lambda: run_bus("plan", "resume", "p.toml", "--lease", "0.5", "--json"))
    assert (done.code, done.json()["state"], done.json()["done"]) == (0, "accepted", len(plan.nodes)), done.stderr
    begun = Counter(e.task for e in await crew.entries() if e.type == "delegation")
    assert set(begun.values()) == {1}
    assert breaches(document.load(crew.folder / "p.toml"), "p.1", await crew.entries()) == []


async def test_a_runner_that_comes_back_begins_nothing(crew, run_bus):
    """A runner that was stopped while another took over is refused by its token, and only looks on."""
    text = "".join(
        f'[steps.s{n}]\ngoal = "x"\nagent = "@kilo"\n' + (f'after = ["s{n - 1}"]\n' if n else "") for n in range(8)
    )
    crew.plan(text)
    gate = anyio.Event()

    crew.script["s2"] = [lambda work: _after(gate)]
    async with crew.at_work("@kilo"):
        process = run_bus.start("plan", "run", "p.toml", "--lease", "0.5", "--json")
        try:
            await crew.until(lambda entries: any(e.task == "p.1.s2" and e.type == "delegation" for e in entries))
            process.send_signal(signal.SIGSTOP)
            gate.set()
            ended = await crew.carry_out("p.1", lease=0.5)
            assert ended.run.state == "accepted"
            process.send_signal(signal.SIGCONT)
            stdout, stderr = await anyio.to_thread.run_sync(process.communicate)
        finally:
            process.kill()
    assert process.returncode == 0, stderr
    assert json.loads(stdout)["state"] == "accepted"
    begun = Counter(e.task for e in await crew.entries() if e.type == "delegation")
    assert set(begun.values()) == {1}


async def _after(event):
    await event.wait()
    return done()
