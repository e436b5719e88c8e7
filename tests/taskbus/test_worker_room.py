"""How much a worker takes: its room and its order, what it shares and what it costs, and when it has done enough."""

from __future__ import annotations

from functools import partial

import anyio
import pytest

from taskbus import worker
from taskbus.client import Bus
from taskbus.envelope import (
    Acknowledgment,
    Verdict,
    compose,
)
from tests.taskbus.workplace import (
    DONE,
    Incidents,
    Meeting,
    at_work,
    delegated,
    eventually,
    held,
    holding,
    idle,
    known,
    state,
)

pytestmark = pytest.mark.anyio


@pytest.fixture
def bus(connection, namespace):
    """A bus on the embedded server."""
    return Bus(connection, namespace)


async def done(_work):
    """A handler that succeeds at once."""
    return DONE


async def scripts_run(bus):
    """How many scripts the server was asked to run so far."""
    info = (await bus.connection.execute("INFO", "commandstats")).decode()
    calls = [line.split("calls=")[1].split(",")[0] for line in info.splitlines() if line.startswith("cmdstat_evalsha:")]
    return int(calls[0])


async def test_concurrency_is_bounded(bus):
    """No more handlers than agreed run at a time, and that many do."""
    for _ in range(9):
        await delegated(bus)
    meeting, worker = Meeting(), None
    worker = bus.worker("@kilo", meeting, concurrency=3)
    async with at_work(worker):
        await meeting.of(3)
        assert worker.handling == 3
        assert sum((await held(bus)).values()) == 3
        meeting.over.set()
        await meeting.of(9)


async def test_idle_handlers_are_all_woken(bus):
    """A worker that was idle has as many handlers at work as it may, when there is work for all of them."""
    meeting = Meeting()
    async with at_work(bus.worker("@kilo", meeting, concurrency=3)):
        await known(bus)
        for _ in range(3):
            await delegated(bus)
        await meeting.of(3)


async def test_no_more_is_held_ready_than_agreed(bus):
    """A worker has in hand what its handlers run and what it prefetches, and leaves the rest to others."""
    for _ in range(30):
        await delegated(bus)
    most = []

    async def handler(_work):
        most.append(sum((await held(bus)).values()))
        return DONE

    await idle(bus.worker("@kilo", handler, concurrency=2, prefetch=4))
    assert max(most) == 6
    assert len(most) == 30


async def test_the_most_urgent_of_what_is_held_comes_first(bus):
    """Also what was taken last: what waits in the worker is in no order of its own."""
    first = await delegated(bus)
    meeting = Meeting()
    worker = bus.worker("@kilo", meeting, prefetch=8)

    async def queued():
        return len(worker._queue) == len(tasks)

    async with at_work(worker):
        await meeting.of(1)
        tasks = {}
        for priority in ("low", "normal", "critical", "high"):
            tasks[(await delegated(bus, priority=priority)).task] = priority
            await eventually(queued)
        meeting.over.set()
        await meeting.of(5)
    order = [tasks.get(delivery.task, "first") for delivery in meeting.seen]
    assert order == ["first", "critical", "high", "normal", "low"]
    assert await state(bus, first) == "completed"


async def test_settlements_share_round_trips(bus):
    """What is decided at the same time is told in one step, however many handlers decided it."""
    settled, all_settled = [], anyio.Event()

    def told(delivery, _outcomes, _appended):
        settled.append(delivery)
        if len(settled) == 40:
            all_settled.set()

    for _ in range(40):
        await delegated(bus)
    meeting = Meeting()
    async with at_work(bus.worker("@kilo", meeting, concurrency=40, on_settled=told, supervision=None)):
        await meeting.of(40)
        before = await scripts_run(bus)
        meeting.over.set()
        await all_settled.wait()
        assert await scripts_run(bus) - before < 10
    assert len({delivery.task for delivery in settled}) == 40


