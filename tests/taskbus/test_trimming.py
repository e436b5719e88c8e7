"""Trimming: what is needed stays, what goes is in the archive, and nothing that was sent before is appended again."""

from __future__ import annotations

import itertools
import tempfile
from contextlib import ExitStack

import anyio
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import precondition, rule, run_state_machine_as_test

from taskbus.append import Submission, Unit, Unparking, commit
from taskbus.archive import Archive
from taskbus.client import Bus
from taskbus.codec import document
from taskbus.connection import Connection
from taskbus.envelope import Budget, Cost, Delegation, Status, Usage, Verdict, compose
from taskbus.errors import Conflict, Damaged, LifecycleConflict, OtherLog, Permanent
from taskbus.history import History
from taskbus.lifecycle import ENDED, OPEN
from taskbus.mending import mend
from taskbus.parked import parked, record_of, replay
from taskbus.position import START
from taskbus.setbacks import Setback, records
from taskbus.supervision import Supervision
from taskbus.supervision import look as watched
from taskbus.trimming import announce, forget, look, projections, trim
from tests.entries import id_of
from tests.proxy import losing_replies
from tests.servers import bundled_binary, running
from tests.taskbus.archived import fill
from tests.taskbus.test_delivery_model import Deliveries
from tests.taskbus.test_lifecycle import EVENTS, PAYLOADS, SENDERS

pytestmark = pytest.mark.anyio

HOUR = 3600.0


@pytest.fixture
def bus(any_connection, namespace):
    """A bus on every server."""
    return Bus(any_connection, namespace)


@pytest.fixture
def real_bus(connection, namespace):
    """A bus on the embedded server."""
    return Bus(connection, namespace)


@pytest.fixture
def archive(request, tmp_path):
    """An archive in a folder of this test, of whichever bus it has."""
    name = "bus" if "bus" in request.fixturenames else "real_bus"
    return Archive.open(tmp_path / "archive", request.getfixturevalue(name).keys)


async def delegated(bus, *tasks, **more):
    """Delegations from @boss to @kilo, which need no review."""
    names = {"sender": "@boss", "recipient": "@kilo", **more}
    envelopes = [compose(Delegation(goal="g", review_required=False), task=task, **names) for task in tasks]
    for envelope in envelopes:
        await bus.publish(envelope)
    return envelopes


async def said(bus, event, task, sender="@kilo", recipient="@boss", **more):
    """An event of a task."""
    envelope = compose(PAYLOADS[event], sender=sender, recipient=recipient, task=task)
    await bus.publish(envelope, **more)
    return envelope


async def canceled(bus, *tasks):
    """Tasks that are delegated and canceled, with nothing of them in any inbox."""
    envelopes = await delegated(bus, *tasks)
    for task in tasks:
        envelopes.append(await said(bus, "cancellation", task, "@boss", "@kilo"))
    await settled(bus, "@kilo")
    return envelopes


async def settled(bus, *agents):
    """Take and settle everything that stands in these inboxes, and is no work."""
    for agent in agents:
        inbox = bus.inbox(agent)
        while deliveries := (await inbox.take(1000)).deliveries:
            await commit(bus.connection, bus.keys, [inbox.settlement(each) for each in deliveries if not each.is_work])


async def sealed(bus, archive, **more):
    """Seal everything that the log has."""
    return await archive.seal(bus.log, rest=True, settle=0, **more)


async def trimmed(bus, archive, **more):
    """Seal everything, and trim; returns how many envelopes went, and what holds the rest as kinds and names."""
    await sealed(bus, archive)
    done = await trim(bus, archive, **more)
    return done.count, [(each.kind, each.name) for each in done.holders]


READS = {
    "stream": lambda key: ("XRANGE", key, "-", "+"),
    "zset": lambda key: ("ZRANGE", key, 0, -1, "WITHSCORES"),
    "set": lambda key: ("SMEMBERS", key),
}


async def everything(bus):
    """What every key of the bus holds."""
    found = {}
    async for key in bus.connection.scan(f"{bus.namespace}*"):
        kind = (await bus.connection.execute("TYPE", key)).decode()
        if kind == "hash":
            found[key] = await bus.connection.hash(key)
        else:
            content = await bus.connection.execute(*READS[kind](key))
            found[key] = sorted(content) if kind == "set" else content
    return found


async def live(bus):
    """The IDs of the envelopes that the log has."""
    return [id_of(fields).decode() for _, fields in await bus.connection.range(bus.keys.log)]


async def whole(bus, archive):
    """The IDs of all envelopes there ever were, from archive and log."""
    return [entry.id async for entry in History(bus.log, archive).read()]


# How far


