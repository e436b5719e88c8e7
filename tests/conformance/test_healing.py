"""Promises about accidents: whatever the server loses, or whoever cuts it off, workers go on within five seconds.

What is lost is said, never skipped; what is not lost is neither lost nor done twice.
"""

from __future__ import annotations

import os
from contextlib import asynccontextmanager
from functools import partial

import anyio
import pytest

from taskbus.client import Bus
from taskbus.connection import Connection
from taskbus.envelope import Delegation, compose
from taskbus.errors import TimedOut, Unavailable
from tests.taskbus.workplace import DONE, Incidents, Meeting, at_work, delegated, eventually, idle, talk

pytestmark = [pytest.mark.anyio, pytest.mark.needs("blocking", "sharing")]

SOON = 5.0
"""Seconds after the return of its server within which everybody goes on."""


async def is_done(bus, envelope):
    """Whether a task is completed."""
    return (await bus.task(envelope.task)).state == "completed"


async def done_soon(bus, *envelopes):
    """Wait until tasks are completed, and no longer than promised."""
    with anyio.fail_after(SOON):
        for envelope in envelopes:
            await eventually(partial(is_done, bus, envelope))


async def do(work):
    """Do whatever is delegated."""
    return DONE if work.envelope.type == "delegation" else None


async def calls(bus):
    """How many commands the server has seen, without those that ask for this."""
    found = await bus.connection.execute("INFO", "commandstats")
    lines = [line for line in found.decode().splitlines() if line.startswith("cmdstat_") and "info" not in line]
    return sum(int(line.partition("calls=")[2].partition(",")[0]) for line in lines)


# What the server loses while it runs


@pytest.mark.parametrize(
    "damage",
    [
        ("XGROUP", "DESTROY", "inbox", "@kilo"),
        ("DEL", "inbox"),
        ("DEL", "held", "leases"),
        ("SCRIPT", "FLUSH"),
    ],
    ids=" ".join,
)
async def test_work_that_waits_survives_what_is_deleted_around_it(bus, damage):
    """The group, the inbox itself, the leases, the scripts: open work is done, once, by a worker that runs."""
    names = {
        "inbox": bus.keys.inbox("@kilo", "normal"),
        "held": bus.keys.held("@kilo"),
        "leases": bus.keys.leases("@kilo"),
    }
    words = [names.get(word, word) for word in damage]
    meeting = Meeting()
    envelopes = [await delegated(bus) for _ in range(3)]
    async with at_work(bus.worker("@kilo", meeting, lease=1.0)):
        await meeting.of(1)
        await bus.connection.execute(*words)
        envelopes.append(await delegated(bus))
        meeting.over.set()
        await done_soon(bus, *envelopes)
    for envelope in envelopes:
        assert await talk(bus, envelope.task) == ["delegation", "acknowledgment", "completion"]


@pytest.mark.needs("restart")
async def test_an_emptied_server_is_said_and_worked_on(own_bus):
    """After FLUSHALL the loss is an incident, once, and what comes then is done as if nothing had been."""
    incidents = Incidents()
    await delegated(own_bus)
    async with at_work(own_bus.worker("@kilo", do, lease=1.0, on_incident=incidents)):
        await eventually(partial(nothing_waits, own_bus))
        await own_bus.connection.execute("FLUSHALL")
        envelope = await delegated(own_bus)
        await done_soon(own_bus, envelope)
        with anyio.fail_after(SOON):
            await incidents.until("lost what it knew")
        envelope = await delegated(own_bus)
        await done_soon(own_bus, envelope)
    assert len([what for what in incidents if "lost what it knew" in what]) == 1


async def nothing_waits(bus):
    """Whether the inbox is empty."""
    return await bus.inbox("@kilo").waiting() == []


@pytest.mark.needs("restart", "accounting")
async def test_an_idle_worker_does_not_loop(own_bus):
    """It waits to be woken, also after its group, its connections and all data were destroyed."""
    key = own_bus.keys.inbox("@kilo", "normal")
    await delegated(own_bus)
    async with at_work(own_bus.worker("@kilo", do)):
        for words in (
            ("XGROUP", "DESTROY", key, "@kilo"),
            ("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes"),
            ("FLUSHALL",),
        ):
            await eventually(partial(nothing_waits, own_bus))
            await own_bus.connection.execute(*words)
        await anyio.sleep(0.7)
        before = await calls(own_bus)
        await anyio.sleep(0.7)
        assert await calls(own_bus) - before < 30


async def test_entries_that_the_log_lost_are_said_and_not_skipped(bus):
    """A gap in the log that an inbox points at is an incident with its position; the work behind it is done."""
    await delegated(bus)
    (entry,) = await bus.log.latest(1)
    await bus.connection.execute("XDEL", bus.keys.log, entry.position.entry)
    later = await delegated(bus)
    incidents = Incidents()
    await idle(bus.worker("@kilo", do, on_incident=incidents))
    assert any(str(entry.position) in what for what in incidents)
    assert await is_done(bus, later)


# Connections


