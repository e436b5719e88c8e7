"""Differences: what has changed between two moments, from a database as of each.

Every row is reached from the tasks that changed, so that a short time costs little however long the log is. Called by
`bus diff`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from taskbus_projections.queries.answer import rows

if TYPE_CHECKING:
    from taskbus_projections.database import Database
    from taskbus_projections.queries.answer import Row

COMPARED: Final = ("state", "assignee", "attempt", "coordinator", "priority", "deadline", "goal")
"""The columns of a task whose change is told."""
_SPENT: Final = ("calls", "unpriced_calls", "cost_microusd")

_TASKS: Final = """
    SELECT t.id, t.root, t.created, t.updated, t.finished, t.envelopes, t.n,
        t.state, t.assignee, t.attempt, t.coordinator, t.priority, t.deadline, t.goal,
        s.calls, s.unpriced_calls, s.cost_microusd
    FROM tasks AS t LEFT JOIN task_spending AS s ON s.task = t.id
"""
_ESCALATIONS: Final = """
    SELECT e.n, e.task, e.level, e.category, e.sender, e.recipient, e.message, e.time, e.outcome, e.answered_by,
        e.answered, e.n > :n AS opened, coalesce(e.answered_n > :n, 0) AS ended
    FROM tasks AS t JOIN escalations AS e ON e.task = t.id
    WHERE t.n > :n AND (e.n > :n OR e.answered_n > :n) ORDER BY e.n
"""
_PARKED: Final = """
    SELECT p.agent, p.envelope, p.task, p.state, p.reason, p.message, p.parked, p.ended, p.ended_by
    FROM tasks AS t JOIN parked AS p ON p.task = t.id
    WHERE t.n > :n AND (p.parked_n > :n OR p.ended_n > :n) ORDER BY coalesce(p.ended_n, p.parked_n)
"""
_SPENDING: Final = f"""
    SELECT provider, model, {", ".join(f"sum({name}) AS {name}" for name in _SPENT)}
    FROM spending WHERE day >= ? GROUP BY provider, model
"""  # noqa: S608 - names of our own


@dataclass(frozen=True, slots=True)
class Differences:
    """What has changed: each task with its columns before and after, and what came with it.

    Of a task, `before` is None where it was not there, else the columns that are another now, as they were;
    `envelopes`, `calls`, `unpriced_calls` and `cost_microusd` are those in between.
    """

    envelopes: list[Row]
    standing: list[Row]
    tasks: list[Row]
    escalations: list[Row]
    parked: list[Row]
    spending: list[Row]

    @property
    def are_none(self) -> bool:
        """Whether nothing has changed."""
        return not self.envelopes


def differences(older: Database, newer: Database) -> Differences:
    """What has changed from the one to the other, which holds all that the older one does."""
    start, end = older.checkpoint(), newer.checkpoint()
    after = {"n": start.folded}
    counts = "SELECT type, count(*) AS envelopes FROM events WHERE n > ? AND n <= ? GROUP BY type ORDER BY 2 DESC, 1"
    changed = rows(newer, f"{_TASKS} WHERE t.n > :n ORDER BY t.n", after)
    return Differences(
        rows(newer, counts, (start.folded, end.folded)),
        _standing(older, newer),
        [_compared(older, task) for task in changed],
        rows(newer, _ESCALATIONS, after),
        rows(newer, _PARKED, after),
        _spending(older, newer, str(start.position.time.date()) if start.folded else ""),
    )


def _compared(older: Database, task: Row) -> Row:
    found = rows(older, f"{_TASKS} WHERE t.id = ?", (task["id"],))
    before = found[0] if found else {}
    told = {name: before[name] for name in COMPARED if name in before and before[name] != task[name]}
    return task | {
        "before": told if found else None,
        "envelopes": task["envelopes"] - before.get("envelopes", 0),
        **_less(task, before),
    }


def _standing(older: Database, newer: Database) -> list[Row]:
    """How many tasks stand in each state, before and now."""
    query = "SELECT state, sum(tasks) AS tasks FROM standing GROUP BY state ORDER BY state"
    counts = [{row["state"]: row["tasks"] for row in rows(database, query)} for database in (older, newer)]
    states = sorted({state for count in counts for state, tasks in count.items() if tasks})
    return [{"state": state, "before": counts[0].get(state, 0), "now": counts[1].get(state, 0)} for state in states]


def _spending(older: Database, newer: Database, day: str) -> list[Row]:
    """What was spent, by provider and model: the sums of whole days less those of the first one until then."""
    before = {(row["provider"], row["model"]): row for row in rows(older, _SPENDING, (day,))}
    found = [
        row | _less(row, before.get((row["provider"], row["model"]), {})) for row in rows(newer, _SPENDING, (day,))
    ]
    return sorted((row for row in found if row["calls"]), key=lambda row: -(row["cost_microusd"] or 0))


def _less(now: Row, before: Row) -> Row:
    """Calls and their cost, less those before; without a cost where none of those in between has one."""
    calls, unpriced = ((now[name] or 0) - (before.get(name) or 0) for name in _SPENT[:2])
    cost = (now["cost_microusd"] or 0) - (before.get("cost_microusd") or 0) if calls > unpriced else None
    return {"calls": calls, "unpriced_calls": unpriced, "cost_microusd": cost}
