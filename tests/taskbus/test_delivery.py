"""Delivery: take and lease in one step, renew, settle, give back, park, replay, and who is refused."""

from __future__ import annotations

from contextlib import suppress

import anyio
import pytest

from taskbus.append import Submission, Unit, Unparking, commit
from taskbus.client import Bus
from taskbus.codec import document
from taskbus.delivery import Release
from taskbus.envelope import (
    Acknowledgment,
    Answer,
    Cancellation,
    Completion,
    Delegation,
    ErrorDetails,
    Escalation,
    Parking,
    Question,
    Result,
    Status,
    Verdict,
    compose,
)
from taskbus.errors import Fenced, LifecycleConflict, Moved, UsageError
from taskbus.position import Position
from tests.taskbus.workplace import eventually

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
    assert (delivery.entry.envelope, delivery.state, delivery.tries) == (envelope, "submitted", 1)
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
    await bus.publish(said(Acknowledgment(accepted=True), envelope.task), token=delivery.token)
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
        await inbox.settle(delivery, [said(DONE, delivery.task), said(Status(progress="half"), delivery.task)])
    assert len(await inbox.waiting()) == 1
    assert (await bus.connection.hash(bus.keys.held("@kilo"))) != {}


async def test_a_lapsed_delivery_is_taken_again_with_a_greater_token(real_bus):
    """When the lease has lapsed another worker gets it, and the first one is refused everything."""
    envelope = await delegated(real_bus)
    slow, quick = real_bus.inbox("@kilo", lease=0.05), real_bus.inbox("@kilo", lease=10)
    (old,) = (await slow.take()).deliveries
    await real_bus.publish(said(Acknowledgment(accepted=True), envelope.task), token=old.token)
    (new,) = await retaken(quick)
    assert (new.task, new.tries, new.state) == (old.task, 2, "working")
    assert new.token > old.token
    assert await slow.renew([old]) == []
    with pytest.raises(Fenced):
        await real_bus.publish(said(Status(progress="half"), envelope.task), token=old.token)
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
    await bus.publish(said(Acknowledgment(accepted=True), envelope.task), token=delivery.token)
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
    await real_bus.publish(said(Acknowledgment(accepted=True), envelope.task), token=old.token)
    await anyio.sleep(0.06)
    await real_bus.publish(said(Status(progress="the machine was restarted"), envelope.task))
    (again,) = await retaken(next_one)
    assert again.task == envelope.task


async def test_what_stands_elsewhere_under_the_same_name_is_not_the_work(bus):
    """Entries of one millisecond have one ID in every inbox: whoever reads about a task does not take its work over."""
    task = (await delegated(bus)).task
    (entry,) = await bus.connection.range(bus.keys.inbox("@kilo", "normal"), "-", "+", 1)
    inbox, other = bus.inbox("@kilo"), bus.inbox("@boss")
    await bus.connection.execute("XADD", bus.keys.inbox("@boss", "normal"), entry[0], "at", entry[1][b"at"])
    (mine,) = (await inbox.take(1)).deliveries
    before = await bus.task(task)
    (told,) = (await other.take(1)).deliveries
    assert told.name == mine.name
    assert not told.is_work
    assert await bus.task(task) == before
    await inbox.settle(mine, [said(Acknowledgment(accepted=True), task), said(DONE, task)])
    assert (await bus.task(task)).state == "completed"


async def test_outcomes_about_other_tasks_do_not_carry_this_token(bus):
    """An agent settles one task with an outcome that is also about another one of its own."""
    first, second = await delegated(bus), await delegated(bus)
    await bus.publish(said(Acknowledgment(accepted=True), second.task))
    inbox = bus.inbox("@kilo")
    (delivery,) = (await inbox.take()).deliveries
    assert delivery.task == first.task
    await bus.publish(said(Acknowledgment(accepted=True), first.task), token=delivery.token)
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
    assert (again.task, again.tries) == (envelope.task, 2)


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
    """Nobody completes by hand what a worker has under a lease, whether it was acknowledged already or not."""
    envelope = await delegated(bus)
    inbox = bus.inbox("@kilo", consumer="w-1", lease=60)
    (delivery,) = (await inbox.take()).deliveries
    acknowledgment = said(Acknowledgment(accepted=True), envelope.task)
    for _ in range(2):
        with pytest.raises(LifecycleConflict, match="w-1") as refused:
            await bus.publish(said(DONE, envelope.task))
        assert refused.value.reason == "held"
        await bus.publish(acknowledgment, token=delivery.token)


