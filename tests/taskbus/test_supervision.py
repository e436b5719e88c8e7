"""Supervision: each thing that was not done in time is escalated once, however many watch, and nothing else is."""

from __future__ import annotations

import math
import subprocess
import sys
from dataclasses import fields
from datetime import timedelta

import anyio
import pytest

from taskbus import bus_file, supervision
from taskbus.client import Bus
from taskbus.connection import Connection
from taskbus.delivery import Release
from taskbus.envelope import (
    Acknowledgment,
    Answer,
    Cancellation,
    Completion,
    Delegation,
    ErrorDetails,
    Escalation,
    Question,
    Result,
    compose,
    now,
)
from taskbus.errors import UsageError
from taskbus.setbacks import Setback, records
from taskbus.supervision import Supervision, look, watch
from tests import entries
from tests.proxy import losing_replies
from tests.taskbus.workplace import Incidents, Meeting, at_work

pytestmark = pytest.mark.anyio

HOUR = 3600.0
AT_ONCE = 0.001


def only(**times):
    """Supervision of one kind; all other times are far."""
    return Supervision(**{**dict.fromkeys(("acknowledge", "lost", "silent", "stale"), HOUR), **times})


@pytest.fixture
def bus(any_connection, namespace):
    """A bus on every server."""
    return Bus(any_connection, namespace)


@pytest.fixture
def real_bus(connection, namespace):
    """A bus on the embedded server."""
    return Bus(connection, namespace)


async def delegated(bus, task="t", **more):
    """A delegation from @boss to @kilo that stands in the log, some milliseconds ago."""
    names = {"sender": "@boss", "recipient": "@kilo", **more}
    await bus.publish(compose(Delegation(goal="g"), task=task, **names))
    await past(bus)


async def past(bus):
    """Wait until the server's clock is past what it did last, by more than the shortest time that is told of."""
    end = (await bus.log.end()).ms + 3
    while await bus.connection.time() * 1000 <= end:  # noqa: ASYNC110 - no event tells what the server's clock shows
        await anyio.sleep(0.001)


async def said(bus, payload, task="t", sender="@kilo", recipient="@boss", **more):
    """Something about a task."""
    envelope = compose(payload, sender=sender, recipient=recipient, task=task)
    await bus.publish(envelope, **more)
    return envelope


ACCEPTED = Acknowledgment(accepted=True)
DONE = Completion(result=Result(status="success"))


def escalation(level=2):
    """Trouble of a level."""
    return Escalation(error_details=ErrorDetails(level=level, category="execution", message="No disk."))


async def told(bus, task=None):
    """The escalations by the bus that the log holds: task, recipient and level."""
    return [
        (entry.task, entry.recipient, entry.envelope.payload.error_details.level)
        async for entry in bus.log.read()
        if entry.type == "escalation" and entry.sender == "@bus" and task in (None, entry.task)
    ]


async def looks(bus, watched):
    """What one look escalated: the tasks."""
    return [envelope.task for envelope in await look(bus, watched, at_once=True)]


async def move_back(bus, key, member, seconds=2 * HOUR):
    """As if a clock of the bus had been set so many seconds ago."""
    at = int((await bus.connection.time() - seconds) * 1000)
    await bus.connection.execute("ZADD", key, "XX", at, member)


async def lose(bus, *, agent="@kilo", consumer="w1"):
    """A worker takes what an agent has, and is never heard of again."""
    (delivery,) = (await bus.inbox(agent, consumer=consumer, lease=10).take()).deliveries
    await move_back(bus, bus.keys.leases(agent), delivery.name)
    return delivery


async def stale(bus, task="t"):
    """The escalation of a task has been waiting for two hours."""
    await move_back(bus, bus.keys.escalations, task)


