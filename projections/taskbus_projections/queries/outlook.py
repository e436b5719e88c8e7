"""The outlook: what a month has cost, what is left of its caps, and what it will have cost at its end.

Owns the forecast and how it is reckoned, which is said with it. Called by `bus costs --month` and the reports.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Final, Literal

from taskbus_projections.period import days_of, month_of
from taskbus_projections.queries.answer import rows, summed, value

if TYPE_CHECKING:
    from collections.abc import Callable

    from taskbus_projections.database import Database
    from taskbus_projections.queries.answer import Row

WINDOW: Final = 14
"""At most so many whole days, the newest, say how much a day costs."""
_LEAST: Final = 1 / 24
"""Without a whole day, so much of this one must have passed for it to say anything, in days."""


@dataclass(frozen=True, slots=True)
class Forecast:
    """What a running month will have cost, in microdollars.

    `daily` is what a day costs, from `days` days; `left` is how many days of the month are to come. `method` says so
    in words.
    """

    microusd: int
    daily: float
    days: float
    left: float
    method: str


def budgets(
    database: Database,
    of: Literal["provider", "agent"],
    cap: Callable[[str], int | None],
    month: str,
    now: datetime,
) -> list[Row]:
    """What each provider or agent has spent in a month, with its cap, what is left, and what is to be expected.

    Those that spent something in this month or the one before, have a hold or a cap on record, the dearest first. A cap
    on record goes before what `cap` says, as `cap_recorded` tells. `held_microusd` is what the holds reserve that were
    made in that month and are open. `expected_microusd` is None outside the running month; `left_microusd` is without
    what is held, below zero where a cap was exceeded, None without one: what a run costs that was told in another month
    than its money was reserved counts in the latter, as it does on the server.
    """
    first = f"{_before(month)}-01"
    found = rows(
        database,
        f"SELECT {of}, total(calls) FILTER (WHERE day >= :month) AS calls, "  # noqa: S608 - one of two words of our own
        "total(unpriced_calls) FILTER (WHERE day >= :month) AS unpriced_calls, "
        f"{summed('cost_microusd', 'day >= :month')} AS cost_microusd "
        f"FROM spending WHERE day BETWEEN :first AND :last GROUP BY {of}",
        {"month": f"{month}-01", "first": first, "last": f"{month}-31"},
    )
    counted = _counted(database, of, month)
    nothing: Row = {"calls": 0, "unpriced_calls": 0, "cost_microusd": None}
    recorded = _recorded(database, of)
    found += [{of: name} | nothing for name in sorted((counted.keys() | recorded.keys()) - {row[of] for row in found})]
    budgets: list[Row] = []
    for row in found:
        name: str = row[of]
        limit = recorded[name] if name in recorded else cap(name)
        committed, held = counted.get(name, (0, 0))
        coming = forecast(database, month, now, of=(of, name))
        budgets.append(
            row
            | {
                "calls": int(row["calls"]),
                "unpriced_calls": int(row["unpriced_calls"]),
                "cap_microusd": limit,
                "cap_recorded": name in recorded,
                "held_microusd": held,
                "left_microusd": None if limit is None else limit - committed - held,
                "expected_microusd": coming.microusd if coming else None,
            }
        )
    return sorted(budgets, key=lambda row: (-(row["cost_microusd"] or 0), row[of]))


def forecast(
    database: Database, month: str, now: datetime, *, of: tuple[Literal["provider", "agent"], str] | None = None
) -> Forecast | None:
    """What the running month will have cost; None for another month, or where nothing says what a day costs.

    Unpriced calls are in none of it.
    """
    now = now.astimezone(UTC)
    if month != month_of(now):
        return None
    today = now.replace(hour=0, minute=0, second=0, microsecond=0)
    first = value(database, "SELECT min(day) FROM spending")
    if first is None:
        return None
    begun = max(datetime.fromisoformat(first).replace(tzinfo=UTC), today - timedelta(days=WINDOW))
    spent = _spent(database, f"{month}-01", f"{now:%Y-%m-%d}", of)
    left = (today.replace(day=1) + timedelta(days=days_of(month)) - now) / timedelta(days=1)
    whole = (today - begun).days
    if whole > 0:
        days = float(whole)
        daily = _spent(database, f"{begun:%Y-%m-%d}", f"{today - timedelta(days=1):%Y-%m-%d}", of) / days
        basis = f"the mean of the last {whole} whole days" if whole > 1 else "what yesterday cost"
    else:
        days = (now - today) / timedelta(days=1)
        if days < _LEAST:
            return None
        daily = _spent(database, f"{now:%Y-%m-%d}", f"{now:%Y-%m-%d}", of) / days
        basis = "at the rate of today, the first day"
    method = f"what was spent until now, and {basis} for each of the {left:.1f} days that are left"
    return Forecast(round(spent + daily * left), daily, days, left, method)


def _counted(database: Database, of: Literal["provider", "agent"], month: str) -> dict[str, tuple[int, int]]:
    """What caps of a month are compared with, by name: what is committed, and what is held."""
    found = rows(
        database,
        "SELECT substr(account, ?) AS name, committed_microusd AS committed, held_microusd AS held FROM accounts "
        "WHERE span = ? AND period = 'month' AND account GLOB ? AND committed_microusd + held_microusd > 0",
        (len(of) + 2, month, f"{of}:*"),
    )
    return {row["name"]: (row["committed"], row["held"]) for row in found}


def _recorded(database: Database, of: Literal["provider", "agent"]) -> dict[str, int | None]:
    """The caps by month that a human has decided on, by name; None for the decision that there is none."""
    found = rows(
        database,
        "SELECT substr(account, ?) AS name, microusd, max(n) FROM cap_decisions "
        "WHERE account >= ? AND account < ? AND period = 'month' GROUP BY account",
        (len(of) + 2, f"{of}:", f"{of};"),
    )
    return {row["name"]: row["microusd"] for row in found}


def _spent(database: Database, first: str, last: str, of: tuple[str, str] | None) -> int:
    column, name = of or ("", "")
    found: int | None = value(
        database,
        f"SELECT {summed('cost_microusd')} FROM spending WHERE day BETWEEN ? AND ?"  # noqa: S608 - one of two words of our own
        + (f" AND {column} = ?" if of else ""),
        (first, last, *([name] if of else [])),
    )
    return found or 0


def _before(month: str) -> str:
    return month_of(datetime.fromisoformat(f"{month}-01").replace(tzinfo=UTC) - timedelta(days=1))
