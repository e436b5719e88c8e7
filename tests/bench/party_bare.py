"""The bare server as a party of the benchmark: a process that calls with XADD, or one blocked in XREADGROUP."""

from __future__ import annotations

import asyncio
import sys
import time
from itertools import count as counter

import redis.asyncio
from parties import GAP, Notes, attend
from samples import delegation

from taskbus.codec import encode

STREAM, GROUP = "bare:calls", "bench"


async def call(url: str) -> None:
    """Appends on command, each time to a listener that is idle."""
    client = redis.asyncio.Redis.from_url(url)
    body = encode(delegation())
    numbers = counter()

    async def append(count: int) -> dict[str, int]:
        called: dict[str, int] = {}
        for _ in range(count):
            await asyncio.sleep(GAP)
            name = str(next(numbers))
            called[name] = time.monotonic_ns()
            await client.xadd(STREAM, {"id": name, "body": body})
        return called

    await attend({"call": append})
    await client.aclose()


async def listen(url: str) -> None:
    """Notes when it reads an entry, then acknowledges it."""
    client = redis.asyncio.Redis.from_url(url, socket_timeout=None)
    await client.xgroup_create(STREAM, GROUP, "0", mkstream=True)
    notes = Notes()

    async def read() -> None:
        while True:
            for _, entries in await client.xreadgroup(GROUP, "one", {STREAM: ">"}, count=1, block=0):
                now = time.monotonic_ns()
                for entry, fields in entries:
                    notes.take(fields[b"id"].decode(), now)
                    await client.xack(STREAM, GROUP, entry)

    reading = asyncio.create_task(read())
    await attend({"heard": notes.hand_over})
    reading.cancel()
    await asyncio.wait([reading])
    await client.aclose()


if __name__ == "__main__":
    role, address = sys.argv[1:]
    asyncio.run({"call": call, "listen": listen}[role](address))