async def test_dropped_connections_brick_nothing(bus, backend):
    """All connections of a busy process are cut, again and again: every delivery is done, once."""
    envelopes = [compose(Delegation(goal="g"), sender="@boss", recipient="@kilo") for _ in range(100)]
    runs = []

    async def handler(work):
        runs.append(work.delivery.task)
        await anyio.sleep(0.005)
        return DONE

    async with Connection.open(backend.url) as connection:
        far = Bus(connection, bus.namespace)
        async with at_work(far.worker("@kilo", handler, concurrency=4, lease=5.0)):
            for batch in range(10):
                await bus.publish_many(envelopes[10 * batch : 10 * batch + 10])
                await bus.connection.execute("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
                await anyio.sleep(0.02)
            await done_soon(bus, *envelopes)
            # An idle one hears of new work too.
            await bus.connection.execute("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
            last = await delegated(bus)
            await done_soon(bus, last)
    assert sorted(runs) == sorted(envelope.task for envelope in [*envelopes, last])


# Servers that go and come back


@pytest.mark.needs("restart")
async def test_a_killed_server_loses_and_repeats_nothing(own, own_bus):
    """Killed in the midst of work and started again, on its file: all that was acknowledged is done, once."""
    meeting, incidents = Meeting(), Incidents()
    envelopes = [await delegated(own_bus) for _ in range(20)]
    async with at_work(own_bus.worker("@kilo", meeting, concurrency=4, lease=1.0, on_incident=incidents)):
        await meeting.of(4)
        own.kill()
        await incidents.until("Trying again")
        meeting.over.set()  # what is done meanwhile is settled afterwards
        await anyio.sleep(0.5)
        await anyio.to_thread.run_sync(own.back)
        await done_soon(own_bus, *envelopes)
        envelopes.append(await delegated(own_bus))
        await done_soon(own_bus, envelopes[-1])
    assert sorted(each.task for each in meeting.seen) == sorted(envelope.task for envelope in envelopes)
    for envelope in envelopes:
        assert await talk(own_bus, envelope.task) == ["delegation", "acknowledgment", "completion"]


@pytest.mark.needs("restart")
async def test_a_producer_that_outlives_its_server_appends_each_envelope_once(own, own_bus):
    """Its appends are repeated while the server is away; those that were acknowledged stand, each once, in order."""
    acknowledged = []

    async def produce():
        for _ in range(200):
            envelope = compose(Delegation(goal="g"), sender="@boss", recipient="@kilo")
            with anyio.fail_after(3 * SOON):
                while True:
                    try:
                        await own_bus.publish(envelope)
                    except (Unavailable, TimedOut):
                        continue  # it is away; whether the append ran is not known
                    break
            acknowledged.append(envelope.id)

    async with anyio.create_task_group() as group:
        group.start_soon(produce)
        await eventually(partial(_has, acknowledged, 50))
        own.kill()
        await anyio.to_thread.run_sync(own.back)
    entries = [entry.id async for entry in own_bus.log.read()]
    assert entries == acknowledged


async def _has(those, count):
    return len(those) >= count


@asynccontextmanager
async def stopped(process):
    """A process that stands still for the time of the block."""
    os.kill(process.pid, 19)
    try:
        yield
    finally:
        os.kill(process.pid, 18)


@pytest.mark.needs("restart")
async def test_a_server_that_stood_still_is_gone_on_with(own, own_bus):
    """It answers nobody for longer than the leases last, and then again: the work goes on, and has effect once."""
    meeting = Meeting()
    first = await delegated(own_bus)
    async with at_work(own_bus.worker("@kilo", meeting, lease=0.5, concurrency=2)):
        await meeting.of(1)
        async with stopped(own.server.process):
            await anyio.sleep(1.5)
        second = await delegated(own_bus)
        meeting.over.set()
        await done_soon(own_bus, first, second)
    for envelope in (first, second):
        assert await talk(own_bus, envelope.task) == ["delegation", "acknowledgment", "completion"]


@pytest.mark.needs("restart", "replication")
async def test_a_failover_is_gone_on_with(backend, namespace, tmp_path):
    """A replica takes the place of a killed server, under the same address: what it has is done, once."""
    with backend.own(tcp=True) as first, backend.own(tcp=True) as second:
        async with Connection.open(second.url) as replica, Connection.open(first.url) as primary:
            await replica.execute("CONFIG", "SET", "masterauth", (await password(primary)).decode())
            await primary.execute("CONFIG", "SET", "repl-diskless-sync-delay", 0)
            await replica.execute("REPLICAOF", "127.0.0.1", first.port)
            with anyio.fail_after(20):
                await eventually(partial(is_linked, replica))
            socket = tmp_path / "s"
            socket.symlink_to(first.server.socket)
            url = first.url.replace(str(first.server.socket), str(socket))
            meeting = Meeting()
            async with Connection.open(url, timeout=1.0) as connection:
                bus = Bus(connection, namespace)
                envelopes = [await delegated(bus) for _ in range(5)]
                async with at_work(bus.worker("@kilo", meeting, lease=1.0)):
                    await meeting.of(1)
                    await eventually(partial(is_level, primary, replica))
                    first.kill()
                    await replica.execute("REPLICAOF", "NO", "ONE")
                    socket.unlink()
                    socket.symlink_to(second.server.socket)
                    meeting.over.set()
                    envelopes.append(compose(Delegation(goal="g"), sender="@boss", recipient="@kilo"))
                    with anyio.fail_after(SOON):
                        await bus.publish(envelopes[-1])
                    await done_soon(bus, *envelopes)
                assert sorted(each.task for each in meeting.seen) == sorted(each.task for each in envelopes)
        second.kill()  # Redis 7.0 takes ten seconds to end when it was a replica


async def is_linked(replica):
    """Whether a replica has copied everything, and hears what is new."""
    return b"master_link_status:up" in await replica.execute("INFO", "replication")


async def is_level(primary, replica):
    """Whether a replica has everything that its primary has."""
    texts = [await each.execute("INFO", "replication") for each in (primary, replica)]
    primary_at, replica_at = [text.partition(b"master_repl_offset:")[2].split(b"\r\n")[0] for text in texts]
    return primary_at == replica_at


async def password(connection):
    """The password of the default user."""
    return (await connection.execute("CONFIG", "GET", "requirepass"))[1]
