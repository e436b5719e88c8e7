"""Names: whether anybody is known by the one that a delegation goes to, and who was meant where nobody is.

An agent may come later, so a name is never refused. Owns what counts as known: whoever was sent anything, is at work,
is defined, or stands in the policy. Called by `bus delegate`.
"""

from __future__ import annotations

import difflib
from typing import TYPE_CHECKING, cast

from taskbus.errors import ConfigurationError
from taskbus.lifecycle import BUS, HUMAN

if TYPE_CHECKING:
    from taskbus.client import Bus
    from taskbus.settings import Settings


async def doubt(bus: Bus, settings: Settings, name: str | None) -> str | None:
    """What is to be said of a name that nobody is known by; None for one that is known, and where nobody is yet.

    It is asked before anything is sent there: with one command where something was before.
    """
    if name in (None, HUMAN, BUS) or await bus.connection.field(bus.keys.index, name) is not None:
        return None
    from taskbus.parked import agents

    known = {*await agents(bus), *await _at_work(bus), *_defined(settings)} - {HUMAN, BUS}
    if name in known or not known:
        return None
    near = difflib.get_close_matches(name, sorted(known), n=1)
    return f"Nobody is known as {name} yet{f': did you mean {near[0]}?' if near else '.'}"


async def _at_work(bus: Bus) -> set[str]:
    members = cast("list[bytes]", await bus.connection.execute("ZRANGE", bus.keys.workers, "0", "-1"))
    return {member.decode().partition(" ")[0] for member in members}


def _defined(settings: Settings) -> frozenset[str]:
    from taskbus.routed import names

    try:
        return names(settings)
    except ConfigurationError:
        # Whoever reads the definitions to work by them is told; to delegate, none is needed.
        return frozenset()
