"""Published prices: those of the package genai-prices, as it was installed, in whole microdollars per million tokens.

Never fetched: only the data that came with the package is read, whatever else a process may have loaded into it, so
that a price always belongs to the version that is named with it. A model that the package does not know, or whose
price is not one per token, has none. Called by `taskbus_projections.quotes`; slow to import, so imported late.
"""

from __future__ import annotations

from decimal import ROUND_HALF_UP, Decimal
from functools import cache
from typing import TYPE_CHECKING, Final

from genai_prices import __version__
from genai_prices.data import providers
from genai_prices.data_snapshot import DataSnapshot
from genai_prices.types import TieredPrices

from taskbus_projections.pricing import Above, Price

if TYPE_CHECKING:
    from datetime import datetime

    from genai_prices.types import ModelInfo, ModelPrice

TABLE: Final = f"genai-prices {__version__}"
"""The version that stands beside whatever is priced with this table."""

_CLASSES: Final = {
    "input": "input_mtok",
    "output": "output_mtok",
    "cache_read": "cache_read_mtok",
    "cache_write": "cache_write_mtok",
    "reasoning": "output_reasoning_mtok",
    "cache_write_hour": "cache_write_1h_mtok",
}
_SNAPSHOT: Final = DataSnapshot(providers=providers, from_auto_update=False)


def published(provider: str, model: str, when: datetime) -> Price | None:
    """What a model costs at a moment; None where the package does not say.

    A price that is finer than a microdollar per million tokens is rounded to one, half ones up.
    """
    found = _model(provider, model)
    return None if found is None else _price(found.get_prices(when))


def alike(provider: str, word: str, when: datetime) -> list[str]:
    """The provider's models with a price whose names have a word in them: those that look newest first."""
    try:
        models = _SNAPSHOT.find_provider(None, provider, None).models
    except LookupError:
        return []
    names = sorted((each.id for each in models if word.casefold() in each.id), reverse=True)
    return [each for each in names if published(provider, each, when) is not None]


@cache
def _model(provider: str, model: str) -> ModelInfo | None:
    try:
        return _SNAPSHOT.find_provider_model(model, None, provider, None)[1]
    except LookupError:
        return None


def _price(said: ModelPrice) -> Price | None:
    stated: dict[str, Decimal | TieredPrices] = {}
    for name, key in _CLASSES.items():
        value: Decimal | TieredPrices | None = getattr(said, key)
        if value is not None:
            stated[name] = value
    if not {"input", "output"} <= stated.keys() or said.requests_kcount is not None:
        # Without one of the two, its tokens would seem to be free; and of a fee per request tokens say nothing.
        return None
    starts = {tier.start for value in stated.values() if isinstance(value, TieredPrices) for tier in value.tiers}
    above = tuple(Above(start, Price.of(_amounts(stated, start))) for start in sorted(starts))
    return Price.of(_amounts(stated, None), above)


def _amounts(stated: dict[str, Decimal | TieredPrices], start: int | None) -> dict[str, int]:
    """Each class above a number of tokens of input; the base prices without one."""
    found: dict[str, int] = {}
    for name, value in stated.items():
        amount = value if isinstance(value, Decimal) else value.base
        if start is not None and isinstance(value, TieredPrices):
            amount = next((tier.price for tier in reversed(value.tiers) if tier.start <= start), amount)
        found[name] = int(amount.scaleb(6).quantize(Decimal(1), ROUND_HALF_UP))
    return found
