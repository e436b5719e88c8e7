"""The lifecycle on its own: the table that the design promises, and the server-side step compared with it."""

from __future__ import annotations

import itertools
import time
from typing import get_args

import pytest
from msgspec.structs import replace

from taskbus.append import Appended, Settlement, Submission, Unit, Unparking, commit, task_of
from taskbus.client import Bus
from taskbus.codec import document
from taskbus.envelope import (
    Acknowledgment,
    Answer,
    Budget,
    Cancellation,
    Completion,
    Delegation,
    ErrorDetails,
    Escalation,
    Hold,
    Parking,
    Question,
    Result,
    Status,
    Verdict,
    compose,
)
from taskbus.errors import Fenced, LifecycleConflict, NotFound, Skipped, UsageError
from taskbus.lifecycle import (
    ENDED,
    MONEY,
    OPEN,
    TABLE,
    Event,
    Message,
    State,
    Task,
    advance,
    event_of,
    legal,
    refusal,
    roles,
)

AHEAD = int(time.time() * 1000) + 3_600_000
"""The end of a lease that lasts, in milliseconds since the epoch; that of one that has lapsed is 1."""
STATES: tuple[State, ...] = get_args(State)
EVENTS: tuple[Event, ...] = get_args(Event)
SENDERS = ("@delegator", "@assignee", "@coordinator", "@human", "@bus", "@stranger")
PAYLOADS = {
    "delegation": Delegation(goal="g"),
    "acknowledgment:accepted": Acknowledgment(accepted=True),
    "acknowledgment:declined": Acknowledgment(accepted=False, decline_reason="busy"),
    "status": Status(progress="half"),
    "question": Question(question="which?"),
    "answer": Answer(answer="that"),
    "completion:done": Completion(result=Result(status="partial")),
    "completion:failure": Completion(result=Result(status="failure")),
    "verdict:accepted": Verdict(decision="accepted"),
    "verdict:rejected": Verdict(decision="rejected"),
    "escalation": Escalation(error_details=ErrorDetails(level=2, category="execution", message="stuck")),
    "cancellation": Cancellation(reason="not needed"),
    "parking:parked": Parking(parking="parked", agent="@assignee"),
    "parking:replayed": Parking(parking="replayed", agent="@assignee"),
    "parking:resumed": Parking(parking="replayed", agent="@assignee", resumes=True),
    "parking:dropped": Parking(parking="dropped", agent="@assignee"),
    "budget:cap": Budget(budget="cap", account="agent:@kilo", period="day", microusd=7),
    "budget:reserved": Budget(budget="reserved", hold=Hold(id="h1", microusd=7), provider="p", model="m"),
    "budget:settled": Budget(budget="settled", hold=Hold(id="h1", microusd=7)),
    "budget:released": Budget(budget="released", hold=Hold(id="h1", microusd=7), agent="@assignee"),
    "budget:warned": Budget(budget="warned", account="agent:@kilo", period="day", span="2026-11-20", microusd=7),
}
# The design's table, row by row: from, event, by whom, to. Everything else is refused. What becomes of deliveries is
# recorded in any state and changes none, but for the replay that submits an escalated task again.
DESIGN = {
    (None, "delegation"): (set(SENDERS), "submitted"),
    ("submitted", "acknowledgment:accepted"): ({"@assignee"}, "working"),
    ("submitted", "acknowledgment:declined"): ({"@assignee"}, "rejected"),
    ("working", "status"): ({"@assignee"}, "working"),
    ("working", "question"): ({"@assignee"}, "input-required"),
    ("input-required", "answer"): ({"@delegator", "@human"}, "working"),
    **{(s, "completion:done"): ({"@assignee"}, "completed") for s in ("submitted", "working")},
    **{(s, "completion:failure"): ({"@assignee"}, "failed") for s in ("submitted", "working")},
    ("completed", "verdict:accepted"): ({"@delegator"}, "accepted"),
    ("completed", "verdict:rejected"): ({"@delegator"}, "submitted"),
    **{(s, "escalation"): ({"@assignee", "@bus"}, "escalated") for s in ("submitted", "working", "input-required")},
    **{
        (s, "delegation"): ({"@delegator", "@coordinator", "@bus"}, "submitted")
        for s in ("escalated", "failed", "rejected")
    },
    ("escalated", "answer"): ({"@delegator", "@human"}, "working"),
    **{(s, "cancellation"): ({"@delegator"}, "canceled") for s in OPEN},
    ("escalated", "escalation"): ({"@coordinator", "@bus"}, "escalated"),
    **{(s, "escalation"): ({"@bus"}, "escalated") for s in ("failed", "rejected")},
    ("escalated", "parking:resumed"): (set(SENDERS), "submitted"),
    **{(s, "parking:parked"): ({"@bus"}, s) for s in STATES},
    **{(s, "parking:replayed"): (set(SENDERS), s) for s in STATES},
    **{(s, "parking:dropped"): (set(SENDERS), s) for s in STATES},
    (None, "budget:cap"): ({"@human"}, None),
    ("working", "budget:reserved"): ({"@assignee"}, "working"),
    ("escalated", "budget:reserved"): ({"@coordinator"}, "escalated"),
    **{(s, "budget:settled"): (set(SENDERS), s) for s in STATES},
    **{(s, "budget:released"): ({"@bus", "@human"}, s) for s in STATES},
    **{(s, "budget:warned"): ({"@bus"}, s) for s in STATES},
}
# To whom each may be addressed where that matters; of the names below, one for each part in a task.
ADDRESSED = {
    "answer": {"@assignee"},
    "verdict:accepted": {"@assignee"},
    "verdict:rejected": {"@assignee"},
    "cancellation": {"@assignee"},
    "question": {"@delegator", "@human"},
    "delegation": {"@assignee", "@delegator", "@human", "@stranger"},
}
RECIPIENTS = ("@assignee", "@delegator", "@human", "@bus", "@stranger")


