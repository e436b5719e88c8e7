"""Differences between two moments, as people see them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from taskbus_projections.table import Column
from taskbus_projections.views import words

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from taskbus_projections.queries.answer import Row
    from taskbus_projections.table import Text

CHANGE_FIELDS: Final = (
    *("id", "root", "state_before", "state", "assignee_before", "assignee", "attempt_before", "attempt", "goal"),
    *("created", "updated", "finished", "envelopes", "calls", "unpriced_calls", "cost_microusd", "n"),
)
"""The columns of a change in CSV."""


def flat(task: Row) -> Row:
    """A change in one row, for CSV: what was not there before, or is the same, stays empty."""
    before: Row = task["before"] or {}
    return task | {f"{name}_before": before.get(name) for name in ("state", "assignee", "attempt")}


def change_columns(short: Mapping[str, str], paint: Callable[[str], str]) -> list[Column]:
    """Each task that changed in a line: from what to what."""
    return [
        Column("task", words.named("id", short)),
        Column("before", _state_before, paint=paint),
        Column("now", words.text("state"), paint=paint),
        Column("assignee", _moved("assignee")),
        Column("attempt", _moved("attempt"), spare=2),
        Column("envelopes", words.text("envelopes"), number=True, spare=3),
        Column("cost", words.money, number=True, spare=1),
        Column("goal", words.text("goal"), flexible=True),
    ]


def standing_columns() -> list[Column]:
    """How many tasks stand in each state."""
    return [
        Column("state", words.text("state")),
        Column("before", words.text("before"), number=True),
        Column("now", words.text("now"), number=True),
        Column("", _change, number=True),
    ]


def event_lines(found: Row, when: Callable[[str], str]) -> list[str]:
    """An escalation that was opened or dealt with, in words."""
    about = f"level {found['level']}, {found['category']}, task {found['task']}"
    lines: list[str] = []
    if found["opened"]:
        said = " ".join(found["message"].split())
        lines.append(f"{when(found['time'])} {found['sender']} escalated to {found['recipient']} ({about}): {said}")
    if found["ended"]:
        lines.append(f"{when(found['answered'])} {found['answered_by']} dealt with it by {found['outcome']} ({about})")
    return lines


def parked_line(found: Row, when: Callable[[str], str]) -> str:
    """A delivery that was set aside, or what became of it, in words."""
    by = f" by {found['ended_by']}" if found["ended_by"] else ""
    why = f": {' '.join((found['message'] or found['reason'] or '').split())}" if found["state"] == "parked" else ""
    time = when(found["ended"] or found["parked"] or "")
    return f"{time} {found['state']}{by} for {found['agent']}, task {found['task']}{why}"


def _change(row: Row) -> str:
    return f"{row['now'] - row['before']:+d}" if row["now"] != row["before"] else ""


def _state_before(task: Row) -> str:
    before = task["before"]
    return "" if before is None else str(before.get("state", task["state"]))


def _moved(name: str) -> Text:
    def written(task: Row) -> str:
        before: Row = task["before"] or {}
        return f"{before[name]} → {task[name]}" if before.get(name) is not None else str(task[name])

    return written
