"""Promises about the inbox: what is taken comes back until it is settled, fairly, and leaves nothing behind."""

from __future__ import annotations

import random
from contextlib import asynccontextmanager
from functools import partial

import anyio
import pytest

from taskbus import parked
from taskbus.append import all_appended, commit
from taskbus.client import Bus
from taskbus.connection import Connection
from taskbus.delivery import Release
from taskbus.envelope import (
    PRIORITIES,
    Acknowledgment,
    Cancellation,
    Delegation,
    ErrorDetails,
    Escalation,
    Parking,
    Status,
    compose,
)
from taskbus.errors import Fenced, NoPermission
from taskbus.supervision import Supervision, look
from tests.proxy import meddling, url_through
from tests.taskbus.workplace import DONE, delegated, held, talk

pytestmark = pytest.mark.anyio


def said(payload, delivery, *, sender=None, recipient="@boss"):
    """What is said of a delivery's task, by its agent."""
    return compose(payload, sender=sender or delivery.agent, recipient=recipient, task=delivery.task)


def done(inbox, delivery):
    """What settles new work: it is taken on, and done."""
    return inbox.settlement(delivery, [said(Acknowledgment(accepted=True), delivery), said(DONE, delivery)])


def given_up(inbox, delivery):
    """What parks work: the escalation, and the record of it."""
    trouble = ErrorDetails(level=2, category="execution", message="gave up")
    escalation = said(Escalation(error_details=trouble), delivery, sender="@bus")
    record = Parking(parking="parked", agent=delivery.agent, reason="permanent")
    parking = said(record, delivery, sender="@bus", recipient="@bus")
    return inbox.settlement(delivery, [escalation, parking], "permanent")


async def settle(bus, *units):
    """Carry out units, all of which are to be accepted."""
    for answer in await commit(bus.connection, bus.keys, units):
        all_appended(answer)


async def lapse(bus, agent="@kilo"):
    """The leases of an agent's deliveries run out, and the waits are over."""
    for name in await bus.connection.hash(bus.keys.held(agent)):
        await bus.connection.execute("ZADD", bus.keys.leases(agent), 1, name)


async def many(bus, count, *, agent="@kilo", **more):
    """So many delegations; their tasks."""
    envelopes = [compose(Delegation(goal="g"), sender="@boss", recipient=agent, **more) for _ in range(count)]
    await bus.publish_many(envelopes)
    return [envelope.task for envelope in envelopes]


async def inbox_keys(bus, agent="@kilo"):
    """How much stands in each part of an agent's inbox, with what is held and leased."""
    keys, execute = bus.keys, bus.connection.execute
    standing = [await execute("XLEN", stream) for stream in keys.inboxes(agent)]
    return sum(standing), len(await held_names(bus, agent)), await execute("ZCARD", keys.leases(agent))


async def held_names(bus, agent="@kilo"):
    """The deliveries that somebody holds, or that wait for their time."""
    return list(await bus.connection.hash(bus.keys.held(agent)))


# Nothing is lost


async def test_lost_pending_work_is_reclaimed(bus):
    """What a worker took and never settled is another one's when the lease has run out, however often that happens."""
    tasks = await many(bus, 3)
    for tries in range(1, 5):
        taken = await bus.inbox("@kilo").take(10)
        assert [(each.task, each.tries) for each in taken.deliveries] == [(task, tries) for task in tasks]
        assert (await bus.inbox("@kilo").take(10)).deliveries == []
        await lapse(bus)


@pytest.mark.needs("blocking")
async def test_a_lease_runs_out_by_itself(bus):
    """Nobody has to find out that a worker died: the end of its lease is when the next one takes over."""
    await delegated(bus)
    dead, next_one = bus.inbox("@kilo", lease=0.2), bus.inbox("@kilo")
    await dead.take()
    with anyio.fail_after(10):
        while not (taken := await next_one.take()).deliveries:
            await next_one.wait(max(taken.lapse, 0.001))
    assert taken.deliveries[0].tries == 2


async def test_a_worker_that_says_it_lives_keeps_its_delivery(bus):
    """A renewed lease does not run out, and nobody else gets the delivery."""
    await delegated(bus)
    inbox = bus.inbox("@kilo", lease=60)
    taken = await inbox.take()
    await lapse(bus)
    assert await inbox.renew(taken.deliveries) == taken.deliveries
    assert (await bus.inbox("@kilo").take()).deliveries == []


