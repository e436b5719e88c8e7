"""Handling: what becomes of each delivery that a worker holds, from its take until the server has carried it out.

Calls the handler, and decides: settled with its outcomes, given back for another try or until a quota is reset, or
parked. A delivery that is somebody else's by now is dropped. Owned by the worker, which takes and renews.
"""

from __future__ import annotations

import asyncio
import logging
import math
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, cast

import anyio

from taskbus.append import Submission, Unit, all_appended
from taskbus.codec import JSON, Document, encode
from taskbus.delivery import Release
from taskbus.envelope import Acknowledgment
from taskbus.errors import (
    Conflict,
    DuplicateID,
    Failure,
    Fenced,
    InvalidEnvelope,
    NotFound,
    Permanent,
    Retryable,
    TaskbusError,
    TimedOut,
    Unavailable,
    UsageError,
)
from taskbus.held import Held
from taskbus.setbacks import Setback, printable, records, single, undecided, unpublished
from taskbus.waits import Waits
from taskbus.work import Accepts, Handler, Outcome, Returned, Settled, Work, outcomes

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from taskbus.append import Answers, Appended
    from taskbus.client import Bus
    from taskbus.delivery import Delivery, Inbox
    from taskbus.envelope import AnyEnvelope
    from taskbus.settling import Settling
    from taskbus.terms import Terms

_LOG = logging.getLogger("taskbus.worker")
# Without a handler of its own, Python prints what nobody configured logging for: a library must not.
logging.getLogger("taskbus").addHandler(logging.NullHandler())
_ACCEPTED = Acknowledgment(accepted=True)


