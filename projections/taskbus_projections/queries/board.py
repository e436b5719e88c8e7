"""The board: tasks that meet some conditions, one task, and a tree of them.

Owns which tasks are open, slow or old. Called by `bus tasks` and `bus task`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Literal, TypeAlias

from taskbus.errors import NotFound
from taskbus_projections.queries import narrowing
from taskbus_projections.queries.answer import Page, Where, at_most, flagged, rows, value
from taskbus_projections.queries.narrowing import Condition, equal
from taskbus_projections.queries.spending import COUNTS

if TYPE_CHECKING:
    from collections.abc import Sequence

    from taskbus_projections.database import Database
    from taskbus_projections.queries.answer import Row

Order: TypeAlias = Literal["changed", "open", "slow"]
"""Those that changed last first; those for which somebody owes something, the oldest first; the slowest first."""

_ORDERS: Final[dict[Order, str]] = {
    "changed": "n DESC",
    "open": "created, rowid",
    "slow": "elapsed_ms DESC, rowid DESC",
}


@dataclass(frozen=True, slots=True)
class Wanted:
    """Which tasks are wanted: all conditions are to be met, several states are alternatives.

    `created_until` and `created_since` are times as the read models keep them, both included.
    """

    states: Sequence[str] = ()
    assignee: str | None = None
    delegator: str | None = None
    root: str | None = None
    task_type: str | None = None
    created_since: str | None = None
    created_until: str | None = None

    def conditions(self) -> list[Condition]:
        """All of them but the states."""
        found = [*equal("root", self.root), *equal("assignee", self.assignee)]
        found += [*equal("delegator", self.delegator), *equal("task_type", self.task_type)]
        if self.created_since is not None:
            found.append(Condition("created", ">= ?", (self.created_since,), led=False))
        if self.created_until is not None:
            found.append(Condition("created", "<= ?", (self.created_until,), led=False))
        return found


def board(
    database: Database, wanted: Wanted | None = None, *, order: Order = "changed", limit: int | None = None
) -> Page:
    """The tasks that are wanted, in an order. How many there are is not counted where that would take a scan."""
    asked = wanted or Wanted()
    most = at_most(None if limit is None else limit + 1)
    found = _changed(database, asked, most) if order == "changed" else _ordered(database, asked, order, most)
    more = limit is not None and len(found) > limit
    found = found[:limit]
    total = _total(database, asked, order) if more else len(found)
    return Page([flagged(row, "review") for row in found], total, more)


def _changed(database: Database, asked: Wanted, most: int) -> list[Row]:
    """Those that changed last first: each state by itself, since within one an index has them in this order."""
    conditions = asked.conditions()
    parts: list[str] = []
    values: list[object] = []
    for state in _occupied(database, asked) if asked.states else ("",):
        each = [*conditions, *equal("state", state or None)]
        leader = narrowing.leading(database, "tasks", each)
        # Those that changed last are rarely old ones, and mostly young ones: the index of ages has the numbers, too.
        if leader is None and asked.created_until is not None:
            leader = each[-1]
        if leader is None:
            leader = Condition("n", "> 0")
            each.append(leader)
        by = "n" if leader.led else "+n"
        parts.append(
            f"SELECT n FROM (SELECT n FROM tasks {narrowing.where(each, leader)} ORDER BY {by} DESC LIMIT ?)"  # noqa: S608 - our own words
        )
        values += [*narrowing.values(each), most]
    if not parts:
        return []
    return rows(
        database,
        f"SELECT tasks.* FROM ({' UNION ALL '.join(parts)}) AS found CROSS JOIN tasks ON tasks.n = found.n "  # noqa: S608 - the same
        "ORDER BY tasks.n DESC LIMIT ?",
        (*values, most),
    )


def _occupied(database: Database, asked: Wanted) -> list[str]:
    """The states that are asked for and in which there is a task (of the assignee)."""
    where = Where()
    where.equal("assignee", asked.assignee)
    where.among("state", asked.states)
    where.add("tasks > 0")
    return [row["state"] for row in rows(database, f"SELECT DISTINCT state FROM standing {where}", where.values)]  # noqa: S608 - the same


def _ordered(database: Database, asked: Wanted, order: Order, most: int) -> list[Row]:
    conditions = asked.conditions()
    if asked.states:
        marks = ", ".join("?" * len(asked.states))
        conditions.append(Condition("state", f"IN ({marks})", tuple(asked.states), led=False))
    # With a bound below all values, SQLite goes to its place in the index instead of through all of it.
    kept = Condition("created", "> '' AND finished IS NULL") if order == "open" else Condition("elapsed_ms", ">= 0")
    leader = narrowing.leading(database, "tasks", [*conditions, kept])
    if leader is None or narrowing.count(database, "tasks", leader) >= narrowing.FEW:
        leader = kept
    return rows(
        database,
        f"SELECT * FROM tasks {narrowing.where([*conditions, kept], leader)} ORDER BY {_ORDERS[order]} LIMIT ?",  # noqa: S608 - the same
        (*narrowing.values(conditions), most),
    )


def _total(database: Database, asked: Wanted, order: Order) -> int | None:
    """How many there are: from the table that counts them by assignee and state, else from one index, else unknown."""
    conditions = asked.conditions()
    if order == "changed" and all(each.column == "assignee" for each in conditions):
        where = Where()
        where.equal("assignee", asked.assignee)
        where.among("state", asked.states)
        found: int = value(database, f"SELECT coalesce(sum(tasks), 0) FROM standing {where}", where.values)  # noqa: S608 - the same
        return found
    if order == "changed" and len(conditions) == 1 and not asked.states:
        (only,) = conditions
        found = value(database, f"SELECT count(*) FROM tasks WHERE {only.sql(leading=True)}", only.values)  # noqa: S608 - the same
        return int(found)
    return None


def task(database: Database, id: str) -> Row:
    """One task, as the board has it. Raises NotFound."""
    found = rows(database, "SELECT * FROM tasks WHERE id = ?", (id,))
    if not found:
        raise NotFound(f"There is no task {id} on this bus.", task=id)
    return flagged(found[0], "review")


def tree(database: Database, root: str) -> list[Row]:
    """All tasks of a tree, each before its parts, with its `depth` below the root and what it cost."""
    found = rows(
        database,
        f"SELECT tasks.*, {', '.join(f'spent.{name}' for name in COUNTS)} FROM tasks "  # noqa: S608 - names of our own
        "LEFT JOIN task_spending AS spent ON spent.task = tasks.id "
        "WHERE tasks.root = ? ORDER BY tasks.created, tasks.rowid",
        (root,),
    )
    known = {row["id"]: row for row in found}
    parts: dict[str, list[Row]] = {}
    for row in found:
        parts.setdefault(row["parent"] if row["parent"] in known else "", []).append(row)
    ordered: dict[str, Row] = {}

    def place(row: Row, depth: int) -> None:
        waiting = [(row, depth)]
        while waiting:
            row, depth = waiting.pop()
            if row["id"] not in ordered:
                ordered[row["id"]] = flagged(_spent(row), "review") | {"depth": depth}
                waiting += [(part, depth + 1) for part in reversed(parts.get(row["id"], []))]

    # The tasks that are no part of another here, then those that are parts of each other, from the oldest on.
    for row in (*parts.get("", ()), *found):
        place(row, 0)
    return list(ordered.values())


def _spent(row: Row) -> Row:
    return row | {"calls": row["calls"] or 0, "unpriced_calls": row["unpriced_calls"] or 0}
