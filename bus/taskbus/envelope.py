"""The envelope: one immutable message, and everything that may stand in it.

This model is the only definition of the format. The JSON codec uses it directly; the XML codec, both schemas and
their documentation are derived from it (`taskbus.shape`), through the annotations of its fields:
`element` names the XML element where it is not the field's name with hyphens, `item` the elements of a list,
`as` says that a field is an attribute or the text of its element, `words` gives the XML word of each value.

Structs are not validated when they are built in Python; every way onto the bus validates (`taskbus.json`).
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated, Generic, Literal, TypeAlias, TypeVar, get_args

import msgspec
import uuid_utils
from msgspec import Meta

from taskbus.payload import (
    ID_PATTERN,
    MARKERS,
    MESSAGE_TYPES,
    NAME_PATTERN,
    PAYLOADS,
    SPOKEN,
    TASK_PATTERN,
    Acknowledgment,
    Answer,
    Artifact,
    Budget,
    Cancellation,
    Completion,
    Count,
    CriterionResult,
    Delegation,
    EnvelopeID,
    ErrorDetails,
    Escalation,
    FailureReason,
    Fraction,
    Hold,
    MessageType,
    Name,
    Parking,
    Part,
    Payload,
    Period,
    Question,
    Result,
    Status,
    TaskID,
    Text,
    Verdict,
    Words,
    apart,
)

__all__ = [
    "MARKERS",
    "MAX_BYTES",
    "MESSAGE_TYPES",
    "NAME_PATTERN",
    "PAYLOADS",
    "PRIORITIES",
    "SPEC",
    "SPOKEN",
    "TIME_PATTERN",
    "Acknowledgment",
    "Answer",
    "AnyEnvelope",
    "Artifact",
    "Budget",
    "Cancellation",
    "Completion",
    "Context",
    "Cost",
    "Count",
    "CriterionResult",
    "Delegation",
    "Envelope",
    "EnvelopeID",
    "ErrorDetails",
    "Escalation",
    "FailureReason",
    "Fraction",
    "Gate",
    "GateOutcome",
    "Hold",
    "MessageType",
    "Name",
    "Parking",
    "Part",
    "Payload",
    "Period",
    "Priority",
    "QualityGates",
    "Question",
    "Result",
    "Spec",
    "Status",
    "TaskID",
    "Text",
    "Time",
    "Usage",
    "Verdict",
    "Words",
    "compose",
    "new_id",
    "now",
]

Spec: TypeAlias = Literal["1.0"]
# The very object of the Literal: msgspec leaves a field out when its value *is* the default.
SPEC: Spec = get_args(Spec)[0]
MAX_BYTES = 1 << 20
"""The longest document that is read, in bytes. Results that are longer belong into files, named as artifacts."""

_TRACE_PATTERN = r"^[0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}\Z"
TIME_PATTERN = (
    r"^2[01][0-9]{2}-(0[1-9]|1[0-2])-(0[1-9]|[12][0-9]|3[01])"
    r"T([01][0-9]|2[0-3]):[0-5][0-9]:[0-5][0-9](\.[0-9]{1,6})?"
    r"(Z|[+\-]((0[0-9]|1[0-3]):[0-5][0-9]|14:00))\Z"
)
"""Years 2000 to 2199, at most microseconds, an offset from UTC always: narrower than RFC 3339, wide enough."""

# In the header the forms are checked all at once, by `taskbus.validation`.
_ID = Annotated[str, apart(ID_PATTERN)]
_Name = Annotated[str, apart(NAME_PATTERN)]
_Task = Annotated[str, apart(TASK_PATTERN)]
Time = Annotated[datetime, Meta(tz=True)]
Priority: TypeAlias = Literal["critical", "high", "normal", "low"]
PRIORITIES: tuple[Priority, ...] = get_args(Priority)
GateOutcome: TypeAlias = Literal["passed", "failed", "skipped", "not-triggered"]


class Context(Part, frozen=True, kw_only=True):
    """Where the envelope belongs: its task, what caused it, until when it matters."""

    task_id: Annotated[_Task, Meta(description="The task.")]
    parent_task: Annotated[_Task | None, Meta(description="The task that this one is a part of.")] = None
    timestamp: Annotated[Time, Meta(description="When the sender wrote it; with an offset from UTC.")]
    correlation_id: Annotated[_Task | None, Meta(description="The root task of the tree.")] = None
    causation_id: Annotated[_ID | None, Meta(description="The envelope that caused this one.")] = None
    traceparent: Annotated[
        Annotated[str, Meta(pattern=_TRACE_PATTERN)] | None,
        Meta(description="W3C Trace Context of the sender."),
    ] = None
    deadline: Annotated[Time | None, Meta(description="When the work must be done.")] = None
    by_hand: Annotated[bool, Meta(description="Whether somebody sent it by hand in the sender's name.")] = False


class Gate(Part, frozen=True, kw_only=True):
    """The outcome of one layer of quality gates."""

    outcome: Annotated[
        GateOutcome,
        Meta(
            description="How it ended.",
            extra={
                "as": "text",
                "words": {
                    "passed": "✓ Passed",
                    "failed": "✗ Failed",
                    "skipped": "Skipped",
                    "not-triggered": "Not triggered",
                },
            },
        ),
    ]
    note: Annotated[Text | None, Meta(description="What was seen.", extra={"as": "attribute"})] = None


class QualityGates(Part, frozen=True, kw_only=True):
    """The five layers of quality gates."""

    input: Annotated[
        Gate | None,
        Meta(description="Validation of the input, prompt injection.", extra={"element": "layer-1-input"}),
    ] = None
    hallucination: Annotated[
        Gate | None,
        Meta(description="Claims against documentation.", extra={"element": "layer-2-hallucination"}),
    ] = None
    boundary: Annotated[
        Gate | None, Meta(description="Limits of knowledge.", extra={"element": "layer-3-boundary"})
    ] = None
    output: Annotated[
        Gate | None, Meta(description="Verification of the output.", extra={"element": "layer-4-output"})
    ] = None
    escalation: Annotated[Gate | None, Meta(description="The safety net.", extra={"element": "layer-5-escalation"})] = (
        None
    )


class Cost(Part, frozen=True, kw_only=True):
    """What calls cost. A usage without a cost is unpriced, which is not the same as free."""

    source: Annotated[
        Literal["reported", "priced"],
        Meta(description="Reported by the agent, or priced from a table.", extra={"as": "attribute"}),
    ]
    table: Annotated[Words | None, Meta(description="Version of the price table.", extra={"as": "attribute"})] = None
    microusd: Annotated[Count, Meta(description="The cost, in millionths of a US dollar.", extra={"as": "text"})]


class Usage(Part, frozen=True, kw_only=True):
    """What calls of one model used. `input_tokens` include those of the cache, `output_tokens` those of reasoning."""

    provider: Annotated[Words, Meta(description="Who ran the model.")]
    model: Annotated[Words, Meta(description="The model.")]
    input_tokens: Annotated[
        Count | None, Meta(description="Input tokens, those read from and written to a cache included.")
    ] = None
    output_tokens: Annotated[Count | None, Meta(description="Output tokens, those of reasoning included.")] = None
    cache_read_tokens: Annotated[Count | None, Meta(description="Input tokens read from a cache.")] = None
    cache_write_tokens: Annotated[Count | None, Meta(description="Input tokens written to a cache.")] = None
    cache_write_hour_tokens: Annotated[
        Count | None, Meta(description="Those of them that the cache keeps for an hour, which cost more.")
    ] = None
    reasoning_tokens: Annotated[Count | None, Meta(description="Output tokens spent on reasoning.")] = None
    cost: Annotated[Cost | None, Meta(description="What it cost; left out: unpriced.")] = None


def new_id() -> str:
    """A new UUIDv7, greater than those that this process made before."""
    return str(uuid_utils.uuid7())


P_co = TypeVar("P_co", bound=Payload, covariant=True)


class Envelope(Part, Generic[P_co], frozen=True, kw_only=True):
    """One immutable message. `type` always agrees with the payload's class (else ValueError)."""

    id: Annotated[
        _ID,
        Meta(description="UUIDv7. Left out, it is derived from the timestamp and the bytes of the document."),
    ] = msgspec.field(default_factory=new_id)
    spec: Annotated[Spec, Meta(description="Version of the format.")] = SPEC
    sender: Annotated[_Name, Meta(description="Who says it.")]
    recipient: Annotated[_Name, Meta(description="To whom.")]
    type: Annotated[
        MessageType,
        Meta(description="What kind of message it is.", extra={"words": {"completion": "task-completion"}}),
    ]
    priority: Annotated[Priority, Meta(description="Which of several goes first.")] = "normal"
    context: Annotated[Context, Meta(description="Where it belongs.")]
    payload: Annotated[P_co, Meta(description="What it says; its fields depend on the type.")]
    quality_gates: Annotated[QualityGates | None, Meta(description="Outcomes of the five quality gates.")] = None
    usage: Annotated[tuple[Usage, ...], Meta(description="What models used for this.", extra={"item": "call"})] = ()

    def __post_init__(self) -> None:
        if self.type != self.payload.TYPE:
            raise ValueError(f"type {self.type} does not go with the payload of a {self.payload.TYPE}")

    @property
    def task(self) -> str:
        """The ID of the task."""
        return self.context.task_id


