"""What the bus keeps in the server's memory beside the log: bounded for each open and each finished task."""

from __future__ import annotations

from datetime import timedelta

import pytest

from taskbus.append import commit
from taskbus.archive import Archive
from taskbus.client import Bus
from taskbus.connection import Connection
from taskbus.envelope import Acknowledgment, Completion, Delegation, Result, compose, now
from taskbus.trimming import trim
from tests.servers import bundled_binary, running

pytestmark = pytest.mark.anyio

TASKS = 100_000
STEP = 1_000
OPEN = 450
"""Bytes of an open task beside the log: its delivery, its record, the position of its envelope, perhaps a deadline."""
FINISHED = 600
"""Bytes of a finished task of three envelopes beside the log: their positions, and the record that refuses more."""
ARCHIVED = 200
"""Bytes of a finished task once it is archived and trimmed: the record that refuses more, and nothing of the log."""
AT_REST = 64 << 10
"""Bytes of everything that does not grow with the number of tasks."""


async def sizes(bus):
    """The bytes of each key of the namespace, by its name without the prefix."""
    found = {}
    async for key in bus.connection.scan(f"{bus.namespace}*"):
        size = await bus.connection.execute("MEMORY", "USAGE", key, "SAMPLES", 0)
        found[key.removeprefix(bus.keys.prefix)] = size
    return found


def beside_the_log(found):
    """The bytes of all keys but the log."""
    return sum(size for name, size in found.items() if name != "log")


async def settled(bus, agent):
    """Take and settle everything that stands in an inbox."""
    inbox = bus.inbox(agent)
    while deliveries := (await inbox.take(STEP)).deliveries:
        await commit(bus.connection, bus.keys, [inbox.settlement(delivery) for delivery in deliveries])


async def test_tasks_cost_a_bounded_number_of_bytes(namespace, tmp_path):
    """100,000 tasks: within the stated bytes while they are open, when they are finished, and when archived."""
    with running(bundled_binary()) as server:
        async with Connection.open(server.url) as connection:
            bus = Bus(connection, namespace)
            tasks, later = [], now() + timedelta(days=1)
            goal = Delegation(goal="g", review_required=False)
            for _ in range(TASKS // STEP):
                new = [
                    compose(goal, sender="@boss", recipient="@kilo", deadline=None if number % 10 else later)
                    for number in range(STEP)
                ]
                await bus.publish_many(new, batch=STEP)
                tasks += [envelope.task for envelope in new]
            while_open = await sizes(bus)
            assert beside_the_log(while_open) / TASKS <= OPEN, while_open
            done = Completion(result=Result(status="success"))
            for start in range(0, TASKS, STEP):
                said = [
                    compose(payload, sender="@kilo", recipient="@boss", task=task)
                    for task in tasks[start : start + STEP]
                    for payload in (Acknowledgment(accepted=True), done)
                ]
                await bus.publish_many(said, batch=STEP)
            await settled(bus, "@boss")
            await settled(bus, "@kilo")
            finished = await sizes(bus)
            assert beside_the_log(finished) / TASKS <= FINISHED, finished
            rest = {name: size for name, size in finished.items() if name not in ("log", "index")}
            assert sum(rest.values()) <= AT_REST, rest
            assert (await bus.task(tasks[0])).state == "accepted"
            archive = Archive.open(tmp_path, bus.keys)
            await archive.seal(bus.log, rest=True, settle=0)
            assert (await trim(bus, archive)).count == 3 * TASKS - 1
            archived = await sizes(bus)
            assert sum(archived.values()) / TASKS <= ARCHIVED, archived
            assert archived["log"] <= AT_REST, archived
            assert (await bus.task(tasks[0])).state == "accepted"
