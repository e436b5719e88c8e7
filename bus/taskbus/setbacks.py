"""Setbacks: why a delivery was not dealt with, and what tells of one that is set aside for it.

Turns whatever a handler raised into a typed reason, and writes the envelopes that are published with a delivery that
is parked. Pure; called by the worker.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, cast

from msgspec import structs

from taskbus.envelope import Context, ErrorDetails, Escalation, Parking, compose
from taskbus.errors import Failure, InvalidEnvelope, QuotaLimited, TaskbusError
from taskbus.lifecycle import BUS, HUMAN
from taskbus.supervision import LEVEL

if TYPE_CHECKING:
    from datetime import datetime

    from taskbus.delivery import Delivery
    from taskbus.envelope import AnyEnvelope, Payload
    from taskbus.payload import FailureReason

_LONGEST = 4000
_CATEGORIES: dict[FailureReason, Literal["execution", "validation"]] = {"undecodable": "validation"}


@dataclass(frozen=True, slots=True)
class Setback:
    """Why a delivery was not dealt with; `until` says when a quota is reset."""

    reason: FailureReason
    message: str
    until: datetime | None = None

    @classmethod
    def of(cls, error: Exception) -> Setback:
        """From what a handler raised. What is no Failure may succeed when it is tried again."""
        message = error.message if isinstance(error, TaskbusError) else f"{type(error).__name__}: {error}"
        if isinstance(error, QuotaLimited):
            return cls("quota-limited", printable(message), error.until)
        if isinstance(error, Failure):
            return cls(error.reason, printable(message))
        return cls("permanent" if isinstance(error, InvalidEnvelope) else "retryable", printable(message))


def records(delivery: Delivery, setback: Setback, *, open_work: bool) -> list[AnyEnvelope]:
    """What is published with a delivery that is parked: work on an open task is escalated to its coordinator.

    The record of the parking itself goes to the log alone then; else to the coordinator, or to @human where the
    agent is the coordinator itself.
    """
    # Whoever finds that the last attempt was lost makes none of its own.
    attempts = delivery.tries - (setback.reason == "lost")
    times = "1 attempt" if attempts == 1 else f"{attempts} attempts"
    known = delivery.known
    coordinator = known.coordinator if known is not None else delivery.entry.sender
    parking = Parking(
        parking="parked",
        agent=delivery.agent,
        deliveries=(delivery.entry.id,),
        reason=setback.reason,
        attempts=attempts,
        message=setback.message,
    )
    if not open_work:
        return [_from_bus(delivery, parking, HUMAN if coordinator in (delivery.agent, BUS) else coordinator, "parked")]
    trouble = ErrorDetails(
        level=LEVEL,
        category=_CATEGORIES.get(setback.reason, "execution"),
        message=f"{delivery.agent} gave up after {times} ({setback.reason}), and the {delivery.entry.type} is parked: "
        f"{setback.message}"[:_LONGEST],
        attempted_recovery=f"{times}. `bus parked replay {delivery.task}` delivers it again, "
        f"`bus parked drop {delivery.task}` gives it up.",
    )
    return [
        _from_bus(delivery, Escalation(error_details=trouble), coordinator, "escalated"),
        _from_bus(delivery, parking, BUS, "parked"),
    ]


def _from_bus(delivery: Delivery, payload: Payload, recipient: str, name: str) -> AnyEnvelope:
    entry = delivery.entry
    made: AnyEnvelope = compose(payload, sender=BUS, recipient=recipient, task=entry.task, root=entry.root)
    # The cause is named by its ID alone, since it may be what could not be decoded.
    context: Context = structs.replace(made.context, causation_id=entry.id)
    return structs.replace(made, id=delivery.outcome_id(name), context=context)


def single(error: Exception) -> Exception:
    """What was raised in a task group, where it was one exception; anything else as it is."""
    if not isinstance(error, ExceptionGroup):
        return error
    group = cast("ExceptionGroup[Exception]", error)
    return group if len(group.exceptions) > 1 else single(next(iter(group.exceptions)))


def printable(message: str) -> str:
    """A text that any envelope can carry, and any terminal show."""
    return "".join(c if c.isprintable() or c in "\n\t" else repr(c)[1:-1] for c in message)[:_LONGEST]
