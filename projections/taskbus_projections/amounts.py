"""Amounts and shares, as people read them: no amount but zero is shown as zero, and shares have one decimal."""

from __future__ import annotations

from taskbus.cli import rendering
from taskbus_projections.pricing import MILLION


def dollars(microusd: int) -> str:
    """Microdollars as dollars; what is below zero has its sign before the dollar's."""
    return f"-{rendering.dollars(-microusd)}" if microusd < 0 else rendering.dollars(microusd)


def rounded(microusd: int) -> str:
    """The same for a page: from a dollar on in whole cents, below it with every digit."""
    if abs(microusd) < MILLION:
        return dollars(microusd)
    cents, half = divmod(abs(microusd), 10_000)
    whole, rest = divmod(cents + (half >= 5_000), 100)
    return f"{'-' if microusd < 0 else ''}${whole:,}.{rest:02}"


def change(microusd: int) -> str:
    """A difference in microdollars as dollars, with its sign."""
    return dollars(microusd) if microusd <= 0 else f"+{dollars(microusd)}"


def share(part: int, whole: int) -> str:
    """How much of a whole a part is; nothing of nothing."""
    return f"{100 * part / whole:.1f} %" if whole else ""


def shift(part: int, whole: int) -> str:
    """How much a whole changes by a part, with its sign; nothing of nothing."""
    found = f"{100 * part / whole:+.1f} %" if whole else ""
    return "0.0 %" if found in ("+0.0 %", "-0.0 %") else found


def plural(count: int, word: str) -> str:
    """A count and what is counted."""
    return f"{count:,} {word}{'' if count == 1 else 's'}"
