"""What people ask of the read models: the board, one task, the audit trail, the costs.

Each question is answered from one open database, in plain dictionaries by column. Money is in microdollars,
and what is unpriced is counted beside it, never as zero. Called by the commands, and by programs that show
the same.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Literal, TypeAlias

from taskbus.errors import NotFound, UsageError
from taskbus.position import Position
from taskbus_projections.database import Database, Outdated, explained, place
from taskbus_projections.registry import installed

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

Row: TypeAlias = dict[str, Any]
Grouping: TypeAlias = Literal["provider", "model", "agent", "task", "tree", "month", "day"]

GROUPINGS: Final[dict[Grouping, tuple[str, ...]]] = {
    "provider": ("provider",),
    "model": ("provider", "model"),
    "agent": ("agent",),
    "task": ("task",),
    "tree": ("root",),
    "month": ("substr(time, 1, 7) AS month",),
    "day": ("substr(time, 1, 10) AS day",),
}
"""The columns of `usage` by which each grouping adds up."""
TOKENS: Final = (
    "input_tokens",
    "output_tokens",
    "cache_read_tokens",
    "cache_write_tokens",
    "reasoning_tokens",
)

_SUMS: Final = ", ".join(
    (
        "count(*) AS calls",
        "count(*) - count(cost_microusd) AS unpriced_calls",
        "sum(cost_microusd) AS cost_microusd",
        *(f"sum({name}) AS {name}" for name in TOKENS),
    )
)
_SHOWN: Final = 10
"""How many candidates an error about an ambiguous prefix names."""


@dataclass(frozen=True, slots=True)
class Page:
    """Some rows of an answer, and how many there are without the limit; None where that was not counted."""

    rows: list[Row]
    total: int | None = None
    more: bool = False


def task_id(database: Database, text: str) -> str:
    """The task whose ID is `text`, else the only one whose ID begins with it. Raises NotFound, UsageError."""
    found = _beginning(database, text)
    if not found:
        raise NotFound(
            f"There is no task {text} on this bus, and none whose ID begins so.",
            task=text,
            advice="`bus tasks` lists them; check the namespace with `bus doctor`.",
        )
    return _told_apart(text, found)


def known_task(home: Path, namespace: str, text: str) -> str | None:
    """What `task_id` finds in what was folded before, without a server, in a few milliseconds.

    None where nothing begins so, or nothing was folded: a task that is newer than the last query is not known here.
    Raises UsageError where several tasks begin so, and ProjectionStopped for a file that cannot be read.
    """
    try:
        with Database.read(place(home, namespace), namespace, installed()) as database:
            found = _beginning(database, text)
    except (NotFound, Outdated):
        # Nothing was folded, or by an older version: then nothing is known, which is the answer.
        return None
    return _told_apart(text, found) if found else None


def _beginning(database: Database, text: str) -> list[tuple[str, str, str]]:
    with explained(database.path):
        # Not `Database.query`, which takes a tenth of a second to import.
        return database.connection.execute(
            "SELECT id, state, goal FROM tasks WHERE id >= ? AND id < ? ORDER BY id LIMIT ?",
            (text, text + "\U0010ffff", _SHOWN + 1),
        ).fetchall()


def _told_apart(text: str, found: Sequence[tuple[str, str, str]]) -> str:
    if len(found) == 1 or found[0][0] == text:
        return found[0][0]
    names = [f"{id} ({state}: {' '.join(goal.split())[:40]})" for id, state, goal in found[:_SHOWN]]
    rest = ", and more" if len(found) > _SHOWN else ""
    raise UsageError(
        f"Several tasks have an ID that begins with {text}: {', '.join(names)}{rest}.",
        advice="Give more of the ID.",
    )


def root_of(database: Database, text: str) -> str:
    """The root of the tree that a task is in. Raises NotFound, UsageError."""
    (row,) = database.query("SELECT root FROM tasks WHERE id = ?", (task_id(database, text),))
    root: str = row["root"]
    return root


def short_ids(database: Database, ids: Sequence[str], *, least: int = 8) -> dict[str, str]:
    """Each ID cut to where no other task's ID begins alike, at `least` characters."""
    found: dict[str, str] = {}
    for id in ids:
        near = database.connection.execute(
            "SELECT (SELECT max(id) FROM tasks WHERE id < :id), (SELECT min(id) FROM tasks WHERE id > :id)",
            {"id": id},
        ).fetchone()
        length = max(least, *(_common(id, other) + 1 for other in near if other is not None), 0)
        found[id] = id[:length]
    return found