async def test_what_is_sealed_and_not_needed_goes(bus, archive):
    """All but the newest goes, the server's record says up to where, and archive and log together are the whole."""
    envelopes = await canceled(bus, "a", "b", "c")
    before = [entry async for entry in bus.log.read()]
    assert await trim(bus, archive) == await trim(bus, archive)
    assert await live(bus) == [each.id for each in envelopes]
    assert await trimmed(bus, archive) == (5, [])
    record = await bus.log.trimmed()
    (segment,) = await archive.segments()
    assert (record.head.n, record.head.position) == (5, before[4].position)
    assert (record.store, record.segment) == (archive.url, str(segment.name))
    assert record.head == await archive.head_at(before[4].position)
    assert await live(bus) == [before[5].id]
    assert [entry async for entry in History(bus.log, archive).read()] == before
    assert await bus.log.end() == before[5].position


async def test_a_trim_that_is_repeated_changes_nothing(real_bus, archive):
    """Whoever trims once more, with nothing new to trim, leaves every key as it was."""
    await canceled(real_bus, *map(str, range(10)))
    assert await trimmed(real_bus, archive) == (19, [])
    before = await everything(real_bus)
    assert (await trim(real_bus, archive)).count == 0
    assert await everything(real_bus) == before


async def test_numbers_go_on(bus, archive):
    """Trimmed again and again, the record counts on, and the chain runs through all segments."""
    for round in range(4):
        await canceled(bus, f"a{round}", f"b{round}")
        count, _ = await trimmed(bus, archive)
        assert count == (3 if round == 0 else 4)
        assert (await bus.log.trimmed()).head.n == 4 * round + 3
    assert len(await whole(bus, archive)) == 16


async def test_what_came_lately_is_kept(bus, archive):
    """Told to keep an hour, it keeps an hour."""
    await canceled(bus, "a", "b")
    assert await trimmed(bus, archive, keep=HOUR) == (0, [])
    assert (await look(bus, most=100, keep=HOUR)).count == 0
    assert (await trimmed(bus, archive))[0] == 3


async def test_parts_of_a_segment_go(real_bus, archive):
    """A segment may be trimmed up to anywhere in it, and the link there is that of the chain."""
    await canceled(real_bus, *(f"a{n}" for n in range(600)))
    await delegated(real_bus, "open")
    await canceled(real_bus, *(f"b{n}" for n in range(600)))
    told = []
    await sealed(real_bus, archive)
    done = await trim(real_bus, archive, told=told.append)
    assert (done.count, told) == (1200, [1000, 1200])
    assert done.head == await archive.head_at(done.head.position)
    assert [(each.kind, each.task) for each in done.holders] == [("task", "open"), ("inbox", None)]
    await said(real_bus, "cancellation", "open", "@boss", "@kilo")
    await settled(real_bus, "@kilo")
    assert (await trim(real_bus, archive)).count == 1201
    await canceled(real_bus, "last")
    assert (await trimmed(real_bus, archive))[0] == 2


# What holds it


async def test_a_projection_holds_what_it_has_not_folded(bus, archive):
    """Nothing behind the position that it announced goes; it may fall back, go on, and be forgotten."""
    envelopes = await canceled(bus, "a", "b", "c")
    positions = [entry.position async for entry in bus.log.read()]
    await announce(bus.connection, bus.keys, "here:/bus.db", positions[3])
    await announce(bus.connection, bus.keys, "there", positions[1])
    assert await trimmed(bus, archive) == (2, [("projection", "there"), ("projection", "here:/bus.db")])
    assert [each.name for each in await projections(bus.connection, bus.keys)] == ["there", "here:/bus.db"]
    assert (await projections(bus.connection, bus.keys))[0].position == positions[1]
    assert await forget(bus.connection, bus.keys, "there")
    assert not await forget(bus.connection, bus.keys, "there")
    assert await trimmed(bus, archive) == (2, [("projection", "here:/bus.db")])
    await announce(bus.connection, bus.keys, "here:/bus.db", START)
    assert await trimmed(bus, archive) == (0, [("projection", "here:/bus.db")])
    await announce(bus.connection, bus.keys, "here:/bus.db", positions[5])
    assert await trimmed(bus, archive) == (1, [])
    assert await whole(bus, archive) == [each.id for each in envelopes]


def told(delivery):
    """What a worker says that parks a delivery."""
    return records(delivery, Setback("permanent", "no", 1), open_work=delivery.is_work)


async def waits(bus):
    """What is new in an inbox."""
    return ("inbox", "@kilo")


async def is_in_hand(bus):
    """What a worker has."""
    assert (await bus.inbox("@kilo").take()).deliveries
    return ("inbox", "@kilo")


async def is_parked(bus):
    """What was set aside."""
    inbox = bus.inbox("@kilo")
    (delivery,) = (await inbox.take()).deliveries
    await inbox.park(delivery, "permanent", told(delivery))
    await settled(bus, "@boss")
    return ("parked", "@kilo")


async def is_replayed(bus):
    """What was set aside, and delivered again."""
    await is_parked(bus)
    await replay(bus, "@kilo", "held", sender="@boss")
    return ("inbox", "@kilo")


