"""Mending: an inbox whose stream somebody deleted gets its open work back, from the records of tasks and the log.

What only informed its agent is not put back: nobody knows what of that had been settled. Called by the worker that
notices, which reports both.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

from taskbus.append import script, task_of, word_of
from taskbus.envelope import PRIORITIES
from taskbus.errors import Gap
from taskbus.lifecycle import DELIVERED
from taskbus.position import START

if TYPE_CHECKING:
    from collections.abc import Collection

    from taskbus.client import Bus

_DELIVERS = frozenset({"delegation", "answer", "verdict"})


async def mend(bus: Bus, agent: str) -> list[str]:
    """Put back the open work of `agent` that stands in no inbox any more; returns the tasks.

    Reads the records of all tasks and, where something is missing, the log. Raises Unavailable.
    """
    keys = bus.keys
    lost = await _lost(bus, agent)
    positions = await _newest(bus, agent, lost) if lost else {}
    args: list[str | bytes | int] = [agent, *PRIORITIES]
    for task, record in lost.items():
        if task in positions:
            args += (task, record, positions[task])
    names = [keys.index, keys.meta, keys.held(agent), keys.leases(agent), *keys.inboxes(agent)]
    return [name.decode() for name in cast("list[bytes]", await bus.connection.run(script("mend"), names, args))]


async def _newest(bus: Bus, agent: str, tasks: Collection[str]) -> dict[str, str]:
    """Where the newest envelope stands that delivered the work of each task; of an open task nothing is trimmed."""
    while True:
        trimmed = await bus.log.trimmed()
        found: dict[str, str] = {}
        try:
            async for entry in bus.log.read(trimmed.head.position if trimmed else START):
                if entry.task in tasks and entry.recipient == agent and entry.type in _DELIVERS:
                    found[entry.task] = entry.position.entry
        except Gap:
            continue  # trimmed meanwhile: what is left has all that is looked for
        return found


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
