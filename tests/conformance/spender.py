"""A process that reserves money for many tasks at once, and settles some of it; others do the same, and some die.

Called with a URL, a namespace, an agent and the tasks that it works on, behind a word each: how much it asks for, and
how much it then says was used, in microdollars; "-" is for what it holds to its end. It says when it is connected,
waits for a line, and tells of each task what became of it.
"""

from __future__ import annotations

import asyncio
import sys
from contextlib import AsyncExitStack

from taskbus.client import Bus
from taskbus.connection import Connection
from taskbus.envelope import Cost, Usage
from taskbus.errors import OverBudget

CONNECTIONS = 4
CAPS = {("provider:anthropic", "month"): 20_000_000}


async def spend(url: str, namespace: str, agent: str, plans: list[str]) -> None:
    """Reserve for all tasks at once; print each outcome as soon as it is known."""
    async with AsyncExitStack() as stack:
        buses = [
            Bus(await stack.enter_async_context(Connection.open(url, timeout=60.0)), namespace)
            for _ in range(CONNECTIONS)
        ]
        print("ready", flush=True)
        await asyncio.to_thread(sys.stdin.readline)

        async def one(number: int, plan: str) -> None:
            task, asked, used = plan.split(",")
            budget = buses[number % CONNECTIONS].budget
            try:
                hold = await budget.reserve(
                    task, agent=agent, provider="anthropic", model="opus", microusd=int(asked), caps=CAPS
                )
            except OverBudget:
                print("refused", task, flush=True)
                return
            print("reserved", task, hold.id, flush=True)
            if used != "-":
                cost = Cost(source="reported", microusd=int(used))
                await budget.settle(hold, [Usage(provider="anthropic", model="opus", cost=cost)], caps=CAPS)
                print("settled", task, hold.id, flush=True)

        await asyncio.gather(*(one(number, plan) for number, plan in enumerate(plans)))


if __name__ == "__main__":
    asyncio.run(spend(*sys.argv[1:4], sys.argv[4:]))