async def is_replayed_and_taken(bus):
    """The same in somebody's hand."""
    await is_replayed(bus)
    return await is_in_hand(bus)


async def is_mended(bus):
    """What was put back into an inbox that somebody deleted."""
    await bus.connection.execute("DEL", bus.keys.inbox("@kilo", "normal"))
    await past(bus)
    await delegated(bus, "newer")
    assert await mend(bus, "@kilo") == ["held"]
    return ("inbox", "@kilo")


async def is_lost(bus):
    """What stood in an inbox that somebody deleted, and nobody has put back yet."""
    await bus.connection.execute("DEL", bus.keys.inbox("@kilo", "normal"))
    return ("task", "@kilo")


@pytest.mark.parametrize(
    "place",
    [waits, is_in_hand, is_parked, is_replayed, is_replayed_and_taken, is_mended, is_lost],
    ids=lambda f: f.__name__,
)
async def test_a_delivery_is_kept(bus, archive, place):
    """Wherever a delivery is, its envelope stays in the log, and it is told who has it; whoever comes later gets it."""
    await canceled(bus, "a")
    (held,) = await delegated(bus, "held")
    kind, name = await place(bus)
    await canceled_elsewhere(bus)
    count, holders = await trimmed(bus, archive)
    assert count == 2
    assert (kind, name) in holders
    assert (await live(bus))[0] == held.id
    if place is is_lost:
        await past(bus)
        await delegated(bus, "newer")
        assert await mend(bus, "@kilo") == ["held"]
    if place is is_parked:
        (line,) = await parked(bus, "@kilo", "held")
        assert line.entry.id == held.id
        assert await record_of(bus, line) is not None
        await replay(bus, "@kilo", "held", sender="@boss")
    if place not in (is_in_hand, is_replayed_and_taken):
        taken = await bus.inbox("@kilo").take(10)
        assert (held.id in {each.entry.id for each in taken.deliveries}, taken.missing) == (True, ())


async def test_what_only_informs_is_kept_as_well(bus, archive):
    """A delivery of a task that has ended holds the log as long as it is not settled: parked, replayed, or waiting."""
    await delegated(bus, "t")
    held = await said(bus, "cancellation", "t", "@boss", "@kilo")
    await canceled_elsewhere(bus)
    assert await trimmed(bus, archive) == (1, [("inbox", "@kilo")])
    inbox = bus.inbox("@kilo")
    (delivery,) = (await inbox.take()).deliveries
    await inbox.park(delivery, "permanent", told(delivery))
    assert await trimmed(bus, archive) == (0, [("parked", "@kilo")])
    await settled(bus, "@boss")
    await replay(bus, "@kilo", "t", sender="@boss")
    # Behind a newer one, as the order of its stream has it.
    assert await trimmed(bus, archive) == (0, [("inbox", "@kilo")])
    assert (await live(bus))[0] == held.id
    await settled(bus, "@kilo")
    count, holders = await trimmed(bus, archive)
    assert (count > 2, holders) == (True, [])
    assert await bus.connection.execute("ZCARD", bus.keys.again) == 0


async def canceled_elsewhere(bus):
    """A task of somebody else, with nothing of it in an inbox."""
    await delegated(bus, "elsewhere", recipient="@cline")
    await said(bus, "cancellation", "elsewhere", "@boss", "@cline")
    await settled(bus, "@cline")


async def test_a_newer_delivery_hides_no_older_one(bus, archive):
    """What was put back stands behind newer deliveries in its stream: each of several counts."""
    for task in "abc":
        await delegated(bus, task)
        await said(bus, "cancellation", task, "@boss", "@kilo")
    inbox = bus.inbox("@kilo", lease=HOUR)
    taken = (await inbox.take(10)).deliveries
    for delivery in taken:
        await inbox.park(delivery, "permanent", told(delivery))
    await settled(bus, "@boss")
    await canceled_elsewhere(bus)
    for task in "cab":
        await replay(bus, "@kilo", task, sender="@boss")
    again = {each.task: each for each in (await inbox.take(10)).deliveries}
    order = [(await live(bus)).index(again[task].entry.id) for task in "abc"]
    assert await trimmed(bus, archive) == (order[0], [("inbox", "@kilo")])
    await inbox.settle(again["b"])
    assert await trimmed(bus, archive) == (0, [("inbox", "@kilo")])
    await inbox.settle(again["a"])
    assert await trimmed(bus, archive) == (order[2] - order[0], [("inbox", "@kilo")])
    await inbox.settle(again["c"])
    assert (await trimmed(bus, archive))[1] == []


