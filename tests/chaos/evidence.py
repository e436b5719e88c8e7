"""The evidence of a run: all histories, the log, and what the server and the projection hold at its end."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from taskbus.client import Bus
from taskbus.connection import Connection
from taskbus.errors import ProjectionStopped
from taskbus.keys import Keys
from taskbus_projections.database import Database
from taskbus_projections.dump import digest
from taskbus_projections.projector import Projector
from tests.chaos.history import Event, merged, read
from tests.chaos.models import Doomed, models
from tests.chaos.plan import AGENTS, BOSS
from tests.chaos.roles import DATABASE, NAMESPACE

if TYPE_CHECKING:
    from pathlib import Path

    from taskbus.lifecycle import Task
    from taskbus.log import Entry
    from tests.chaos.plan import Plan

SIZES = {"stream": "XLEN", "hash": "HLEN", "zset": "ZCARD", "set": "SCARD", "string": "STRLEN", "list": "LLEN"}


@dataclass(frozen=True)
class Evidence:
    """What the rules look at.

    `sizes` are of all keys of the server; `names` has the members or fields of the index and of the keys that grow with
    workers and open tasks; `records` is what the bus knows of each task, `parked` the tasks that are parked, by agent.
    `slots` says how many handlers each worker runs at a time, `queues` which of them hold more than that. `projection`
    are the digests of the projection that was folded during the run, and of one that was folded from zero.
    """

    events: list[Event] = field(default_factory=list)
    log: list[Entry] = field(default_factory=list)
    sizes: dict[str, int] = field(default_factory=dict)
    names: dict[str, frozenset[str]] = field(default_factory=dict)
    records: dict[str, Task] = field(default_factory=dict)
    parked: dict[str, frozenset[str]] = field(default_factory=dict)
    projection: tuple[str, str] = ("", "")
    attempts: int = 3
    lease: float = 0.5
    served: tuple[str, ...] = (*AGENTS, BOSS)
    keys: Keys = field(default_factory=lambda: Keys(NAMESPACE))
    slots: dict[str, int] = field(default_factory=dict)
    queues: frozenset[str] = frozenset()


def gather(plan: Plan, folder: Path, url: str) -> Evidence:
    """Read everything that a run has left."""
    events = merged(read(path) for path in sorted(folder.glob("*.jsonl")))
    return asyncio.run(_gather(plan, folder, url, events))


async def _gather(plan: Plan, folder: Path, url: str, events: list[Event]) -> Evidence:
    Doomed.doom = None
    keys = Keys(NAMESPACE)
    async with Connection.open(url) as connection:
        bus = Bus(connection, NAMESPACE)
        log = [entry async for entry in bus.log.read()]
        sizes = {key: await _size(connection, key) async for key in connection.scan()}
        names = {key: frozenset(await connection.hash(key)) for key in (keys.index, keys.meta)}
        for key in (keys.workers, keys.deadlines, keys.escalations):
            names[key] = frozenset(texts(await connection.execute("ZRANGE", key, 0, -1)))
        tasks = [name.removeprefix("task:") for name in names[keys.index] if name.startswith("task:")]
        parked = {agent: frozenset(await connection.hash(keys.parked(agent))) for agent in (*AGENTS, BOSS)}
        return Evidence(
            events=events,
            log=log,
            sizes=sizes,
            names=names,
            records={task: await bus.task(task) for task in tasks},
            parked={agent: found for agent, found in parked.items() if found},
            projection=await _digests(bus, folder),
            attempts=plan.attempts,
            lease=plan.lease,
            keys=keys,
            slots={actor.who: actor.slots for actor in plan.cast if actor.agent},
            queues=frozenset(actor.who for actor in plan.cast if actor.prefetch),
        )


async def _size(connection: Connection, key: str) -> int:
    kind: Any = await connection.execute("TYPE", key)
    kind = kind.decode() if isinstance(kind, bytes) else str(kind)
    return int(str(await connection.execute(SIZES[kind], key))) if kind in SIZES else 0


def texts(reply: Any) -> list[str]:
    """A list of strings, as a server answers it."""
    return [word.decode() for word in reply]


async def _digests(bus: Bus, folder: Path) -> tuple[str, str]:
    """Of the projection of the run, after what it may be behind was folded, and of a fold from zero."""
    return await _digest(bus, folder / DATABASE), await _digest(bus, folder / "fresh.db")


async def _digest(bus: Bus, path: Path) -> str:
    """The digest, or why there is none."""
    with Database.open(path, NAMESPACE, models()) as database:
        try:
            await Projector(bus, database).catch_up()
        except ProjectionStopped as error:
            return error.message
        return digest(database)
