"""Envelopes as people see them: the audit trail, and the chain of causation."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from taskbus_projections.drawing import branches
from taskbus_projections.table import Column
from taskbus_projections.views import words

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from taskbus_projections.queries.answer import Row

EVENT_FIELDS: Final = (
    *("n", "position", "time", "sender", "recipient", "type", "task", "root", "summary", "causation"),
    *("cause_n", "cause_type", "by_hand", "priority", "correlation", "sent", "id"),
)
CAUSE_FIELDS: Final = ("relation", "depth", *EVENT_FIELDS)
_DEEPEST: Final = 12
"""From so many steps on, a chain is drawn no further to the right."""


def event_columns(short: Mapping[str, str] | None, when: Callable[[str], str]) -> list[Column]:
    """The audit trail: who said what to whom, when and why; without `short` it is about one task."""
    task = [Column("task", words.named("task", short), spare=1)] if short is not None else []
    return [
        Column("#", words.text("n"), number=True, spare=2),
        Column("when", words.moment("time", when)),
        Column("from", words.text("sender")),
        Column("to", words.text("recipient"), spare=3),
        *task,
        Column("type", words.text("type")),
        Column("what", words.text("summary"), flexible=True),
        Column("why", _why, flexible=True, spare=4),
    ]


def cause_columns(rows: Sequence[Row], short: Mapping[str, str], when: Callable[[str], str]) -> list[Column]:
    """A chain of causation: each envelope below the one that caused it, the one that was asked for marked."""
    drawn = dict(
        zip((row["n"] for row in rows), branches([row["depth"] for row in rows], deepest=_DEEPEST), strict=True)
    )

    def branch(row: Row) -> str:
        return drawn[row["n"]] + row["type"]

    def marked(row: Row) -> str:
        return "→" if row["relation"] == "self" else ""

    def route(row: Row) -> str:
        return f"{row['sender']} → {row['recipient']}"

    return [
        Column("", marked),
        Column("#", words.text("n"), number=True),
        Column("caused", branch),
        Column("when", words.moment("time", when), spare=2),
        Column("who", route, spare=1),
        Column("task", words.named("task", short), spare=3),
        Column("what", words.text("summary"), flexible=True),
    ]


def _why(row: Row) -> str:
    found = [f"{row['cause_type']} #{row['cause_n']}"] if row["cause_n"] else []
    if row["causation"] and not found:
        found.append(f"{row['causation'][:13]}…, not in this log")
    if row["by_hand"]:
        found.append("by hand")
    return ", ".join(found)
