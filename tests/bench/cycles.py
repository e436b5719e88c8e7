"""The full cycle: one process delegates, one process takes and settles; beside two other buses on Redis Streams.

Their cycle is to receive a message, to publish a reply and to acknowledge. Every bus has a producer and a worker
process on the same server; they work by turns, and a round ends when all that was sent in it is settled.
"""

from __future__ import annotations

import asyncio
import statistics
import time
from collections.abc import Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from importlib.metadata import version
from typing import TypedDict

import party_faststream
import party_taskbus
import party_taskiq
import redis.asyncio
from part import Part, number
from parties import LONGEST, Party

from taskbus.keys import Keys

COUNT, ROUNDS = 5000, 9
TARGET = 8.0
LOOK = 0.005
"""Seconds between two looks at what is left."""


class Row(TypedDict):
    """Cycles per second, the median; how many times as many this bus does, and the least that it may be."""

    version: str | None
    rate: float
    ratio: float | None
    target: float | None


@dataclass(frozen=True)
class Contender:
    """A bus: the script of its parties, where its worker takes from, where the outcomes stand.

    `per_cycle` is the number of outcomes; `group` takes from the sources, where nothing else tells what is left.
    `share` of the cycles of a round are asked for, so that all rounds take about as long.
    """

    name: str
    script: str
    sources: Sequence[str]
    outcomes: str
    per_cycle: int = 1
    group: str | None = None
    share: float = 0.1

    async def left(self, client: redis.asyncio.Redis, awaited: int) -> int:
        """How much is still to be done until `awaited` outcomes stand there, and nothing waits or is pending."""
        missing = awaited - await client.xlen(self.outcomes)
        if missing:
            return missing
        if self.group is None:
            return sum([await client.xlen(source) for source in self.sources])
        return sum([(await client.xpending(source, self.group))["pending"] for source in self.sources])


KEYS = Keys(party_taskbus.CYCLE)
# In the log a cycle is two envelopes: the delegation and its completion.
OURS = Contender("taskbus", "party_taskbus.py", KEYS.inboxes("@kilo"), KEYS.log, per_cycle=2, share=1.0)
OTHERS = [
    Contender(name, script, [party.STREAM], party.REPLIES, group=party.GROUP)
    for name, script, party in (
        ("faststream", "party_faststream.py", party_faststream),
        ("taskiq-redis", "party_taskiq.py", party_taskiq),
    )
]


async def measure(url: str, count: int, rounds: int) -> Part:
    """All by turns, each round in another order; the first round of each warms it up and does not count."""
    contenders = [OURS, *OTHERS]
    rates: dict[str, list[float]] = {contender.name: [] for contender in contenders}
    async with AsyncExitStack() as stack:
        client = redis.asyncio.Redis.from_url(url)
        stack.push_async_callback(client.aclose)
        producers: dict[str, Party] = {}
        for contender in contenders:
            producers[contender.name] = await stack.enter_async_context(Party.start(contender.script, "produce", url))
            await stack.enter_async_context(Party.start(contender.script, "work", url))
        for turn in range(rounds + 1):
            for contender in contenders if turn % 2 else reversed(contenders):
                some = max(1, int(count * contender.share))
                rate = await one_round(client, contender, producers[contender.name], some)
                if turn:
                    rates[contender.name].append(rate)
    found = {name: row_of(name, rates) for name in rates}
    lines = [f"{'full cycle':34}{'cycles/s':>12}{'':>10}{'ratio':>8}{'target':>8}"]
    for name, row in found.items():
        ratio = "" if row["ratio"] is None else f"{row['ratio']:.2f}"
        title = f"{name} {row['version'] or ''}"
        lines.append(f"{title:34}{number(row['rate']):>12}{'':>10}{ratio:>8}{row['target'] or '':>8}")
    lines.append(f"taskbus with {party_taskbus.SETTINGS}")
    return Part(found, lines, all((row["ratio"] or 0) >= (row["target"] or 0) for row in found.values()))


async def one_round(client: redis.asyncio.Redis, contender: Contender, producer: Party, count: int) -> float:
    """Cycles per second, from before the first message is sent until everything is settled."""
    awaited = await client.xlen(contender.outcomes) + count * contender.per_cycle
    began = time.monotonic()
    await producer.do("publish", count)
    async with asyncio.timeout(LONGEST):
        while await contender.left(client, awaited):  # noqa: ASYNC110 - no event tells that nothing is pending
            await asyncio.sleep(LOOK)
    return count / (time.monotonic() - began)


def row_of(name: str, rates: dict[str, list[float]]) -> Row:
    """The line of one contender; a ratio is the median of the rounds' ratios."""
    others = name != OURS.name
    ratio = statistics.median(ours / theirs for ours, theirs in zip(rates[OURS.name], rates[name], strict=True))
    return {
        "version": version(name) if others else None,
        "rate": statistics.median(rates[name]),
        "ratio": ratio if others else None,
        "target": TARGET if others else None,
    }
