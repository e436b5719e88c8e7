"""Facts: what the read models say of a period, for the report. Amounts are in microdollars, times in milliseconds.

What happened is added up by day; what stands (open work, tasks that failed and were left so) is as of the newest
envelope that was folded. Lists are cut to the rows that fit on a page, sums are not.
"""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Final

from taskbus_projections.instants import instant
from taskbus_projections.queries import outlook
from taskbus_projections.queries.answer import rows, summed, value
from taskbus_projections.queries.spending import COUNTS
from taskbus_projections.sums import plus

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime

    from taskbus_projections.database import Database
    from taskbus_projections.policy import Policy
    from taskbus_projections.queries.answer import Row
    from taskbus_projections.report.days import Days

LISTED: Final = 10
"""How many rows a list of single tasks has."""
OUTCOMES: Final = (
    *("assigned", "repeats", "taken", "declined", "completed", "partial", "failed", "questions"),
    *("escalated", "parked", "canceled", "accepted", "rejected"),
)
_WORK: Final = ", ".join(
    (
        *(f"coalesce(sum({name}), 0) AS {name}" for name in OUTCOMES),
        "coalesce(sum(cycles), 0) AS cycles",
        "sum(cycle_ms) / nullif(sum(cycles), 0) AS mean_cycle_ms",
        "min(cycle_min_ms) AS cycle_min_ms",
        "max(cycle_max_ms) AS cycle_max_ms",
        "sum(wait_ms) / nullif(sum(taken), 0) AS mean_wait_ms",
    )
)
_ESCALATED: Final = ", ".join(
    f"coalesce(sum({name}), 0) AS {name}" for name in ("incidents", "repeats", "human", "answered", "answer_ms")
)
_GATES: Final = ", ".join(f"sum({name}) AS {name}" for name in ("passed", "failed", "skipped", "not_triggered"))
_WITHIN: Final = "WHERE day BETWEEN ? AND ?"
_DELIVERED: Final = ("assigned", "completed", "accepted", "failed", "escalated")
"""What is told of each day."""
DAILY: Final = ("day", *_DELIVERED, *COUNTS)
"""The columns of a day."""
_NARROW: Final = 20_000
"""A part of the log with fewer envelopes is gone through; in a greater one the greatest of all are soon found."""
_AGES: Final = (("under an hour", 3_600), ("under a day", 86_400), ("under a week", 604_800))


def gather(database: Database, days: Days, policy: Policy | None, now: datetime) -> Row:
    """Everything that the report says."""
    span = (days.first, days.last)
    return {
        "days": {"first": days.first, "last": days.last},
        "integrity": integrity(database),
        "begun": _begun(database, days),
        "work": rows(database, f"SELECT {_WORK} FROM agent_days {_WITHIN}", span)[0],  # noqa: S608 - our own words
        "agents": _agents(database, span),
        "standing": rows(
            database, "SELECT state, sum(tasks) AS tasks FROM standing GROUP BY state HAVING sum(tasks) > 0"
        ),
        "throughput": _throughput(database, days),
        "cycles": _cycles(database, days),
        "failed": _failed(database, days),
        "escalations": _escalations(database, span),
        "gates": _gates(database, span),
        "spending": spending(database, span, policy),
        "budgets": _budgets(database, days.month, policy, now),
        "trees": _trees(database, days),
        "slowest": _slowest(database, days),
        "open": _open(database, now),
    }


def daily(found: Row) -> list[Row]:
    """What happened and what was spent on each day on which anything was, of what `gather` has found."""
    nothing: Row = {**dict.fromkeys(_DELIVERED, 0), **dict.fromkeys(COUNTS), "calls": 0, "unpriced_calls": 0}
    days: dict[str, Row] = {}
    for row in (*found["throughput"], *found["spending"]["days"]):
        days[row["day"]] = days.get(row["day"], nothing) | row
    return [days[day] for day in sorted(days)]


def integrity(database: Database) -> Row:
    """Up to where the log was folded, and the head of its chain there, which `bus verify` can check later."""
    checkpoint = database.checkpoint()
    aside: int = value(database, "SELECT count(*) FROM set_aside")
    return {
        "position": str(checkpoint.position),
        "envelopes": checkpoint.folded,
        "head": checkpoint.head.hex(),
        "set_aside": aside,
    }


