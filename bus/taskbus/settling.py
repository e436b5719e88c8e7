"""Settling: what has been decided of deliveries, carried out on the server, as much of it in one step as has piled up.

While one step is under way, whatever is decided meanwhile waits for the next: many handlers cost few round trips, and
a single one does not wait. It is tried until the server answers, since the work is done and must not be lost. Owned
by the worker.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, TypeAlias, TypeVar

import anyio

from taskbus.append import commit
from taskbus.errors import ServerFault, TaskbusError, TimedOut, Unavailable

if TYPE_CHECKING:
    from taskbus.append import Answers, Unit
    from taskbus.client import Bus
    from taskbus.delivery import Inbox, Release

BATCH = 200
"""At most so many deliveries are settled, or given back, in one step."""
_PAUSE = 0.2
_T = TypeVar("_T")

Then: TypeAlias = "Callable[[Answers | TaskbusError], None]"
"""Told of the answers to a unit, or of what its delivery was refused for."""


class Settling:
    """Settles and gives back deliveries of one inbox; `run` does it until it is cancelled.

    `on_away` is told of each time that the server did not answer, `on_back` of each time that it did.
    """

    def __init__(
        self, bus: Bus, inbox: Inbox, *, on_away: Callable[[TaskbusError], None], on_back: Callable[[], None]
    ) -> None:
        self._bus = bus
        self._inbox = inbox
        self._on_away = on_away
        self._on_back = on_back
        self._units: list[tuple[int, Unit, Then]] = []
        self._releases: list[tuple[Release, Callable[[], None]]] = []
        self._decided = anyio.Event()
        self._idle = anyio.Event()
        self._busy = self._asleep = False
        self._most = BATCH

    def settle(self, token: int, unit: Unit, then: Then) -> None:
        """Have a unit appended, after those under the same token; `then` is told of its answers."""
        self._units.append((token, unit, then))
        self._wake()

    def release(self, release: Release, then: Callable[[], None]) -> None:
        """Have a delivery given back; `then` is told when it is, or was somebody else's."""
        self._releases.append((release, then))
        self._wake()

    def _wake(self) -> None:
        if self._asleep:
            self._asleep = False
            self._decided.set()

    async def drained(self) -> None:
        """Wait until everything that was decided is carried out."""
        while self._busy or self._units or self._releases:
            self._idle = anyio.Event()
            await self._idle.wait()

    async def run(self) -> None:
        """Carry out what is decided, until cancelled."""
        while True:
            if not self._units and not self._releases:
                self._busy = False
                self._most = BATCH
                self._idle.set()
                self._decided = anyio.Event()
                self._asleep = True
                await self._decided.wait()
            self._busy = True
            await self._step()

    async def finish(self) -> None:
        """Carry out what is left after `run` was cancelled."""
        while self._units or self._releases:
            await self._step()
        self._busy = False

    async def _step(self) -> None:
        if self._units:
            await self._settle(self._units[: self._most])
        if self._releases:
            await self._give_back()

    async def _give_back(self) -> None:
        # What is still to be said of a delivery is said before it is given back.
        unsaid = {token for token, _, _ in self._units}
        releases = [each for each in self._releases if each[0].delivery.token not in unsaid][:BATCH]
        if releases:
            await self._asked(lambda: self._inbox.release([each for each, _ in releases]))
            self._releases = [each for each in self._releases if each not in releases]
            for _, then in releases:
                then()

    async def _settle(self, units: list[tuple[int, Unit, Then]]) -> None:
        try:
            answers = await commit(self._bus.connection, self._bus.keys, [unit for _, unit, _ in units])
        except (Unavailable, TimedOut) as error:
            self._on_away(error)
            if isinstance(error, (ServerFault, TimedOut)):
                # One of them may be what the server cannot do: from now on each by itself, and after all the others.
                if len(units) == 1:
                    self._units.sort(key=lambda each: each[0] == units[0][0])
                self._most = 1
            await anyio.sleep(_PAUSE)
            return
        self._on_back()
        # Only now, so that a step that was cancelled is repeated, which changes nothing.
        del self._units[: len(units)]
        for (_, _, then), answer in zip(units, answers, strict=True):
            then(answer)

    async def commit(self, units: list[Unit]) -> list[Answers | TaskbusError]:
        """Append units, however long the server is away or unable."""
        return await self._asked(lambda: commit(self._bus.connection, self._bus.keys, units))

    async def _asked(self, ask: Callable[[], Awaitable[_T]]) -> _T:
        while True:
            try:
                answer = await ask()
            except (Unavailable, TimedOut) as error:
                self._on_away(error)
                await anyio.sleep(_PAUSE)
                continue
            self._on_back()
            return answer
