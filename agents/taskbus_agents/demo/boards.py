"""The boards at the end of the demo: what the read models answered, in as few columns as a narrow terminal has.

The rows are those of `bus tasks`, `bus audit` and `bus costs`; the tables are theirs, too.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from taskbus.cli.rendering import clock
from taskbus.position import Position
from taskbus_projections.table import Column, table
from taskbus_projections.views import STATE_COLOURS, money

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

__all__ = ["costs", "money", "tasks", "trail"]

Row = dict[str, Any]


def tasks(rows: Sequence[Row], width: int) -> str:
    """Each task: its state, who did it at last, after how many attempts."""
    columns = [
        Column("task", _of("id")),
        Column("state", _of("state"), paint=_painted),
        Column("attempts", _of("attempt"), number=True),
        Column("assignee", _of("assignee")),
        Column("goal", _of("goal"), flexible=True),
    ]
    return table(columns, rows, width=width)


def trail(rows: Sequence[Row], width: int) -> str:
    """Each envelope about a task: when, who, what, and to whom it was delegated."""
    columns = [
        Column("when", _when),
        Column("from", _of("sender")),
        Column("type", _of("type")),
        Column("what", _what, flexible=True),
    ]
    return table(columns, rows, width=width)


def costs(rows: Sequence[Row], width: int) -> str:
    """Each model: its calls and tokens, and what they cost."""
    columns = [
        Column("model", _of("model"), flexible=True),
        Column("calls", _of("calls"), number=True),
        Column("input", _of("input_tokens"), number=True),
        Column("output", _of("output_tokens"), number=True),
        Column("cost", money, number=True),
    ]
    return table(columns, rows, width=width)


def _of(name: str) -> Callable[[Row], str]:
    def text(row: Row) -> str:
        value = row[name]
        return f"{value:,}" if isinstance(value, int) else str(value)

    return text


def _painted(state: str) -> str:
    return click.style(state, fg=STATE_COLOURS.get(state))


def _when(row: Row) -> str:
    return clock(Position.parse(row["position"]).time)


def _what(row: Row) -> str:
    return f"to {row['recipient']}: {row['summary']}" if row["type"] == "delegation" else row["summary"]
