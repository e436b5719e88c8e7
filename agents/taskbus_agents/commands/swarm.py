"""The command `bus swarm`: the workers of many agents, kept running and shown."""

from __future__ import annotations

import os
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Final, cast

import click

from taskbus.cli.options import Group, run_async, settings_options

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterable, Sequence
    from signal import Signals

    from taskbus.client import Bus
    from taskbus.settings import Settings
    from taskbus_agents.commands.swarm_view import Screen
    from taskbus_agents.registry import Mistake, Registry
    from taskbus_agents.routing import Climbed, RoutingPolicy
    from taskbus_agents.swarm.board import Board
    from taskbus_agents.swarm.lines import Line
    from taskbus_agents.swarm.swarm import Crew, Swarm
    from taskbus_agents.swarm.terms import Terms

_EACH: Final = 0.5
"""Seconds between two drawings of the board."""
_EACH_COUNT: Final = 2.0
"""Seconds between two counts of what waits."""
_REST: Final = 60.0
_PATTERN: Final = "Patterns may have * and ?; give it again for more."


@click.group(cls=Group)
def swarm() -> None:
    """Run the workers of many agents on this machine.

    \b
    Examples:
      bus swarm up policy.toml
    """


@swarm.command()
@click.argument("policy_file", metavar="POLICY", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--only", multiple=True, metavar="@AGENT", help=f"Only these agents. {_PATTERN}")
@click.option("--without", multiple=True, metavar="@AGENT", help=f"Not these agents. {_PATTERN}")
@click.option(
    "--processes", type=click.IntRange(1, 256), help="In so many processes.  [default: the policy's, else one per core]"
)
@click.option("--no-climb", is_flag=True, help="Leave it to others to let routed tasks climb the ladder.")
@settings_options
def up(
    policy_file: Path,
    *,
    only: tuple[str, ...],
    without: tuple[str, ...],
    processes: int | None,
    no_climb: bool,
    settings: Settings,
    as_json: bool,
) -> None:
    """Run the workers of all agents that a policy names, until Ctrl-C.

    The agents are those of bus.toml and its folders of Markdown files; the policy's table [swarm] may name some of
    them, the options fewer still, so that several machines can run parts of one policy against one server. They
    share some processes. One that dies is started again, after a pause that grows with each death in a row, and what
    it had in hand is taken again. The first Ctrl-C lets all of them finish what they have in hand, within the
    policy's grace; the second ends everything at once.

    An agent whose definition is wrong is left out, which is told at the start; the others work, and it ends with 1.
    One that --only names is an error at once.

    On a terminal the board of all agents is drawn again and again; elsewhere a line tells of each delivery.

    \b
    Examples:
      bus swarm up policy.toml
      bus swarm up policy.toml --only '@backend-*' --processes 4
      bus swarm up policy.toml --json | jq -r 'select(.event == "settled") | .result'
    """
    from dataclasses import replace

    from taskbus_agents import registry, routing
    from taskbus_agents.swarm import terms

    settings = replace(settings, policy=policy_file.absolute())
    known, told = registry.read(settings), terms.read(policy_file.absolute())
    policy = routing.RoutingPolicy.needed(settings)
    names, left_out = _chosen(known, told, [_named(each) for each in only], [_named(each) for each in without])
    code = run_async(
        _up,
        settings,
        known,
        names,
        left_out,
        processes=processes or told.processes or os.cpu_count() or 1,
        grace=told.grace,
        policy=policy if policy.ladder and not no_climb else None,
        as_json=as_json,
    )
    if code:
        raise click.exceptions.Exit(code)


def _chosen(
    known: Registry, told: Terms, only: Sequence[str], without: Sequence[str]
) -> tuple[list[str], list[Mistake]]:
    """Who works here, and the mistakes for which somebody who was to work here does not.

    Raises ConfigurationError where nobody can: each is spoiled, or one that --only names, or what is said for all.
    """
    from taskbus.errors import NotFound
    from taskbus_agents.registry import raised
    from taskbus_agents.swarm import terms
    from taskbus_projections.patterns import is_pattern

    def chosen(agents: Iterable[str]) -> list[str]:
        return terms.chosen(terms.chosen(agents, told.agents), only or ["@*"], without)

    for name in only:
        if not is_pattern(name):
            known.find(name)
    names = chosen(known)
    spoiled = {*chosen({each.name for each in known.mistakes if each.name is not None})} - {*names}
    # One of which nobody knows whose it is may be anybody's, unless all are named, and there.
    is_whole = all(each in names for each in only or told.agents)
    left_out = [each for each in known.mistakes if (each.name in spoiled if each.name is not None else not is_whole)]
    if known.common or (left_out and not names):
        raise raised(known.common or left_out)
    if not names:
        raise NotFound(
            "No agent is left to work for.",
            advice="`bus agents list` shows the agents that are defined; look at [swarm] in the policy, and at --only.",
        )
    return names, left_out


def _named(pattern: str) -> str:
    return pattern if pattern.startswith("@") else f"@{pattern}"


async def _up(
    settings: Settings,
    known: Registry,
    names: Sequence[str],
    left_out: Sequence[Mistake],
    *,
    processes: int,
    grace: float,
    policy: RoutingPolicy | None,
    as_json: bool,
) -> int:
    import signal

    import anyio

    from taskbus.client import Bus  # redis is slow to import
    from taskbus_agents.commands.swarm_view import Screen
    from taskbus_agents.swarm.board import Board
    from taskbus_agents.swarm.swarm import Swarm, shared_out

    board, code = Board(names, {each.name: str(each) for each in reversed(left_out) if each.name is not None}), 1

    def hear(crew: Crew, line: Line) -> None:
        _hear(screen, board, crew, line, as_json=as_json)

    def gone() -> None:
        swarm.stop()

    screen = Screen(as_json=as_json, on_gone=gone)
    with anyio.open_signal_receiver(signal.SIGTERM, signal.SIGINT, signal.SIGHUP) as signals:
        async with Bus.connect(settings=settings) as bus, anyio.create_task_group() as group:
            swarm = Swarm(
                shared_out(names, processes),
                _environment(bus, settings),
                grace=grace,
                on_line=hear,
                on_change=lambda crew: board.note(crew, anyio.current_time()),
            )
            _tell_left_out(screen, left_out, as_json=as_json)
            screen.say(f"{_greeting(bus, names, len(swarm.crews))}; Ctrl-C ends it.")
            group.start_soon(_obey, signals, swarm, screen)
            if policy is not None:
                group.start_soon(partial(_climb, bus, policy, known, screen, as_json=as_json))
            if screen.draws:
                group.start_soon(_draw, bus, board, swarm, screen)
            await swarm.run()
            code = 0 if swarm.is_stopping and not left_out else 1
            group.cancel_scope.cancel()
    counts = board.counts
    screen.say(", ".join(f"{counts[each]} {each}" for each in ("succeeded", "failed", "escalated", "parked")) + ".")
    if left_out:
        whose = ", ".join(dict.fromkeys(each.name or str(each.file) for each in left_out))
        screen.say(f"Left out for mistakes in their definitions, which `bus agents list` tells: {whose}.")
    return code


def _tell_left_out(screen: Screen, left_out: Sequence[Mistake], *, as_json: bool) -> None:
    """Tell once why somebody does not work here."""
    from taskbus.cli.rendering import visible

    for each in left_out:
        if as_json:
            place = {"file": str(each.file), "line": each.line}
            screen.record({"event": "broken", "agent": each.name, "text": str(each), **place})
        else:
            whose = f"{each.name} is left out" if each.name is not None else "Somebody is left out"
            screen.say(visible(f"{whose}: {each}"))


def _greeting(bus: Bus, names: Sequence[str], processes: int) -> str:
    address = bus.connection.address
    where = address.place if address is not None else "a server"
    agents = "1 agent works" if len(names) == 1 else f"{len(names)} agents work"
    within = "1 process" if processes == 1 else f"{processes} processes"
    return f"{agents} for {bus.namespace} on {where}, in {within}"


def _environment(bus: Bus, settings: Settings) -> dict[str, str]:
    """Where the bus is, for the crews, whatever their own environment says."""
    address = bus.connection.address
    return {
        "BUS_URL": address.url() if address is not None else "",
        "BUS_NAMESPACE": bus.namespace,
        "REDIS_PREFIX": bus.namespace,
        "BUS_HOME": str(settings.home),
        "BUS_POLICY": str(settings.policy),
    }


async def _obey(signals: AsyncIterator[Signals], swarm: Swarm, screen: Screen) -> None:
    number = await anext(signals)
    screen.say(f"{number.name}: finishing what is in hand. Once more ends it at once.")
    swarm.stop()
    async for number in signals:
        if number.name != "SIGHUP":  # a terminal that is closed may say so twice
            swarm.end()


async def _climb(bus: Bus, policy: RoutingPolicy, known: Registry, screen: Screen, *, as_json: bool) -> None:
    """Let routed tasks climb for as long as the swarm runs."""
    import anyio

    from taskbus.cli.rendering import visible
    from taskbus.errors import TaskbusError
    from taskbus_agents.routing import Climber

    def told(climbed: Climbed) -> None:
        if as_json:
            screen.record({"event": climbed.kind, "task": climbed.task, "agent": climbed.agent, "text": climbed.why})
        elif climbed.kind == "climbed":
            screen.say(f"{visible(climbed.task)} climbs to {climbed.agent}")
        else:
            screen.say(f"{visible(climbed.task)} is escalated: {visible(climbed.why)}")

    while True:
        try:
            await Climber(bus, policy, known, on_climb=told).run()
        except TaskbusError as error:  # the agents work all the same
            screen.say(f"No task climbs for {_REST:g} s: {visible(error.message)}")
            await anyio.sleep(_REST)


def _hear(screen: Screen, board: Board, crew: Crew, line: Line, *, as_json: bool) -> None:
    """Show what a crew told."""
    from msgspec import to_builtins

    from taskbus_agents.commands import swarm_view

    board.hear(crew, line)
    if as_json:
        screen.record(to_builtins(line))
    elif not screen.draws and (text := swarm_view.line(crew, line)) is not None:
        screen.line(text)


async def _draw(bus: Bus, board: Board, swarm: Swarm, screen: Screen) -> None:
    """Draw the board over itself for as long as the swarm runs."""
    import anyio

    from taskbus.errors import TimedOut, Unavailable

    waiting: dict[str, int] = {}

    async def count() -> None:
        while True:
            with suppress(Unavailable, TimedOut):  # the workers say so
                for agent in board.rows:
                    waiting[agent] = await _waiting(bus, agent)
            await anyio.sleep(_EACH_COUNT)

    async with anyio.create_task_group() as group:
        group.start_soon(count)
        while True:
            for crew in swarm.crews:
                if crew.again is not None and crew.pid is None:
                    board.note(crew, anyio.current_time())
            screen.draw(board, waiting, stopping=swarm.is_stopping)
            await anyio.sleep(_EACH)


async def _waiting(bus: Bus, agent: str) -> int:
    """How many deliveries stand in an agent's inbox, those in hand included."""
    lengths = [await bus.connection.execute("XLEN", stream) for stream in bus.keys.inboxes(agent)]
    return sum(cast("list[int]", lengths))
