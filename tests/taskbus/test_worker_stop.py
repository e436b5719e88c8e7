"""The worker's end: it takes no more, finishes or hands back within its grace, and never takes work with it."""

from __future__ import annotations

import anyio
import pytest

from taskbus.client import Bus
from taskbus.connection import Connection
from tests.servers import bundled_binary, end, running
from tests.taskbus.workplace import (
    DONE,
    Incidents,
    Meeting,
    at_work,
    delegated,
    held,
    holding,
    idle,
    known,
    reached,
    state,
    talk,
)

pytestmark = pytest.mark.anyio


@pytest.fixture
def bus(connection, namespace):
    """A bus on the embedded server."""
    return Bus(connection, namespace)


@pytest.fixture
async def group():
    """Runs what a test starts, and ends it with the test; all of it within half a minute."""
    with anyio.fail_after(30):
        async with anyio.create_task_group() as group:
            yield group
            group.cancel_scope.cancel()


class Running:
    """A worker that runs in a group; `ended` is set when its `run` has returned."""

    def __init__(self, group, worker, **how):
        """Start it."""
        self.worker = worker
        self.ended = anyio.Event()
        self.scope = anyio.CancelScope()
        group.start_soon(self._run, how)

    async def _run(self, how):
        with self.scope:
            await self.worker.run(**how)
        self.ended.set()


@pytest.mark.parametrize("prefetch", [0, 9])
async def test_a_stopped_worker_finishes_what_it_has_and_takes_no_more(bus, prefetch):
    """After `stop` no handler begins, also with what was taken before it, and what is under way is settled."""
    envelope, later = await delegated(bus), await delegated(bus)
    worker, begun = None, []

    async def handler(work):
        begun.append(work.delivery.task)
        worker.stop()
        return DONE

    worker = bus.worker("@kilo", handler, prefetch=prefetch)
    with anyio.fail_after(10):
        await worker.run()
    assert begun == [envelope.task]
    assert await state(bus, envelope) == "completed"
    assert await state(bus, later) == ("working" if prefetch else "submitted")
    assert set(await held(bus)) <= {"-"}
    assert await bus.connection.execute("ZCARD", bus.keys.workers) == 0


async def test_stopping_wakes_a_worker_that_waits(bus, group):
    """A worker that waits for work stops at once."""
    worker = Running(group, bus.worker("@kilo", Meeting()))
    await known(bus)
    worker.worker.stop()
    with anyio.fail_after(2):
        await worker.ended.wait()
    assert worker.worker.settled == 0


async def test_what_waits_in_a_stopped_worker_is_handed_back_at_once(bus, group):
    """Another worker has it while the first one still finishes what it had begun, and no try of it is counted."""
    tasks = [(await delegated(bus)).task for _ in range(4)]
    slow, quick = Meeting(), Meeting()
    stopped = Running(group, bus.worker("@kilo", slow, lease=600, prefetch=9, grace=60))
    await slow.of(1)
    async with at_work(bus.worker("@kilo", quick, concurrency=4), seconds=5):
        await holding(bus, 4)
        assert quick.seen == []
        stopped.worker.stop()
        await quick.of(3)
        assert [delivery.task for delivery in quick.seen] == tasks[1:]
        assert {delivery.tries for delivery in quick.seen} == {1}
        quick.over.set()
    slow.over.set()
    await stopped.ended.wait()
    assert [delivery.task for delivery in slow.seen] == tasks[:1]
    assert (await bus.task(tasks[0])).state == "completed"
    # What was acknowledged once is not acknowledged again by who goes on with it.
    assert await talk(bus, tasks[1]) == ["delegation", "acknowledgment", "completion"]


@pytest.mark.parametrize("how", ["grace is over", "no grace", "stopped twice"])
async def test_what_does_not_end_in_time_is_handed_back(bus, group, how):
    """It is cancelled, and another worker has it within a second, with no try counted; `run` returns as always."""
    envelope = await delegated(bus)
    slow, quick = Meeting(), Meeting()
    stopped = Running(group, bus.worker("@kilo", slow, lease=600, grace=0.1 if how == "grace is over" else 600))
    await slow.of(1)
    other = bus.worker("@kilo", quick)
    async with at_work(other):
        await known(bus, 2)
        stopped.worker.stop(0 if how == "no grace" else None)
        if how == "stopped twice":
            await anyio.wait_all_tasks_blocked()
            assert slow.cancelled == []
            stopped.worker.stop()
        with anyio.fail_after(1):
            await quick.of(1)
        await stopped.ended.wait()
        assert slow.cancelled == [envelope.task]
        assert (quick.seen[0].task, quick.seen[0].tries) == (envelope.task, 1)
        quick.over.set()
        await reached(bus, envelope, "completed")
    assert stopped.worker.settled == 0


async def test_the_grace_ends_with_the_last_handler(bus, group):
    """Nobody waits for time that nobody needs."""
    await delegated(bus)
    meeting = Meeting()
    stopped = Running(group, bus.worker("@kilo", meeting, grace=600))
    await meeting.of(1)
    stopped.worker.stop()
    meeting.over.set()
    with anyio.fail_after(5):
        await stopped.ended.wait()
    assert stopped.worker.settled == 1


async def test_a_cancelled_worker_hands_back(bus, group):
    """Whoever cancels `run` takes no delivery with it, neither what runs nor what waits."""
    tasks = {(await delegated(bus)).task for _ in range(3)}
    meeting, other = Meeting(), Meeting()
    worker = Running(group, bus.worker("@kilo", meeting, lease=600, prefetch=9))
    await meeting.of(1)
    await holding(bus, 3)
    worker.scope.cancel()
    await worker.ended.wait()
    assert await held(bus) == {"-": 3}
    assert await bus.connection.execute("ZCARD", bus.keys.workers) == 0
    other.over.set()
    await idle(bus.worker("@kilo", other, concurrency=3), seconds=5)
    assert {delivery.task for delivery in other.seen} == tasks
    assert {delivery.tries for delivery in other.seen} == {1}