async def test_what_is_done_in_time_is_not_told_of(bus):
    """Work that was taken on, asked about, answered, done and judged in time leaves nothing to be told."""
    watched = only(acknowledge=AT_ONCE, stale=AT_ONCE)
    await delegated(bus, deadline=now().replace(year=2190))
    inbox = bus.inbox("@kilo", consumer="w")
    (delivery,) = (await inbox.take()).deliveries
    await said(bus, ACCEPTED, token=delivery.token)
    await inbox.settle(delivery, [compose(Question(question="?"), sender="@kilo", recipient="@boss", task="t")])
    await past(bus)
    assert await looks(bus, watched) == []
    await said(bus, Answer(answer="!"), sender="@boss", recipient="@kilo")
    await past(bus)
    assert await looks(bus, watched) == []
    (delivery,) = (await inbox.take()).deliveries
    await inbox.settle(delivery, [compose(DONE, sender="@kilo", recipient="@boss", task="t")])
    assert await looks(bus, watched) == []
    assert await told(bus) == []


async def test_work_that_nobody_takes_on(bus):
    """Longer than it may be so, it goes to the coordinator, once; the message says who was to do it."""
    await delegated(bus)
    assert await looks(bus, only(acknowledge=HOUR)) == []
    (envelope,) = await look(bus, only(acknowledge=AT_ONCE), at_once=True)
    assert (envelope.sender, envelope.recipient) == ("@bus", "@boss")
    assert envelope.payload.error_details.message.startswith("@kilo was to take the task on, and has not since 20")
    assert (await bus.task("t")).state == "escalated"
    assert await looks(bus, only(acknowledge=AT_ONCE)) == []
    assert await told(bus) == [("t", "@boss", 2)]


async def test_a_deadline_that_is_over(bus):
    """It is told of once, in whichever state the work is; the coordinator may let it go on without a second time."""
    await delegated(bus, "open", deadline=now().replace(year=2190))
    await delegated(bus, "asked", deadline=now().replace(year=2190))
    await said(bus, ACCEPTED, "asked")
    await said(bus, Question(question="?"), "asked")
    for task in ("open", "asked"):
        await move_back(bus, bus.keys.deadlines, task)
    found = await look(bus, only(), at_once=True)
    assert sorted(envelope.task for envelope in found) == ["asked", "open"]
    messages = {envelope.task: envelope.payload.error_details.message for envelope in found}
    assert messages["open"].endswith("is over, and the task is submitted, with @kilo.")
    assert messages["asked"].endswith("is over, and the task is input-required, with @boss.")
    assert await looks(bus, only()) == []


async def test_an_escalation_ends_the_handler_that_works_on_the_task(real_bus):
    """The worker hears of it at once, whatever its lease, and says what became of the task."""
    meeting, incidents = Meeting(), Incidents()
    worker = real_bus.worker("@kilo", meeting, lease=600, on_incident=incidents, supervision=None)
    async with at_work(worker, seconds=20):
        await delegated(real_bus, deadline=now() + timedelta(seconds=0.3))
        await meeting.of(1)
        while not await looks(real_bus, only()):  # noqa: ASYNC110 - the deadline is a time of the server's clock
            await anyio.sleep(0.05)
        await incidents.until("it is escalated")
    assert meeting.cancelled == ["t"]


async def test_a_human_who_delegated_it_is_told_once(bus):
    """There is nobody above @human: an escalation that stands there goes no further."""
    await delegated(bus, sender="@human")
    assert await looks(bus, only(acknowledge=0.001)) == ["t"]
    await stale(bus)
    assert await looks(bus, only(stale=1.0)) == []
    assert await bus.connection.execute("ZCARD", bus.keys.escalations) == 0


async def test_a_deadline_that_was_kept_is_forgotten(bus):
    """Once the work is done, its deadline passes without a word."""
    await delegated(bus, deadline=now().replace(year=2190))
    await said(bus, ACCEPTED)
    await said(bus, DONE)
    assert await bus.connection.execute("ZCARD", bus.keys.deadlines) == 0
    assert await looks(bus, only()) == []


