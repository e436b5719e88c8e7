"""Measuring: how many times as many tokens one model for all would have used for a call.

Either somebody says so, or it is measured: the mean of the reference's calls against the mean of all others. Where
neither is, nothing is supposed. Called by `taskbus_projections.what_if`.
"""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from typing import TYPE_CHECKING, Final, Literal, NamedTuple

from taskbus_projections.patterns import Patterns
from taskbus_projections.period import Period

if TYPE_CHECKING:
    from taskbus_projections.calls import Call
    from taskbus_projections.database import Database
    from taskbus_projections.supposing import Cause, Factor, Reference, Supposition

_COLUMNS: Final[dict[Cause, str]] = {"context": "input_tokens", "tokens": "output_tokens"}


class Mean(NamedTuple):
    """Tokens of calls that say how many they used."""

    calls: int = 0
    tokens: int = 0

    @property
    def value(self) -> Fraction | None:
        """The mean; None without a call."""
        return Fraction(self.tokens, self.calls) if self.calls else None


@dataclass(frozen=True, slots=True)
class Measure:
    """How a cause was measured. `factor` is None where it could not be, or nobody asked for it.

    `reference` and `others` are what was measured; `scope` tells the calls of the reference, which stay as they are.
    """

    basis: Literal["assumed", "measured", "not measured"]
    factor: Fraction | None = None
    reference: Mean | None = None
    others: Mean | None = None
    scope: Scope | None = None

    def factor_of(self, call: Call) -> Fraction | None:
        """How many times as many tokens one model for all would have used for a call; None for as many as it did."""
        if self.scope is not None and self.scope.holds(call.n, call.agent, call.provider, call.model):
            return None
        return self.factor


class Scope:
    """The calls of a reference."""

    def __init__(self, reference: Reference, first: int, last: int) -> None:
        self._first, self._last = first, last
        self._agents = Patterns([(reference.agent or "*", True)])
        self._models = Patterns([(reference.model or "*", True)])

    def holds(self, n: int, agent: str, provider: str, model: str) -> bool:
        """Whether a call of an envelope is one of them."""
        return self._first <= n <= self._last and self.names(agent, provider, model)

    def names(self, agent: str, provider: str, model: str) -> bool:
        """Whether it is one by who called what, whenever that was."""
        return bool(self._agents.find(agent) and self._models.find(f"{provider}/{model}", model))


def measured(database: Database, supposed: Supposition, period: Period) -> dict[Cause, Measure]:
    """How less context and fewer tokens are measured, as the policy wants it."""
    found: dict[Cause, Measure] = {}
    wishes: tuple[tuple[Cause, Factor], ...] = (("context", supposed.context), ("tokens", supposed.tokens))
    for cause, wanted in wishes:
        if wanted == "measured" and supposed.reference is not None:
            found[cause] = _against(database, _COLUMNS[cause], supposed.reference, period)
        elif isinstance(wanted, Fraction):
            found[cause] = Measure("assumed", wanted)
        else:
            found[cause] = Measure("not measured")
    return found


def _against(database: Database, column: str, reference: Reference, period: Period) -> Measure:
    known = Period(reference.start or period.start, reference.end or period.end).numbers(database)
    first, last = period.numbers(database)
    scope = Scope(reference, *known)
    named = _mean(database, column, known, scope)
    # The others are all calls of the period, without those of the reference in it.
    whole = _mean(database, column, (first, last), None)
    within = _mean(database, column, (max(first, known[0]), min(last, known[1])), scope)
    others = Mean(whole.calls - within.calls, whole.tokens - within.tokens)
    if named.value is None or not others.value:
        return Measure("not measured", reference=named, others=others)
    return Measure("measured", named.value / others.value, named, others, scope)


def _mean(database: Database, column: str, numbers: tuple[int, int], scope: Scope | None) -> Mean:
    rows = database.connection.execute(
        f"SELECT agent, provider, model, count({column}), "  # noqa: S608 - our own words
        # In halves, of which none can be too great for SQLite.
        f"coalesce(sum({column} >> 32), 0), coalesce(sum({column} & 4294967295), 0) FROM usage "
        "WHERE n BETWEEN ? AND ? GROUP BY agent, provider, model",
        numbers,
    )
    calls = tokens = 0
    for agent, provider, model, counted, high, low in rows:
        if scope is None or scope.names(agent, provider, model):
            calls, tokens = calls + counted, tokens + (high << 32) + low
    return Mean(calls, tokens)
