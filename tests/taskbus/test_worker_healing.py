"""The worker heals: whatever is lost, foreign or taken over, it goes on with what is its own."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import threading
import time
from contextlib import asynccontextmanager, suppress
from functools import partial
from pathlib import Path

import anyio
import pytest

from taskbus.client import Bus
from taskbus.connection import Connection
from taskbus.envelope import Delegation, compose
from tests import entries
from tests.taskbus.workplace import (
    DONE,
    Incidents,
    Meeting,
    at_work,
    delegated,
    holding,
    idle,
    reached,
    state,
    talk,
)

pytestmark = pytest.mark.anyio

# A worker as a process of its own: it says when it begins with a delivery, and everything that it reports.
WORKER = """
import sys, anyio
from taskbus.client import Bus
from tests.taskbus.workplace import DONE

async def main(url, namespace, lease):
    async def handler(work):
        print("began", work.delivery.tries, flush=True)
        await anyio.to_thread.run_sync(sys.stdin.readline)
        print("ended", flush=True)
        return DONE

    async with Bus.connect(url, namespace=namespace) as bus:
        tell = lambda what: print(what, flush=True)
        await bus.worker("@kilo", handler, lease=float(lease), on_incident=tell).run()

anyio.run(main, *sys.argv[1:])
"""


@pytest.fixture
def bus(connection, namespace):
    """A bus on the embedded server."""
    return Bus(connection, namespace)


@pytest.mark.parametrize("damage", ["group", "scripts", "connections", "leases"])
async def test_a_handler_runs_once_whatever_the_server_loses(bus, damage):
    """The group of the inbox, the scripts, all connections, the leases: the work goes on, and so does the worker."""
    words = {
        "group": ("XGROUP", "DESTROY", bus.keys.inbox("@kilo", "normal"), "@kilo"),
        "scripts": ("SCRIPT", "FLUSH"),
        "connections": ("CLIENT", "KILL", "TYPE", "normal"),
        "leases": ("DEL", bus.keys.leases("@kilo")),
    }[damage]
    first = await delegated(bus)
    meeting = Meeting()
    async with at_work(bus.worker("@kilo", meeting, lease=0.6, concurrency=2)):
        await meeting.of(1)
        await bus.connection.execute(*words)
        second = await delegated(bus)
        await meeting.of(2)
        await anyio.sleep(0.8)
        meeting.over.set()
        for envelope in (first, second):
            await reached(bus, envelope, "completed")
    assert [delivery.task for delivery in meeting.seen] == [first.task, second.task]
    assert meeting.cancelled == []


@pytest.mark.parametrize("refused", ["outcome", "acknowledgment"])
async def test_what_the_server_cannot_settle_is_in_nobodys_way(bus, refused):
    """A delivery whose envelopes meet a foreign key is tried on, and the others are settled meanwhile, one by one."""
    foreign = bus.keys.inbox("@lima", "normal")
    bad = compose(Delegation(goal="g"), sender="@lima" if refused == "acknowledgment" else "@boss", recipient="@kilo")
    await bus.publish(bad)
    good = [await delegated(bus) for _ in range(3)]
    await bus.connection.execute("SET", foreign, "of another program")
    incidents, meeting = Incidents(), Meeting()

    async def handler(work):
        await meeting(work)
        more = compose(Delegation(goal="g"), sender="@kilo", recipient="@lima")
        return [DONE, more] if work.delivery.task == bad.task else DONE

    async with at_work(bus.worker("@kilo", handler, concurrency=4, on_incident=incidents)):
        await meeting.of(4)
        meeting.over.set()
        for envelope in good:
            await reached(bus, envelope, "completed")
        assert await state(bus, bad) == ("submitted" if refused == "acknowledgment" else "working")
        assert len([what for what in incidents if "another type" in what]) >= 1
        await bus.connection.execute("DEL", foreign)
        await reached(bus, bad, "completed")
    assert len(meeting.seen) == 4
    assert await talk(bus, bad.task) == ["delegation", "acknowledgment", "completion"]


async def foreign(bus, **fields):
    """An entry of the log, and in the inbox of @kilo, that taskbus did not write."""
    words = entries.words(**{"type": "delegation", "sender": "@boss", "recipient": "@kilo", **fields})
    at = await bus.connection.execute("XADD", bus.keys.log, "*", *words)
    await bus.connection.execute("XADD", bus.keys.inbox("@kilo", "normal"), "*", "at", at)


async def test_foreign_entries_do_not_end_a_worker(bus):
    """Whatever somebody else wrote into log and inbox: it is named, taken out, and the work around it is done."""
    first = await delegated(bus)
    id = first.id
    for fields in (
        {"id": b"\xff"},
        {"id": "two words"},
        {"id": id, "sender": "nobody"},
        {"id": id, "task": "two words"},
        {"id": id, "type": b"\xff"},
        {"id": id, "form": "csv"},
        {"id": id, "task": "unknown"},
        {"id": id, "task": "unknown", "body": first.task, "priority": "whenever"},
    ):
        await foreign(bus, **fields)
    last = await delegated(bus)
    incidents, meeting = [], Meeting()
    meeting.over.set()
    await idle(bus.worker("@kilo", meeting, lease=600, prefetch=4, on_incident=incidents.append))
    assert [delivery.task for delivery in meeting.seen] == [first.task, last.task]
    assert len([what for what in incidents if "taskbus wrote nothing there" in what]) == 6
    assert len([what for what in incidents if "belongs to no task" in what]) == 2
    await holding(bus, 0)


async def test_a_position_that_is_gone_is_reported(bus):
    """An inbox that points at nothing in the log is said, and the worker goes on."""
    await delegated(bus)
    (entry,) = await bus.log.latest(1)
    await bus.connection.execute("XDEL", bus.keys.log, entry.position.entry)
    later = await delegated(bus)
    incidents, meeting = [], Meeting()
    meeting.over.set()
    await idle(bus.worker("@kilo", meeting, on_incident=incidents.append))
    assert str(entry.position) in incidents[0]
    assert await state(bus, later) == "completed"


async def test_a_handler_that_blocks_the_loop_runs_once(bus):
    """A worker that came to nothing for longer than its lease renews before it takes."""
    envelope, other = await delegated(bus), await delegated(bus)
    runs = []

    async def handler(work):
        runs.append(work.delivery.task)
        await anyio.sleep(0.05)
        time.sleep(0.5)  # noqa: ASYNC251 - that is the fault
        await anyio.sleep(0.05)
        return DONE

    await idle(bus.worker("@kilo", handler, lease=0.3, concurrency=3))
    assert sorted(runs) == sorted([envelope.task, other.task])


async def test_what_was_taken_over_meanwhile_is_not_begun(bus, valkey):
    """A worker that came to nothing for longer than its lease asks before its next handler begins."""
    envelope, next_one = await delegated(bus), await delegated(bus)
    runs, over = [], []

    async def take_over():
        async with Connection.open(valkey) as connection:
            other = Bus(connection, bus.namespace).inbox("@kilo", lease=600)
            while len(over) < 2:
                over.extend((await other.take(5)).deliveries)

    async def handler(work):
        runs.append(work.delivery.task)
        thread = threading.Thread(target=partial(asyncio.run, take_over()))
        thread.start()
        thread.join()  # nothing of this worker runs meanwhile
        return DONE

    incidents, worker = Incidents(), None
    worker = bus.worker("@kilo", handler, lease=0.2, prefetch=5, on_incident=incidents)
    with anyio.fail_after(20):
        await worker.run(limit=2)
    assert runs == [envelope.task]
    assert {delivery.task for delivery in over} == {envelope.task, next_one.task}
    assert len([what for what in incidents if "no longer ours" in what]) == 2
    assert worker.settled == 0


class Process:
    """A worker as a process of its own, which a test may stop and kill."""

    def __init__(self, process):
        """It was started."""
        self.process = process
        self._text = b""

    async def said(self, part):
        """Wait until it has said something."""
        while part.encode() not in self._text:
            self._text += await self.process.stdout.receive()

    def signal(self, number):
        """Send it a signal."""
        os.kill(self.process.pid, number)


@asynccontextmanager
async def worker_process(bus, lease):
    """A worker for @kilo in another process; whatever becomes of it, it is gone after the block."""
    words = [sys.executable, "-c", WORKER, bus.connection.address.url(), bus.namespace, str(lease)]
    path = os.pathsep.join(each for each in (os.environ.get("PYTHONPATH"), str(Path.cwd())) if each)
    async with await anyio.open_process(words, env={**os.environ, "PYTHONPATH": path}, stderr=None) as process:
        try:
            yield Process(process)
        finally:
            with suppress(ProcessLookupError):  # it may have ended already
                process.kill()


async def test_a_killed_worker_is_replaced_within_its_lease(bus):
    """Another one has its delivery a second after the lease has lapsed, at the latest."""
    await delegated(bus)
    meeting = Meeting()
    meeting.over.set()
    async with worker_process(bus, 1.0) as doomed:
        with anyio.fail_after(20):
            await doomed.said("began 1")
        async with at_work(bus.worker("@kilo", meeting, lease=60)):
            await anyio.sleep(1.5)
            assert meeting.seen == []
            doomed.signal(signal.SIGKILL)
            with anyio.fail_after(2.0):
                await meeting.of(1)
            await holding(bus, 0)
    assert meeting.seen[0].tries == 2


async def test_a_worker_that_was_away_finds_its_outcome_refused(bus):
    """Stopped past its lease, it hears that the work is somebody else's, publishes nothing, and works on."""
    envelope = await delegated(bus)
    meeting = Meeting()
    meeting.over.set()
    async with worker_process(bus, 0.5) as slow:
        with anyio.fail_after(20):
            await slow.said("began 1")
            slow.signal(signal.SIGSTOP)
            worker = bus.worker("@kilo", meeting, lease=60)
            async with at_work(worker):
                await reached(bus, envelope, "completed")
            await slow.process.stdin.send(b"\n")
            slow.signal(signal.SIGCONT)
            await slow.said("no longer ours")
            later = compose(Delegation(goal="more"), sender="@boss", recipient="@kilo")
            await bus.publish(later)
            await slow.said("began 1")
            await slow.process.stdin.send(b"\n")
            await reached(bus, later, "completed")
    assert await talk(bus, envelope.task) == ["delegation", "acknowledgment", "completion"]
    assert len(meeting.seen) == 1
