"""Quotes: what a model costs, by the policy's own table where that says it, else by the published prices.

Owns which table counts, and the name of the table that stands beside each cost in the log. What neither table says is
unpriced, and never zero. Called by whoever reports what a model used, or reserves money for it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from msgspec.structs import replace

from taskbus.envelope import Cost
from taskbus.money import MOST
from taskbus_projections.pricing import Tokens

if TYPE_CHECKING:
    from datetime import datetime

    from taskbus.envelope import Usage
    from taskbus_projections.policy import Policy
    from taskbus_projections.pricing import Price


class Quote(NamedTuple):
    """What a model costs, and the version of the table that says so."""

    price: Price
    table: str


def quote(policy: Policy | None, provider: str, model: str, when: datetime) -> Quote | None:
    """What a model costs at a moment; None where no table says it. Asks no network."""
    own = policy.price(provider, model) if policy else None
    if policy and own is not None:
        return Quote(own, policy.table)
    from taskbus_projections.published import TABLE, published

    found = published(provider, model, when)
    return None if found is None else Quote(found, TABLE)


def priced(policy: Policy | None, used: Usage, when: datetime, *, context: int | None = None) -> Usage:
    """What was used, with its cost where that was not reported and the tables and counts say it; else as it is.

    `context` is the input of the longest call where the counts are those of several, which matters for prices of long
    contexts. A cost that is more than any account can count is none.
    """
    if used.cost is not None:
        return used
    found = quote(policy, used.provider, used.model, when)
    cost = None if found is None else found.price.cost(tokens_of(used), context=context)
    if found is None or cost is None or cost > MOST:
        return used
    return replace(used, cost=Cost(source="priced", table=found.table, microusd=cost))


def tokens_of(used: Usage) -> Tokens:
    """The counts of a usage."""
    return Tokens(
        input=used.input_tokens,
        output=used.output_tokens,
        cache_read=used.cache_read_tokens,
        cache_write=used.cache_write_tokens,
        reasoning=used.reasoning_tokens,
        cache_write_hour=used.cache_write_hour_tokens,
    )
