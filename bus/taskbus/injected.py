"""A client that the caller made, behind the same door as our own connections.

Owns nothing: its retries, timeouts and end are the caller's. For tests with fakeredis, and for clients that our
own connections do not replace. Called by taskbus.connection.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, Final, Protocol

if TYPE_CHECKING:
    from collections.abc import Awaitable

# A fakeredis blocked in XREAD is not woken by writes (2.40), so an injected client is asked in steps.
POLL: Final = 0.01


class InjectedClient(Protocol):
    """What is needed of such a client: `redis.asyncio.Redis` has it, and the fakes of it."""

    def execute_command(self, *args: Any, **options: Any) -> Awaitable[Any]:
        """Send one command and return its reply."""
        ...

    def aclose(self) -> Awaitable[None]:
        """Disconnect."""
        ...


class Injected:
    """Commands through such a client, at most `turns` at once."""

    def __init__(self, client: InjectedClient, *, timeout: float, turns: int) -> None:
        self.client = client
        self.place = "the given client"
        self.timeout = timeout
        self._turns = asyncio.Semaphore(turns)

    async def call(self, words: tuple[str | bytes | int, ...], *, again: bool = True) -> object:
        """Send one command; whether it is tried again is the client's matter."""
        del again
        # As bytes, the name selects none of the library's reply callbacks: replies stay as they came.
        async with self._turns:
            return await self.client.execute_command(str(words[0]).encode(), *words[1:])

    async def block(
        self,
        before: tuple[str | bytes | int, ...],
        after: tuple[str | bytes | int, ...],
        timeout: float,
        *then: tuple[str | bytes | int, ...],
    ) -> list[object]:
        """Ask again and again, until there is an answer or `timeout` seconds are over; `then` the other commands."""
        loop = asyncio.get_running_loop()
        end = loop.time() + timeout
        while True:
            reply = await self.call((*before, *after))
            if reply or loop.time() >= end:
                return [reply, *[await self.call(words) for words in then]]
            await asyncio.sleep(POLL)

    async def aclose(self) -> None:
        """Close the client."""
        await self.client.aclose()