class Handling:
    """Everything that one worker holds. `held` are its deliveries by token, `running` those whose handlers run.

    `begin` is called before a handler whose delivery's lease is half over, `on_change` when there is less in hand, or
    more.
    """

    def __init__(
        self,
        bus: Bus,
        inbox: Inbox,
        handler: Handler,
        terms: Terms,
        settling: Settling,
        *,
        begin: Callable[[Held], Awaitable[None]],
        report: Callable[[str], None],
        on_change: Callable[[], None],
        on_settled: Settled | None,
    ) -> None:
        self._bus = bus
        self._inbox = inbox
        self._handler = handler
        self._accepts = cast("Accepts", getattr(handler, "acknowledgment", None) or _ACCEPTED)
        self._coordinator = cast("str | None", getattr(handler, "coordinator", None))
        self._terms = terms
        self._settling = settling
        self._begin = begin
        self._report = report
        self._on_change = on_change
        self._on_settled = on_settled
        self.held: dict[int, Held] = {}
        self.running: set[Held] = set()
        self.settled = 0
        self._waits = Waits()

    def hold(self, deliveries: Sequence[Delivery], since: float) -> list[Held]:
        """Have deliveries in hand from now on; `since` is when they were taken."""
        mine = {held.delivery.name: held for held in self.held.values()}
        taken = [Held(delivery, since) for delivery in deliveries]
        for held in taken:
            if (before := mine.get(held.delivery.name)) is not None:
                self.lose(before, "its lease had lapsed, and it was taken again.")
            self.held[held.delivery.token] = held
        self._on_change()
        return taken

    async def acknowledge(self, taken: Sequence[Held]) -> None:
        """Have what is new work acknowledged, unless it is done, or that was said before something else of it."""
        for held in taken:
            self._acknowledge(held, None)

    def _acknowledge(self, held: Held, said: Acknowledgment | None = _ACCEPTED) -> None:
        submission = self._acknowledgment(held, said)
        if submission is not None:
            held.is_acknowledging = True
            self._settling.settle(held.delivery.token, Unit((submission,)), partial(self._acknowledged, held))

    def _acknowledgment(self, held: Held, said: Acknowledgment | None = _ACCEPTED) -> Submission | None:
        """What acknowledges new work, once; what is given up without being handled needs none.

        `said` is what counts where the handler does not say it beforehand; with None it is not acknowledged then.
        """
        delivery = held.delivery
        if held.is_asked or held.is_decided or held.is_lost:
            return None
        if delivery.state != "submitted" or not delivery.is_work or delivery.tries > self._terms.attempts:
            held.is_asked = True
            return None
        try:
            work = self._work(held)
            accepts = self._accepts(work) if callable(self._accepts) else self._accepts
            accepted = accepts or said
            held.is_asked = accepted is not None
            if accepted is None:
                return None
            reply = work.reply(Outcome(accepted), number=0)
        except InvalidEnvelope:
            held.is_asked = True
            return None
        # Composed here of parts that are valid, it needs no check, which costs more than all the rest of it.
        return Submission(Document(reply, encode(reply), JSON), delivery.token)

    def _acknowledged(self, held: Held, answer: Answers | TaskbusError) -> None:
        try:
            all_appended(answer)
        except TaskbusError as error:
            self.lose(held, error.message)
        held.is_acknowledging = False
        if held.acknowledged is not None:
            held.acknowledged.set()

    async def _wait_acknowledged(self, held: Held, said: Acknowledgment | None = None) -> None:
        self._acknowledge(held, said or _ACCEPTED)
        if held.is_acknowledging:
            held.acknowledged = held.acknowledged or anyio.Event()
            await held.acknowledged.wait()

    def _work(self, held: Held) -> Work:
        """The delivery as its handler sees it. Raises InvalidEnvelope for what cannot be decoded."""
        if held.work is None:
            delivery = held.delivery
            reply_to = delivery.known.delegator if delivery.known else delivery.entry.sender
            acknowledged = partial(self._wait_acknowledged, held)
            held.work = Work(self._bus, delivery, delivery.entry.envelope, reply_to, acknowledged)
        return held.work

    async def handle(self, comes: Callable[[], Awaitable[Held]]) -> None:
        """Handle each delivery that comes, one after the other, until cancelled."""
        while True:
            await self._handle_some(comes)

    async def _handle_some(self, comes: Callable[[], Awaitable[Held]]) -> None:
        """Handle one after the other, until a handler fails or is cancelled.

        So long they have one scope in common: to make and to enter one takes longer than all else about a delivery.
        """
        held = None
        try:
            with anyio.CancelScope() as scope:
                while not scope.cancel_called:
                    held = None
                    held = await comes()
                    held.scope = scope
                    self.running.add(held)
                    await self._handle(held, scope)
                    self._ended(held)
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if held is None or task is None or task.cancelling():
                raise
            # Nobody cancels the handler: something that it awaited was cancelled, which must not end the worker.
            self._failed(held, Retryable("something that the handler waited for was cancelled"))
        except Exception as error:  # the handler's failure is the delivery's, not the worker's
            if held is None:
                raise
            self._failed(held, error)
        else:
            if held is not None and scope.cancelled_caught:
                self._cut_off(held)
        finally:
            if held is not None:
                self._ended(held)

    async def _handle(self, held: Held, scope: anyio.CancelScope) -> None:
        """Call the handler, and decide what becomes of the delivery."""
        try:
            work = self._work(held)
        except InvalidEnvelope as error:
            self._set_back(held, Setback("undecodable", printable(error.message)))
            return
        if held.delivery.tries > self._terms.attempts:
            self._set_back(held, Setback("lost", "the workers that had it were lost, or did not end it in time"))
            return
        if asyncio.get_running_loop().time() - held.since > self._terms.lease / 2:
            await self._begin(held)
        if self._terms.hard_limit is not None:
            scope.deadline = anyio.current_time() + self._terms.hard_limit
        if not held.is_lost:
            self._returned(held, work, await self._handler(work))
        if self._terms.hard_limit is not None:
            scope.deadline = math.inf

    def _ended(self, held: Held) -> None:
        if held.scope is not None:
            held.scope = held.work = None  # not to go in a circle, which would be the garbage collector's to find
            self.running.discard(held)
            self._on_change()

    def _returned(self, held: Held, work: Work, returned: Returned) -> None:
        if held.is_lost:
            with suppress(InvalidEnvelope, UsageError):  # nobody is left to be told that
                self._count(held, outcomes(work, returned))
            return
        try:
            found = outcomes(work, returned)
            unit = self._inbox.settlement(held.delivery, found)
        except (InvalidEnvelope, UsageError) as error:
            self._refused(held, error)
            return
        # Done before anybody was told that it had begun: then the completion says both.
        acknowledgment = None if held.is_completed_by(unit) else self._acknowledgment(held)
        if acknowledgment is None:
            self._settle(held, found, unit)
            return
        held.is_decided = True
        both = Unit((acknowledgment, *unit.submissions), unit.move)
        then = partial(self._settled_at_once, held, found, acknowledgment, unit)
        self._settling.settle(held.delivery.token, both, then)

    def _settled_at_once(
        self,
        held: Held,
        found: Sequence[AnyEnvelope | Document],
        acknowledgment: Submission,
        unit: Unit,
        answer: Answers | TaskbusError,
    ) -> None:
        """Acknowledged and settled in one; where that was refused, each of the two is told by itself what is wrong."""
        try:
            appended = all_appended(answer)
        except TaskbusError:
            self._settling.settle(held.delivery.token, Unit((acknowledgment,)), partial(self._acknowledged, held))
            self._settle(held, found, unit)
        else:
            self._done(held, found, appended[1:])

    def _cut_off(self, held: Held) -> None:
        """What becomes of a delivery whose handler was cancelled."""
        if held.is_recalled and not held.is_lost:
            self.hand_back(held)
        elif not held.is_lost:
            said = f"the handler ran into its limit of {self._terms.hard_limit:g} s"
            self._set_back(held, Setback("timed-out", said))

    def _failed(self, held: Held, raised: Exception) -> None:
        error, entry = single(raised), held.delivery.entry
        if held.is_lost:
            return
        if held.is_fenced(error):
            self.lose(held, str(error))
            return
        if not isinstance(error, (Failure, Unavailable, TimedOut)):
            _LOG.error("The handler of %s failed on %s %s", held.delivery.agent, entry.type, entry.id, exc_info=raised)
        if held.scope is not None and held.scope.cancel_called:
            self._cut_off(held)  # it failed because it was cancelled
        else:
            self._set_back(held, Setback.of(error))

    def _set_back(self, held: Held, setback: Setback) -> None:
        """Try it again, let it wait for its quota or for money, or park it: what the reason asks for."""
        delivery, terms = held.delivery, self._terms
        self._acknowledge(held)  # it was taken on, however soon it failed
        what = f"The {delivery.entry.type} of task {delivery.task}"
        if setback.waits:
            wait, told = self._waits.next(delivery, setback, terms)
            if told is not None:
                self._report(f"{what} {told}")
            self._release(held, Release(delivery, wait, reason=setback.reason))
        elif setback.reason == "retryable" and delivery.tries < terms.attempts:
            pause = terms.pause(delivery.tries)
            tries = f"{delivery.tries} of {terms.attempts} tries"
            self._report(f"{what} failed ({tries}), and is tried again in {pause:.1f} s: {setback.message}")
            self._release(held, Release(delivery, pause, counts=True, reason=setback.reason))
        elif delivery.is_to_decide:
            told = undecided(delivery, setback, coordinator=self._coordinator)
            self._report(f"{what} goes on to {told.recipient}: {setback.message}")
            self._settle(held, [told], self._inbox.settlement(delivery, [told]))
        else:
            self._report(f"{what} is parked ({setback.reason}): {setback.message}")
            self._park(held, setback, open_work=delivery.is_work)

    def _park(self, held: Held, setback: Setback, *, open_work: bool) -> None:
        told = records(held.delivery, setback, open_work=open_work, coordinator=self._coordinator)

        def parked(answer: Answers | TaskbusError) -> None:
            try:
                appended = all_appended(answer)
            except Fenced as error:
                self.lose(held, error.message)
            except NotFound:
                # The bus knows nothing of the task, so nothing can be recorded of it, and nobody waits for it.
                entry = held.delivery.entry
                self._report(f"The {entry.type} of task {entry.task} belongs to no task: dropped.")
                self._settle(held, (), self._inbox.settlement(held.delivery))
            except Conflict as error:
                if open_work:  # the task went on beside its delivery: there is nothing to escalate any more
                    self._park(held, setback, open_work=False)
                else:
                    self.lose(held, error.message)
            else:
                self._done(held, told, appended)

        held.is_decided = True
        unit = self._inbox.settlement(held.delivery, told, setback.reason)
        self._settling.settle(held.delivery.token, unit, parked)

    def _settle(self, held: Held, found: Sequence[AnyEnvelope | Document], unit: Unit) -> None:
        held.is_decided = True
        self._settling.settle(held.delivery.token, unit, partial(self._settled, held, found))

    def _settled(self, held: Held, found: Sequence[AnyEnvelope | Document], answer: Answers | TaskbusError) -> None:
        try:
            appended = all_appended(answer)
        except DuplicateID as error:
            self._count(held, found)
            if error.envelope in {held.delivery.outcome_id(number + 1) for number in range(len(found))}:
                # An attempt before this one has published its outcome: that one stands.
                self._report(f"The outcome of task {held.delivery.task} stands already, from an earlier attempt.")
                self._settle(held, (), self._inbox.settlement(held.delivery))
            else:
                self._refused(held, error)
        except (Conflict, NotFound) as error:
            self._count(held, found)
            if held.is_too_late(error):  # what it was asked is only to be read then
                self._settle(held, (), self._inbox.settlement(held.delivery))
            else:
                self._refused(held, error)
        else:
            self._done(held, found, appended)

    def _count(self, held: Held, found: Sequence[AnyEnvelope | Document]) -> None:
        """Have counted what models used for an outcome that the log does not take: the money is spent all the same."""
        told = unpublished(held.delivery, found)
        if told is not None:
            unit = Unit((Submission(Document(told, encode(told), JSON)),))
            self._settling.settle(held.delivery.token, unit, lambda _: None)

    def _refused(self, held: Held, error: TaskbusError) -> None:
        """The outcome is not valid or not legal: trying again would not change that."""
        if held.is_fenced(error):
            self.lose(held, error.message)
            return
        held.is_decided = False  # what was to say it all did not, and the work was taken on
        self._set_back(held, Setback.of(Permanent(f"the outcome was refused: {error.message}")))

    def hand_back(self, held: Held) -> None:
        """Give it back as if it had never been taken: whoever comes first takes it."""
        self._report(f"The {held.delivery.entry.type} of task {held.delivery.task} is handed back.")
        self._release(held, Release(held.delivery))

    def lose(self, held: Held, why: str) -> None:
        """Somebody else has it, or nobody needs it any more: its handler is cancelled, and nothing published."""
        if not held.is_lost:
            held.is_lost = True
            if held.scope is not None:
                held.scope.cancel()
            self._report(f"Task {held.delivery.task} is no longer ours: {why}")
            self._forget(held)

    def _release(self, held: Held, release: Release) -> None:
        held.is_decided = held.is_asked = True
        self._settling.release(release, lambda: self._forget(held))

    def _done(self, held: Held, found: Sequence[AnyEnvelope | Document], appended: list[Appended]) -> None:
        self._forget(held)
        self.settled += 1
        if self._on_settled is not None:
            self._on_settled(held.delivery, found, appended)

    def _forget(self, held: Held) -> None:
        self.held.pop(held.delivery.token, None)
        self._on_change()
