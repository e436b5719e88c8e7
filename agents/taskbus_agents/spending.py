"""Spending: the money of one run, held before it begins and told when it has ended.

Owns the order: no price, no run, unless the definition says so; a hold for the model that will really run; prices on
what was used. It keeps no counters: the bus does. Called by the shared run of agents.
"""

from __future__ import annotations

from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, cast

from msgspec.structs import replace

from taskbus.envelope import Cost, Delegation, Usage, now
from taskbus.errors import OverBudget, RefusedByBudget
from taskbus.findings import printable
from taskbus_agents.adapters import COMMAND

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Iterable

    from taskbus.budget import Run
    from taskbus.money import Caps
    from taskbus.work import Work
    from taskbus_agents.definition import Definition
    from taskbus_projections.policy import Policy

_LONGEST: Final = 200
_EXAMPLES: Final = 3


@dataclass(frozen=True, slots=True)
class Spending:
    """Holds and prices by one policy, None without one: then the published prices count, and no caps but recorded
    ones.
    """

    policy: Policy | None = None
    free: Callable[[Definition], bool] = lambda _definition: False
    """Whether the policy's ladder says that an agent's model costs nothing, whatever its list price is."""
    climbs: bool = False
    """Whether routed work goes to the next rung at once where there is no room, also where runs only hold it."""

    @asynccontextmanager
    async def held(
        self, work: Work, definition: Definition, prompt: str, delegation: Delegation
    ) -> AsyncGenerator[Run]:
        """Money for one run: `usage` of what is given is what the run has used.

        Left by a failure or a cancellation, it publishes that usage and ends the hold; left otherwise it does
        nothing, since the outcome does both. Raises RefusedByBudget where nobody knows what the model costs, or the
        next rung is to have it, and OverBudget where it is too much, or has to wait for other runs.
        """
        microusd, table = self.reserves(definition, prompt)
        provider, model = definition.provider or "unknown", definition.model or "unknown"
        caps: Caps = {}
        if self.policy is not None:
            root = work.delivery.entry.root
            caps = cast("Caps", self.policy.caps_for(provider, definition.name, root, delegation.task_type))
        try:
            async with work.bus.budget.held(
                work.delivery, provider=provider, model=model, microusd=microusd, caps=caps, table=table
            ) as held:
                yield held
        except OverBudget as error:
            if self.climbs and delegation.route is not None:
                raise RefusedByBudget(error.message) from error
            raise

    def priced(self, usage: Iterable[Usage], definition: Definition) -> tuple[Usage, ...]:
        """What was used, with prices where there are some; of a run that does not tell, one call without counts."""
        found = tuple(usage) or (Usage(provider=definition.provider or "unknown", model=definition.model or "unknown"),)
        if self.policy is not None and self.free(definition):
            nothing = Cost(source="priced", table=self.policy.table, microusd=0)
            found = tuple(used if used.cost is not None else replace(used, cost=nothing) for used in found)
        return tuple(map(self.price, found))

    def price(self, used: Usage) -> Usage:
        """The same with its price, where there is one."""
        from taskbus_projections.quotes import priced  # the table of prices is large

        return priced(self.policy, _named(used), now())

    def reserves(self, definition: Definition, prompt: str = "") -> tuple[int, str | None]:
        """How much is reserved for a run, in microdollars, and the table of prices that says so, if one does.

        Raises RefusedByBudget where nobody knows what the model costs.
        """
        from taskbus_agents.pricing import estimate

        if self.policy is not None and self.free(definition):
            return 0, self.policy.table
        found = estimate(definition, prompt, self.policy, now())
        if found is not None:
            return found.microusd, found.table
        if definition.unpriced:
            return 0, None
        what = f"{definition.provider or '?'}/{definition.model or '?'}"
        raise RefusedByBudget(
            f"Nobody says what {what} costs, so that {definition.name} must not run. {_name_it(definition)} or give "
            f"the model a price under [prices] in the policy; or set `hold` in the agent's definition to what a run "
            f"may cost, or `unpriced = true` to run it without."
        )


def is_held(definition: Definition) -> bool:
    """Whether money is reserved for an agent's runs: for a command only where its definition says for which model, or
    how much.
    """
    named = bool(definition.provider and definition.model)
    return definition.adapter != COMMAND or definition.hold is not None or named


def _name_it(definition: Definition) -> str:
    """How the model is to be named so that the published prices have it."""
    if not definition.provider or not definition.model:
        return "Name provider and model in its definition;"
    from taskbus_projections.published import alike

    found = alike(definition.provider, definition.model, now())[:_EXAMPLES]
    return f"Name the model in full, such as {' or '.join(found)};" if found else "Name another model;"


def _named(used: Usage) -> Usage:
    """The same with names that any envelope can carry: they come from a program's output."""
    provider, model = (printable(name, _LONGEST) or "unknown" for name in (used.provider, used.model))
    return used if (provider, model) == (used.provider, used.model) else replace(used, provider=provider, model=model)
