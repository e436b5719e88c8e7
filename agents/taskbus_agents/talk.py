"""The talk: what has been said of a task since it was delegated, for an agent that begins or goes on with it.

Read from the log, backwards from the delivery, since most talks are short and recent. The bus keeps no other index
of a task's envelopes. Called by the adapters.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from taskbus import codec
from taskbus.errors import NotFound
from taskbus.log import Entry

if TYPE_CHECKING:
    from taskbus.client import Bus
    from taskbus.delivery import Delivery

PAGE: Final = 500
SAID: Final = frozenset({"question", "answer", "completion", "verdict", "escalation"})
"""What an agent is shown besides the delegation; acknowledgments and progress tell it nothing."""


async def talk(bus: Bus, delivery: Delivery) -> list[Entry]:
    """The newest delegation of the delivery's task, and what was said since, up to the delivery itself.

    Raises NotFound where the log does not hold the delegation any more.
    """
    said = [delivery.entry]
    before = delivery.entry.position
    while said[-1].type != "delegation":
        page = await bus.connection.revrange(bus.keys.log, f"({before.entry}", "-", PAGE)
        if not page:
            raise NotFound(
                f"The log does not hold the delegation of task {delivery.task} any more.",
                task=delivery.task,
                advice="Delegate the task anew.",
            )
        for position, fields in page:
            entry = Entry.of(position, fields, shard=bus.keys.shard)
            before = entry.position
            if entry.task == delivery.task and (entry.type in SAID or entry.type == "delegation"):
                said.append(entry)
                if entry.type == "delegation":
                    break
    return said[::-1]


def lines(said: list[Entry]) -> bytes:
    """The envelopes as NDJSON, in the canonical form, whatever form their senders wrote them in."""
    return b"".join(codec.encode(entry.envelope) + b"\n" for entry in said)
