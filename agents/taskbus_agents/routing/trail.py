"""The trail of a task: from an envelope that says what went wrong back to the delegation that it went wrong with.

Follows the causes, each a look into the index; reads the log where they lead nowhere. Called by climbing.
"""

from __future__ import annotations

from contextlib import aclosing
from typing import TYPE_CHECKING, Final

from taskbus.envelope import Delegation
from taskbus.errors import Gap, InvalidEnvelope
from taskbus.position import START, Position

if TYPE_CHECKING:
    from taskbus.client import Bus
    from taskbus.envelope import AnyEnvelope

_FAR: Final = 200
"""So many steps back lie questions and answers."""


async def envelope(bus: Bus, id: str | None) -> AnyEnvelope | None:
    """The envelope of an ID; None where the log does not hold it, or another version wrote it."""
    position = await bus.connection.field(bus.keys.index, id) if id else None
    entry = await bus.log.get(Position.parse(position, shard=bus.keys.shard)) if position else None
    try:
        return entry.envelope if entry is not None else None
    except InvalidEnvelope:
        # Nobody can tell what it says, so nothing follows from it.
        return None


async def delegation(bus: Bus, task: str, why: AnyEnvelope) -> tuple[AnyEnvelope, Delegation] | None:
    """The newest delegation of a task before an envelope; None where the log does not hold it any more."""
    cause = why.context.causation_id
    for _ in range(_FAR):
        found = await envelope(bus, cause)
        if found is None or found.task != task:
            break
        if isinstance(found.payload, Delegation):
            return found, found.payload
        cause = found.context.causation_id
    return await _scanned(bus, task)


async def _scanned(bus: Bus, task: str) -> tuple[AnyEnvelope, Delegation] | None:
    """The same, from the whole log: who spoke by hand may have left the causes out."""
    newest: tuple[AnyEnvelope, Delegation] | None = None
    after = START
    while True:
        try:
            async with aclosing(bus.history.read(after)) as entries:
                async for entry in entries:
                    after = entry.position
                    if entry.task == task and entry.type == "delegation":
                        newest = _read(entry.envelope) or newest
            return newest
        except Gap as gap:
            # What was trimmed belongs to tasks that have ended.
            after = max(after, Position.parse(gap.until, shard=bus.keys.shard))


def _read(envelope: AnyEnvelope) -> tuple[AnyEnvelope, Delegation] | None:
    return (envelope, envelope.payload) if isinstance(envelope.payload, Delegation) else None