async def test_a_lease_that_lapsed_and_nobody_took_over(bus):
    """It names the worker; what is not that late, and what somebody took over, is left alone."""
    await delegated(bus)
    delivery = await lose(bus)
    assert await looks(bus, only(lost=3 * HOUR)) == []
    (envelope,) = await look(bus, only(lost=60), at_once=True)
    assert "The worker w1 of @kilo lost its lease at 20" in envelope.payload.error_details.message
    assert await looks(bus, only(lost=60)) == []
    await delegated(bus, "again")
    delivery = await lose(bus)
    (second,) = (await bus.inbox("@kilo", consumer="w2").take()).deliveries
    assert second.name == delivery.name
    assert await looks(bus, only(lost=60)) == []


async def test_what_waits_for_another_try_is_not_lost(bus):
    """A delivery that was given back until its time is nobody's, however long ago that was."""
    await delegated(bus)
    inbox = bus.inbox("@kilo", consumer="w1")
    (delivery,) = (await inbox.take()).deliveries
    await inbox.release([Release(delivery, 60.0, counts=True, reason="retryable")])
    await move_back(bus, bus.keys.leases("@kilo"), delivery.name)
    assert await looks(bus, only(lost=60)) == []


async def test_a_message_whose_worker_was_lost_is_no_work(bus):
    """What only informs its agent is taken again by whoever comes; nobody is told."""
    await delegated(bus)
    await said(bus, ACCEPTED)
    await lose(bus, agent="@boss")
    assert await looks(bus, only(lost=60)) == []


async def test_an_agent_without_workers_is_told_of_once_in_each_outage(bus):
    """On its oldest work; again only when a worker came and went, and whoever acts meanwhile changes nothing."""
    watched = only(silent=AT_ONCE)
    for task in ("a", "b", "c"):
        await delegated(bus, task)
    (envelope,) = await look(bus, watched, at_once=True)
    assert envelope.task == "a"
    message = envelope.payload.error_details.message
    assert message.startswith("No worker of @kilo is there")
    assert message.endswith("3 deliveries in all.")
    assert await looks(bus, watched) == []
    await said(bus, Answer(answer="wait for it"), "a", sender="@boss", recipient="@kilo")
    await past(bus)
    assert await looks(bus, watched) == []
    await bus.connection.execute("ZADD", bus.keys.workers, int(await bus.connection.time() * 1000), "@kilo w1")
    assert await looks(bus, only(silent=60)) == []
    await move_back(bus, bus.keys.workers, "@kilo w1")
    assert await looks(bus, watched) == ["b"]
    assert await looks(bus, watched) == []


async def test_an_agent_whose_worker_is_there_is_not_silent(bus):
    """Work may wait as long as it takes, while somebody of the agent is seen."""
    await delegated(bus)
    await bus.inbox("@kilo", consumer="w1").renew([])
    assert await looks(bus, only(silent=60)) == []


async def test_a_worker_that_ended_is_remembered(bus):
    """A restart of the only worker is no outage, although work has waited for longer."""
    await delegated(bus)
    inbox = bus.inbox("@kilo", consumer="w1")
    await inbox.renew([])
    await inbox.leave()
    assert await bus.connection.execute("ZCARD", bus.keys.workers) == 0
    assert await looks(bus, only(silent=60)) == []
    assert await bus.connection.field(bus.keys.meta, "seen:@kilo") is not None
    await bus.connection.execute("HSET", bus.keys.meta, "seen:@kilo", 0)
    assert await looks(bus, only(silent=AT_ONCE)) == ["t"]


async def test_a_silence_that_was_found_and_never_told_is_found_again(bus, monkeypatch):
    """A watcher that dies between its look and its escalation leaves the telling to the next."""
    await delegated(bus)

    async def die(*_arguments):
        raise anyio.BrokenResourceError

    with monkeypatch.context() as patched:
        patched.setattr(supervision, "_told", die)
        with pytest.raises(anyio.BrokenResourceError):
            await look(bus, only(silent=AT_ONCE), at_once=True)
    assert await looks(bus, only(silent=AT_ONCE)) == ["t"]


