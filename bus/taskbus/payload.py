"""What an envelope says: the payloads of the eleven message types, and the parts that they are made of.

Half of the model that is the only definition of the format; `taskbus.envelope` is the other half, and says how the
fields' annotations are read. Nothing here knows of headers, wire forms or the bus.
"""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal, TypeAlias, cast, get_args

from msgspec import Meta, Struct

TASK_PATTERN = r"^[A-Za-z0-9][A-Za-z0-9._:\-]{0,127}\Z"
ID_PATTERN = r"^[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}\Z"
NAME_PATTERN = r"^@[A-Za-z0-9][A-Za-z0-9._\-]{0,63}\Z"
_SHA256_PATTERN = r"^[0-9a-f]{64}\Z"
# The characters that XML 1.0 can carry (section 2.2, "Char"): what one wire form cannot carry, none may.
_TEXT_PATTERN = "^[^\x00-\x08\x0b\x0c\x0e-\x1f\ud800-\udfff\ufffe\uffff]*\\Z"


def apart(pattern: str, *, min_length: int | None = None, text: bool = False) -> Meta:
    """A form that msgspec does not check when it decodes: `taskbus.validation` does, for a whole envelope at once.

    Most of what it costs to read an envelope would be a regular expression for each of its values.
    """
    extra = {"pattern": pattern, "text": True} if text else {"pattern": pattern}
    return Meta(min_length=min_length, extra=extra, extra_json_schema={"pattern": pattern})


EnvelopeID = Annotated[str, Meta(pattern=ID_PATTERN)]
Name = Annotated[str, Meta(pattern=NAME_PATTERN)]
TaskID = Annotated[str, Meta(pattern=TASK_PATTERN)]
Text = Annotated[str, apart(_TEXT_PATTERN, text=True)]
Words = Annotated[str, apart(_TEXT_PATTERN, min_length=1, text=True)]
"""Text that must not be empty."""
Count = Annotated[int, Meta(ge=0, le=2**53 - 1)]
Fraction = Annotated[float, Meta(ge=0.0, le=1.0)]

MessageType: TypeAlias = Literal[
    "delegation",
    "acknowledgment",
    "status",
    "question",
    "answer",
    "completion",
    "verdict",
    "escalation",
    "cancellation",
    "parking",
    "budget",
]
FailureReason: TypeAlias = Literal[
    "retryable",
    "permanent",
    "undecodable",
    "quota-limited",
    "refused-by-budget",
    "cancelled",
    "timed-out",
    "lost",
]
"""Why a delivery was not dealt with; `lost` says that its worker was."""
Period: TypeAlias = Literal["month", "day", "task"]
"""For how long a cap counts; months and days are those of UTC, and a task's account counts for its whole life."""
PassedReason: TypeAlias = Literal[
    "busy",
    "out-of-quota",
    "over-budget",
    "not-able",
    "not-justified",
    "failed-before",
    "disabled",
]
"""Why a rung was passed over."""
MESSAGE_TYPES: tuple[MessageType, ...] = get_args(MessageType)
SPOKEN: tuple[MessageType, ...] = tuple(each for each in MESSAGE_TYPES if each not in ("parking", "budget"))
"""The types that somebody says, and a model may write; the others record deliveries, and money."""


class Part(Struct, frozen=True, kw_only=True, omit_defaults=True, forbid_unknown_fields=True, gc=False):
    """What every part of an envelope has in common: immutable, by name only, nothing unknown.

    Immutable parts form no circles, so the garbage collector need not look at them.
    """


class Artifact(Part, frozen=True, kw_only=True):
    """A file, or anything else that a path or URL names, that goes into the work or came out of it."""

    path: Annotated[Words, Meta(description="Path or URL of the artifact.", extra={"as": "attribute"})]
    sha256: Annotated[
        Annotated[str, Meta(pattern=_SHA256_PATTERN)] | None,
        Meta(description="SHA-256 of its bytes, in hexadecimal digits.", extra={"as": "attribute"}),
    ] = None
    size: Annotated[Count | None, Meta(description="Its size in bytes.", extra={"as": "attribute"})] = None
    media_type: Annotated[Words | None, Meta(description="Its media type.", extra={"as": "attribute"})] = None
    summary: Annotated[Words | None, Meta(description="What it is, or what changed in it.", extra={"as": "text"})] = (
        None
    )


