"""Spending: what calls of models cost, added up in every way that somebody asks for.

Money is in microdollars, and what is unpriced is counted beside it, never as zero. Sums of days, tasks and trees are
kept by the read model `usage`; nothing here adds up the whole ledger. Called by `bus costs`, `bus task` and reports.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Literal, TypeAlias

from taskbus.errors import UsageError
from taskbus_projections.period import Period
from taskbus_projections.queries.answer import Page, Where, at_most, rows, summed
from taskbus_projections.sums import plus

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from taskbus_projections.database import Database
    from taskbus_projections.queries.answer import Row

Grouping: TypeAlias = Literal["provider", "model", "agent", "tier", "task", "tree", "month", "day"]

GROUPINGS: Final[dict[Grouping, tuple[str, ...]]] = {
    "provider": ("provider",),
    "model": ("provider", "model"),
    "agent": ("agent",),
    "tier": ("tier",),
    "task": ("task",),
    "tree": ("root",),
    "month": ("month",),
    "day": ("day",),
}
"""The columns by which each grouping adds up."""
TOKENS: Final = (
    "input_tokens",
    "output_tokens",
    "cache_read_tokens",
    "cache_write_tokens",
    "reasoning_tokens",
)
COUNTS: Final = ("calls", "unpriced_calls", "cost_microusd", *TOKENS)

_ADDED: Final = ", ".join(f"{summed(name)} AS {name}" for name in COUNTS)
"""Of sums that are kept already."""
SUMS: Final = ", ".join(
    (
        "count(*) AS calls",
        "count(*) - count(cost_microusd) AS unpriced_calls",
        *(f"{summed(name)} AS {name}" for name in COUNTS[2:]),
    )
)
"""Of single calls."""
_KEPT: Final = {"task": "task_spending", "tree": "tree_spending"}
_STEP, _FURTHEST = 200, 1_000
"""So many tasks or trees are looked at at once, and in all, before every call is."""
_DAYS: Final[dict[str, str]] = {"month": "substr(day, 1, 7)", "day": "day"}
_CALLS: Final[dict[str, str]] = {"month": "substr(time, 1, 7)", "day": "substr(time, 1, 10)"}


@dataclass(frozen=True, slots=True)
class Spent:
    """Which calls are meant: of a task, of a tree, of an agent, of a provider, of a month (2026-11); all at once."""

    task: str | None = None
    root: str | None = None
    agent: str | None = None
    provider: str | None = None
    month: str | None = None


def costs(database: Database, by: Grouping, spent: Spent | None = None, *, limit: int | None = None) -> Page:
    """Calls, tokens and costs by one grouping, the dearest first; days and months in their order.

    A grouping by tier is `tiers`, which needs a policy. Raises UsageError for tasks or trees of an agent or provider
    without a month.
    """
    asked = spent or Spent()
    most = at_most(None if limit is None else limit + 1)
    found = _kept(database, by, most) if by in _KEPT and asked == Spent() else _grouped(database, by, asked, most)
    return Page(found[:limit], more=limit is not None and len(found) > limit)


def tiers(database: Database, tier: Callable[[str, str, str], str | None], spent: Spent | None = None) -> list[Row]:
    """The same by tier: that of an agent, a provider and a model. What belongs to none has the tier None."""
    found: dict[str | None, Row] = {}
    for row in _sums(database, ("agent", "provider", "model"), spent or Spent()):
        name = tier(row["agent"], row["provider"], row["model"])
        sums = {count: row[count] for count in COUNTS}
        found[name] = {"tier": name} | (added(found[name], sums) if name in found else sums)
    return sorted(found.values(), key=_dearest)


def total(database: Database, spent: Spent | None = None) -> Row:
    """Calls, tokens and costs of everything, or of what is meant."""
    asked = spent or Spent()
    if asked.task is not None and asked == Spent(task=asked.task):
        found = rows(database, f"SELECT {', '.join(COUNTS)} FROM task_spending WHERE task = ?", (asked.task,))  # noqa: S608 - names of our own
    elif asked.root is not None and asked == Spent(root=asked.root):
        found = rows(database, f"SELECT {', '.join(COUNTS)} FROM tree_spending WHERE root = ?", (asked.root,))  # noqa: S608 - the same
    else:
        found = _sums(database, (), asked)
    nothing: Row = {**dict.fromkeys(COUNTS), "calls": 0, "unpriced_calls": 0}
    return found[0] if found and found[0]["calls"] else nothing


def added(one: Row, other: Row) -> Row:
    """Two rows as one; what is known of neither stays unknown."""
    return one | {count: plus(one[count], other[count]) for count in COUNTS}


def _kept(database: Database, by: Grouping, most: int) -> list[Row]:
    """Tasks or trees from their own sums: in the order of an index, first those that have a price."""
    (key,), table = GROUPINGS[by], _KEPT[by]
    part = f"SELECT {key}, {', '.join(COUNTS)} FROM {table} WHERE cost_microusd"  # noqa: S608 - names of our own
    return rows(
        database,
        f"SELECT * FROM (SELECT * FROM ({part} >= 0 ORDER BY cost_microusd DESC, {key} DESC LIMIT :most) UNION ALL "  # noqa: S608 - the same
        f"SELECT * FROM ({part} IS NULL ORDER BY {key} DESC LIMIT :most)) LIMIT :most",
        {"most": most},
    )


def _grouped(database: Database, by: Grouping, asked: Spent, most: int) -> list[Row]:
    if by in _KEPT and asked.task is asked.root is asked.month is None:
        raise UsageError(
            f"Costs of an agent or a provider by {by} are in no sum that is kept: every call would have to be read.",
            advice="Say of which month, or of which tree: --month 2026-11.",
        )
    columns = GROUPINGS[by]
    order = columns if by in ("month", "day") else ("cost_microusd DESC NULLS LAST", "calls DESC", *columns)
    last = f"ORDER BY {', '.join(order)} LIMIT {most}"
    if by not in _KEPT or most < 0:
        return _sums(database, columns, asked, last)
    found = _dearest_first(database, by, asked, most)
    return _sums(database, columns, asked, last) if found is None else found


def _dearest_first(database: Database, by: Grouping, asked: Spent, most: int) -> list[Row] | None:
    """The dearest tasks or trees of some calls, from those that are dearest in all; None where that leads too far.

    None can have cost more in a month than in all, so what comes after them need not be looked at.
    """
    (key,) = GROUPINGS[by]
    found: list[Row] = []
    if (asked.task, asked.root, asked.agent) != (None, None, None):
        return None  # few enough to be added up call by call
    kept = database.connection.execute(
        f"SELECT {key}, cost_microusd FROM {_KEPT[by]} WHERE cost_microusd >= 0 ORDER BY cost_microusd DESC LIMIT ?",  # noqa: S608 - our own words
        (_FURTHEST,),
    )
    while part := kept.fetchmany(_STEP):
        found += _sums(database, (key,), asked, only=[name for name, _ in part])
        found.sort(
            key=lambda row: (row["cost_microusd"] is None, -(row["cost_microusd"] or 0), -row["calls"], row[key])
        )
        del found[most:]
        if len(found) == most and (found[-1]["cost_microusd"] or 0) > part[-1][1]:
            return found
    return None


def _sums(
    database: Database, columns: tuple[str, ...], asked: Spent, last: str = "", *, only: Sequence[str] = ()
) -> list[Row]:
    """The sums of what is meant: from those of days where they have what is asked for, else call by call."""
    by_day = asked.task is None and asked.root is None and not {"task", "root"} & set(columns)
    where = _days(asked) if by_day else _calls(database, asked, ranged="+n" if only else "n")
    where.among(columns[0] if columns else "", only)
    spans = _DAYS if by_day else _CALLS
    named = [spans.get(name, name) for name in columns]
    shown = "".join(f"{sql} AS {name}, " for sql, name in zip(named, columns, strict=True))
    group = f"GROUP BY {', '.join(named)}" if named else ""
    table, sums = ("spending", _ADDED) if by_day else ("usage", SUMS)
    return rows(
        database,
        f"SELECT {shown}{sums} FROM {table} {where} {group} {last}",  # noqa: S608 - our own words
        where.values,
    )


def _days(asked: Spent) -> Where:
    where = Where()
    where.equal("agent", asked.agent)
    where.equal("provider", asked.provider)
    if asked.month is not None:
        where.add("day BETWEEN ? AND ?", f"{asked.month}-01", f"{asked.month}-31")
    return where


def _calls(database: Database, asked: Spent, *, ranged: str = "n") -> Where:
    where = Where()
    for column, wanted in (("task", asked.task), ("root", asked.root), ("agent", asked.agent)):
        where.equal(column, wanted)
    where.equal("provider", asked.provider)
    if asked.month is not None:
        # A task or a tree has fewer calls than a month.
        range_ = "+n" if asked.task or asked.root else ranged
        where.add(f"{range_} BETWEEN ? AND ?", *Period.read(None, None, asked.month).numbers(database))
    return where


def _dearest(row: Row) -> tuple[bool, int, int, str]:
    return row["cost_microusd"] is None, -(row["cost_microusd"] or 0), -row["calls"], row["tier"] or ""
