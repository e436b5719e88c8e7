"""The session: one process that carries out a run, from its first connection to the run's end or its own.

It is a worker of the plan's agent for this one run, and looks on. Whatever ends it, the run is where its envelopes
are, and another session goes on. Called by `bus plan run` and `bus plan resume`.
"""

from __future__ import annotations

import signal
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

import anyio

from taskbus.errors import Permanent
from taskbus_agents.plans.choosing import Chooser
from taskbus_agents.plans.following import Following, fold, plan_of
from taskbus_agents.plans.gatekeeper import Gatekeeper
from taskbus_agents.plans.messages import Messages
from taskbus_agents.plans.runner import PlanRunner, end_open
from taskbus_agents.plans.starting import ENDED
from taskbus_agents.runner import Runner

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterator, Callable

    from taskbus.client import Bus
    from taskbus.log import Entry
    from taskbus.settings import Settings
    from taskbus.work import Returned, Work
    from taskbus.worker import Worker
    from taskbus_agents.plans.model import Plan
    from taskbus_agents.plans.run import Run

LEASE: Final = 10.0
"""Seconds after which another session takes over from one that was killed."""
CONCURRENCY: Final = 64
"""The run, and more than the most of its parts that are handled at a time: none of them waits for another's end."""
_ATTEMPTS: Final = 1_000_000
"""A run is taken anew each time its session is killed, and that is no failure of it."""
_DRAIN: Final = 2.0


@dataclass(frozen=True, slots=True)
class Ended:
    """How a session ended: the run as it stands, and the signal or the time that ended the session before it."""

    run: Run
    signal: int | None = None
    timed_out: bool = False


class Session:
    """Carries out one run. `on_entry` is told of each envelope of it, `on_incident` of what is odd, in one line."""

    def __init__(
        self,
        bus: Bus,
        settings: Settings,
        order: Entry,
        *,
        lease: float = LEASE,
        on_entry: Callable[[Run, Entry], None] = lambda _run, _entry: None,
        on_incident: Callable[[str], None] = lambda _incident: None,
    ) -> None:
        self.plan: Plan = plan_of(order)
        self._bus = bus
        self._settings = settings
        self._order = order
        self._lease = lease
        self._on_entry = on_entry
        self._report = on_incident
        self._folder = folder_of(self.plan, order)

    async def carry_out(self, *, timeout: float | None = None) -> Ended:
        """Work until the run has ended, a signal comes or the time, in seconds, is over."""
        following = Following(
            self._bus,
            self.plan,
            self._order,
            on_entry=self._on_entry,
            on_incident=lambda found: self._report(found.what),
        )
        told: list[int] = []
        with (
            anyio.move_on_after(timeout) as time,
            anyio.CancelScope() as scope,
            anyio.open_signal_receiver(signal.SIGINT, signal.SIGTERM, signal.SIGHUP) as signals,
        ):
            async with anyio.create_task_group() as group:
                group.start_soon(_hear, signals, told, scope)
                async with self._working():
                    group.start_soon(following.follow)
                    await self._until_ended(following)
                group.cancel_scope.cancel()
        run = following.run
        run.refresh()
        if time.cancelled_caught or told:
            return Ended(run, told[0] if told else None, timed_out=not told)
        return Ended(run)

    async def _until_ended(self, following: Following) -> None:
        await following.reached(await self._bus.log.end())
        changes = -1
        while following.run.state not in ENDED:
            await following.change(changes)
            changes = following.run.changes
        if following.run.state == "canceled":
            await self._end_open()
            await following.reached(await self._bus.log.end())

    @asynccontextmanager
    async def _working(self) -> AsyncGenerator[None]:
        """Have a worker of the plan's agent at work in the block; afterwards it hands back what it has in hand."""
        async with Runner() as runner:
            chooser = Chooser(self._bus, self._settings, self.plan)
            carrying = PlanRunner(
                *(self._bus, self.plan, self._order), folder=self._folder, chooser=chooser, on_incident=self._report
            )
            keeping = Gatekeeper(
                *(self._bus, self._settings, self.plan, self._order), folder=self._folder, runner=runner
            )

            async def handle(work: Work) -> Returned:
                task = work.delivery.task
                if not work.delivery.is_work:
                    if task == self._order.task and work.envelope.type == "cancellation":
                        await self._end_open()
                    return None  # news of a step, which the log has told already
                if task == self._order.task:
                    return await carrying.carry_out(work)
                if task.startswith((f"{self._order.task}.", f"{self._order.task}:")):
                    return await keeping.keep(work)
                raise Permanent(f"{task} is not of run {self._order.task}, which this session was started for.")

            worker = self._bus.worker(
                self.plan.agent,
                handle,
                on_incident=self._report,
                lease=self._lease,
                concurrency=CONCURRENCY,
                attempts=_ATTEMPTS,
                supervision=self._settings.supervision,
            )
            async with anyio.create_task_group() as group:
                group.start_soon(worker.run)
                try:
                    yield
                    await self._drained(worker)
                finally:
                    group.cancel_scope.cancel()

    async def _drained(self, worker: Worker) -> None:
        """Let the news of the last steps be settled, so that none of it waits for the next run."""
        with anyio.move_on_after(_DRAIN):
            inbox = self._bus.inbox(self.plan.agent)
            while await inbox.waiting(1) or worker.handling:  # noqa: ASYNC110 - the server's, and has no event
                await anyio.sleep(0.02)

    async def _end_open(self) -> None:
        run = await fold(self._bus, self.plan, self._order, await self._bus.log.end())
        messages = Messages(run, self._order.envelope, self._order.root, self._folder)
        await end_open(self._bus, run, messages)


def folder_of(plan: Plan, order: Entry) -> Path:
    """Where the commands of a run are run: seen from the file that it was begun with."""
    payload = order.envelope.payload
    artifacts = getattr(payload, "artifacts", ())
    file = Path(artifacts[0].path) if artifacts else Path.cwd() / "plan"
    return (file.parent / plan.folder).absolute()


async def _hear(signals: AsyncIterator[signal.Signals], told: list[int], scope: anyio.CancelScope) -> None:
    number = await anext(signals)
    told.append(int(number))
    scope.cancel()