async def test_a_zombies_late_settle_is_refused(bus):
    """Who comes back after the lease finds every outcome refused, before and after the other one has settled."""
    envelope = await delegated(bus)
    zombie, living = bus.inbox("@kilo"), bus.inbox("@kilo")
    (old,) = (await zombie.take()).deliveries
    await lapse(bus)
    (new,) = (await living.take()).deliveries
    for unit in (done(zombie, old), given_up(zombie, old)):
        (refused,) = await commit(bus.connection, bus.keys, [unit])
        assert isinstance(refused, Fenced)
    assert (await zombie.renew([old]), await zombie.release([Release(old)])) == ([], [])
    await settle(bus, done(living, new))
    (refused,) = await commit(bus.connection, bus.keys, [done(zombie, old)])
    assert isinstance(refused, Fenced)
    assert await talk(bus, envelope.task) == ["delegation", "acknowledgment", "completion"]


async def test_settling_again_changes_nothing(bus):
    """A settlement whose reply was lost is answered with the positions of the first time."""
    envelope = await delegated(bus)
    inbox = bus.inbox("@kilo")
    (delivery,) = (await inbox.take()).deliveries
    unit = done(inbox, delivery)
    first, again = [(await commit(bus.connection, bus.keys, [unit]))[0] for _ in range(2)]
    assert [each.position for each in first] == [each.position for each in again]
    assert all(each.repeated for each in again)
    assert len(await talk(bus, envelope.task)) == 3


async def test_tokens_only_grow(bus):
    """Each delivery has a greater token than every one before it, whoever takes it and however it came back."""
    await many(bus, 4)
    tokens = []
    for round_ in range(4):
        inbox = bus.inbox("@kilo")
        taken = (await inbox.take(round_ + 1)).deliveries
        tokens += [each.token for each in taken]
        await inbox.release([Release(each) for each in taken])
    assert tokens == sorted(set(tokens))


async def test_the_same_outcome_has_the_same_id_in_every_attempt(bus):
    """Whoever has a delivery, and however often it is tried: a second completion of one attempt cannot come about."""
    await many(bus, 1)
    ids = set()
    for _ in range(3):
        (delivery,) = (await bus.inbox("@kilo").take()).deliveries
        ids.add((delivery.outcome_id(1), delivery.outcome_id(2)))
        await lapse(bus)
    ((first, second),) = ids
    assert first != second


async def test_later_messages_of_a_parked_task_wait_behind_it_in_order(bus):
    """Nobody gets them before it; other tasks go on; and a replay brings all of them, the oldest first."""
    envelope = await delegated(bus)
    inbox, other = bus.inbox("@kilo"), await delegated(bus)
    (delivery,) = (await inbox.take()).deliveries
    await settle(bus, given_up(inbox, delivery))
    for payload in (Delegation(goal="again"), Cancellation(reason="no more")):
        await bus.publish(compose(payload, sender="@boss", recipient="@kilo", task=envelope.task))
    taken = (await inbox.take(10)).deliveries
    assert [each.task for each in taken] == [other.task]
    await settle(bus, done(inbox, taken[0]))
    lines = await parked.parked(bus, "@kilo")
    assert [line.entry.type for line in lines] == ["delegation", "cancellation"]
    await parked.replay(bus, "@kilo", envelope.task, sender="@human")
    again = (await inbox.take(10)).deliveries
    assert [each.entry.position for each in again] == [line.position for line in lines]


# Nothing stays behind


async def test_inboxes_hold_only_what_is_not_settled(bus):
    """A thousand cycles leave the inbox empty, and no key, and no field beside the log's index, more than ten do."""
    sizes = []
    inbox, boss = bus.inbox("@kilo"), bus.inbox("@boss")
    for rounds in (1, 10):
        for _ in range(rounds):
            await many(bus, 100)
            for each in (inbox, boss):
                taken = (await each.take(500)).deliveries
                units = [done(each, one) if one.is_work else each.settlement(one) for one in taken]
                await settle(bus, *units)
        assert (await inbox_keys(bus), await inbox_keys(bus, "@boss")) == ((0, 0, 0), (0, 0, 0))
        keys = [key async for key in bus.connection.scan(bus.keys.prefix + "*")]
        sizes.append((sorted(keys), len(await bus.connection.hash(bus.keys.meta))))
    assert sizes[0] == sizes[1]


@pytest.mark.needs("accounting")
async def test_settled_deliveries_take_no_memory(bus):
    """The keys of an inbox are as large after three thousand deliveries as after three hundred."""
    sizes = []
    inbox = bus.inbox("@kilo")
    for rounds in (1, 9):
        for _ in range(rounds):
            await many(bus, 300)
            taken = (await inbox.take(300)).deliveries
            await settle(bus, *(done(inbox, each) for each in taken))
        keys = [bus.keys.inbox("@kilo", "normal"), bus.keys.meta]
        sizes.append([await bus.connection.execute("MEMORY", "USAGE", key) for key in keys])
    assert all(late <= 1.2 * early for early, late in zip(*sizes, strict=True))


