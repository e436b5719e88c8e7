"""The models that a plan names, beside those that will run: an agent runs what its definition says, or what the policy
has routed, and is told what the plan says.

Owns the notes that say so, and where the two differ: in the model, or in whether it costs money. Called by the
commands, before anything runs.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from taskbus.envelope import now
from taskbus.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from taskbus.settings import Settings
    from taskbus_agents.definition import Definition
    from taskbus_agents.plans.model import Node, Plan
    from taskbus_agents.routing import RoutingPolicy


def notes(plan: Plan, settings: Settings) -> list[str]:
    """What somebody should know who has named models in a plan; empty where what is defined here is what it says."""
    asking = [node for node in plan.steps if node.model is not None or node.is_free]
    if not asking:
        return []
    from taskbus_agents import registry, routing

    try:
        known = registry.read(settings)
        policy = routing.RoutingPolicy.of(settings)
    except UsageError as error:
        return [f"which models run cannot be said, since definitions or policy have mistakes: {error.message}"]
    found: list[str] = []
    unknown: list[str] = []
    for group in _alike(asking):
        agent = group[0].agent
        if agent is None:
            found.append(
                f"{_steps(group)}: the policy chooses the model too; whoever gets it is only told {_told(group[0])}"
            )
        elif agent in known:
            found += (f"{_steps(group)}: {said}" for said in _differences(group[0], known[agent], policy))
        elif agent not in unknown:
            unknown.append(agent)
    if unknown:
        found.append(
            f"the models that the plan names are only told to {', '.join(unknown)}: what runs, and what it costs, is "
            f"what their definitions say, and none of them is defined here"
        )
    return found


def _alike(nodes: Sequence[Node]) -> list[list[Node]]:
    """Steps of the same agent and model, together."""
    found: dict[tuple[str | None, str | None, bool], list[Node]] = {}
    for node in nodes:
        found.setdefault((node.agent, node.model, node.is_free), []).append(node)
    return list(found.values())


def _steps(nodes: Sequence[Node]) -> str:
    return f"line {nodes[0].line}: {', '.join(node.name for node in nodes)}"


def _told(node: Node) -> str:
    return f"{node.model or 'a model'}{', free' if node.is_free else ''}"


def _differences(node: Node, definition: Definition, policy: RoutingPolicy | None) -> Iterator[str]:
    from taskbus_agents.adapters import PROVIDERS

    runs = replace(definition, provider=definition.provider or PROVIDERS.get(definition.adapter))
    shown = f"{runs.provider}/{runs.model}" if runs.provider and runs.model else runs.model
    shown = f"runs {shown}, as it is defined" if shown else "runs whatever its program chooses"
    if node.model is not None and not _is(node.model, runs):
        yield f"the plan says {node.model}, and {runs.name} {shown}; it is only told what the plan says"
    if node.is_free and (why := _not_free(node, runs, policy)):
        yield f"the plan says free, and {runs.name} {shown}, {why}"


def _is(model: str, definition: Definition) -> bool:
    """Whether a plan means the model of a definition: with its provider before it, or without."""
    own = definition.model or ""
    return model in (own, f"{definition.provider}/{own}") or (bool(own) and own.endswith(f"/{model}"))


def _not_free(node: Node, definition: Definition, policy: RoutingPolicy | None) -> str | None:
    """Why nobody can promise that a run costs nothing; None where policy or prices say so."""
    from taskbus_agents.adapters import COMMAND
    from taskbus_agents.pricing import estimate

    if (policy is not None and policy.is_free(definition)) or (definition.adapter == COMMAND and not definition.model):
        return None
    found = estimate(definition, node.goal, policy.money if policy is not None else None, now())
    if found is None:
        return "and nobody says what that costs: `paid = false` at its rung of the policy says that it is free"
    if found.microusd == 0:
        return None
    return f"which costs money (about {found.microusd / 1e6:.6f} USD, {found.basis})"
