"""What is parked: listed in order, delivered again or dropped, each recorded, and once whoever decides it."""

from __future__ import annotations

from contextlib import suppress

import anyio
import pytest
from msgspec import structs

from taskbus import parked as parking
from taskbus.client import Bus
from taskbus.envelope import (
    Acknowledgment,
    Answer,
    Cancellation,
    Delegation,
    ErrorDetails,
    Escalation,
    compose,
)
from taskbus.errors import Moved, NotFound
from taskbus.parked import agents, count, drop, parked, record_of, replay
from taskbus.setbacks import Setback, records

pytestmark = pytest.mark.anyio

FAILED = Setback("retryable", "no network")


@pytest.fixture
def bus(any_connection, namespace):
    """A bus on every server."""
    return Bus(any_connection, namespace)


async def delegated(bus, task="t", **more):
    """A delegation to @kilo that stands in the log."""
    envelope = compose(Delegation(goal="g"), sender="@boss", recipient="@kilo", task=task, **more)
    await bus.publish(envelope)
    return envelope


async def set_aside(bus, setback=FAILED, *, agent="@kilo"):
    """Take what an agent has to do, and park it, as a worker does."""
    inbox = bus.inbox(agent)
    for delivery in (await inbox.take(10)).deliveries:
        if delivery.is_work and delivery.state == "submitted":
            ack = compose(Acknowledgment(accepted=True), sender=agent, recipient="@boss", task=delivery.task)
            await bus.publish(ack, token=delivery.token)
        await inbox.park(delivery, setback.reason, records(delivery, setback, open_work=delivery.is_work))


async def stuck(bus, *texts, task="t"):
    """A task whose delegation is parked, with answers that wait behind it; all of them."""
    sent = [await delegated(bus, task)]
    await set_aside(bus)
    for text in texts:
        if len(sent) > 1:
            details = ErrorDetails(level=2, category="execution", message="late")
            await bus.publish(compose(Escalation(error_details=details), sender="@bus", recipient="@boss", task=task))
        sent.append(compose(Answer(answer=text), sender="@boss", recipient="@kilo", task=task))
        await bus.publish(sent[-1])
        assert (await bus.inbox("@kilo").take(5)).deliveries == []
    return sent


async def last(bus):
    """What stands in the log last."""
    return (await bus.log.latest(1))[0]


async def waiting(bus, agent="@kilo"):
    """The IDs of the envelopes that an agent's inbox holds."""
    return [entry.id for _, entry in await bus.inbox(agent).waiting()]


async def test_what_is_parked_is_listed_with_its_reason(bus):
    """The first of a task is what failed, with its reason; behind it, in order, what came for it later."""
    sent = await stuck(bus, "one", "two")
    found = await parked(bus, "@kilo", "t")
    assert [line.entry.id for line in found] == [each.id for each in sent]
    assert [line.reason for line in found] == ["retryable", "behind", "behind"]
    assert [line.tries for line in found] == [1, 0, 0]
    assert found[0].is_work
    assert found[0].position < found[1].position < found[2].position
    assert await agents(bus) == ["@boss", "@kilo"]
    assert (await count(bus, "@kilo"), await count(bus, "@kilo", "t")) == (3, 3)
    assert (await count(bus, "@boss"), await count(bus, "@kilo", "u")) == (0, 0)


async def test_all_of_an_agent_are_in_the_order_of_the_log(bus):
    """Without a task it is everything of the agent, whichever task was parked first."""
    first, second = await delegated(bus, "a"), await delegated(bus, "b", priority="high")
    await set_aside(bus)
    assert [line.entry.id for line in await parked(bus, "@kilo")] == [first.id, second.id]


async def test_the_record_of_a_parking_says_what_went_wrong(bus):
    """What is parked leads to the envelope that told of it; what waits behind has none."""
    sent = await stuck(bus, "one")
    first, behind = await parked(bus, "@kilo")
    told = await record_of(bus, first)
    payload = told.envelope.payload
    assert (told.type, payload.deliveries, payload.message) == ("parking", (sent[0].id,), "no network")
    assert await record_of(bus, behind) is None


async def test_the_record_is_that_of_the_last_parking(bus):
    """What was delivered again and parked again has what went wrong the last time."""
    await stuck(bus)
    await replay(bus, "@kilo", "t", sender="@boss")
    await set_aside(bus, Setback("permanent", "no such repository"))
    (line,) = await parked(bus, "@kilo")
    assert (line.reason, line.tries) == ("permanent", 1)
    assert (await record_of(bus, line)).envelope.payload.message == "no such repository"


async def test_a_replay_resumes_the_task(bus):
    """The work is delivered again, the task goes on with it, and the log has who decided so."""
    (delegation,) = await stuck(bus)
    moved = await replay(bus, "@kilo", "t", sender="@boss")
    assert [line.entry.id for line in moved] == [delegation.id]
    assert await waiting(bus) == [delegation.id]
    assert await parked(bus, "@kilo") == []
    told = (await last(bus)).envelope
    assert (told.sender, told.payload.parking, told.payload.resumes) == ("@boss", "replayed", True)
    assert told.payload.deliveries == (delegation.id,)
    assert (await bus.task("t")).state == "submitted"
    (delivery,) = (await bus.inbox("@kilo").take(5)).deliveries
    assert (delivery.is_work, delivery.tries) == (True, 1)


