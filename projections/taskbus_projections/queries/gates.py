"""Quality gates: how often each of the five layers passes and fails, by agent, model and time.

Called by `bus gates` and the reports.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Literal, TypeAlias

from taskbus_projections.queries.answer import Page, Where, at_most, rows

if TYPE_CHECKING:
    from taskbus_projections.database import Database
    from taskbus_projections.queries.answer import Row

GateGrouping: TypeAlias = Literal["layer", "agent", "model", "month", "day"]

LAYERS: Final = ("input", "hallucination", "boundary", "output", "escalation")
"""In their order."""
OUTCOMES: Final = ("passed", "failed", "skipped", "not_triggered")

_GROUPS: Final[dict[GateGrouping, dict[str, str]]] = {
    "layer": {},
    "agent": {"agent": "agent"},
    "model": {"agent": "agent", "model": "model"},
    "month": {"month": "substr(day, 1, 7)"},
    "day": {"day": "day"},
}


def gates(
    database: Database,
    by: GateGrouping = "model",
    *,
    agent: str | None = None,
    model: str | None = None,
    layer: str | None = None,
    month: str | None = None,
) -> list[Row]:
    """The outcomes of each layer by one grouping (`model` means agent and model), with the share that failed.

    The share is of those that passed or failed; None where none did.
    """
    where = Where()
    for column, wanted in (("agent", agent), ("model", model), ("layer", layer)):
        where.equal(column, wanted)
    if month is not None:
        where.add("day BETWEEN ? AND ?", f"{month}-01", f"{month}-31")
    columns = {**_GROUPS[by], "layer": "layer"}
    shown = ", ".join(f"{sql} AS {name}" for name, sql in columns.items())
    sums = ", ".join(f"sum({outcome}) AS {outcome}" for outcome in OUTCOMES)
    found = rows(
        database,
        f"SELECT {shown}, {sums} FROM gate_days {where} GROUP BY {', '.join(columns.values())}",  # noqa: S608 - our own words
        where.values,
    )
    for row in found:
        judged = row["passed"] + row["failed"]
        row["failed_share"] = round(row["failed"] / judged, 4) if judged else None
    groups = tuple(_GROUPS[by])
    return sorted(found, key=lambda row: (*(row[name] for name in groups), LAYERS.index(row["layer"])))


def failed_gates(database: Database, *, agent: str | None = None, limit: int | None = None) -> Page:
    """The newest gates that failed, the newest first, with what was seen and in which envelope."""
    condition = "g.agent = ? AND g.outcome = 'failed'" if agent else "g.outcome = 'failed' AND g.n > 0"
    found = rows(
        database,
        "SELECT g.n, e.time, e.position, g.layer, g.agent, g.model, e.task, e.type, g.note FROM gates AS g "  # noqa: S608 - our own words
        f"CROSS JOIN events AS e ON e.n = g.n WHERE {condition} ORDER BY g.n DESC LIMIT ?",
        (*([agent] if agent else []), at_most(None if limit is None else limit + 1)),
    )
    return Page(found[:limit], more=limit is not None and len(found) > limit)
