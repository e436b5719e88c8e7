"""The handoff shorthand: the short JSON documents with which people and agents delegate a task and complete
one, or ask about it.

`bus delegate` and `bus complete` take them; what they leave out of an envelope (who says it, when, which
task) the command fills in. They are read as strictly as envelopes are.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Annotated, Literal, cast

import msgspec
from msgspec import Meta, Struct

from taskbus import json, shape
from taskbus.envelope import (
    Artifact,
    Completion,
    Delegation,
    ErrorDetails,
    Priority,
    Question,
    Result,
    TaskID,
    Text,
    Time,
    Usage,
    Words,
)
from taskbus.errors import InvalidEnvelope
from taskbus.findings import Repeated
from taskbus.payload import Route
from taskbus.validation import convert

_ENVELOPE_FIELDS = frozenset({"sender", "recipient", "type", "payload"})
_Target = Annotated[
    str,
    Meta(pattern=r"^@?[A-Za-z0-9][A-Za-z0-9._\-]{0,63}\Z", extra={"form": "an agent such as kilo or @kilo"}),
]


class _Part(Struct, frozen=True, kw_only=True, omit_defaults=True, forbid_unknown_fields=True):
    """What the parts of the shorthand have in common: immutable, by name only, nothing unknown."""


class HandoffContext(_Part, frozen=True, kw_only=True):
    """What the work is about."""

    goal: Annotated[Words, Meta(description="What is to be reached.")]
    constraints: Annotated[tuple[Words, ...], Meta(description="What must be kept to.")] = ()


class Handoff(_Part, frozen=True, kw_only=True):
    """A delegation in short."""

    target_agent: Annotated[_Target, Meta(description="Who is to do it; the @ may be left out.")]
    task_type: Annotated[Words | None, Meta(description="The kind of work, for routing.")] = None
    context: Annotated[HandoffContext, Meta(description="What the work is about.")]
    artifacts: Annotated[
        tuple[Words | Artifact, ...],
        Meta(description="What the work starts from: paths, or objects with a path and more."),
    ] = ()
    acceptance_criteria: Annotated[tuple[Words, ...], Meta(description="By what the result will be judged.")] = ()
    review_required: Annotated[bool, Meta(description="Whether the delegator must accept the result.")] = True
    paid_model_justification: Annotated[
        Text | None, Meta(description="Why a paid model is needed, and which free ones were tried.")
    ] = None
    action: Annotated[Text | None, Meta(description="The sender's own word for what it does.")] = None
    priority: Annotated[Priority, Meta(description="Which of several goes first.")] = "normal"
    deadline: Annotated[Time | None, Meta(description="When the work must be done.")] = None
    parent_task: Annotated[TaskID | None, Meta(description="The task that this one is a part of.")] = None
    route: Annotated[Route | None, Meta(description="How it was chosen who gets the task.")] = None


class Handback(_Part, frozen=True, kw_only=True):
    """A completion in short."""

    status: Annotated[Literal["success", "partial", "failure"], Meta(description="Whether the goal was reached.")]
    description: Annotated[Text | None, Meta(description="The result, for people to read.")] = None
    outputs: Annotated[tuple[Words, ...], Meta(description="Paths of what was made or changed.")] = ()
    artifacts: Annotated[
        tuple[Words | Artifact, ...], Meta(description="The same with more than a path; after the outputs.")
    ] = ()
    verification_result: Annotated[Text | None, Meta(description="How the result was checked.")] = None
    next_steps: Annotated[Text | None, Meta(description="What should be done next.")] = None
    termination_reason: Annotated[
        Text | None, Meta(description="Why the work ended, where it was not simply done.")
    ] = None
    error_details: Annotated[ErrorDetails | None, Meta(description="What went wrong.")] = None
    action: Annotated[Text | None, Meta(description="The sender's own word for what it does.")] = None
    usage: Annotated[tuple[Usage, ...], Meta(description="What models used for this.")] = ()


class Ask(_Part, frozen=True, kw_only=True):
    """A question in short."""

    question: Annotated[Words, Meta(description="What is asked.")]
    blocks: Annotated[tuple[Words, ...], Meta(description="What cannot go on without an answer.")] = ()
    action: Annotated[Text | None, Meta(description="The sender's own word for what it does.")] = None
    usage: Annotated[tuple[Usage, ...], Meta(description="What models used for this.")] = ()


@dataclass(frozen=True, slots=True)
class ShortDelegation:
    """What a delegation in short says: to whom, what, and what goes into the header of the envelope."""

    recipient: str
    payload: Delegation
    priority: Priority = "normal"
    deadline: datetime | None = None
    parent_task: str | None = None


@dataclass(frozen=True, slots=True)
class ShortCompletion:
    """What a completion in short says: the payload, and the usage beside it."""

    payload: Completion
    usage: tuple[Usage, ...] = ()


@dataclass(frozen=True, slots=True)
class ShortQuestion:
    """What a question in short says: the payload, and the usage beside it."""

    payload: Question
    usage: tuple[Usage, ...] = ()


def is_shorthand(data: bytes) -> bool:
    """Whether this is a JSON object with none of the fields by which an envelope is known."""
    names = _names(data)
    return names is not None and not _ENVELOPE_FIELDS & names


def kind(data: bytes) -> Literal["delegation", "completion"] | None:
    """Which of the two this is meant to be; None where it is neither."""
    names = _names(data)
    if names is None or _ENVELOPE_FIELDS & names:
        return None
    if "target_agent" in names:
        return "delegation"
    return "completion" if "status" in names else None


def is_object(data: bytes) -> bool:
    """Whether this is one JSON object and nothing else."""
    return _names(data) is not None


def is_question(data: bytes) -> bool:
    """Whether this is meant to be a question in short, which only an agent at work says."""
    names = _names(data)
    return names is not None and "question" in names and not (_ENVELOPE_FIELDS | {"status"}) & names


def _names(data: bytes) -> frozenset[str] | None:
    """The fields of a JSON object; None where it is something else."""
    try:
        plain = json.parse(data)
    except InvalidEnvelope:
        return None
    plain = plain.plain if isinstance(plain, Repeated) else plain
    return frozenset(cast("dict[str, object]", plain)) if isinstance(plain, dict) else None


def read_delegation(data: bytes, *, source: str | None = None) -> ShortDelegation:
    """Read a delegation in short. Raises InvalidEnvelope with every problem; `source` names it there."""
    short = convert(json.parse(data, source=source), Handoff, shape.record(Handoff), source=source)
    return ShortDelegation(
        recipient="@" + short.target_agent.removeprefix("@"),
        payload=Delegation(
            action=short.action,
            goal=short.context.goal,
            task_type=short.task_type,
            constraints=short.context.constraints,
            artifacts=_artifacts(short.artifacts),
            acceptance_criteria=short.acceptance_criteria,
            review_required=short.review_required,
            paid_model_justification=short.paid_model_justification,
            route=short.route,
        ),
        priority=short.priority,
        deadline=short.deadline,
        parent_task=short.parent_task,
    )


def read_completion(data: bytes, *, source: str | None = None) -> ShortCompletion:
    """Read a completion in short. Raises InvalidEnvelope with every problem; `source` names it there."""
    short = convert(json.parse(data, source=source), Handback, shape.record(Handback), source=source)
    result = Result(
        status=short.status,
        description=short.description,
        artifacts=_artifacts((*short.outputs, *short.artifacts)),
    )
    payload = Completion(
        action=short.action,
        result=result,
        verification_result=short.verification_result,
        next_steps=short.next_steps,
        termination_reason=short.termination_reason,
        error_details=short.error_details,
    )
    return ShortCompletion(payload, short.usage)


def read_question(data: bytes, *, source: str | None = None) -> ShortQuestion:
    """Read a question in short. Raises InvalidEnvelope with every problem; `source` names it there."""
    short = convert(json.parse(data, source=source), Ask, shape.record(Ask), source=source)
    return ShortQuestion(Question(action=short.action, question=short.question, blocks=short.blocks), short.usage)


def write_delegation(short: ShortDelegation) -> bytes:
    """Write a delegation in short; `read_delegation` gives the same back."""
    payload = short.payload
    return _written(
        Handoff(
            target_agent=short.recipient.removeprefix("@"),
            task_type=payload.task_type,
            context=HandoffContext(goal=payload.goal, constraints=payload.constraints),
            artifacts=tuple(_brief(each) for each in payload.artifacts),
            acceptance_criteria=payload.acceptance_criteria,
            review_required=payload.review_required,
            paid_model_justification=payload.paid_model_justification,
            action=payload.action,
            priority=short.priority,
            deadline=short.deadline,
            parent_task=short.parent_task,
            route=payload.route,
        )
    )


def write_completion(short: ShortCompletion) -> bytes:
    """Write a completion in short; `read_completion` gives the same back."""
    payload = short.payload
    artifacts = tuple(_brief(each) for each in payload.result.artifacts)
    paths = tuple(each for each in artifacts if isinstance(each, str))
    plain = len(paths) == len(artifacts)
    return _written(
        Handback(
            status=payload.result.status,
            description=payload.result.description,
            outputs=paths if plain else (),
            artifacts=() if plain else artifacts,
            verification_result=payload.verification_result,
            next_steps=payload.next_steps,
            termination_reason=payload.termination_reason,
            error_details=payload.error_details,
            action=payload.action,
            usage=short.usage,
        )
    )


def _artifacts(named: tuple[str | Artifact, ...]) -> tuple[Artifact, ...]:
    return tuple(Artifact(path=each) if isinstance(each, str) else each for each in named)


def _brief(artifact: Artifact) -> str | Artifact:
    return artifact.path if artifact == Artifact(path=artifact.path) else artifact


def _written(short: Struct) -> bytes:
    return msgspec.json.format(msgspec.json.encode(short), indent=2) + b"\n"
