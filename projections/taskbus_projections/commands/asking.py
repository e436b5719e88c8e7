"""Asking: what all queries share, from catching up with the log to the form of the answer."""

from __future__ import annotations

import functools
import re
import sys
import textwrap
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypeVar

import click

from taskbus.cli.options import print_json, run_async, say, settings_options

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Mapping, Sequence
    from datetime import datetime

    from taskbus.position import Position
    from taskbus.settings import Settings
    from taskbus_projections.database import Database
    from taskbus_projections.queries import Row
    from taskbus_projections.table import Column

R = TypeVar("R")

_NUMBER = re.compile(r"\s*#\d{1,18}\s*", re.ASCII)
_AHEAD = 60.0
"""Seconds by which a server's clock may be ahead."""


def query_options(command: Callable[..., R]) -> Callable[..., R]:
    """Give a query --at, --no-sync, --csv and the options of all commands; it is called with an `Asked`."""

    @click.option("--at", metavar="MOMENT", help="As of then: a time, 2h (ago), a position, or '#42' [default: now]")
    @click.option("--no-sync", is_flag=True, help="Answer from what was folded before, without a server.")
    @click.option("--csv", "as_csv", is_flag=True, help="Print CSV on stdout.")
    @settings_options
    @functools.wraps(command)
    def wrapped(*, settings: Settings, as_json: bool, as_csv: bool, no_sync: bool, at: str | None, **kwargs: Any) -> R:
        from taskbus.errors import UsageError

        if as_json and as_csv:
            raise UsageError("--json and --csv exclude each other.", advice="Leave one of them out.")
        asked = Asked(settings, as_json=as_json, as_csv=as_csv, no_sync=no_sync, at=at)
        return command(asked=asked, **kwargs)

    return wrapped


class Moment:
    """A moment of the past, as of which a query is to be answered. Raises UsageError for one that is to come."""

    def __init__(self, text: str, position: Position, time: datetime) -> None:
        self.text = text
        self.position = position
        self.time = time

    @classmethod
    def of(cls, text: str) -> Moment:
        """Read it: a time, so long ago, or a position."""
        from taskbus import moment
        from taskbus.envelope import now
        from taskbus.errors import UsageError

        # A server's clock may be a little ahead of this one's, and what it has just appended is not to come.
        position, present = moment.until(text), now()
        if (position.time - present).total_seconds() > _AHEAD:
            raise UsageError(f"{text} is still to come.", advice="Name a time that is over, or leave it out for now.")
        return cls(text, position, min(position.time, present))

    @contextmanager
    def seen(self, database: Database) -> Generator[Database]:
        """The database as it was then; with a progress bar where folding it takes long."""
        from taskbus_projections.commands.folding import Bar
        from taskbus_projections.past import as_of

        with Bar("Folding the past") as bar, as_of(database, self.position, on_commit=bar.moved) as past:
            bar.close()  # before the answer is printed
            yield past


