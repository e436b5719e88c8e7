"""The scene of a test of the shared run: a bus, a delegation, and an agent whose program is a script."""

from __future__ import annotations

import json
import os
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import anyio

from taskbus.envelope import Delegation, compose
from taskbus.position import START
from taskbus_agents.adapters.claude import Claude
from taskbus_agents.checks import Checks
from taskbus_agents.definition import Definition
from taskbus_agents.folders import Folders
from taskbus_agents.headless import HeadlessAgent
from taskbus_agents.runner import Runner
from taskbus_agents.spending import Spending
from taskbus_agents.workspace import Workspaces

if TYPE_CHECKING:
    from collections.abc import Callable

    from taskbus.client import Bus
    from taskbus.envelope import AnyEnvelope, Completion

AGENT, DELEGATOR, TASK = "@coder", "@lead", "t-1"
STAND_IN = Path(__file__).with_name("stand_in.py")


class StandIn(Claude):
    """Claude Code's adapter over the stand-in, which leaves `.litter` for itself."""

    def launch(self, job):
        """The stand-in, with what Claude Code would be given besides."""
        made = super().launch(job)
        return replace(made, command=(sys.executable, str(STAND_IN), *made.command[1:]), litter=(".litter*",))


def done(status: str = "success", **more) -> str:
    """A last message that ends with a completion in short."""
    return f"I am done.\n{json.dumps({'status': status, 'description': 'All of it is done.', **more})}"


async def until(condition: Callable[[], bool]) -> None:
    """Wait for what another process does."""
    with anyio.fail_after(30):
        while not condition():  # noqa: ASYNC110 - another process sets no event here
            await anyio.sleep(0.02)


class Scene:
    """A bus and a home of one test; `run` has a delegation worked on, `completion` is what came of it."""

    def __init__(self, bus: Bus, home: Path) -> None:
        self.bus = bus
        self.home = home
        self.incidents: list[str] = []

    async def delegate(self, *criteria: str, task: str = TASK, goal: str = "do it", deadline=None, **more) -> None:
        """Delegate a task to @coder."""
        payload = Delegation(goal=goal, acceptance_criteria=criteria, **more)
        await self.say(payload, task=task, deadline=deadline)

    async def say(self, payload, *, sender: str = DELEGATOR, recipient: str = AGENT, task: str = TASK, **more) -> None:
        """Publish an envelope."""
        await self.bus.publish(compose(payload, sender=sender, recipient=recipient, task=task, **more))

    def definition(self, *steps: list, **more) -> Definition:
        """An agent whose program does these steps."""
        known = {"provider": "anthropic", "model": "claude-sonnet-4-5", "hold": 50_000}
        environment = {"SCRIPT": json.dumps(steps), "PROMPTS": str(self.home / "prompts")}
        return Definition(**{"name": AGENT, "adapter": "claude", "environment": environment, **known, **more})

    def agent(self, runner: Runner, definition: Definition, *, policy=None, adapter=None, **more) -> HeadlessAgent:
        """The handler."""
        inherited = dict(os.environ)
        return HeadlessAgent(
            definition=definition,
            adapter=adapter or StandIn(),
            runner=runner,
            workspaces=Workspaces(definition.workspace, Folders(self.home / "runs"), definition.folder),
            checks=Checks(runner, inherited),
            environment=inherited,
            spending=Spending(policy),
            on_incident=self.incidents.append,
            **more,
        )

    async def run(
        self,
        *steps: list,
        policy=None,
        adapter=None,
        conduct=None,
        attempts: int = 1,
        settled: int | None = None,
        **more,
    ) -> None:
        """Have the inbox worked off by an agent whose program does these steps, or so many deliveries settled."""
        definition = self.definition(*steps, **more)
        extra = {} if conduct is None else {"conduct": conduct}
        with anyio.fail_after(60):
            async with Runner(grace=0.5) as runner:
                agent = self.agent(runner, definition, policy=policy, adapter=adapter, **extra)
                worker = self.bus.worker(AGENT, agent, attempts=attempts, backoff=0.01, supervision=None)
                await worker.run(until_idle=settled is None, limit=settled)

    async def envelopes(self, *types: str) -> list[AnyEnvelope]:
        """The envelopes of these types in the log."""
        return [entry.envelope async for entry in self.bus.log.read() if entry.type in types]

    async def followed(self, budget: str) -> None:
        """Wait for a record of money of this kind."""
        with anyio.fail_after(30):
            async for entry in self.bus.log.follow(START):
                if entry.type == "budget" and entry.envelope.payload.budget == budget:
                    return

    async def settled(self) -> AnyEnvelope:
        """The last completion's envelope."""
        return (await self.envelopes("completion"))[-1]

    async def completion(self) -> Completion:
        """The last completion."""
        return (await self.settled()).payload

    async def state(self, task: str = TASK) -> str:
        """The state of a task."""
        return (await self.bus.task(task)).state

    async def sums(self) -> dict[str, tuple[int, int]]:
        """What is committed and held, by account of this month and of task trees."""
        return {
            each.account: (each.committed, each.held)
            for each in await self.bus.budget.accounts()
            if each.period in ("month", "task")
        }

    def prompts(self) -> list[str]:
        """What the program was told, run by run."""
        return (self.home / "prompts").read_text().split("\0")[:-1]


__all__ = ["AGENT", "DELEGATOR", "TASK", "Scene", "StandIn", "done", "until"]
