"""What a query of one's own gave, as people see it."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from taskbus_projections.table import Column
from taskbus_projections.views import words

if TYPE_CHECKING:
    from taskbus_projections.queries.answer import Row
    from taskbus_projections.queries.statement import Table, Value


def sql_columns(found: Table) -> list[Column]:
    """A column for each of the query's, numbers on the right; texts give way where a line is too long."""
    numbers = [
        any(isinstance(row[at], (int, float)) for row in found.rows)
        and not any(isinstance(row[at], (str, bytes)) for row in found.rows)
        for at in range(len(found.columns))
    ]
    return [
        Column(name, words.text(name), flexible=not number, number=number, kept=True)
        for name, number in zip(found.columns, numbers, strict=True)
    ]


def plain_rows(found: Table) -> list[Row]:
    """The rows with bytes as text, in hexadecimal digits where they are no UTF-8."""
    return [{name: _plain(value) for name, value in row.items()} for row in found.named()]


def json_rows(found: Table) -> list[Row]:
    """The rows as JSON can have them: bytes as text or in base64, and no number that JSON has no sign for."""
    return [
        words.readable(
            {
                name: str(value) if isinstance(value, float) and not math.isfinite(value) else value
                for name, value in row.items()
            }
        )
        for row in found.named()
    ]


def _plain(value: Value) -> str | int | float | None:
    if isinstance(value, bytes):
        try:
            return value.decode()
        except UnicodeDecodeError:
            return f"x'{value.hex()}'"
    return value
