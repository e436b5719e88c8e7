"""Work: one delivery as a handler sees it, and what a handler may make of it.

A handler is one coroutine function from a `Work` to its outcome: a payload, several, or None. It raises a `Failure`
where it cannot make one. Called by the worker; knows nothing of leases and settling.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import TYPE_CHECKING, Protocol, TypeAlias, cast

from msgspec import Struct

from taskbus.codec import Document
from taskbus.envelope import PAYLOADS, Acknowledgment, Envelope, Payload, Status, Usage, compose
from taskbus.errors import UsageError

if TYPE_CHECKING:
    from typing import Any

    from taskbus.append import Appended
    from taskbus.client import Bus
    from taskbus.delivery import Delivery
    from taskbus.envelope import AnyEnvelope


class Outcome(Struct, frozen=True, gc=False):
    """A payload with what models used for it; to another recipient than the delegator, where one is named."""

    payload: Payload
    usage: tuple[Usage, ...] = ()
    recipient: str | None = None


_PAYLOADS = frozenset(PAYLOADS.values())


class Acknowledging(Protocol):
    """Waits until work is acknowledged, with what the handler says where it had left that to itself."""

    async def __call__(self, said: Acknowledgment | None = None) -> None:
        """Wait for it."""


async def _at_once(said: Acknowledgment | None = None) -> None:
    """Nothing has to be acknowledged."""


class Work(Struct, frozen=True):
    """One delivery, as a handler sees it. `envelope` is the message; `bus` is there to read and publish more.

    The worker acknowledges new work while its handler begins, unless that returns a completion at once; `await
    acknowledged()` before publishing anything about the task beside what is said and returned.
    """

    bus: Bus
    delivery: Delivery
    envelope: AnyEnvelope
    reply_to: str
    acknowledged: Acknowledging = _at_once

    async def say(self, status: Payload) -> None:
        """Publish how far the work is, under this delivery's token. Whatever ends the work is returned instead."""
        if not isinstance(status, Status):
            raise UsageError(f"A handler cannot say this and go on: {status.TYPE}.", advice="Return it as the outcome.")
        await self.acknowledged()
        await self.bus.publish(self.reply(Outcome(status)), token=self.delivery.token)

    def reply(self, outcome: Outcome, *, number: int | None = None) -> AnyEnvelope:
        """The envelope of an outcome: from this agent to the delegator, caused by this delivery.

        With its `number` among the delivery's outcomes it has the ID that the delivery gives it.
        """
        return compose(
            outcome.payload,
            sender=self.delivery.agent,
            recipient=outcome.recipient or self.reply_to,
            task=self.delivery.entry.task,
            root=self.delivery.entry.root,
            priority=self.envelope.priority,
            cause=self.envelope,
            usage=outcome.usage,
            id=self.delivery.outcome_id(number) if number is not None else None,
        )


Returned: TypeAlias = "Payload | Outcome | Sequence[Payload | Outcome | AnyEnvelope | Document] | None"
Handler: TypeAlias = Callable[[Work], Awaitable[Returned]]
"""A handler that has an `acknowledgment` takes work on with that payload, so that it says which model will run; or it
is a function from the delivery to one, or to None where the handler says that itself: `await work.acknowledged(said)`.
To the `coordinator` that it has goes what it gives up.
"""
Accepts: TypeAlias = "Acknowledgment | Callable[[Work], Acknowledgment | None]"
Settled: TypeAlias = "Callable[[Delivery, Sequence[AnyEnvelope | Document], Sequence[Appended]], None]"
"""Told of each delivery that was settled or parked: with which outcomes or records, and where they stand in the log."""


def outcomes(work: Work, returned: Returned) -> list[AnyEnvelope | Document]:
    """What a handler returned, as envelopes. Raises UsageError for what is none of what it may return."""
    if type(returned) in _PAYLOADS:  # what most handlers return, the short way
        payload: Any = returned
        return [work.reply(Outcome(payload), number=1)]
    return [
        work.reply(item, number=number) if isinstance(item, Outcome) else item
        for number, item in enumerate(_listed(returned), start=1)
    ]


def _listed(returned: Returned) -> list[Outcome | AnyEnvelope | Document]:
    if returned is None:
        return []
    if isinstance(returned, Outcome | Payload):
        returned = [returned]
    # What a handler returns is the user's: its annotation is no promise.
    found = cast("object", returned)
    if not isinstance(found, Sequence) or isinstance(found, str | bytes):
        raise _wrong(type(found).__name__)
    items = cast("Sequence[object]", found)
    if strangers := [each for each in items if not isinstance(each, Outcome | Payload | Envelope | Document)]:
        raise _wrong(f"{type(items).__name__} with {type(strangers[0]).__name__} in it")
    return [Outcome(item) if isinstance(item, Payload) else item for item in returned]


def _wrong(returned: str) -> UsageError:
    return UsageError(
        f"the handler returned {returned}; expected a payload such as Completion, an Outcome, a list of them, or None"
    )