async def test_new_work_that_is_completed_by_hand_is_nobodys_any_more(real_bus):
    """It leaves the inbox, and a worker that had it before its lease lapsed is refused its own completion."""
    envelope = await delegated(real_bus)
    slow = real_bus.inbox("@kilo", lease=0.05)
    (old,) = (await slow.take()).deliveries
    by_hand = said(DONE, envelope.task)

    async def is_done():
        with suppress(LifecycleConflict):  # while the lease lasts
            await real_bus.publish(by_hand)
        return (await real_bus.task(envelope.task)).state == "completed"

    with anyio.fail_after(30):
        await eventually(is_done)
    with pytest.raises(Fenced):
        await slow.settle(old, [said(DONE, envelope.task)])
    assert await slow.waiting() == []
    assert await real_bus.connection.hash(real_bus.keys.held("@kilo")) == {}
    assert [entry.type async for entry in real_bus.log.read()] == ["delegation", "completion"]


async def test_new_work_is_settled_with_its_completion_alone(bus):
    """In one step, which changes nothing when it is repeated; the next attempt is fenced from this one."""
    envelope = await delegated(bus)
    inbox = bus.inbox("@kilo")
    (first,) = (await inbox.take()).deliveries
    done = said(DONE, envelope.task)
    assert [each.repeated for each in await inbox.settle(first, [done])] == [False]
    assert [each.repeated for each in await inbox.settle(first, [done])] == [True]
    await bus.publish(compose(Verdict(decision="rejected"), sender="@boss", recipient="@kilo", task=envelope.task))
    with pytest.raises(Fenced):
        await inbox.settle(first, [said(DONE, envelope.task)])
    (again,) = (await inbox.take()).deliveries
    assert (again.state, again.token > first.token) == ("submitted", True)


async def test_a_question_ends_the_delivery_and_its_answer_is_the_next(bus):
    """A question settles; the answer is delivered to the assignee with a token of its own."""
    envelope = await delegated(bus)
    inbox = bus.inbox("@kilo")
    (delivery,) = (await inbox.take()).deliveries
    await bus.publish(said(Acknowledgment(accepted=True), envelope.task), token=delivery.token)
    await inbox.settle(delivery, [said(Question(question="which?"), envelope.task)])
    assert (await inbox.take()).deliveries == []
    await bus.publish(compose(Answer(answer="that"), sender="@boss", recipient="@kilo", task=envelope.task))
    with pytest.raises(Fenced):
        await bus.publish(said(Status(progress="late"), envelope.task), token=delivery.token)
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


def given_up(delivery, *, escalates=True):
    """What the bus says of a delivery that is parked: to the boss that it escalates, the rest to the log alone."""
    trouble = ErrorDetails(level=2, category="execution", message="gave up")
    record = Parking(parking="parked", agent=delivery.agent, reason="permanent", attempts=delivery.tries)
    said_of_it = [(Escalation(error_details=trouble), "@boss")] if escalates else []
    said_of_it.append((record, "@bus"))
    return [compose(each, sender="@bus", recipient=to, task=delivery.task) for each, to in said_of_it]


def unparking(entries, *, agent="@kilo", kind="replayed", resumes=False):
    """The unit that replays or drops parked deliveries of one task."""
    record = Parking(parking=kind, agent=agent, resumes=resumes)
    envelope = compose(record, sender="@human", recipient="@bus", task=entries[0].task)
    positions = tuple(entry.position.entry for entry in entries)
    move = Unparking(agent, entries[0].task, positions, replayed=kind == "replayed")
    return Unit((Submission(document(envelope)),), move)


async def parked(bus, agent="@kilo"):
    """What is parked for an agent, in its order: the IDs of the envelopes, with tries and reason."""
    found = []
    for lines in (await bus.connection.hash(bus.keys.parked(agent))).values():
        for line in lines.split("\n"):
            position, _, tries, reason, *_ = line.split(" ")
            entry = await bus.log.get(Position.parse(position, shard=0))
            found.append((entry.id, int(tries), reason))
    return found


