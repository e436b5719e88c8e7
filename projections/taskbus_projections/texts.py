"""The texts of an envelope: all that it says in words, for the full-text search.

What is looked for is what somebody wrote: goals, criteria, paths, answers, errors, notes of the quality gates. Names,
numbers and the words of the format are columns of the audit trail, and stand in none of this.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from taskbus.envelope import (
        Acknowledgment,
        Answer,
        AnyEnvelope,
        Artifact,
        Budget,
        Cancellation,
        Completion,
        Delegation,
        ErrorDetails,
        Escalation,
        MessageType,
        Parking,
        Question,
        Status,
        Verdict,
    )

_Texts: TypeAlias = "list[str | None]"


def spoken(envelope: AnyEnvelope) -> str:
    """All texts of the payload and the notes of the quality gates, each on lines of its own."""
    payload = envelope.payload
    found = _OF[envelope.type](payload)
    if payload.action is not None:
        found.append(payload.action)
    gates = envelope.quality_gates
    if gates is not None:
        layers = (gates.input, gates.hallucination, gates.boundary, gates.output, gates.escalation)
        found += [gate.note for gate in layers if gate is not None]
    return "\n".join(filter(None, found))


def _delegation(payload: Delegation) -> _Texts:
    found: _Texts = [payload.goal, payload.task_type, payload.paid_model_justification]
    found += payload.constraints
    found += payload.acceptance_criteria
    if payload.route is not None:
        found += [each.note for each in payload.route.passed]
    return found + _artifacts(payload.artifacts) if payload.artifacts else found


def _acknowledgment(payload: Acknowledgment) -> _Texts:
    return [payload.decline_reason, *payload.constraints_accepted]


def _status(payload: Status) -> _Texts:
    return [payload.progress]


def _question(payload: Question) -> _Texts:
    return [payload.question, *payload.blocks]


def _answer(payload: Answer) -> _Texts:
    return [payload.answer]


def _completion(payload: Completion) -> _Texts:
    result = payload.result
    found: _Texts = [
        result.description,
        payload.verification_result,
        payload.next_steps,
        payload.termination_reason,
    ]
    if payload.error_details is not None:
        found += _error(payload.error_details)
    return found + _artifacts(result.artifacts) if result.artifacts else found


def _verdict(payload: Verdict) -> _Texts:
    found: _Texts = [payload.comment]
    for each in payload.criteria:
        found += (each.criterion, each.evidence)
    return found


def _escalation(payload: Escalation) -> _Texts:
    return _error(payload.error_details)


def _cancellation(payload: Cancellation) -> _Texts:
    return [payload.reason]


def _parking(payload: Parking) -> _Texts:
    return [payload.message]


def _budget(payload: Budget) -> _Texts:
    return [payload.reason]


def _error(error: ErrorDetails) -> _Texts:
    return [error.message, error.attempted_recovery]


def _artifacts(artifacts: Iterable[Artifact]) -> _Texts:
    return [text for each in artifacts for text in (each.path, each.summary)]


# Each takes the payload of its type, which no type can say.
_OF: Final[dict[MessageType, Callable[[Any], _Texts]]] = {
    "delegation": _delegation,
    "acknowledgment": _acknowledgment,
    "status": _status,
    "question": _question,
    "answer": _answer,
    "completion": _completion,
    "verdict": _verdict,
    "escalation": _escalation,
    "cancellation": _cancellation,
    "parking": _parking,
    "budget": _budget,
}
