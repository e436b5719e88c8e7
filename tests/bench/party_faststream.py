"""FastStream as a party of the benchmark: a process that publishes, or one that answers each message and acknowledges.

As fast as it can be had with one handler call per message: it reads 100 entries at a time (`max_records`), its logging
is off, and its types are not checked at run time (`apply_types`). More handlers at once (`max_workers`) slow it down,
as they have nothing to wait for here.
"""

from __future__ import annotations

import asyncio
import sys
from typing import Any

from faststream.redis import RedisBroker, StreamSub
from parties import attend
from samples import request_and_reply

STREAM, REPLIES, GROUP = "faststream:requests", "faststream:replies", "bench"
AT_ONCE = 100


async def produce(url: str) -> None:
    """Publishes on command, as many at once as helps."""
    request, _ = request_and_reply()
    async with RedisBroker(url, logger=None, apply_types=False) as broker:

        async def publish(count: int) -> None:
            for start in range(0, count, AT_ONCE):
                some = range(start, min(start + AT_ONCE, count))
                await asyncio.gather(*(broker.publish(request, stream=STREAM) for _ in some))

        await attend({"publish": publish})


async def work(url: str) -> None:
    """Answers each message with a message on another stream; the message is acknowledged after that."""
    _, reply = request_and_reply()
    broker = RedisBroker(url, logger=None, apply_types=False)
    source = StreamSub(STREAM, group=GROUP, consumer="one", max_records=AT_ONCE)

    @broker.publisher(stream=REPLIES)
    @broker.subscriber(stream=source)
    async def handle(request: dict[str, Any]) -> dict[str, Any]:
        assert request["payload"]
        return reply

    async with broker:
        await broker.start()
        await attend({})


if __name__ == "__main__":
    role, address = sys.argv[1:]
    asyncio.run({"produce": produce, "work": work}[role](address))
