"""The commands `bus plan check`, `show`, `run` and `resume`: options in, graph and report out."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from taskbus.cli.options import INTERRUPTED, Group, archive_option, print_json, run_async, say, settings_options
from taskbus.errors import Conflict, NotFound, TimedOut, UsageError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from taskbus.client import Bus
    from taskbus.log import Entry
    from taskbus.settings import Settings
    from taskbus_agents.plans.model import Plan
    from taskbus_agents.plans.run import Run
    from taskbus_agents.plans.session import Ended


@click.group(cls=Group)
def plan() -> None:
    """Carry out plans: many steps, in parallel and in order, with gates.

    A plan is a file: TOML, or text with ASSESS, SPLIT and ASSIGN. docs/plans.md explains both.

    \b
    Examples:
      bus plan check release.toml
      bus plan run release.toml
    """


@plan.command()
@click.argument("file", metavar="FILE", type=click.Path(path_type=Path))
@settings_options
def check(file: Path, *, settings: Settings, as_json: bool) -> None:
    """Check a plan, and show who would do what; ends with 1 when it cannot be carried out.

    \b
    Examples:
      bus plan check release.toml
    """
    from taskbus.errors import ConfigurationError

    try:
        found = _load(file)
        notes = _notes(found, file, settings)
    except ConfigurationError as error:
        if not file.is_file():
            raise  # nothing was checked
        if as_json:
            print_json({"valid": False, "mistakes": error.message.splitlines(), "advice": error.advice})
        else:
            from taskbus.cli.rendering import visible

            say(f"{visible(error.message, lines=True)}\n{error.advice or ''}".rstrip())
        raise click.exceptions.Exit(1) from error
    if as_json:
        from taskbus_agents.plans import report

        print_json({"valid": True, "notes": notes, **report.plain(_fresh(found))})
        return
    _print_graph(_fresh(found))
    _say(notes)


@plan.command()
@click.argument("what", metavar="FILE|RUN")
@click.option("--mermaid", "form", flag_value="mermaid", help="Print the graph as a Mermaid flowchart.")
@click.option("--dot", "form", flag_value="dot", help="Print the graph for Graphviz.")
@click.option("--offline", is_flag=True, help="Show the plan of a file alone, without asking a server.")
@archive_option
@settings_options
def show(what: str, *, form: str | None, offline: bool, settings: Settings, as_json: bool) -> None:
    """Draw a plan as a graph, with how far its newest run is.

    \b
    Examples:
      bus plan show release.toml
      bus plan show release.3 --json
      bus plan show release.toml --mermaid
    """
    from taskbus_agents.plans import models, report

    run = _fresh(_load(Path(what))) if offline else run_async(_found, settings, what)
    notes = models.notes(run.plan, settings)
    if as_json:
        print_json({**report.plain(run), **({"notes": notes} if notes else {})})
    elif form is not None:
        from taskbus_agents.plans import drawing

        click.echo(drawing.mermaid(run) if form == "mermaid" else drawing.dot(run))
    else:
        _print_graph(run)
        _say(notes)


class _Seconds(click.ParamType[float]):
    """A duration; the module that knows them is imported when there is one."""

    name = "duration"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> float:
        from taskbus.cli.values import SECONDS

        return SECONDS.convert(value, param, ctx)


_DURATION = _Seconds()
_lease = click.option(
    "--lease",
    type=_DURATION,
    default="10",
    show_default=True,
    help="When another process takes the run over from one that was killed.",
)
_timeout = click.option("--timeout", type=_DURATION, help="End after so long, with 6; the run stays open.")


@plan.command()
@click.argument("file", metavar="FILE", type=click.Path(path_type=Path))
@click.option("--detach", is_flag=True, help="Only begin the run; `bus plan resume` carries it out.")
@_lease
@_timeout
@click.option("--as", "sender", metavar="@AGENT", help="Who begins it; default BUS_AGENT, else @human.")
@archive_option
@settings_options
def run(
    file: Path,
    *,
    detach: bool,
    lease: float,
    timeout: float | None,
    sender: str | None,
    settings: Settings,
    as_json: bool,
) -> None:
    """Carry out a plan, and print its report.

    What happens goes to stderr: on a terminal the graph with its states, else a line for each event. One run of a
    plan is open at a time; where one is, this goes on with it. Ends with 0 when the plan was carried out, 1 when it
    failed or was cancelled. However it is stopped, `bus plan resume` goes on.

    \b
    Examples:
      bus plan run release.toml
      bus plan run release.txt --timeout 2h --json
    """
    found = _load(file)
    _say(_notes(found, file, settings))
    path = file.absolute()
    if timeout is not None and detach:
        raise UsageError("--timeout is for a run that is carried out here.", advice="Leave --detach out.")

    async def begin(bus: Bus) -> Entry:
        from taskbus_agents.plans.starting import begun

        said = await begun(bus, found, file=path, sender=_sender(sender, settings))
        say(f"Run {said.run} is {'open already: going on with it' if said.joined else 'begun'}.")
        return said.order

    run_async(_carried_out, settings, begin, lease, timeout, detach=detach, as_json=as_json)


@plan.command()
@click.argument("what", metavar="FILE|RUN")
@_lease
@_timeout
@click.option("--as", "sender", metavar="@AGENT", help="Who tries a failed run again; default: who began it.")
@archive_option
@settings_options
def resume(
    what: str, *, lease: float, timeout: float | None, sender: str | None, settings: Settings, as_json: bool
) -> None:
    """Go on with a run: one that was interrupted, or one that failed.

    Of a failed run, what is done stays done, and what failed is tried again. A run goes on with the document that it
    began with.

    \b
    Examples:
      bus plan resume release.toml
      bus plan resume release.3
    """

    async def find(bus: Bus) -> Entry:
        from taskbus_agents.plans.following import order_of, plan_of
        from taskbus_agents.plans.starting import again, unparked

        name, known = await _run_of(bus, what)
        if name is None:
            raise NotFound(f"There was no run of {what}.", advice=f"`bus plan run {what}` begins one.")
        order = await order_of(bus, name)
        if known is not None and known.digest != plan_of(order).digest:
            say(
                f"Note: {_edited(what, name)} Once that is over, `bus plan run {what}` begins one with it as it is now."
            )
        if await unparked(bus, order):
            say(f"Run {name} was set aside: it is delivered again.")
        if await again(bus, order, sender=sender):
            say(f"Run {name} had failed: what failed is tried again.")
        return order

    run_async(_carried_out, settings, find, lease, timeout, detach=False, as_json=as_json)


async def _carried_out(
    settings: Settings,
    begin: Callable[[Bus], Awaitable[Entry]],
    lease: float,
    timeout: float | None,
    *,
    detach: bool,
    as_json: bool,
) -> None:
    import anyio

    from taskbus.client import Bus
    from taskbus_agents.commands.plan_view import Live
    from taskbus_agents.plans.session import Session

    async with Bus.connect(settings=settings) as bus:
        order = await begin(bus)
        if detach:
            _print_begun(order.task, as_json=as_json)
            return
        live = Live()
        session = Session(bus, settings, order, lease=lease, on_entry=live.entry, on_incident=live.incident)
        if unnamed := [node.name for node in session.plan.steps if node.agent is None]:
            say(f"The policy chooses who gets {', '.join(unnamed[:8])}{' …' if len(unnamed) > 8 else ''}.")
        ended: Ended | None = None
        async with anyio.create_task_group() as group:
            group.start_soon(live.keep_up)
            ended = await session.carry_out(timeout=timeout)
            group.cancel_scope.cancel()
        live.end()
    if ended is not None:
        _print_end(ended, timeout, as_json=as_json)


def _print_begun(run: str, *, as_json: bool) -> None:
    if as_json:
        print_json({"run": run})
    else:
        click.echo(run)
    say(f"`bus plan resume {run}` carries it out.")


def _print_end(ended: Ended, timeout: float | None, *, as_json: bool) -> None:
    run = ended.run
    if ended.signal is not None:
        say(f"Stopped. Steps that were begun go on by themselves; `bus plan resume {run.id}` goes on with the rest.")
        raise click.exceptions.Exit(INTERRUPTED if ended.signal == 2 else 128 + ended.signal)
    if ended.timed_out:
        raise TimedOut(
            f"Run {run.id} has not ended within {timeout:g} s: {len(run.settled)} of {len(run.plan.nodes)} are done.",
            task=run.id,
            advice=f"It stays open: bus plan resume {run.id}",
        )
    if as_json:
        from taskbus_agents.plans import report

        document = report.plain(run)
        document["report"] = _description(run)
        print_json(document)
    else:
        from taskbus.cli.rendering import visible

        click.echo(visible(_description(run), lines=True))
    if run.state != "accepted":
        if run.state == "failed":
            say(f"The run has failed. `bus plan resume {run.id}` tries again what failed.")
        raise click.exceptions.Exit(1)


def _description(run: Run) -> str:
    from taskbus_agents.plans import report

    completion = run.root.completion if run.root is not None else None
    if completion is not None and completion.result.description:
        return completion.result.description
    return report.text(run, run.state)


async def _found(settings: Settings, what: str) -> Run:
    """The newest run of a file, or the run of that name; of a plan that never ran, the plan."""
    from taskbus.client import Bus
    from taskbus_agents.plans.following import fold, order_of, plan_of

    async with Bus.connect(settings=settings) as bus:
        name, known = await _run_of(bus, what)
        if name is None:
            return _fresh(known or _load(Path(what)))
        order = await order_of(bus, name)
        begun = plan_of(order)
        if known is not None and known.digest != begun.digest:
            say(f"Note: {_edited(what, name)} --offline shows it as it is now.")
        run = await fold(bus, begun, order, await bus.log.end())
        run.refresh()
        return run


async def _run_of(bus: Bus, what: str) -> tuple[str | None, Plan | None]:
    """The run that a word means: the newest one of a plan's file, with the plan as it stands there, or itself."""
    from taskbus_agents.plans.model import RUN
    from taskbus_agents.plans.starting import newest

    file = Path(what)
    if RUN.fullmatch(what) and not file.is_file():  # noqa: ASYNC240 - one look, before anything else goes on
        return what, None
    found = _load(file)
    try:
        return await newest(bus, found), found
    except Conflict as error:
        raise NotFound(error.message, advice=error.advice) from error


