"""The lifecycle on its own: the table that the design promises, and the server-side step compared with it."""

from __future__ import annotations

import itertools
import time
from dataclasses import replace
from typing import get_args

import pytest

from taskbus.append import Appended, Submission, append, task_of
from taskbus.codec import document
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
    Status,
    Verdict,
    compose,
)
from taskbus.errors import Fenced, LifecycleConflict, NotFound
from taskbus.keys import Keys
from taskbus.lifecycle import (
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
}
# The design's table, row by row: from, event, by whom, to. Everything else is refused.
DESIGN = {
    (None, "delegation"): (set(SENDERS), "submitted"),
    ("submitted", "acknowledgment:accepted"): ({"@assignee"}, "working"),
    ("submitted", "acknowledgment:declined"): ({"@assignee"}, "rejected"),
    ("working", "status"): ({"@assignee"}, "working"),
    ("working", "question"): ({"@assignee"}, "input-required"),
    ("input-required", "answer"): ({"@delegator", "@human"}, "working"),
    ("working", "completion:done"): ({"@assignee"}, "completed"),
    ("working", "completion:failure"): ({"@assignee"}, "failed"),
    ("completed", "verdict:accepted"): ({"@delegator"}, "accepted"),
    ("completed", "verdict:rejected"): ({"@delegator"}, "submitted"),
    **{(s, "escalation"): ({"@assignee", "@bus"}, "escalated") for s in ("submitted", "working", "input-required")},
    **{(s, "delegation"): ({"@delegator", "@coordinator"}, "submitted") for s in ("escalated", "failed", "rejected")},
    ("escalated", "answer"): ({"@delegator", "@human"}, "working"),
    **{(s, "cancellation"): ({"@delegator"}, "canceled") for s in OPEN},
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


def test_the_table_is_the_designs():
    """Each state takes from each sender just what the design's table says, and leads where it says."""
    for state, event, sender in itertools.product((None, *STATES), EVENTS, SENDERS):
        senders, to = DESIGN.get((state, event), (set(), None))
        recipient = "@delegator" if event == "question" else "@assignee"
        message = Message(event, sender, recipient, token=7 if state else None)
        refused = refusal(a_task(state), message, now=0)
        assert (refused is None) == (sender in senders), (state, event, sender)
        if refused is None:
            assert advance(a_task(state), message).state == to


def test_messages_reach_those_who_can_act_on_them():
    """What must be answered or worked on is addressed to whoever may do that, and refused to others."""
    for (state, event), (senders, _) in DESIGN.items():
        for recipient in RECIPIENTS:
            message = Message(event, min(senders), recipient, token=7 if state else None)
            refused = refusal(a_task(state), message, now=0)
            allowed = recipient in ADDRESSED.get(event, RECIPIENTS)
            assert refused == (None if allowed else "recipient"), (state, event, recipient)


def test_review_decides_where_a_completion_leads():
    """Without a review, a completion is accepted at once."""
    task = replace(a_task("working"), review=False)
    assert advance(task, Message("completion:done", "@assignee", "@delegator", 7)).state == "accepted"


def test_attempts_count_deliveries_of_the_task_anew():
    """A rejected completion and a new delegation begin the next attempt; nothing else does."""
    for (state, event), rule in TABLE.items():
        before = a_task(state)
        after = advance(before, Message(event, "@delegator", "@other"))
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
    assert legal("accepted") == ()


def test_one_sender_may_have_several_roles():
    """Somebody who delegates to itself is delegator, assignee and coordinator."""
    task = Task("working", "@a", "@a", "@a")
    assert roles(task, "@a") == {"anyone", "delegator", "assignee", "coordinator"}


def combinations():
    """Every state, event and sender, with each kind of token and lease and, where it matters, both recipients."""
    for state, event, sender in itertools.product((None, *STATES), EVENTS, SENDERS):
        for token, lease in ((7, AHEAD), (6, AHEAD), (None, 0), (None, AHEAD), (None, 1), (7, 0), (7, 1), (8, 0)):
            for recipient in RECIPIENTS if lease == AHEAD and token == 7 else ("@assignee", "@delegator"):
                yield state, event, sender, token if state else None, lease, recipient


@pytest.mark.anyio
async def test_the_server_agrees_with_the_table(any_connection, namespace):
    """The script and the module agree on every state, event, sender, token, lease and recipient."""
    await compare(any_connection, Keys(namespace))


async def compare(connection, keys):
    """Forge a task for each combination, append, and compare answer and state with the pure module."""
    cases = []
    for number, (state, event, sender, token, lease, recipient) in enumerate(combinations()):
        task = a_task(state, lease=lease)
        envelope = compose(PAYLOADS[event], sender=sender, recipient=recipient, task=f"t{number}")
        assert event_of(envelope) == event
        message = Message(event, sender, recipient, token)
        cases.append((envelope, task, message))
        if task:
            record = f"{state} @delegator @assignee @coordinator 2 1 7 {task.lease} t{number} - w1 - - -"
            await connection.execute("HSET", keys.index, f"task:t{number}", record)
    for start in range(0, len(cases), 200):
        part = cases[start : start + 200]
        submissions = [Submission(document(envelope), message.token) for envelope, _, message in part]
        answers = await append(connection, keys, submissions, atomic=False)
        for (envelope, task, message), answer in zip(part, answers, strict=True):
            expected = refusal(task, message, now=AHEAD - 1)
            assert expected == kind_of(answer), (task, message, answer)
            record = await connection.field(keys.index, "task:" + envelope.task)
            after = task if expected else advance(task, message)
            assert (record is None) == (after is None)
            if after is not None:
                known = task_of(record)
                names = ("state", "attempt", "delegator", "assignee", "coordinator", "review", "lease")
                assert [getattr(known, n) for n in names] == [getattr(after, n) for n in names], (
                    task,
                    message,
                )


def kind_of(answer):
    """The pure module's word for an answer of the append."""
    if isinstance(answer, Appended):
        return None
    if isinstance(answer, LifecycleConflict):
        return answer.reason
    return {Fenced: "fenced", NotFound: "unknown"}[type(answer)]
