"""taskiq-redis as a party of the benchmark: a process that sends tasks, or one that runs them, replies, acknowledges.

As fast as it can be had: it reads 100 entries at a time (`xread_count`), runs 100 tasks at once and holds 100 more
ready (`max_async_tasks`, `max_prefetch`); the reply is one XADD by the broker's own client, no result is stored, and
a task is acknowledged once it has run.
"""

from __future__ import annotations

import asyncio
import json
import logging
import sys
from typing import Any

from parties import attend
from redis.asyncio import Redis
from samples import request_and_reply
from taskiq.acks import AcknowledgeType
from taskiq.api import run_receiver_task
from taskiq_redis import RedisStreamBroker

STREAM, REPLIES, GROUP = "taskiq:requests", "taskiq:replies", "bench"
AT_ONCE = 100


def broker_and_task(url: str) -> tuple[RedisStreamBroker, Any]:
    """The broker with its one task; both processes declare it."""
    _, reply = request_and_reply()
    broker = RedisStreamBroker(
        url, queue_name=STREAM, consumer_group_name=GROUP, xread_count=AT_ONCE, max_connection_pool_size=AT_ONCE
    )
    client: Redis = Redis(connection_pool=broker.connection_pool)

    @broker.task
    async def handle(request: dict[str, Any]) -> None:
        assert request["payload"]
        await client.xadd(REPLIES, {"data": json.dumps(reply)})

    return broker, handle


async def produce(url: str) -> None:
    """Sends tasks on command, as many at once as helps."""
    request, _ = request_and_reply()
    broker, task = broker_and_task(url)
    await broker.startup()

    async def publish(count: int) -> None:
        for start in range(0, count, AT_ONCE):
            await asyncio.gather(*(task.kiq(request) for _ in range(start, min(start + AT_ONCE, count))))

    await attend({"publish": publish})
    await broker.shutdown()


async def work(url: str) -> None:
    """Runs the tasks."""
    broker, _ = broker_and_task(url)
    await broker.startup()
    receiver = asyncio.create_task(
        run_receiver_task(
            broker,
            validate_params=False,
            max_async_tasks=AT_ONCE,
            max_prefetch=AT_ONCE,
            ack_time=AcknowledgeType.WHEN_EXECUTED,
        )
    )
    await attend({})
    receiver.cancel()
    await asyncio.wait([receiver])
    await broker.shutdown()


if __name__ == "__main__":
    logging.disable()
    role, address = sys.argv[1:]
    asyncio.run({"produce": produce, "work": work}[role](address))