def board(
    database: Database,
    *,
    states: Sequence[str] = (),
    assignee: str | None = None,
    root: str | None = None,
    limit: int | None = None,
) -> Page:
    """The tasks, those that changed last first."""
    where, values = _where(
        (f"state IN ({_marks(states)})" if states else "", states),
        ("assignee = ?" if assignee else "", (assignee,)),
        ("root = ?" if root else "", (root,)),
    )
    rows = database.query(
        f"SELECT * FROM tasks {where} ORDER BY n DESC LIMIT ?",  # noqa: S608 - conditions of our own
        (*values, -1 if limit is None else limit),
    )
    (total,) = database.connection.execute(f"SELECT count(*) FROM tasks {where}", values).fetchone()  # noqa: S608
    return Page([_flags(row, "review") for row in rows], total, len(rows) < total)


def task(database: Database, id: str) -> Row:
    """One task, as the board has it. Raises NotFound."""
    rows = database.query("SELECT * FROM tasks WHERE id = ?", (id,))
    if not rows:
        raise NotFound(f"There is no task {id} on this bus.", task=id)
    return _flags(rows[0], "review")


def tree(database: Database, root: str) -> list[Row]:
    """All tasks of a tree, each before its parts, with its `depth` below the root and what it cost."""
    rows = database.query(
        f"SELECT tasks.*, spent.* FROM tasks LEFT JOIN "  # noqa: S608 - names of our own
        f"(SELECT task, {_SUMS} FROM usage WHERE root = ? GROUP BY task) AS spent ON spent.task = tasks.id "
        "WHERE tasks.root = ? ORDER BY created, tasks.rowid",
        (root, root),
    )
    known = {row["id"]: row for row in rows}
    parts: dict[str, list[Row]] = {}
    for row in rows:
        parts.setdefault(row["parent"] if row["parent"] in known else "", []).append(row)
    ordered: dict[str, Row] = {}

    def place(row: Row, depth: int) -> None:
        waiting = [(row, depth)]
        while waiting:
            row, depth = waiting.pop()
            if row["id"] not in ordered:
                ordered[row["id"]] = _flags(_spent(row), "review") | {"depth": depth}
                waiting += [(part, depth + 1) for part in reversed(parts.get(row["id"], []))]

    # The tasks that are no part of another here, then those that are parts of each other, from the oldest on.
    for row in (*parts.get("", ()), *rows):
        place(row, 0)
    return list(ordered.values())


