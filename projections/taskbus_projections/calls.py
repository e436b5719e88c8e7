"""Calls: every call of a model that the log reports, one after the other, in the order of the log.

Called by what adds them up in ways that no rollup has: `bus what-if`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

from taskbus_projections.pricing import Tokens

if TYPE_CHECKING:
    from collections.abc import Iterator

    from taskbus_projections.database import Database
    from taskbus_projections.period import Period

_CALLS: Final = (
    "SELECT n, agent, provider, model, substr(time, 1, 7), input_tokens, output_tokens, cache_read_tokens, "
    "cache_write_tokens, reasoning_tokens, cache_write_hour_tokens, cost_microusd FROM usage "
    "WHERE n BETWEEN ? AND ? ORDER BY n, call"
)


class Call(NamedTuple):
    """One call of the log."""

    n: int
    agent: str
    provider: str
    model: str
    month: str
    tokens: Tokens
    recorded: int | None
    """What it cost in microdollars, as the log says; None where it is unpriced."""


def calls(database: Database, period: Period) -> Iterator[Call]:
    """The calls of a period. Nothing of them is kept in memory."""
    for n, agent, provider, model, month, *tokens, recorded in database.connection.execute(
        _CALLS, period.numbers(database)
    ):
        yield Call(n, agent, provider, model, month, Tokens(*tokens), recorded)