async def test_a_silence_whose_work_was_ended_meanwhile_is_told_of_on_the_next(bus, monkeypatch):
    """The oldest work is cancelled between look and escalation: the outage is not forgotten with it."""
    for task in ("a", "b"):
        await delegated(bus, task)
    first = acting_first(lambda: said(bus, Cancellation(reason="no"), "a", sender="@boss", recipient="@kilo"))
    monkeypatch.setattr(supervision, "commit", first)
    assert await looks(bus, only(silent=AT_ONCE)) == ["b"]


async def test_the_human_is_only_held_to_deadlines(bus):
    """Nobody expects a worker of @human, or an acknowledgment within minutes."""
    await delegated(bus, "plain", recipient="@human")
    await delegated(bus, "dated", recipient="@human", deadline=now().replace(year=2190))
    await lose(bus, agent="@human")
    watched = Supervision(acknowledge=AT_ONCE, lost=AT_ONCE, silent=AT_ONCE, stale=HOUR)
    assert await looks(bus, watched) == []
    await move_back(bus, bus.keys.deadlines, "dated")
    assert await looks(bus, watched) == ["dated"]


async def test_an_escalation_climbs_to_the_human_and_stops(bus):
    """Level 2 to the coordinator, 3 to the delegator of the root, 4 to @human, each with what was said first."""
    await bus.publish(compose(Delegation(goal="all"), sender="@chief", recipient="@boss", task="root"))
    await bus.publish(compose(Delegation(goal="part"), sender="@boss", recipient="@kilo", task="t", parent="root"))
    await said(bus, ACCEPTED)
    await said(bus, escalation())
    assert await looks(bus, only(stale=60)) == []
    for _ in range(5):
        await stale(bus)
        await looks(bus, only(stale=60))
    assert await told(bus) == [("t", "@chief", 3), ("t", "@human", 4)]
    assert await bus.connection.execute("ZCARD", bus.keys.escalations) == 0
    message = (await bus.log.latest(1))[0].envelope.payload.error_details.message
    assert message == "The escalation to @chief was not dealt with in time. It said: No disk."


async def test_a_lead_gets_level_three(bus):
    """Who leads is asked before the human, instead of whoever delegated the root task."""
    await delegated(bus)
    await said(bus, ACCEPTED)
    await said(bus, escalation())
    for _ in range(3):
        await stale(bus)
        await looks(bus, only(stale=60, lead="@lead"))
    assert await told(bus) == [("t", "@lead", 3), ("t", "@human", 4)]


@pytest.mark.parametrize(("level", "expected"), [(1, "@boss"), (3, "@human"), (4, "@human")])
async def test_an_escalation_of_an_agent_climbs_from_its_own_level(bus, level, expected):
    """What an agent called the highest level, and sent to its coordinator, gets to @human too."""
    await delegated(bus)
    await said(bus, ACCEPTED)
    await said(bus, escalation(level), recipient="@coordinator")
    await stale(bus)
    await looks(bus, only(stale=60))
    assert await told(bus) == [("t", expected, min(level + 1, 4))]


async def test_an_escalation_that_was_dealt_with_does_not_climb(bus):
    """An answer, a delegation to somebody else and a cancellation end it."""
    for task, reply in (
        ("a", Answer(answer="!")),
        ("b", Cancellation(reason="no")),
        ("c", Delegation(goal="again")),
    ):
        await delegated(bus, task)
        await said(bus, ACCEPTED, task)
        await said(bus, escalation(), task)
        await stale(bus, task)
        await said(bus, reply, task, sender="@boss", recipient="@kilo")
    assert await looks(bus, only(stale=60)) == []


@pytest.mark.parametrize("body", [None, "{}"])
async def test_an_escalation_that_cannot_be_read_climbs_all_the_same(bus, body):
    """A newer version may have written it, or it was trimmed: it counts as level 2."""
    await delegated(bus)
    await said(bus, ACCEPTED)
    await said(bus, escalation())
    (entry,) = await bus.log.latest(1)
    await bus.connection.execute("DEL", bus.keys.log)
    words = entries.words(id=entry.id, type="escalation", sender="@kilo", recipient="@boss", body=body)
    if body is not None:
        await bus.connection.execute("XADD", bus.keys.log, entry.position.entry, *words)
    await stale(bus)
    await looks(bus, only(stale=60))
    assert await told(bus) == [("t", "@boss", 3)]