def audit(
    database: Database,
    *,
    task: str | None = None,
    root: str | None = None,
    agent: str | None = None,
    types: Sequence[str] = (),
    since: Position | None = None,
    until: Position | None = None,
    search: str | None = None,
    bodies: bool = False,
    limit: int | None = None,
) -> Page:
    """The newest envelopes that match, the oldest of them first, with what caused each.

    `since` and `until` are included. `search` is looked for in the summary, the IDs and the bytes as they
    were sent; ASCII letters match in upper and lower case.
    """
    pattern = f"%{_escaped(search or '')}%"
    where, values = _where(
        ("e.task = ?" if task else "", (task,)),
        ("e.task IN (SELECT id FROM tasks WHERE root = ?)" if root else "", (root,)),
        ("? IN (e.sender, e.recipient)" if agent else "", (agent,)),
        (f"e.type IN ({_marks(types)})" if types else "", types),
        ("e.n >= ?" if since else "", (_number(database, since) if since else None,)),
        ("e.n < ?" if until else "", (_number(database, until, after=True) if until else None,)),
        (_SEARCH if search else "", (pattern,) * 4),
    )
    body = ", e.content_type, e.body, e.source_type, e.source" if bodies else ""
    rows = database.query(
        "SELECT e.n, e.position, e.time, e.sender, e.recipient, e.type, e.task, e.root, e.summary, "  # noqa: S608
        "e.causation, c.n AS cause_n, c.type AS cause_type, e.by_hand, e.priority, e.correlation, e.sent, e.id"
        f"{body} FROM events AS e LEFT JOIN events AS c ON c.id = e.causation {where} "
        "ORDER BY e.n DESC LIMIT ?",
        (*values, -1 if limit is None else limit + 1),
    )
    more = limit is not None and len(rows) > limit
    return Page([_flags(row, "by_hand") for row in reversed(rows[:limit])], more=more)


_SEARCH: Final = (
    "(e.summary LIKE ? ESCAPE '\\' OR e.id LIKE ? ESCAPE '\\' OR e.task LIKE ? ESCAPE '\\' "
    "OR CAST(e.body AS TEXT) LIKE ? ESCAPE '\\')"
)


def costs(database: Database, by: Grouping, *, task: str | None = None, root: str | None = None) -> list[Row]:
    """Calls, tokens and costs by one grouping, the dearest first; those of time in its order."""
    columns = ", ".join(GROUPINGS[by])
    numbers = ", ".join(str(place) for place in range(1, len(GROUPINGS[by]) + 1))
    order = "1" if by in ("month", "day") else f"cost_microusd DESC NULLS LAST, calls DESC, {numbers}"
    where, values = _spent_on(task, root)
    return database.query(
        f"SELECT {columns}, {_SUMS} FROM usage {where} GROUP BY {numbers} ORDER BY {order}",  # noqa: S608
        values,
    )


def total(database: Database, *, task: str | None = None, root: str | None = None) -> Row:
    """Calls, tokens and costs of everything, of a task or of a tree."""
    where, values = _spent_on(task, root)
    return database.query(f"SELECT {_SUMS} FROM usage {where}", values)[0]  # noqa: S608 - conditions of our own


def _spent_on(task: str | None, root: str | None) -> tuple[str, list[object]]:
    return _where(("task = ?" if task else "", (task,)), ("root = ?" if root else "", (root,)))


def _spent(row: Row) -> Row:
    return {name: value for name, value in row.items() if name != "task"} | {
        "calls": row["calls"] or 0,
        "unpriced_calls": row["unpriced_calls"] or 0,
    }


def _where(*conditions: tuple[str, Sequence[object]]) -> tuple[str, list[object]]:
    given = [(condition, values) for condition, values in conditions if condition]
    clause = " AND ".join(condition for condition, _ in given)
    return f"WHERE {clause}" if clause else "", [value for _, values in given for value in values]


def _marks(values: Sequence[object]) -> str:
    return ", ".join("?" * len(values))


def _escaped(text: str) -> str:
    return text.replace("\\", "\\\\").replace("%", "\\%").replace("_", "\\_")


def _flags(row: Row, *names: str) -> Row:
    return row | {name: bool(row[name]) for name in names}


def _common(one: str, other: str) -> int:
    return next((at for at, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other)))


def _number(database: Database, position: Position, *, after: bool = False) -> int:
    """The number of the first envelope at a position or behind it; with `after`, behind it."""
    (last,) = database.connection.execute("SELECT coalesce(max(n), 0) FROM events").fetchone()
    low, high = 1, last + 1
    while low < high:
        middle = (low + high) // 2
        row = database.connection.execute("SELECT position FROM events WHERE n = ?", (middle,)).fetchone()
        found = Position.parse(row[0])
        if found > position or (found == position and not after):
            high = middle
        else:
            low = middle + 1
    return low
