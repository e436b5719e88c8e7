"""`bus route`: who would get a piece of work, and why each rung above was passed over."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from taskbus.cli.options import print_json, run_async, say, settings_options
from taskbus_projections.commands.policies import policy_option

if TYPE_CHECKING:
    from collections.abc import Callable

    from taskbus.settings import Settings
    from taskbus_agents.routing import Climbed, Decision, Need


@click.command()
@click.option("--task-type", "--type", "task_type", help="The kind of work: implementation, review, research …")
@click.option("--complexity", metavar="WORD", help="How hard it is, as the policy has it: simple, standard, complex …")
@click.option("--goal", help="What is to be reached; its length counts for what is reserved.")
@click.option("--context-tokens", type=click.IntRange(0), help="How many tokens of context it needs.")
@click.option("--justification", help="Why a paid model is needed, and which free ones were tried.")
@click.option("--agent", metavar="@NAME", help="Only this agent; its models are tried in their order.")
@click.option("--explain", is_flag=True, help="Also say why each rung above was passed over.")
@click.option("--climb", "task", metavar="TASK", help="Hand a task that failed to the next rung.")
@policy_option
@settings_options
def route(
    *,
    task_type: str | None,
    complexity: str | None,
    goal: str | None,
    context_tokens: int | None,
    justification: str | None,
    agent: str | None,
    explain: bool,
    task: str | None,
    settings: Settings,
    as_json: bool,
) -> None:
    r"""Show who would get a piece of work, and why nobody before them.

    The policy decides, on the facts of this moment; it ends with 1 where nobody can take it. Nothing is delegated:
    `bus delegate --route` does that. With --climb a task that was escalated, has failed or was declined goes to the
    next rung, whether the policy says that it climbs by itself or not.

    \b
    Examples:
      bus route --task-type research --explain
      bus route --task-type "complex coding" --justification "kilo and opencode failed on it: see task cache-1"
      bus route --task-type review --json | jq -r '.chosen[0].agent'
      bus route --climb 01a1f81e-7240-7c1d-9b5a-3e6f1c2d4a58
    """
    from taskbus.errors import UsageError
    from taskbus_agents.registry.fields import agent_name
    from taskbus_agents.routing import Need

    about = {"--task-type": task_type, "--goal": goal, "--justification": justification, "--agent": agent}
    if task is not None and (other := next((name for name, value in about.items() if value), None)):
        raise UsageError(f"--climb and {other} exclude each other.", advice="The task itself says what it needs.")
    if task is not None:
        run_async(_climb, task, settings, as_json=as_json, explain=explain)
        return
    name = agent_name(agent) if agent is not None else None
    if agent is not None and name is None:
        raise UsageError(f"{agent!r} is no name of an agent.", advice="Names look like @kilo.")
    need = Need(
        task_type=task_type,
        complexity=complexity,
        goal=goal or "",
        context_tokens=context_tokens,
        justification=justification,
        agent=name,
    )
    run_async(_route, need, settings, as_json=as_json, explain=explain)


async def _route(need: Need, settings: Settings, *, as_json: bool, explain: bool) -> None:
    from taskbus.client import Bus  # redis is slow to import
    from taskbus_agents.routing import route as decided

    async with Bus.connect(settings=settings) as bus:
        found = await decided(bus, settings, need)
    if as_json:
        print_json(_plain(found))
    else:
        _told(found, explain=explain)
        if explain:
            _undefined(found, settings)
    if not found.chosen:
        raise click.exceptions.Exit(1)


async def _climb(task: str, settings: Settings, *, as_json: bool, explain: bool) -> None:
    from taskbus.cli.beginnings import task_of
    from taskbus.client import Bus
    from taskbus_agents import registry
    from taskbus_agents.routing import RoutingPolicy, climb

    policy = RoutingPolicy.needed(settings)
    definitions = registry.read(settings)
    async with Bus.connect(settings=settings) as bus:
        name, _ = await task_of(bus, task)
        done = await climb(bus, policy, definitions, name, by_hand=True)
    if as_json:
        print_json(_climbed(done))
    else:
        click.echo(done.agent if done.kind == "climbed" else done.kind)
        say(f"Task {done.task}: {done.why}.")
        if explain and done.decision is not None:
            _passed(done.decision)
    if done.kind == "already":
        raise click.exceptions.Exit(4)
    if done.kind != "climbed":
        raise click.exceptions.Exit(1)


def _told(found: Decision, *, explain: bool) -> None:
    from taskbus.cli.rendering import visible

    for choice in found.chosen:
        model = f"{choice.provider or '?'}/{choice.model}" if choice.model else "its own model"
        click.echo(visible(f"{choice.agent}  {model}  {choice.rung}  {'paid' if choice.paid else 'free'}"))
    if not found.chosen:
        say("Nobody can take it now.")
    if explain or not found.chosen:
        _passed(found, click.echo if explain else say)
    if found.review:
        say("Its result needs a review.")


def _passed(found: Decision, tell: Callable[[str], None] = say) -> None:
    from taskbus.cli.rendering import visible

    for each in found.passed:
        said = f"passed  {each.rung}  {each.reason}{f': {each.note}' if each.note else ''}"
        tell(visible(said))
    if not found.passed:
        say("No rung was passed over.")


def _undefined(found: Decision, settings: Settings) -> None:
    """Say which of those that get it are not defined here: another machine may do that, or the name is wrong."""
    from taskbus.cli.rendering import visible
    from taskbus_agents import registry

    known = registry.read(settings)
    for name in dict.fromkeys(choice.agent for choice in found.chosen):
        if name not in known:
            say(f"{visible(name)} is not defined here; `bus agents list` shows who is.")


def _plain(found: Decision) -> dict[str, Any]:
    from dataclasses import asdict

    return {
        "chosen": [asdict(choice) for choice in found.chosen],
        "passed": [
            {"rung": each.rung, "agent": each.agent, "reason": each.reason, "note": each.note} for each in found.passed
        ],
        "review": found.review,
        "parallel": found.parallel,
        "policy": found.policy,
    }


def _climbed(done: Climbed) -> dict[str, Any]:
    return {
        "task": done.task,
        "result": done.kind,
        "agent": done.agent,
        "why": done.why,
        "envelope": done.envelope.id if done.envelope is not None else None,
        "passed": _plain(done.decision)["passed"] if done.decision is not None else [],
    }