AnyEnvelope: TypeAlias = Envelope[Payload]


def now() -> datetime:
    """This moment, in UTC."""
    return datetime.now(UTC)


def compose(
    payload: P_co,
    *,
    sender: str,
    recipient: str,
    task: str | None = None,
    parent: str | None = None,
    root: str | None = None,
    priority: Priority = "normal",
    cause: AnyEnvelope | None = None,
    deadline: datetime | None = None,
    by_hand: bool = False,
    quality_gates: QualityGates | None = None,
    usage: tuple[Usage, ...] = (),
    id: str | None = None,
) -> Envelope[P_co]:
    """Write an envelope, without `id` with a new one, this moment's timestamp and, without `task`, a new task.

    `cause` is the envelope that this one follows from: its ID becomes the causation, its trace goes on, and its
    root, unless another `root` of the tree is given.
    """
    before = cause.context if cause is not None else None
    context = Context(
        task_id=task or new_id(),
        parent_task=parent,
        timestamp=now(),
        correlation_id=root or ((before.correlation_id or before.task_id) if before else None),
        causation_id=cause.id if cause is not None else None,
        traceparent=before.traceparent if before else None,
        deadline=deadline,
        by_hand=by_hand,
    )
    return Envelope(
        id=id or new_id(),
        sender=sender,
        recipient=recipient,
        type=payload.TYPE,
        priority=priority,
        context=context,
        payload=payload,
        quality_gates=quality_gates,
        usage=usage,
    )