def _edited(file: str, run: str) -> str:
    return f"{file} has changed since run {run} began, which has the document that it began with."


def _load(file: Path) -> Plan:
    from taskbus_agents.plans.document import load

    return load(file)


def _fresh(plan: Plan) -> Run:
    from taskbus_agents.plans.run import Run

    return Run(plan, f"{plan.name}.0")


def _sender(given: str | None, settings: Settings) -> str:
    from taskbus.cli.values import AGENT

    return AGENT.convert(given or settings.agent or "@human", None, None)


def _notes(found: Plan, file: Path, settings: Settings) -> list[str]:
    """What is no mistake, and should be known before it runs. Raises as `_unassigned`."""
    from taskbus_agents.plans import models

    return [*found.notes, *_unassigned(found, file, settings), *models.notes(found, settings)]


def _say(notes: list[str]) -> None:
    from taskbus.cli.rendering import visible

    for note in notes:
        say(visible(f"Note: {note}.", lines=True))


def _unassigned(found: Plan, file: Path, settings: Settings) -> list[str]:
    """What a router would have to choose. Raises ConfigurationError where there is no policy to choose by."""
    steps = [node for node in found.steps if node.agent is None]
    if not steps:
        return []
    from taskbus.errors import ConfigurationError
    from taskbus_agents.routing import RoutingPolicy

    if RoutingPolicy.of(settings) is None:
        lines = [f"{file}, line {node.line}: {node.name} has no agent." for node in steps]
        raise ConfigurationError(
            "\n".join(lines),
            advice="Assign one to it, or name a policy that chooses: BUS_POLICY, or `policy` in bus.toml.",
        )
    return [f"line {node.line}: the policy chooses who gets {node.name}" for node in steps]


def _print_graph(run: Run) -> None:
    from taskbus.cli.rendering import columns
    from taskbus_agents.commands.plan_view import drawn

    for line in drawn(run, columns()):
        click.echo(line)
