"""The talk: what has been said of a task since it was delegated, for an agent that begins or goes on with it.

Read backwards from the delivery, since most talks are short and recent: from the log, and where that was trimmed from
the archive. The bus keeps no other index of a task's envelopes. Called by the adapters.
"""

from __future__ import annotations

from contextlib import aclosing
from typing import TYPE_CHECKING, Final

from taskbus import codec, moment
from taskbus.errors import NotFound
from taskbus.log import Entry

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from taskbus.client import Bus
    from taskbus.delivery import Delivery
    from taskbus.position import Position

PAGE: Final = 500
SAID: Final = frozenset({"question", "answer", "completion", "verdict", "escalation"})
"""What an agent is shown besides the delegation; acknowledgments and progress tell it nothing."""


async def talk(bus: Bus, delivery: Delivery) -> list[Entry]:
    """The newest delegation of the delivery's task, and what was said since, up to the delivery itself.

    Raises NotFound where neither the log nor the archive has the delegation any more.
    """
    said = [delivery.entry]
    async with aclosing(_before(bus, delivery.entry.position)) as earlier:
        while said[-1].type != "delegation":
            entry = await anext(earlier, None)
            if entry is None:
                raise NotFound(
                    f"The log does not hold the delegation of task {delivery.task} any more.",
                    task=delivery.task,
                    advice="Delegate the task anew.",
                )
            if entry.task == delivery.task and (entry.type in SAID or entry.type == "delegation"):
                said.append(entry)
    return said[::-1]


async def _before(bus: Bus, position: Position) -> AsyncGenerator[Entry]:
    """All that stands before a position, the newest first: what is live, then what was trimmed."""
    while page := await bus.connection.revrange(bus.keys.log, f"({position.entry}", "-", PAGE):
        for place, fields in page:
            entry = Entry.of(place, fields, shard=bus.keys.shard)
            position = entry.position
            yield entry
    async with aclosing(bus.history.backwards(moment.before(position))) as pages:
        async for entries in pages:
            for entry in reversed(entries):
                yield entry


def lines(said: list[Entry]) -> bytes:
    """The envelopes as NDJSON, in the canonical form, whatever form their senders wrote them in."""
    return b"".join(codec.encode(entry.envelope) + b"\n" for entry in said)
