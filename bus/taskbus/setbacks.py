"""Setbacks: why a delivery was not dealt with, and what tells of one that is set aside for it.

Turns whatever a handler raised into a typed reason, and writes the envelopes that are published with a delivery that
is parked. Pure; called by the worker.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, cast

from msgspec import structs

from taskbus.codec import Document
from taskbus.envelope import Budget, Context, ErrorDetails, Escalation, Parking, compose
from taskbus.errors import BudgetLost, Failure, InvalidEnvelope, OverBudget, QuotaLimited, RefusedByBudget, TaskbusError
from taskbus.lifecycle import BUS, HUMAN
from taskbus.supervision import HIGHEST, LEVEL, SAID

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime

    from taskbus.delivery import Delivery
    from taskbus.envelope import AnyEnvelope, Payload
    from taskbus.payload import FailureReason

_LONGEST = 4000
_CHOICES = (
    "Wait until the cap is counted anew; hand the task to another rung (`bus delegate @agent GOAL --task TASK`); or "
    "raise the cap (`bus budget set ACCOUNT AMOUNT --per PERIOD --reason …`)."
)
_CATEGORIES: dict[FailureReason, Literal["execution", "validation"]] = {"undecodable": "validation"}


@dataclass(frozen=True, slots=True)
class Setback:
    """Why a delivery was not dealt with, and `choices` of what can be done about it.

    With `waits` it waits, which counts as no try: `until` a quota is reset, or for money that other runs hold.
    """

    reason: FailureReason
    message: str
    until: datetime | None = None
    choices: str | None = None
    waits: bool = False

    @classmethod
    def of(cls, error: Exception) -> Setback:
        """From what a handler raised. What is no Failure may succeed when it is tried again."""
        message = error.message if isinstance(error, TaskbusError) else f"{type(error).__name__}: {error}"
        if isinstance(error, QuotaLimited):
            return cls("quota-limited", printable(message), error.until, waits=True)
        if isinstance(error, OverBudget) and error.is_held:
            return cls("refused-by-budget", printable(message), waits=True)
        refused = error if isinstance(error, OverBudget | BudgetLost) else error.__cause__
        if isinstance(error, RefusedByBudget | OverBudget | BudgetLost):
            said = refused.advice if isinstance(refused, OverBudget | BudgetLost) else error.advice
            return cls("refused-by-budget", printable(message), choices=said or _CHOICES)
        if isinstance(error, Failure):
            return cls(error.reason, printable(message))
        return cls("permanent" if isinstance(error, InvalidEnvelope) else "retryable", printable(message))


def records(
    delivery: Delivery, setback: Setback, *, open_work: bool, coordinator: str | None = None
) -> list[AnyEnvelope]:
    """What is published with a delivery that is parked: work on an open task is escalated.

    To `coordinator`, the agent's own, where it has one, else to the task's. The record of the parking itself goes to
    the log alone then; else to the task's coordinator, or to @human where the agent is that itself.
    """
    attempts, times = _times(delivery, setback)
    own = coordinator if coordinator != delivery.agent else None
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
        attempted_recovery=f"{times}. {setback.choices or ''}{' ' if setback.choices else ''}"
        f"`bus parked replay {delivery.task}` delivers it again, `bus parked drop {delivery.task}` gives it up.",
    )
    return [
        _from_bus(delivery, Escalation(error_details=trouble), own or coordinator, "escalated"),
        _from_bus(delivery, parking, BUS, "parked"),
    ]


def undecided(delivery: Delivery, setback: Setback, *, coordinator: str | None = None) -> AnyEnvelope:
    """What settles an escalation that its agent could not deal with: it goes one level up.

    To `coordinator`, the agent's own; to @human where it has none, at the highest level, and instead of whoever it
    came from.
    """
    _, times = _times(delivery, setback)
    try:
        came = delivery.entry.envelope.payload
    except InvalidEnvelope:  # which may be why it could not be dealt with
        came = None
    said = came.error_details if isinstance(came, Escalation) else None
    level = min((said.level if said is not None else LEVEL) + 1, HIGHEST)
    message = f"{delivery.agent} did not decide after {times} ({setback.reason}): {setback.message}"
    if said is not None:
        message = f"{message[: _LONGEST // 2].rstrip('.')}.{SAID}{said.message.rpartition(SAID)[2]}"
    is_above = coordinator not in (None, delivery.agent, delivery.entry.sender) and level < HIGHEST
    details = ErrorDetails(
        level=level,
        category=said.category if said is not None else "execution",
        message=message[:_LONGEST],
        attempted_recovery=said.attempted_recovery if said is not None else None,
    )
    recipient = coordinator if coordinator is not None and is_above else HUMAN
    return _from_bus(delivery, Escalation(error_details=details), recipient, "undecided")


def _times(delivery: Delivery, setback: Setback) -> tuple[int, str]:
    """How often it was tried, and that in words."""
    # Whoever finds that the last attempt was lost makes none of its own.
    attempts = delivery.tries - (setback.reason == "lost")
    return attempts, "1 attempt" if attempts == 1 else f"{attempts} attempts"


def unpublished(delivery: Delivery, outcome: Sequence[AnyEnvelope | Document]) -> AnyEnvelope | None:
    """What tells of the usage of an outcome that was refused; None where it says nothing of any.

    It names no hold: whatever is reserved for the task by now is another run's.
    """
    envelopes = [each.envelope if isinstance(each, Document) else each for each in outcome]
    usage = tuple(used for envelope in envelopes for used in envelope.usage)
    if not usage:
        return None
    said = Budget(budget="settled", reason="Its outcome was refused, and what it used was spent.")
    id = delivery.outcome_id(f"used under {delivery.token}")
    root = delivery.entry.root
    return compose(said, sender=delivery.agent, recipient=BUS, task=delivery.task, root=root, usage=usage, id=id)


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
