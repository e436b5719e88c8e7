"""The worker: takes an agent's deliveries, calls its handler, and settles with what the handler returns.

A handler is one coroutine function from a `Work` to its outcome: a payload, several, or None. The worker
acknowledges work before it calls the handler, renews the lease while the handler runs, and turns an exception into
a failed completion; it never lets one delivery end the worker.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias, cast

import anyio

from taskbus.codec import Document
from taskbus.envelope import (
    Acknowledgment,
    Completion,
    Envelope,
    ErrorDetails,
    Escalation,
    Payload,
    Result,
    Status,
    Usage,
    compose,
    new_id,
)
from taskbus.errors import Conflict, Fenced, InvalidEnvelope, NotFound, TaskbusError, TimedOut, Unavailable, UsageError

if TYPE_CHECKING:
    from taskbus.append import Appended
    from taskbus.client import Bus
    from taskbus.delivery import Delivery, Taken
    from taskbus.envelope import AnyEnvelope

_IDLE = 30.0
_TIMES = 3
_LOOK = 1.0
"""Seconds between two looks at what another worker holds, where nothing else is waited for."""

_LOG = logging.getLogger("taskbus.worker")
# Without a handler of its own, Python prints what nobody configured logging for: a library must not.
logging.getLogger("taskbus").addHandler(logging.NullHandler())


@dataclass(frozen=True, slots=True)
class Outcome:
    """A payload with what models used for it; to another recipient than the delegator, where one is named."""

    payload: Payload
    usage: tuple[Usage, ...] = ()
    recipient: str | None = None


@dataclass(frozen=True, slots=True)
class Work:
    """One delivery, as a handler sees it. `envelope` is the message; `bus` is there to read and publish more."""

    bus: Bus
    delivery: Delivery
    envelope: AnyEnvelope
    reply_to: str

    async def say(self, status: Payload) -> None:
        """Publish how far the work is, under this delivery's token. Whatever ends the work is returned instead."""
        if not isinstance(status, Status):
            raise UsageError(f"A handler cannot say this and go on: {status.TYPE}.", advice="Return it as the outcome.")
        await self.bus.publish(self.reply(Outcome(status)), token=self.delivery.token)

    def reply(self, outcome: Outcome) -> AnyEnvelope:
        """The envelope of an outcome: from this agent to the delegator, caused by this delivery."""
        return compose(
            outcome.payload,
            sender=self.delivery.agent,
            recipient=outcome.recipient or self.reply_to,
            task=self.delivery.task,
            root=self.delivery.entry.root,
            priority=self.envelope.priority,
            cause=self.envelope,
            usage=outcome.usage,
        )


Returned: TypeAlias = "Payload | Outcome | Sequence[Payload | Outcome | AnyEnvelope | Document] | None"
Handler: TypeAlias = Callable[[Work], Awaitable[Returned]]
Settled: TypeAlias = "Callable[[Work, Sequence[AnyEnvelope | Document], Sequence[Appended]], None]"
"""Told of each delivery that was settled: with which outcomes, and where they stand in the log."""


