"""What a worker parks: in one step with what tells of it, with what waits behind it, and until somebody decides."""

from __future__ import annotations

from functools import partial

import pytest

from taskbus.client import Bus
from taskbus.envelope import Answer, Cancellation, compose
from taskbus.errors import Permanent, Retryable
from taskbus.parked import parked, replay
from taskbus.setbacks import Setback, records
from tests import entries
from tests.taskbus.workplace import (
    DONE,
    delegated,
    escalation_of,
    failing,
    idle,
    state,
    talk,
    the_parked,
)

pytestmark = pytest.mark.anyio


@pytest.fixture
def bus(connection, namespace):
    """A bus on the embedded server."""
    return Bus(connection, namespace)


@pytest.mark.parametrize("error", [Retryable("no network"), ValueError("no network")], ids=["retryable", "other"])
async def test_the_last_failure_parks_and_escalates_in_one_step(bus, error):
    """The coordinator hears of it from the bus, the record stands behind that, and the work waits where it is."""
    envelope = await delegated(bus, priority="high")
    calls, told = [], []
    worker = bus.worker(
        *("@kilo", failing(error, calls=calls)), attempts=2, backoff=0, on_settled=lambda *args: told.append(args)
    )
    await idle(worker)
    line = await the_parked(bus, envelope)
    assert (line.reason, line.tries, line.is_work, line.entry.id) == ("retryable", 2, True, envelope.id)
    escalation, record = await bus.log.latest(2)
    assert (escalation.type, escalation.sender, escalation.recipient) == ("escalation", "@bus", "@boss")
    details = escalation.envelope.payload.error_details
    assert (details.level, details.category) == (2, "execution")
    assert "2 attempts" in details.message
    assert "no network" in details.message
    assert envelope.task in details.attempted_recovery
    assert (record.type, record.sender, record.recipient) == ("parking", "@bus", "@bus")
    parking = record.envelope.payload
    assert (parking.parking, parking.agent, parking.deliveries) == ("parked", "@kilo", (envelope.id,))
    assert (parking.reason, parking.attempts) == ("retryable", 2)
    for entry in (escalation, record):
        assert entry.envelope.context.causation_id == envelope.id
    delivery = calls[-1]
    assert (escalation.id, record.id) == (delivery.outcome_id("escalated"), delivery.outcome_id("parked"))
    assert await state(bus, envelope) == "escalated"
    assert [entry.type for _, entry in await bus.inbox("@boss").waiting()] == ["escalation", "acknowledgment"][::-1]
    ((delivery, outcomes, appended),) = told
    assert [each.id for each in outcomes] == [escalation.id, record.id]
    assert [each.position for each in appended] == [escalation.position, record.position]
    assert worker.settled == 1


async def test_what_is_published_with_a_parking_has_the_same_ids_each_time(bus):
    """Whoever parks the same delivery again, for whatever reason, cannot tell of it twice."""
    await delegated(bus)
    (delivery,) = (await bus.inbox("@kilo").take()).deliveries
    first = records(delivery, Setback("retryable", "a"), open_work=True)
    again = records(delivery, Setback("lost", "b"), open_work=True)
    assert [each.id for each in first] == [each.id for each in again]
    assert len({each.id for each in first}) == 2


async def test_lost_workers_count_and_the_last_one_parks(bus):
    """What nobody survives is not tried for ever: the next worker sets it aside without trying."""
    envelope = await delegated(bus)
    doomed = bus.inbox("@kilo", consumer="doomed", lease=0.001)
    for tries in (1, 2):
        taken = []
        while not taken:
            taken = (await doomed.take()).deliveries
        assert taken[0].tries == tries
    calls = []
    await idle(bus.worker("@kilo", failing(ValueError("never called"), calls=calls), attempts=2))
    assert calls == []
    assert (await the_parked(bus, envelope)).reason == "lost"
    record = (await bus.log.latest(1))[0].envelope.payload
    assert (record.reason, record.attempts) == ("lost", 2)
    assert "2 attempts" in (await escalation_of(bus, envelope)).envelope.payload.error_details.message
    assert "acknowledgment" not in await talk(bus, envelope.task)


async def broken(bus, body, **fields):
    """A delegation whose body in the log was replaced by something else, with those that were there before gone."""
    envelope = await delegated(bus)
    (entry,) = await bus.log.latest(1)
    told = {"id": envelope.id, "type": "delegation", "sender": "@boss", "recipient": "@kilo", "task": envelope.task}
    words = entries.words(**told, body=body, **fields)
    await bus.connection.execute("DEL", bus.keys.log)
    await bus.connection.execute("XADD", bus.keys.log, entry.position.entry, *words)
    return envelope