def spending(database: Database, span: tuple[str, str], policy: Policy | None) -> Row:
    """What was spent: in all, by provider, model, agent, tier and day; the dearest first, days in their order."""
    added = ", ".join(f"{summed(name)} AS {name}" for name in COUNTS)
    found = rows(
        database,
        f"SELECT agent, provider, model, {added} FROM spending {_WITHIN} GROUP BY agent, provider, model",  # noqa: S608
        span,
    )
    by_day = rows(database, f"SELECT day, {added} FROM spending {_WITHIN} GROUP BY day", span)  # noqa: S608 - the same
    tiers = (
        [row | {"tier": policy.tier(row["agent"], row["provider"], row["model"])} for row in found] if policy else []
    )
    return {
        "total": _added(found, ())[0] if found else {**dict.fromkeys(COUNTS), "calls": 0, "unpriced_calls": 0},
        "providers": _added(found, ("provider",)),
        "models": _added(found, ("provider", "model")),
        "agents": _added(found, ("agent",)),
        "tiers": _added(tiers, ("tier",)),
        "days": by_day,
    }


def _added(found: Sequence[Row], by: tuple[str, ...]) -> list[Row]:
    groups: dict[tuple[object, ...], Row] = {}
    for row in found:
        key = tuple(row[name] for name in by)
        sums = groups.setdefault(key, {**dict(zip(by, key, strict=True)), **dict.fromkeys(COUNTS)})
        for name in COUNTS:
            sums[name] = plus(sums[name], row[name])
    return sorted(groups.values(), key=lambda row: (-(row["cost_microusd"] or 0), -row["calls"], str(row)))


def _begun(database: Database, days: Days) -> int:
    found: int = value(database, "SELECT count(*) FROM tasks WHERE created >= ? AND created < ?", days.bounds)
    return found


def _agents(database: Database, span: tuple[str, str]) -> list[Row]:
    return rows(
        database,
        f"SELECT agent, {_WORK} FROM agent_days {_WITHIN} GROUP BY agent "  # noqa: S608 - our own words
        "ORDER BY sum(accepted) DESC, sum(completed) DESC, sum(assigned) DESC, agent",
        span,
    )


def _throughput(database: Database, days: Days) -> list[Row]:
    sums = ", ".join(f"sum({name}) AS {name}" for name in _DELIVERED)
    found = rows(
        database,
        f"SELECT day, {sums} FROM agent_days {_WITHIN} GROUP BY day ORDER BY day",  # noqa: S608 - our own words
        (days.first, days.last),
    )
    if not found:
        return []
    # A day on which nothing happened is one of the days; those before the first and after the last are not told.
    known = {row["day"]: row for row in found}
    nothing = dict.fromkeys(_DELIVERED, 0)
    first, last = found[0]["day"], found[-1]["day"]
    return [known.get(day, {"day": day} | nothing) for day in days.each() if first <= day <= last]


def _cycles(database: Database, days: Days) -> Row:
    """From being taken on to the completion: percentiles only of whole months, by which the histogram is kept."""
    found: Row = {"deliveries": 0, "p50_ms": None, "p95_ms": None}
    if days.months is None:
        return found
    buckets = rows(
        database,
        "SELECT bucket_ms, sum(deliveries) AS deliveries FROM cycles WHERE month BETWEEN ? AND ? "
        "GROUP BY bucket_ms ORDER BY bucket_ms",
        days.months,
    )
    found["deliveries"] = total = sum(row["deliveries"] for row in buckets)
    upto = 0
    for row in buckets:
        upto += row["deliveries"]
        for name, share in (("p50_ms", 50), ("p95_ms", 95)):
            if found[name] is None and 100 * upto >= share * total:
                found[name] = row["bucket_ms"]
    return found


def _failed(database: Database, days: Days) -> Row:
    """Tasks that failed, or were declined, in the period, and that nobody has delegated again."""
    # An index has the number of the newest envelope, which may be a later one that says what was set aside.
    failed = "FROM tasks WHERE state IN ('failed', 'rejected') AND n >= ? AND finished >= ? AND finished < ?"
    asked = (days.period.numbers(database)[0], *days.bounds)
    return {
        "tasks": value(database, f"SELECT count(*) {failed}", asked),
        "newest": rows(
            database,
            "SELECT t.id, t.state, t.assignee, t.finished, t.attempt, t.goal, e.summary "  # noqa: S608 - our own words
            f"FROM (SELECT * {failed} ORDER BY finished DESC, n DESC LIMIT ?) AS t "
            "JOIN events AS e ON e.n = (SELECT max(n) FROM transitions WHERE task = t.id) "
            "ORDER BY t.finished DESC, t.n DESC",
            (*asked, LISTED),
        ),
        "parked_now": value(database, "SELECT count(*) FROM parked WHERE state = 'parked'"),
    }


def _escalations(database: Database, span: tuple[str, str]) -> Row:
    return {
        "total": rows(database, f"SELECT {_ESCALATED} FROM escalation_days {_WITHIN}", span)[0],  # noqa: S608 - our own
        "categories": rows(
            database,
            f"SELECT category, {_ESCALATED} FROM escalation_days {_WITHIN} "  # noqa: S608 - the same
            "GROUP BY category ORDER BY incidents DESC, category",
            span,
        ),
        "agents": rows(
            database,
            f"SELECT agent, {_ESCALATED} FROM escalation_days {_WITHIN} "  # noqa: S608 - the same
            "GROUP BY agent ORDER BY incidents DESC, agent LIMIT ?",
            (*span, LISTED),
        ),
        "open_now": value(database, "SELECT count(*) FROM escalations WHERE outcome IS NULL"),
    }