async def test_parking_escalates_and_sets_aside_in_one_step(bus):
    """What is parked is out of the inbox, on the list with its tries and reason, and its task is escalated; once."""
    envelope = await delegated(bus, priority="high")
    inbox = bus.inbox("@kilo")
    (delivery,) = (await inbox.take()).deliveries
    records = given_up(delivery)
    first = await inbox.park(delivery, "permanent", records)
    again = await inbox.park(delivery, "permanent", records)
    assert [each.position for each in again] == [each.position for each in first]
    assert await parked(bus) == [(envelope.id, 1, "permanent")]
    assert (await bus.task(envelope.task)).state == "escalated"
    assert (await inbox.waiting(), await bus.connection.hash(bus.keys.held("@kilo"))) == ([], {})


async def test_open_work_is_not_parked_without_an_escalation(bus):
    """Work that nobody would hear of any more is not set aside."""
    await delegated(bus)
    inbox = bus.inbox("@kilo")
    (delivery,) = (await inbox.take()).deliveries
    with pytest.raises(LifecycleConflict, match="without an outcome"):
        await inbox.park(delivery, "permanent", given_up(delivery, escalates=False))
    assert (await parked(bus), len(await inbox.waiting())) == ([], 1)


async def with_messages_behind(bus):
    """@boss has parked the first of four messages of a task; the others stand behind it. Its inbox, and all four."""
    envelope = await delegated(bus)
    for payload, priority in (
        (Acknowledgment(accepted=True), "normal"),
        (Status(progress="a third"), "low"),
        (Status(progress="two thirds"), "critical"),
        (DONE, "normal"),
    ):
        more = compose(payload, sender="@kilo", recipient="@boss", task=envelope.task, priority=priority)
        await bus.publish(more)
        if payload == Acknowledgment(accepted=True):
            inbox = bus.inbox("@boss")
            (delivery,) = (await inbox.take()).deliveries
            await inbox.park(delivery, "permanent", given_up(delivery, escalates=False))
    assert (await inbox.take(10)).deliveries == []
    return inbox, [entry for entry in await bus.log.latest(10) if entry.recipient == "@boss"]


async def test_later_messages_of_a_parked_task_wait_behind_it(bus):
    """They are delivered to nobody, stand in the order of the log whatever their priority, and stop no other task."""
    inbox, entries = await with_messages_behind(bus)
    assert await parked(bus, "@boss") == [
        (entries[0].id, 1, "permanent"),
        *((entry.id, 0, "behind") for entry in entries[1:]),
    ]
    other = await delegated(bus)
    await bus.publish(said(Acknowledgment(accepted=True), other.task))
    assert [each.task for each in (await inbox.take(10)).deliveries] == [other.task]


async def test_a_replay_may_stop_before_the_rest(bus):
    """The first two are delivered again, and what is left goes on waiting, as do messages that come meanwhile."""
    inbox, entries = await with_messages_behind(bus)
    await commit(bus.connection, bus.keys, [unparking(entries[:2], agent="@boss")])
    taken = (await inbox.take(10)).deliveries
    assert [(each.entry.id, each.tries) for each in taken] == [(entry.id, 1) for entry in entries[:2]]
    verdict = Verdict(decision="rejected")
    await bus.publish(compose(verdict, sender="@boss", recipient="@kilo", task=entries[0].task))
    await bus.publish(said(Acknowledgment(accepted=True), entries[0].task))
    late = (await bus.log.latest(1))[0]
    assert (await inbox.take(10)).deliveries == []
    assert [id for id, _, _ in await parked(bus, "@boss")] == [entry.id for entry in [*entries[2:], late]]


async def test_a_drop_gives_up_what_it_names(bus):
    """What is dropped is nowhere any more; the rest of the task stays parked, until that is dropped too."""
    inbox, entries = await with_messages_behind(bus)
    await commit(bus.connection, bus.keys, [unparking(entries[:1], agent="@boss", kind="dropped")])
    assert [id for id, _, _ in await parked(bus, "@boss")] == [entry.id for entry in entries[1:]]
    await commit(bus.connection, bus.keys, [unparking(entries[1:], agent="@boss", kind="dropped")])
    assert (await parked(bus, "@boss"), await inbox.waiting()) == ([], [])
    assert [entry.type for entry in await bus.log.latest(2)] == ["parking", "parking"]


