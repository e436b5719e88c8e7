"""Mending: an inbox whose stream somebody deleted gets its open work back, from the records of tasks and the log.

What only informed its agent is not put back: nobody knows what of that had been settled. Called by the worker that
notices, which reports both.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

from taskbus.append import script, task_of, word_of
from taskbus.envelope import PRIORITIES
from taskbus.lifecycle import DELIVERED

if TYPE_CHECKING:
    from taskbus.client import Bus

_DELIVERS = frozenset({"delegation", "answer", "verdict"})


async def mend(bus: Bus, agent: str) -> list[str]:
    """Put back the open work of `agent` that stands in no inbox any more; returns the tasks.

    Reads the records of all tasks and, where something is missing, the log. Raises Unavailable.
    """
    keys = bus.keys
    lost = await _lost(bus, agent)
    positions: dict[str, str] = {}
    if lost:
        async for entry in bus.log.read():
            if entry.task in lost and entry.recipient == agent and entry.type in _DELIVERS:
                positions[entry.task] = entry.position.entry
    args: list[str | bytes | int] = [agent, *PRIORITIES]
    for task, record in lost.items():
        if task in positions:
            args += (task, record, positions[task])
    names = [keys.index, keys.meta, keys.held(agent), keys.leases(agent), *keys.inboxes(agent)]
    return [name.decode() for name in cast("list[bytes]", await bus.connection.run(script("mend"), names, args))]


async def _lost(bus: Bus, agent: str) -> dict[str, str]:
    """The records of the open work of an agent whose delivery neither stands in the inbox nor is parked."""
    found: dict[str, str] = {}
    parked = await bus.connection.hash(bus.keys.parked(agent))
    async for field, record in bus.connection.scan_hash(bus.keys.index, "task:*"):
        name = field.removeprefix("task:")
        task = task_of(name, record)
        if task.assignee != agent or task.state not in DELIVERED:
            continue
        delivery = word_of(record, "delivery")
        priority, _, entry = delivery.partition("/")
        if entry and delivery not in parked.get(name, "").split():
            stream = bus.keys.inbox(agent, priority)
            if not await bus.connection.range(stream, entry, entry, 1):
                found[name] = record
    return found
