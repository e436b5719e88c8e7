"""Following live: from the call that appends an envelope to the moment when a reader finds its row in the database.

One process appends at a steady rate, one folds, one reads; what is measured includes the append, the fold, the
commit, and up to a millisecond until the reader looks.
"""

from __future__ import annotations

import asyncio
import tempfile
from pathlib import Path
from typing import TypedDict

from part import Part, number
from parties import Party
from party_follow import RATE
from wakes import percentile

COUNT, ROUNDS = 5000, 2
TARGET = 100.0
PERCENTS = (10, 50, 90, 99)


class Found(TypedDict):
    """Milliseconds by percentile, and the longest; envelopes per second, as asked for and as they came."""

    count: int
    asked: int
    rate: float
    delays: dict[str, float]
    target: float


async def measure(url: str, count: int, rounds: int) -> Part:
    """All rounds together, each in a namespace and a database of its own."""
    delays: list[float] = []
    seconds = 0.0
    for turn in range(rounds):
        with tempfile.TemporaryDirectory(prefix="taskbus-follow-") as folder:
            place = (url, f"bench-follow-{turn}:", str(Path(folder) / "followed.db"))
            async with (
                Party.start("party_follow.py", "fold", *place),
                Party.start("party_follow.py", "read", *place) as reader,
                Party.start("party_follow.py", "append", *place) as writer,
            ):
                looking = asyncio.ensure_future(reader.do("look", count))
                appended = await writer.do("append", count)
                seen = await looking
        delays += [(there - begun) / 1e6 for begun, there in zip(appended, seen, strict=True)]
        seconds += (appended[-1] - appended[0]) / 1e9
    found: Found = {
        "count": len(delays),
        "asked": RATE,
        "rate": (len(delays) - rounds) / seconds,
        "delays": {**{f"p{percent}": percentile(delays, percent) for percent in PERCENTS}, "longest": max(delays)},
        "target": TARGET,
    }
    title = f"{number(len(delays))} rows followed at {number(found['rate'])}/s, ms"
    lines = [f"{title:40}" + "".join(f"{name:>9}" for name in found["delays"]) + f"{'p99 at most':>13}"]
    values = "".join(f"{value:>9.1f}" for value in found["delays"].values())
    lines += [f"{'from the append to a row that is seen':40}{values}{TARGET:>13}"]
    return Part(found, lines, found["delays"]["p99"] <= TARGET)
