"""Whether a policy is sound: every mistake in any of its tables, and the rungs that nobody who is defined can serve;
and whether an agent's model has a price, without which it would not run.

Called by `bus agents doctor` and `bus agents test`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from taskbus.errors import ConfigurationError, RefusedByBudget
from taskbus_agents.adapters import COMMAND
from taskbus_agents.definition import Definition
from taskbus_agents.routing.policy import RoutingPolicy
from taskbus_agents.spending import Spending, is_held

if TYPE_CHECKING:
    from collections.abc import Container
    from pathlib import Path

    from taskbus.settings import Settings
    from taskbus_agents.routing.rungs import Rung


@dataclass(frozen=True, slots=True)
class Soundness:
    """What was found of one policy. `policy` is None where routing cannot read it; `mistakes` say where, and why."""

    path: Path
    policy: RoutingPolicy | None
    mistakes: tuple[str, ...] = ()

    @property
    def sound(self) -> bool:
        """Whether nothing is wrong in it."""
        return not self.mistakes

    def unserved(self, defined: Container[str]) -> list[Rung]:
        """The rungs, each once, that are not switched off, and whose agents are not among those that are defined."""
        rungs = self.policy.rungs if self.policy is not None else ()
        return [*{each.same: each for each in rungs if each.disabled is None and each.agent not in defined}.values()]


def unpriced(definition: Definition, policy: RoutingPolicy | None) -> str | None:
    """Why an agent's runs would be refused for want of a price, as a run says it; None where they would not.

    An agent that a rung gives a model to is run with that, so that its own is not asked for.
    """
    from taskbus_agents.handlers import with_provider

    rungs = policy.rungs if policy is not None else ()
    given = any(rung.agent == definition.name and rung.model and rung.disabled is None for rung in rungs)
    if given or not is_held(definition):
        return None
    spending = Spending(policy.money, policy.is_free) if policy is not None else Spending()
    try:
        spending.reserves(with_provider(definition))
    except RefusedByBudget as error:
        return error.message
    return None


def judged(settings: Settings) -> Soundness | None:
    """What is found of the policy that the settings name; None where they name none."""
    if settings.policy is None:
        return None
    from taskbus_agents.handlers import bounds_of, conduct_of
    from taskbus_agents.swarm import terms

    path, policy, mistakes = settings.policy, None, list[str]()
    try:
        policy = RoutingPolicy.load(path)
        # Tables that are read apart, by who needs them.
        conduct_of(Definition(name="@anybody", adapter=COMMAND), settings)
        bounds_of(settings)
        terms.read(path)
    except ConfigurationError as error:
        mistakes.append(f"{error.message} {error.advice or ''}".rstrip())
    return Soundness(path, policy, tuple(mistakes))
