"""Mending: an inbox that somebody deleted gets its open work back, and nothing is worked on twice."""

from __future__ import annotations

import anyio
import pytest

from taskbus.client import Bus
from taskbus.delivery import Release
from taskbus.envelope import Acknowledgment, Answer, Completion, Delegation, Question, Result, compose
from taskbus.errors import Permanent, Retryable
from taskbus.mending import mend

pytestmark = pytest.mark.anyio

DONE = Completion(result=Result(status="success"))


@pytest.fixture
def bus(connection, namespace):
    """A bus on the embedded server."""
    return Bus(connection, namespace)


async def delegated(bus, count=1, **more):
    """Delegations to @kilo that stand in the log."""
    envelopes = [compose(Delegation(goal="g"), sender="@boss", recipient="@kilo", **more) for _ in range(count)]
    await bus.publish_many(envelopes)
    return envelopes


async def states(bus, envelopes):
    """The states of their tasks."""
    return {(await bus.task(envelope.task)).state for envelope in envelopes}


async def next_millisecond(bus):
    """A stream that is made anew gives no entry an ID that the old one gave: it does within one millisecond."""
    end = int(await bus.connection.time() * 1000)
    while await bus.connection.time() * 1000 <= end + 1:  # noqa: ASYNC110 - nothing tells of the server's clock
        await anyio.sleep(0.001)


async def test_a_worker_goes_on_with_an_inbox_that_was_deleted(bus):
    """What waited is put back and done, what was being worked on is done once, and the incident is told."""
    envelopes, runs, incidents = await delegated(bus, 6), [], []
    begun, over = anyio.Event(), anyio.Event()

    async def handler(work):
        runs.append(work.delivery.task)
        begun.set()
        await over.wait()
        return DONE

    with anyio.fail_after(20):
        async with anyio.create_task_group() as group:
            worker = bus.worker("@kilo", handler, lease=0.6, on_incident=incidents.append)
            group.start_soon(worker.run)
            await begun.wait()
            await bus.connection.execute("DEL", bus.keys.inbox("@kilo", "normal"))
            over.set()
            while await states(bus, envelopes) != {"completed"}:  # noqa: ASYNC110 - nothing tells of a state
                await anyio.sleep(0.02)
            worker.stop()
    assert sorted(runs) == sorted(envelope.task for envelope in envelopes)
    assert "Somebody deleted the inbox of @kilo (normal)" in incidents[0]
    assert "5 tasks" in incidents[0]


async def test_a_worker_that_comes_later_notices_too(bus):
    """A worker that never saw the stream puts back what stood in it, also when new messages have come since."""
    before = await delegated(bus, 3)
    inbox = bus.inbox("@kilo")
    (first,) = (await inbox.take()).deliveries
    await bus.connection.execute("DEL", bus.keys.inbox("@kilo", "normal"))
    await next_millisecond(bus)
    after = await delegated(bus, 2)

    async def handler(work):
        return DONE

    await bus.worker("@kilo", handler).run(limit=4)
    assert await states(bus, [e for e in (*before, *after) if e.task != first.task]) == {"completed"}
    said = (Acknowledgment(accepted=True), DONE)
    await inbox.settle(first, [compose(each, sender="@kilo", recipient="@boss", task=first.task) for each in said])
    assert await states(bus, before) == {"completed"}


async def test_what_waits_for_another_try_is_put_back(bus):
    """A delivery in its pause stands in no stream any more; it is tried again all the same."""
    (envelope,) = await delegated(bus)
    tries = []

    async def handler(work):
        tries.append(work.delivery.task)
        if len(tries) == 1:
            await bus.connection.execute("DEL", bus.keys.inbox("@kilo", "normal"))
            raise Retryable("not yet")
        return DONE

    with anyio.fail_after(20):
        await bus.worker("@kilo", handler, backoff=0.1).run(limit=2)
    assert await states(bus, [envelope]) == {"completed"}


async def test_mending_one_inbox_forgets_no_tries_of_another(bus):
    """The group of one priority is gone when another is mended: what waits there was tried as often as before."""
    await delegated(bus, priority="high")
    inbox = bus.inbox("@kilo", lease=60)
    (first,) = (await inbox.take()).deliveries
    await inbox.release([Release(first, 0.05, counts=True, reason="retryable")])
    await bus.connection.execute("XGROUP", "DESTROY", bus.keys.inbox("@kilo", "high"), "@kilo")
    assert await mend(bus, "@kilo") == []
    with anyio.fail_after(20):
        while not (again := (await inbox.take()).deliveries):  # noqa: ASYNC110 - its pause is the server's
            await anyio.sleep(0.01)
    assert [(delivery.name, delivery.tries) for delivery in again] == [(first.name, 2)]


async def test_what_is_parked_stays_parked(bus):
    """Work that was set aside stands in no stream of the inbox, and is not put back there."""
    (envelope,) = await delegated(bus)

    async def handler(work):
        raise Permanent("no")

    await bus.worker("@kilo", handler).run(limit=1)
    await bus.publish(compose(Answer(answer="go on"), sender="@boss", recipient="@kilo", task=envelope.task))
    assert (await bus.inbox("@kilo").take()).deliveries == []  # the answer waits behind it
    await bus.connection.execute("DEL", bus.keys.inbox("@kilo", "normal"))
    assert await mend(bus, "@kilo") == []


async def test_the_work_that_is_put_back_is_what_was_delivered_last(bus):
    """After a question, that is the answer; the work goes on with it."""
    (envelope,) = await delegated(bus)
    seen = []

    async def handler(work):
        seen.append(work.envelope.type)
        return Question(question="which?") if work.envelope.type == "delegation" else DONE

    await bus.worker("@kilo", handler).run(limit=1)
    await bus.publish(compose(Answer(answer="that"), sender="@boss", recipient="@kilo", task=envelope.task))
    await bus.connection.execute("DEL", bus.keys.inbox("@kilo", "normal"))
    assert await mend(bus, "@kilo") == [envelope.task]
    await bus.worker("@kilo", handler).run(limit=1)
    assert seen == ["delegation", "answer"]
    assert await states(bus, [envelope]) == {"completed"}


async def test_mending_a_sound_inbox_changes_nothing(bus):
    """Whatever stands where it should is left alone."""
    envelopes = await delegated(bus, 3)
    (held,) = (await bus.inbox("@kilo", lease=60).take()).deliveries
    before = await bus.connection.hash(bus.keys.index)
    assert await mend(bus, "@kilo") == []
    assert await bus.connection.hash(bus.keys.index) == before
    assert held.task in {envelope.task for envelope in envelopes}
