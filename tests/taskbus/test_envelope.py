"""The model: envelopes cannot be changed, agree with themselves, and follow from one another."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, cast

import msgspec
import pytest

from taskbus import codec
from taskbus.envelope import (
    MARKERS,
    MESSAGE_TYPES,
    PAYLOADS,
    SPOKEN,
    Acknowledgment,
    Answer,
    Delegation,
    Envelope,
    Question,
    Status,
    compose,
    new_id,
    now,
)

if TYPE_CHECKING:
    from taskbus.envelope import AnyEnvelope


def test_every_type_has_a_payload_and_a_marker() -> None:
    """The eleven types, their payloads and the fields by which they are told go together."""
    assert set(PAYLOADS) == set(MARKERS) == set(MESSAGE_TYPES)
    for kind, payload in PAYLOADS.items():
        assert kind == payload.TYPE
        marker = next(field for field in msgspec.structs.fields(payload) if field.name == MARKERS[kind])
        assert marker.required
    assert set(MESSAGE_TYPES) - set(SPOKEN) == {"parking", "budget"}


def test_a_type_goes_with_its_payload_only() -> None:
    """An envelope cannot say that it is one thing and be another."""
    good = compose(Status(progress="x"), sender="@a", recipient="@b")
    with pytest.raises(ValueError, match="type answer does not go with the payload of a status"):
        Envelope(sender="@a", recipient="@b", type="answer", context=good.context, payload=good.payload)
    with pytest.raises(ValueError, match="does not go with"):
        msgspec.structs.replace(good, payload=Answer(answer="x"))


def test_an_envelope_cannot_be_changed() -> None:
    """What was said was said."""
    envelope = compose(Status(progress="x"), sender="@a", recipient="@b")
    for part, name in ((envelope, "sender"), (envelope.context, "task_id"), (envelope.payload, "progress")):
        with pytest.raises(AttributeError):
            setattr(part, name, "@c")


def test_ids_grow() -> None:
    """Each ID is greater than those before, also within one millisecond."""
    made = [new_id() for _ in range(1000)]
    assert made == sorted(set(made))


def test_a_new_envelope_has_everything_but_its_content() -> None:
    """Composing fills in ID, time and task; without a task, it is a new one."""
    before = now()
    envelope = compose(Delegation(goal="x"), sender="@a", recipient="@b")
    other = compose(Delegation(goal="x"), sender="@a", recipient="@b")
    assert before <= envelope.context.timestamp <= now()
    assert envelope.context.timestamp.tzinfo is UTC
    assert envelope.task == envelope.context.task_id != other.task
    assert envelope.id != other.id
    assert (envelope.type, envelope.priority, envelope.context.by_hand) == ("delegation", "normal", False)
    assert codec.validated(envelope)


def test_an_envelope_names_its_cause() -> None:
    """Correlation is the root task, causation the envelope before; the trace goes on."""
    trace = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
    root = compose(Delegation(goal="x"), sender="@a", recipient="@b", task="root")
    root = cast(
        "AnyEnvelope",
        msgspec.structs.replace(root, context=msgspec.structs.replace(root.context, traceparent=trace)),
    )
    child = compose(Delegation(goal="y"), sender="@b", recipient="@c", task="child", parent="root", cause=root)
    taken = compose(Acknowledgment(accepted=True), sender="@c", recipient="@b", task="child", cause=child)
    assert (root.context.correlation_id, root.context.causation_id) == (None, None)
    assert (child.context.correlation_id, child.context.causation_id) == ("root", root.id)
    assert (child.context.parent_task, child.context.traceparent) == ("root", trace)
    assert (taken.context.correlation_id, taken.context.causation_id) == ("root", child.id)
    assert taken.context.traceparent == trace


def test_what_composing_is_given_arrives() -> None:
    """Nothing that the caller says gets lost."""
    deadline = datetime.now(UTC) + timedelta(hours=1)
    envelope = compose(
        Question(question="which?"),
        sender="@a",
        recipient="@b",
        task="t",
        priority="critical",
        deadline=deadline,
        by_hand=True,
    )
    assert (envelope.priority, envelope.context.deadline, envelope.context.by_hand) == ("critical", deadline, True)
    assert codec.decode(codec.validated(envelope)) == envelope
