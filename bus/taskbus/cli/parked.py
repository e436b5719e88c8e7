"""`bus parked`: what was set aside for an agent, and why; delivered again, or dropped.

Each change is recorded in the log under the name of whoever decided it.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

import click

from taskbus.cli import shares
from taskbus.cli.options import Group, print_json, run_async, say, settings_options
from taskbus.cli.records import record
from taskbus.cli.rendering import visible
from taskbus.cli.sending import name_of
from taskbus.cli.values import AGENT, COUNT, TASK
from taskbus.errors import LifecycleConflict, NotFound, UsageError
from taskbus.lifecycle import DELIVERED, HUMAN

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from taskbus.cli.shares import Share
    from taskbus.client import Bus
    from taskbus.settings import Settings

_HINTS = {
    "undecodable": "For a worker of a version that can read it: bus parked replay {id}",
    "permanent": "Once what is wrong is put right: bus parked replay {id}",
    "refused-by-budget": "Once the budget allows it: bus parked replay {id}",
}
_HINT = "To deliver it again: bus parked replay {id}"


def _agent_option(command: Callable[..., Any]) -> Callable[..., Any]:
    return click.option("--agent", type=AGENT, help="Only what is parked for this agent.")(command)


def _as_option(command: Callable[..., Any]) -> Callable[..., Any]:
    return click.option("--as", "sender", type=AGENT, help="Who decides it; default BUS_AGENT, else @human.")(command)


@click.group(cls=Group)
def parked() -> None:
    """Show what was set aside, deliver it again, or drop it.

    A delivery is parked when its last attempt has failed, with the reason. Later messages of its task to the
    same agent wait behind it, in order.

    \b
    Examples:
      bus parked ls
      bus parked show cache-1
      bus parked replay cache-1
    """


@parked.command()
@click.argument("agent", type=AGENT, required=False)
@settings_options
def ls(*, agent: str | None, settings: Settings, as_json: bool) -> None:
    r"""List what is parked, by agent and task.

    Without an agent, for all of them. The last column says how many later messages wait behind it.

    \b
    Examples:
      bus parked ls
      bus parked ls @kilo
      bus parked ls --json | jq -r '.parked[] | select(.reason == "timed-out") | .task'
    """
    run_async(_listed, settings, agent, as_json=as_json)


async def _listed(settings: Settings, agent: str | None, *, as_json: bool) -> None:
    from taskbus.client import Bus  # redis is slow to import

    async with Bus.connect(settings=settings) as bus:
        found = await shares.shares(bus, agent=agent)
        now = await bus.connection.time()
    if as_json:
        listed = [
            {**shares.plain(share.lines[0], now), "behind": len(share.lines) - 1, "deliveries": share.ids}
            for share in found
        ]
        print_json({"agent": agent, "parked": listed})
    elif found:
        click.echo(shares.table(found, now))
    else:
        say(_nothing(agent))


def _nothing(agent: str | None) -> str:
    return f"Nothing is parked for {agent}." if agent else "Nothing is parked."


@parked.command()
@click.argument("task", type=TASK)
@_agent_option
@settings_options
def show(*, task: str, agent: str | None, settings: Settings, as_json: bool) -> None:
    r"""Show what is parked of a task: each delivery, and what went wrong.

    \b
    Examples:
      bus parked show cache-1
      bus parked show cache-1 --json | jq -r '.parked[0].error'
    """
    run_async(_shown, settings, task, agent, as_json=as_json)


async def _shown(settings: Settings, task: str, agent: str | None, *, as_json: bool) -> None:
    from taskbus.client import Bus  # redis is slow to import
    from taskbus.parked import record_of

    async with Bus.connect(settings=settings) as bus:
        chosen = await shares.shares(bus, (task,), agent)
        now = await bus.connection.time()
        found = [(line, await record_of(bus, line)) for share in chosen for line in share.lines]
    known = chosen[0].known
    if as_json:
        plain = [
            {
                **(record(line.entry) if line.entry is not None else {"position": str(line.position)}),
                **shares.plain(line, now),
                "error": shares.error(told),
                "recorded": str(told.position) if told is not None else None,
            }
            for line, told in found
        ]
        print_json({"task": chosen[0].task, "state": known.state if known else None, "parked": plain})
        return
    for line, told in found:
        click.echo(shares.pretty(line, shares.error(told), now))
    if known is not None:
        say(f"The task is {known.state}, with {known.holder}.")
    for share in chosen:
        shown = visible(share.task)
        if share.is_needless:
            say(f"Nobody wants this work of {share.agent} any more: bus parked drop {shown}")
        else:
            say(_HINTS.get(share.lines[0].reason, _HINT).format(id=shown))
            say(f"To give it up: bus parked drop {shown}")


@parked.command()
@click.argument("tasks", type=TASK, nargs=-1, metavar="[TASK]...")
@_agent_option
@click.option("--all", "everything", is_flag=True, help="All that is parked for anybody.")
@click.option("--stop-at", type=COUNT, metavar="N", help="Deliver at most so many; the rest stays parked, in order.")
@_as_option
@settings_options
def replay(
    *,
    tasks: tuple[str, ...],
    agent: str | None,
    everything: bool,
    stop_at: int | None,
    sender: str | None,
    settings: Settings,
    as_json: bool,
) -> None:
    r"""Deliver what is parked again, in its order.

    A task that was escalated when its work was parked goes on with it. Work that nobody wants any more, since
    its task has ended or somebody else does it, is not delivered again.

    \b
    Examples:
      bus parked replay cache-1
      bus parked replay --agent @kilo --stop-at 1
      bus parked replay --all
    """
    if everything and (tasks or agent):
        raise UsageError("--all means everything that is parked.", advice="Leave it out, or what stands beside it.")
    if not everything:
        _check_choice(tasks, agent, "--agent or --all")
    who = sender or name_of(settings.agent) or HUMAN
    run_async(_replayed, settings, tasks, agent, stop_at, who, as_json=as_json)


def _check_choice(tasks: Sequence[str], agent: str | None, options: str) -> None:
    if not tasks and agent is None:
        advice = f"Name tasks, {options}; `bus parked ls` lists what is parked."
        raise UsageError("It is not said what is meant.", advice=advice)


async def _replayed(
    settings: Settings, tasks: tuple[str, ...], agent: str | None, count: int | None, who: str, *, as_json: bool
) -> None:
    from taskbus import parked as parking
    from taskbus.client import Bus  # redis is slow to import

    done: list[dict[str, object]] = []
    async with Bus.connect(settings=settings) as bus:
        found = await shares.shares(bus, tasks, agent)
        unwanted = [share for share in found if share.is_needless]
        if tasks and len(unwanted) == len(found):
            raise _needless(unwanted[0])
        wanted = [share for share in found if not share.is_needless]
        for share in shares.first(wanted, count):
            try:
                moved = await parking.replay(bus, share.agent, share.task, sender=who, stop_at=len(share.lines))
            except NotFound:
                if tasks:
                    raise
                continue  # somebody else has done it meanwhile
            state = (await bus.task(share.task)).state
            done.append(_did(share, [line.entry.id for line in moved if line.entry is not None], len(moved), state))
            if not as_json:
                task = visible(share.task)
                click.echo(f"{task}  {share.agent}  {_deliveries(len(moved))} delivered again; the task is {state}")
        names = [agent] if agent else await parking.agents(bus)
        left = sum([await parking.count(bus, name) for name in names])
    if as_json:
        print_json({"replayed": done, "unwanted": [share.task for share in unwanted], "left": left})
        return
    for share in unwanted:
        say(f"{_needless(share).message} It stays parked: bus parked drop {visible(share.task)}")
    if not found:
        say(_nothing(agent))
    elif left:
        say(f"{_deliveries(left)} {'stays' if left == 1 else 'stay'} parked{f' for {agent}' if agent else ''}.")


def _needless(share: Share) -> LifecycleConflict:
    known = share.known
    state, holder = (known.state, known.holder) if known is not None else ("", "")
    whose = f", and {known.assignee} does it" if known is not None and known.assignee != share.agent else ""
    return LifecycleConflict(
        f"Task {share.task} is {state}{whose}: nobody wants this work of {share.agent} any more.",
        reason="lifecycle",
        state=state,
        holder=holder,
        task=share.task,
        advice=f"Give it up: bus parked drop {share.task}",
    )


def _did(share: Share, ids: list[str], count: int, state: str) -> dict[str, object]:
    return {"agent": share.agent, "task": share.task, "count": count, "deliveries": ids, "state": state}


def _deliveries(count: int) -> str:
    return "1 delivery" if count == 1 else f"{count} deliveries"


@parked.command()
@click.argument("tasks", type=TASK, nargs=-1, metavar="[TASK]...")
@_agent_option
@click.option("--yes", is_flag=True, help="Do not ask.")
@_as_option
@settings_options
def drop(
    *, tasks: tuple[str, ...], agent: str | None, yes: bool, sender: str | None, settings: Settings, as_json: bool
) -> None:
    r"""Give up what is parked, with what waits behind it.

    On a terminal it asks before it drops several. The tasks stay as they are.

    \b
    Examples:
      bus parked drop cache-1
      bus parked drop --agent @kilo --yes
    """
    _check_choice(tasks, agent, "or --agent")
    who = sender or name_of(settings.agent) or HUMAN
    if not yes and sys.stdin.isatty():
        # Asked outside the event loop, which would keep the first Ctrl-C to itself.
        found = run_async(_meant, settings, tasks, agent)
        count, of = sum(len(share.lines) for share in found), len({share.task for share in found})
        question = f"Drop {count} deliveries of {'1 task' if of == 1 else f'{of} tasks'}?"
        if count > 1 and not click.confirm(question, err=True):
            say("Nothing was dropped.")
            raise click.exceptions.Exit(1)
    run_async(_dropped, settings, tasks, agent, who, as_json=as_json)


async def _meant(settings: Settings, tasks: tuple[str, ...], agent: str | None) -> list[Share]:
    from taskbus.client import Bus  # redis is slow to import

    async with Bus.connect(settings=settings) as bus:
        return await shares.shares(bus, tasks, agent)


async def _dropped(settings: Settings, tasks: tuple[str, ...], agent: str | None, who: str, *, as_json: bool) -> None:
    from taskbus import parked as parking
    from taskbus.client import Bus  # redis is slow to import

    done: list[dict[str, object]] = []
    told: list[str] = []
    async with Bus.connect(settings=settings) as bus:
        for share in await shares.shares(bus, tasks, agent):
            try:
                moved = await parking.drop(bus, share.agent, share.task, sender=who)
            except NotFound:
                if tasks:
                    raise
                continue  # somebody else has done it meanwhile
            state = (await bus.task(share.task)).state
            done.append(_did(share, [line.entry.id for line in moved if line.entry is not None], len(moved), state))
            told += await _left_over(bus, share, {line.name for line in moved})
            if not as_json:
                click.echo(f"{visible(share.task)}  {share.agent}  {_deliveries(len(moved))} dropped")
    if as_json:
        print_json({"dropped": done})
        return
    for line in told or ([] if done else [_nothing(agent)]):
        say(line)


async def _left_over(bus: Bus, share: Share, dropped: set[str]) -> list[str]:
    """What is to be said of a task whose work was dropped, and that waits for somebody now."""
    from taskbus.append import word_of

    task, shown = await bus.task(share.task), visible(share.task)
    if task.state == "escalated":
        choices = f'bus answer {shown} "…", bus delegate @agent "…" --task {shown}, or bus cancel {shown} "…"'
        return [f"Task {shown} is escalated, and {task.coordinator} is to decide: {choices}"]
    line = await bus.connection.field(bus.keys.index, f"task:{share.task}")
    if task.state in DELIVERED and line is not None and word_of(line, "delivery") in dropped:
        return [f'Task {shown} is {task.state}, and nobody has its work any more: bus cancel {shown} "…"']
    return []
