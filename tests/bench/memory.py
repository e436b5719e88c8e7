"""The memory of a worker: the same, whether a hundred or ten thousand deliveries wait for it.

Each worker is a process of its own, with its prefetch bounded, that starts when all its deliveries wait, and works
until none is left; its peak is what the operating system noted.
"""

from __future__ import annotations

import statistics
from typing import TypedDict

from part import Part, number
from parties import Party
from samples import delegation

from taskbus.append import Appended
from taskbus.client import Bus
from taskbus.connection import Connection

COUNT, ROUNDS = 10_000, 3
FEW = 100
MOST = 2.0
"""Megabytes that the peak may be higher with the many than with the few: a quarter of what their bodies are."""


class Found(TypedDict):
    """Megabytes of resident memory, medians; `start` is that of a worker that has connected and taken nothing."""

    waiting: list[int]
    start: list[float]
    peak: list[float]
    growth: float
    target: float


async def measure(url: str, count: int, rounds: int) -> Part:
    """Few and many by turns, each in a namespace of its own."""
    waiting = [FEW, max(count, FEW)]
    starts: list[list[float]] = [[], []]
    peaks: list[list[float]] = [[], []]
    async with Connection.open(url) as connection:
        for turn in range(rounds):
            for which, some in enumerate(waiting):
                namespace = f"bench-memory-{turn}-{which}:"
                for answer in await Bus(connection, namespace).publish_many([delegation() for _ in range(some)]):
                    assert isinstance(answer, Appended), answer
                async with Party.start("party_taskbus.py", "drain", url, namespace) as worker:
                    done = await worker.do("drain", some)
                assert done["settled"] == some, done
                starts[which].append(done["start"] / 1e6)
                peaks[which].append(done["peak"] / 1e6)
    start, peak = ([statistics.median(each) for each in values] for values in (starts, peaks))
    found: Found = {"waiting": waiting, "start": start, "peak": peak, "growth": peak[1] - peak[0], "target": MOST}
    titles = [f"{number(some)} waiting" for some in waiting]
    lines = [f"{'memory of a worker, megabytes':34}{titles[0]:>12}{titles[1]:>16}{'more':>8}{'at most':>8}"]
    lines += [f"{'before the first delivery':34}{start[0]:>12.1f}{start[1]:>16.1f}{start[1] - start[0]:>8.1f}"]
    lines += [f"{'peak, all of them settled':34}{peak[0]:>12.1f}{peak[1]:>16.1f}{found['growth']:>8.1f}{MOST:>8}"]
    return Part(found, lines, found["growth"] <= MOST)
