"""Instants, as the read models keep them: ISO 8601 in UTC, to the millisecond, so that they sort as text."""

from __future__ import annotations

from datetime import UTC, datetime
from functools import lru_cache
from typing import TYPE_CHECKING

from msgspec import json

if TYPE_CHECKING:
    from taskbus.position import Position


def instant(time: datetime) -> str:
    """An aware time, such as `2026-11-20T09:30:00.000Z`; what is finer than a millisecond is dropped."""
    # A tenth of the time of `isoformat`; where there are no microseconds, it writes none.
    text = json.encode(time if time.tzinfo is UTC else time.astimezone(UTC))
    return text[1:24].decode() + "Z" if time.microsecond else text[1:20].decode() + ".000Z"


def appended(position: Position) -> str:
    """When the server appended what stands at a position."""
    seconds, milliseconds = divmod(position.ms, 1000)
    return f"{_second(seconds)}.{milliseconds:03d}Z"


def milliseconds(time: str) -> int:
    """An instant in milliseconds since the epoch."""
    return round(datetime.fromisoformat(time).timestamp() * 1000)


@lru_cache(maxsize=16)  # neighbours in the log were appended within the same second: a third of the time
def _second(seconds: int) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat()[:-6]
