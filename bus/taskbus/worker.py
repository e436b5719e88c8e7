"""The worker: takes an agent's deliveries as long as it has room for them, has them handled, and keeps their leases.

It looks after time: what it holds is renewed, a handler whose delivery was taken from it is cancelled at once, and
when it is told to stop it finishes or hands back within its grace. It outlives its server, and says so.
"""

from __future__ import annotations

import heapq
import math
from functools import partial
from typing import TYPE_CHECKING, TypeVar, cast

import anyio

from taskbus.delivery import Release
from taskbus.envelope import PRIORITIES, new_id
from taskbus.errors import NotFound, TimedOut, Unavailable
from taskbus.gist import gist
from taskbus.handling import Handling
from taskbus.lifecycle import DELIVERED
from taskbus.mending import mend
from taskbus.settling import Settling
from taskbus.supervision import watch

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from anyio.abc import TaskGroup

    from taskbus.client import Bus
    from taskbus.delivery import Taken
    from taskbus.envelope import AnyEnvelope, Escalation
    from taskbus.errors import TaskbusError
    from taskbus.held import Held
    from taskbus.terms import Terms
    from taskbus.work import Handler, Settled

_IDLE = 5.0
"""Seconds after which an idle worker looks without being woken: it shows that it is alive, and misses nothing."""
_LOOK = 1.0
"""Seconds between two looks at what another worker holds, where nothing else is waited for."""
_QUICK = 0.05
"""Seconds for which a delivery is neither renewed nor watched: most handlers that are programs are done by then."""
_LAST = 2.0
"""Seconds for what is left to be told to the server when the worker ends at once."""
_TICK = 0.1
"""Seconds by which the end of a blocking read may come late: a server that does nothing else looks ten times in one."""
_MOST = 100
"""Deliveries in one take, at most: the server is to work on the next ones while these are handled."""
_T = TypeVar("_T")
_URGENCY = {priority: number for number, priority in enumerate(PRIORITIES)}