class ErrorDetails(Part, frozen=True, kw_only=True):
    """What went wrong, how bad it is, and what was tried."""

    level: Annotated[
        Annotated[int, Meta(ge=1, le=4)],
        Meta(description="1 specialist, 2 coordinator, 3 tech lead, 4 human: who should deal with it."),
    ]
    category: Annotated[
        Literal["execution", "validation", "integration", "architectural"],
        Meta(description="What kind of trouble it is."),
    ]
    message: Annotated[Words, Meta(description="What happened.")]
    attempted_recovery: Annotated[Text | None, Meta(description="What was tried against it.")] = None


class Hold(Part, frozen=True, kw_only=True):
    """Money that was reserved before the work began."""

    id: Annotated[TaskID, Meta(description="Name of the reservation.", extra={"as": "attribute"})]
    microusd: Annotated[Count, Meta(description="Its amount, in millionths of a US dollar.", extra={"as": "text"})]


class CriterionResult(Part, frozen=True, kw_only=True):
    """Whether one acceptance criterion was met, and what shows it."""

    criterion: Annotated[Words, Meta(description="The criterion, as the delegation put it.", extra={"element": "text"})]
    met: Annotated[bool, Meta(description="Whether it was met.")]
    evidence: Annotated[Text | None, Meta(description="What shows it.")] = None


class Passed(Part, frozen=True, kw_only=True):
    """A rung of the ladder that was passed over, and why."""

    rung: Annotated[Words, Meta(description="The rung, as the policy names it.", extra={"as": "attribute"})]
    agent: Annotated[Name | None, Meta(description="Whose rung it is.", extra={"as": "attribute"})] = None
    reason: Annotated[
        PassedReason,
        Meta(
            description="Too much is under way, or too much was begun lately; it waits for its quota; a cap would be "
            "exceeded; it is not for such work; nobody justified a paid model; it failed with this task; it is "
            "switched off.",
            extra={"as": "attribute", "element": "why"},
        ),
    ]
    note: Annotated[Words | None, Meta(description="More about it.", extra={"as": "text"})] = None


class Route(Part, frozen=True, kw_only=True):
    """How it was chosen who gets the task: by which policy, and which rungs were passed over."""

    rung: Annotated[Words, Meta(description="The rung that was chosen.", extra={"as": "attribute"})]
    provider: Annotated[
        Words | None, Meta(description="Provider of the model that is to run.", extra={"as": "attribute"})
    ] = None
    model: Annotated[Words | None, Meta(description="The model that is to run.", extra={"as": "attribute"})] = None
    complexity: Annotated[
        Words | None, Meta(description="The complexity that it was chosen for.", extra={"as": "attribute"})
    ] = None
    policy: Annotated[
        Words | None,
        Meta(description="The first 12 digits of the policy file's SHA-256.", extra={"as": "attribute"}),
    ] = None
    climbs: Annotated[
        Count | None, Meta(description="How often the task has climbed before.", extra={"as": "attribute"})
    ] = None
    passed: Annotated[
        tuple[Passed, ...], Meta(description="The rungs that were passed over, in order.", extra={"item": "rung"})
    ] = ()


class Delegation(Part, frozen=True, kw_only=True):
    """Starts a task, or hands the same task out again."""

    TYPE: ClassVar[MessageType] = "delegation"
    action: Annotated[Text | None, Meta(description="The sender's own word for what it does.")] = None
    goal: Annotated[Words, Meta(description="What is to be reached.")]
    task_type: Annotated[
        Words | None, Meta(description="The kind of work, for routing: implementation, review, research …")
    ] = None
    constraints: Annotated[
        tuple[Words, ...], Meta(description="What must be kept to.", extra={"item": "constraint"})
    ] = ()
    artifacts: Annotated[
        tuple[Artifact, ...], Meta(description="What the work starts from.", extra={"item": "file"})
    ] = ()
    acceptance_criteria: Annotated[
        tuple[Words, ...],
        Meta(description="By what the result will be judged.", extra={"item": "criterion"}),
    ] = ()
    review_required: Annotated[
        bool,
        Meta(description="Whether the delegator must accept the result; without it, a completion is accepted."),
    ] = True
    paid_model_justification: Annotated[
        Text | None, Meta(description="Why a paid model is needed, and which free ones were tried.")
    ] = None
    route: Annotated[Route | None, Meta(description="How it was chosen who gets it.")] = None


