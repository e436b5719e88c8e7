"""What is read of the server: one method for each command, from its words to plain values.

Knows no client library, and nothing of envelopes. `taskbus.connection` sends the commands.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any, cast

from taskbus import replies
from taskbus.errors import ServerFault

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from taskbus.replies import Entry


class Reading(ABC):
    """Reads, each tried again within the timeout when its connection is lost. Raises Unavailable or TimedOut."""

    @abstractmethod
    async def _ask(self, *words: str | bytes | int) -> object:
        """Send a command that may run twice, and return its reply."""

    async def range(self, stream: str, start: str = "-", end: str = "+", count: int | None = None) -> list[Entry]:
        """Entries from `start` to `end`, oldest first; `(` before an ID leaves it out."""
        limit = () if count is None else ("COUNT", count)
        return replies.entries(await self._ask("XRANGE", stream, start, end, *limit))

    async def revrange(self, stream: str, end: str = "+", start: str = "-", count: int | None = None) -> list[Entry]:
        """Entries from `end` back to `start`, newest first."""
        limit = () if count is None else ("COUNT", count)
        return replies.entries(await self._ask("XREVRANGE", stream, end, start, *limit))

    async def last_id(self, stream: str) -> str:
        """The newest ID that the stream ever had, even if that entry is gone; `0-0` without a stream."""
        found = (await self.info_stream(stream)).get("last-generated-id", b"0-0")
        return replies.text(found)

    async def info_stream(self, stream: str) -> dict[str, object]:
        """XINFO STREAM; empty where there is no stream."""
        try:
            reply = await self._ask("XINFO", "STREAM", stream)
        except ServerFault as error:
            if "no such key" in error.message.lower():
                return {}
            raise
        return {replies.text(name): value for name, value in replies.pairs(reply)}

    async def hash(self, key: str) -> dict[str, str]:
        """All fields of a hash; empty where there is none."""
        return replies.texts(await self._ask("HGETALL", key))

    async def field(self, key: str, name: str) -> str | None:
        """One field of a hash; None where there is none."""
        value = await self._ask("HGET", key, name)
        return None if value is None else replies.text(value)

    async def scan(self, pattern: str = "*", *, count: int = 500) -> AsyncIterator[str]:
        r"""Keys that match, in no order, perhaps one twice; bytes that are no UTF-8 are shown as \xNN."""
        async for page in self._pages(("SCAN",), pattern, count):
            for key in page:
                yield replies.text(key)

    async def scan_hash(self, key: str, pattern: str, *, count: int = 500) -> AsyncIterator[tuple[str, str]]:
        """Fields of a hash that match, with their values, in no order, perhaps one twice."""
        async for page in self._pages(("HSCAN", key), pattern, count):
            for field in replies.texts(page).items():
                yield field

    async def _pages(self, words: tuple[str, ...], pattern: str, count: int) -> AsyncIterator[list[Any]]:
        cursor = "0"
        while True:
            reply = cast("list[Any]", await self._ask(*words, cursor, "MATCH", pattern, "COUNT", count))
            yield reply[1]
            if (cursor := replies.text(reply[0])) == "0":
                return

    async def time(self) -> float:
        """The server's clock, in seconds since 1970."""
        seconds, micros = cast("list[Any]", await self._ask("TIME"))
        return int(seconds) + int(micros) / 1_000_000
