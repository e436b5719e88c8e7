"""Folding: the commands that bring the read models up to date, and make them anew."""

from __future__ import annotations

import sys
import time
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from taskbus.cli.options import archive_option, print_json, run_async, say, settings_options

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable
    from typing import Self

    from taskbus.client import Bus
    from taskbus.log import Incident
    from taskbus.position import Position
    from taskbus.settings import Settings
    from taskbus_projections.database import Checkpoint
    from taskbus_projections.projector import Progress

_BAR_FROM = 5000
"""From so many envelopes on, folding takes long enough for a progress bar."""

_LOOK = '`bus sql "SELECT * FROM set_aside"` says why; `bus rebuild` tries to fold them again.'

set_aside_option = click.option(
    "--set-aside", is_flag=True, help="Note what cannot be folded in the table set_aside, and go on."
)


@click.command()
@click.option("-f", "--follow", is_flag=True, help="Go on with each new envelope, until Ctrl-C.")
@set_aside_option
@click.option(
    "--into",
    metavar="FILE",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Fold into a new database of its own, which nothing else uses.",
)
@click.option("--from", "start", metavar="MOMENT", help="With --into: the first; a time, 2h (ago), a position")
@click.option("--to", "end", metavar="MOMENT", help="With --into: the last")
@archive_option
@settings_options
def project(
    *,
    follow: bool,
    set_aside: bool,
    into: Path | None,
    start: str | None,
    end: str | None,
    settings: Settings,
    as_json: bool,
) -> None:
    r"""Fold the log into the read models.

    Queries do so by themselves; with --follow the database is always up to date, for whoever reads it with
    other programs. Prints the file of the database. What cannot be folded stops it, with position and reason.
    With --into any part of the log, the archive included, is folded into a file of its own.

    \b
    Examples:
      bus project
      bus project --follow --json
      bus project --into monday.db --to 2026-11-17T00:00:00Z
      datasette "$(bus project --json | jq -r .database)"
    """
    from taskbus.errors import UsageError

    if into is not None:
        if follow:
            raise UsageError("--into and --follow exclude each other.", advice="Leave one of them out.")
        from taskbus import moment

        run_async(_part, settings, into, *moment.passage(start, end), set_aside=set_aside, as_json=as_json)
        return
    if start is not None or end is not None:
        raise UsageError(
            "--from and --to are for --into: the read models are folded from the beginning.",
            advice="Name a file with --into, or leave them out.",
        )
    run_async(_project, settings, follow=follow, set_aside=set_aside, as_json=as_json)


@click.command()
@set_aside_option
@archive_option
@settings_options
def rebuild(*, set_aside: bool, settings: Settings, as_json: bool) -> None:
    r"""Fold the whole log anew, and swap the result in.

    Readers go on meanwhile, and see the old rows until all of the new ones are there. Says which tables
    differed from what the log says. Needed where the database is broken, or the log is not the one that was
    folded. Ended on the way, it goes on from there the next time.

    \b
    Examples:
      bus rebuild
      bus rebuild --json | jq .changed
    """
    try:
        run_async(_rebuild, settings, set_aside=set_aside, as_json=as_json)
    except KeyboardInterrupt:
        say("\nInterrupted: the old database is as it was, and the next `bus rebuild` goes on from here.")
        raise


async def caught_up(bus: Bus, settings: Settings, *, set_aside: bool = False) -> Checkpoint:
    """Catch up with the log; with a progress bar on a terminal where there is much to do."""
    from taskbus_projections.database import place
    from taskbus_projections.rebuilding import up_to_date
    from taskbus_projections.registry import installed

    path = place(settings.home, settings.namespace)
    async with _bar(bus, "Folding") as moved:
        return await up_to_date(bus, path, installed(), set_aside=set_aside, on_commit=moved, on_rebuild=_announced)


async def _project(settings: Settings, *, follow: bool, set_aside: bool, as_json: bool) -> None:
    from taskbus.cli.stopping import quiet_stop
    from taskbus.client import Bus  # redis is slow to import
    from taskbus_projections.database import Database, place
    from taskbus_projections.projector import Projector
    from taskbus_projections.registry import installed

    path = place(settings.home, settings.namespace)

    def told(checkpoint: Checkpoint, where: str = "") -> None:
        if as_json:
            print_json({"folded": checkpoint.folded, "position": str(checkpoint.position), "database": str(path)})
        else:
            click.echo(f"{checkpoint.folded:,} envelopes folded{where}, up to {checkpoint.position}.")
        sys.stdout.flush()

    with quiet_stop():
        async with Bus.connect(settings=settings) as bus:
            told(await caught_up(bus, settings, set_aside=set_aside), f" into {path}")
            _tell_set_aside(settings)
            if follow:
                with Database.open(path, settings.namespace, installed()) as database:
                    await Projector(bus, database, set_aside=set_aside).follow(
                        on_commit=lambda progress: told(progress.checkpoint), on_incident=_reported
                    )