async def test_what_points_at_nothing_holds_nothing(bus, archive):
    """What somebody else wrote into an inbox, or what is older than the log, does not keep it for ever."""
    await canceled(bus, "a")
    for number in range(20):
        await bus.connection.execute("XADD", bus.keys.inbox("@kilo", "high"), "*", "at", f"5-{number}")
    await bus.connection.execute("XADD", bus.keys.inbox("@kilo", "low"), "*", "what", "ever")
    await canceled_elsewhere(bus)
    assert await trimmed(bus, archive) == (3, [])


BEFORE = {
    "submitted": [],
    "working": ["acknowledgment:accepted"],
    "input-required": ["acknowledgment:accepted", "question"],
    "escalated": ["escalation"],
}


@pytest.mark.parametrize("state", sorted(OPEN))
async def test_an_open_task_keeps_its_envelopes(bus, archive, state):
    """Though nothing of it stands in an inbox, nothing of it goes: what it is and whose turn it is, is told."""
    (first,) = await delegated(bus, "t")
    for event in BEFORE[state]:
        await said(bus, event, "t")
    await settled(bus, "@kilo", "@boss")
    for agent in ("@kilo", "@boss"):
        await bus.connection.execute("DEL", *bus.keys.inboxes(agent))
    await canceled_elsewhere(bus)
    await sealed(bus, archive)
    done = await trim(bus, archive)
    (holder,) = done.holders
    turn = "@kilo" if state in ("submitted", "working") else "@boss"
    assert (done.count, holder.kind, holder.task, holder.state, holder.name) == (0, "task", "t", state, turn)
    assert (await live(bus))[0] == first.id


async def test_a_look_tells_what_a_trim_would_do(bus, archive):
    """Before anything is sealed, and without changing anything."""
    await canceled(bus, "a", "b", "c")
    await delegated(bus, "open")
    before = await everything(bus)
    most = await look(bus, most=3)
    found = await look(bus, most=100)
    assert await everything(bus) == before
    assert (most.count, most.holders) == (3, ())
    await sealed(bus, archive)
    done = await trim(bus, archive)
    assert (found.count, found.head.n, found.head.position) == (done.count, done.head.n, done.head.position)
    assert [(each.kind, each.name) for each in found.holders] == [(each.kind, each.name) for each in done.holders]


async def test_a_look_at_large_envelopes_takes_little_memory(namespace):
    """They are looked at in parts: a script of the server holds some megabytes of them, and not a whole page."""
    with running(bundled_binary()) as server:
        async with Connection.open(server.url) as connection:
            bus = Bus(connection, namespace)
            await fill(bus, 1, 100, size=900_000)
            assert (await look(bus, most=100)).count == 99
            # What a script held is collected later.
            told = (await connection.execute("INFO", "memory")).decode()
            assert int(told.partition("used_memory_vm_eval:")[2].split()[0]) < 40 << 20


# What was sent before


async def ended(bus, state):
    """A task in this state, of which nothing stands in an inbox; returns its envelopes."""
    said_of_it = await delegated(bus, state)
    if state == "accepted":
        said_of_it.append(await said(bus, "acknowledgment:accepted", state))
        said_of_it.append(await said(bus, "completion:done", state))
    else:
        said_of_it.append(await said(bus, "cancellation", state, "@boss", "@kilo"))
    await settled(bus, "@kilo", "@boss")
    assert (await bus.task(state)).state == state
    return said_of_it


@pytest.mark.parametrize("state", sorted(ENDED))
async def test_nothing_of_an_ended_task_is_appended_again(bus, archive, state):
    """Whatever is sent of it under any ID that was trimmed, by anybody, with or without a token: it is a conflict.

    But for what tells of money, which is true in any state: its ID stays known instead.
    """
    envelopes = await ended(bus, state)
    await canceled_elsewhere(bus)
    await trimmed(bus, archive)
    assert not set(await bus.connection.hash(bus.keys.index)) & {each.id for each in envelopes}
    before = await everything(bus), await whole(bus, archive)
    for envelope in envelopes:
        with pytest.raises(LifecycleConflict):
            await bus.publish(envelope)
    events = [event for event in EVENTS if not event.startswith("budget")]
    for event, sender, recipient, token in itertools.product(events, SENDERS, ("@kilo", "@boss"), (None, 1)):
        envelope = compose(PAYLOADS[event], sender=sender, recipient=recipient, task=state)
        with pytest.raises(Conflict):
            await bus.publish(envelope, token=token)
    assert (await everything(bus), await whole(bus, archive)) == before


async def test_what_was_spent_is_not_counted_again_after_the_trim(bus, archive):
    """A record of usage is legal in any state; sent again, it is the one that was archived, and the counters stay."""
    await ended(bus, "accepted")
    usage = (Usage(provider="anthropic", model="m", cost=Cost(source="reported", microusd=70)),)
    record = compose(Budget(budget="settled"), sender="@kilo", recipient="@bus", task="accepted", usage=usage)
    first = await bus.publish(record)
    await canceled_elsewhere(bus)
    await trimmed(bus, archive)
    accounts = await bus.budget.accounts()
    again = await bus.publish(record)
    assert (again.position, again.repeated) == (first.position, True)
    assert await bus.budget.accounts() == accounts
    assert {each.committed for each in accounts} == {70}