@pytest.mark.parametrize("seed", range(6))
async def test_exactly_what_was_settled_leaves_the_inbox(bus, seed):
    """However many are settled in one step, in whatever order, and wherever they stand: all others stay."""
    rng = random.Random(seed)
    for size in rng.sample([1, 7, 30, 40, 60], 5):
        await many(bus, size)
    inbox = bus.inbox("@kilo")
    taken = (await inbox.take(130)).deliveries
    left = {f"normal/{entry}" for entry, _ in await bus.connection.range(bus.keys.inbox("@kilo", "normal"))}
    while taken:
        first, count, step = rng.choice([0, 0, 20]), rng.choice([1, 8, 9, 50]), rng.choice([1, 1, 2, -1])
        some = taken[first : first + count][::step] or taken
        await settle(bus, *(done(inbox, each) for each in some))
        taken = [each for each in taken if each not in some]
        left -= {each.name for each in some}
        standing = await bus.connection.range(bus.keys.inbox("@kilo", "normal"))
        assert {f"normal/{entry}" for entry, _ in standing} == left
    assert len(left) == 8


@pytest.mark.needs("restart")
async def test_what_a_refused_take_had_read_is_given_later(own_bus):
    """A take that the server refuses halfway has read the inbox and leased nothing: nothing is lost by that."""
    tasks = await many(own_bus, 5)
    inbox = own_bus.inbox("@kilo")
    given = list((await inbox.take(1)).deliveries)
    await own_bus.connection.execute("ACL", "SETUSER", "default", "-zadd")
    for _ in range(2):
        with pytest.raises(NoPermission):
            await inbox.take(2)
    await own_bus.connection.execute("ACL", "SETUSER", "default", "+zadd")
    for _ in range(3):  # the first repeats the refused one, which gave nothing
        given += (await inbox.take(2)).deliveries
    assert sorted(each.task for each in given) == sorted(tasks)
    await settle(own_bus, *(done(inbox, each) for each in given))
    assert await inbox_keys(own_bus) == (0, 0, 0)


@pytest.mark.needs("restart")
async def test_a_killed_server_knows_what_was_taken(own, own_bus):
    """What somebody has in hand, or waits for its time, is nobody else's after a restart; what waits is given."""
    await own_bus.connection.execute("CONFIG", "SET", "appendfsync", "always")
    tasks = await many(own_bus, 4)
    inbox = own_bus.inbox("@kilo")
    taken = (await inbox.take(3)).deliveries
    await inbox.release([Release(taken[0], 60)])
    own.kill()
    await anyio.to_thread.run_sync(own.back)
    (waiting,) = (await own_bus.inbox("@kilo").take(10)).deliveries
    assert waiting.task == tasks[3]
    await settle(own_bus, *(done(inbox, each) for each in taken[1:]))


async def test_trimmed_log_entries_leave_no_ghosts(bus):
    """What the log holds no more is named once, and pending for nobody; what it still holds is delivered."""
    await many(bus, 5)
    lost = [str(entry.position) for entry in await bus.log.latest(5)][:3]
    inbox = bus.inbox("@kilo")
    await inbox.take(2)
    await bus.connection.execute("XTRIM", bus.keys.log, "MAXLEN", 2)
    await lapse(bus)
    taken = await inbox.take(10)
    assert sorted(taken.missing) == sorted(position.rpartition("/")[2] for position in lost)
    await settle(bus, *(done(inbox, each) for each in taken.deliveries))
    assert (len(taken.deliveries), await inbox_keys(bus)) == (2, (0, 0, 0))
    assert (await inbox.take(10)).missing == ()


async def test_deleted_inbox_entries_leave_no_ghosts(bus):
    """What somebody deletes from an inbox, or trims there, is not pending for ever."""
    await many(bus, 3)
    inbox = bus.inbox("@kilo")
    await inbox.take(2)
    await bus.connection.execute("XTRIM", bus.keys.inbox("@kilo", "normal"), "MAXLEN", 1)
    await lapse(bus)
    taken = (await inbox.take(10)).deliveries
    await settle(bus, *(done(inbox, each) for each in taken))
    assert (len(taken), await inbox_keys(bus)) == (1, (0, 0, 0))


