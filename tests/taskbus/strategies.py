"""Hypothesis strategies: any envelope that the model allows, and any text that it does not.

Written out by hand and not derived from the model, so that they can find what the derivation gets wrong.
"""

from __future__ import annotations

from datetime import datetime, timedelta, timezone
from functools import partial
from typing import TYPE_CHECKING

from hypothesis import strategies as st

from taskbus.envelope import (
    MESSAGE_TYPES,
    PRIORITIES,
    Acknowledgment,
    Answer,
    Artifact,
    Budget,
    Cancellation,
    Completion,
    Context,
    Cost,
    CriterionResult,
    Delegation,
    Envelope,
    ErrorDetails,
    Escalation,
    Gate,
    Hold,
    Parking,
    QualityGates,
    Question,
    Result,
    Status,
    Usage,
    Verdict,
)
from taskbus.payload import Passed, Route

if TYPE_CHECKING:
    from taskbus.envelope import AnyEnvelope, MessageType

LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789"
HEX = "0123456789abcdef"
AWKWARD = [
    "\r",
    "\r\n",
    "\n",
    "\t",
    " ",
    "  a  ",
    "\x85",
    "\u2028",
    "]]>",
    "<b>&amp;</b>",
    "&#13;",
    "💡",
    "\"'",
    "\x7f",
]

characters = st.characters(
    exclude_categories=["Cs"],
    exclude_characters=[chr(n) for n in range(32) if chr(n) not in "\t\n\r"] + ["\ufffe", "\uffff"],
)
words = st.lists(st.sampled_from(AWKWARD) | characters, min_size=1, max_size=12).map("".join)
"""Text that is not empty."""
text = words | st.just("")
forbidden = st.sampled_from(["\0", "\x01", "\x0b", "\x1b", "\x1f", "\ud800", "\udfff", "\ufffe", "\uffff"])
"""Characters that no envelope may hold."""
names = st.builds("@{}{}".format, st.sampled_from(LETTERS), st.text(LETTERS + "._-", max_size=63))
task_ids = st.builds("{}{}".format, st.sampled_from(LETTERS), st.text(LETTERS + "._:-", max_size=127))
counts = st.integers(0, 2**53 - 1)
offsets = st.integers(-13 * 60 - 59, 14 * 60).map(lambda minutes: timezone(timedelta(minutes=minutes)))
times = st.datetimes(datetime(2000, 1, 1), datetime(2199, 12, 31, 23, 59, 59, 999999), timezones=offsets)  # noqa: DTZ001
ids = st.builds(
    "{}-{}-7{}-{}{}-{}".format,
    st.text(HEX, min_size=8, max_size=8),
    st.text(HEX, min_size=4, max_size=4),
    st.text(HEX, min_size=3, max_size=3),
    st.sampled_from("89ab"),
    st.text(HEX, min_size=3, max_size=3),
    st.text(HEX, min_size=12, max_size=12),
)
fractions = st.floats(0, 1)

_maybe = partial(st.one_of, st.none())


def _several(each: st.SearchStrategy[object]) -> st.SearchStrategy[tuple[object, ...]]:
    return st.lists(each, max_size=3).map(tuple)