class Acknowledgment(Part, frozen=True, kw_only=True):
    """Takes a task on, or declines it."""

    TYPE: ClassVar[MessageType] = "acknowledgment"
    action: Annotated[Text | None, Meta(description="The sender's own word for what it does.")] = None
    accepted: Annotated[bool, Meta(description="Whether the task is taken on.")]
    decline_reason: Annotated[Text | None, Meta(description="Why it is not.")] = None
    constraints_accepted: Annotated[
        tuple[Words, ...],
        Meta(description="The constraints that will be kept to.", extra={"item": "constraint"}),
    ] = ()
    provider: Annotated[Words | None, Meta(description="Provider of the model that will run.")] = None
    model: Annotated[Words | None, Meta(description="The model that will run.")] = None
    hold: Annotated[Hold | None, Meta(description="The money reserved for it.")] = None


class Status(Part, frozen=True, kw_only=True):
    """Says how far the work is."""

    TYPE: ClassVar[MessageType] = "status"
    action: Annotated[Text | None, Meta(description="The sender's own word for what it does.")] = None
    progress: Annotated[Words, Meta(description="How far the work is, in words.")]
    fraction: Annotated[Fraction | None, Meta(description="How far the work is, from 0 to 1.")] = None


class Question(Part, frozen=True, kw_only=True):
    """Asks for something without which the work cannot go on."""

    TYPE: ClassVar[MessageType] = "question"
    action: Annotated[Text | None, Meta(description="The sender's own word for what it does.")] = None
    question: Annotated[Words, Meta(description="What is asked.")]
    blocks: Annotated[
        tuple[Words, ...], Meta(description="What cannot go on without an answer.", extra={"item": "item"})
    ] = ()


class Answer(Part, frozen=True, kw_only=True):
    """Answers a question, or an escalation; the work goes on."""

    TYPE: ClassVar[MessageType] = "answer"
    action: Annotated[Text | None, Meta(description="The sender's own word for what it does.")] = None
    answer: Annotated[Words, Meta(description="The answer.")]


class Result(Part, frozen=True, kw_only=True):
    """What came out of the work."""

    status: Annotated[
        Literal["success", "partial", "failure"],
        Meta(
            description="Whether the goal was reached.",
            extra={
                "element": "success",
                "words": {"success": "true", "partial": "partial", "failure": "false"},
            },
        ),
    ]
    description: Annotated[Text | None, Meta(description="The result, for people to read.")] = None
    artifacts: Annotated[
        tuple[Artifact, ...], Meta(description="What was made or changed.", extra={"item": "file"})
    ] = ()


class Completion(Part, frozen=True, kw_only=True):
    """Ends the assignee's work on this attempt."""

    TYPE: ClassVar[MessageType] = "completion"
    action: Annotated[Text | None, Meta(description="The sender's own word for what it does.")] = None
    result: Annotated[Result, Meta(description="What came out of the work.")]
    verification_result: Annotated[Text | None, Meta(description="How the result was checked.")] = None
    next_steps: Annotated[Text | None, Meta(description="What should be done next.")] = None
    termination_reason: Annotated[
        Text | None,
        Meta(description="Why the work ended, where it was not simply done: turn-limit, timeout …"),
    ] = None
    error_details: Annotated[ErrorDetails | None, Meta(description="What went wrong.")] = None


class Verdict(Part, frozen=True, kw_only=True):
    """Accepts or rejects a completion, criterion by criterion."""

    TYPE: ClassVar[MessageType] = "verdict"
    action: Annotated[Text | None, Meta(description="The sender's own word for what it does.")] = None
    decision: Annotated[Literal["accepted", "rejected"], Meta(description="Rejected: the assignee tries again.")]
    criteria: Annotated[
        tuple[CriterionResult, ...],
        Meta(description="Each acceptance criterion with its evidence.", extra={"item": "criterion"}),
    ] = ()
    comment: Annotated[Text | None, Meta(description="What the assignee should know.")] = None


class Escalation(Part, frozen=True, kw_only=True):
    """Hands trouble to somebody who can deal with it."""

    TYPE: ClassVar[MessageType] = "escalation"
    action: Annotated[Text | None, Meta(description="The sender's own word for what it does.")] = None
    error_details: Annotated[ErrorDetails, Meta(description="What went wrong.")]


