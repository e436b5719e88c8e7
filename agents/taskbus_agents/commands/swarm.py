"""The command `bus swarm`: the workers of many agents, kept running and shown."""

from __future__ import annotations

import os
import sys
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Final, cast

import click

from taskbus.cli.options import print_json, run_async, say, settings_options

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence
    from signal import Signals

    from taskbus.client import Bus
    from taskbus.settings import Settings
    from taskbus_agents.registry import Registry
    from taskbus_agents.routing import Climbed
    from taskbus_agents.swarm.board import Board
    from taskbus_agents.swarm.lines import Line
    from taskbus_agents.swarm.swarm import Crew, Swarm

_EACH: Final = 0.5
"""Seconds between two drawings of the board."""
_PATTERN: Final = "Patterns may have * and ?; give it again for more."


@click.group()
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

    On a terminal the board of all agents is drawn again and again; elsewhere a line tells of each delivery.

    \b
    Examples:
      bus swarm up policy.toml
      bus swarm up policy.toml --only '@backend-*' --processes 4
      bus swarm up policy.toml --json | jq -r 'select(.event == "settled") | .result'
    """
    from dataclasses import replace

    from taskbus.errors import NotFound
    from taskbus_agents import registry
    from taskbus_agents.swarm import terms

    settings = replace(settings, policy=policy_file.absolute())
    known, told = registry.load(settings), terms.read(policy_file.absolute())
    names = terms.chosen(known, told.agents)
    if only or without:
        names = terms.chosen(names, [_named(each) for each in only] or ["@*"], [_named(each) for each in without])
    if not names:
        raise NotFound(
            "No agent is left to work for.",
            advice="`bus agents list` shows the agents that are defined; look at [swarm] in the policy, and at --only.",
        )
    code = run_async(
        _up,
        settings,
        known,
        names,
        processes=processes or told.processes or os.cpu_count() or 1,
        grace=told.grace,
        climbs=not no_climb,
        as_json=as_json,
    )
    if code:
        raise click.exceptions.Exit(code)


def _named(pattern: str) -> str:
    return pattern if pattern.startswith("@") else f"@{pattern}"


async def _up(
    settings: Settings,
    known: Registry,
    names: Sequence[str],
    *,
    processes: int,
    grace: float,
    climbs: bool,
    as_json: bool,
) -> int:
    import signal

    import anyio

    from taskbus.client import Bus  # redis is slow to import
    from taskbus_agents.swarm.board import Board
    from taskbus_agents.swarm.swarm import Swarm, shared_out

    board = Board(names)
    draws = sys.stdout.isatty() and not as_json

    def hear(crew: Crew, line: Line) -> None:
        board.hear(crew, line)
        if as_json:
            _print_record(line)
        elif not draws:
            _print_line(crew, line)

    swarm: Swarm | None = None
    with anyio.open_signal_receiver(signal.SIGTERM, signal.SIGINT, signal.SIGHUP) as signals:
        async with Bus.connect(settings=settings) as bus, anyio.create_task_group() as group:
            place = bus.connection.address
            swarm = Swarm(
                shared_out(names, processes),
                _environment(bus, settings),
                grace=grace,
                on_line=hear,
                on_change=lambda crew: board.note(crew, anyio.current_time()),
            )
            where = place.place if place is not None else "a server"
            agents = "1 agent works" if len(names) == 1 else f"{len(names)} agents work"
            say(f"{agents} for {bus.namespace} on {where}, in {len(swarm.crews)} processes; Ctrl-C ends it.")
            group.start_soon(_obey, signals, swarm)
            if climbs:
                group.start_soon(_climb, bus, settings, known)
            if draws:
                group.start_soon(_draw, bus, board, swarm)
            await swarm.run()
            group.cancel_scope.cancel()
    counts = board.counts
    say(", ".join(f"{counts[each]} {each}" for each in ("succeeded", "failed", "escalated", "parked")) + ".")
    return 0 if swarm is not None and swarm.is_stopping else 1


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


async def _obey(signals: AsyncIterator[Signals], swarm: Swarm) -> None:
    number = await anext(signals)
    say(f"{number.name}: finishing what is in hand. Once more ends it at once.")
    swarm.stop()
    async for _ in signals:
        swarm.stop()


async def _climb(bus: Bus, settings: Settings, known: Registry) -> None:
    """Let routed tasks climb for as long as the swarm runs, where the policy has rungs to climb."""
    from taskbus_agents import routing

    policy = routing.RoutingPolicy.needed(settings)
    if policy.ladder:
        await routing.Climber(bus, policy, known, on_climb=_print_climb).run()


def _print_climb(climbed: Climbed) -> None:
    from taskbus.cli.rendering import visible

    if climbed.kind == "climbed":
        say(f"{visible(climbed.task)} climbs to {climbed.agent}")
    elif climbed.kind == "exhausted":
        say(f"{visible(climbed.task)} is escalated: no rung of the ladder is left")


def _print_record(line: Line) -> None:
    from msgspec import to_builtins

    print_json(to_builtins(line))


def _print_line(crew: Crew, line: Line) -> None:
    from taskbus_agents.commands import swarm_view

    text = swarm_view.line(crew, line)
    if text is not None:
        click.echo(text)


async def _draw(bus: Bus, board: Board, swarm: Swarm) -> None:
    """Draw the board over itself for as long as the swarm runs."""
    import shutil

    import anyio

    from taskbus.errors import TimedOut, Unavailable
    from taskbus_agents.commands import swarm_view

    drawn, waiting = 0, dict[str, int]()
    try:
        while True:
            with suppress(Unavailable, TimedOut):  # the workers say so
                waiting = {agent: await _waiting(bus, agent) for agent in board.rows}
            for crew in swarm.crews:
                if crew.again is not None and crew.pid is None:
                    board.note(crew, anyio.current_time())
            width, height = shutil.get_terminal_size((100, 24))
            lines = swarm_view.drawn(board, waiting, width, height, stopping=swarm.is_stopping)
            up_again = f"\x1b[{drawn}F" if drawn else ""
            click.echo(up_again + "".join(f"\x1b[K{line}\n" for line in lines) + "\x1b[J", nl=False)
            drawn = len(lines)
            await anyio.sleep(_EACH)
    finally:
        sys.stdout.flush()


async def _waiting(bus: Bus, agent: str) -> int:
    """How many deliveries stand in an agent's inbox, those in hand included."""
    lengths = [await bus.connection.execute("XLEN", stream) for stream in bus.keys.inboxes(agent)]
    return sum(cast("list[int]", lengths))
