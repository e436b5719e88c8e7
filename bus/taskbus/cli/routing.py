"""Routing on the command line: a draft of a delegation for which somebody else chooses the agent.

Owns what `bus delegate --route` hands to whoever chooses, and how that is told. Called by `bus delegate`.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, TypeVar

import click
from msgspec import structs

from taskbus.cli.options import say
from taskbus.cli.rendering import visible
from taskbus.envelope import Delegation
from taskbus.errors import NotFound, UsageError

if TYPE_CHECKING:
    from collections.abc import Callable

    from taskbus.cli.drafts import Draft
    from taskbus.client import Bus
    from taskbus.routed import Routed
    from taskbus.settings import Settings

R = TypeVar("R")


@dataclass(frozen=True, slots=True)
class Choosing:
    """What is said of the work for the choice alone."""

    complexity: str | None = None
    context_tokens: int | None = None


def routing_options(command: Callable[..., R]) -> Callable[..., R]:
    """Give a command --route and what goes with it; it is called with a `choosing`, None without --route."""

    @click.option(
        "--route", is_flag=True, help="Let the policy choose the agent, by --type, --justification and these:"
    )
    @click.option("--complexity", metavar="WORD", help="With --route: how hard it is, as the policy has it.")
    @click.option("--context-tokens", type=click.IntRange(0), help="With --route: how many tokens it needs to see.")
    @functools.wraps(command)
    def wrapped(*args: Any, route: bool, complexity: str | None, context_tokens: int | None, **kwargs: Any) -> R:
        if not route and (complexity is not None or context_tokens is not None):
            raise UsageError("--complexity and --context-tokens are for --route.", advice="Add --route.")
        return command(*args, choosing=Choosing(complexity, context_tokens) if route else None, **kwargs)

    return wrapped


async def routed(bus: Bus, draft: Draft, settings: Settings, choosing: Choosing, *, show: bool) -> Draft:
    """The draft for whoever was chosen, with the record of that; with `show` it is told on stderr.

    Raises UsageError for a whole envelope, which stands as it was written, and what `taskbus.routed` raises.
    """
    from taskbus.routed import Wanted
    from taskbus.routed import routed as choose

    payload = draft.payload
    if draft.whole is not None or not isinstance(payload, Delegation):
        advice = "Give a goal, or a document in the handoff shorthand; or leave --route out."
        raise UsageError("--route cannot change an envelope that is written already.", advice=advice)
    wanted = Wanted(
        goal=payload.goal,
        task_type=payload.task_type,
        complexity=choosing.complexity,
        context_tokens=choosing.context_tokens,
        justification=payload.paid_model_justification,
        agent=draft.recipient,
        root=await _root(bus, draft.parent or draft.task),
    )
    agent, choice = await choose(bus, settings, wanted)
    if show:
        _tell(agent, choice)
    review = payload.review_required or choice.review
    return replace(draft, recipient=agent, payload=structs.replace(payload, route=choice.route, review_required=review))


async def _root(bus: Bus, task: str | None) -> str:
    """The root of the tree that it will be in; empty for a tree of its own."""
    try:
        return (await bus.task(task)).root if task is not None else ""
    except NotFound:
        return task or ""


def _tell(agent: str, choice: Routed) -> None:
    passed = "; ".join(f"{each.rung}: {each.reason}" for each in choice.passed)
    model = f" with {choice.route.model}" if choice.route is not None and choice.route.model else ""
    say(visible(f"{agent} gets it{model}{f', passing over {passed}' if passed else ''}."))
