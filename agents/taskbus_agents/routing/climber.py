"""The climber: follows the log, and lets routed tasks climb when something goes wrong with them.

Several may run at once, on any machines: of those who see the same, one acts. It begins with what stands open at its
start, so that nothing is lost while none runs. Called by `bus swarm`.
"""

from __future__ import annotations

from contextlib import aclosing
from typing import TYPE_CHECKING, Final

import anyio

from taskbus.append import task_of
from taskbus.errors import InvalidEnvelope, TimedOut, Unavailable
from taskbus_agents.routing.climbing import CLIMBABLE, climb, trigger_of

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from typing import NoReturn

    from taskbus.client import Bus
    from taskbus.log import Entry, Incident
    from taskbus_agents.definition import Definition
    from taskbus_agents.routing.climbing import Climbed
    from taskbus_agents.routing.policy import RoutingPolicy

_TYPES: Final = frozenset({"completion", "acknowledgment", "parking"})
_PAUSE: Final = 0.5


def _nothing(_told: object) -> None:
    """Nobody wants to know."""


class Climber:
    """Lets tasks climb, by one policy. `on_climb` is told of each that climbed, or for which no rung was left."""

    def __init__(
        self,
        bus: Bus,
        policy: RoutingPolicy,
        registry: Mapping[str, Definition],
        *,
        on_climb: Callable[[Climbed], None] = _nothing,
        on_incident: Callable[[Incident], None] = _nothing,
    ) -> None:
        self._bus, self._policy, self._registry = bus, policy, registry
        self._on_climb, self._on_incident = on_climb, on_incident

    async def run(self) -> NoReturn:
        """Follow the log until cancelled; while the server is away it waits. Raises ForeignEntry."""
        while True:
            # From before what stands open is looked for: what comes meanwhile is seen twice, which changes nothing.
            try:
                after = await self._bus.log.end()
                await self.catch_up()
                break
            except (Unavailable, TimedOut):
                # Following says that the server is away, and when it is back; here nothing has been told yet.
                await anyio.sleep(_PAUSE)
        async with aclosing(self._bus.history.follow(after, on_incident=self._on_incident)) as entries:
            async for entry in entries:
                if entry.type in _TYPES:
                    await self._seen(entry)
        raise AssertionError("following the log ends by cancellation only")

    async def catch_up(self) -> list[Climbed]:
        """Let those climb that stand open and could, as they were left; returns what became of them."""
        told: list[Climbed] = []
        async for name, record in self._bus.connection.scan_hash(self._bus.keys.index, "task:*"):
            if task_of(name.removeprefix("task:"), record).state in CLIMBABLE:
                found = await climb(self._bus, self._policy, self._registry, name.removeprefix("task:"))
                told.append(found)
                self._tell(found)
        return told

    async def _seen(self, entry: Entry) -> None:
        try:
            envelope = entry.envelope
        except InvalidEnvelope:
            # A newer version wrote it, and whoever knows that lets it climb.
            return
        if trigger_of(envelope) is None:
            return
        while True:
            try:
                found = await climb(self._bus, self._policy, self._registry, entry.task, cause=envelope)
                break
            except (Unavailable, TimedOut):
                # It is in the log, and is not let go of: once the server is back it goes on.
                await anyio.sleep(_PAUSE)
        self._tell(found)

    def _tell(self, found: Climbed) -> None:
        if found.kind in ("climbed", "exhausted"):
            self._on_climb(found)
