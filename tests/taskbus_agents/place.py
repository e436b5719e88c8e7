"""A place to work in: a bus and a home of one test, where a worker for one agent runs a shell script."""

from __future__ import annotations

from typing import TYPE_CHECKING

import anyio

from taskbus.envelope import Delegation, compose
from taskbus_agents.service import Service, serve

if TYPE_CHECKING:
    from pathlib import Path

    from taskbus.client import Bus
    from taskbus.envelope import ErrorDetails
    from taskbus.settings import Settings
    from taskbus_agents.tally import Settled

AGENT, DELEGATOR, TASK = "@kilo", "@lead", "task-1"
OK = """printf '{"status": "success", "description": "done"}'"""


class Place:
    """A bus and a home of one test; `serve` runs a worker for @kilo in them until its inbox is empty."""

    def __init__(self, bus: Bus, settings: Settings) -> None:
        self.bus = bus
        self.settings = settings
        self.settled: list[Settled] = []
        self.incidents: list[str] = []

    async def delegate(self, task: str = TASK, **more) -> None:
        """Delegate a task to @kilo."""
        await self.say(Delegation(goal="do it", **more), task=task)

    async def say(self, payload, *, sender=DELEGATOR, recipient=AGENT, task=TASK) -> None:
        """Publish an envelope."""
        envelope = compose(payload, sender=sender, recipient=recipient, task=task)
        await self.bus.publish(envelope)

    async def serve(self, script: str, **more) -> None:
        """Run a worker whose agent is a shell script; it must end with 0."""
        service = Service(AGENT, **{"command": ("sh", "-c", script), "until_idle": True, **more})
        with anyio.fail_after(60):
            code = await serve(
                self.settings, service, on_settled=self.settled.append, on_incident=self.incidents.append
            )
        assert code == 0

    async def said(self, *types: str) -> list:
        """The payloads of these types in the log, in order."""
        return [entry.envelope.payload async for entry in self.bus.log.read() if entry.type in types]

    async def failure(self, reason: str) -> ErrorDetails:
        """The error of the only completion, which must be a failure for this reason; the task has failed."""
        (completion,) = await self.said("completion")
        assert (completion.result.status, completion.termination_reason) == ("failure", reason)
        assert (await self.bus.task(TASK)).state == "failed"
        return completion.error_details

    @property
    def folder(self) -> Path:
        """Where the folders of the deliveries are."""
        return self.settings.home / "runs"
