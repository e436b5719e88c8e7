"""Delivery: take and lease in one step, renew, settle, and who is refused."""

from __future__ import annotations

import anyio
import pytest

from taskbus.client import Bus
from taskbus.envelope import (
    Acknowledgment,
    Answer,
    Completion,
    Delegation,
    Question,
    Result,
    Status,
    compose,
)
from taskbus.errors import Fenced, LifecycleConflict

pytestmark = pytest.mark.anyio


@pytest.fixture
def bus(any_connection, namespace):
    """A bus on every server."""
    return Bus(any_connection, namespace)


@pytest.fixture
def real_bus(connection, namespace):
    """A bus on the embedded server, for what waits and lapses."""
    return Bus(connection, namespace)


async def delegated(bus, **more):
    """A delegation to @kilo that stands in the log."""
    envelope = compose(Delegation(goal="g"), sender="@boss", recipient="@kilo", **more)
    await bus.publish(envelope)
    return envelope


def said(payload, task):
    """What @kilo says to @boss."""
    return compose(payload, sender="@kilo", recipient="@boss", task=task)


DONE = Completion(result=Result(status="success"))


async def test_a_take_brings_the_envelope_its_state_and_a_token(bus):
    """What is taken says what it is, in which state its task is, and is leased."""
    envelope = await delegated(bus)
    inbox = bus.inbox("@kilo", lease=10)
    taken = await inbox.take(5)
    (delivery,) = taken.deliveries
    assert (delivery.entry.envelope, delivery.state, delivery.times) == (envelope, "submitted", 1)
    assert 9 < taken.lapse <= 10
    assert (await bus.task(envelope.task)).token == delivery.token
    assert (await inbox.take(5)).deliveries == []


async def test_urgent_deliveries_come_first(bus):
    """A critical delivery overtakes those that were there before."""
    first = await delegated(bus)
    low = await delegated(bus, priority="low")
    urgent = await delegated(bus, priority="critical")
    taken = await bus.inbox("@kilo").take(3)
    assert [d.task for d in taken.deliveries] == [urgent.task, first.task, low.task]


async def test_settling_publishes_and_acknowledges_in_one_step(bus):
    """After settling, the outcome stands in the log, and the inbox is empty; repeating it changes nothing."""
    envelope = await delegated(bus)
    inbox = bus.inbox("@kilo")
    (delivery,) = (await inbox.take()).deliveries
    await inbox.publish(delivery, said(Acknowledgment(accepted=True), envelope.task))
    outcome = said(DONE, envelope.task)
    (first,) = await inbox.settle(delivery, [outcome])
    (again,) = await inbox.settle(delivery, [outcome])
    assert (again.position, again.repeated) == (first.position, True)
    assert await inbox.waiting() == []
    assert await bus.connection.hash(bus.keys.held("@kilo")) == {}
    assert (await bus.task(envelope.task)).state == "completed"


async def test_settling_is_refused_as_a_whole(bus):
    """An outcome that is not legal keeps the delivery where it is."""
    await delegated(bus)
    inbox = bus.inbox("@kilo")
    (delivery,) = (await inbox.take()).deliveries
    with pytest.raises(LifecycleConflict):
        await inbox.settle(delivery, [said(DONE, delivery.task)])
    assert len(await inbox.waiting()) == 1
    assert (await bus.connection.hash(bus.keys.held("@kilo"))) != {}


async def test_a_lapsed_delivery_is_taken_again_with_a_greater_token(real_bus):
    """When the lease has lapsed another worker gets it, and the first one is refused everything."""
    envelope = await delegated(real_bus)
    slow, quick = real_bus.inbox("@kilo", lease=0.05), real_bus.inbox("@kilo", lease=10)
    (old,) = (await slow.take()).deliveries
    await slow.publish(old, said(Acknowledgment(accepted=True), envelope.task))
    (new,) = await retaken(quick)
    assert (new.task, new.times, new.state) == (old.task, 2, "working")
    assert new.token > old.token
    assert await slow.renew([old]) == []
    with pytest.raises(Fenced):
        await slow.publish(old, said(Status(progress="half"), envelope.task))
    with pytest.raises(Fenced):
        await slow.settle(old, [said(DONE, envelope.task)])
    with pytest.raises(Fenced):
        await slow.settle(old)
    await quick.settle(new, [said(DONE, envelope.task)])
    assert (await real_bus.task(envelope.task)).state == "completed"


async def retaken(inbox):
    """The deliveries of the first take that finds any."""
    with anyio.fail_after(10):
        while True:
            taken = await inbox.take()
            if taken.deliveries:
                return taken.deliveries
            await inbox.wait(max(taken.lapse or 0, 0.01))


