"""The idle wake: from the append to the start of the handler, beside a bare XADD to a blocked XREADGROUP.

In both cases one process appends and another one has waited, long enough to be idle. What is measured is the time
between two readings of the monotonic clock: before the call that appends, and where the work begins.
"""

from __future__ import annotations

import statistics
from contextlib import AsyncExitStack
from typing import TypedDict

from part import Part
from parties import Party

COUNT, ROUNDS = 25, 20
TARGETS = {"p50": 2.0, "p99": 4.0}


class Row(TypedDict):
    """Milliseconds; how many times as long the bus takes, and the most that it may be."""

    bare: float
    bus: float
    ratio: float
    target: float


async def measure(url: str, count: int, rounds: int) -> Part:
    """Some wakes of the one, some of the other, by turns; the first turn of each warms up and does not count."""
    times: dict[str, list[float]] = {"bare": [], "bus": []}
    async with AsyncExitStack() as stack:
        pairs: dict[str, tuple[Party, Party]] = {}
        for name, script in (("bare", "party_bare.py"), ("bus", "party_taskbus.py")):
            listener = await stack.enter_async_context(Party.start(script, "listen", url))
            pairs[name] = (await stack.enter_async_context(Party.start(script, "call", url)), listener)
        for turn in range(rounds + 1):
            for name, (caller, listener) in pairs.items() if turn % 2 else reversed(pairs.items()):
                called = await caller.do("call", count)
                heard = await listener.do("heard", count)
                if turn:
                    times[name] += [(heard[id] - at) / 1e6 for id, at in called.items()]
    found: dict[str, Row] = {}
    for name, target in TARGETS.items():
        bare, bus = (percentile(times[who], int(name[1:])) for who in ("bare", "bus"))
        found[name] = {"bare": bare, "bus": bus, "ratio": bus / bare, "target": target}
    title = f"{len(times['bus'])} idle wakes, milliseconds"
    lines = [f"{title:34}{'bare':>12}{'bus':>10}{'ratio':>8}{'at most':>8}"]
    lines += [
        f"{name:34}{row['bare']:>12.2f}{row['bus']:>10.2f}{row['ratio']:>8.2f}{row['target']:>8}"
        for name, row in found.items()
    ]
    return Part(found, lines, all(row["ratio"] <= row["target"] for row in found.values()))


def percentile(values: list[float], percent: int) -> float:
    """The value that so many percent of them do not exceed."""
    return statistics.quantiles(values, n=100, method="inclusive")[percent - 1] if len(values) > 1 else values[0]
