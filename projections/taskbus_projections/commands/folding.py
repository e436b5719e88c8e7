"""Folding: the commands that bring the read models up to date, and make them anew."""

from __future__ import annotations

import sys
import time
from typing import TYPE_CHECKING, Any

import click

from taskbus.cli.options import print_json, run_async, say, settings_options

if TYPE_CHECKING:
    from collections.abc import Callable

    from taskbus.client import Bus
    from taskbus.log import Incident
    from taskbus.settings import Settings
    from taskbus_projections.database import Checkpoint
    from taskbus_projections.projector import Progress

_BAR_FROM = 5000
"""From so many envelopes on, folding takes long enough for a progress bar."""


@click.command()
@click.option("-f", "--follow", is_flag=True, help="Go on with each new envelope, until Ctrl-C.")
@settings_options
def project(*, follow: bool, settings: Settings, as_json: bool) -> None:
    r"""Fold the log into the read models.

    Queries do so by themselves; with --follow the database is always up to date, for whoever reads it with
    other programs. Prints the file of the database.

    \b
    Examples:
      bus project
      bus project --follow --json
      datasette "$(bus project --json | jq -r .database)"
    """
    run_async(_project, settings, follow=follow, as_json=as_json)


@click.command()
@settings_options
def rebuild(*, settings: Settings, as_json: bool) -> None:
    r"""Fold the whole log anew, and swap the result in.

    Readers go on meanwhile, and see the old rows until all of the new ones are there. Says which tables
    differed from what the log says. Needed where the database is broken, or the log is not the one that was
    folded.

    \b
    Examples:
      bus rebuild
      bus rebuild --json | jq .changed
    """
    run_async(_rebuild, settings, as_json=as_json)


async def caught_up(bus: Bus, settings: Settings) -> Checkpoint:
    """Catch up with the log; with a progress bar on a terminal where there is much to do."""
    from taskbus_projections.database import place
    from taskbus_projections.rebuilding import up_to_date
    from taskbus_projections.registry import installed

    path = place(settings.home, settings.namespace)
    with await _bar(bus, "Folding") as moved:
        return await up_to_date(bus, path, installed(), on_commit=moved, on_rebuild=_announced)


async def _project(settings: Settings, *, follow: bool, as_json: bool) -> None:
    from taskbus.cli.stopping import quiet_stop
    from taskbus.client import Bus  # redis is slow to import
    from taskbus_projections.database import Database, place
    from taskbus_projections.projector import Projector
    from taskbus_projections.registry import installed

    path = place(settings.home, settings.namespace)

    def told(checkpoint: Checkpoint) -> None:
        if as_json:
            print_json({"folded": checkpoint.folded, "position": str(checkpoint.position), "database": str(path)})
        else:
            click.echo(f"{checkpoint.folded} envelopes folded into {path}, up to {checkpoint.position}.")
        sys.stdout.flush()

    with quiet_stop():
        async with Bus.connect(settings=settings) as bus:
            told(await caught_up(bus, settings))
            if follow:
                with Database.open(path, settings.namespace, installed()) as database:
                    await Projector(bus, database).follow(
                        on_commit=lambda progress: told(progress.checkpoint), on_incident=_reported
                    )


async def _rebuild(settings: Settings, *, as_json: bool) -> None:
    from taskbus.client import Bus  # redis is slow to import
    from taskbus_projections.database import place
    from taskbus_projections.rebuilding import rebuild
    from taskbus_projections.registry import installed

    path = place(settings.home, settings.namespace)
    started = time.monotonic()
    async with Bus.connect(settings=settings) as bus:
        with await _bar(bus, "Rebuilding", least=0) as moved:
            (position, _, folded), changed = await rebuild(bus, path, installed(), on_commit=moved)
    seconds = time.monotonic() - started
    if as_json:
        found = {
            "folded": folded,
            "position": str(position),
            "database": str(path),
            "seconds": round(seconds, 3),
        }
        print_json({**found, "changed": None if changed is None else list(changed)})
        return
    click.echo(f"{folded} envelopes folded anew into {path}, up to {position}, in {seconds:.1f} s.")
    if changed:
        say(f"The old rows were not what the log says, in: {', '.join(changed)}.")


class _Bar:
    """A progress bar on stderr, where that is a terminal and there is enough to do."""

    def __init__(self, label: str, total: int, least: int) -> None:
        self._label, self._total, self._least = label, total, least
        self._bar: Any = None

    def __enter__(self) -> Callable[[Progress], None]:
        return self._moved

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.__exit__(None, None, None)

    def _moved(self, progress: Progress) -> None:
        folded = progress.checkpoint.folded
        if self._bar is None:
            if not sys.stderr.isatty() or self._total - folded < self._least:
                return
            bar: Any = click.progressbar(length=self._total, label=self._label, file=sys.stderr, show_pos=True)
            self._bar = bar.__enter__()
        self._bar.update(folded - self._bar.pos)


async def _bar(bus: Bus, label: str, *, least: int = _BAR_FROM) -> _Bar:
    total = await bus.connection.execute("XLEN", bus.keys.log)
    return _Bar(label, total if isinstance(total, int) else 0, least)


def _announced(why: str) -> None:
    say(f"{why} Folding the log anew.")


def _reported(incident: Incident) -> None:
    say(incident.what)
