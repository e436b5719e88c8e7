"""Candidates: which rungs are tried for a piece of work, in which order.

First the rows of the matrix for its type, or the agents that say that they are for it; then the ladder; each of them
with the models above its own, where the policy has an order of models. Pure.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from taskbus_agents.adapters import PROVIDERS
from taskbus_agents.routing.rungs import Rung
from taskbus_projections.patterns import split

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from taskbus_agents.definition import Definition
    from taskbus_agents.routing.policy import RoutingPolicy


@dataclass(frozen=True, slots=True, kw_only=True)
class Need:
    """A piece of work that somebody is wanted for.

    `agent` is the only one who may get it, if anybody was named. `failed` are the rungs that it failed on before,
    `climbs` how often it has climbed. `root` is the root of its tree, for caps; `root_type` that task's type.
    """

    task_type: str | None = None
    complexity: str | None = None
    goal: str = ""
    context_tokens: int | None = None
    justification: str | None = None
    agent: str | None = None
    failed: frozenset[str] = frozenset()
    climbs: int = 0
    root: str = ""
    root_type: str | None = None


def candidates(policy: RoutingPolicy, registry: Mapping[str, Definition], need: Need) -> tuple[Rung, ...]:
    """The rungs for a need, in order, none of them twice."""
    found: dict[tuple[str, str | None], Rung] = {}
    for rung in _in_order(policy, registry, need):
        for each in _chain(policy, _whole(rung, registry)):
            if need.agent in (None, each.agent):
                found.setdefault(each.same, each)
    return tuple(found.values())


def _in_order(policy: RoutingPolicy, registry: Mapping[str, Definition], need: Need) -> Iterator[Rung]:
    routes = policy.routes(need.task_type) if need.task_type else ()
    yield from routes
    if not routes and need.task_type:
        kind = need.task_type.casefold()
        able = [definition for definition in registry.values() if kind in definition.task_types]
        for definition in sorted(able, key=lambda each: (-_rank(policy, each), each.name)):
            yield Rung(name=definition.name, agent=definition.name)
    yield from policy.ladder
    if need.agent is not None:
        yield Rung(name=need.agent, agent=need.agent)


def _rank(policy: RoutingPolicy, definition: Definition) -> int:
    """The rank of the agent's tier: the greater it is, the more of a routine."""
    tier = policy.money.tier(definition.name, definition.provider or "", definition.model or "")
    return next((each.rank for each in policy.money.tiers if each.name == tier and each.rank is not None), 0)


def _whole(rung: Rung, registry: Mapping[str, Definition]) -> Rung:
    """A rung with the model of its agent, where it names none of its own."""
    definition = registry.get(rung.agent)
    if rung.model is not None or definition is None:
        return rung
    return replace(rung, provider=definition.provider or PROVIDERS.get(definition.adapter), model=definition.model)


def _meant(policy: RoutingPolicy, word: str) -> tuple[str | None, str | None]:
    """Provider and model of a word in the order of models: a short name, or written out."""
    provider, model = policy.models.meant(word)
    before, name = split(word)
    return (before, name) if provider is None and model is not None and before and name else (provider, model)


def _chain(policy: RoutingPolicy, rung: Rung) -> Iterator[Rung]:
    """A rung, then the same agent with each model above its own."""
    yield rung
    order = [(word, *_meant(policy, word)) for word in policy.terms.fallback.order]
    own = next((at for at, (_, _, model) in enumerate(order) if model == rung.model and model is not None), None)
    for word, provider, model in order[own + 1 :] if own is not None else ():
        yield replace(rung, name=f"{rung.name} {word}", provider=provider or rung.provider, model=model, paid=None)