@pytest.mark.parametrize("kind", ["settle", "park", "replay", "drop"])
async def test_what_moved_a_delivery_of_an_ended_task_moves_nothing_again(bus, archive, kind):
    """A settlement, a parking, a replay or a drop whose reply was lost, repeated after the trim: it is a conflict."""
    await delegated(bus, "t")
    await said(bus, "cancellation", "t", "@boss", "@kilo")
    inbox = bus.inbox("@kilo", consumer="w1")
    (delivery,) = (await inbox.take()).deliveries
    record = compose(PAYLOADS["parking:parked"], sender="@bus", recipient="@human", task="t")
    parking = inbox.settlement(delivery, [record], "permanent")
    unit = inbox.settlement(delivery) if kind == "settle" else parking
    assert not isinstance((await commit(bus.connection, bus.keys, [unit]))[0], Exception)
    if kind != "settle":
        (line,) = await parked(bus, "@kilo", "t")
        told = compose(
            PAYLOADS[f"parking:{'dropped' if kind == 'drop' else 'replayed'}"],
            sender="@boss",
            recipient="@bus",
            task="t",
        )
        move = Unparking("@kilo", "t", (line.position.entry,), replayed=kind != "drop")
        unparking = Unit((Submission(document(told)),), move)
        assert not isinstance((await commit(bus.connection, bus.keys, [unparking]))[0], Exception)
        unit = parking if kind == "park" else unparking
    await settled(bus, "@kilo", "@human")
    await canceled_elsewhere(bus)
    assert (await trimmed(bus, archive))[1] == []
    before = await everything(bus), await whole(bus, archive)
    (answer,) = await commit(bus.connection, bus.keys, [unit])
    if kind == "settle":
        assert isinstance(answer, (list, Conflict))
    else:
        assert isinstance(answer, Conflict)
    assert (await everything(bus), await whole(bus, archive)) == before


@pytest.mark.parametrize("state", ["completed", "failed", "rejected"])
async def test_what_was_trimmed_of_a_task_that_goes_on_is_recognised(bus, archive, state):
    """Sent again it is where it was; once the task has ended it is refused, and the server has forgotten the IDs."""
    # Where it is completed, and not accepted, a review was asked for.
    first = compose(
        Delegation(goal="g", review_required=state == "completed"), sender="@boss", recipient="@kilo", task="t"
    )
    await bus.publish(first)
    task = first.task
    events = {"completed": ["completion:done"], "failed": ["completion:failure"], "rejected": []}[state]
    events = [*(["acknowledgment:accepted"] if events else ["acknowledgment:declined"]), *events]
    envelopes = [first, *[await said(bus, event, task) for event in events]]
    at = {entry.id: entry.position async for entry in bus.log.read()}
    await settled(bus, "@kilo", "@boss")
    await canceled_elsewhere(bus)
    assert (await trimmed(bus, archive))[1] == []
    assert (await bus.task(task)).state == state
    for envelope in envelopes:
        assert envelope.id not in await live(bus)
        again = await bus.publish(envelope)
        assert (again.repeated, again.position) == (True, at[envelope.id])
    if state == "completed":
        await said(bus, "verdict:accepted", task, "@boss", "@kilo")
    else:
        await delegated(bus, task)
        await said(bus, "cancellation", task, "@boss", "@kilo")
    await settled(bus, "@kilo", "@boss")
    for envelope in envelopes:
        assert (await bus.publish(envelope)).repeated
    await delegated(bus, "newest")
    await trimmed(bus, archive)
    for envelope in envelopes:
        with pytest.raises(LifecycleConflict):
            await bus.publish(envelope)
    index = await bus.connection.hash(bus.keys.index)
    assert not [field for field in index if field.startswith("old:")]
    assert not set(index) & {each.id for each in envelopes}


async def test_ids_of_a_long_talk_go_in_parts(real_bus, archive):
    """A task with more envelopes than one step forgets is forgotten in several, and wholly."""
    (first,) = [compose(Delegation(goal="g"), sender="@boss", recipient="@kilo", task="long")]
    await real_bus.publish(first)
    await said(real_bus, "acknowledgment:accepted", "long")
    status = [compose(Status(progress="on"), sender="@kilo", recipient="@boss", task="long") for _ in range(11_000)]
    await real_bus.publish_many(status, batch=1000)
    await said(real_bus, "completion:done", "long")
    await settled(real_bus, "@boss")
    await canceled(real_bus, "other")
    assert (await trimmed(real_bus, archive))[1] == []
    assert (await real_bus.publish(status[5000])).repeated
    await real_bus.publish(compose(Verdict(decision="accepted"), sender="@boss", recipient="@kilo", task="long"))
    await settled(real_bus, "@kilo")
    await canceled(real_bus, "last")
    assert (await trimmed(real_bus, archive))[1] == []
    index = await real_bus.connection.hash(real_bus.keys.index)
    assert len(index) == len(["@boss", "@kilo", "task:long", "task:other", "task:last", "newest"])
    with pytest.raises(LifecycleConflict):
        await real_bus.publish(status[5000])


