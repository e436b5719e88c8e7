"""The command `bus agent`: options in, lines out. Everything else is imported when it is called."""

from __future__ import annotations

import os
import shutil
import signal
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from taskbus.cli.options import Group, discard_output, print_json, run_async, say, settings_options
from taskbus_agents.manual import RUN

if TYPE_CHECKING:
    from taskbus.client import Bus
    from taskbus.settings import Settings
    from taskbus.work import Work
    from taskbus_agents.definition import Definition
    from taskbus_agents.service import Service
    from taskbus_agents.tally import Settled


class _Late(click.ParamType[Any]):
    """A type of taskbus.cli.values, imported when there is a value: the help needs none of it."""

    def __init__(self, name: str, *, shown: str | None = None) -> None:
        self.name = name
        self._shown = shown or name.upper()

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> object:
        from taskbus.cli import values

        kind: click.ParamType[object] = getattr(values, self.name.upper())
        return kind.convert(value, param, ctx)

    def get_metavar(self, param: click.Parameter, ctx: click.Context) -> str:
        del param, ctx
        return self._shown


_DURATION: Final = _Late("seconds", shown="DURATION")


@click.group(cls=Group)
def agent() -> None:
    """Run workers for agents.

    \b
    Examples:
      bus agent run @kilo -- ./kilo.sh
      bus agent run @reviewer
    """


@agent.command(help=RUN)
@click.argument("name", type=_Late("agent"), metavar="NAME")
@click.argument("command", nargs=-1, type=click.UNPROCESSED)
@click.option(
    "--lease",
    type=_DURATION,
    show_default="30",
    help="How long a delivery stays this worker's without a sign of life.",
)
@click.option(
    "--concurrency",
    type=click.IntRange(1, 64),
    show_default="1",
    help="Deliveries at a time.",
)
@click.option(
    "--prefetch",
    type=click.IntRange(0, 1000),
    default=0,
    show_default=True,
    help="Deliveries to hold ready beyond those at work.",
)
@click.option(
    "--attempts",
    type=click.IntRange(1, 1000),
    show_default="3",
    help="How often a delivery is tried before it is parked and escalated.",
)
@click.option(
    "--backoff",
    type=_DURATION,
    default="1",
    show_default=True,
    help="Pause after the first failed try; doubled with each further one, up to 5m.",
)
@click.option("--timeout", type=_DURATION, help="End a subprocess that runs for longer: its task has failed.")
@click.option(
    "--silence",
    type=_DURATION,
    help="End a subprocess that shows no sign of life for so long, and try again.",
)
@click.option(
    "--hard-limit",
    type=_DURATION,
    help="End a subprocess that runs for longer: its delivery is parked and escalated.",
)
@click.option(
    "--grace",
    type=_DURATION,
    default="30",
    show_default=True,
    help="How long what is under way may go on after the first signal.",
)
@click.option(
    "--cwd",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="Run every subprocess in this folder.",
)
@click.option(
    "--workdir-root",
    type=click.Path(file_okay=False, path_type=Path),
    help="Make the folder of each delivery in here  [default: runs/ in the home]",
)
@click.option("--once", is_flag=True, help="End after one delivery.")
@click.option("--limit", type=click.IntRange(1), help="End after so many deliveries.")
@click.option("--until-idle", is_flag=True, help="End when the inbox is empty.")
@click.option("--strict", is_flag=True, help="End with 1 when a delivery failed, was escalated or was parked.")
@click.option("--verbose", is_flag=True, help="Show what the subprocess writes to stderr, as it comes.")
@settings_options
def run(
    name: str,
    command: tuple[str, ...],
    *,
    lease: float | None,
    concurrency: int | None,
    prefetch: int,
    attempts: int | None,
    backoff: float,
    timeout: float | None,
    silence: float | None,
    hard_limit: float | None,
    grace: float,
    cwd: Path | None,
    workdir_root: Path | None,
    once: bool,
    limit: int | None,
    until_idle: bool,
    strict: bool,
    verbose: bool,
    settings: Settings,
    as_json: bool,
) -> None:
    """Work for one agent: run its program, or COMMAND, as a subprocess for each delivery."""
    from taskbus_agents.service import Service

    if once and limit not in (None, 1):
        raise click.UsageError("--once and --limit say different things: use one of them.")
    if cwd is not None and workdir_root is not None:
        raise click.UsageError("--cwd and --workdir-root say different things: use one of them.")
    agent = _defined(name, command, settings, in_a_folder_of_its_own=cwd is None)
    service = Service(
        agent=name,
        definition=agent,
        lease=agent.lease if lease is None else lease,
        concurrency=agent.concurrency if concurrency is None else concurrency,
        prefetch=prefetch,
        attempts=agent.attempts if attempts is None else attempts,
        backoff=backoff,
        hard_limit=agent.hard_limit if hard_limit is None else hard_limit,
        grace=grace,
        timeout=agent.timeout if timeout is None else timeout,
        silence=agent.silence if silence is None else silence,
        cwd=cwd.absolute() if cwd else None,
        root=workdir_root.absolute() if workdir_root else None,
        until_idle=until_idle,
        limit=1 if once else limit,
    )
    _serve(service, settings, as_json=as_json, strict=strict, verbose=verbose)


