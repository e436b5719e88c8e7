"""The gist of an envelope: what it says, in short.

Read models keep it, so a change of the wording is a new version of them. Called by whatever lists envelopes
for people; it is the sender's own text, and not yet safe to print on a terminal.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from taskbus.amount import dollars
from taskbus.envelope import (
    Acknowledgment,
    Answer,
    Budget,
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
    from taskbus.payload import Route


def gist(envelope: AnyEnvelope) -> str:  # noqa: C901, PLR0911 - one for each type
    """What an envelope says, in short; a completion takes a line for each thing that it says."""
    payload: Payload = envelope.payload
    match payload:
        case Delegation():
            goal = f"[{payload.task_type}] {payload.goal}" if payload.task_type else payload.goal
            return goal if payload.route is None else f"{goal}\n{_route(payload.route)}"
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
        case Budget():
            return _budget(payload)


def _route(route: Route) -> str:
    said = f"routed to rung {route.rung}"
    if route.model is not None:
        said += f" ({route.model})"
    passed = ", ".join(f"{each.rung} ({each.reason})" for each in route.passed)
    return f"{said}, passing over {passed}" if passed else said


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


def _budget(payload: Budget) -> str:
    hold, account = payload.hold, payload.account or "an account"
    amount = _dollars(hold.microusd if hold is not None else payload.microusd)
    by = "" if payload.period in (None, "task") else f" by {payload.period}"
    model = f" for {payload.provider or 'unknown'}/{payload.model}" if payload.model else ""
    match payload.budget:
        case "cap":
            said = f"{account} may spend {amount or 'without a cap'}{by}"
        case "reserved":
            said = f"{amount} reserved{model}"
        case "settled":
            said = f"settled{f', of {amount} reserved' if amount else ''}{model}"
        case "released":
            said = f"{amount} given back{f' ({payload.ended})' if payload.ended else ''}"
        case "warned":
            spent, held = _dollars(payload.committed), _dollars(payload.held)
            span = f" in {payload.span}" if by else ""
            said = f"{account}{span}: {spent} spent and {held} reserved of {amount}"
    return f"{said}: {payload.reason}" if payload.reason else said


def _dollars(microusd: int | None) -> str:
    return "" if microusd is None else dollars(microusd)


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
