"""The play: the demo from its first line to its last, and what it must have come to.

The story is checked against the log and the read models at its end: a demo in which something went another way
than it tells fails. Called by `bus demo`.
"""

from __future__ import annotations

import json
import math
import shlex
import shutil
import signal
import sys
import tarfile
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, cast

import anyio

from taskbus.client import Bus
from taskbus.errors import TaskbusError, TimedOut
from taskbus.lifecycle import HUMAN
from taskbus.settings import DEFAULT_NAMESPACE, Settings
from taskbus_agents.demo import boards
from taskbus_agents.demo.orchestrator import NAME, Orchestrator
from taskbus_agents.demo.stage import CREW, Stage

if TYPE_CHECKING:
    from anyio.abc import TaskGroup

    from taskbus.envelope import Completion
    from taskbus.log import Entry
    from taskbus_agents.demo.narration import Narrator

TIME: Final = 55.0
"""Seconds after which the story has failed."""
OUTCOME: Final = {
    "release": ("accepted", 1, NAME),
    "scout": ("accepted", 1, "@scout"),
    "notes": ("accepted", 2, "@writer"),
    "check-1": ("accepted", 1, "@tester"),
    "check-2": ("accepted", 1, "@tester"),
    "pack": ("accepted", 3, "@packer"),
}
"""What each task must have come to: its state, its attempts, and who did it at last."""


@dataclass(slots=True)
class Summary:
    """What the demo came to."""

    server: str
    folder: str
    home: str
    server_pid: int
    seconds: float = 0.0
    envelopes: int = 0
    by_type: dict[str, int] = field(default_factory=dict[str, int])
    agents: list[str] = field(default_factory=list[str])
    tasks: list[dict[str, Any]] = field(default_factory=list[dict[str, Any]])
    costs: dict[str, Any] = field(default_factory=dict[str, Any])
    kept: bool = False

    def plain(self) -> dict[str, object]:
        """As a JSON object."""
        found: dict[str, object] = {name: getattr(self, name) for name in self.__slots__}
        return {"ok": True, **found}


async def play(narrator: Narrator, *, keep: bool = False) -> Summary | int:
    """Play the demo; the number of the signal instead of a summary, where one ended it.

    Whatever ends it leaves neither process nor folder behind, unless `keep` and the story came out. Raises
    TaskbusError where it did not, and TimedOut where it took too long.
    """
    ended_by = 0
    summary: Summary | None = None

    async def obey() -> None:
        nonlocal ended_by
        async for number in signals:
            ended_by = ended_by or number
            group.cancel_scope.cancel()

    # Outermost, so that a second Ctrl-C does not disturb the cleaning up after the first.
    with anyio.open_signal_receiver(signal.SIGINT, signal.SIGTERM, signal.SIGHUP) as signals:
        async with anyio.create_task_group() as group:
            group.start_soon(obey)
            summary = await _played(narrator, keep=keep)
            group.cancel_scope.cancel()
    return ended_by or summary or 0


async def _played(narrator: Narrator, *, keep: bool) -> Summary:
    began = time.perf_counter()
    async with Stage.set_up() as stage:
        server = stage.server
        narrator.title("Six agents release a small project; every line with an arrow is an envelope.")
        narrator.note(f"{server.server} on a unix socket and {len(CREW)} workers, all in {stage.folder}")
        summary = Summary(server.server, str(stage.folder), str(server.home), server.pid, kept=keep)
        async with Bus.connect(settings=stage.settings) as bus:
            await _told(bus, stage, narrator)
            await _boards(stage, narrator, summary)
            await _checked(bus, summary)
        summary.seconds = round(time.perf_counter() - began, 2)
        stage.keep = keep
    return summary


async def _told(bus: Bus, stage: Stage, narrator: Narrator) -> None:
    """The story itself: from the delegation that a person gives to the verdict that a person gives."""
    incidents: list[str] = []
    entries, told = anyio.create_memory_object_stream["Entry"](math.inf)
    worker = bus.worker(NAME, Orchestrator(bus, stage.project).handle, concurrency=2, on_incident=incidents.append)
    with entries, told, anyio.move_on_after(TIME) as clock:
        async with anyio.create_task_group() as group:
            for name in CREW:
                group.start_soon(stage.work, name)
            group.start_soon(worker.run)
            group.start_soon(_follow, bus, narrator, entries)
            await _acts(stage, narrator, told, group)
    if clock.cancelled_caught:
        said = " ".join(incidents) or "Nothing was reported."
        raise TimedOut(f"The story was not over after {TIME:g} s. {said}")


async def _acts(stage: Stage, narrator: Narrator, told: anyio.abc.ObjectReceiveStream[Entry], group: TaskGroup) -> None:
    narrator.title("1. A person delegates the release, in the handoff shorthand.")
    narrator.command("bus delegate release.json --task release")
    await stage.bus("delegate", "./release.json", "--task", "release")
    async for entry in told:
        if entry.task == "release" and entry.type == "completion":
            completion = cast("Completion", entry.envelope.payload)
            if completion.result.status != "success":
                raise TaskbusError(f"The release failed: {completion.error_details or completion.result}")
            break
    narrator.title("5. The person looks at the files, and judges the result.")
    words = _judgement(stage)
    narrator.command(f"bus accept release {words[0]} {shlex.quote(words[1])} …")
    await stage.bus("accept", "release", *words)
    async for entry in told:
        if entry.task == "release" and entry.type == "verdict":
            break
    group.cancel_scope.cancel()