async def test_a_replay_submits_an_escalated_task_again(bus):
    """The work is its assignee's again with its tries counted anew, and the tokens before it are stale."""
    envelope = await delegated(bus)
    inbox = bus.inbox("@kilo")
    (delivery,) = (await inbox.take()).deliveries
    await inbox.park(delivery, "permanent", given_up(delivery))
    await commit(bus.connection, bus.keys, [unparking([delivery.entry], resumes=True)])
    assert (await parked(bus), (await bus.task(envelope.task)).state) == ([], "submitted")
    with pytest.raises(Fenced):
        await bus.publish(said(Acknowledgment(accepted=True), envelope.task), token=delivery.token)
    (again,) = (await inbox.take(10)).deliveries
    assert (again.entry.id, again.tries, again.is_work) == (envelope.id, 1, True)
    await inbox.settle(again, [said(Acknowledgment(accepted=True), envelope.task), said(DONE, envelope.task)])
    assert (await bus.task(envelope.task)).state == "completed"


async def test_work_that_waited_behind_is_replayed_as_work(bus):
    """An answer that came while the task was parked goes on with it: of what is replayed, the newest is the work."""
    envelope = await delegated(bus)
    inbox = bus.inbox("@kilo")
    (delivery,) = (await inbox.take()).deliveries
    await inbox.park(delivery, "permanent", given_up(delivery))
    await bus.publish(compose(Answer(answer="go on"), sender="@boss", recipient="@kilo", task=envelope.task))
    (answer,) = await bus.log.latest(1)
    assert (await inbox.take()).deliveries == []
    await commit(bus.connection, bus.keys, [unparking([delivery.entry, answer])])
    first, second = (await inbox.take(10)).deliveries
    assert [(each.entry.id, each.is_work) for each in (first, second)] == [(envelope.id, False), (answer.id, True)]
    await inbox.settle(second, [said(DONE, envelope.task)])
    assert (await bus.task(envelope.task)).state == "completed"


async def test_a_replay_that_is_repeated_takes_nothing_away(bus):
    """When its reply was lost, and the delivery parked anew before it is asked for again, that stays parked."""
    _, entries = await with_messages_behind(bus)
    replay = unparking(entries[:1], agent="@boss")
    await commit(bus.connection, bus.keys, [replay])
    inbox = bus.inbox("@boss")
    (delivery,) = (await inbox.take(1)).deliveries
    await inbox.park(delivery, "permanent", given_up(delivery, escalates=False))
    await commit(bus.connection, bus.keys, [replay])
    assert [id for id, _, _ in await parked(bus, "@boss")] == [entry.id for entry in entries]


async def test_only_what_becomes_of_a_delivery_is_told_of_it(bus):
    """A settlement resumes no task, and a drop replays nothing: each record stands with its own kind of move."""
    envelope = await delegated(bus)
    inbox, boss = bus.inbox("@kilo"), bus.inbox("@boss")
    (delivery,) = (await inbox.take()).deliveries
    await inbox.park(delivery, "permanent", given_up(delivery))
    (told,) = (await boss.take()).deliveries
    resumed = compose(
        Parking(parking="replayed", agent="@kilo", resumes=True), sender="@boss", recipient="@bus", task=envelope.task
    )
    with pytest.raises(LifecycleConflict):
        await boss.settle(told, [resumed])
    drop = Unparking("@kilo", envelope.task, (delivery.entry.position.entry,), replayed=False)
    ((answer,),) = await commit(bus.connection, bus.keys, [Unit((Submission(document(resumed)),), drop)])
    assert isinstance(answer, LifecycleConflict)
    assert (len(await parked(bus)), (await bus.task(envelope.task)).state) == (1, "escalated")


async def test_a_task_that_somebody_else_has_is_not_resumed(bus):
    """Where the task went to another agent meanwhile, a replay delivers again, and takes the work from nobody."""
    envelope = await delegated(bus)
    inbox = bus.inbox("@kilo")
    (delivery,) = (await inbox.take()).deliveries
    await inbox.park(delivery, "permanent", given_up(delivery))
    await bus.publish(compose(Delegation(goal="g"), sender="@boss", recipient="@other", task=envelope.task))
    (escalation, _) = given_up(delivery)
    await bus.publish(escalation)
    for resumes in (True, False):
        (answers,) = await commit(bus.connection, bus.keys, [unparking([delivery.entry], resumes=resumes)])
        assert isinstance(answers[0], LifecycleConflict) == resumes
    (again,) = (await inbox.take()).deliveries
    assert (again.is_work, (await bus.task(envelope.task)).state) == (False, "escalated")


