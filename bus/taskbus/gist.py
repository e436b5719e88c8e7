"""The gist of an envelope: what it says, in short.

Read models keep it, so a change of the wording is a new version of them. Called by whatever lists envelopes
for people; it is the sender's own text, and not yet safe to print on a terminal.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from taskbus.envelope import (
    Acknowledgment,
    Answer,
    Cancellation,
    Completion,
    Delegation,
    Escalation,
    Parking,
    Question,
    Status,
    Verdict,
)

if TYPE_CHECKING:
    from taskbus.envelope import AnyEnvelope, Payload


def gist(envelope: AnyEnvelope) -> str:  # noqa: C901, PLR0911 - one for each type
    """What an envelope says, in short; a completion takes a line for each thing that it says."""
    payload: Payload = envelope.payload
    match payload:
        case Delegation():
            return f"[{payload.task_type}] {payload.goal}" if payload.task_type else payload.goal
        case Acknowledgment(accepted=True):
            return f"accepted, to run on {payload.model}" if payload.model else "accepted"
        case Acknowledgment():
            return f"declined: {payload.decline_reason}" if payload.decline_reason else "declined"
        case Status(fraction=None):
            return payload.progress
        case Status():
            return f"{payload.fraction:.0%} {payload.progress}"
        case Question():
            return payload.question
        case Answer():
            return payload.answer
        case Completion():
            return _result(payload)
        case Verdict():
            missed = [each.criterion for each in payload.criteria if not each.met]
            reasons = ". ".join(filter(None, (payload.comment, "; ".join(f"not met: {each}" for each in missed))))
            return f"{payload.decision}: {reasons}" if reasons else payload.decision
        case Escalation():
            error = payload.error_details
            return f"level {error.level}, {error.category}: {error.message}"
        case Cancellation():
            return payload.reason
        case Parking():
            return _parking(payload)


def _parking(parking: Parking) -> str:
    several = f"{len(parking.deliveries)} deliveries " if len(parking.deliveries) > 1 else ""
    said = f"{several}{parking.parking} for {parking.agent}"
    if parking.attempts is not None:
        said += f" after {parking.attempts} attempt{'' if parking.attempts == 1 else 's'}"
    if parking.reason is not None:
        said += f" ({parking.reason})"
    if parking.resumes:
        said += ", resuming the task"
    return f"{said}: {parking.message}" if parking.message else said


def _result(completion: Completion) -> str:
    result = completion.result
    said = [f"{result.status}: {result.description}" if result.description else result.status]
    if result.artifacts:
        said.append("made " + ", ".join(each.path for each in result.artifacts))
    if completion.verification_result:
        said.append(f"checked: {completion.verification_result}")
    if completion.error_details:
        said.append(f"{completion.error_details.category}: {completion.error_details.message}")
    if completion.next_steps:
        said.append(f"next: {completion.next_steps}")
    return "\n".join(said)