async def test_no_consumer_is_left_behind(bus):
    """Fifty workers come, take, and end: the group has one consumer, and nobody is known any more."""
    await many(bus, 50)
    before = None
    for number in range(50):
        inbox = bus.inbox("@kilo", consumer=f"w{number}")
        taken = (await inbox.take()).deliveries
        await settle(bus, *(done(inbox, each) for each in taken))
        await inbox.leave()
        fields = set(await bus.connection.hash(bus.keys.meta))
        assert before in (None, fields)
        before = fields
    assert await bus.connection.execute("ZCARD", bus.keys.workers) == 0
    consumers = await bus.connection.execute("XINFO", "CONSUMERS", bus.keys.inbox("@kilo", "normal"), "@kilo")
    assert len(consumers) == 1


async def test_a_worker_with_pending_work_is_not_retired(bus):
    """Who leaves while it holds something stays known; its delivery is not stranded, but another one's in time."""
    await delegated(bus)
    inbox = bus.inbox("@kilo", consumer="w1")
    await inbox.take()
    await inbox.leave()
    assert await bus.connection.execute("ZRANGE", bus.keys.workers, 0, -1) == [b"@kilo w1"]
    await lapse(bus)
    assert len((await bus.inbox("@kilo").take()).deliveries) == 1


async def test_a_killed_worker_is_retired_when_nothing_of_it_is_pending(bus):
    """Who watches forgets a worker that was not seen for long, but not before its deliveries are another one's."""
    await delegated(bus)
    dead, next_one = bus.inbox("@kilo", consumer="dead"), bus.inbox("@kilo", consumer="next")
    await dead.take()
    await bus.connection.execute("ZADD", bus.keys.workers, 1, "@kilo dead")
    await look(bus, Supervision(), at_once=True)
    assert await bus.connection.execute("ZRANGE", bus.keys.workers, 0, -1) == [b"@kilo dead"]
    await lapse(bus)
    (delivery,) = (await next_one.take()).deliveries
    await look(bus, Supervision(), at_once=True)
    assert await bus.connection.execute("ZRANGE", bus.keys.workers, 0, -1) == [b"@kilo next"]
    assert not any("dead" in field for field in await bus.connection.hash(bus.keys.meta))
    await settle(bus, done(next_one, delivery))


# Who is served first


async def test_a_critical_delivery_overtakes_a_thousand_normal_ones(bus):
    """It is the next that is taken, however many were there before."""
    await many(bus, 1000)
    urgent = await delegated(bus, priority="critical")
    (first,) = (await bus.inbox("@kilo").take()).deliveries
    assert first.task == urgent.task


@pytest.mark.parametrize("count", [1, 10])
async def test_normal_work_does_not_starve_under_endless_critical_work(bus, count):
    """While critical deliveries never end, one of ten that are taken, at least, is a normal one."""
    await served(bus, ("critical", "normal"), count)


@pytest.mark.parametrize("count", [1, 10])
async def test_low_work_does_not_starve_under_endless_more_urgent_work(bus, count):
    """While critical, high and normal deliveries never end, each of the lower ones has its share."""
    await served(bus, PRIORITIES, count)