async def test_units_of_one_call_see_what_the_ones_before_took_away(bus):
    """What is cancelled, settled or replayed in one unit is not settled or replayed again in the next."""
    envelope = await delegated(bus)
    inbox = bus.inbox("@kilo")
    (delivery,) = (await inbox.take()).deliveries
    gone = compose(Cancellation(reason="r"), sender="@boss", recipient="@kilo", task=envelope.task)
    more = compose(Delegation(goal="more"), sender="@kilo", recipient="@other")
    units = [Unit((Submission(document(gone)),)), inbox.settlement(delivery, [more])]
    _, refused = await commit(bus.connection, bus.keys, units)
    assert isinstance(refused, Fenced)
    boss, entries = await with_messages_behind(bus)
    replays = [unparking([entry], agent="@boss") for entry in entries[:2]]
    _, refused = await commit(bus.connection, bus.keys, replays)
    assert isinstance(refused, Moved)
    assert [id for id, _, _ in await parked(bus, "@boss")] == [entry.id for entry in entries[1:]]
    assert [each.entry.id for each in (await boss.take(10)).deliveries] == [entries[0].id]


@pytest.mark.parametrize(("counts", "tries"), [(True, 2), (False, 1)])
async def test_what_is_given_back_can_be_taken_at_once(bus, counts, tries):
    """Another worker gets it with a greater token, as one more try or not; who gave it back is refused."""
    await delegated(bus)
    inbox, other = bus.inbox("@kilo"), bus.inbox("@kilo")
    (delivery,) = (await inbox.take()).deliveries
    assert await inbox.release([Release(delivery, counts=counts)]) == [delivery]
    assert await inbox.release([Release(delivery)]) == []
    assert await inbox.renew([delivery]) == []
    with pytest.raises(Fenced):
        await inbox.settle(delivery, [said(Acknowledgment(accepted=True), delivery.task)])
    (again,) = (await other.take()).deliveries
    assert (again.entry.id, again.tries, again.token > delivery.token) == (delivery.entry.id, tries, True)


async def test_what_waits_for_its_time_is_not_taken_before(bus):
    """A delivery that is given back for later is not delivered until then; by hand it can be taken up meanwhile."""
    envelope = await delegated(bus)
    inbox = bus.inbox("@kilo")
    (delivery,) = (await inbox.take()).deliveries
    await inbox.release([Release(delivery, 60.0, reason="quota-limited")])
    taken = await inbox.take()
    assert (taken.deliveries, 59 < taken.lapse <= 60) == ([], True)
    assert (await bus.connection.hash(bus.keys.held("@kilo")))[delivery.name].endswith("- 0 quota-limited")
    await bus.publish(said(Acknowledgment(accepted=True), envelope.task))
    assert (await inbox.take()).lapse is None


async def test_idle_workers_hear_of_what_is_handed_back(real_bus):
    """A worker that waits on an inbox with nothing new in it is woken for a delivery that another one gives back."""
    await delegated(real_bus)
    busy, idle = real_bus.inbox("@kilo"), real_bus.inbox("@kilo")
    (delivery,) = (await busy.take()).deliveries
    assert (await idle.take()).deliveries == []
    with anyio.fail_after(10):
        async with anyio.create_task_group() as group:
            group.start_soon(idle.wait, 30)
            await anyio.wait_all_tasks_blocked()
            await busy.release([Release(delivery)])
    assert len((await idle.take()).deliveries) == 1


async def test_a_worker_is_known_until_it_leaves(bus):
    """Who takes or renews is known; who leaves is forgotten, but not while it holds a delivery."""
    await delegated(bus)
    inbox = bus.inbox("@kilo", consumer="w1")
    (delivery,) = (await inbox.take()).deliveries
    await inbox.leave()
    known = await bus.connection.execute("ZRANGE", bus.keys.workers, 0, -1)
    await inbox.release([Release(delivery)])
    await inbox.leave()
    assert (known, await bus.connection.execute("ZRANGE", bus.keys.workers, 0, -1)) == ([b"@kilo w1"], [])


async def test_nothing_is_delivered_to_the_bus(bus):
    """What the bus is told stands in the log alone: nobody waits for an inbox of it."""
    with pytest.raises(UsageError, match="Nothing is delivered to @bus"):
        bus.inbox("@bus")
