"""`bus sql`: a query of one's own on the read models, which reads and never writes."""

from __future__ import annotations

import os
import sys
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import click

from taskbus.cli.options import errors_shown, print_json, say, unreadable
from taskbus_projections.commands.asking import query_options
from taskbus_projections.commands.choices import LIMIT

if TYPE_CHECKING:
    from collections.abc import Generator

    from taskbus_projections.commands.asking import Asked
    from taskbus_projections.database import Database
    from taskbus_projections.queries.statement import Value

_LONGEST = 1 << 20
_GRACE = 2.0
"""For so many seconds SQLite may take no notice of the end of a query's time."""


@click.command()
@click.argument("query", required=False)
@click.option("--file", metavar="FILE", help="Read the query from a file; - is stdin.")
@click.option("-p", "--param", "given", metavar="NAME=VALUE", multiple=True, help="The value of :NAME in the query.")
@click.option("--timeout", metavar="DURATION", default="10s", help="End it after so long, 0 for never [default: 10s]")
@click.option("-n", "--limit", type=LIMIT, default=1000, help="At most so many rows, 0 for all [default: 1000]")
@query_options
def sql(*, query: str | None, file: str | None, given: tuple[str, ...], timeout: str, limit: int, asked: Asked) -> None:
    r"""Ask the read models in SQL.

    Everything can be read, nothing can be changed. `bus schema` lists tables, views and columns with what they mean;
    money is in microdollars. QUERY - is read from stdin.

    \b
    Examples:
      bus sql "SELECT state, count(*) AS tasks FROM tasks GROUP BY state"
      bus sql "SELECT id, goal FROM tasks WHERE assignee = :who" -p who=@kilo --csv
      bus sql - < report.sql
      bus sql --json "SELECT max(n) AS n FROM events" | jq '.rows[0].n'
    """
    from taskbus.cli.values import SECONDS

    text = _text(query, file)
    parameters = dict(map(_parameter, given))
    seconds = None if timeout.strip() == "0" else SECONDS.convert(timeout, None, None)

    def ask(database: Database) -> None:
        from taskbus_projections import views
        from taskbus_projections.queries import statement

        with _ended(seconds, as_json=asked.as_json):
            found = statement.ask(database, text, parameters, limit=limit or None, seconds=seconds)
        if asked.as_json:
            rows = views.json_rows(found)
            print_json({**asked.head(database), "columns": found.columns, "rows": rows, "more": found.more})
        elif asked.as_csv:
            asked.csv(found.columns, views.plain_rows(found))
        else:
            rows = views.plain_rows(found)
            asked.table_or_records(views.sql_columns(found), rows)
            if not rows:
                say("The query found nothing.")
        if found.more:
            say(f"The first {len(found.rows):,} rows; `--limit 0` shows all.")

    asked.answered(ask)


@contextmanager
def _ended(seconds: float | None, *, as_json: bool) -> Generator[None]:
    """End the whole command where a query does not end in time.

    A single function can go on for hours (`instr` of two long texts), and SQLite hears of nothing until it is done:
    not of the time, nor of Ctrl-C.
    """
    from threading import Timer

    if seconds is None:
        yield
        return
    timer = Timer(seconds + _GRACE, _end, (seconds, as_json))
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def _end(seconds: float, as_json: bool) -> None:
    from taskbus.errors import TimedOut

    try:
        with errors_shown(as_json=as_json):
            advice = "One of its functions works on too much: ask for less of it."
            raise TimedOut(f"The query took longer than {seconds:g} s.", advice=advice)
    except click.exceptions.Exit as done:
        sys.stdout.flush()
        os._exit(done.exit_code)


def _text(query: str | None, file: str | None) -> str:
    from taskbus.errors import NotFound, UsageError

    if (query is None) == (file is None):
        problem = "There is no query." if query is None else "A query and --file exclude each other."
        raise UsageError(problem, advice='Write it as the argument, in quotes: bus sql "SELECT count(*) FROM tasks".')
    if query is not None and query != "-":
        return query
    name = file or "-"
    if name == "-" and sys.stdin.isatty():
        say("Reading the query from the terminal; end with Ctrl-D.")
    try:
        data = sys.stdin.buffer.read(_LONGEST + 1) if name == "-" else Path(name).read_bytes()
        text = data.decode()
    except UnicodeDecodeError as error:
        raise UsageError(f"The query in {name!r} is no UTF-8: {error}.", advice="Give it as plain text.") from error
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise NotFound(f"{name!r} cannot be read: {reason}.", advice=unreadable(error)) from error
    if len(data) > _LONGEST:
        raise UsageError("The query is longer than a megabyte.", advice="Ask for less of it.")
    return text.removeprefix("\ufeff")


def _parameter(text: str) -> tuple[str, Value]:
    from taskbus.errors import UsageError

    name, equals, value = text.partition("=")
    if not equals or not name.lstrip(":").isidentifier():
        raise UsageError(f"{text!r} gives no parameter a value.", advice="Write it as --param who=@kilo.")
    return name.lstrip(":"), _value(value)


def _value(text: str) -> Value:
    """A number where the text is exactly what that number is written like, else the text: IDs stay what they are."""
    for kind in (int, float):
        try:
            number = kind(text)
        except (ValueError, OverflowError):
            continue
        if str(number) == text and abs(number) < 2**63:
            return number
    return text
