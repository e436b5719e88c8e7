"""A crew: scripted agents for the steps of a plan, and a session that carries the plan out, in one process."""

from __future__ import annotations

from collections import defaultdict
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import anyio

from taskbus.envelope import Answer, Completion, ErrorDetails, Result, compose
from taskbus.lifecycle import HUMAN
from taskbus_agents.plans import document
from taskbus_agents.plans.following import fold, order_of, plan_of
from taskbus_agents.plans.session import Session
from taskbus_agents.plans.starting import begun

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from taskbus.client import Bus
    from taskbus.settings import Settings
    from taskbus.work import Returned, Work
    from taskbus_agents.plans.model import Plan
    from taskbus_agents.plans.run import Run
    from taskbus_agents.plans.session import Ended


def done(description: str = "done", **more) -> Completion:
    """A success."""
    return Completion(result=Result(status="success", description=description, **more))


def failed(message: str = "it broke") -> Completion:
    """A failure."""
    details = ErrorDetails(level=1, category="execution", message=message)
    return Completion(result=Result(status="failure"), error_details=details)


class Crew:
    """Agents that do as they are told: `script[step]` are what a step's deliveries return, one after the other.

    Each is a completion or another outcome, or a coroutine function from the delivery to it; a step without any is
    done at once. `seen` are the deliveries by step.
    """

    def __init__(self, bus: Bus, settings: Settings, folder) -> None:
        self.bus = bus
        self.settings = settings
        self.folder = folder
        self.script: dict[str, list[Returned | Callable[[Work], Awaitable[Returned]]]] = defaultdict(list)
        self.seen: dict[str, list[Work]] = defaultdict(list)
        self.incidents: list[str] = []
        self.told = anyio.Event()

    def plan(self, text: str, name: str = "p.toml") -> Plan:
        """A plan, written to a file of this name."""
        file = self.folder / name
        file.write_text(text, encoding="utf-8")
        return document.load(file)

    async def begin(self, plan: Plan, name: str = "p.toml") -> str:
        """Begin a run, or join the open one."""
        return (await begun(self.bus, plan, file=self.folder / name, sender=HUMAN)).run

    async def handle(self, work: Work) -> Returned:
        """What every agent does."""
        if not work.delivery.is_work or work.envelope.type not in ("delegation", "answer", "verdict"):
            return None
        step = work.delivery.task.split(".", 2)[2]
        self.seen[step].append(work)
        todo = self.script[step]
        returned = todo.pop(0) if todo else done(f"did {step}")
        return await returned(work) if callable(returned) else returned

    @asynccontextmanager
    async def at_work(self, *agents: str):
        """Have these agents at work in the block."""
        async with anyio.create_task_group() as group:
            for agent in agents:
                worker = self.bus.worker(agent, self.handle, concurrency=8, supervision=None)
                group.start_soon(worker.run)
            yield
            group.cancel_scope.cancel()

    def session(self, order, **more) -> Session:
        """A session for a run."""
        return Session(self.bus, self.settings, order, on_incident=self._tell, **{"lease": 1.0, **more})

    def _tell(self, incident: str) -> None:
        self.incidents.append(incident)
        self.told.set()

    async def carry_out(self, run: str, **more) -> Ended:
        """Carry a run out here, to its end."""
        with anyio.fail_after(50):
            return await self.session(await order_of(self.bus, run), **more).carry_out()

    async def complete(self, plan: Plan, *agents: str) -> Run:
        """Begin a run and carry it out with these agents at work."""
        async with self.at_work(*agents):
            return (await self.carry_out(await self.begin(plan))).run

    async def fold(self, run: str) -> Run:
        """The run as it stands."""
        order = await order_of(self.bus, run)
        found = await fold(self.bus, plan_of(order), order, await self.bus.log.end())
        found.refresh()
        return found

    async def until(self, holds: Callable[[list], object]) -> object:
        """Wait until something holds of the log's entries; returns what it came to."""
        entries: list = []
        with anyio.fail_after(30):
            async for entry in self.bus.log.follow():
                entries.append(entry)
                if found := holds(entries):
                    return found
        return None

    async def asked(self, task: str, times: int = 1):
        """Wait until a task has asked a person, so many times."""
        await self.until(lambda entries: sum(e.task == task and e.type == "question" for e in entries) >= times)

    async def answer(self, task: str, text: str) -> None:
        """Answer as a person does."""
        recipient = (await self.bus.task(task)).assignee
        await self.bus.publish(compose(Answer(answer=text), sender=HUMAN, recipient=recipient, task=task))

    async def entries(self) -> list:
        """Everything that stands in the log."""
        return [entry async for entry in self.bus.log.read()]


def breaches(plan: Plan, run: str, entries: list) -> list[str]:
    """Where the log breaks a gate: a step that was delegated before all that it waits for was over.

    Told without the code that carries plans out: a step is over with the completion, or verdict, that accepted it.
    """
    over: set[str] = set()
    found: list[str] = []
    begun_steps: set[str] = set()

    def is_over(name: str) -> bool:
        node = plan.nodes[name]
        return all(map(is_over, node.after)) if node.kind == "join" else name in over

    for entry in entries:
        if not entry.task.startswith(f"{run}."):
            continue
        name, _, aside = entry.task[len(run) + 1 :].partition(":")
        if aside:
            continue
        if entry.type == "delegation":
            if name in begun_steps and name in over:
                found.append(f"{name} was delegated again after it was over")
            begun_steps.add(name)
            found += [f"{name} began before {each}" for each in plan.nodes[name].after if not is_over(each)]
        elif entry.type == "completion" and entry.envelope.payload.result.status != "failure":
            node = plan.nodes[name]
            if not (node.review or node.check):
                over.add(name)
        elif entry.type == "verdict" and entry.envelope.payload.decision == "accepted":
            over.add(name)
    return found