def _judgement(stage: Stage) -> list[str]:
    """The options that say what was seen for each criterion."""
    notes = [line for file in stage.project.glob("notes/*.md") for line in file.read_text("utf-8").splitlines()]
    wanted = {line.partition(": ")[2] for line in notes if line.startswith("- ")}
    listed = {line.removeprefix("- ") for line in (stage.project / "RELEASE.md").read_text("utf-8").splitlines()}
    with tarfile.open(stage.project / "release.tar.gz") as archive:
        files = sum(member.isfile() for member in archive.getmembers())
    seen = {
        "RELEASE.md lists every change": f"{len(wanted & listed)} of {len(wanted)}",
        "The archive can be unpacked": f"{files} files come out",
    }
    return [word for text, found in seen.items() for word in ("--criterion", f"{text}={found}")]


async def _follow(bus: Bus, narrator: Narrator, entries: anyio.abc.ObjectSendStream[Entry]) -> None:
    async for entry in bus.log.follow():
        narrator.entry(entry)
        await entries.send(entry)


async def _boards(stage: Stage, narrator: Narrator, summary: Summary) -> None:
    """Ask the read models, as a user would, and show what they say."""

    async def asked(*words: str) -> dict[str, Any]:
        return json.loads(await stage.bus(*words, "--json"))

    board, trail, costs = [await asked(*words) for words in (("tasks",), ("audit", "--task", "pack"), ("costs",))]
    narrator.board("The task board (bus tasks)", boards.tasks, board["tasks"])
    narrator.board("The audit trail of one task (bus audit --task pack)", boards.trail, trail["envelopes"])
    narrator.board("What it cost (bus costs): sample figures, no model ran", boards.costs, costs["costs"])
    narrator.note(f"Total: {boards.money(costs['total'])}, for {costs['total']['calls']} calls")
    summary.tasks = board["tasks"]
    summary.costs = {"are_samples": True, "total": costs["total"], "by_model": costs["costs"]}


async def _checked(bus: Bus, summary: Summary) -> None:
    """Fill in what it came to. Raises TaskbusError where that is not how the story goes."""
    kinds: Counter[str] = Counter()
    agents: set[str] = set()
    microusd = 0
    async for entry in bus.log.read():
        kinds[entry.type] += 1
        agents.add(entry.sender)
        microusd += sum(call.cost.microusd for call in entry.envelope.usage if call.cost is not None)
    summary.by_type = dict(sorted(kinds.items()))
    summary.envelopes = kinds.total()
    summary.agents = sorted(agents - {HUMAN})
    problems: list[str] = []
    for name, expected in OUTCOME.items():
        task = await bus.task(name)
        if (found := (task.state, task.attempt, task.assignee)) != expected:
            problems.append(f"task {name} is {found} and not {expected}")
    states = {task["id"]: (task["state"], task["attempt"], task["assignee"]) for task in summary.tasks}
    if states != OUTCOME:
        problems.append(f"the task board has {states}")
    folded = sum(task["envelopes"] for task in summary.tasks)
    if folded != summary.envelopes:
        problems.append(f"{folded} envelopes were folded, and {summary.envelopes} stand in the log")
    if microusd != summary.costs["total"]["cost_microusd"]:
        problems.append(f"the log has costs of {microusd}, the ledger {summary.costs['total']}")
    if problems:
        raise TaskbusError(f"The story did not come out: {'; '.join(problems)}.")


def farewell(narrator: Narrator, summary: Summary) -> None:
    """Say what it was, and with which commands to look further."""
    narrator.title(
        f"Done: {summary.envelopes} envelopes, {len(summary.tasks)} tasks, {len(summary.agents)} agents, "
        f"{summary.seconds:.1f} s"
    )
    if not summary.kept:
        narrator.note(
            "Server, workers and files are gone. `bus demo --keep` leaves server and files there, to look further. "
            'Your own bus begins with: bus delegate @agent "goal"'
        )
        return
    narrator.note("The server and the files stay. Look further with:")
    for line in _ways(summary):
        narrator.command(line)


def _ways(summary: Summary) -> list[str]:
    """The commands with which the user's shell sees this bus, whatever it is set to now."""
    ways = [f"export BUS_HOME={shlex.quote(summary.home)}"]
    if shutil.which("bus") is None:
        ways.append(f'export PATH={shlex.quote(str(Path(sys.executable).parent))}:"$PATH"')
    settings = Settings.load(home=summary.home)
    if settings.file is not None:
        ways.append(f"cd {shlex.quote(summary.folder)}")
    if settings.url is not None and settings.sources["url"].startswith("environment"):
        ways.append("unset BUS_URL REDIS_URL")
    if settings.namespace != DEFAULT_NAMESPACE:
        ways.append(f"export BUS_NAMESPACE={DEFAULT_NAMESPACE}")
    return [
        *ways,
        "bus task notes",
        "bus tail --last 50",
        "bus audit --tree release",
        f"bus down && rm -r {shlex.quote(summary.folder)}",
    ]
