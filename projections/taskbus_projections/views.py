"""Views: which columns an answer has, and how each value is written for people.

Owns the words for money: what is unpriced is always counted beside the sum, and never shown as zero. Called
by the commands, which know about terminals; everything here is plain text.
"""

from __future__ import annotations

from base64 import b64encode
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final

from taskbus.cli import rendering
from taskbus.lifecycle import OPEN
from taskbus_projections.queries import GROUPINGS, TOKENS
from taskbus_projections.table import Column, Text

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from taskbus_projections.queries import Grouping, Row

STATE_COLOURS: Final = {
    "submitted": "bright_blue",
    "working": "cyan",
    "input-required": "bright_yellow",
    "completed": "bright_green",
    "accepted": "green",
    "failed": "red",
    "rejected": "red",
    "escalated": "bright_red",
    "canceled": "magenta",
}
TASK_FIELDS: Final = (
    *(
        "id",
        "state",
        "assignee",
        "delegator",
        "coordinator",
        "goal",
        "task_type",
        "priority",
        "attempt",
        "review",
    ),
    *("deadline", "progress", "fraction", "created", "updated", "finished", "root", "parent"),
    *("envelopes", "questions", "escalations", "position", "n"),
)
"""The columns of a task in CSV."""
EVENT_FIELDS: Final = (
    *("n", "position", "time", "sender", "recipient", "type", "task", "root", "summary", "causation"),
    *("cause_n", "cause_type", "by_hand", "priority", "correlation", "sent", "id"),
)
COST_FIELDS: Final = ("calls", "unpriced_calls", "cost_microusd", *TOKENS)


def group_fields(by: Grouping) -> tuple[str, ...]:
    """The names of the columns by which a grouping adds up."""
    return tuple(column.rpartition(" ")[2] for column in GROUPINGS[by])


def money(row: Row) -> str:
    """What calls cost: the sum of those that have a price, and how many have none."""
    priced, unpriced = row["calls"] - row["unpriced_calls"], row["unpriced_calls"]
    parts = [rendering.dollars(row["cost_microusd"])] if priced else []
    if unpriced:
        parts.append(f"{unpriced} unpriced call{'s' if unpriced != 1 else ''}")
    return " + ".join(parts) or "-"


def board_columns(
    rows: Sequence[Row], short: Mapping[str, str], now: datetime, paint: Callable[[str], str]
) -> list[Column]:
    """The board: each task in a line; `short` are the IDs as they are shown."""
    ranked = any(row["priority"] != "normal" for row in rows)
    return [
        Column("task", _named("id", short)),
        Column("state", _text("state"), paint=paint),
        Column("assignee", _text("assignee")),
        Column("attempt", _text("attempt"), number=True, spare=3),
        *([Column("priority", _text("priority"), spare=1)] if ranked else []),
        Column("changed", _age("updated", now), spare=2),
        Column("progress", _progress, flexible=True, spare=4),
        Column("goal", _text("goal"), flexible=True),
    ]


def tree_columns(short: Mapping[str, str], this: str, paint: Callable[[str], str]) -> list[Column]:
    """A tree: each task below what it is a part of; `this` is the one that was asked for."""
    return [
        Column("", _marked(this)),
        Column("task", _branch(short)),
        Column("state", _text("state"), paint=paint),
        Column("assignee", _text("assignee"), spare=2),
        Column("cost", money, number=True, spare=1),
        Column("goal", _text("goal"), flexible=True),
    ]


def event_columns(short: Mapping[str, str] | None, when: Callable[[str], str]) -> list[Column]:
    """The audit trail: who said what to whom, when and why; without `short` it is about one task."""
    task = [Column("task", _named("task", short), spare=1)] if short is not None else []
    return [
        Column("#", _text("n"), number=True, spare=3),
        Column("when", _shown("time", when)),
        Column("from", _text("sender")),
        Column("to", _text("recipient"), spare=2),
        *task,
        Column("type", _text("type")),
        Column("what", _text("summary"), flexible=True),
        Column("why", _why, flexible=True, spare=4),
    ]


def cost_columns(by: Grouping, rows: Sequence[Row], short: Mapping[str, str]) -> list[Column]:
    """Costs by a grouping. Numbers of tokens that nobody reported stay empty, or are left out."""
    reported = [name for name in TOKENS if any(row[name] is not None for row in rows)]
    return [
        *(Column(_title(name), _named(name, short)) for name in group_fields(by)),
        Column("calls", _text("calls"), number=True),
        *(
            Column(name.removesuffix("_tokens").replace("_", " "), _count(name), number=True, spare=1)
            for name in reported
        ),
        Column("cost", money, number=True),
    ]


def _progress(row: Row) -> str:
    if row["state"] not in OPEN:
        return ""
    share = f"{row['fraction']:.0%}" if row["fraction"] is not None else ""
    return f"{share} {row['progress'] or ''}".strip()


def _why(row: Row) -> str:
    found = [f"{row['cause_type']} #{row['cause_n']}"] if row["cause_n"] else []
    if row["causation"] and not found:
        found.append(f"{row['causation'][:13]}…, not in this log")
    if row["by_hand"]:
        found.append("by hand")
    return ", ".join(found)


def _title(name: str) -> str:
    return {"root": "tree"}.get(name, name)


def _text(name: str) -> Text:
    def text(row: Row) -> str:
        return str(row[name])

    return text


def _named(name: str, short: Mapping[str, str]) -> Text:
    def text(row: Row) -> str:
        value: str = row[name]
        return short.get(value, value)

    return text


def _branch(short: Mapping[str, str]) -> Text:
    def text(row: Row) -> str:
        depth: int = row["depth"]
        return (f"└{'──' * depth} " if depth else "") + short[row["id"]]

    return text


def _marked(this: str) -> Text:
    def text(row: Row) -> str:
        return "→" if row["id"] == this else ""

    return text


def _shown(name: str, when: Callable[[str], str]) -> Text:
    def text(row: Row) -> str:
        return when(row[name])

    return text


def _age(name: str, now: datetime) -> Text:
    def text(row: Row) -> str:
        return f"{rendering.age((now - datetime.fromisoformat(row[name])).total_seconds())} ago"

    return text


def _count(name: str) -> Text:
    def text(row: Row) -> str:
        return "" if row[name] is None else f"{row[name]:,}"

    return text


def shown_ids(rows: Sequence[Row], *names: str) -> list[str]:
    """The task IDs that stand in some columns of rows, each once."""
    return list(dict.fromkeys(row[name] for row in rows for name in names if name in row))


def local(time: str) -> str:
    """A time of the read models as it is here, on a terminal."""
    return rendering.clock(datetime.fromisoformat(time).astimezone(UTC))


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