@pytest.mark.parametrize(
    ("body", "fields"),
    [
        ("{}", {}),
        (b"\xff\xfe", {}),
        ("[" * 100_000, {}),
        ("<agent-message/>", {"form": "xml"}),
        ("<!DOCTYPE x [<!ENTITY a 'b'>]><x>&a;</x>", {"form": "xml"}),
    ],
    ids=["empty", "no text", "deep", "no envelope", "entities"],
)
async def test_what_cannot_be_read_is_parked_at_once(bus, body, fields):
    """The handler never sees it, the coordinator hears of it, and what comes after it is worked on."""
    bad = await broken(bus, body, **fields)
    good = await delegated(bus)
    incidents, calls = [], []
    await idle(bus.worker("@kilo", failing(OSError(), calls=calls, times=0), prefetch=3, on_incident=incidents.append))
    assert "is parked (undecodable)" in incidents[0]
    assert [delivery.task for delivery in calls] == [good.task]
    assert await state(bus, good) == "completed"
    line = await the_parked(bus, bad)
    assert (line.reason, line.tries) == ("undecodable", 1)
    escalation = await escalation_of(bus, bad)
    assert (escalation.recipient, escalation.envelope.payload.error_details.category) == ("@boss", "validation")
    assert await state(bus, bad) == "escalated"


async def test_later_messages_of_a_parked_task_wait_in_order(bus):
    """The agent hears nothing of the task until it is replayed, and then everything in the order it was said."""
    envelope, other = await delegated(bus), await delegated(bus)
    heard = []

    async def handler(work):
        heard.append((work.delivery.task, work.envelope.type))
        if work.delivery.task == envelope.task and len(heard) == 1:
            raise Permanent("not yet")
        return DONE if work.delivery.is_work else None

    worker = partial(bus.worker, "@kilo", handler, concurrency=1)
    await idle(worker())
    for payload in (Answer(answer="that"), Cancellation(reason="r")):
        await bus.publish(compose(payload, sender="@boss", recipient="@kilo", task=envelope.task))
        await idle(worker())
    assert heard == [(envelope.task, "delegation"), (other.task, "delegation")]
    lines = await parked(bus, "@kilo", envelope.task)
    assert [(line.entry.type, line.reason) for line in lines] == [
        ("delegation", "permanent"),
        ("answer", "behind"),
        ("cancellation", "behind"),
    ]
    await replay(bus, "@kilo", envelope.task, sender="@boss")
    await idle(worker())
    assert [kind for task, kind in heard[2:] if task == envelope.task] == ["delegation", "answer", "cancellation"]
    assert await parked(bus, "@kilo") == []


async def test_parked_work_that_is_replayed_is_done(bus):
    """With all its attempts again, and parked anew under other IDs when they fail as well."""
    envelope = await delegated(bus)
    calls = []
    await idle(bus.worker("@kilo", failing(OSError("x"), calls=calls), attempts=2, backoff=0))
    await replay(bus, "@kilo", envelope.task, sender="@boss")
    await idle(bus.worker("@kilo", failing(OSError("x"), calls=calls), attempts=2, backoff=0))
    await replay(bus, "@kilo", envelope.task, sender="@boss")
    await idle(bus.worker("@kilo", failing(OSError("x"), times=0)))
    assert len(calls) == 4
    assert await state(bus, envelope) == "completed"
    said = await talk(bus, envelope.task)
    assert (said.count("escalation"), said.count("parking"), said.count("completion")) == (2, 4, 1)


async def test_news_that_are_parked_go_to_the_coordinator(bus):
    """What is no open work is escalated to nobody, and still somebody hears that it was set aside."""
    envelope = await delegated(bus)
    await bus.publish(compose(Cancellation(reason="r"), sender="@boss", recipient="@kilo", task=envelope.task))
    calls = []
    await idle(bus.worker("@kilo", failing(OSError("x"), calls=calls), attempts=2, backoff=0))
    assert [delivery.entry.type for delivery in calls] == ["cancellation"] * 2
    line = await the_parked(bus, envelope)
    assert (line.is_work, line.reason) == (False, "retryable")
    record = (await bus.log.latest(1))[0]
    assert (record.type, record.sender, record.recipient) == ("parking", "@bus", "@boss")
    assert await state(bus, envelope) == "canceled"


async def test_what_the_coordinator_cannot_deal_with_goes_to_the_human(bus):
    """Whoever coordinates is not told of its own failure, which it could not deal with either."""
    envelope = await delegated(bus)
    await idle(bus.worker("@kilo", failing(OSError(), times=0)))
    await idle(bus.worker("@boss", failing(OSError("x")), attempts=1))
    tellings = [entry async for entry in bus.log.read() if entry.type == "parking"]
    assert {entry.recipient for entry in tellings} == {"@human"}
    assert len(await parked(bus, "@boss", envelope.task)) == 1
    assert await state(bus, envelope) == "completed"
