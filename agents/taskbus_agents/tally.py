"""The tally: what a worker's user learns of each delivery that was settled or parked, and of all of them.

Called by the service, which knows the worker, and by the command, which prints.
"""

from __future__ import annotations

import time
from collections import Counter
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final, Literal, TypeAlias, TypedDict

from taskbus.codec import document
from taskbus.envelope import Completion, Escalation, Parking, Question
from taskbus_agents.taken import asks_for_work

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from taskbus.append import Appended
    from taskbus.codec import Document
    from taskbus.delivery import Delivery
    from taskbus.envelope import AnyEnvelope, Payload
    from taskbus.work import Handler, Returned, Work

Result = Literal["succeeded", "failed", "asked", "escalated", "parked", "read"]
_RESULTS: Final[Mapping[str, Result]] = {
    "question": "asked",
    "escalation": "escalated",
    "parking": "parked",
    "delegation": "succeeded",
    "answer": "succeeded",
    "completed": "succeeded",
    "accepted": "succeeded",
    "failed": "failed",
    "rejected": "failed",
    "input-required": "asked",
    "escalated": "escalated",
}
_FAILURES: Final[tuple[Result, ...]] = ("failed", "escalated", "parked")


class Tally:
    """Counts what became of deliveries."""

    def __init__(self) -> None:
        self._counts: Counter[Result] = Counter()

    def add(self, settled: Settled) -> None:
        """Count one."""
        self._counts[settled.result] += 1

    @property
    def has_failures(self) -> bool:
        """Whether one failed, was escalated or was parked."""
        return any(self._counts[each] for each in _FAILURES)

    def __str__(self) -> str:
        number = self._counts.total()
        always: tuple[Result, ...] = ("succeeded", "failed")
        more: tuple[Result, ...] = ("asked", "escalated", "parked", "read")
        shown = [f"{self._counts[each]} {each}" for each in (*always, *more) if each in always or self._counts[each]]
        return ", ".join([f"{number} {'delivery' if number == 1 else 'deliveries'}", *shown])


@dataclass(frozen=True, slots=True)
class Settled:
    """One delivery that was settled or parked: what was received, with which outcome, after how many seconds.

    `outcome`, `status`, `id` and `appended` are None where the message asked for nothing, or the agent had
    published its outcome itself: then `state` is what it left its task in. Of one that was parked, the outcome is
    the record of that, `parking`, with its `reason` and how often it was tried; the last try's time is not known.
    """

    agent: str
    task: str
    received: str
    position: str
    seconds: float | None = None
    outcome: str | None = None
    status: str | None = None
    reason: str | None = None
    attempts: int | None = None
    id: str | None = None
    appended: str | None = None
    message: str | None = None
    state: str | None = None

    @property
    def result(self) -> Result:
        """What became of it, as it is counted."""
        if self.outcome is None:
            return _RESULTS.get(self.state or "", "read")
        if self.outcome == "completion":
            return "failed" if self.status == "failure" else "succeeded"
        return _RESULTS.get(self.outcome, "read")

    def plain(self) -> dict[str, object]:
        """As a JSON object, without what there is nothing to say of."""
        found = {name: getattr(self, name) for name in self.__slots__}
        return {name: value for name, value in found.items() if value is not None}


OnSettled: TypeAlias = "Callable[[Settled], None]"


class Timed:
    """The handler with a clock, and what is told once its outcome stands in the log."""

    def __init__(self, handler: Handler, on_settled: OnSettled) -> None:
        self._handler = handler
        self._on_settled = on_settled
        self._began: dict[int, float] = {}
        self._left: dict[int, str] = {}
        self.acknowledgment: object = getattr(handler, "acknowledgment", None)
        self.coordinator: str | None = getattr(handler, "coordinator", None)

    async def __call__(self, work: Work) -> Returned:
        """Call the handler, and note when."""
        token = work.delivery.token
        self._began[token] = time.perf_counter()
        try:
            returned = await self._handler(work)
            if returned is None and asks_for_work(work):
                self._left[token] = (await work.bus.task(work.delivery.task)).state
        except BaseException:
            del self._began[token]  # it is not settled under this token
            raise
        return returned

    def settled(
        self, delivery: Delivery, outcomes: Sequence[AnyEnvelope | Document], appended: Sequence[Appended]
    ) -> None:
        """Tell of a delivery that was settled or parked."""
        entry = delivery.entry
        began = self._began.pop(delivery.token, None)
        told = Settled(
            agent=delivery.agent,
            task=entry.task,
            received=entry.type,
            position=str(entry.position),
            seconds=round(time.perf_counter() - began, 3) if began is not None else None,
            state=self._left.pop(delivery.token, None),
        )
        said = [(document(each).envelope, place) for each, place in zip(outcomes, appended, strict=True)]
        if said:
            # A parked delivery's escalation stands before the record of the parking, which says more.
            envelope, place = next((each for each in said if isinstance(each[0].payload, Parking)), said[0])
            told = replace(told, outcome=envelope.type, id=envelope.id, appended=str(place.position))
            told = replace(told, **_details(envelope.payload))
        self._on_settled(told)


class _Details(TypedDict, total=False):
    status: str
    reason: str | None
    attempts: int | None
    message: str | None


def _details(payload: Payload) -> _Details:
    match payload:
        case Completion():
            error = payload.error_details
            return {"status": payload.result.status, "message": error.message if error is not None else None}
        case Escalation():
            return {"message": payload.error_details.message}
        case Question():
            return {"message": payload.question}
        case Parking():
            return {"reason": payload.reason, "attempts": payload.attempts, "message": payload.message}
        case _:
            return {}
