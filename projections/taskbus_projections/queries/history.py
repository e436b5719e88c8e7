"""The history of one task: its states and how long it was in each, its attempts, and what happened beside them.

Called by `bus task`.
"""

from __future__ import annotations

from bisect import bisect_right
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Final

from taskbus_projections.queries.answer import flagged, rows
from taskbus_projections.queries.gates import LAYERS
from taskbus_projections.sums import plus

if TYPE_CHECKING:
    from taskbus_projections.database import Database
    from taskbus_projections.queries.answer import Row

STATES: Final = ("submitted", "working", "input-required", "completed", "failed", "rejected", "escalated")
"""In which a task can be, and leave again."""


def transitions(database: Database, task: str) -> list[Row]:
    """Each change of a task's state, with how long it was in the one before."""
    return rows(
        database,
        "SELECT n, time, event, sender, from_state, to_state, assignee, attempt, after_ms "
        "FROM transitions WHERE task = ? ORDER BY n",
        (task,),
    )


def states(task: Row, now: datetime) -> dict[str, int]:
    """For how many milliseconds a task was in each state, until `now` in that of an open one; only where it was."""
    found = {state: int(task[f"{state.replace('-', '_')}_ms"]) for state in STATES}
    if task["finished"] is None:
        stay = (now - datetime.fromisoformat(task["since"])) // timedelta(milliseconds=1)
        found[task["state"]] = found.get(task["state"], 0) + max(0, stay)
    return {state: milliseconds for state, milliseconds in found.items() if milliseconds}


def attempts(database: Database, task: str, changes: list[Row]) -> list[Row]:
    """Each attempt: by whom, from when to when, how it ended, and what was spent meanwhile.

    `ended` is None for the one that goes on.
    """
    found: list[Row] = []
    for change in changes:
        if not found or change["attempt"] != found[-1]["attempt"]:
            found.append(
                {
                    "attempt": change["attempt"],
                    "assignee": change["assignee"],
                    "n": change["n"],
                    "begun": change["time"],
                    "state": change["to_state"],
                    "ended": None,
                    "calls": 0,
                    "unpriced_calls": 0,
                    "cost_microusd": None,
                }
            )
        last = found[-1]
        last["state"] = change["to_state"]
        last["ended"] = change["time"] if change["to_state"] not in ("submitted", "working", "input-required") else None
    begins = [attempt["n"] for attempt in found]
    for n, cost in database.connection.execute("SELECT n, cost_microusd FROM usage WHERE task = ?", (task,)):
        if found:
            # What was reported before the first change belongs to the first attempt.
            attempt = found[max(0, bisect_right(begins, n) - 1)]
            attempt["calls"] += 1
            attempt["unpriced_calls"] += cost is None
            attempt["cost_microusd"] = plus(attempt["cost_microusd"], cost)
    return found


def gates_of(database: Database, task: str) -> list[Row]:
    """The outcomes of quality gates that envelopes of a task report, in the order of the log."""
    found = rows(
        database,
        "SELECT g.n, e.time, g.agent, g.model, g.layer, g.outcome, g.note "
        "FROM events AS e CROSS JOIN gates AS g ON g.n = e.n WHERE e.task = ? ORDER BY g.n",
        (task,),
    )
    return sorted(found, key=lambda row: (row["n"], LAYERS.index(row["layer"])))


def escalations_of(database: Database, task: str) -> list[Row]:
    """The escalations of a task."""
    found = rows(
        database,
        "SELECT n, incident, time, sender, recipient, level, category, message, attempted_recovery, human, outcome, "
        "answered_n, answered_by, answered, answer_ms FROM escalations WHERE task = ? ORDER BY n",
        (task,),
    )
    return [flagged(row, "human") for row in found]


def parked_of(database: Database, task: str) -> list[Row]:
    """The deliveries of a task that were set aside, and what became of each."""
    found = rows(
        database,
        "SELECT agent, envelope, state, reason, attempts, message, times, parked, ended, ended_by, resumed "
        "FROM parked WHERE task = ? ORDER BY parked_n, envelope",
        (task,),
    )
    return [flagged(row, "resumed") for row in found]


def holds_of(database: Database, task: str) -> list[Row]:
    """The money that was reserved for a task, and what was really spent."""
    return rows(
        database,
        "SELECT n, hold, microusd, provider, model, agent, attempt, state, opened, ended, ended_by, calls, "
        "unpriced_calls, cost_microusd FROM holds WHERE task = ? ORDER BY n",
        (task,),
    )