class Worker:
    """Works for one agent until it is stopped, on the given terms.

    `on_incident` is told of everything that went wrong and was dealt with, as one line of text; `on_settled` of
    each delivery that was settled or parked. What a handler raises is logged with its traceback, as an error of the
    logger `taskbus.worker`. `advice` is what to do when the server is away; without it, the error's own is told.
    """

    def __init__(
        self,
        bus: Bus,
        agent: str,
        handler: Handler,
        terms: Terms,
        *,
        on_incident: Callable[[str], None] | None = None,
        on_settled: Settled | None = None,
    ) -> None:
        self._bus = bus
        self._agent = agent
        self._terms = terms
        self._report: Callable[[str], None] = _ignore if on_incident is None else on_incident
        self._inbox = bus.inbox(agent, consumer=f"worker-{new_id()[-12:]}", lease=terms.lease)
        self._settling = Settling(bus, self._inbox, on_away=self._tell_away, on_back=self._tell_back)
        self._handling = Handling(
            *(bus, self._inbox, handler, terms, self._settling),
            begin=self._begin,
            report=self._report,
            on_change=self._change,
            on_settled=on_settled,
        )
        self._queue: list[tuple[int, int, Held]] = []
        self._stopping = False
        self._until_idle = False
        self._end = math.inf
        self._waiting: anyio.CancelScope | None = None
        self._changed = anyio.Event()
        self._away = False
        self._has_changed = False
        self._resting: list[anyio.Event] = []
        self._is_calling = False
        self._newest = self._born = 0
        self._told_holders = False
        self.advice: str | None = None

    @property
    def settled(self) -> int:
        """How many deliveries it has settled or parked."""
        return self._handling.settled

    @property
    def handling(self) -> int:
        """How many handlers run."""
        return len(self._handling.running)

    def stop(self, grace: float | None = None) -> None:
        """Take no more, and hand back what no handler has begun with.

        Handlers may go on for `grace` seconds (by default those of the terms), then they are cancelled, and their
        deliveries handed back too: another worker takes them at once. Called again, it ends them at once, or within
        the `grace` that is given then, where that is sooner.
        """
        if grace is None:
            grace = 0.0 if self._stopping else self._terms.grace
        self._stopping = True
        self._end = min(self._end, anyio.current_time() + grace)
        if self._waiting is not None:
            self._waiting.cancel()
        self._change()

    async def run(self, *, until_idle: bool = False, limit: int | None = None) -> None:
        """Work until `stop`; with `until_idle` until the inbox is empty, with `limit` for so many deliveries.

        Cancelling it cancels the handlers, and hands their deliveries back if the server answers within two seconds;
        otherwise they are taken again once their leases have lapsed.
        """
        try:
            async with anyio.create_task_group() as group:
                group.start_soon(self._settling.run)
                group.start_soon(self._beat)
                if self._terms.supervision is not None:
                    group.start_soon(watch, self._bus, self._terms.supervision, self._tell_escalation)
                for _ in range(self._terms.concurrency):
                    group.start_soon(self._handling.handle, self._next)
                await self._intake(group, until_idle=until_idle, limit=limit)
                await self._finish()
                group.cancel_scope.cancel()
        finally:
            await self._leave()

    async def _intake(self, group: TaskGroup, *, until_idle: bool, limit: int | None) -> None:
        """Take deliveries as long as there is room for them."""
        left: float = math.inf if limit is None else limit
        self._until_idle = until_idle
        most, wait = self._terms.concurrency + self._terms.prefetch, 0.0
        while not self._stopping and left > 0:
            room = most - len(self._handling.held)
            # What is held ready is used up by half first: many small takes cost more than a few large ones.
            if room < 1 or len(self._queue) > self._terms.prefetch // 2:
                await self._change_comes()
                continue
            since = anyio.current_time()
            taken = await self._take(int(min(room, left, _MOST)), wait)
            if wait:
                # The leases began when the wait was over, a reply's way ago; the first renewal tells if it was longer.
                since, wait = anyio.current_time(), 0.0
            if taken is None:
                continue
            left -= len(taken.deliveries)
            if taken.deliveries:
                self._told_holders = False
                held = self._handling.hold(taken.deliveries, since)
                for each in held:
                    urgency = _URGENCY.get(each.delivery.entry.priority, len(_URGENCY))
                    heapq.heappush(self._queue, (urgency, each.delivery.token, each))
                self._call()
                # Handlers begin now, before anything of theirs is sent, and while the server looks for more.
                group.start_soon(self._handling.acknowledge, held)
            if taken.remade:
                await self._interrupted(self._mend, taken.remade)
            elif not taken.deliveries and not taken.missing:
                at_rest = until_idle and not self._handling.held
                if at_rest and taken.lapse is None:
                    return
                wait = await self._rest(taken, at_rest=at_rest)

    async def _take(self, count: int, wait: float) -> Taken | None:
        """Take, after a wait that ends when something comes or the worker is told to stop; None without an answer."""
        taken = None
        try:
            take = partial(self._inbox.take, in_hand=self._handling.held)
            taken = await self._interrupted(take, count, wait)
        except (Unavailable, TimedOut) as error:
            self._tell_away(error)
            await self._interrupted(anyio.sleep, 0.5)
        if taken is None:
            return None
        self._tell_back()
        if taken.before < self._newest or taken.born != (self._born or taken.born):
            self._report("The server has lost what it knew: it was emptied, or restored to an earlier state.")
        self._newest, self._born = taken.newest, taken.born
        for position in taken.missing:
            self._report(
                f"{self._agent} was to get {position}, and taskbus wrote nothing there: the log was emptied, trimmed, "
                f"or written by something else."
            )
        return taken

    async def _mend(self, priorities: tuple[str, ...]) -> None:
        """Put back what stood in a part of the inbox that somebody deleted, and say what was not."""
        try:
            back = await mend(self._bus, self._agent)
        except (Unavailable, TimedOut) as error:
            self._tell_away(error)
            return
        put_back = f"open work of {len(back)} {'task was' if len(back) == 1 else 'tasks was'} put back"
        self._report(
            f"Somebody deleted the inbox of {self._agent} ({', '.join(priorities)}) or its group: {put_back}; messages "
            f"that only inform may be missing, and stand in the log."
        )

    async def _next(self) -> Held:
        """The delivery to be handled next: the most urgent of those that are held."""
        while True:
            while self._stopping or not self._queue:
                called = anyio.Event()
                self._resting.append(called)
                await called.wait()
                self._is_calling = False
            held = heapq.heappop(self._queue)[2]
            self._change()
            if not held.is_lost:
                self._call()
                return held

    def _call(self) -> None:
        """Have another handler begin with what is left, where one rests: one after the other, for most end at once."""
        if self._queue and self._resting and not self._is_calling:
            self._is_calling = True
            self._resting.pop().set()

    async def _beat(self) -> None:
        """Renew what is held, and hear at once when something of it is taken away: it came with a new message."""
        quick = min(_QUICK, self._terms.lease / 10)
        while True:
            while not (held := self._older_than(quick)):
                if self._handling.held:
                    await anyio.sleep(quick)
                else:
                    await self._change_comes()
            try:
                await self._renew(held)
                self._tell_back()
                await self._inbox.wait(max(self._terms.lease / 3 - _TICK, 0.0), renewed=True)
            except (Unavailable, TimedOut) as error:
                self._tell_away(error)
            await anyio.sleep(quick)

    async def _begin(self, held: Held) -> None:
        """Before a handler begins: a lease that may have lapsed, while the server was away, is renewed first."""
        while not held.is_lost and anyio.current_time() - held.since > self._terms.lease / 2:
            try:
                await self._renew([held])
            except (Unavailable, TimedOut) as error:
                self._tell_away(error)
                await anyio.sleep(_QUICK)

    def _older_than(self, seconds: float) -> list[Held]:
        late = anyio.current_time() - seconds
        return [held for held in self._handling.held.values() if held.since < late]

    async def _renew(self, held: list[Held]) -> None:
        since = anyio.current_time()
        kept = {each.token for each in await self._inbox.renew([each.delivery for each in held])}
        for each in held:
            each.since = since
            if each.delivery.token not in kept and not each.is_decided:
                self._handling.lose(each, await self._why(each))

    async def _why(self, held: Held) -> str:
        """Why a delivery is not this worker's any more, as far as its task tells."""
        try:
            state = (await self._bus.task(held.delivery.task)).state
        except NotFound:
            return "the server does not know it any more."
        if held.delivery.is_work and state not in DELIVERED:
            return f"it is {state}."
        return "it was settled, or taken again."

    async def _rest(self, taken: Taken, *, at_rest: bool) -> float:
        """How long to wait for something new: until the next lease lapses; at rest, not without another look."""
        longest = _LOOK if at_rest else _IDLE
        if at_rest and not self._told_holders:
            try:
                await self._tell_holders()
            except (Unavailable, TimedOut) as error:
                self._tell_away(error)
        return longest if taken.lapse is None else min(longest, max(taken.lapse, 0.01))

    async def _tell_holders(self) -> None:
        """Say who holds what is left, and what waits for its time."""
        held = await self._bus.connection.hash(self._bus.keys.held(self._agent))
        holders = [value.split(" ")[1] for value in held.values()]
        names = sorted({holder for holder in holders if holder != "-"})
        if holders:
            self._told_holders = True
            left = "1 delivery" if len(holders) == 1 else f"{len(holders)} deliveries"
            by = f"{' and '.join(names)} {'holds' if len(names) == 1 else 'hold'}" if names else "wait for their time"
            self._report(f"Waiting for {left} that {by if len(holders) > 1 or names else 'waits for its time'}.")

    async def _finish(self) -> None:
        """End what was begun; when it was told to stop, within its grace."""
        running = self._handling.running
        while self._handling.held or running:
            if self._stopping:
                self._queue.clear()
                for held in list(self._handling.held.values()):
                    if held not in running and not held.is_decided:
                        self._handling.hand_back(held)
                if anyio.current_time() >= self._end:
                    break
            with anyio.CancelScope(deadline=self._end):
                await self._change_comes()
        for held in running:
            held.is_recalled = True
            if held.scope is not None:
                held.scope.cancel()
        # However long they take to end, their leases are kept: nobody is to begin before they are done.
        while running:
            await self._change_comes()
        with anyio.CancelScope(deadline=self._end + _LAST):
            await self._settling.drained()

    async def _leave(self) -> None:
        """Tell the server what it has not been told yet, and give back whatever is left."""
        with anyio.move_on_after(_LAST, shield=True):
            try:
                await self._settling.finish()
                left = [Release(held.delivery) for held in self._handling.held.values() if not held.is_decided]
                if self._inbox.is_uncertain:
                    left += [Release(delivery) for delivery in (await self._inbox.take(0)).deliveries]
                if left:
                    await self._inbox.release(left)
                    self._handling.held.clear()
                await self._inbox.leave()
            except (Unavailable, TimedOut) as error:
                self._tell_away(error)
        if left := len(self._handling.held):
            what = "1 delivery" if left == 1 else f"{left} deliveries"
            self._report(f"The server was not told of {what}: taken again once the lease has run out.")

    async def _interrupted(self, wait: Callable[..., Awaitable[_T]], *arguments: object) -> _T | None:
        """Wait for something unless told to stop; None when it was."""
        with anyio.CancelScope() as self._waiting:
            if not self._stopping:
                return await wait(*arguments)
        return None

    def _change(self) -> None:
        if not self._has_changed:
            self._has_changed = True
            self._changed.set()
        if self._until_idle and self._waiting is not None and not self._handling.held:
            self._waiting.cancel()  # that may have been the last one

    async def _change_comes(self) -> None:
        if self._has_changed:
            self._has_changed = False
            self._changed = anyio.Event()
        await self._changed.wait()

    def _tell_escalation(self, envelope: AnyEnvelope) -> None:
        if envelope.type == "budget":
            self._report(f"Of task {envelope.task}, {gist(envelope)}.")
            return
        details = cast("Escalation", envelope.payload).error_details
        self._report(f"Task {envelope.task} is escalated to {envelope.recipient}: {details.message}")

    def _tell_away(self, error: TaskbusError) -> None:
        """Say that the server is away: once, until it is back."""
        if not self._away:
            self._away = True
            advice = self.advice or error.advice
            self._report(f"{error.message} Trying again." + (f" {advice}" if advice else ""))

    def _tell_back(self) -> None:
        if self._away:
            self._away = False
            self._report("The server is back.")


def _ignore(_incident: str) -> None:
    pass
