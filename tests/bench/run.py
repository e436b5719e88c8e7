"""The benchmark: what the bus costs over the bare server, as ratios within one run, and what an envelope weighs.

Every measurement runs in rounds, the bare server and the bus by turns, on one embedded server; medians are quoted.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import platform
import statistics
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TypedDict

import redis.asyncio
from sizes import weigh

from taskbus.append import Appended
from taskbus.client import Bus
from taskbus.codec import Document, document, encode
from taskbus.connection import Connection
from taskbus.envelope import Acknowledgment, AnyEnvelope, Delegation, Status, compose
from taskbus.server import down, up

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


def delegation() -> AnyEnvelope:
    """A delegation as people write them, of about 800 bytes."""
    return compose(
        Delegation(
            goal="Implement Redis caching for the product pages, with a fallback when the server is away.",
            task_type="implementation",
            constraints=("Use the prefix of the project", "Handle connection errors", "No new dependency"),
            acceptance_criteria=("Passes verify_redis.py", "Handles a timeout gracefully"),
        ),
        sender="@orchestrator",
        recipient="@kilo",
    )


def status(task: str) -> AnyEnvelope:
    """A status of a task in work."""
    progress = "Read the schema and wrote the client; the tests for time-outs are next. " * 6
    return compose(Status(progress=progress, fraction=0.4), sender="@kilo", recipient="@orchestrator", task=task)


async def timed(count: int, run: Run) -> float:
    """Envelopes per second of one round."""
    began = time.perf_counter()
    await run()
    return count / (time.perf_counter() - began)


async def compare(bus: Bus, client: redis.asyncio.Redis, case: Case, count: int, rounds: int) -> Row:
    """The bare server and the bus by turns, in many short rounds: the speed of a shared machine drifts."""
    rates: dict[str, list[float]] = {"bare": [], "bus": []}
    for number in range(rounds):
        envelopes = await prepared(bus, case.kind, count)
        bodies = [encode(envelope) for envelope in envelopes]
        given = [document(envelope) for envelope in envelopes] if case.documents else envelopes
        bare = partial(bare_by_hundred if case.by_hundred else bare_one_by_one, client, bodies)
        ours = partial(by_hundred if case.by_hundred else one_by_one, bus, given)
        runs = (("bare", bare), ("bus", ours))
        for name, run in runs if number % 2 else reversed(runs):
            rates[name].append(await timed(count, run))
    return {
        "bare": statistics.median(rates["bare"]),
        "bus": statistics.median(rates["bus"]),
        "ratio": statistics.median(b / a for a, b in zip(rates["bare"], rates["bus"], strict=True)),
        "target": case.target,
    }


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


async def measure(count: int, rounds: int) -> tuple[dict[str, Row], str]:
    """Run everything on an embedded server of its own."""
    with tempfile.TemporaryDirectory(prefix="taskbus-bench-") as folder:
        running = await up(Path(folder), durability="everysec")
        try:
            async with Connection.open(running.url) as connection:
                bus = Bus(connection, "bench:")
                client = redis.asyncio.Redis.from_url(running.url)
                found: dict[str, Row] = {}
                for case in CASES:
                    await compare(bus, client, case, 100, 2)
                    found[case.title] = await compare(bus, client, case, count, rounds)
                await client.aclose()
                return found, f"{connection.info.product} {connection.info.version}"
        finally:
            await down(Path(folder))


def main() -> int:
    """Measure, print, and exit with 1 when a target is missed."""
    parser = argparse.ArgumentParser(prog="bin/bench", description=__doc__)
    parser.add_argument("--count", type=int, default=200, help="envelopes in a round (default 200)")
    parser.add_argument("--rounds", type=int, default=41, help="rounds of each measurement (default 41)")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    options = parser.parse_args()
    if options.count < 1 or options.rounds < 1:
        parser.error("--count and --rounds must be at least 1")
    found, server = asyncio.run(measure(options.count, options.rounds))
    sizes = weigh()
    good = all(row["ratio"] >= (row["target"] or 0) for row in found.values()) and all(row["ok"] for row in sizes)
    if options.json:
        json.dump({"server": server, "append": found, "sizes": sizes, "ok": good}, sys.stdout, indent=2)
        sys.stdout.write("\n")
        return 0 if good else 1
    print(f"{server}, Python {platform.python_version()}, {options.rounds} rounds of {options.count}; medians\n")
    print(f"{'append':34}{'bare XADD/s':>12}{'bus/s':>10}{'ratio':>8}{'target':>8}")
    for title, row in found.items():
        print(f"{title:34}{row['bare']:>12,.0f}{row['bus']:>10,.0f}{row['ratio']:>8.2f}{row['target'] or '–':>8}")
    print(
        f"\n{'bytes of an envelope':34}{'content':>9}{'JSON':>8}{'over':>8}{'XML':>8}{'over':>8}{'entry':>8}{'over':>8}"
    )
    for row in sizes:
        print(
            f"{row['what']:34}{row['content']:>9}{row['json']:>8}{row['json_overhead']:>8.1%}"
            f"{row['xml']:>8}{row['xml_overhead']:>8.1%}{row['entry']:>8}{row['entry_overhead']:>8.1%}"
        )
    print("\nall targets are met" if good else "\nA TARGET IS MISSED")
    return 0 if good else 1


if __name__ == "__main__":
    raise SystemExit(main())
