"""Choosing: who gets a step, and whether anybody works there.

A step goes to the agent that its plan names, else to whom the routing policy chooses at that moment. Called by the
runner; a policy is read when a step first needs one.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, cast

from taskbus.errors import UsageError
from taskbus.lifecycle import BUS, HUMAN

if TYPE_CHECKING:
    from collections.abc import Collection

    from taskbus.client import Bus
    from taskbus.payload import Route
    from taskbus.settings import Settings
    from taskbus_agents.plans.model import Node, Plan
    from taskbus_agents.plans.run import Piece

SEEN: Final = 60.0
"""A worker that was not seen for so many seconds counts as gone: an idle one looks every five."""
_PASSING: Final = frozenset({"busy", "out-of-quota"})
"""Reasons that pass by themselves."""


@dataclass(frozen=True, slots=True)
class Chosen:
    """Who gets a step; `agent` is None where nobody does, and `waits` says whether that may change by itself."""

    agent: str | None
    route: Route | None = None
    why: str = ""
    waits: bool = False


class Chooser:
    """Chooses for the steps of one plan."""

    def __init__(self, bus: Bus, settings: Settings, plan: Plan) -> None:
        self._bus = bus
        self._settings = settings
        self._plan = plan

    async def again(self, node: Node, piece: Piece, root: str, *, is_try: bool) -> Chosen:
        """Who gets a step that has failed: as long as it has a try left, or climbs by the policy."""
        if is_try or node.agent is not None:
            return await self.choose(node, piece.rungs, root)
        from taskbus_agents import routing
        from taskbus_agents.routing.climbing import policy_forbids

        try:
            policy = routing.RoutingPolicy.needed(self._settings)
        except UsageError as error:
            return Chosen(None, why=error.message)
        task = piece.delegation.task
        why = await policy_forbids(self._bus, policy, (task, piece.task), piece.cause.envelope)
        if why is None and len(piece.rungs) > policy.terms.fallback.most:
            why = f"it has climbed {len(piece.rungs) - 1} times, as often as it may"
        return await self.choose(node, piece.rungs, root) if why is None else Chosen(None, why=why)

    async def choose(self, node: Node, failed: Collection[str], root: str) -> Chosen:
        """Who gets a step; `failed` are the rungs that it has failed on, `root` is the root of the run's tree."""
        if node.agent is not None:
            return Chosen(node.agent)
        from taskbus_agents import registry, routing

        try:
            policy = routing.RoutingPolicy.needed(self._settings)
            complexity = self._plan.complexity
            need = routing.Need(
                task_type=node.task_type,
                complexity=complexity if complexity in policy.terms.complexity else None,
                goal=node.goal,
                justification=node.justification,
                failed=frozenset(failed),
                climbs=len(failed),
                root=root,
            )
            definitions = registry.read(self._settings)
        except UsageError as error:
            return Chosen(None, why=f"{error.message} {error.advice or ''}".strip())
        decision = routing.decide(
            policy, definitions, need, await routing.observe(self._bus, policy, definitions, need)
        )
        if decision.chosen:
            return Chosen(decision.chosen[0].agent, decision.route)
        passed = [f"{each.rung}: {each.reason}" for each in decision.passed]
        why = f"The policy has nobody for it ({'; '.join(passed) or 'no rung fits'})."
        return Chosen(None, why=why, waits=any(each.reason in _PASSING for each in decision.passed))


async def absent(bus: Bus, agents: Collection[str]) -> frozenset[str]:
    """Which of these agents have no worker that was seen lately. Nobody expects one of a person."""
    reply = await bus.connection.execute("ZRANGE", bus.keys.workers, 0, -1, "WITHSCORES")
    now = await bus.log.clock()
    seen: set[str] = set()
    for member, score in _pairs(reply):
        if float(score) / 1000 > now - SEEN:
            seen.add(member.partition(" ")[0])
    return frozenset(set(agents) - seen - {HUMAN, BUS})


def _pairs(reply: object) -> list[tuple[str, str]]:
    """Members with their scores: pairs with RESP 3, one after the other with RESP 2."""
    items = cast("list[object]", reply)
    if items and isinstance(items[0], list):
        items = [part for pair in cast("list[list[object]]", items) for part in pair]
    words = [each.decode() if isinstance(each, bytes) else str(each) for each in items]
    return list(zip(words[::2], words[1::2], strict=True))