def a_task(state: State | None, *, lease: int = 0) -> Task | None:
    """A task in a state, as everybody's part in it is told apart by name."""
    return Task(state, "@delegator", "@assignee", "@coordinator", 2, token=7, lease=lease) if state else None


def moving(event):
    """Whether an event tells of deliveries, which have to move in the same step."""
    return event.startswith("parking")


def test_the_table_is_the_designs():
    """Each state takes from each sender just what the design's table says, and leads where it says."""
    for state, event, sender in itertools.product((None, *STATES), EVENTS, SENDERS):
        senders, to = DESIGN.get((state, event), (set(), None))
        recipient = "@delegator" if event == "question" else "@assignee"
        message = Message(
            event, sender, recipient, token=7 if state else None, moves=moving(event), caps=event == "budget:cap"
        )
        refused = refusal(a_task(state), message, now=0)
        assert (refused is None) == (sender in senders), (state, event, sender)
        if refused is None:
            after = advance(a_task(state), message)
            assert (after and after.state) == to


def test_messages_reach_those_who_can_act_on_them():
    """What must be answered or worked on is addressed to whoever may do that, and refused to others."""
    for (state, event), (senders, _) in DESIGN.items():
        for recipient in RECIPIENTS:
            caps = event == "budget:cap"
            token = 7 if state else None
            message = Message(event, min(senders), recipient, token=token, moves=moving(event), caps=caps)
            refused = refusal(a_task(state), message, now=0)
            allowed = recipient in ADDRESSED.get(event, RECIPIENTS)
            assert refused == (None if allowed else "recipient"), (state, event, recipient)


def test_nobody_tells_of_deliveries_that_do_not_move():
    """A parking that stands by itself is refused in every state, whoever says it."""
    for state, event, sender in itertools.product(STATES, filter(moving, EVENTS), SENDERS):
        assert refusal(a_task(state), Message(event, sender, "@delegator"), now=0) == "lifecycle"


def test_what_has_ended_is_led_nowhere():
    """A task that was accepted or canceled stays so, whatever is recorded of its deliveries; no other state ends."""
    assert {"accepted", "canceled"} == ENDED
    for state in ENDED:
        assert legal(state) == ()
        assert advance(a_task(state), Message("parking:dropped", "@human", "@bus", moves=True)) == a_task(state)


def test_review_decides_where_a_completion_leads():
    """Without a review, a completion is accepted at once."""
    task = replace(a_task("working"), review=False)
    assert advance(task, Message("completion:done", "@assignee", "@delegator", 7)).state == "accepted"


def test_attempts_count_deliveries_of_the_task_anew():
    """A rejected completion and a new delegation begin the next attempt; nothing else does."""
    for (state, event), rule in TABLE.items():
        before = a_task(state)
        after = advance(before, Message(event, "@delegator", "@other"))
        if after is None:
            assert event == "budget:cap"
            continue
        assert after.attempt == (before.attempt if before else 0) + rule.attempt
        assert rule.attempt == (event in ("delegation", "verdict:rejected"))


def test_the_holder_is_who_must_act():
    """The assignee holds what is to be worked on, the coordinator what was escalated, the delegator the rest."""
    assert a_task("working").holder == "@assignee"
    assert a_task("escalated").holder == "@coordinator"
    assert a_task("input-required").holder == "@delegator"


def test_legal_names_what_may_be_sent():
    """What is legal in a state is told with the roles that may send it."""
    assert dict(legal("input-required")) == {
        "answer": ("delegator", "human"),
        "escalation": ("assignee", "bus"),
        "cancellation": ("delegator",),
    }
    assert dict(legal("escalated"))["escalation"] == ("coordinator", "bus")