async def test_what_somebody_else_settled_has_no_second_outcome(real_bus):
    """A worker that was too slow publishes nothing more, whatever its outcome would have been."""
    envelope = await delegated(real_bus)
    await real_bus.publish(said(Acknowledgment(accepted=True), envelope.task))
    slow, quick = real_bus.inbox("@boss", lease=0.05), real_bus.inbox("@boss", lease=10)
    (old,) = (await slow.take()).deliveries
    (new,) = await retaken(quick)
    await quick.settle(new)
    another_task = compose(Delegation(goal="more"), sender="@boss", recipient="@other")
    with pytest.raises(Fenced, match="somebody else"):
        await slow.settle(old, [another_task])
    assert len(await real_bus.log.latest(10)) == 2


async def test_open_work_is_not_settled_without_an_outcome(bus):
    """Settling work that nobody would have in hand afterwards is refused, and the delivery stays."""
    envelope = await delegated(bus)
    inbox = bus.inbox("@kilo")
    (delivery,) = (await inbox.take()).deliveries
    with pytest.raises(LifecycleConflict) as refused:
        await inbox.settle(delivery)
    assert (refused.value.reason, refused.value.task) == ("open", envelope.task)
    status = said(Status(progress="half"), envelope.task)
    await inbox.publish(delivery, said(Acknowledgment(accepted=True), envelope.task))
    with pytest.raises(LifecycleConflict, match="without an outcome"):
        await inbox.settle(delivery, [status])
    assert [entry.type for entry in await bus.log.latest(10)] == ["delegation", "acknowledgment"]
    await inbox.settle(delivery, [status, said(DONE, envelope.task)])
    assert (await bus.task(envelope.task)).state == "completed"


async def test_a_status_by_hand_leaves_the_delivery_to_the_workers(real_bus):
    """Who types how far the work is does not take it over: when the lease has lapsed a worker gets it again."""
    envelope = await delegated(real_bus)
    gone, next_one = real_bus.inbox("@kilo", lease=0.05), real_bus.inbox("@kilo", lease=10)
    (old,) = (await gone.take()).deliveries
    await gone.publish(old, said(Acknowledgment(accepted=True), envelope.task))
    await anyio.sleep(0.06)
    await real_bus.publish(said(Status(progress="the machine was restarted"), envelope.task))
    (again,) = await retaken(next_one)
    assert again.task == envelope.task


async def test_outcomes_about_other_tasks_do_not_carry_this_token(bus):
    """An agent settles one task with an outcome that is also about another one of its own."""
    first, second = await delegated(bus), await delegated(bus)
    await bus.publish(said(Acknowledgment(accepted=True), second.task))
    inbox = bus.inbox("@kilo")
    (delivery,) = (await inbox.take()).deliveries
    assert delivery.task == first.task
    await inbox.publish(delivery, said(Acknowledgment(accepted=True), first.task))
    await inbox.settle(delivery, [said(DONE, second.task), said(DONE, first.task)])
    assert (await bus.task(second.task)).state == "completed"


@pytest.mark.parametrize("lost", ["group", "inbox"])
async def test_a_lost_group_heals(bus, lost):
    """After XGROUP DESTROY or DEL of the inbox under a lease, takes go on; what is in the inbox comes again."""
    await delegated(bus)
    inbox = bus.inbox("@kilo", lease=0.01)
    await inbox.take()
    key = bus.keys.inbox("@kilo", "normal")
    await bus.connection.execute(*(("XGROUP", "DESTROY", key, "@kilo") if lost == "group" else ("DEL", key)))
    await anyio.sleep(0.02)
    found = (await inbox.take()).deliveries
    assert len(found) == (1 if lost == "group" else 0)
    later = await delegated(bus)
    assert later.task in [d.task for d in (await bus.inbox("@kilo").take(5)).deliveries]


async def test_what_has_no_lease_is_taken_again(bus):
    """A pending delivery whose lease was lost, by whatever removed it, is found by the next idle take."""
    envelope = await delegated(bus)
    inbox = bus.inbox("@kilo", lease=60)
    await inbox.take()
    await bus.connection.execute("DEL", bus.keys.held("@kilo"), bus.keys.leases("@kilo"))
    (again,) = (await inbox.take()).deliveries
    assert (again.task, again.times) == (envelope.task, 2)


async def test_tokens_grow_also_when_the_server_forgets_them(bus):
    """After a restore that took the counter back, a new delivery's token is still greater than every old one."""
    await delegated(bus)
    (old,) = (await bus.inbox("@kilo", lease=60).take()).deliveries
    for key in (bus.keys.meta, bus.keys.held("@kilo"), bus.keys.leases("@kilo")):
        await bus.connection.execute("DEL", key)
    await anyio.sleep(0.002)  # tokens are at least the server's milliseconds
    (new,) = (await bus.inbox("@kilo", consumer="w2").take()).deliveries
    assert new.token > old.token