artifacts = st.builds(
    Artifact,
    path=words,
    sha256=_maybe(st.text(HEX, min_size=64, max_size=64)),
    size=_maybe(counts),
    media_type=_maybe(words),
    summary=_maybe(words),
)
error_details = st.builds(
    ErrorDetails,
    level=st.integers(1, 4),
    category=st.sampled_from(["execution", "validation", "integration", "architectural"]),
    message=words,
    attempted_recovery=_maybe(text),
)
results = st.builds(
    Result,
    status=st.sampled_from(["success", "partial", "failure"]),
    description=_maybe(text),
    artifacts=_several(artifacts),
)
routes = st.builds(
    Route,
    rung=words,
    provider=_maybe(words),
    model=_maybe(words),
    complexity=_maybe(words),
    policy=_maybe(words),
    climbs=_maybe(counts),
    passed=_several(
        st.builds(
            Passed,
            rung=words,
            agent=_maybe(names),
            reason=st.sampled_from(
                ["busy", "out-of-quota", "over-budget", "not-able", "not-justified", "failed-before", "disabled"]
            ),
            note=_maybe(words),
        )
    ),
)
PAYLOAD_STRATEGIES: dict[MessageType, st.SearchStrategy[object]] = {
    "delegation": st.builds(
        Delegation,
        action=_maybe(text),
        goal=words,
        task_type=_maybe(words),
        constraints=_several(words),
        artifacts=_several(artifacts),
        acceptance_criteria=_several(words),
        review_required=st.booleans(),
        paid_model_justification=_maybe(text),
        route=_maybe(routes),
    ),
    "acknowledgment": st.builds(
        Acknowledgment,
        action=_maybe(text),
        accepted=st.booleans(),
        decline_reason=_maybe(text),
        constraints_accepted=_several(words),
        provider=_maybe(words),
        model=_maybe(words),
        hold=_maybe(st.builds(Hold, id=task_ids, microusd=counts)),
    ),
    "status": st.builds(Status, action=_maybe(text), progress=words, fraction=_maybe(fractions)),
    "question": st.builds(Question, action=_maybe(text), question=words, blocks=_several(words)),
    "answer": st.builds(Answer, action=_maybe(text), answer=words),
    "completion": st.builds(
        Completion,
        action=_maybe(text),
        result=results,
        verification_result=_maybe(text),
        next_steps=_maybe(text),
        termination_reason=_maybe(text),
        error_details=_maybe(error_details),
    ),
    "verdict": st.builds(
        Verdict,
        action=_maybe(text),
        decision=st.sampled_from(["accepted", "rejected"]),
        criteria=_several(st.builds(CriterionResult, criterion=words, met=st.booleans(), evidence=_maybe(text))),
        comment=_maybe(text),
    ),
    "escalation": st.builds(Escalation, action=_maybe(text), error_details=error_details),
    "cancellation": st.builds(Cancellation, action=_maybe(text), reason=words),
    "parking": st.builds(
        Parking,
        action=_maybe(text),
        parking=st.sampled_from(["parked", "replayed", "dropped"]),
        agent=names,
        deliveries=_several(ids),
        resumes=st.booleans(),
        reason=_maybe(
            st.sampled_from(
                [
                    *("retryable", "permanent", "undecodable", "quota-limited"),
                    *("refused-by-budget", "cancelled", "timed-out", "lost"),
                ]
            )
        ),
        attempts=_maybe(counts),
        message=_maybe(text),
    ),
    "budget": st.builds(
        Budget,
        action=_maybe(text),
        budget=st.sampled_from(["cap", "reserved", "settled", "released", "warned"]),
        account=_maybe(words),
        period=_maybe(st.sampled_from(["month", "day", "task"])),
        span=_maybe(words),
        microusd=_maybe(counts),
        hold=_maybe(st.builds(Hold, id=task_ids, microusd=counts)),
        agent=_maybe(names),
        provider=_maybe(words),
        model=_maybe(words),
        table=_maybe(words),
        ended=_maybe(st.sampled_from(["lost", "cancelled", "by-hand"])),
        committed=_maybe(counts),
        held=_maybe(counts),
        reason=_maybe(words),
    ),
}
contexts = st.builds(
    Context,
    task_id=task_ids,
    parent_task=_maybe(task_ids),
    timestamp=times,
    correlation_id=_maybe(task_ids),
    causation_id=_maybe(ids),
    traceparent=_maybe(st.just("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01")),
    deadline=_maybe(times),
    by_hand=st.booleans(),
)
gates = st.builds(Gate, outcome=st.sampled_from(["passed", "failed", "skipped", "not-triggered"]), note=_maybe(text))
quality_gates = st.builds(
    QualityGates,
    **dict.fromkeys(["input", "hallucination", "boundary", "output", "escalation"], _maybe(gates)),
)
usages = st.builds(
    Usage,
    provider=words,
    model=words,
    input_tokens=_maybe(counts),
    output_tokens=_maybe(counts),
    cache_read_tokens=_maybe(counts),
    cache_write_tokens=_maybe(counts),
    cache_write_hour_tokens=_maybe(counts),
    reasoning_tokens=_maybe(counts),
    cost=_maybe(st.builds(Cost, source=st.sampled_from(["reported", "priced"]), table=_maybe(words), microusd=counts)),
)


@st.composite
def envelopes(draw: st.DrawFn, types: tuple[MessageType, ...] = MESSAGE_TYPES) -> AnyEnvelope:
    """Any envelope, of one of `types`."""
    kind = draw(st.sampled_from(types))
    return Envelope(
        id=draw(ids),
        sender=draw(names),
        recipient=draw(names),
        type=kind,
        priority=draw(st.sampled_from(PRIORITIES)),
        context=draw(contexts),
        payload=draw(PAYLOAD_STRATEGIES[kind]),
        quality_gates=draw(_maybe(quality_gates)),
        usage=draw(_several(usages)),
    )