async def test_a_refused_settlement_refuses_no_other(bus):
    """Those that are told together stand each for itself."""
    bad, good = await delegated(bus), await delegated(bus)
    together = anyio.Event()

    async def handler(work):
        if work.delivery.task == good.task:
            together.set()
        await together.wait()
        return Verdict(decision="accepted") if work.delivery.task == bad.task else DONE

    await idle(bus.worker("@kilo", handler, concurrency=2))
    assert await state(bus, good) == "completed"
    assert await state(bus, bad) == "escalated"


async def test_many_workers_of_many_agents_share_a_process(bus):
    """Each gets its own agent's work, and each piece of work is done once."""
    runs = []

    def handler(agent):
        async def handle(work):
            assert work.delivery.agent == agent
            runs.append(work.delivery.task)
            return DONE

        return handle

    agents = ("@kilo", "@lima", "@mike")
    tasks = [(await delegated(bus, agent)).task for _ in range(10) for agent in agents]
    with anyio.fail_after(30):
        async with anyio.create_task_group() as group:
            for agent in agents * 3:
                worker = bus.worker(agent, handler(agent), concurrency=2)
                group.start_soon(partial(worker.run, until_idle=True))
    assert sorted(runs) == sorted(tasks)


async def test_until_idle_ends_with_the_last_handler(bus):
    """With several handlers at a time, the worker ends when the last one has, not a lease later."""

    async def handler(work):
        await anyio.sleep(0.05)
        return DONE

    for _ in range(3):
        await delegated(bus)
    await idle(bus.worker("@kilo", handler, concurrency=2, lease=60), seconds=15)
    assert await bus.inbox("@kilo").waiting() == []


async def test_until_idle_waits_for_what_is_to_be_tried_again(bus):
    """An inbox with something in it that waits for its time is not empty, and who waits says so."""
    calls, incidents = [], []

    async def handler(_work):
        calls.append(1)
        if len(calls) == 1:
            raise OSError("not yet")
        return DONE

    await delegated(bus)
    await idle(bus.worker("@kilo", handler, backoff=0.2, on_incident=incidents.append))
    assert len(calls) == 2
    assert "Waiting for 1 delivery that waits for its time." in incidents


async def test_a_limit_is_so_many_deliveries(bus):
    """The worker takes that many, finishes them, and leaves the others."""
    for _ in range(5):
        await delegated(bus)
    worker = bus.worker("@kilo", done, concurrency=2, prefetch=9)
    with anyio.fail_after(10):
        await worker.run(limit=3)
    assert worker.settled == 3
    assert len(await bus.inbox("@kilo").waiting()) == 2
    assert await held(bus) == {}


async def test_a_worker_that_waits_for_another_says_so_and_ends_soon_after_it(bus):
    """It does not sit out the lease of a delivery that was settled long ago."""
    envelope = await delegated(bus)
    other = bus.inbox("@kilo", consumer="worker-other", lease=600)
    (delivery,) = (await other.take()).deliveries
    incidents = Incidents()
    with anyio.fail_after(30):
        async with anyio.create_task_group() as group:
            worker = bus.worker("@kilo", done, on_incident=incidents)
            group.start_soon(partial(worker.run, until_idle=True))
            await incidents.until("Waiting for 1 delivery that worker-other holds.")
            await bus.publish(
                compose(Acknowledgment(accepted=True), sender="@kilo", recipient="@boss", task=envelope.task),
                token=delivery.token,
            )
            await other.settle(delivery, [compose(DONE, sender="@kilo", recipient="@boss", task=envelope.task)])
    assert len(incidents) == 1


async def test_an_idle_worker_costs_next_to_nothing(bus, monkeypatch):
    """It looks every five seconds, here every second, to show that it is alive, and asks nothing else."""
    assert worker._IDLE == 5.0
    monkeypatch.setattr(worker, "_IDLE", 1.0)
    meeting = Meeting()
    async with at_work(bus.worker("@kilo", meeting, lease=0.2, concurrency=4, prefetch=4, supervision=None)):
        meeting.over.set()
        await delegated(bus)
        await holding(bus, 0)
        await anyio.sleep(0.2)
        before = await scripts_run(bus)
        await anyio.sleep(4.5)
        assert 3 <= await scripts_run(bus) - before <= 5
