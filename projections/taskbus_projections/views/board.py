"""Tasks as people see them: the board, a tree, the time in each state."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from taskbus.lifecycle import OPEN
from taskbus_projections.drawing import branches
from taskbus_projections.table import Column
from taskbus_projections.views import words

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from datetime import datetime

    from taskbus_projections.queries.answer import Row
    from taskbus_projections.queries.board import Order

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
    *("id", "state", "assignee", "delegator", "coordinator", "goal", "task_type", "priority", "attempt", "review"),
    *("deadline", "progress", "fraction", "created", "updated", "finished", "root", "parent"),
    *(
        "envelopes",
        "questions",
        "escalations",
        "position",
        "n",
        "depth",
        "since",
        "provider",
        "model",
        "taken",
        "result",
    ),
    *("elapsed_ms", "parts", "rejections", "parkings", "submitted_ms", "working_ms", "input_required_ms"),
    *("completed_ms", "failed_ms", "rejected_ms", "escalated_ms"),
)
"""The columns of a task in CSV."""


def board_columns(
    rows: Sequence[Row], short: Mapping[str, str], now: datetime, paint: Callable[[str], str], order: Order = "changed"
) -> list[Column]:
    """The board: each task in a line; `short` are the IDs as they are shown. The order says which times matter."""
    ranked = any(row["priority"] != "normal" for row in rows)
    times: dict[Order, list[Column]] = {
        "changed": [Column("changed", words.ago("updated", now), spare=2)],
        "open": [
            Column("age", words.age("created", now), number=True),
            Column("in state", words.age("since", now), number=True, spare=5),
            Column("deadline", words.ago("deadline", now), spare=2),
        ],
        "slow": [
            Column("took", words.span("elapsed_ms", nothing=True), number=True),
            Column("work", words.span("working_ms"), number=True, spare=2),
            Column("to be taken", words.span("submitted_ms"), number=True, spare=5),
            Column("for answers", words.span("input_required_ms"), number=True, spare=6),
            Column("for verdicts", words.span("completed_ms"), number=True, spare=6),
            Column("escalated", words.span("escalated_ms"), number=True, spare=6),
        ],
    }
    return [
        Column("task", words.named("id", short)),
        Column("state", words.text("state"), paint=paint),
        Column("assignee", words.text("assignee")),
        Column("attempt", words.text("attempt"), number=True, spare=3),
        *([Column("priority", words.text("priority"), spare=1)] if ranked else []),
        *times[order],
        Column("progress", _progress, flexible=True, spare=4),
        Column("goal", words.text("goal"), flexible=True),
    ]


def tree_columns(rows: Sequence[Row], short: Mapping[str, str], this: str, paint: Callable[[str], str]) -> list[Column]:
    """A tree: each task below what it is a part of; `this` is the one that was asked for."""
    drawn = dict(zip((row["id"] for row in rows), branches([row["depth"] for row in rows]), strict=True))

    def branch(row: Row) -> str:
        return drawn[row["id"]] + short[row["id"]]

    def marked(row: Row) -> str:
        return "→" if row["id"] == this else ""

    return [
        Column("", marked),
        Column("task", branch),
        Column("state", words.text("state"), paint=paint),
        Column("assignee", words.text("assignee"), spare=2),
        Column("cost", words.money, number=True, spare=1),
        Column("goal", words.text("goal"), flexible=True),
    ]


def _progress(row: Row) -> str:
    if row["state"] not in OPEN:
        return ""
    share = f"{row['fraction']:.0%}" if row["fraction"] is not None else ""
    return f"{share} {row['progress'] or ''}".strip()


def attempt_columns(when: Callable[[str], str], paint: Callable[[str], str]) -> list[Column]:
    """The attempts of a task."""
    return [
        Column("attempt", words.text("attempt"), number=True),
        Column("assignee", words.text("assignee")),
        Column("begun", words.moment("begun", when)),
        Column("ended", words.moment("ended", when)),
        Column("state", words.text("state"), paint=paint),
        Column("cost", words.money, number=True),
    ]


def parked_columns(when: Callable[[str], str]) -> list[Column]:
    """The deliveries of a task that were set aside."""
    return [
        Column("agent", words.text("agent")),
        Column("now", words.text("state")),
        Column("reason", words.text("reason")),
        Column("tried", words.text("attempts"), number=True),
        Column("set aside", words.moment("parked", when)),
        Column("ended", words.moment("ended", when), spare=2),
        Column("by", words.text("ended_by"), spare=1),
        Column("what happened", words.text("message"), flexible=True),
    ]


def hold_columns(when: Callable[[str], str]) -> list[Column]:
    """The money that was reserved for a task."""
    return [
        Column("hold", words.text("hold"), flexible=True),
        Column("agent", words.text("agent"), spare=1),
        Column("model", words.text("model"), spare=2),
        Column("reserved", words.dollars("microusd"), number=True),
        Column("state", words.text("state")),
        Column("opened", words.moment("opened", when), spare=3),
        Column("cost", words.money, number=True),
    ]