async def test_an_agent_is_told_of_once_though_that_was_trimmed(bus, archive):
    """The silence of an agent that was escalated stays told when the escalation is in the archive alone."""
    supervision = Supervision(acknowledge=HOUR, lost=HOUR, silent=0.001, stale=HOUR)
    await delegated(bus, "t")
    await past(bus)
    (told,) = await watched(bus, supervision, at_once=True)
    await said(bus, "cancellation", "t", "@boss", "@kilo")
    await delegated(bus, "u")
    for agent in ("@boss", "@kilo"):
        for stream in bus.keys.inboxes(agent):
            for entry, fields in await bus.connection.range(stream):
                newest = (await bus.log.latest(1))[0]
                if fields[b"at"].decode() != newest.position.entry:
                    await bus.connection.execute("XDEL", stream, entry)
    await trimmed(bus, archive)
    assert told.id not in await live(bus)
    await past(bus)
    assert await watched(bus, supervision, at_once=True) == []


async def past(bus):
    """Wait until the server's clock is past what it did last."""
    end = (await bus.log.end()).ms + 3
    while await bus.connection.time() * 1000 <= end:  # noqa: ASYNC110 - no event tells what the server's clock shows
        await anyio.sleep(0.001)


# What goes wrong


async def test_two_trims_at_once(real_bus, archive):
    """They share the work: each envelope goes once, and the record counts each once."""
    await canceled(real_bus, *(f"t{n}" for n in range(2500)))
    before = await live(real_bus)
    await sealed(real_bus, archive)
    counts = []

    async def one():
        counts.append((await trim(real_bus, archive)).count)

    async with anyio.create_task_group() as group:
        for _ in range(4):
            group.start_soon(one)
    assert sum(counts) == (await real_bus.log.trimmed()).head.n == 4999
    assert await whole(real_bus, archive) == before


async def test_a_trim_whose_replies_are_lost(valkey_server, namespace, tmp_path):
    """Each step is done once, though it is asked for again: the record, the log and the archive agree."""
    async with Connection.open(valkey_server.url) as connection:
        bus = Bus(connection, namespace)
        archive = Archive.open(tmp_path / "archive", bus.keys)
        await canceled(bus, *(f"t{n}" for n in range(3000)))
        before = await live(bus)
        await sealed(bus, archive)
        async with (
            losing_replies(tmp_path / "p", valkey_server.socket, every=3) as proxy,
            Connection.open(proxy.url(valkey_server.url)) as shaky,
        ):
            await trim(Bus(shaky, namespace), archive)
            assert proxy.lost.count(b"EVALSHA") > 1
        assert (await bus.log.trimmed()).head.n == 5999
        assert await live(bus) == before[-1:]
        assert await whole(bus, archive) == before


async def coordinates(bus, over):
    """Read what @boss is told, and have all that was parked done again."""
    inbox = bus.inbox("@boss")
    while not over.is_set():
        taken = await inbox.take(100, wait=0.01)
        assert taken.missing == ()
        await commit(bus.connection, bus.keys, [inbox.settlement(each) for each in taken.deliveries])
        for each in taken.deliveries:
            if each.entry.type == "escalation":
                await replay(bus, "@kilo", each.task, sender="@boss")


async def test_trims_beside_work(real_bus, archive):
    """While tasks are delegated, done, parked and replayed, the log is sealed and trimmed: nobody misses anything."""
    incidents, failed, over = [], set(), anyio.Event()

    async def handler(work):
        if work.delivery.task.endswith("3") and work.delivery.task not in failed:
            failed.add(work.delivery.task)
            raise Permanent("Not yet.")
        return PAYLOADS["completion:done"]

    async def archiver():
        while not over.is_set():
            await archive.seal(real_bus.log, size=20, settle=0)
            await trim(real_bus, archive)

    with anyio.fail_after(60):
        async with anyio.create_task_group() as group:
            workers = [real_bus.worker("@kilo", handler, on_incident=incidents.append, concurrency=8) for _ in range(2)]
            for each in (*(worker.run for worker in workers), archiver):
                group.start_soon(each)
            group.start_soon(coordinates, real_bus, over)
            tasks = [f"t{n}" for n in range(400)]
            for task in tasks:
                await delegated(real_bus, task)
            while {(await real_bus.task(task)).state for task in tasks} != {"accepted"}:  # noqa: ASYNC110 - nothing tells of a state
                await anyio.sleep(0.02)
            over.set()
            for worker in workers:
                worker.stop()
    assert [each for each in incidents if "is parked" not in each] == []
    assert len(failed) == 40
    gone = (await real_bus.log.trimmed()).head.n
    assert gone > 0
    found = [entry async for entry in History(real_bus.log, archive).read()]
    assert len({entry.id for entry in found}) == len(found) == gone + await real_bus.log.count()
    assert sum(entry.type == "completion" for entry in found) == len(tasks)