async def _part(
    settings: Settings, path: Path, after: Position, until: Position | None, *, set_aside: bool, as_json: bool
) -> None:
    from taskbus.client import Bus  # redis is slow to import
    from taskbus_projections.parts import fold_part
    from taskbus_projections.registry import installed

    async with Bus.connect(settings=settings) as bus, _bar(bus, "Folding") as moved:
        checkpoint, aside = await fold_part(
            bus, path, installed(), after=after, until=until, set_aside=set_aside, on_commit=moved
        )
    if as_json:
        found = {"position": str(checkpoint.position), "n": checkpoint.folded, "set_aside": aside}
        print_json({"database": str(path), **found})
        return
    click.echo(f"Folded into {path}, up to envelope {checkpoint.folded} at {checkpoint.position}.")
    if aside:
        say(f"{aside} could not be folded, such as those of tasks that began earlier: the table set_aside says which.")


async def _rebuild(settings: Settings, *, set_aside: bool, as_json: bool) -> None:
    from taskbus.client import Bus  # redis is slow to import
    from taskbus_projections.database import place
    from taskbus_projections.rebuilding import rebuild
    from taskbus_projections.registry import installed

    path = place(settings.home, settings.namespace)
    started = time.monotonic()
    async with Bus.connect(settings=settings) as bus, _bar(bus, "Rebuilding", least=0) as moved:
        (position, _, folded, _), changed, begun = await rebuild(
            bus, path, installed(), set_aside=set_aside, on_commit=moved
        )
    seconds = time.monotonic() - started
    if as_json:
        found = {
            "folded": folded,
            "position": str(position),
            "database": str(path),
            "resumed": str(begun.position) if begun.folded else None,
            "seconds": round(seconds, 3),
        }
        print_json({**found, "changed": None if changed is None else list(changed)})
        return
    since = f" ({begun.folded:,} of them before it was interrupted)" if begun.folded else ""
    click.echo(f"{folded:,} envelopes folded anew{since} into {path}, up to {position}, in {seconds:.1f} s.")
    if changed:
        say(f"The old rows were not what the log says, in: {', '.join(changed)}.")
    _tell_set_aside(settings)


def _tell_set_aside(settings: Settings) -> None:
    """What could not be folded is never left out in silence."""
    from taskbus_projections.database import Database, place
    from taskbus_projections.registry import installed

    with Database.read(place(settings.home, settings.namespace), settings.namespace, installed()) as database:
        (count,) = database.connection.execute("SELECT count(DISTINCT position) FROM set_aside").fetchone()
    if count:
        say(f"{count:,} set aside: {_LOOK}")


class Bar:
    """A progress bar on stderr with rate and time left, where that is a terminal and there is enough to do.

    It is told how many envelopes are folded, and of how many.
    """

    def __init__(self, label: str, *, least: int = _BAR_FROM) -> None:
        self._label, self._least = label, least
        self._bar: Any = None
        self._began = 0.0
        self._first = self._before = self._total = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Take it away, with what it said."""
        if self._bar is not None:
            self._bar.__exit__(None, None, None)
            self._bar = None

    def moved(self, folded: int, total: int) -> None:
        """Show how far it is."""
        if self._bar is None:
            if not sys.stderr.isatty() or total - folded < self._least:
                return
            # What was folded before it is shown does not count for the rate, nor for the time that is left.
            self._began, self._first, self._total = time.monotonic(), folded if folded < total else 0, total
            self._before = folded
            bar: Any = click.progressbar(
                length=total - self._first, label=self._label, file=sys.stderr, item_show_func=self._said
            )
            self._bar = bar.__enter__()
        self._bar.update(max(0, folded - self._first - self._bar.pos), folded)

    def _said(self, folded: int | None) -> str | None:
        if folded is None:
            return None
        seconds = time.monotonic() - self._began
        rate = f", {(folded - self._before) / seconds:,.0f}/s" if seconds > 0 and folded > self._before else ""
        return f"{folded:,} of {max(folded, self._total):,}{rate}"


@asynccontextmanager
async def _bar(bus: Bus, label: str, *, least: int = _BAR_FROM) -> AsyncGenerator[Callable[[Progress], None]]:
    from taskbus_projections.rebuilding import length

    total = await length(bus)
    with Bar(label, least=least) as bar:
        yield lambda progress: bar.moved(progress.checkpoint.folded, total)


def _announced(why: str) -> None:
    say(f"{why} Folding the log anew.")


def _reported(incident: Incident) -> None:
    say(incident.what)