def _gates(database: Database, span: tuple[str, str]) -> Row:
    return {
        "layers": rows(database, f"SELECT layer, {_GATES} FROM gate_days {_WITHIN} GROUP BY layer", span),  # noqa: S608
        "failing": rows(
            database,
            f"SELECT agent, model, {_GATES} FROM gate_days {_WITHIN} GROUP BY agent, model "  # noqa: S608 - our own
            "HAVING sum(failed) > 0 ORDER BY sum(failed) DESC, agent, model LIMIT ?",
            (*span, LISTED),
        ),
    }


def _budgets(database: Database, month: str, policy: Policy | None, now: datetime) -> Row:
    providers = outlook.budgets(database, "provider", policy.cap if policy else _uncapped, month, now)
    agents = outlook.budgets(database, "agent", policy.agent_cap if policy else _uncapped, month, now)
    coming = outlook.forecast(database, month, now)
    return {
        "month": month,
        "providers": providers,
        "agents": [row for row in agents if row["cap_microusd"] is not None],
        "decisions": rows(
            database,
            "SELECT decided, decided_by, account, period, microusd, reason FROM cap_decisions "
            "WHERE decided >= ? AND decided < ? ORDER BY n DESC LIMIT ?",
            (f"{month}-01", f"{month}-32", LISTED),
        ),
        "warnings": rows(
            database,
            "SELECT warned, account, span, cap_microusd, committed_microusd, held_microusd FROM budget_warnings "
            "WHERE warned >= ? AND warned < ? ORDER BY n DESC LIMIT ?",
            (f"{month}-01", f"{month}-32", LISTED),
        ),
        "expected_microusd": coming.microusd if coming else None,
        "method": coming.method if coming else None,
    }


def _uncapped(name: str) -> int | None:
    """Without a policy nothing has a cap."""
    del name
    return None


def _trees(database: Database, days: Days) -> list[Row]:
    """The dearest of the trees that were worked on in the period, each with all that it has cost."""
    first, last = days.period.numbers(database)
    columns = "s.root, t.state, t.assignee, t.goal, s.calls, s.unpriced_calls, s.cost_microusd"
    within = (
        "s.root IN (SELECT root FROM usage WHERE n BETWEEN ? AND ?)"
        if last - first < _NARROW
        else "EXISTS (SELECT 1 FROM usage AS u WHERE u.root = s.root AND u.n BETWEEN ? AND ?)"
    )
    return rows(
        database,
        f"SELECT {columns} FROM tree_spending AS s LEFT JOIN tasks AS t ON t.id = s.root "  # noqa: S608 - our own words
        f"WHERE s.cost_microusd IS NOT NULL AND {within} ORDER BY s.cost_microusd DESC LIMIT ?",
        (first, last, LISTED),
    )


def _slowest(database: Database, days: Days) -> list[Row]:
    """The tasks that ended in the period and took longest, from the first delegation on."""
    first, last = days.period.numbers(database)
    where, values = "elapsed_ms IS NOT NULL AND finished >= ? AND finished < ?", [*days.bounds]
    narrow = " AND id IN (SELECT task FROM transitions WHERE n BETWEEN ? AND ?)" if last - first < _NARROW else ""
    return rows(
        database,
        "SELECT id, state, assignee, attempt, elapsed_ms, submitted_ms, working_ms, input_required_ms, completed_ms, "  # noqa: S608 - our own words
        f"escalated_ms, goal FROM tasks WHERE {where}{narrow} ORDER BY elapsed_ms DESC LIMIT ?",
        (*values, *((first, last) if narrow else ()), LISTED),
    )


def _open(database: Database, now: datetime) -> Row:
    """Tasks for which somebody owes something, by age, and the oldest of them."""
    counted = "SELECT count(*) FROM tasks WHERE finished IS NULL AND created > ?"
    total: int = value(database, "SELECT count(*) FROM tasks WHERE finished IS NULL")
    ages: list[Row] = []
    before = 0
    for name, seconds in _AGES:
        younger: int = value(database, counted, (instant(now - timedelta(seconds=seconds)),))
        ages.append({"age": name, "tasks": younger - before})
        before = younger
    return {
        "tasks": total,
        "ages": [*ages, {"age": "a week and more", "tasks": total - before}],
        "oldest": rows(
            database,
            "SELECT id, state, holder, assignee, attempt, created, since, deadline, goal FROM open_work LIMIT ?",
            (LISTED,),
        ),
    }