async def test_foreign_entries_in_an_inbox_strand_nothing(bus):
    """What taskbus did not write is taken out and named; what stands around it is delivered."""
    key = bus.keys.inbox("@kilo", "normal")
    for number in range(2):
        await delegated(bus)
        await bus.connection.execute("XADD", key, "*", "at" if number else "x", "nonsense")
    await bus.connection.execute("XADD", bus.keys.log, "*", "id", "x")
    foreign = (await bus.connection.revrange(bus.keys.log, count=1))[0][0]
    await bus.connection.execute("XADD", key, "*", "at", foreign)
    taken = await bus.inbox("@kilo").take(10)
    assert len(taken.deliveries) == 2
    assert set(taken.missing) == {"nonsense", foreign}


async def test_workers_leave_no_consumers_behind(bus):
    """However many workers come and go, the group has one consumer."""
    for number in range(5):
        await delegated(bus)
        await bus.inbox("@kilo", consumer=f"w{number}").take()
    consumers = await bus.connection.execute("XINFO", "CONSUMERS", bus.keys.inbox("@kilo", "normal"), "@kilo")
    assert len(consumers) == 1


async def test_a_renewed_lease_does_not_lapse(real_bus):
    """A worker that renews keeps its delivery beyond the first lease."""
    await delegated(real_bus)
    keeper, other = real_bus.inbox("@kilo", lease=0.3), real_bus.inbox("@kilo", lease=0.3)
    (delivery,) = (await keeper.take()).deliveries
    for _ in range(6):
        await other.wait(0.1)
        assert await keeper.renew([delivery]) == [delivery]
        assert (await other.take()).deliveries == []


async def test_waiting_wakes_up_on_the_first_delivery(real_bus):
    """A worker that waits on an empty inbox wakes up when something arrives, of whatever priority."""
    inbox = real_bus.inbox("@kilo")
    assert (await inbox.take()).deliveries == []
    woken = anyio.Event()

    async def wait():
        await inbox.wait(30)
        woken.set()

    with anyio.fail_after(10):
        async with anyio.create_task_group() as group:
            group.start_soon(wait)
            await anyio.wait_all_tasks_blocked()
            await delegated(real_bus, priority="low")
            await woken.wait()
    assert len((await inbox.take()).deliveries) == 1


async def test_by_hand_is_refused_while_a_worker_holds_the_task(bus):
    """Nobody completes by hand what a worker has under a lease."""
    envelope = await delegated(bus)
    inbox = bus.inbox("@kilo", consumer="w-1", lease=60)
    (delivery,) = (await inbox.take()).deliveries
    await inbox.publish(delivery, said(Acknowledgment(accepted=True), envelope.task))
    with pytest.raises(LifecycleConflict, match="w-1") as refused:
        await bus.publish(said(DONE, envelope.task))
    assert refused.value.reason == "held"


async def test_a_question_ends_the_delivery_and_its_answer_is_the_next(bus):
    """A question settles; the answer is delivered to the assignee with a token of its own."""
    envelope = await delegated(bus)
    inbox = bus.inbox("@kilo")
    (delivery,) = (await inbox.take()).deliveries
    await inbox.publish(delivery, said(Acknowledgment(accepted=True), envelope.task))
    await inbox.settle(delivery, [said(Question(question="which?"), envelope.task)])
    assert (await inbox.take()).deliveries == []
    await bus.publish(compose(Answer(answer="that"), sender="@boss", recipient="@kilo", task=envelope.task))
    with pytest.raises(Fenced):
        await inbox.publish(delivery, said(Status(progress="late"), envelope.task))
    (answer,) = (await inbox.take()).deliveries
    assert (answer.entry.type, answer.state) == ("answer", "working")
    await inbox.settle(answer, [said(DONE, envelope.task)])
    assert (await bus.task(envelope.task)).state == "completed"


async def test_an_inbox_that_points_at_nothing_says_so(bus):
    """What the log does not hold any more is reported with its position, and does not come again."""
    envelope = await delegated(bus)
    (entry,) = await bus.log.latest(1)
    await bus.connection.execute("XDEL", bus.keys.log, entry.position.entry)
    taken = await bus.inbox("@kilo").take()
    assert (taken.deliveries, taken.missing) == ([], (str(entry.position),))
    assert (await bus.inbox("@kilo").take()).missing == ()
    assert (await bus.task(envelope.task)).state == "submitted"


async def test_racing_workers_take_each_delivery_once(real_bus):
    """Ten workers that race for a hundred deliveries get each of them once."""
    tasks = {(await delegated(real_bus)).task for _ in range(100)}
    got = []

    async def race(number):
        inbox = real_bus.inbox("@kilo", consumer=f"w{number}", lease=60)
        while taken := (await inbox.take(3)).deliveries:
            got.extend(delivery.task for delivery in taken)

    async with anyio.create_task_group() as workers:
        for number in range(10):
            workers.start_soon(race, number)
    assert sorted(got) == sorted(tasks)