def _serve(service: Service, settings: Settings, *, as_json: bool, strict: bool, verbose: bool) -> None:
    from taskbus_agents.service import serve
    from taskbus_agents.tally import Tally

    tally = Tally()

    def settled(delivery: Settled) -> None:
        tally.add(delivery)
        (_print_record if as_json else _print_line)(delivery)

    def ready(bus: Bus) -> None:
        place = bus.connection.address
        _tell(f"{service.agent} works for {bus.namespace} on {place.place if place else 'a server'}; Ctrl-C ends it.")

    code = run_async(
        serve,
        settings,
        service,
        on_settled=settled,
        on_incident=_print_incident,
        on_ready=ready,
        on_start=_print_nothing if as_json else _print_start,
        on_stderr=_print_stderr if verbose else None,
    )
    _tell(f"{tally}.")
    if code or (strict and tally.has_failures):
        raise click.exceptions.Exit(code or 1)


def _defined(name: str, command: tuple[str, ...], settings: Settings, *, in_a_folder_of_its_own: bool) -> Definition:
    """The agent: a command of its own, or what bus.toml and the folders of agents say of this name."""
    from taskbus_agents.definition import Definition

    if command:
        found = _found(command, in_a_folder_of_its_own=in_a_folder_of_its_own)
        return Definition(name=name, adapter="command", command=found)
    from taskbus.errors import NotFound
    from taskbus_agents import registry

    try:
        return registry.find(settings, name)
    except NotFound as error:
        how = f"Define it with `bus agents add {name}`, or give a COMMAND: `bus agent run {name} -- ./agent.sh`."
        raise click.UsageError(f"{error.message} {how}") from error


def _found(command: tuple[str, ...], *, in_a_folder_of_its_own: bool) -> tuple[str, ...]:
    """The command with the full path of its program. Raises BadParameter where there is no such program."""
    path = shutil.which(command[0])
    if path is None:
        raise click.BadParameter(
            f"{command[0]!r} is no program on the PATH, and no file that can be run here.", param_hint="COMMAND"
        )
    # Refused, not resolved: only the user knows whether a word that names a file here is meant as one.
    for word in command[1:] if in_a_folder_of_its_own else ():
        path_in_it = word.partition("=")[2] if word.startswith("-") else word
        if _is_here(path_in_it):
            raise click.BadParameter(
                f"{path_in_it!r} is a file here, but each delivery runs in a folder of its own: write its full path, "
                f"{os.path.abspath(path_in_it)}, or use --cwd .",  # noqa: PTH100 - without following links
                param_hint="COMMAND",
            )
    return (str(Path(path).absolute()), *command[1:])


def _is_here(word: str) -> bool:
    """Whether this is a relative path of something here; a folder only where it is written as a path."""
    # Not Path.is_file, which raises for a word that is too long for a name: a script after `sh -c`, for example.
    if not word or os.path.isabs(word):  # noqa: PTH117
        return False
    return os.path.isfile(word) or (os.sep in word and os.path.exists(word))  # noqa: PTH110, PTH113


def _print_nothing(_work: Work) -> None:
    pass


def _print_start(work: Work) -> None:
    from taskbus.cli.rendering import visible

    _tell(f"{_clock()}  {visible(work.delivery.task)}  {work.envelope.type} → started")


def _print_stderr(task: str, line: str) -> None:
    from taskbus.cli.rendering import visible

    _tell(f"{visible(task)} | {visible(line)}")


def _clock() -> str:
    from datetime import UTC, datetime

    return f"{datetime.now(UTC).astimezone():%H:%M:%S}"


def _print_record(settled: Settled) -> None:
    try:
        print_json(settled.plain())
    except BrokenPipeError:
        # Whoever read it has had enough: the worker ends as at the first signal.
        discard_output()
        signal.raise_signal(signal.SIGTERM)
    except OSError as error:
        _tell(f"The record of {settled.task} cannot be written: {error.strerror}. The work goes on.")


def _tell(text: str) -> None:
    """Tell the person at the terminal; where that cannot be written, on a full disk for example, the work goes on."""
    with suppress(OSError):
        say(text)


def _print_line(settled: Settled) -> None:
    from taskbus.cli.rendering import visible

    line = f"{_clock()}  {visible(settled.task)}  {settled.received} → {_what_became(settled)}"
    if settled.seconds is not None:
        line += f"  {settled.seconds:.1f} s"
    if settled.message:
        line += f"  {visible(settled.message.partition(chr(10))[0])}"
    _tell(line)


def _what_became(settled: Settled) -> str:
    if settled.result == "read":
        return "read, nothing to do"
    if settled.result == "parked":
        said = f"parked ({settled.reason})"
    else:
        said = f"{settled.outcome} {settled.status or ''}".strip() if settled.outcome else f"{settled.state} by itself"
    return click.style(said, fg="red" if settled.result in ("failed", "escalated", "parked") else "green")


def _print_incident(text: str) -> None:
    from taskbus.cli.rendering import visible

    # The first line says what happened; those after it are what an agent printed, which is kept in its folder.
    _tell(visible(text.partition("\n")[0]))
