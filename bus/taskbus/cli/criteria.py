"""Criteria: whether a verdict judges what the delegation asked for, told to whoever gives it.

A slip in a criterion refuses nothing: the verdict stands, and its sender learns which criteria there are. Called
by the verbs.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, cast

from taskbus.cli.options import say
from taskbus.cli.rendering import visible
from taskbus.envelope import Delegation, Verdict
from taskbus.errors import TaskbusError
from taskbus.log import Entry

if TYPE_CHECKING:
    from taskbus.client import Bus
    from taskbus.envelope import AnyEnvelope

_MOST: Final = 1000
"""So far back the delegation is looked for."""
_PAGE: Final = 100


async def compared(bus: Bus, envelope: AnyEnvelope) -> None:
    """Tell on stderr of criteria in a verdict that the newest delegation of the task does not have."""
    if not isinstance(envelope.payload, Verdict) or not envelope.payload.criteria:
        return
    try:
        delegation = await _delegation(bus, envelope.task)
    except TaskbusError:
        # The verdict stands in the log already; what it is compared with is only a help.
        return
    if delegation is None:
        return
    asked = delegation.acceptance_criteria
    unknown = [each.criterion for each in envelope.payload.criteria if each.criterion not in asked]
    if unknown:
        say(visible(f"Warning: the delegation has no such criterion: {'; '.join(map(repr, unknown))}."))
        say(visible(f"It has: {'; '.join(map(repr, asked))}." if asked else "It has none."))


async def _delegation(bus: Bus, task: str) -> Delegation | None:
    """The newest delegation of a task; None where it is not among the newest entries of the log."""
    until = "+"
    for _ in range(0, _MOST, _PAGE):
        found = await bus.connection.revrange(bus.keys.log, until, "-", _PAGE)
        for position, fields in found:
            entry = Entry.of(position, fields)
            until = f"({position}"
            if entry.task == task and entry.type == Delegation.TYPE:
                return cast("Delegation", entry.envelope.payload)
        if len(found) < _PAGE:
            break
    return None
