"""Words: how single values are written for people, and rows for programs.

Owns the words for money: what is unpriced is always counted beside the sum, and never shown as zero. Called by the
other modules of this package.
"""

from __future__ import annotations

import math
from base64 import b64encode
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from taskbus.cli import rendering
from taskbus_projections import amounts

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from taskbus_projections.queries.answer import Row
    from taskbus_projections.table import Text


def money(row: Row) -> str:
    """What calls cost: the sum of those that have a price, and how many have none."""
    priced, unpriced = row["calls"] - row["unpriced_calls"], row["unpriced_calls"]
    parts = [rendering.dollars(row["cost_microusd"])] if priced else []
    if unpriced:
        parts.append(f"{unpriced:,} unpriced call{'s' if unpriced != 1 else ''}")
    return " + ".join(parts) or "-"


def about(microusd: float) -> str:
    """A sum that was reckoned: to the cent, below one to two digits that say something."""
    found = microusd / 1e6
    if found >= 0.01 or not found:
        return f"${found:,.2f}"
    return f"${found:.{1 - math.floor(math.log10(found))}f}".rstrip("0")


def text(name: str) -> Text:
    """A column as it is; empty where nothing is known."""

    def written(row: Row) -> str:
        return "" if row[name] is None else str(row[name])

    return written


def named(name: str, short: Mapping[str, str]) -> Text:
    """A task, as it is shown."""

    def written(row: Row) -> str:
        value: str | None = row[name]
        return "" if value is None else short.get(value, value)

    return written


def moment(name: str, when: Callable[[str], str]) -> Text:
    """A time."""

    def written(row: Row) -> str:
        return when(row[name]) if row[name] else ""

    return written


def ago(name: str, now: datetime) -> Text:
    """How long ago a time is, or how far ahead."""

    def written(row: Row) -> str:
        if not row[name]:
            return ""
        seconds = since(row[name], now)
        return f"{rendering.age(seconds)} ago" if seconds >= 0 else f"in {rendering.age(-seconds)}"

    return written


def age(name: str, now: datetime) -> Text:
    """How long a time is ago, as a duration."""

    def written(row: Row) -> str:
        return rendering.age(since(row[name], now)) if row[name] else ""

    return written


def dollars(name: str) -> Text:
    """A sum of money; empty where nothing is known."""

    def written(row: Row) -> str:
        return "" if row[name] is None else amounts.dollars(row[name])

    return written


def span(name: str, *, nothing: bool = False) -> Text:
    """A duration that is kept in milliseconds; empty where it is nothing, if that is not to be shown."""

    def written(row: Row) -> str:
        return duration(row[name]) if row[name] or nothing else ""

    return written


def count(name: str) -> Text:
    """A number, in thousands; empty where nobody has counted."""

    def written(row: Row) -> str:
        return "" if row[name] is None else f"{row[name]:,}"

    return written


def some(name: str) -> Text:
    """A number, empty where it is nothing."""

    def written(row: Row) -> str:
        return f"{row[name]:,}" if row[name] else ""

    return written


def share(name: str) -> Text:
    """A share of the whole, in per cent."""

    def written(row: Row) -> str:
        return percent(row[name])

    return written


def percent(value: float | None) -> str:
    """A share of the whole; small ones with a digit after the point."""
    if value is None:
        return ""
    return f"{value:.1%}" if 0 < value < 0.1 or 0.99 < value < 1 else f"{value:.0%}"


def duration(milliseconds: float | None) -> str:
    """A duration in its two largest units; short ones with a digit after the point."""
    if milliseconds is None:
        return ""
    seconds = milliseconds / 1000
    return f"{seconds:.1f}s" if seconds < 10 else rendering.age(seconds)


def since(time: str, now: datetime) -> float:
    """The seconds from a time of the read models to another."""
    return (now - datetime.fromisoformat(time)).total_seconds()


def local(time: str) -> str:
    """A time of the read models as it is here, on a terminal."""
    return rendering.clock(datetime.fromisoformat(time).astimezone(UTC))


def shown_ids(rows: Sequence[Row], *names: str) -> list[str]:
    """The task IDs that stand in some columns of rows, each once."""
    return list(dict.fromkeys(row[name] for row in rows for name in names if row.get(name) is not None))


def readable(row: Row) -> Row:
    """A row whose bytes are text, in base64 where they are no UTF-8."""
    found: Row = {}
    for name, value in row.items():
        if isinstance(value, bytes):
            try:
                found[name] = value.decode()
            except UnicodeDecodeError:
                found[f"{name}_base64"] = b64encode(value).decode()
        else:
            found[name] = value
    return found