async def test_a_cancelled_worker_tells_what_was_decided(bus, group):
    """An outcome that was on its way to the server when `run` was cancelled is settled, once."""
    envelope = await delegated(bus)
    meeting = Meeting()
    worker = Running(group, bus.worker("@kilo", meeting, lease=600))
    await meeting.of(1)
    await bus.connection.execute("CLIENT", "PAUSE", 300, "WRITE")
    meeting.over.set()
    await anyio.sleep(0.05)
    worker.scope.cancel()
    await worker.ended.wait()
    assert await talk(bus, envelope.task) == ["delegation", "acknowledgment", "completion"]
    assert await held(bus) == {}
    assert worker.worker.settled == 1


async def test_stopping_ends_what_waits_until_idle(bus, group):
    """Also a worker that waits for another one's delivery."""
    await delegated(bus)
    await bus.inbox("@kilo", lease=600).take()
    incidents = Incidents()
    worker = Running(group, bus.worker("@kilo", Meeting(), on_incident=incidents), until_idle=True)
    await incidents.until("Waiting for 1 delivery")
    worker.worker.stop()
    with anyio.fail_after(5):
        await worker.ended.wait()


async def test_stopping_ends_what_finishes_its_limit(bus, group):
    """A worker that takes no more anyway, and waits for its handler, is stopped as any other."""
    await delegated(bus)
    meeting = Meeting()
    worker = Running(group, bus.worker("@kilo", meeting, lease=600), limit=1)
    await meeting.of(1)
    worker.worker.stop(0)
    with anyio.fail_after(5):
        await worker.ended.wait()
    assert await held(bus) == {"-": 1}


async def test_an_outcome_in_spite_of_the_cancellation_is_settled(bus, group):
    """A handler that swallows its cancellation, and is done, is done."""
    envelope = await delegated(bus)
    began = anyio.Event()

    async def handler(_work):
        began.set()
        try:
            await anyio.sleep_forever()
        except anyio.get_cancelled_exc_class():
            return DONE

    worker = Running(group, bus.worker("@kilo", handler))
    await began.wait()
    worker.worker.stop(0)
    await worker.ended.wait()
    assert await state(bus, envelope) == "completed"
    assert worker.worker.settled == 1


async def test_a_failure_in_spite_of_the_cancellation_is_handed_back(bus, group):
    """A handler that fails because it was cancelled has not failed: no try is counted."""
    await delegated(bus)
    began = anyio.Event()

    async def handler(_work):
        began.set()
        try:
            await anyio.sleep_forever()
        finally:
            raise OSError("the pipe is closed")

    worker = Running(group, bus.worker("@kilo", handler, attempts=1))
    await began.wait()
    worker.worker.stop(0)
    await worker.ended.wait()
    (delivery,) = (await bus.inbox("@kilo").take()).deliveries
    assert delivery.tries == 1


async def test_nobody_begins_before_a_cancelled_handler_has_ended(bus, group):
    """A handler that needs many times its lease to end what it began keeps its delivery until then."""
    await delegated(bus)
    story, began = [], anyio.Event()

    async def slow(_work):
        began.set()
        try:
            await anyio.sleep_forever()
        finally:
            with anyio.CancelScope(shield=True):
                await anyio.sleep(2.5)
            story.append("ended")

    async def other(work):
        story.append(f"began, try {work.delivery.tries}")
        return DONE

    worker = Running(group, bus.worker("@kilo", slow, lease=0.4))
    await began.wait()
    async with at_work(bus.worker("@kilo", other, lease=0.4)):
        worker.worker.stop(0)
        await worker.ended.wait()
        await holding(bus, 0)
    assert story == ["ended", "began, try 1"]


async def test_a_worker_stops_while_the_server_is_away(namespace, group):
    """It does not wait for its return, and says what becomes of the delivery that it cannot hand back."""
    incidents, meeting = Incidents(), Meeting()
    with running(bundled_binary()) as server:
        async with Connection.open(server.url, timeout=60) as connection:
            bus = Bus(connection, namespace)
            await delegated(bus)
            worker = bus.worker("@kilo", meeting, lease=0.5, on_incident=incidents, concurrency=2)
            run = Running(group, worker)
            await meeting.of(1)
            end(server)
            await anyio.sleep(1)  # now a take and a renewal are under way that nobody answers
            worker.stop(0)
            with anyio.fail_after(10):
                await run.ended.wait()
    assert "was not told of 1 delivery" in incidents[-1]
    assert len(meeting.cancelled) == 1


@pytest.mark.parametrize("how", ["stopped", "cancelled"])
async def test_a_worker_that_ends_while_it_takes_strands_nothing(bus, group, how):
    """What was taken, and not begun with, is handed back however far it had come, also where nobody heard of it."""
    count = 30
    for _ in range(count):
        await delegated(bus)
    for turns in range(12):
        worker = bus.worker("@kilo", Meeting(), lease=600, concurrency=3, prefetch=20, attempts=1)
        run = Running(group, worker)
        for _ in range(turns):
            await anyio.sleep(0.0005)
        if how == "stopped":
            worker.stop(0)
        else:
            run.scope.cancel()
        await run.ended.wait()
        assert set(await held(bus)) <= {"-"}
    other = Meeting()
    other.over.set()
    await idle(bus.worker("@kilo", other, concurrency=5, attempts=1))
    assert len(other.seen) == count
    assert {delivery.tries for delivery in other.seen} == {1}