class Asked:
    """How a query was asked: of which bus, and in which form it is to be answered."""

    def __init__(
        self, settings: Settings, *, as_json: bool, as_csv: bool, no_sync: bool, at: str | None = None
    ) -> None:
        self.settings = settings
        self.as_json = as_json
        self.as_csv = as_csv
        self.no_sync = no_sync
        self.moment: Moment | None = None
        self.terminal = sys.stdout.isatty()
        if at is not None:
            self.moment = Moment.of(self.placed(at))

    def placed(self, text: str) -> str:
        """A moment as it stands, but the number of an envelope, such as #42, as its position. Raises NotFound."""
        if not _NUMBER.fullmatch(text):
            return text
        from taskbus_projections.queries import place_of

        with self.opened() as database:
            return str(place_of(database, text))

    def answered(self, ask: Callable[[Database], R]) -> R:
        """Catch up with the log, unless that is not wanted, then ask within one snapshot, as of the moment."""
        with self.opened() as database:
            if self.moment is None:
                return ask(database)
            with self.moment.seen(database) as past:
                return ask(past)

    @contextmanager
    def opened(self) -> Generator[Database]:
        """The database as it is now, in one snapshot; up to date, unless that is not wanted."""
        from taskbus_projections.database import Database, place
        from taskbus_projections.registry import installed

        path, models = place(self.settings.home, self.settings.namespace), installed()
        if not self.no_sync:
            run_async(_catch_up, self.settings)
        with Database.read(path, self.settings.namespace, models) as database, database.snapshot():
            yield database

    def show(self, database: Database, name: str, rows: Sequence[Row], fields: Sequence[str], **more: object) -> bool:
        """Print rows as JSON or CSV where that was asked for; False where people are to read them."""
        if self.as_json:
            print_json({**self.head(database), **more, name: rows})
        elif self.as_csv:
            self.csv(fields, rows)
        return self.as_json or self.as_csv

    def csv(self, fields: Sequence[str], rows: Sequence[Row]) -> None:
        """Print rows as CSV, below a line of names."""
        from taskbus_projections.table import as_csv

        click.echo(as_csv(fields, rows), nl=False)

    def now(self, database: Database) -> datetime:
        """The moment as of which is asked: what is reckoned from now on is reckoned from there."""
        del database
        from taskbus.envelope import now

        return self.moment.time if self.moment else now()

    def head(self, database: Database) -> dict[str, object]:
        """What each JSON answer begins with: of which bus, and as of which position."""
        at = {"at": self.moment.time.isoformat().replace("+00:00", "Z")} if self.moment else {}
        return {"namespace": database.namespace, "position": str(database.checkpoint().position), **at}

    def table(self, columns: Sequence[Column], rows: Sequence[Row]) -> None:
        """Print a table, fitted to the terminal."""
        from taskbus.cli.rendering import columns as width
        from taskbus_projections.table import table

        click.echo(table(columns, rows, width=width() if self.terminal else None))

    def table_or_records(self, columns: Sequence[Column], rows: Sequence[Row]) -> None:
        """The same; on a terminal that is too narrow for so many columns, line by line, column by column."""
        from taskbus.cli.rendering import columns as width
        from taskbus_projections.table import fits

        if not self.terminal or fits(columns, rows, width()):
            self.table(columns, rows)
            return
        for at, row in enumerate(rows):
            if at:
                click.echo()
            self.fields([(column.heading, column.text(row)) for column in columns], {})

    def fields(self, lines: Sequence[tuple[str, str]], paint: Mapping[str, Callable[[str], str]]) -> None:
        """Print names and texts, the texts in full: on a terminal wrapped between words, beside their names."""
        from taskbus.cli.rendering import columns, visible

        indent = max(len(name) for name, _ in lines) + 2
        room = max(20, columns() - indent) if self.terminal else None
        for name, value in lines:
            texts = visible(value, lines=True).expandtabs(4).splitlines() or [""]
            shown = [part for text in texts for part in _wrapped(text, room)]
            painted = paint.get(name, str)
            click.echo(f"{name:<{indent}}{painted(shown[0])}")
            for text in shown[1:]:
                click.echo(f"{'':{indent}}{text}".rstrip())

    def short(self, database: Database, ids: Sequence[str]) -> dict[str, str]:
        """Task IDs as they are shown: on a terminal no longer than is needed to tell them apart."""
        from taskbus_projections.queries import short_ids

        return short_ids(database, ids) if self.terminal else {id: id for id in ids}

    def when(self, time: str) -> str:
        """A time as it is shown: on a terminal as it is here, else in UTC."""
        from taskbus_projections.views import local

        return local(time) if self.terminal else time

    def none(self, database: Database, what: str) -> None:
        """Say that nothing was found, and what to do."""
        if database.checkpoint().folded:
            say(what)
        elif self.moment:
            say(f"Nothing stood in the log of {database.namespace} at {self.moment.text}.")
        else:
            say(
                f'The log of {database.namespace} is empty. Begin with `bus delegate @agent "goal"`, or see `bus demo`.'
            )


def painted(state: str) -> str:
    """A state of a task in its colour."""
    from taskbus_projections.views import STATE_COLOURS

    return click.style(state, fg=STATE_COLOURS.get(state))


def heading(text: str) -> None:
    """Print a heading, below an empty line."""
    click.echo(f"\n{click.style(text, bold=True)}")


def prose(text: str) -> None:
    """Print a sentence or two, below an empty line; on a terminal wrapped between words."""
    click.echo()
    item(text)


def item(text: str) -> None:
    """Print a text as `prose` does, without the empty line."""
    from taskbus.cli.rendering import columns, visible

    room = columns() if sys.stdout.isatty() else None
    click.echo("\n".join(_wrapped(visible(text), room)))


def _wrapped(text: str, room: int | None) -> list[str]:
    """The lines of a text, each as far indented as the text of its item."""
    if room is None:
        return [text]
    body = text.lstrip(" ")
    indent = " " * (len(text) - len(body))
    if body[:2] in ("- ", "✓ ", "✗ ", "· "):
        indent += "  "
    return textwrap.wrap(text, room, subsequent_indent=indent, break_on_hyphens=False) or [""]


async def _catch_up(settings: Settings) -> None:
    from taskbus.client import Bus  # redis is slow to import
    from taskbus_projections.commands.folding import caught_up

    async with Bus.connect(settings=settings) as bus:
        await caught_up(bus, settings)