async def test_work_that_waits_behind_a_parked_delivery(bus):
    """An answer does not bring parked work back: that nobody goes on with it is told of, and how to."""
    await delegated(bus)
    inbox = bus.inbox("@kilo", consumer="w1")
    (delivery,) = (await inbox.take()).deliveries
    await said(bus, ACCEPTED, token=delivery.token)
    failed = Setback("permanent", "no such repository")
    await inbox.park(delivery, "permanent", records(delivery, failed, open_work=True))
    await said(bus, Answer(answer="use the other one"), sender="@boss", recipient="@kilo")
    assert (await inbox.take()).deliveries == []
    await past(bus)
    assert await looks(bus, only()) == []
    (envelope,) = await look(bus, only(acknowledge=AT_ONCE), at_once=True)
    assert "`bus parked replay t`" in envelope.payload.error_details.message
    assert await looks(bus, only(acknowledge=AT_ONCE)) == []


def acting_first(act):
    """An append before which somebody else acts, once."""
    whole, done = supervision.commit, []

    async def commit(*arguments):
        if not done:
            done.append(True)
            await act()
        return await whole(*arguments)

    return commit


@pytest.mark.parametrize(
    ("payload", "sender", "state"),
    [
        (ACCEPTED, "@kilo", "working"),
        (Cancellation(reason="no"), "@boss", "canceled"),
        (Answer(answer="!"), "@boss", "working"),
    ],
)
async def test_whoever_acts_between_look_and_escalation_wins(bus, monkeypatch, payload, sender, state):
    """An acknowledgment, a cancellation or an answer that comes just in time is not overruled."""
    await delegated(bus)
    if isinstance(payload, Answer):
        await said(bus, ACCEPTED)
        await said(bus, escalation())
        await stale(bus)
    recipient = "@boss" if sender == "@kilo" else "@kilo"
    act = acting_first(lambda: said(bus, payload, sender=sender, recipient=recipient))
    monkeypatch.setattr(supervision, "commit", act)
    assert await looks(bus, only(acknowledge=AT_ONCE, stale=60)) == []
    assert (await bus.task("t")).state == state


async def test_a_server_that_forgets_everything_between_look_and_escalation(bus, monkeypatch):
    """There is nothing to be escalated any more, and that is no error."""
    await delegated(bus)

    async def forget():
        await bus.connection.execute("DEL", bus.keys.index, bus.keys.log)

    monkeypatch.setattr(supervision, "commit", acting_first(forget))
    assert await looks(bus, only(acknowledge=AT_ONCE)) == []


async def every_kind(bus):
    """One task of each kind of lateness, all of them due for the supervision that is returned."""
    await delegated(bus, "unacknowledged")
    await delegated(bus, "deadline", deadline=now().replace(year=2190), recipient="@human")
    await move_back(bus, bus.keys.deadlines, "deadline")
    await delegated(bus, "lost", recipient="@cline")
    await lose(bus, agent="@cline")
    await delegated(bus, "silent", recipient="@opencode")
    # Acknowledged under a token, so that it is late for nothing else.
    (delivery,) = (await bus.inbox("@opencode", consumer="w1", lease=10).take()).deliveries
    await said(bus, ACCEPTED, "silent", sender="@opencode", token=delivery.token)
    await bus.inbox("@opencode", consumer="w1").release([Release(delivery)])
    await bus.inbox("@opencode", consumer="w1").leave()
    await bus.connection.execute("HDEL", bus.keys.meta, "seen:@opencode")
    await delegated(bus, "stale", recipient="@cline")
    await said(bus, ACCEPTED, "stale", sender="@cline")
    await said(bus, escalation(), "stale", sender="@cline")
    await stale(bus, "stale")
    await past(bus)
    return Supervision(acknowledge=AT_ONCE, lost=60, silent=AT_ONCE, stale=60)


EXPECTED = [
    ("deadline", "@boss", 2),
    ("lost", "@boss", 2),
    ("silent", "@boss", 2),
    ("stale", "@boss", 3),
    ("unacknowledged", "@boss", 2),
]


