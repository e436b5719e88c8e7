"""Following: a run that is kept up with the log while it goes on.

Used by the runner, which decides from it, and by whoever looks on. Reads archive and log as one, so that a run that
began long ago is folded from its beginning.
"""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, NoReturn

import anyio

from taskbus import moment
from taskbus.errors import NotFound
from taskbus.log import Entry
from taskbus.position import Position
from taskbus_agents.plans import document
from taskbus_agents.plans.messages import run_id
from taskbus_agents.plans.model import RUN, Plan
from taskbus_agents.plans.run import Run

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable

    from taskbus.client import Bus
    from taskbus.log import Incident


class Following:
    """Applies each entry of the log to a run, from its delegation on, in the background; `run` is what it came to.

    `on_entry` is told of each entry that belongs to the run, once it is applied.
    """

    def __init__(
        self,
        bus: Bus,
        plan: Plan,
        order: Entry,
        *,
        on_entry: Callable[[Run, Entry], None] = lambda _run, _entry: None,
        on_incident: Callable[[Incident], None] | None = None,
    ) -> None:
        self.run = Run(plan, order.task)
        self._bus = bus
        self._order = order
        self._on_entry = on_entry
        self._on_incident = on_incident
        self._moved = anyio.Event()

    async def follow(self) -> NoReturn:
        """Keep up, until cancelled."""
        start = moment.before(self._order.position)
        while True:
            async for entry in self._bus.history.follow(start, on_incident=self._on_incident):
                if self.run.apply(entry):
                    self._on_entry(self.run, entry)
                self._moved.set()

    @asynccontextmanager
    async def kept_up(self) -> AsyncGenerator[None]:
        """Keep up in the block."""
        async with anyio.create_task_group() as group:
            group.start_soon(self.follow)
            try:
                yield
            finally:
                group.cancel_scope.cancel()

    async def reached(self, position: Position) -> None:
        """Wait until everything up to a position is applied."""
        while self.run.position < position:
            await self._move()

    async def change(self, since: int, *, within: float | None = None) -> None:
        """Wait until the run has had more than `since` changes; with `within` so many seconds at most."""
        with anyio.move_on_after(within):
            while self.run.changes <= since:
                await self._move()

    async def _move(self) -> None:
        if self._moved.is_set():
            self._moved = anyio.Event()
        await self._moved.wait()


async def order_of(bus: Bus, run: str) -> Entry:
    """The delegation that a run began with. Raises NotFound."""
    if not RUN.fullmatch(run):
        raise NotFound(f"{run!r} names no run of a plan.", task=run, advice="A run is called like release.1.")
    at = await bus.connection.field(bus.keys.index, run_id(run))
    entry = await bus.log.get(Position.parse(at, shard=bus.keys.shard)) if at is not None else None
    if entry is None:
        await bus.task(run)
        # Trimmed from the log, or of another hand: the archive may have it.
        async for found in bus.history.read():
            if found.task == run and found.type == "delegation":
                entry = found
                break
    if entry is None or entry.source is None or entry.task != run:
        raise NotFound(
            f"Task {run} is no run of a plan: no document came with it.",
            task=run,
            advice="`bus plan run FILE` begins one.",
        )
    return entry


def plan_of(order: Entry) -> Plan:
    """The plan that a run was begun with, as it travelled. Raises ConfigurationError for what this version refuses."""
    source = order.source or b""
    form = "toml" if order.source_type == "application/toml" else "text"
    name = order.task.rpartition(".")[0]
    return document.parse(source, form=form, stem=name, place=f"the document of {order.task}")


async def fold(bus: Bus, plan: Plan, order: Entry, until: Position) -> Run:
    """The run as it stood at a position."""
    run = Run(plan, order.task)
    async for entry in bus.history.read(moment.before(order.position), until):
        run.apply(entry)
    return run
