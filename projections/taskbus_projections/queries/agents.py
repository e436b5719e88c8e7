"""Agents: who does how much, how well, how fast and for how much money.

Rates and percentiles come from the sums that the read models keep. Called by `bus agents` and the reports.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from taskbus.errors import NotFound
from taskbus.lifecycle import OPEN
from taskbus_projections.queries.answer import Where, rows
from taskbus_projections.queries.spending import Spent, added, costs

if TYPE_CHECKING:
    from collections.abc import Iterable

    from taskbus_projections.database import Database
    from taskbus_projections.queries.answer import Row

DELIVERED: Final = (
    *("assigned", "repeats", "taken", "declined", "completed", "partial", "failed", "questions", "escalated", "parked"),
    *("canceled", "accepted", "rejected", "wait_ms", "cycles", "cycle_ms"),
)
"""What is counted of deliveries."""
_SUMS: Final = ", ".join(f"sum({name}) AS {name}" for name in DELIVERED)


def agents(database: Database, *, month: str | None = None, everybody: bool = False) -> list[Row]:
    """Each agent with its deliveries, rates, cycle times, costs and open work; those with the most work first.

    With `month` what happened in it; the open work is always that of now. Only those that work was given to, unless
    `everybody` who ever said something is wanted.
    """
    seen = {row["agent"]: row for row in rows(database, "SELECT * FROM agents ORDER BY agent")}
    done = {row["agent"]: row for row in _deliveries(database, ("agent",), None, month)}
    found = [
        _row(name, seen.get(name), done.get(name))
        for name in sorted({*seen, *done})
        if everybody or (name in done and (done[name]["assigned"] or done[name]["taken"]))
    ]
    _add(database, found, month)
    return sorted(found, key=lambda row: (-row["assigned"], -row["open"], row["agent"]))


def agent(database: Database, name: str, *, month: str | None = None) -> Row:
    """The same of one agent. Raises NotFound for one that nobody has heard of."""
    seen = rows(database, "SELECT * FROM agents WHERE agent = ?", (name,))
    done = _deliveries(database, ("agent",), name, month)
    if not seen and not done:
        raise NotFound(f"There is no agent {name} on this bus.", advice="`bus agents --all` lists everybody.")
    found = [_row(name, seen[0] if seen else None, done[0] if done else None)]
    _add(database, found, month, name)
    return found[0]


def by_model(database: Database, name: str, *, month: str | None = None) -> list[Row]:
    """The deliveries and the costs of an agent by model; the model is empty where nobody said it."""
    spent: dict[str, Row] = {}
    for row in costs(database, "model", Spent(agent=name, month=month)).rows:
        spent[row["model"]] = added(spent[row["model"]], row) if row["model"] in spent else row
    done = {row["model"]: row for row in _deliveries(database, ("model",), name, month)}
    found: list[Row] = []
    for model in {**done, **spent}:
        counts = {count: done[model][count] if model in done else 0 for count in DELIVERED}
        found.append({"model": model, **counts, **_rates(counts), **_cost(spent.get(model), counts["accepted"])})
    return sorted(found, key=lambda row: (-row["taken"], -row["calls"], row["model"]))


def standing(database: Database, name: str) -> dict[str, int]:
    """How many tasks of an agent are in each state."""
    found = rows(database, "SELECT state, tasks FROM standing WHERE assignee = ? AND tasks > 0", (name,))
    return {row["state"]: row["tasks"] for row in found}


def percentile(buckets: Iterable[tuple[int, int]], share: float) -> int | None:
    """Within which time such a share of deliveries was done, to 1/16, from a histogram in order of time."""
    counted = list(buckets)
    wanted = share * sum(count for _, count in counted)
    upto = 0
    for bucket, count in counted:
        upto += count
        if upto >= wanted:
            return bucket
    return None


def _deliveries(database: Database, columns: tuple[str, ...], name: str | None, month: str | None) -> list[Row]:
    where = Where()
    where.equal("agent", name)
    if month is not None:
        where.add("day BETWEEN ? AND ?", f"{month}-01", f"{month}-31")
    group = ", ".join(columns)
    sql = f"SELECT {group}, {_SUMS} FROM agent_days {where} GROUP BY {group} ORDER BY {group}"  # noqa: S608 - our own words
    return rows(database, sql, where.values)


def _row(name: str, seen: Row | None, done: Row | None) -> Row:
    counts = {count: done[count] if done else 0 for count in DELIVERED}
    known = {key: seen[key] if seen else None for key in ("first_seen", "last_seen")}
    said = {key: seen[key] if seen else 0 for key in ("envelopes", "by_hand", "received", "delegated")}
    return {"agent": name, **known, **said, **counts, **_rates(counts)}


def _rates(counts: Row) -> Row:
    def share(of: str, *others: str) -> float | None:
        whole = sum(counts[name] for name in (of, *others))
        return round(counts[of] / whole, 4) if whole else None

    return {
        "success_rate": share("completed", "failed", "escalated"),
        "rework_rate": share("rejected", "accepted"),
        "escalation_rate": round(counts["escalated"] / counts["assigned"], 4) if counts["assigned"] else None,
    }


def _cost(spent: Row | None, accepted: int) -> Row:
    microusd = spent["cost_microusd"] if spent else None
    return {
        "calls": spent["calls"] if spent else 0,
        "unpriced_calls": spent["unpriced_calls"] if spent else 0,
        "cost_microusd": microusd,
        "microusd_per_accepted": microusd // accepted if microusd is not None and accepted else None,
    }


def _add(database: Database, found: list[Row], month: str | None, name: str | None = None) -> None:
    """Cycle times, costs and open work, each asked for once."""
    where = Where()
    where.equal("agent", name)
    where.equal("month", month)
    buckets: dict[str, list[tuple[int, int]]] = {}
    for row in rows(
        database,
        f"SELECT agent, bucket_ms, sum(deliveries) AS deliveries FROM cycles {where} "  # noqa: S608 - our own words
        "GROUP BY agent, bucket_ms ORDER BY agent, bucket_ms",
        where.values,
    ):
        buckets.setdefault(row["agent"], []).append((row["bucket_ms"], row["deliveries"]))
    spent = {row["agent"]: row for row in costs(database, "agent", Spent(agent=name, month=month)).rows}
    owed = Where()
    owed.equal("assignee", name)
    owed.among("state", sorted(OPEN))
    open_work = {
        row["assignee"]: row["open"]
        for row in rows(
            database,
            f"SELECT assignee, sum(tasks) AS open FROM standing {owed} GROUP BY assignee",  # noqa: S608 - the same
            owed.values,
        )
    }
    for row in found:
        times = buckets.get(row["agent"], [])
        row["cycle_p50_ms"], row["cycle_p95_ms"] = percentile(times, 0.5), percentile(times, 0.95)
        row.update(_cost(spent.get(row["agent"]), row["accepted"]))
        row["open"] = open_work.get(row["agent"], 0)