async def test_a_trim_that_is_stopped_goes_on_the_next_time(real_bus, archive):
    """Cancelled between two steps, it has done whole steps only."""
    await canceled(real_bus, *(f"t{n}" for n in range(1500)))
    before = await live(real_bus)
    await sealed(real_bus, archive)
    with anyio.CancelScope() as scope:
        await trim(real_bus, archive, told=lambda _: scope.cancel())
    assert 0 < (await real_bus.log.trimmed()).head.n < 2999
    assert await whole(real_bus, archive) == before
    await trim(real_bus, archive)
    assert (await real_bus.log.trimmed()).head.n == 2999
    assert await whole(real_bus, archive) == before


async def gone(bus):
    """Everything was deleted, and somebody has begun anew."""
    async for key in bus.connection.scan(f"{bus.namespace}*"):
        await bus.connection.execute("DEL", key)
    await canceled(bus, "new", "newer", "newest", "last")


async def cut(bus):
    """Somebody deleted an envelope."""
    await bus.connection.execute("XDEL", bus.keys.log, (await bus.connection.range(bus.keys.log))[2][0])


async def emptied(bus):
    """Somebody deleted the log alone."""
    await bus.connection.execute("DEL", bus.keys.log)


async def shortened(bus):
    """The server was set back to before the newest of it, and has gone on otherwise."""
    await bus.connection.execute("XDEL", bus.keys.log, (await bus.connection.range(bus.keys.log))[-1][0])
    await canceled(bus, "new")


@pytest.mark.parametrize("damage", [gone, cut, emptied, shortened], ids=lambda f: f.__name__)
async def test_a_log_that_is_not_the_sealed_one_is_left_alone(bus, archive, damage):
    """Whatever became of it between sealing and trimming: an error, and not an envelope less."""
    await canceled(bus, "a", "b", "c")
    await sealed(bus, archive)
    await damage(bus)
    before = await live(bus)
    with pytest.raises(OtherLog):
        await trim(bus, archive)
    assert await live(bus) == before


async def test_another_archive_trims_nothing(bus, archive):
    """Where the server says that the log was trimmed with another chain than the archive has, it stays as it is."""
    await canceled(bus, "a", "b")
    assert (await trimmed(bus, archive))[0] == 3
    await bus.connection.execute("HSET", bus.keys.archive, "head", "00" * 32)
    await canceled(bus, "c", "d")
    with pytest.raises(OtherLog):
        await sealed(bus, archive)
    with pytest.raises(OtherLog):
        await trim(bus, archive)
    assert len(await live(bus)) == 5


