"""The promise about races: however many workers hold a delivery and settle it, it has one effective outcome."""

from __future__ import annotations

import json
import os
import sys
from collections import Counter
from pathlib import Path

import anyio
import pytest

from taskbus.append import all_appended, commit
from taskbus.envelope import Acknowledgment, Delegation, compose

pytestmark = [pytest.mark.anyio, pytest.mark.needs("blocking", "sharing")]

DELIVERIES, PROCESSES, WORKERS, TAKES = 1000, 2, 32, 8


async def lines(process):
    """What a process says, line by line."""
    text = ""
    async for part in process.stdout:
        text += part.decode()
        while "\n" in text:
            line, text = text.split("\n", 1)
            yield line


async def test_sixty_four_workers_race_for_a_thousand_deliveries(bus):
    """In two processes, all of them take what the others hold, and settle it at once: each task has one completion."""
    given = [compose(Delegation(goal="g"), sender="@boss", recipient="@kilo") for _ in range(DELIVERIES)]
    await bus.publish_many(given)
    inbox = bus.inbox("@kilo", lease=0.001)
    taken = (await inbox.take(DELIVERIES)).deliveries
    units = [
        inbox.publication(
            each, compose(Acknowledgment(accepted=True), sender="@kilo", recipient="@boss", task=each.task)
        )
        for each in taken
    ]
    for answer in await commit(bus.connection, bus.keys, units):
        all_appended(answer)

    words = [sys.executable, str(Path(__file__).parent / "racer.py"), bus.connection.address.url(), bus.namespace]
    counts, held = [], []
    ready = anyio.Event()

    async def race():
        command = [*words, str(WORKERS), str(TAKES)]
        async with await anyio.open_process(command, env=os.environ, stderr=None) as process:
            said = lines(process)
            held.append(int(await anext(said)))
            if len(held) == PROCESSES:
                ready.set()
            await ready.wait()
            await process.stdin.send(b"\n")
            counts.append(json.loads(await anext(said)))
            await process.stdin.aclose()

    with anyio.fail_after(60):
        async with anyio.create_task_group() as group:
            for _ in range(PROCESSES):
                group.start_soon(race)

    accepted, fenced = map(sum, zip(*counts, strict=True))
    assert accepted == DELIVERIES
    assert accepted + fenced == sum(held) > 20 * DELIVERIES
    completed = Counter([entry.task async for entry in bus.log.read() if entry.type == "completion"])
    assert completed == dict.fromkeys((each.task for each in given), 1)
    assert {(await bus.task(each.task)).state for each in given} == {"completed"}
    assert await inbox.waiting() == []