async def test_of_many_who_watch_one_tells(bus):
    """Sixteen watchers at once escalate each of five kinds once, and each is told by the one who did."""
    watched = await every_kind(bus)
    found = []

    async def one():
        found.extend(await look(bus, watched, at_once=True))

    async with anyio.create_task_group() as group:
        for _ in range(16):
            group.start_soon(one)
    assert sorted(await told(bus)) == EXPECTED
    assert sorted(envelope.task for envelope in found) == [task for task, _, _ in EXPECTED]


LOOK = """
import sys, anyio
from taskbus.client import Bus
from taskbus.supervision import Supervision, look

async def main():
    async with Bus.connect(sys.argv[1], namespace=sys.argv[2]) as bus:
        print("ready", flush=True)
        sys.stdin.readline()
        watched = Supervision(acknowledge=0.001, lost=60, silent=0.001, stale=60)
        for _ in range(5):
            for envelope in await look(bus, watched, at_once=True):
                print(envelope.task, flush=True)

anyio.run(main)
"""


def race(command):
    """What three processes print that begin at the same moment."""
    pipe = subprocess.PIPE
    processes = [subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True) for _ in range(3)]
    for process in processes:
        assert process.stdout.readline() == "ready\n"
    for process in processes:
        process.stdin.write("\n")
        process.stdin.flush()
    found = [line for process in processes for line in process.communicate(timeout=60)[0].splitlines()]
    assert [process.returncode for process in processes] == [0, 0, 0]
    return found


async def test_of_several_processes_one_tells(real_bus, valkey, namespace):
    """Three processes that look at the same moment, again and again, escalate each kind once between them."""
    await every_kind(real_bus)
    found = await anyio.to_thread.run_sync(race, [sys.executable, "-c", LOOK, valkey, namespace])
    assert sorted(await told(real_bus)) == EXPECTED
    assert sorted(found) == [task for task, _, _ in EXPECTED]


async def test_lost_replies_tell_of_nothing_twice(valkey_server, namespace, tmp_path):
    """A watcher that loses every second reply leaves one escalation of each kind, and tells of it once."""
    async with Connection.open(valkey_server.url) as connection:
        watched = await every_kind(Bus(connection, namespace))
    found = []
    async with (
        losing_replies(tmp_path / "p", valkey_server.socket, every=2) as proxy,
        Connection.open(proxy.url(valkey_server.url)) as connection,
    ):
        for _ in range(4):
            found += await look(Bus(connection, namespace), watched, at_once=True)
        assert b"EVALSHA" in proxy.lost
    async with Connection.open(valkey_server.url) as connection:
        assert sorted(await told(Bus(connection, namespace))) == EXPECTED
    assert sorted(envelope.task for envelope in found) == [task for task, _, _ in EXPECTED]


async def test_a_long_inbox_is_looked_through_in_pages(bus):
    """Each look goes a page further, and after the last one it begins anew; at once, it goes through all of it."""
    envelopes = [compose(Delegation(goal="g"), sender="@boss", recipient="@kilo") for _ in range(450)]
    await bus.publish_many(envelopes, batch=450)
    await past(bus)
    watched = only(acknowledge=AT_ONCE, interval=AT_ONCE)
    counts = [len(await look(bus, watched)) for _ in range(4)]
    assert counts == [200, 200, 50, 0]
    await delegated(bus, "later")
    assert await looks(bus, watched) == ["later"]


async def test_work_behind_a_page_of_other_messages_is_found(bus):
    """What only informs an agent fills its inbox; the work behind that is found by a later look, or at once."""
    sent = [compose(Delegation(goal="g"), sender="@kilo", recipient="@human") for _ in range(250)]
    await bus.publish_many(sent, batch=250)
    acks = [compose(ACCEPTED, sender="@human", recipient="@kilo", task=envelope.task) for envelope in sent]
    await bus.publish_many(acks, batch=250)
    for task in ("first", "second"):
        await delegated(bus, task)
    watched = only(acknowledge=AT_ONCE, interval=AT_ONCE)
    assert await look(bus, watched) == []
    assert [envelope.task for envelope in await look(bus, watched)] == ["first", "second"]
    await delegated(bus, "third")
    assert await looks(bus, watched) == ["third"]


