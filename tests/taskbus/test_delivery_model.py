"""Takes, renewals, settlements, parking, replays and late messages in any order, compared with a plain Python model.

After each step everything that the server holds is read and compared. Time passes by a command: the end of a lease,
or of a wait, is set to the past.
"""

from __future__ import annotations

import asyncio
import uuid
from collections import Counter
from contextlib import AsyncExitStack

import fakeredis
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test

from taskbus.append import Appended, Settlement, Submission, Unit, Unparking, commit, task_of
from taskbus.client import Bus
from taskbus.codec import document
from taskbus.connection import Connection
from taskbus.delivery import Release
from taskbus.envelope import Parking, compose
from taskbus.errors import Fenced, LifecycleConflict, Moved, ServerFault, TaskbusError
from taskbus.lifecycle import DELIVERED, ENDED, Message, refusal
from tests.entries import id_of
from tests.taskbus.delivery_model import AHEAD, Hand, Model, Move
from tests.taskbus.test_lifecycle import PAYLOADS, kind_of

AGENTS = ("@kilo", "@boss")
CONSUMERS = ("w1", "w2")
# Whether there is money to be given back is no matter of deliveries.
SAID = [event for event in PAYLOADS if not event.startswith(("parking", "budget:released"))]
LATE = ("answer", "delegation", "escalation", "verdict:rejected", "cancellation")
OUTCOMES = ("status", "completion:done", "completion:failure", "question", "escalation")
URGENT = ("high", "normal")
MOSTLY = st.sampled_from((True, True, True, True, True, False))
LATER = 3600.0