class Cancellation(Part, frozen=True, kw_only=True):
    """Ends a task that is no longer wanted."""

    TYPE: ClassVar[MessageType] = "cancellation"
    action: Annotated[Text | None, Meta(description="The sender's own word for what it does.")] = None
    reason: Annotated[Words, Meta(description="Why it is no longer wanted.")]


class Parking(Part, frozen=True, kw_only=True):
    """Records what became of deliveries that could not be dealt with: set aside, delivered again, or given up."""

    TYPE: ClassVar[MessageType] = "parking"
    action: Annotated[Text | None, Meta(description="The sender's own word for what it does.")] = None
    parking: Annotated[
        Literal["parked", "replayed", "dropped"],
        Meta(description="Whether the deliveries were set aside, put back into the inbox, or given up."),
    ]
    agent: Annotated[Name, Meta(description="Whose deliveries they are.")]
    deliveries: Annotated[
        tuple[EnvelopeID, ...],
        Meta(description="The IDs of their envelopes, in the order of the log.", extra={"item": "envelope"}),
    ] = ()
    resumes: Annotated[
        bool, Meta(description="Replayed: whether that submits the escalated task to its assignee again.")
    ] = False
    # XML Schema allows one type for all elements of a name in the payload, and <reason> is that of a cancellation.
    reason: Annotated[
        FailureReason | None,
        Meta(description="Why they were set aside.", extra={"element": "failure-reason"}),
    ] = None
    attempts: Annotated[Count | None, Meta(description="How often they were tried before they were set aside.")] = None
    message: Annotated[Text | None, Meta(description="What happened, for people to read.")] = None


class Budget(Part, frozen=True, kw_only=True):
    """Records what became of money: a cap, a reservation and its end, or that a cap is nearly used up."""

    TYPE: ClassVar[MessageType] = "budget"
    action: Annotated[Text | None, Meta(description="The sender's own word for what it does.")] = None
    budget: Annotated[
        Literal["cap", "reserved", "settled", "released", "warned"],
        Meta(description="A cap was decided; money was reserved, settled, given back; a cap is nearly used up."),
    ]
    account: Annotated[
        Words | None, Meta(description="Whose money a cap is about: provider:anthropic, agent:@kilo, task:<root task>.")
    ] = None
    period: Annotated[
        Period | None, Meta(description="For how long a cap counts: a month or a day in UTC, or the task's whole life.")
    ] = None
    span: Annotated[Words | None, Meta(description="The month or day that a warning is about, such as 2026-11.")] = None
    microusd: Annotated[
        Count | None, Meta(description="The cap, in millionths of a US dollar; left out by a decision: no cap.")
    ] = None
    hold: Annotated[Hold | None, Meta(description="The reservation that was made, or ends.")] = None
    agent: Annotated[Name | None, Meta(description="Whose reservation was given back.")] = None
    provider: Annotated[Words | None, Meta(description="Provider of the model that will run.")] = None
    model: Annotated[Words | None, Meta(description="The model that will run.")] = None
    table: Annotated[Words | None, Meta(description="Version of the prices that the reservation goes by.")] = None
    ended: Annotated[
        Literal["lost", "cancelled", "by-hand"] | None,
        Meta(description="Why a reservation was given back: lost says that its worker was."),
    ] = None
    committed: Annotated[Count | None, Meta(description="What was spent of the account, in microdollars.")] = None
    held: Annotated[Count | None, Meta(description="What is reserved of the account, in microdollars.")] = None
    # XML Schema allows one type for all elements of a name in the payload, and <reason> is that of a cancellation.
    reason: Annotated[
        Words | None, Meta(description="Why, for people to read.", extra={"element": "budget-reason"})
    ] = None


Payload: TypeAlias = (
    Delegation
    | Acknowledgment
    | Status
    | Question
    | Answer
    | Completion
    | Verdict
    | Escalation
    | Cancellation
    | Parking
    | Budget
)
PAYLOADS: dict[MessageType, type[Payload]] = {
    payload.TYPE: payload for payload in cast("tuple[type[Payload], ...]", get_args(Payload))
}
MARKERS: dict[MessageType, str] = {
    "delegation": "goal",
    "acknowledgment": "accepted",
    "status": "progress",
    "question": "question",
    "answer": "answer",
    "completion": "result",
    "verdict": "decision",
    "escalation": "error_details",
    "cancellation": "reason",
    "parking": "parking",
    "budget": "budget",
}
"""The required field of each payload by which its kind is told; the XSD ties `type` to it."""
