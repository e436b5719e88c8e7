"""Escalations: open and past ones, who dealt with them, how long it took, and how many reached a human.

An incident is the first escalation of some trouble with all that repeat it. Called by `bus escalations` and the
reports.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Literal, TypeAlias

from taskbus_projections.queries import narrowing
from taskbus_projections.queries.answer import Page, Where, at_most, flagged, rows, value
from taskbus_projections.queries.narrowing import Condition, equal

if TYPE_CHECKING:
    from taskbus_projections.database import Database
    from taskbus_projections.queries.answer import Row

EscalationGrouping: TypeAlias = Literal["month", "day", "agent", "category"]

ESCALATION_COLUMNS: Final = (
    *("n", "time", "task", "root", "level", "category", "agent", "sender", "recipient", "by_bus", "human", "attempt"),
    *("incident", "raises", "outcome", "answered_n", "answered_by", "answered", "answer_ms"),
    *("message", "attempted_recovery"),
)
_GROUPS: Final[dict[EscalationGrouping, str]] = {
    "month": "substr(day, 1, 7)",
    "day": "day",
    "agent": "agent",
    "category": "category",
}
_COUNTS: Final = ("incidents", "repeats", "human", "answered", "answer_ms")


def escalations(
    database: Database,
    *,
    open_only: bool = False,
    human: bool = False,
    level: int | None = None,
    category: str | None = None,
    agent: str | None = None,
    limit: int | None = None,
) -> Page:
    """The newest escalations that match, the newest first; `agent` is who had the work."""
    conditions = [*equal("agent", agent), *equal("level", level)]
    # With a bound below all numbers, SQLite goes to its place in the index instead of through all of it.
    if open_only:
        conditions.append(Condition("n", "> 0 AND outcome IS NULL"))
    if human:
        conditions.append(Condition("n", "> 0 AND human = 1"))
    leader = narrowing.leading(database, "escalations", conditions)
    if leader is None:
        leader = Condition("n", "> 0")
        conditions.append(leader)
    if category is not None:
        conditions.append(Condition("category", "= ?", (category,)))
    found = rows(
        database,
        f"SELECT {', '.join(ESCALATION_COLUMNS)} FROM escalations {narrowing.where(conditions, leader)} "  # noqa: S608 - our own words
        "ORDER BY n DESC LIMIT ?",
        (*narrowing.values(conditions), at_most(None if limit is None else limit + 1)),
    )
    more = limit is not None and len(found) > limit
    return Page([flagged(row, "by_bus", "human") for row in found[:limit]], more=more)


def escalation_rates(
    database: Database, by: EscalationGrouping | None = None, *, month: str | None = None, agent: str | None = None
) -> list[Row]:
    """Incidents in all, or by one grouping: how many reached a human, were dealt with, and after how long.

    `tasks` is how many were delegated for the first time meanwhile (to that agent), None where a category is asked
    for; `rate` and `human_rate` are incidents for each of those, which may be more than 1: a task that was dealt with
    can be escalated anew. `human_share` is that of the incidents.
    """
    where = Where()
    if month is not None:
        where.add("day BETWEEN ? AND ?", f"{month}-01", f"{month}-31")
    where.equal("agent", agent)
    shown = f"{_GROUPS[by]} AS {by}, " if by else ""
    group = f"GROUP BY {_GROUPS[by]} ORDER BY {_GROUPS[by]}" if by else ""
    sums = ", ".join(f"coalesce(sum({name}), 0) AS {name}" for name in _COUNTS)
    found = rows(database, f"SELECT {shown}{sums} FROM escalation_days {where} {group}", where.values)  # noqa: S608 - the same
    begun: dict[str | None, int] = {}
    if by != "category":
        tasks = rows(
            database,
            f"SELECT {shown}sum(assigned) - sum(repeats) AS tasks FROM agent_days {where} {group}",  # noqa: S608 - the same
            where.values,
        )
        begun = {row[by] if by else None: row["tasks"] or 0 for row in tasks}
    return [_rated(row, begun.get(row[by] if by else None, 0) if by != "category" else None) for row in found]


def open_escalations(database: Database, *, agent: str | None = None) -> int:
    """How many escalations nobody has dealt with."""
    where = Where()
    where.add("outcome IS NULL")
    where.add("n > 0")
    where.equal("+agent", agent)
    found: int = value(database, f"SELECT count(*) FROM escalations {where}", where.values)  # noqa: S608 - our own words
    return found


def _rated(row: Row, tasks: int | None) -> Row:
    incidents, human = row["incidents"], row["human"]
    return row | {
        "human_share": round(human / incidents, 4) if incidents else None,
        "mean_answer_ms": row["answer_ms"] // row["answered"] if row["answered"] else None,
        "tasks": tasks,
        "rate": round(incidents / tasks, 4) if tasks else None,
        "human_rate": round(human / tasks, 4) if tasks else None,
    }
