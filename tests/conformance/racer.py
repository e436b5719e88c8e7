"""Workers of one process that race: each takes what others hold, since leases last a millisecond, and settles it all.

Called with a URL, a namespace, how many workers and how many takes each. It says when everything is taken, waits for
a line, settles, and prints how many settlements were accepted and how many were fenced.
"""

from __future__ import annotations

import asyncio
import json
import random
import sys
from contextlib import AsyncExitStack

from taskbus.append import commit
from taskbus.client import Bus
from taskbus.connection import Connection
from taskbus.delivery import Delivery, Inbox
from taskbus.envelope import Completion, Result, compose
from taskbus.errors import Fenced

CONNECTIONS = 8
TAKEN, SETTLED = 100, 50
DONE = Completion(result=Result(status="success"))


async def race(url: str, namespace: str, workers: int, takes: int) -> None:
    """Take, wait for the word, settle, and tell."""
    async with AsyncExitStack() as stack:
        buses = [
            Bus(await stack.enter_async_context(Connection.open(url, timeout=30.0)), namespace)
            for _ in range(CONNECTIONS)
        ]
        racers = [(buses[number % CONNECTIONS], number) for number in range(workers)]
        hands: list[tuple[Bus, Inbox, list[Delivery]]] = []

        async def take(bus: Bus) -> None:
            inbox, mine = bus.inbox("@kilo", lease=0.001), []
            for _ in range(takes):
                mine += (await inbox.take(TAKEN)).deliveries
                await asyncio.sleep(random.random() * 0.002)
            hands.append((bus, inbox, mine))

        await asyncio.gather(*(take(bus) for bus, _ in racers))
        print(sum(len(mine) for _, _, mine in hands), flush=True)
        await asyncio.to_thread(sys.stdin.readline)
        counts = await asyncio.gather(*(settle(*hand) for hand in hands))
        print(json.dumps([sum(column) for column in zip(*counts, strict=True)]), flush=True)


async def settle(bus: Bus, inbox: Inbox, mine: list[Delivery]) -> tuple[int, int]:
    """Settle all, in some order: how many were accepted, and how many fenced."""
    random.shuffle(mine)
    accepted = fenced = 0
    for start in range(0, len(mine), SETTLED):
        units = [
            inbox.settlement(each, [compose(DONE, sender="@kilo", recipient="@boss", task=each.task)])
            for each in mine[start : start + SETTLED]
        ]
        for answer in await commit(bus.connection, bus.keys, units):
            accepted += isinstance(answer, list) and not any(isinstance(each, Exception) for each in answer)
            fenced += isinstance(answer, Fenced) or (isinstance(answer, list) and isinstance(answer[0], Fenced))
    return accepted, fenced


if __name__ == "__main__":
    asyncio.run(race(sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])))
