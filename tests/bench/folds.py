"""The fold: all read models folded from the log, against a bare executemany of the same rows into the same tables.

What folds and what writes are processes of their own, by turns. The peak of the fold's memory is noted for the count,
and for a tenth of it (but for 50,000 at least), where it should be the same.
"""

from __future__ import annotations

import statistics
import tempfile
from typing import TypedDict

from part import Part, number
from parties import Party
from traffic import traffic

from taskbus.append import Appended
from taskbus.client import Bus
from taskbus.connection import Connection

COUNT, ROUNDS = 100_000, 3
TARGET = 0.4
MOST = 16.0
"""Megabytes that the peak may be higher with all envelopes than with a few of them."""
FEW = 50_000
"""From so many on, SQLite keeps as much of the file as it may, and the pages are as long as they can be."""


class Found(TypedDict):
    """Envelopes per second, medians; megabytes of resident memory. `rows` counts those of all tables."""

    count: int
    rows: int
    fold: float
    bare: float
    ratio: float
    target: float
    bare_new: float
    ratio_new: float
    start: float
    peak: list[float]
    growth: float
    most: float


async def measure(url: str, count: int, rounds: int) -> Part:
    """Fill two logs, then fold and write by turns."""
    few = min(count, max(FEW, count // 10))
    async with Connection.open(url) as connection:
        for namespace, some in (("bench-fold-few:", few), ("bench-fold:", count)):
            bus = Bus(connection, namespace)
            envelopes = traffic(some)
            for begin in range(0, some, 10_000):
                chunk = [next(envelopes) for _ in range(min(10_000, some - begin))]
                for answer in await bus.publish_many(chunk):
                    assert isinstance(answer, Appended), answer
        peaks = [[(await fold(url, "bench-fold-few:", few))["peak"] / 1e6 for _ in range(rounds)], []]
        seconds: dict[str, list[float]] = {"fold": [], "bare": [], "bare_new": []}
        for _ in range(rounds):
            done = await fold(url, "bench-fold:", count)
            seconds["fold"].append(done["seconds"])
            seconds["bare"].append(done["bare"])
            seconds["bare_new"].append(done["bare_new"])
            peaks[1].append(done["peak"] / 1e6)
        await connection.execute("UNLINK", Bus(connection, "bench-fold:").keys.log)
    low, high = (statistics.median(each) for each in peaks)
    found: Found = {
        "count": count,
        "rows": int(done["rows"]),
        "fold": count / statistics.median(seconds["fold"]),
        "bare": count / statistics.median(seconds["bare"]),
        "ratio": statistics.median(b / f for f, b in zip(seconds["fold"], seconds["bare"], strict=True)),
        "target": TARGET,
        "bare_new": count / statistics.median(seconds["bare_new"]),
        "ratio_new": statistics.median(b / f for f, b in zip(seconds["fold"], seconds["bare_new"], strict=True)),
        "start": done["start"] / 1e6,
        "peak": [low, high],
        "growth": high - low,
        "most": MOST,
    }
    title = f"fold of {number(count)} envelopes, per second"
    lines = [f"{title:40}{'executemany':>12}{'rebuild':>10}{'ratio':>8}{'target':>8}"]
    rows = f"all read models, {number(found['rows'])} rows"
    lines += [f"{rows:40}{number(found['bare']):>12}{number(found['fold']):>10}{found['ratio']:>8.2f}{TARGET:>8}"]
    as_rebuilt = "  with indexes at the end, no syncs"
    lines += [f"{as_rebuilt:40}{number(found['bare_new']):>12}{'':>10}{found['ratio_new']:>8.2f}"]
    lines += [f"{'its memory at the peak, megabytes':40}{number(few):>12}{number(count):>10}{'more':>8}{'at most':>8}"]
    lines += [f"{'':40}{low:>12.1f}{high:>10.1f}{found['growth']:>8.1f}{MOST:>8}"]
    return Part(found, lines, found["ratio"] >= TARGET and found["growth"] <= MOST)


async def fold(url: str, namespace: str, count: int) -> dict[str, float]:
    """One rebuild and one bare writing of its rows, each in a process of its own."""
    with tempfile.TemporaryDirectory(prefix="taskbus-fold-") as folder:
        async with Party.start("party_fold.py", url, namespace, folder) as party:
            done = await party.do("fold")
        async with Party.start("party_fold.py", url, namespace, folder) as party:
            bare = await party.do("write")
        async with Party.start("party_fold.py", url, namespace, folder) as party:
            new = await party.do("write_new")
    assert done["folded"] == count, done
    return {**done, "bare": bare["seconds"], "bare_new": new["seconds"], "rows": bare["rows"]}
