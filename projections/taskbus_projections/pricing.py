"""Prices: what the tokens of a call cost, in whole microdollars, without a float on the way.

A price is in US dollars per million tokens, which is the same number as microdollars per token; it is kept in
microdollars per million tokens. What is not known, because a count is missing or the counts contradict each other,
is None and never zero. Where prices come from is said in `taskbus_projections.quotes`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Mapping
    from fractions import Fraction

MILLION: Final = 1_000_000


class Tokens(NamedTuple):
    """What a call used, None where it was not said: input with that of the cache, output with that of reasoning.

    `cache_write_hour` are those of `cache_write` that the cache keeps for an hour, which cost more.
    """

    input: int | None
    output: int | None
    cache_read: int | None = None
    cache_write: int | None = None
    reasoning: int | None = None
    cache_write_hour: int | None = None

    def with_context(self, factor: Fraction) -> Tokens:
        """The same with so many times the input, each class in whole tokens."""
        written = _rest(self, factor)
        return self._replace(
            input=_times(self.input, factor),
            cache_read=_times(self.cache_read, factor, most=_times(self.input, factor)),
            cache_write=written,
            cache_write_hour=_times(self.cache_write_hour, factor, most=written),
        )

    def with_answers(self, factor: Fraction) -> Tokens:
        """The same with so many times the output, each class in whole tokens."""
        output = _times(self.output, factor)
        return self._replace(output=output, reasoning=_times(self.reasoning, factor, most=output))


class Above(NamedTuple):
    """What a call with more than so many tokens of input costs, all of it, instead of the price around it."""

    start: int
    price: Price


@dataclass(frozen=True, slots=True)
class Price:
    """What a model costs, in microdollars per million tokens of each class.

    Without a price of their own, tokens from and into a cache cost what input costs, those that the cache keeps for an
    hour what others into it cost, and those of reasoning what output costs. `above` are the prices of long contexts,
    in the order of where they begin.
    """

    input: int
    output: int
    cache_read: int | None = None
    cache_write: int | None = None
    reasoning: int | None = None
    cache_write_hour: int | None = None
    above: tuple[Above, ...] = ()

    @classmethod
    def of(cls, amounts: Mapping[str, int], above: tuple[Above, ...] = ()) -> Price:
        """A price of the amounts of its classes by their names, of which input and output must be there."""
        return cls(
            input=amounts["input"],
            output=amounts["output"],
            cache_read=amounts.get("cache_read"),
            cache_write=amounts.get("cache_write"),
            reasoning=amounts.get("reasoning"),
            cache_write_hour=amounts.get("cache_write_hour"),
            above=above,
        )

    def cost(self, tokens: Tokens, *, context: int | None = None, whole: bool = False) -> int | None:
        """What a call costs in microdollars, half ones rounded up; None where its counts do not say.

        `whole` rounds every part of one up, for what is reserved: what is not free is then never worth nothing.
        What a class costs that is free need not be known. Counts of several calls together need `context`, the input
        of the longest of them: without it, they are priced as one call, which can only be too much.
        """
        if self.above:
            size = tokens.input if context is None else context
            if size is None:
                return None
            long = next((each.price for each in reversed(self.above) if size > each.start), None)
            if long is not None:
                return long.cost(tokens, whole=whole)
        read = self.input if self.cache_read is None else self.cache_read
        write = self.input if self.cache_write is None else self.cache_write
        kept = write if self.cache_write_hour is None else self.cache_write_hour
        thought = self.output if self.reasoning is None else self.reasoning
        hour = tokens.cache_write_hour or 0
        soon = (tokens.cache_write or 0) - hour
        if soon < 0:
            return None
        put_in = _sum(tokens.input, self.input, (tokens.cache_read or 0, read), (soon, write), (hour, kept))
        put_out = _sum(tokens.output, self.output, (tokens.reasoning or 0, thought))
        if put_in is None or put_out is None:
            return None
        return (put_in + put_out + (MILLION - 1 if whole else MILLION // 2)) // MILLION


def _sum(total: int | None, price: int, *parts: tuple[int, int]) -> int | None:
    if not price and not any(each for _, each in parts):
        return 0
    rest = -1 if total is None else total - sum(count for count, _ in parts)
    return None if rest < 0 else rest * price + sum(count * each for count, each in parts)


def _times(count: int | None, factor: Fraction, *, most: int | None = None) -> int | None:
    if count is None:
        return None
    found = (2 * count * factor.numerator + factor.denominator) // (2 * factor.denominator)
    return found if most is None else min(found, most)


def _rest(tokens: Tokens, factor: Fraction) -> int | None:
    """Tokens into the cache: so that, rounded, they and those from the cache are never more than the input."""
    whole, read = _times(tokens.input, factor), _times(tokens.cache_read, factor)
    consistent = (tokens.cache_read or 0) + (tokens.cache_write or 0) <= (tokens.input or 0)
    room = None if whole is None or not consistent else max(0, whole - (read or 0))
    return _times(tokens.cache_write, factor, most=room)
