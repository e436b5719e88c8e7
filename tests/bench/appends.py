"""The append: the bus against the bare server, on the same bytes, by turns in many short rounds.

The bare server gets each envelope in an XADD of redis-py; the bus decides, appends to log and inbox and keeps the
task, all in one step.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TypedDict

import redis.asyncio
from part import Part, number
from samples import delegation, status

from taskbus.append import Appended
from taskbus.client import Bus
from taskbus.codec import Document, document, encode
from taskbus.connection import Connection
from taskbus.envelope import Acknowledgment, AnyEnvelope, compose

COUNT, ROUNDS = 200, 41

Run = Callable[[], Awaitable[object]]
Given = Sequence[AnyEnvelope | Document]


class Row(TypedDict):
    """Envelopes per second, medians; their ratio, and the least that it may be."""

    bare: float
    bus: float
    ratio: float
    target: float | None


@dataclass(frozen=True)
class Case:
    """What is measured: `documents` are bytes, as the bare server gets them; else structs are checked and encoded."""

    kind: str
    by_hundred: bool
    documents: bool

    @property
    def title(self) -> str:
        """The name of its line."""
        return (
            f"{self.kind}, {'by 100' if self.by_hundred else 'one by one'}{'' if self.documents else ', from structs'}"
        )

    @property
    def target(self) -> float | None:
        """The promise is about the append of bytes; what checking and encoding cost is shown beside it."""
        return (0.5 if self.by_hundred else 0.7) if self.documents else None


CASES = [
    Case(kind, by_hundred, documents)
    for kind in ("status", "delegation")
    for by_hundred in (False, True)
    for documents in (True, False)
]


async def measure(url: str, count: int, rounds: int) -> Part:
    """All cases, one after the other, each after a short warm-up."""
    async with Connection.open(url) as connection:
        bus = Bus(connection, "bench-append:")
        client = redis.asyncio.Redis.from_url(url)
        found: dict[str, Row] = {}
        for case in CASES:
            await compare(bus, client, case, 100, 2)
            found[case.title] = await compare(bus, client, case, count, rounds)
        await client.aclose()
    lines = [f"{'append':34}{'bare XADD/s':>12}{'bus/s':>10}{'ratio':>8}{'target':>8}"]
    lines += [
        f"{title:34}{number(row['bare']):>12}{number(row['bus']):>10}{row['ratio']:>8.2f}{row['target'] or '–':>8}"
        for title, row in found.items()
    ]
    return Part(found, lines, all(row["ratio"] >= (row["target"] or 0) for row in found.values()))


async def compare(bus: Bus, client: redis.asyncio.Redis, case: Case, count: int, rounds: int) -> Row:
    """The bare server and the bus by turns, in many short rounds: the speed of a shared machine drifts."""
    rates: dict[str, list[float]] = {"bare": [], "bus": []}
    for turn in range(rounds):
        envelopes = await prepared(bus, case.kind, count)
        bodies = [encode(envelope) for envelope in envelopes]
        given = [document(envelope) for envelope in envelopes] if case.documents else envelopes
        bare = partial(bare_by_hundred if case.by_hundred else bare_one_by_one, client, bodies)
        ours = partial(by_hundred if case.by_hundred else one_by_one, bus, given)
        runs = (("bare", bare), ("bus", ours))
        for name, run in runs if turn % 2 else reversed(runs):
            rates[name].append(await timed(count, run))
    return {
        "bare": statistics.median(rates["bare"]),
        "bus": statistics.median(rates["bus"]),
        "ratio": statistics.median(b / a for a, b in zip(rates["bare"], rates["bus"], strict=True)),
        "target": case.target,
    }


async def timed(count: int, run: Run) -> float:
    """Envelopes per second of one round."""
    began = time.perf_counter()
    await run()
    return count / (time.perf_counter() - began)


async def bare_one_by_one(client: redis.asyncio.Redis, bodies: list[bytes]) -> None:
    """The same bytes, each in an awaited XADD of redis-py."""
    for body in bodies:
        await client.xadd("bench:bare", {"body": body})


async def bare_by_hundred(client: redis.asyncio.Redis, bodies: list[bytes]) -> None:
    """The same bytes, in pipelines of 100 XADDs."""
    for start in range(0, len(bodies), 100):
        async with client.pipeline(transaction=False) as pipeline:
            for body in bodies[start : start + 100]:
                pipeline.xadd("bench:bare", {"body": body})
            await pipeline.execute()


async def one_by_one(bus: Bus, envelopes: Given) -> None:
    """Each append is awaited before the next."""
    for envelope in envelopes:
        await bus.publish(envelope)


async def by_hundred(bus: Bus, envelopes: Given) -> None:
    """A hundred in one step."""
    for answer in await bus.publish_many(envelopes, batch=100):
        assert isinstance(answer, Appended), answer


async def prepared(bus: Bus, kind: str, count: int) -> list[AnyEnvelope]:
    """Envelopes to append: delegations of new tasks, or statuses of a task that was taken on."""
    if kind == "delegation":
        return [delegation() for _ in range(count)]
    first = delegation()
    await bus.publish(first)
    await bus.publish(
        compose(Acknowledgment(accepted=True), sender="@kilo", recipient="@orchestrator", task=first.task)
    )
    return [status(first.task) for _ in range(count)]