@pytest.mark.parametrize("damage", ["flipped", "shortened", "removed"])
async def test_a_segment_that_cannot_be_read_back_trims_nothing(real_bus, archive, tmp_path, damage):
    """Before anything goes, all of what is sealed is read back, not only what is looked at."""
    await canceled(real_bus, *(f"t{n}" for n in range(1100)))
    (segment,) = await sealed(real_bus, archive)
    (file,) = (tmp_path / "archive").rglob(segment.file)
    content = bytearray(file.read_bytes())
    content[len(content) * 3 // 4] ^= 1
    if damage == "removed":
        file.unlink()
    else:
        file.write_bytes(content if damage == "flipped" else content[:-10])
    with pytest.raises(Damaged):
        await trim(real_bus, archive)
    assert len(await live(real_bus)) == 2200


async def test_a_missing_segment_is_not_trimmed_over(bus, archive, tmp_path):
    """Trimming ends before a hole in the archive, though what comes behind it is sealed."""
    await canceled(bus, "a", "b", "c")
    await archive.seal(bus.log, size=2, settle=0)
    for file in (tmp_path / "archive").rglob("0000000003-*"):
        file.unlink()
    assert (await trim(bus, archive)).count == 2
    for file in (tmp_path / "archive").rglob("0000000001-*"):
        file.unlink()
    assert (await trim(bus, archive)).count == 0
    assert len(await live(bus)) == 4


async def test_a_server_without_memory_is_trimmed(namespace, tmp_path):
    """Where nothing more can be written, a trim still makes room."""
    with running(bundled_binary()) as server:
        async with Connection.open(server.url) as connection:
            bus = Bus(connection, namespace)
            archive = Archive.open(tmp_path, bus.keys)
            await canceled(bus, "a", "b", "c")
            (rejected,) = await delegated(bus, "rejected")
            await said(bus, "acknowledgment:declined", "rejected")
            await settled(bus, "@boss", "@kilo")
            await canceled(bus, "d")
            await sealed(bus, archive)
            await connection.execute("CONFIG", "SET", "maxmemory", 1)
            with pytest.raises(Exception, match="memory"):
                await delegated(bus, "more")
            assert (await trim(bus, archive)).count == 9
            await connection.execute("CONFIG", "SET", "maxmemory", 0)
            assert (await bus.publish(rejected)).repeated


# Any history


class Histories(Deliveries):
    """Whatever is done with deliveries, with seals, trims and projections in between."""

    def __init__(self):
        super().__init__()
        self.folder = ExitStack()
        self.archive = Archive.open(self.folder.enter_context(tempfile.TemporaryDirectory()), self.bus.keys)
        self.at = {}
        self.folded = None
        self.gone = 0
        self.ended_with = {}

    def teardown(self):
        """Close and remove what was opened."""
        super().teardown()
        self.folder.close()

    async def logged(self):
        """The IDs of all envelopes: of those that are trimmed, too."""
        found = [entry async for entry in History(self.bus.log, self.archive).read()]
        self.at = {entry.id: entry.position for entry in found}
        return [entry.id for entry in found]

    @precondition(lambda self: self.model.log)
    @rule(data=st.data())
    def announce(self, data):
        """A projection says how far it is, wherever that is, or is forgotten."""
        self.folded = data.draw(st.none() | st.integers(0, len(self.model.log) - 1))
        if self.folded is None:
            self.run(forget(self.bus.connection, self.bus.keys, "db"))
        else:
            self.run(announce(self.bus.connection, self.bus.keys, "db", self.at[self.model.log[self.folded]]))

    @precondition(lambda self: self.going_on())
    @rule(data=st.data())
    def finish(self, data):
        """The oldest task that goes on is ended, and everything that somebody has is settled."""
        name = self.going_on()[0]
        self.say_of(name, ("cancellation", "verdict:accepted", "completion:done"), data, "normal")
        if self.waited_for():
            self.take(data, 50, "")
        for hand in [hand for hand in self.hands if self.model.has(hand)]:
            self.settle_it(hand, [])

    @precondition(lambda self: len(self.model.log) > self.gone + 1)
    @rule(size=st.integers(1, 5), rest=st.booleans())
    def trim(self, size, rest):
        """Seal, and trim: what goes is what a plain look at the model says, and so said the look before."""
        archive = self.archive
        self.run(archive.seal(self.bus.log, size=size, rest=rest, settle=0))
        end = self.run(archive.end())
        sealed = end.n if end else 0
        first, expected = self.gone, self.expected(sealed)
        found = self.run(look(self.bus, most=sealed - first)) if sealed > first else None
        done = self.run(trim(self.bus, archive))
        assert done.count == expected - first
        assert found is None or (found.count, found.head.n) == (done.count, done.head.n)
        self.gone = done.head.n
        assert self.run(live(self.bus)) == self.model.log[self.gone :]
        if done.count:
            self.forget(first)

    def expected(self, sealed):
        """How many may be gone: up to the newest, an open task, somebody's delivery, what is not folded or sealed."""
        kept = {each.id for each in self.model.copies.values() if each.place != "gone"}
        task_of = {entry: name for name, entry in self.tasks_of()}
        folded = len(self.model.log) if self.folded is None else self.folded + 1
        for n, id in enumerate(self.model.log[: min(sealed, folded)]):
            needed = id in kept or self.model.tasks[task_of[id]].state in OPEN or n == len(self.model.log) - 1
            if n >= self.gone and needed:
                return n
        return max(self.gone, min(sealed, folded))

    def tasks_of(self):
        """Each task with each of its envelopes."""
        for unit, said, _ in self.units:
            del unit
            for envelope, _ in said:
                yield envelope.task, envelope.id

    def forget(self, first):
        """The IDs of tasks that have ended are gone with the newest of what went of them."""
        task_of = {entry: name for name, entry in self.tasks_of()}
        over = {task_of[id] for id in self.model.log[first : self.gone]}
        over = {name for name in over if self.model.tasks[name].state in ENDED}
        self.model.forgotten |= {id for id in self.model.log[: self.gone] if task_of[id] in over}


@pytest.mark.parametrize(("server", "runs"), [("fakeredis", 10), ("valkey", 25)])
def test_a_bus_that_is_trimmed_behaves_as_one_that_is_not(request, server, runs):
    """In any history, with trims anywhere, deliveries are where they would be; only IDs of ended tasks are refused."""
    where = None if server == "fakeredis" else request.getfixturevalue(server)
    machine = type("Histories", (Histories,), {"url": where})
    chosen = settings(max_examples=runs, stateful_step_count=50, deadline=None, suppress_health_check=list(HealthCheck))
    run_state_machine_as_test(machine, settings=chosen)
