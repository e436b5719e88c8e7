"""A worker for the steps of a plan, as a process that a test kills: each step takes a while, and some fail at first."""

from __future__ import annotations

import random
import sys

import anyio

from taskbus import Bus, Completion, ErrorDetails, Result


async def handle(work):
    """Do a step. What it does follows from the task and its attempt, so that a seed tells all of it."""
    if not work.delivery.is_work or work.envelope.type != "delegation":
        return None
    task = await work.bus.task(work.delivery.task)
    drawn = random.Random(f"{work.delivery.task} {task.attempt}")
    await anyio.sleep(drawn.uniform(0.1, 0.5))
    if drawn.random() < 0.15 and task.attempt <= 2:
        details = ErrorDetails(level=1, category="execution", message="drawn to fail")
        return Completion(result=Result(status="failure"), error_details=details)
    return Completion(result=Result(status="success", description=f"did {work.delivery.task}"))


async def main() -> None:
    """Work for the agents that are named, until killed."""
    async with Bus.connect() as bus, anyio.create_task_group() as group:
        for agent in sys.argv[1:]:
            group.start_soon(bus.worker(agent, handle, lease=1.0, concurrency=8, attempts=1000).run)


anyio.run(main)
