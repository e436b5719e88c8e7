"""Routing at one go: from settings and a need to a decision, on the facts of this moment.

The way in for commands; `bus delegate --route` finds it through the entry point group `taskbus.routing`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from taskbus.errors import UsageError
from taskbus.routed import Routed, Wanted
from taskbus_agents import registry
from taskbus_agents.routing.candidates import Need
from taskbus_agents.routing.decision import decide
from taskbus_agents.routing.facts import observe
from taskbus_agents.routing.policy import RoutingPolicy

if TYPE_CHECKING:
    from taskbus.client import Bus
    from taskbus.settings import Settings
    from taskbus_agents.routing.decision import Decision


async def route(bus: Bus, settings: Settings, need: Need) -> Decision:
    """Decide on a need as the settings say. Raises ConfigurationError, UsageError for an unknown complexity."""
    policy = RoutingPolicy.needed(settings)
    checked(policy, need.complexity)
    definitions = registry.read(settings)
    return decide(policy, definitions, need, await observe(bus, policy, definitions, need))


def checked(policy: RoutingPolicy, complexity: str | None) -> None:
    """Raise UsageError for a complexity that the policy has no table for."""
    known = policy.terms.complexity
    if complexity is not None and complexity not in known:
        raise UsageError(
            f"The policy {policy.path} knows no complexity {complexity!r}.",
            advice=f"It knows {', '.join(known)}." if known else "It has no table [complexity].",
        )


class _Router:
    """What `bus delegate` asks: who gets a task, and whom there is to choose from."""

    async def __call__(self, bus: Bus, settings: Settings, wanted: Wanted) -> Routed:
        """Choose for a delegation. Raises ConfigurationError, UsageError for an unknown complexity."""
        need = Need(
            task_type=wanted.task_type,
            complexity=wanted.complexity,
            goal=wanted.goal,
            context_tokens=wanted.context_tokens,
            justification=wanted.justification,
            agent=wanted.agent,
            root=wanted.root,
        )
        decision = await route(bus, settings, need)
        record = decision.route
        if record is None:
            return Routed(None, None, decision.passed)
        return Routed(decision.chosen[0].agent, record, decision.passed, decision.review)

    @staticmethod
    def names(settings: Settings) -> set[str]:
        """Everybody who is defined here, or whom the policy names. Raises ConfigurationError."""
        policy = RoutingPolicy.of(settings)
        return {*registry.read(settings), *(rung.agent for rung in (policy.rungs if policy is not None else ()))}


delegated = _Router()
"""What the entry point names."""
