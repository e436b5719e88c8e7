"""Choices: the types of options of the queries, and what a shell offers for them.

Tasks and agents are offered from what was folded before: no server is asked for a completion. Called by the commands
of this package.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click
from click.shell_completion import CompletionItem

if TYPE_CHECKING:
    from collections.abc import Callable

    from taskbus_projections.database import Database


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
        return record[0], f"{record[1].rstrip()} {', '.join(self.type.choices)}."


class Folded(click.ParamType[str]):
    """A text for which a shell offers what the read models have; `form` reads it where it has a form."""

    def __init__(self, name: str, table: str, column: str, form: Late | None = None) -> None:
        self.name = name
        self._table, self._column, self._form = table, column, form

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """Read a value."""
        return self._form.convert(value, param, ctx) if self._form else str(value)

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
        """Offer the values that begin so; none where nothing was folded."""
        del param
        from taskbus_projections.queries.names import beginning

        begun = f"@{incomplete.removeprefix('@')}" if self.name == "agent" else incomplete
        found = _answered(ctx, lambda database: beginning(database, self._table, self._column, begun))
        return [CompletionItem(each) for each in found]


def _answered(ctx: click.Context, ask: Callable[[Database], list[str]]) -> list[str]:
    import sqlite3

    from taskbus.errors import TaskbusError
    from taskbus.settings import Settings
    from taskbus_projections.database import Database, place
    from taskbus_projections.registry import installed

    try:
        settings = Settings.load(namespace=ctx.params.get("namespace"), home=ctx.params.get("home"))
        path = place(settings.home, settings.namespace)
        with Database.read(path, settings.namespace, installed()) as database:
            return ask(database)
    except (TaskbusError, sqlite3.Error):
        # A shell that completes shows no errors: then there is nothing to offer.
        return []


def _agent_name() -> click.ParamType[Any]:
    from taskbus.cli.values import AGENT

    return AGENT


def _message_type() -> click.ParamType[Any]:
    from taskbus.envelope import MESSAGE_TYPES

    return click.Choice(MESSAGE_TYPES)


def _state() -> click.ParamType[Any]:
    from typing import get_args

    from taskbus.lifecycle import State

    return click.Choice(get_args(State))


def _month() -> click.ParamType[Any]:
    return _Month()


class _Limit(click.ParamType[int]):
    """A number of lines. Its help does not say how many are too many, as that of `click.IntRange` would."""

    name = "number"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        text = str(value).strip()
        if not (text.isdecimal() and text.isascii() and len(text) < 10):
            self.fail(f"{text!r} is no number from 0 to 999999999.", param, ctx)
        return int(text)


class _Month(click.ParamType[str]):
    name = "month"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> str:
        from taskbus.errors import UsageError
        from taskbus_projections.period import Period

        text = str(value).strip()
        try:
            Period.read(None, None, text)
        except UsageError as error:
            self.fail(f"{error.message} Write it as 2026-11.", param, ctx)
        return text


TASK = Folded("task", "tasks", "id")
AGENT = Folded("agent", "agents", "agent", Late("agent", _agent_name))
TASK_TYPE = Folded("task type", "tasks", "task_type")
MONTH = Late("month", _month)
MESSAGE_TYPE = Late("type", _message_type)
STATE = Late("state", _state)
LIMIT = _Limit()
