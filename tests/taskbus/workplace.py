"""What the tests of the worker share: work to do, what was said of it, and a worker that works while a block runs."""

from __future__ import annotations

from contextlib import asynccontextmanager
from functools import partial

import anyio

from taskbus.envelope import Completion, Delegation, Result, compose
from taskbus.parked import parked

DONE = Completion(result=Result(status="success"))


class Incidents(list):
    """What a worker reported; a test can wait for it."""

    def __init__(self):
        """Nothing was reported yet."""
        super().__init__()
        self._changed = anyio.Event()

    def __call__(self, what):
        """Note an incident."""
        self.append(what)
        self._changed.set()
        self._changed = anyio.Event()

    async def until(self, part):
        """Wait for an incident that has `part` in it."""
        while not any(part in what for what in self):
            await self._changed.wait()


class Meeting:
    """Handlers come in and stay until they are let go; a test can wait for so many to be in."""

    def __init__(self):
        """Nobody is in, and nobody may go."""
        self.seen = []
        self.cancelled = []
        self.over = anyio.Event()
        self._came = anyio.Event()

    async def __call__(self, work):
        """Come in, stay, and be done."""
        self.seen.append(work.delivery)
        self._came.set()
        self._came = anyio.Event()
        try:
            await self.over.wait()
        except anyio.get_cancelled_exc_class():
            self.cancelled.append(work.delivery.task)
            raise
        return DONE

    async def of(self, count):
        """Wait until so many have come."""
        while len(self.seen) < count:
            await self._came.wait()


async def delegated(bus, recipient="@kilo", **more):
    """A delegation that stands in the log."""
    envelope = compose(Delegation(goal="g"), sender="@boss", recipient=recipient, **more)
    await bus.publish(envelope)
    return envelope


async def talk(bus, task):
    """What was said of a task, in order, as types."""
    return [entry.type async for entry in bus.log.read() if entry.task == task]


async def held(bus, agent="@kilo"):
    """Who has how many deliveries of an agent, by worker; "-" are those that wait."""
    lines = (await bus.connection.hash(bus.keys.held(agent))).values()
    holders = [line.split(" ")[1] for line in lines]
    return {holder: holders.count(holder) for holder in holders}


async def eventually(condition):
    """Wait until something is so that nobody tells of."""
    while not await condition():  # noqa: ASYNC110 - the server tells nobody
        await anyio.sleep(0.01)


async def state(bus, envelope):
    """The state of the task that an envelope is about."""
    return (await bus.task(envelope.task)).state


async def reached(bus, envelope, expected):
    """Wait until the task has come to a state."""

    async def there():
        return await state(bus, envelope) == expected

    await eventually(there)


async def holding(bus, count):
    """Wait until so many deliveries are held, or wait for their time."""

    async def so_many():
        return sum((await held(bus)).values()) == count

    await eventually(so_many)


async def known(bus, count=1):
    """Wait until so many workers were seen."""

    async def so_many():
        return await bus.connection.execute("ZCARD", bus.keys.workers) == count

    await eventually(so_many)


@asynccontextmanager
async def at_work(*workers, seconds=30, **how):
    """Run workers for the time of the block, which may take so many seconds; then stop them at once."""
    with anyio.fail_after(seconds):
        async with anyio.create_task_group() as group:
            for worker in workers:
                group.start_soon(partial(worker.run, **how))
            yield
            for worker in workers:
                worker.stop(0)


async def idle(worker, seconds=30):
    """Run a worker until its inbox is empty."""
    with anyio.fail_after(seconds):
        await worker.run(until_idle=True)


def failing(error, *, calls=None, times=1000):
    """A handler that raises so many times, and then succeeds."""
    calls = [] if calls is None else calls

    async def handler(work):
        calls.append(work.delivery)
        if len(calls) <= times:
            raise error
        return DONE

    return handler


async def the_parked(bus, envelope, *, agent="@kilo"):
    """The only line that is parked of a task, after which nothing is left in the inbox and nobody holds anything."""
    assert await bus.inbox(agent).waiting() == []
    assert await held(bus, agent) == {}
    (line,) = await parked(bus, agent, envelope.task)
    return line


async def escalation_of(bus, envelope):
    """The only escalation of a task."""
    (entry,) = [each async for each in bus.log.read() if each.task == envelope.task and each.type == "escalation"]
    return entry