class Worker:
    """Works for one agent until it is stopped. `lease` is in seconds, `concurrency` the handlers at a time.

    `on_incident` is told of everything that went wrong and was dealt with, as one line of text; `on_settled` of
    each delivery that was settled. What a handler raises is logged with its traceback, as an error of the logger
    `taskbus.worker`. `advice` is what to do when the server is away; without it, the error's own advice is told.
    """

    def __init__(
        self,
        bus: Bus,
        agent: str,
        handler: Handler,
        *,
        lease: float = 30.0,
        concurrency: int = 1,
        on_incident: Callable[[str], None] | None = None,
        on_settled: Settled | None = None,
    ) -> None:
        self._bus = bus
        self._agent = agent
        self._handler = handler
        self._concurrency = concurrency
        self._report: Callable[[str], None] = _ignore if on_incident is None else on_incident
        self._on_settled = on_settled
        self._inbox = bus.inbox(agent, consumer=f"worker-{new_id()[-12:]}", lease=lease)
        self._stopping = False
        self._waiting: anyio.CancelScope | None = None
        self._until_idle = False
        self._away = False
        self._told_holders = False
        self.settled = 0
        self.advice: str | None = None

    def stop(self) -> None:
        """Take no more; what is being worked on is finished and settled."""
        self._stopping = True
        if self._waiting is not None:
            self._waiting.cancel()

    async def run(self, *, until_idle: bool = False, limit: int | None = None) -> None:
        """Work until `stop`; with `until_idle` until the inbox is empty, with `limit` for so many deliveries.

        Cancelling it leaves its deliveries to their leases: they are taken again once those have lapsed.
        """
        slots = anyio.Semaphore(self._concurrency)
        self._until_idle = until_idle
        taken_in_all = 0
        async with anyio.create_task_group() as handlers:
            while not self._stopping and (limit is None or taken_in_all < limit):
                await slots.acquire()
                if self._stopping:
                    return  # it was told to stop while all slots were taken
                taken = await self._take()
                if taken is None or (self._stopping and not taken.deliveries):
                    slots.release()
                    continue
                for delivery in taken.deliveries:
                    self._told_holders = False
                    taken_in_all += 1
                    handlers.start_soon(self._hold, delivery, slots)
                if not taken.deliveries:
                    slots.release()
                    if taken.missing:
                        continue
                    at_rest = until_idle and slots.value == self._concurrency
                    if at_rest and taken.lapse is None:
                        return
                    await self._wait(taken, at_rest=at_rest)

    async def _take(self) -> Taken | None:
        try:
            taken = await self._inbox.take()
        except (Unavailable, TimedOut) as error:
            self._tell_away(error)
            await self._pause(1.0)
            return None
        if self._away:
            self._away = False
            self._report("The server is back.")
        for position in taken.missing:
            self._report(
                f"{self._agent} was to get {position}, and taskbus wrote nothing there: the log was emptied, trimmed, "
                f"or written by something else."
            )
        return taken

    def _tell_away(self, error: TaskbusError) -> None:
        """Say that the server is away: once, until it is back."""
        if not self._away:
            self._away = True
            advice = self.advice or error.advice
            self._report(f"{error.message} Trying again." + (f" {advice}" if advice else ""))

    async def _wait(self, taken: Taken, *, at_rest: bool) -> None:
        """Wait for something new or the next lease to lapse; at rest, look before that whether it is done with."""
        longest = _LOOK if at_rest else _IDLE
        bound = longest if taken.lapse is None else min(longest, max(taken.lapse, 0.01))
        with anyio.CancelScope() as self._waiting:
            try:
                if at_rest and not self._told_holders:
                    await self._tell_holders()
                await self._inbox.wait(bound)
            except (Unavailable, TimedOut) as error:
                self._tell_away(error)
                await anyio.sleep(1.0)
        self._waiting = None

    async def _tell_holders(self) -> None:
        """Say which workers hold what is left."""
        held = await self._bus.connection.hash(self._bus.keys.held(self._agent))
        holders = [value.partition(" ")[2] for value in held.values()]
        if holders:
            self._told_holders = True
            names = " and ".join(sorted(set(holders)))
            one = len(holders) == 1
            left = "1 delivery" if one else f"{len(holders)} deliveries"
            self._report(f"Waiting for {left} that {names} {'holds' if len(set(holders)) == 1 else 'hold'}.")

    async def _pause(self, seconds: float) -> None:
        with anyio.CancelScope() as self._waiting:
            await anyio.sleep(seconds)
        self._waiting = None

    async def _hold(self, delivery: Delivery, slots: anyio.Semaphore) -> None:
        try:
            await self._serve(delivery)
        except (Unavailable, TimedOut) as error:
            self._report(f"Task {delivery.task} is left to its lease: {error.message}")
        except InvalidEnvelope as error:
            self._report(f"The delivery {delivery.entry.position} cannot be dealt with: {error.message}")
            await self._drop(delivery, error)
        except TaskbusError as error:
            self._report(f"The outcome for task {delivery.task} was refused: {error.message}")
        finally:
            slots.release()
            if self._until_idle and self._waiting is not None:
                self._waiting.cancel()  # this may have been the last one

    async def _serve(self, delivery: Delivery) -> None:
        reply_to = delivery.known.delegator if delivery.known else delivery.entry.sender
        work = Work(self._bus, delivery, delivery.entry.envelope, reply_to)
        if delivery.state == "submitted" and delivery.is_work:
            acknowledgment = work.reply(Outcome(Acknowledgment(accepted=True)))
            await self._bus.publish(acknowledgment, token=delivery.token)
        outcomes = await self._outcomes(work)
        if outcomes is not None:
            await self._settle(work, outcomes)

    async def _renew(self, delivery: Delivery, handling: anyio.CancelScope) -> None:
        while True:
            await anyio.sleep(self._inbox.lease / 3)
            try:
                kept = await self._inbox.renew([delivery])
            except (Unavailable, TimedOut) as error:
                self._report(f"The lease of task {delivery.task} was not renewed: {error.message}")
                continue
            if not kept:
                self._report(f"Task {delivery.task} is no longer ours: it was settled, canceled or taken again.")
                handling.cancel()
                return

    async def _settle(self, work: Work, outcomes: Sequence[AnyEnvelope | Document]) -> None:
        """Settle with the outcomes; with a failure that says why, where they are not valid or not legal."""
        try:
            appended = await self._inbox.settle(work.delivery, outcomes)
        except (InvalidEnvelope, Conflict, NotFound) as error:
            if self._is_lost(work, error):
                raise
            self._report(f"The outcome for task {work.delivery.task} was refused: {error.message}")
            outcomes = self._failed(work, error)
            appended = await self._inbox.settle(work.delivery, outcomes)
        self.settled += 1
        if self._on_settled is not None:
            self._on_settled(work, outcomes, appended)

    async def _outcomes(self, work: Work) -> Sequence[AnyEnvelope | Document] | None:
        """What the handler made of it; None when it was cancelled, or is to have it again."""
        found: list[Sequence[AnyEnvelope | Document] | None] = []
        # The lease is renewed while the handler runs, and no longer: a renewal must not cut off the settlement.
        async with anyio.create_task_group() as handling:
            handling.start_soon(self._renew, work.delivery, handling.cancel_scope)
            found.append(await self._handled(work))
            handling.cancel_scope.cancel()
        return found[0] if found else None

    async def _handled(self, work: Work) -> Sequence[AnyEnvelope | Document] | None:
        delivery = work.delivery
        try:
            return [
                work.reply(item) if isinstance(item, Outcome) else item for item in _listed(await self._handler(work))
            ]
        except Exception as error:  # noqa: BLE001 - the handler's failure is the task's, not the worker's
            self._report(f"The handler of {self._agent} failed on {delivery.entry.type} {delivery.entry.id}: {error!r}")
            if self._is_lost(work, error) or isinstance(error, (Unavailable, TimedOut)):
                return None
            _LOG.exception("The handler of %s failed on %s %s", self._agent, delivery.entry.type, delivery.entry.id)
            failed = self._failed(work, error)
            # What is no work of its own comes again a few times: whatever it needs may be there by then.
            return failed if failed or delivery.times >= _TIMES else None

    def _is_lost(self, work: Work, error: Exception) -> bool:
        """Whether an error says that this delivery is somebody else's by now."""
        return isinstance(error, Fenced) and error.task in (None, work.delivery.task)

    def _failed(self, work: Work, error: Exception) -> list[AnyEnvelope]:
        """The completion of work that failed; nothing for what is no work of this agent's."""
        return [work.reply(Outcome(_failure(error)))] if work.delivery.is_work else []

    async def _drop(self, delivery: Delivery, error: InvalidEnvelope) -> None:
        """Take a delivery that cannot be read out of the inbox; work on an open task is escalated to the delegator."""
        outcomes: list[AnyEnvelope] = []
        if delivery.is_work and delivery.known is not None:
            trouble = ErrorDetails(level=2, category="validation", message=_printable(error.message))
            outcomes.append(
                compose(
                    Escalation(error_details=trouble),
                    sender=self._agent,
                    recipient=delivery.known.delegator,
                    task=delivery.task,
                    root=delivery.entry.root,
                )
            )
        try:
            await self._inbox.settle(delivery, outcomes)
        except TaskbusError as refused:
            self._report(f"The delivery {delivery.entry.position} stays in the inbox: {refused.message}")


def _ignore(_incident: str) -> None:
    pass


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


def _failure(error: Exception) -> Completion:
    message = error.message if isinstance(error, TaskbusError) else f"{type(error).__name__}: {error}"
    return Completion(
        result=Result(status="failure", description="The handler failed."),
        termination_reason="handler-error",
        error_details=ErrorDetails(level=1, category="execution", message=_printable(message)),
    )


def _printable(message: str) -> str:
    """A text that any envelope can carry, and any terminal show."""
    return "".join(c if c.isprintable() or c in "\n\t" else repr(c)[1:-1] for c in message)[:4000]
