"""`bus schema`: the tables and views of the read models, and what each of their columns means."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

import click

from taskbus.cli.options import errors_shown, print_json, say

if TYPE_CHECKING:
    from taskbus_projections.schema import Table
    from taskbus_projections.table import Text


@click.command()
@click.argument("names", metavar="[TABLE]...", nargs=-1)
@click.option("--json", "as_json", is_flag=True, help="Print JSON: all of it, with the columns.")
def schema(*, names: tuple[str, ...], as_json: bool) -> None:
    """Show the tables and views of `bus sql`, and what they mean.

    With the name of a TABLE, of a view or of a read model: its columns. The database itself says the same, in the
    statements of its tables.

    \b
    Examples:
      bus schema
      bus schema tasks open_work
      bus schema --json | jq -r '.tables[] | .name + ": " + .meaning'
    """
    with errors_shown(as_json=as_json):
        from taskbus_projections.registry import installed
        from taskbus_projections.schema import tables

        found = tables(installed())
        chosen = _chosen(found, names)
        if as_json:
            print_json({"tables": [_plain(table) for table in chosen]})
        elif names:
            click.echo("\n\n".join(_in_full(table) for table in chosen))
        else:
            click.echo(_overview(found))
            say("\n`bus schema TABLE` shows the columns of one.")


def _chosen(found: list[Table], names: tuple[str, ...]) -> list[Table]:
    from taskbus.errors import NotFound

    chosen: list[Table] = []
    for name in names:
        these = [table for table in found if table.name == name] or [table for table in found if table.model == name]
        if not these:
            raise NotFound(f"There is no table {name}.", advice="`bus schema` lists tables and views.")
        chosen += these
    return chosen or found


def _plain(table: Table) -> dict[str, Any]:
    return table._asdict() | {"columns": [column._asdict() for column in table.columns]}


def _overview(found: list[Table]) -> str:
    rows = [{"name": table.name, "kind": table.kind, "meaning": table.meaning} for table in found]
    return _lines(rows, ("name", "kind", "meaning"))


def _in_full(table: Table) -> str:
    rows = [
        {
            "column": column.name,
            "type": f"{column.type}{' key' if column.key else ''}",
            "refers to": column.refers or "",
            "meaning": column.meaning,
        }
        for column in table.columns
    ]
    said = f": {table.meaning}" if table.meaning else ""
    head = f"{click.style(table.name, bold=True)} ({table.kind}){said}"
    return f"{head}\n{_lines(rows, ('column', 'type', 'refers to', 'meaning'))}"


def _lines(rows: list[dict[str, Any]], names: tuple[str, ...]) -> str:
    from taskbus.cli.rendering import columns as width
    from taskbus_projections.table import Column, table

    def text(name: str) -> Text:
        def written(row: dict[str, Any]) -> str:
            return str(row[name])

        return written

    shown = [Column(name, text(name), flexible=name == names[-1]) for name in names]
    return table(shown, rows, width=width() if sys.stdout.isatty() else None)