async def test_a_large_silence_is_told_of_on_its_oldest_work(bus):
    """However many deliveries wait, it is one escalation, of the first of them."""
    envelopes = [compose(Delegation(goal="g"), sender="@boss", recipient="@kilo") for _ in range(450)]
    await bus.publish_many(envelopes, batch=450)
    await past(bus)
    assert await looks(bus, only(silent=AT_ONCE)) == [envelopes[0].task]


async def test_nobody_looks_more_often_than_the_interval(bus):
    """Of those who watch together, one looks in each interval; `at_once` does in any case."""
    await delegated(bus)
    watched = only(acknowledge=AT_ONCE, interval=60)
    assert await look(bus, only(interval=60)) == []
    assert await look(bus, watched) == []
    assert await looks(bus, watched) == ["t"]


async def test_a_worker_that_is_gone_is_forgotten_once_it_holds_nothing(bus):
    """While it still has a delivery it is kept, for its lease must be told of; then it goes, and is remembered."""
    await delegated(bus)
    (delivery,) = (await bus.inbox("@kilo", consumer="w1", lease=10).take()).deliveries
    await move_back(bus, bus.keys.workers, "@kilo w1")
    await looks(bus, only())
    assert await bus.connection.execute("ZRANGE", bus.keys.workers, 0, -1) == [b"@kilo w1"]
    await said(bus, ACCEPTED, token=delivery.token)
    done = compose(DONE, sender="@kilo", recipient="@boss", task="t")
    await bus.inbox("@kilo", consumer="w1").settle(delivery, [done])
    await looks(bus, only())
    assert await bus.connection.execute("ZCARD", bus.keys.workers) == 0
    assert await bus.connection.field(bus.keys.meta, "took:w1") is None
    assert await bus.connection.field(bus.keys.meta, "seen:@kilo") is not None


async def test_a_worker_that_was_seen_lately_is_kept(bus):
    """A worker that waits for work is not forgotten between two looks of its own."""
    await bus.inbox("@kilo", consumer="w1").renew([])
    await looks(bus, only())
    assert await bus.connection.execute("ZCARD", bus.keys.workers) == 1


async def test_what_somebody_else_wrote_into_an_inbox_stops_nothing(bus):
    """An entry that taskbus did not write is passed over."""
    await bus.connection.execute("XADD", bus.keys.inbox("@kilo", "normal"), "*", "x", "y")
    await bus.connection.execute("XADD", bus.keys.inbox("@kilo", "normal"), "*", "at", "nowhere")
    await delegated(bus)
    assert await looks(bus, only(acknowledge=AT_ONCE, silent=AT_ONCE)) == ["t"]


async def test_watching_goes_on_and_tells(real_bus):
    """Whoever watches hears of each escalation as it is made, look after look."""
    await delegated(real_bus, "a")
    found, heard = [], anyio.Event()

    def tell(envelope):
        found.append(envelope.task)
        if len(found) == 2:
            heard.set()

    async with anyio.create_task_group() as group:
        group.start_soon(watch, real_bus, only(acknowledge=AT_ONCE, interval=0.01), tell)
        await delegated(real_bus, "b")
        with anyio.fail_after(30):
            await heard.wait()
        group.cancel_scope.cancel()
    assert found == ["a", "b"]


@pytest.mark.parametrize("field", bus_file.TIMES)
@pytest.mark.parametrize("value", [0, -1.0, math.nan, math.inf])
def test_a_time_that_is_none_is_refused(field, value):
    """Each time is a positive number of seconds."""
    with pytest.raises(UsageError, match=field):
        Supervision(**{field: value})


def test_the_file_knows_every_time():
    """bus.toml has a key for each field of Supervision."""
    assert (*bus_file.TIMES, "lead") == tuple(field.name for field in fields(Supervision))