class Deliveries(RuleBasedStateMachine):
    """One bus, two agents with two workers each, and whatever they do."""

    url: str | None = None

    def __init__(self):
        super().__init__()
        self.runner = asyncio.Runner()
        self.stack = AsyncExitStack()
        self.bus = self.run(self.connected())
        inboxes = [(agent, consumer) for agent in AGENTS for consumer in CONSUMERS]
        self.inboxes = [self.bus.inbox(agent, consumer=consumer, lease=LATER) for agent, consumer in inboxes]
        self.model = Model()
        self.hands: list[Hand] = []
        self.units: list[tuple[Unit, list, Move | None]] = []
        self.ids: dict[str, str] = {}
        self.past = 1

    def run(self, awaitable):
        """Run something on this machine's own loop."""
        return self.runner.run(awaitable)

    async def connected(self):
        """A bus on the server of this machine; on a fakeredis of its own without one."""
        if self.url is None:
            client = fakeredis.FakeAsyncRedis(server=fakeredis.FakeServer())
            self.stack.push_async_callback(client.aclose)
            return Bus(Connection(client), "model:")
        connection = await self.stack.enter_async_context(Connection.open(self.url))
        return Bus(connection, f"model_{uuid.uuid4().hex[:12]}:")

    def teardown(self):
        """Close what was opened."""
        self.run(self.stack.aclose())
        self.runner.close()

    # What can be done

    @precondition(lambda self: len(self.going_on()) < 3)
    @rule(priority=st.sampled_from(URGENT))
    def delegate(self, priority):
        """Somebody delegates a new task."""
        name = f"t{len(self.model.tasks)}"
        envelope = compose(PAYLOADS["delegation"], sender="@boss", recipient="@kilo", task=name, priority=priority)
        self.commit([(envelope, None)])

    @precondition(lambda self: self.going_on())
    @rule(data=st.data(), priority=st.sampled_from(URGENT), is_legal=MOSTLY)
    def say(self, data, priority, is_legal):
        """Somebody says something, by hand or with a token that may be stale."""
        self.say_of(data.draw(st.sampled_from(self.going_on())), SAID, data, priority, is_legal=is_legal)

    @precondition(lambda self: self.set_aside())
    @rule(data=st.data(), priority=st.sampled_from(URGENT))
    def say_late(self, data, priority):
        """Somebody says something of a task that is set aside: it reaches the same agent, behind what is parked."""
        self.say_of(data.draw(st.sampled_from(self.set_aside())), LATE, data, priority)

    def say_of(self, name, events, data, priority, *, is_legal=True):
        """Say one of these things of a task."""
        tokens = [None, *(hand.delivery.token for hand in self.hands if hand.delivery.task == name)]
        senders = ("@boss", "@kilo", "@bus", "@human")
        messages = [Message(e, s, r, t) for e in events for s in senders for r in AGENTS for t in tokens]
        if is_legal:
            task = self.model.tasks[name]
            messages = [each for each in messages if refusal(task, each, now=AHEAD - 1) is None]
        if not messages:
            return
        event = data.draw(st.sampled_from(sorted({message.event for message in messages})))
        message = data.draw(st.sampled_from([message for message in messages if message.event == event]))
        envelope = compose(
            PAYLOADS[message.event],
            sender=message.sender,
            recipient=message.recipient,
            task=name,
            priority=priority,
        )
        self.commit([(envelope, message.token)])

    @precondition(lambda self: self.waited_for())
    @rule(data=st.data(), count=st.sampled_from((1, 1, 2, 5, 50)), then=st.sampled_from(("", "settle", "park")))
    def take(self, data, count, then):
        """A worker takes: the oldest of each priority, and nothing that belongs behind a parked delivery."""
        waited_for = self.waited_for()
        inbox = data.draw(st.sampled_from([each for each in self.inboxes if each.agent in waited_for]))
        takeable, behind = self.model.takeable(inbox.agent)
        taken = self.run(inbox.take(count))
        found = [delivery.entry.id for delivery in taken.deliveries]
        assert taken.missing == ()
        assert len(found) == min(count, len(takeable))
        for priority in URGENT:
            expected = [each.id for each in takeable if each.priority == priority]
            due = {each.id for each in takeable if each.due}
            here = [id for id in found if self.model.copies[id].priority == priority]
            first = expected[: len(here)]
            assert set(here) - due == set(first) - due
            assert [id for id in here if id not in due] == [id for id in first if id not in due]
        for delivery in taken.deliveries:
            assert delivery.token > self.model.newest, "tokens only grow"
            self.model.take(delivery.entry.id, inbox.consumer, delivery.token)
            assert delivery.tries == self.model.copies[delivery.entry.id].tries
            self.hands.append(Hand(delivery, inbox, self.model.copies[delivery.entry.id].round))
        assert taken.newest >= self.model.newest
        # How far a take came that found enough is its own business.
        places = self.run(self.places())
        for late in behind:
            if len(found) < count or places[late.id][0] == "parked":
                self.model.set_aside(late.id)
        if found and then == "settle":
            self.settle_it(self.hands[-1], data.draw(st.lists(st.sampled_from(OUTCOMES), max_size=1)))
        elif found and then == "park":
            self.park_it(self.hands[-1], "@bus")

    @precondition(lambda self: self.hands)
    @rule(data=st.data(), what=st.sampled_from(("renew", "repeat", "leave")))
    def stay(self, data, what):
        """Something that is done all the time, and hardly changes anything."""
        getattr(self, what)(data)

    def renew(self, data):
        """A worker says that it goes on with everything that it has, or had."""
        hand = self.a_hand(data, is_good=True)
        ours = [each for each in self.hands if each.inbox is hand.inbox]
        expected = [each.delivery for each in ours if self.model.renew(each)]
        assert self.run(hand.inbox.renew([each.delivery for each in ours])) == expected

    def repeat(self, data):
        """What was carried out once is asked for again, since its reply was lost: nothing changes."""
        self.carry_out(*data.draw(st.sampled_from(self.units)))

    def leave(self, data):
        """A worker ends; it is known as long as it holds something."""
        inbox = data.draw(st.sampled_from(self.inboxes))
        self.run(inbox.leave())
        known = self.run(self.bus.connection.execute("ZRANGE", self.bus.keys.workers, 0, -1))
        held = [each for each in self.model.copies.values() if each.place == "held"]
        holds = any((each.agent, each.consumer) == (inbox.agent, inbox.consumer) for each in held)
        assert not holds or f"{inbox.agent} {inbox.consumer}".encode() in known
        assert holds or f"{inbox.agent} {inbox.consumer}".encode() not in known

    @precondition(lambda self: self.hands)
    @rule(
        data=st.data(),
        wait=st.sampled_from((0.0, LATER)),
        counts=st.booleans(),
        reason=st.sampled_from(("retryable", "quota-limited", "handed-back")),
        is_good=MOSTLY,
    )
    def release(self, data, wait, counts, reason, is_good):
        """A worker gives something back."""
        hand = self.a_hand(data, is_good)
        release = Release(hand.delivery, wait, counts=counts, reason=reason)
        expected = self.model.release(hand, wait=wait, counts=counts, reason=reason)
        assert self.run(hand.inbox.release([release])) == ([hand.delivery] if expected else [])

    @precondition(lambda self: any(each.place in ("held", "paused") for each in self.model.copies.values()))
    @rule(data=st.data())
    def expire(self, data):
        """A lease runs out, or a wait is over."""
        places = [each for each in self.model.copies.values() if each.place in ("held", "paused")]
        late = data.draw(st.sampled_from(places))
        self.model.expire(late.id)
        self.run(self.let_lapse(late))

    async def let_lapse(self, late):
        """Set the end of its lease to the past, in the record of its task as well."""
        keys, execute = self.bus.keys, self.bus.connection.execute
        self.past += 1
        names = [name for name, id in (await self.entries(late.agent)).items() if id == late.id]
        assert await execute("ZADD", keys.leases(late.agent), "XX", "CH", self.past, names[0]) == 1
        words = (await self.bus.connection.field(keys.index, f"task:{late.task}")).split(" ")
        if words[3] == names[0]:
            words[5] = str(min(1, int(words[5])))
            await execute("HSET", keys.index, f"task:{late.task}", " ".join(words))

    @precondition(lambda self: self.hands)
    @rule(data=st.data(), events=st.lists(st.sampled_from(OUTCOMES), max_size=2), child=st.booleans(), is_good=MOSTLY)
    def settle(self, data, events, child, is_good):
        """A worker settles what it has, or had, with whatever outcomes, and perhaps delegates more."""
        self.settle_it(self.a_hand(data, is_good), events, child=child, is_good=is_good)

    def settle_it(self, hand, events, *, child=False, is_good=True):
        """Settle it with these outcomes; in good order where it is to be good."""
        agent, name, token = hand.inbox.agent, hand.delivery.task, hand.delivery.token
        task = self.model.tasks[name]
        if is_good and self.model.is_work(hand) and task.state in DELIVERED:
            events = (events or ["completion:done"])[:1]
            # What completes new work needs no acknowledgment before it, and may have one.
            if task.state == "submitted" and (child or not events[0].startswith("completion")):
                events = ["acknowledgment:accepted", *events]
        elif is_good:
            events = []
        said = [(compose(PAYLOADS[e], sender=agent, recipient=task.delegator, task=name), token) for e in events]
        if child:
            new = f"t{len(self.model.tasks)}"
            said.append((compose(PAYLOADS["delegation"], sender=agent, recipient="@kilo", task=new), None))
        self.commit(said, Move("settle", hand))

    @precondition(lambda self: self.hands)
    @rule(data=st.data(), recipient=st.sampled_from(("@bus", "@boss")), is_good=MOSTLY)
    def park(self, data, recipient, is_good):
        """A worker gives up what it has, or had; work is escalated."""
        self.park_it(self.a_hand(data, is_good), recipient, is_good=is_good)

    def park_it(self, hand, recipient, *, is_good=True):
        """Park it, and escalate what is work where it is to be good."""
        agent, name = hand.inbox.agent, hand.delivery.task
        task, said = self.model.tasks[name], []
        if is_good and self.model.is_work(hand) and task.state in DELIVERED:
            escalation = compose(PAYLOADS["escalation"], sender="@bus", recipient=task.coordinator, task=name)
            said.append((escalation, None))
        record = Parking(parking="parked", agent=agent, deliveries=(hand.id,), reason="permanent")
        said.append((compose(record, sender="@bus", recipient=recipient, task=name), None))
        self.commit(said, Move("park", hand, "permanent"))

    @precondition(lambda self: any(each.place == "parked" for each in self.model.copies.values()))
    @rule(data=st.data(), kind=st.sampled_from(("replay", "replay", "drop")))
    def unpark(self, data, kind):
        """Somebody replays or drops the first few of what is parked of a task."""
        places = sorted({(each.agent, each.task) for each in self.model.copies.values() if each.place == "parked"})
        agent, name = data.draw(st.sampled_from(places))
        lines = self.model.parked(agent, name)
        chosen = lines[: data.draw(st.integers(1, len(lines)))]
        task = self.model.tasks[name]
        goes_on = kind == "replay" and task.state == "escalated" and task.assignee == agent
        record = Parking(
            parking="replayed" if kind == "replay" else "dropped",
            agent=agent,
            resumes=goes_on and any(each.is_work for each in chosen),
        )
        envelope = compose(record, sender="@human", recipient="@bus", task=name)
        self.commit([(envelope, None)], Move(kind, None, "", tuple(each.id for each in chosen)))

    # What must hold after each step

    @invariant()
    def the_server_agrees(self):
        """Log, tasks and deliveries are what the model says."""
        self.run(self.compared())

    async def compared(self):
        """Compare everything that the server holds with the model."""
        keys, connection = self.bus.keys, self.bus.connection
        assert await self.logged() == self.model.log, "each stands once, and in order"
        expected = {each.id: each.view() for each in self.model.copies.values() if each.place != "gone"}
        places = await self.places()
        assert places == expected
        index = await connection.hash(keys.index)
        names = {agent: await self.entries(agent) for agent in AGENTS}
        for name, task in self.model.tasks.items():
            record = index[f"task:{name}"]
            known = task_of(name, record)
            for part in ("state", "delegator", "assignee", "coordinator", "attempt"):
                assert getattr(known, part) == getattr(task, part), (name, part)
            assert (known.lease > 10**12) == (task.lease == AHEAD), name
            work = self.model.copies.get(self.model.work[name] or "")
            if task.state in DELIVERED and (work is None or work.place == "gone"):
                assert name in self.model.excused, f"{name} is {task.state}, and nobody has it"
            if work is not None and work.place in ("waiting", "held", "paused"):
                assert names[work.agent][record.split(" ")[3]] == work.id

    # How it is done

    async def logged(self):
        """The IDs of all envelopes."""
        return [id_of(fields).decode() for _, fields in await self.bus.connection.range(self.bus.keys.log)]

    def going_on(self):
        """The tasks that have not ended."""
        return [name for name, task in self.model.tasks.items() if task.state not in ENDED]

    def set_aside(self):
        """The tasks that go on, and of which something is parked."""
        parked = {each.task for each in self.model.copies.values() if each.place == "parked"}
        return [name for name in self.going_on() if name in parked]

    def waited_for(self):
        """Who has something to take."""
        return {each.agent for each in self.model.copies.values() if each.place == "waiting" or each.due}

    def a_hand(self, data, is_good):
        """A delivery in somebody's hand; one that it has no more, perhaps, where it need not be good."""
        good = [hand for hand in self.hands if self.model.has(hand)]
        return data.draw(st.sampled_from(good if good and is_good else self.hands))

    def commit(self, said, move=None):
        """Append a unit, and compare its answers with those of the model."""
        submissions = tuple(Submission(document(envelope), token) for envelope, token in said)
        if move is None:
            words = None
        elif move.hand is not None:
            hand = move.hand.delivery
            words = Settlement(
                hand.agent, hand.name, hand.token, move.hand.inbox.consumer, hand.task, move.reason or None
            )
        else:
            first = self.model.copies[move.chosen[0]]
            at = {id: position for position, id in self.ids.items()}
            positions = tuple(at[id] for id in move.chosen)
            words = Unparking(first.agent, first.task, positions, replayed=move.kind == "replay")
        unit = Unit(submissions, words)
        if self.carry_out(unit, said, move):
            self.units.append((unit, said, move))

    def carry_out(self, unit, said, move):
        """Commit on both sides; whether it was done."""
        expected = self.model.commit(said, move)
        (answers,) = self.run(commit(self.bus.connection, self.bus.keys, [unit]))
        if isinstance(answers, TaskbusError):
            assert expected == word_of(answers)
            return False
        for (envelope, _), answer in zip(said, answers, strict=True):
            if isinstance(answer, Appended):
                assert self.ids.setdefault(answer.position.entry, envelope.id) == envelope.id
        assert [
            "repeated" if isinstance(each, Appended) and each.repeated else kind_of(each) for each in answers
        ] == expected
        return set(expected) <= {None, "repeated"}

    async def entries(self, agent):
        """What stands in an inbox: names of deliveries, and the IDs of their envelopes."""
        found = {}
        for priority in URGENT:
            for entry, fields in await self.bus.connection.range(self.bus.keys.inbox(agent, priority)):
                found[f"{priority}/{entry}"] = self.ids[fields[b"at"].decode()]
        return found

    async def places(self):
        """Read inboxes, holders, leases and parked lists of everybody; each delivery stands once."""
        keys, connection = self.bus.keys, self.bus.connection
        found = []
        for agent in AGENTS:
            names = await self.entries(agent)
            held, handed_out = await connection.hash(keys.held(agent)), set()
            leases = await connection.execute("ZRANGE", keys.leases(agent), 0, -1)
            for priority in URGENT:
                handed_out |= await self.handed_out(agent, priority)
            assert set(held) == {name.decode() for name in leases} == handed_out <= set(names)
            for priority in URGENT:
                for entry, fields in await connection.range(keys.inbox(agent, priority)):
                    name = f"{priority}/{entry}"
                    again = fields.get(b"again") == b"1"
                    token, consumer, tries, reason = (held.get(name, "- - - -") + " -").split(" ")[:4]
                    if name not in held:
                        view = ("waiting", agent, priority, again)
                    elif consumer == "-":
                        view = ("paused", agent, priority, int(tries), reason)
                    else:
                        view = ("held", agent, priority, int(token), consumer, int(tries))
                    found.append((names[name], view))
            for task, lines in (await connection.hash(keys.parked(agent))).items():
                words = [line.split(" ") for line in lines.split("\n")]
                places = [tuple(map(int, word[0].split("-"))) for word in words]
                assert places == sorted(places), "what is parked stands in the order of the log"
                for at, priority, tries, reason, _, work, _ in words:
                    found.append((self.ids[at], ("parked", agent, task, priority, int(tries), reason, work == "1")))
        assert [id for id, times in Counter(id for id, _ in found).items() if times > 1] == []
        return dict(found)

    async def handed_out(self, agent, priority):
        """What the group of an inbox has read; a group is made by the first take that finds something."""
        inbox, execute = self.bus.keys.inbox(agent, priority), self.bus.connection.execute
        try:
            (group,) = await execute("XINFO", "GROUPS", inbox)
        except (ServerFault, ValueError):
            return set()
        # fakeredis answers a table, servers a list of names and values.
        facts = group if isinstance(group, dict) else dict(zip(group[::2], group[1::2], strict=True))
        farthest = facts[b"last-delivered-id"]
        return {f"{priority}/{entry.decode()}" for entry, _ in await execute("XRANGE", inbox, "-", farthest)}


def word_of(error):
    """The model's word for the refusal of a whole unit."""
    if isinstance(error, LifecycleConflict):
        return error.reason
    return {Fenced: "fenced", Moved: "moved"}[type(error)]


@pytest.mark.parametrize(("server", "runs"), [("fakeredis", 15), ("valkey", 30)])
def test_deliveries_are_where_a_plain_model_has_them(request, server, runs):
    """Whatever is done in whatever order, the server and the model agree after each step."""
    where = None if server == "fakeredis" else request.getfixturevalue(server)
    machine = type("Deliveries", (Deliveries,), {"url": where})
    chosen = settings(max_examples=runs, stateful_step_count=40, deadline=None, suppress_health_check=list(HealthCheck))
    run_state_machine_as_test(machine, settings=chosen)
