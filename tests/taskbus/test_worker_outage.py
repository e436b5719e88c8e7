"""The worker and its server: killed, away, back, or emptied, and each said once."""

from __future__ import annotations

import anyio
import pytest

from taskbus.client import Bus
from taskbus.connection import Connection
from tests.servers import bundled_binary, end, running, start
from tests.taskbus.workplace import (
    Incidents,
    Meeting,
    at_work,
    delegated,
    known,
    reached,
    talk,
)

pytestmark = pytest.mark.anyio

# While an fsync is under way, `everysec` puts off its writes, for two seconds at most: a crash would take them along.
DURABLE = ("--appendfsync", "always")


class Fragile:
    """A server that a test may end, and start again on what it has kept; `bus` is on it."""

    def __init__(self, server, bus):
        """It runs."""
        self.server = server
        self.bus = bus

    def kill(self):
        """End it as a crash does."""
        self.server.process.kill()
        self.server.process.wait()

    async def back(self):
        """Start it again."""
        self.server = await anyio.to_thread.run_sync(start, bundled_binary(), self.server.folder, *DURABLE)


@pytest.fixture
async def fragile(namespace):
    """A server of this test alone."""
    with running(bundled_binary(), *DURABLE) as server:
        async with Connection.open(server.url, timeout=0.3) as connection:
            fragile = Fragile(server, Bus(connection, namespace))
            yield fragile
            end(fragile.server)


async def test_a_worker_outlives_its_server(fragile):
    """It is killed and comes back: the worker says both, once each, with what to do, and works on."""
    incidents, meeting = Incidents(), Meeting()
    meeting.over.set()
    worker = fragile.bus.worker("@kilo", meeting, on_incident=incidents)
    worker.advice = "`bus up` starts it."
    async with at_work(worker):
        await known(fragile.bus)
        fragile.kill()
        await incidents.until("Trying again")
        await anyio.sleep(2)
        await fragile.back()
        await incidents.until("The server is back.")
        envelope = await delegated(fragile.bus)
        await reached(fragile.bus, envelope, "completed")
    away, back = incidents
    assert away.endswith(" Trying again. `bus up` starts it.")
    assert back == "The server is back."


@pytest.mark.parametrize("concurrency", [1, 3])
async def test_work_that_was_done_during_an_outage_is_settled_after_it(fragile, concurrency):
    """Also when its lease has long lapsed: a worker with room for more does not take its own work a second time."""
    envelope = await delegated(fragile.bus)
    incidents, meeting = Incidents(), Meeting()
    worker = fragile.bus.worker("@kilo", meeting, lease=0.5, concurrency=concurrency, on_incident=incidents)
    async with at_work(worker):
        await meeting.of(1)
        fragile.kill()
        await incidents.until("Trying again")
        meeting.over.set()
        await anyio.sleep(1.0)
        await fragile.back()
        await incidents.until("The server is back.")
        await reached(fragile.bus, envelope, "completed")
    assert len(meeting.seen) == 1
    assert await talk(fragile.bus, envelope.task) == ["delegation", "acknowledgment", "completion"]
    assert len(incidents) == 2


@pytest.mark.parametrize("concurrency", [1, 3])
async def test_a_handler_outlives_an_outage(fragile, concurrency):
    """What it does needs no server: it is neither cancelled nor begun again, however long that takes."""
    envelope = await delegated(fragile.bus)
    incidents, meeting = Incidents(), Meeting()
    worker = fragile.bus.worker("@kilo", meeting, lease=0.5, concurrency=concurrency, on_incident=incidents)
    async with at_work(worker):
        await meeting.of(1)
        await reached(fragile.bus, envelope, "working")
        fragile.kill()
        await incidents.until("Trying again")
        await anyio.sleep(1.0)
        await fragile.back()
        await incidents.until("The server is back.")
        await anyio.sleep(0.6)
        meeting.over.set()
        await reached(fragile.bus, envelope, "completed")
    assert len(meeting.seen) == 1
    assert meeting.cancelled == []


async def test_a_worker_may_start_before_its_server(fragile):
    """It waits for it, and then takes what is there."""
    envelope = await delegated(fragile.bus)
    fragile.kill()
    incidents, meeting = Incidents(), Meeting()
    meeting.over.set()
    async with at_work(fragile.bus.worker("@kilo", meeting, on_incident=incidents)):
        await incidents.until("Trying again")
        await fragile.back()
        await reached(fragile.bus, envelope, "completed")


@pytest.mark.parametrize("before", ["nothing is new", "there is new work"])
async def test_an_emptied_server_is_an_incident(fragile, before):
    """The worker says that the data are gone, drops what it had in hand, and works on what comes."""
    bus, incidents, meeting = fragile.bus, Incidents(), Meeting()
    lost = await delegated(bus)
    async with at_work(bus.worker("@kilo", meeting, lease=0.6, concurrency=2, on_incident=incidents)):
        await meeting.of(1)
        await anyio.sleep(0.1)
        await bus.connection.execute("FLUSHALL")
        if before == "nothing is new":
            await incidents.until("lost what it knew")
        envelope = await delegated(bus)
        await incidents.until("lost what it knew")
        await incidents.until("no longer ours")
        await meeting.of(2)
        meeting.over.set()
        await reached(bus, envelope, "completed")
    assert meeting.cancelled == [lost.task]
    assert len([what for what in incidents if "lost what it knew" in what]) == 1
