"""Amounts of money as people read them. Owns their one form; called by whatever tells of money."""

from __future__ import annotations


def dollars(microusd: int) -> str:
    """Microdollars as dollars, with every digit that there is: at least two after the point."""
    whole, micros = divmod(microusd, 1_000_000)
    digits = f"{micros:06d}".rstrip("0").ljust(2, "0")
    return f"${whole:,}.{digits}"
