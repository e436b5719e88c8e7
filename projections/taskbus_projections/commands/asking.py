"""Asking: what all queries share, from catching up with the log to the form of the answer."""

from __future__ import annotations

import functools
import sys
import textwrap
from typing import TYPE_CHECKING, Any, TypeVar

import click

from taskbus.cli.options import print_json, run_async, say, settings_options

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from click.shell_completion import CompletionItem

    from taskbus.settings import Settings
    from taskbus_projections.database import Database
    from taskbus_projections.queries import Row
    from taskbus_projections.table import Column

R = TypeVar("R")


class Late(click.ParamType[str]):
    """A type of option that is made when it is needed: the model of the envelopes is slow to import."""

    def __init__(self, name: str, make: Callable[[], click.ParamType[Any]]) -> None:
        self.name = name
        self._make = make

    @property
    def choices(self) -> tuple[str, ...]:
        """The values that it knows; none where it is no choice."""
        made = self._make()
        return tuple(map(str, made.choices)) if isinstance(made, click.Choice) else ()

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """Read a value as the type itself does."""
        converted: str = self._make().convert(value, param, ctx)
        return converted

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
        """Offer what the type itself does."""
        return self._make().shell_complete(ctx, param, incomplete)


class Listing(click.Option):
    """An option whose help ends with the values that its type knows; they are listed when help is asked for."""

    def get_help_record(self, ctx: click.Context) -> tuple[str, str] | None:
        """The option and its help."""
        record = super().get_help_record(ctx)
        if record is None or not isinstance(self.type, Late):
            return record
        return record[0], f"{record[1]} {', '.join(self.type.choices)}."


def agent_type() -> click.ParamType[Any]:
    """An agent's name."""
    from taskbus.cli.values import AGENT

    return AGENT


def message_type() -> click.ParamType[Any]:
    """A type of message."""
    from taskbus.envelope import MESSAGE_TYPES

    return click.Choice(MESSAGE_TYPES)


def state_type() -> click.ParamType[Any]:
    """A state of a task."""
    from typing import get_args

    from taskbus.lifecycle import State

    return click.Choice(get_args(State))


def query_options(command: Callable[..., R]) -> Callable[..., R]:
    """Give a query --no-sync, --csv and the options of all commands; it is called with an `Asked`."""

    @click.option("--no-sync", is_flag=True, help="Answer from what was folded before, without a server.")
    @click.option("--csv", "as_csv", is_flag=True, help="Print CSV on stdout.")
    @settings_options
    @functools.wraps(command)
    def wrapped(*, settings: Settings, as_json: bool, as_csv: bool, no_sync: bool, **kwargs: Any) -> R:
        from taskbus.errors import UsageError

        if as_json and as_csv:
            raise UsageError("--json and --csv exclude each other.", advice="Leave one of them out.")
        return command(asked=Asked(settings, as_json=as_json, as_csv=as_csv, no_sync=no_sync), **kwargs)

    return wrapped


class Asked:
    """How a query was asked: of which bus, and in which form it is to be answered."""

    def __init__(self, settings: Settings, *, as_json: bool, as_csv: bool, no_sync: bool) -> None:
        self.settings = settings
        self.as_json = as_json
        self.as_csv = as_csv
        self.no_sync = no_sync
        self.terminal = sys.stdout.isatty()

    def answered(self, ask: Callable[[Database], R]) -> R:
        """Catch up with the log, unless that is not wanted, then ask within one snapshot."""
        from taskbus_projections.database import Database, place
        from taskbus_projections.registry import installed

        path, models = place(self.settings.home, self.settings.namespace), installed()
        if not self.no_sync:
            run_async(_catch_up, self.settings)
        with Database.read(path, self.settings.namespace, models) as database, database.snapshot():
            return ask(database)

    def show(self, database: Database, name: str, rows: Sequence[Row], fields: Sequence[str], **more: object) -> bool:
        """Print rows as JSON or CSV where that was asked for; False where people are to read them."""
        from taskbus_projections.table import as_csv

        if self.as_json:
            print_json({**self.head(database), **more, name: rows})
        elif self.as_csv:
            click.echo(as_csv(fields, rows), nl=False)
        return self.as_json or self.as_csv

    def head(self, database: Database) -> dict[str, object]:
        """What each JSON answer begins with: of which bus, and as of which position."""
        return {"namespace": database.namespace, "position": str(database.checkpoint().position)}

    def table(self, columns: Sequence[Column], rows: Sequence[Row]) -> None:
        """Print a table, fitted to the terminal."""
        from taskbus.cli.rendering import columns as width
        from taskbus_projections.table import table

        click.echo(table(columns, rows, width=width() if self.terminal else None))

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
        else:
            say(
                f'The log of {database.namespace} is empty. Begin with `bus delegate @agent "goal"`, or see `bus demo`.'
            )


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