async def test_a_part_is_replayed_in_order_and_the_rest_stays_parked(bus):
    """Of three, two come back; the third waits on, and so does what comes later."""
    sent = await stuck(bus, "one", "two")
    moved = await replay(bus, "@kilo", "t", sender="@boss", stop_at=2)
    assert [line.entry.id for line in moved] == [each.id for each in sent[:2]]
    assert [line.entry.id for line in await parked(bus, "@kilo")] == [sent[2].id]
    taken = (await bus.inbox("@kilo").take(5)).deliveries
    assert [delivery.entry.id for delivery in taken] == [each.id for each in sent[:2]]
    later = compose(Cancellation(reason="no"), sender="@boss", recipient="@kilo", task="t")
    await bus.publish(later)
    assert (await bus.inbox("@kilo").take(5)).deliveries == []
    assert [line.entry.id for line in await parked(bus, "@kilo")] == [sent[2].id, later.id]


async def test_a_replay_of_what_was_answered_meanwhile_resumes_nothing(bus):
    """The task is working by then: its work comes back, with the answer behind it, and the state stays."""
    sent = await stuck(bus, "one")
    await replay(bus, "@kilo", "t", sender="@boss")
    assert not (await last(bus)).envelope.payload.resumes
    assert (await bus.task("t")).state == "working"
    assert await waiting(bus) == [each.id for each in sent]


async def test_what_is_dropped_is_gone_and_recorded(bus):
    """With what waits behind it; the task stays as it is, and the log has who decided so."""
    sent = await stuck(bus, "one")
    state = (await bus.task("t")).state
    moved = await drop(bus, "@kilo", "t", sender="@human")
    assert [line.entry.id for line in moved] == [each.id for each in sent]
    assert await parked(bus, "@kilo") == []
    assert await waiting(bus) == []
    told = (await last(bus)).envelope
    assert (told.sender, told.payload.parking) == ("@human", "dropped")
    assert told.payload.deliveries == tuple(each.id for each in sent)
    assert (await bus.task("t")).state == state
    assert await bus.connection.execute("EXISTS", bus.keys.parked("@kilo")) == 0


async def test_what_is_no_open_work_is_parked_and_replayed_too(bus):
    """A message to the delegator that its handler failed on comes back to it, and the task knows nothing of it."""
    await delegated(bus)
    ack = compose(Acknowledgment(accepted=True), sender="@kilo", recipient="@boss", task="t")
    await bus.publish(ack)
    await set_aside(bus, agent="@boss")
    (line,) = await parked(bus, "@boss")
    assert (line.entry.id, line.is_work) == (ack.id, False)
    before = await bus.task("t")
    await replay(bus, "@boss", "t", sender="@boss")
    assert await waiting(bus, "@boss") == [ack.id]
    assert await bus.task("t") == before
    assert not (await last(bus)).envelope.payload.resumes


@pytest.mark.parametrize("act", [replay, drop])
async def test_nothing_is_parked(bus, act):
    """Whoever replays or drops what is not there is told so."""
    await delegated(bus)
    with pytest.raises(NotFound, match="Nothing of task t is parked for @kilo"):
        await act(bus, "@kilo", "t", sender="@boss")


async def test_of_several_who_decide_one_does(bus):
    """Ten replay and drop at once: the delivery is moved once, the others find nothing, one record stands."""
    await stuck(bus)
    won = []

    async def decide(act):
        with suppress(NotFound, Moved):  # somebody else was first
            won.append((act, await act(bus, "@kilo", "t", sender="@boss")))

    async with anyio.create_task_group() as group:
        for number in range(10):
            group.start_soon(decide, drop if number % 2 else replay)
    ((act, _),) = won
    assert len(await waiting(bus)) == (1 if act is replay else 0)
    decided = [e.envelope.payload.parking async for e in bus.log.read() if e.type == "parking"]
    assert decided == ["parked", "replayed" if act is replay else "dropped"]


async def test_a_replay_goes_on_with_what_is_left(bus, monkeypatch):
    """Somebody replays the first delivery between our look and our step: ours takes the rest, and no record is lost."""
    sent = await stuck(bus, "one", "two")
    whole, done = parking.commit, []

    async def commit(*arguments):
        if not done:
            done.append(True)
            await replay(bus, "@kilo", "t", sender="@human", stop_at=1)
        return await whole(*arguments)

    monkeypatch.setattr(parking, "commit", commit)
    moved = await replay(bus, "@kilo", "t", sender="@boss")
    assert [line.entry.id for line in moved] == [each.id for each in sent[1:]]
    assert await waiting(bus) == [each.id for each in sent]
    decided = [e.sender async for e in bus.log.read() if e.type == "parking"]
    assert decided == ["@bus", "@human", "@boss"]


async def test_a_replay_of_what_never_stands_still_gives_up(bus, monkeypatch):
    """Where it changes before each of its tries, it says so, and has moved nothing."""
    await stuck(bus)
    whole = parking.commit

    async def commit(connection, keys, units):
        (unit,) = units
        gone = structs.replace(unit.move, positions=("1-1",))
        return await whole(connection, keys, [structs.replace(unit, move=gone)])

    monkeypatch.setattr(parking, "commit", commit)
    with pytest.raises(Moved, match="has changed meanwhile"):
        await drop(bus, "@kilo", "t", sender="@boss")
    assert await count(bus, "@kilo") == 1


async def test_what_the_log_does_not_hold_any_more(bus):
    """A trimmed log leaves the place of what was parked; it has no text, and can be dropped."""
    (delegation,) = await stuck(bus)
    (line,) = await parked(bus, "@kilo")
    await bus.connection.execute("XDEL", bus.keys.log, line.position.entry)
    (line,) = await parked(bus, "@kilo")
    assert (line.entry, line.task) == (None, "t")
    assert await record_of(bus, line) is None
    await drop(bus, "@kilo", "t", sender="@boss")
    assert (await last(bus)).envelope.payload.deliveries == ()
    assert await parked(bus, "@kilo") == []
    assert delegation.id not in await waiting(bus)