async def served(bus, priorities, count):
    """Take 200 from an inbox where no priority ever ends; each has a fair share, and the first the largest."""
    inbox = bus.inbox("@kilo")
    shares = dict.fromkeys(priorities, 0)
    for _ in range(200 // count):
        for priority in priorities:
            standing = await bus.connection.execute("XLEN", bus.keys.inbox("@kilo", priority))
            await many(bus, max(0, count + 1 - standing), priority=priority)
        taken = (await inbox.take(count)).deliveries
        assert len(taken) == count
        for each in taken:
            shares[each.entry.priority] += 1
        await settle(bus, *(done(inbox, each) for each in taken))
    assert shares[priorities[0]] == max(shares.values())
    assert all(share >= 200 // 10 // (len(priorities) - 1) for share in shares.values())


# One step, whatever becomes of its reply


class Cutting:
    """Loses the reply to the first script call that `chosen` names, or the call itself; whatever follows passes."""

    def __init__(self, when):
        """Nothing was lost yet."""
        self.when = when
        self.armed = False
        self.lost = 0

    def _act(self, command, when):
        if self.armed and when == self.when and command.name in (b"EVALSHA", b"EVAL"):
            self.armed = False
            self.lost += 1
            return "cut"
        return "pass"

    async def before(self, command):
        """The server has not seen it."""
        return self._act(command, "before")

    async def after(self, command, reply):
        """The server has executed it."""
        return self._act(command, "after")


@asynccontextmanager
async def behind(backend, cutting, path, namespace):
    """A bus behind a proxy that cuts."""
    async with (
        meddling(path / "p", backend.shared.socket, cutting),
        Connection.open(url_through(path / "p", backend.url)) as connection,
    ):
        yield Bus(connection, namespace)


@pytest.mark.needs("sockets")
@pytest.mark.parametrize("when", ["before", "after"])
async def test_a_take_is_one_step_with_its_lease(backend, bus, when, tmp_path):
    """When its call or its reply is lost, the same take gives each delivery once, and holds no other."""
    tasks = await many(bus, 8)
    cutting = Cutting(when)
    async with behind(backend, cutting, tmp_path, bus.namespace) as far:
        await far.inbox("@nobody").take()  # from here on the server knows the script
        inbox = far.inbox("@kilo", consumer="w1")
        cutting.armed = True
        taken = (await inbox.take(5)).deliveries
        assert (cutting.lost, [each.task for each in taken]) == (1, tasks[:5])
        assert await held(bus) == {"w1": 5}
        await settle(far, *(done(inbox, each) for each in taken))
    assert [each.task for each in (await bus.inbox("@kilo").take(10)).deliveries] == tasks[5:]


@pytest.mark.needs("sockets")
@pytest.mark.parametrize("when", ["before", "after"])
async def test_a_dead_letter_is_one_step_with_its_acknowledgment(backend, bus, when, tmp_path):
    """When the call or its reply is lost, it is parked, escalated and out of the inbox: each of them, and once."""
    envelope = await delegated(bus)
    cutting = Cutting(when)
    async with behind(backend, cutting, tmp_path, bus.namespace) as far:
        inbox = far.inbox("@kilo")
        (delivery,) = (await inbox.take()).deliveries
        cutting.armed = True
        await settle(far, given_up(inbox, delivery))
    assert cutting.lost == 1
    assert await talk(bus, envelope.task) == ["delegation", "escalation", "parking"]
    (lines,) = (await bus.connection.hash(bus.keys.parked("@kilo"))).values()
    assert (len(lines.splitlines()), await inbox_keys(bus)) == (1, (0, 0, 0))


async def test_a_refused_dead_letter_parks_nothing(bus):
    """Where one part of it is refused, none of the others has happened."""
    envelope = await delegated(bus)
    inbox = bus.inbox("@kilo")
    (delivery,) = (await inbox.take()).deliveries
    (escalation, *_) = given_up(inbox, delivery).submissions
    foreign = compose(Status(progress="?"), sender="@thief", recipient="@boss", task=envelope.task)
    unit = inbox.settlement(delivery, [escalation.document, foreign], "permanent")
    (answers,) = await commit(bus.connection, bus.keys, [unit])
    assert len([each for each in answers if isinstance(each, Exception)]) == 2
    assert (await talk(bus, envelope.task), await inbox_keys(bus)) == (["delegation"], (1, 1, 1))
    assert await bus.connection.hash(bus.keys.parked("@kilo")) == {}


# Concurrency


@pytest.mark.needs("sharing")
async def test_replies_reach_their_callers_whatever_is_cancelled(bus):
    """Of a thousand calls, half are cancelled while others run on the same connections: no answer is another's."""
    tasks = await many(bus, 50)
    chance = random.Random(7)
    wrong, answered = [], []

    async def ask(task, patience):
        with anyio.move_on_after(patience):
            record = await bus.connection.field(bus.keys.index, f"task:{task}")
            (found,) = await bus.connection.execute("HMGET", bus.keys.index, f"task:{task}")
            other = await bus.task(task)
            (answered if found.decode() == record and other.root == task else wrong).append(task)

    for _ in range(10):
        async with anyio.create_task_group() as group:
            for _ in range(100):
                patience = 60 if chance.random() < 0.5 else chance.random() * 0.03
                group.start_soon(ask, chance.choice(tasks), patience)
    assert wrong == []
    assert 400 < len(answered) < 1000


@pytest.mark.needs("blocking", "sharing")
async def test_a_cancelled_wait_consumes_nothing(bus):
    """Waits that are cut off at any moment leave everything in the inbox, and on no consumer's own list."""
    inbox = bus.inbox("@kilo")
    chance = random.Random(3)
    for _ in range(20):
        async with anyio.create_task_group() as group:
            group.start_soon(partial(many, bus, 5))
            with anyio.move_on_after(chance.random() * 0.005):
                await inbox.wait(5)
    assert await bus.connection.execute("XLEN", bus.keys.inbox("@kilo", "normal")) == 100
    assert len((await inbox.take(1000)).deliveries) == 100
    assert await inbox_keys(bus) == (100, 100, 100)