def test_one_sender_may_have_several_roles():
    """Somebody who delegates to itself is delegator, assignee and coordinator."""
    task = Task("working", "@a", "@a", "@a")
    assert roles(task, "@a") == {"anyone", "delegator", "assignee", "coordinator"}


def combinations():
    """Every state, event and sender, with each kind of token and lease and, where it matters, several recipients."""
    for state, event, sender in itertools.product((None, *STATES), EVENTS, SENDERS):
        if moving(event):
            for recipient, lease, moves in itertools.product(("@delegator", "@bus"), (0, AHEAD), (True, False)):
                yield state, Message(event, sender, recipient, moves=moves), lease
            continue
        for token, lease in ((7, AHEAD), (6, AHEAD), (None, 0), (None, AHEAD), (None, 1), (7, 0), (7, 1), (8, 0)):
            for recipient in RECIPIENTS if lease == AHEAD and token == 7 else ("@assignee", "@delegator"):
                yield state, Message(event, sender, recipient, token if state else None), lease


@pytest.mark.anyio
async def test_the_server_agrees_with_the_table(any_connection, namespace):
    """The script and the module agree on every state, event, sender, token, lease, recipient and move."""
    bus = Bus(any_connection, namespace)
    cases = list(combinations())
    for start in range(0, len(cases), 200):
        forged = range(start, min(start + 200, len(cases)))
        units = [await forge(bus, f"t{number}", *cases[number]) for number in forged]
        answers = await commit(bus.connection, bus.keys, units)
        for number, answer in zip(forged, answers, strict=True):
            await compare(bus, f"t{number}", cases[number], answer)


@pytest.mark.anyio
async def test_the_name_of_the_caps_is_no_tasks(any_connection, namespace):
    """Under that name a human records caps, and nobody anything else; caps stand under no other name."""
    bus = Bus(any_connection, namespace)
    for event, sender, recipient in itertools.product(EVENTS, SENDERS, ("@assignee", "@bus")):
        envelope = compose(PAYLOADS[event], sender=sender, recipient=recipient, task=MONEY)
        expected = refusal(None, Message(event, sender, recipient, caps=True), now=0)
        (answers,) = await commit(bus.connection, bus.keys, [Unit((Submission(document(envelope)),))])
        assert [expected] == [kind_of(answer) for answer in answers]
        assert await bus.connection.field(bus.keys.index, f"task:{MONEY}") is None
        assert (expected is None) == (event == "budget:cap" and sender == "@human")


async def forge(bus, name, state, message, lease):
    """A task in a state, a delivery that is held or parked where the message moves one, and what is to be appended."""
    connection, keys = bus.connection, bus.keys
    if state:
        record = f"{state} @assignee 7 - 1 {lease} w1 - {name} - - @delegator @coordinator 2"
        await connection.execute("HSET", keys.index, f"task:{name}", record)
    if state and message.event == "budget:released":
        # What is given back must be open; whose it is, and by whom, is what is compared here.
        await connection.execute("HSET", keys.holds, name, f"h1 7 p @assignee {name} 1-0 7 m")
        await connection.execute("HINCRBY", keys.budget, "holds", 1)
        await connection.execute("HSET", keys.meta, "budget", 1)
    envelope = compose(PAYLOADS[message.event], sender=message.sender, recipient=message.recipient, task=name)
    assert event_of(envelope) == message.event
    move = None
    if message.moves and message.event == "parking:parked":
        delivery = f"normal/{name[1:]}-1"
        await connection.execute("HSET", keys.held("@assignee"), delivery, "7 w1 1")
        move = Settlement("@assignee", delivery, 7, "w1", name, "permanent")
    elif message.moves:
        await connection.execute("HSET", keys.parked("@assignee"), name, "1-0 normal 1 permanent 1 1 normal/1-0")
        move = Unparking("@assignee", name, ("1-0",), replayed=message.event != "parking:dropped")
    return Unit((Submission(document(envelope), message.token),), move)


async def compare(bus, name, case, answers):
    """Compare the answers, and the state that the task is left in, with the pure module."""
    state, message, lease = case
    task = a_task(state, lease=lease)
    expected = refusal(task, message, now=AHEAD - 1)
    assert [expected] == [kind_of(answer) for answer in answers], (task, message, answers)
    record = await bus.connection.field(bus.keys.index, f"task:{name}")
    after = task if expected else advance(task, message)
    assert (record is None) == (after is None)
    if after is not None:
        known = task_of(name, record)
        names = ("state", "attempt", "delegator", "assignee", "coordinator", "review", "lease")
        assert [getattr(known, n) for n in names] == [getattr(after, n) for n in names], (task, message)


def kind_of(answer):
    """The pure module's word for an answer of the append."""
    if isinstance(answer, Appended):
        return None
    if isinstance(answer, LifecycleConflict):
        return answer.reason
    return {Fenced: "fenced", NotFound: "unknown", Skipped: "skipped", UsageError: "reserved"}[type(answer)]
