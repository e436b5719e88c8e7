"""Who takes part in the following: one appends at a steady rate, one folds, one reads the database that is folded.

Arguments: the role, URL, namespace, database. Times are in nanoseconds of the monotonic clock.
"""

from __future__ import annotations

import asyncio
import sys
import time
from contextlib import suppress
from pathlib import Path

from parties import attend
from traffic import traffic

from taskbus.append import Appended
from taskbus.client import Bus
from taskbus.connection import Connection
from taskbus_projections.database import Database
from taskbus_projections.projector import Projector
from taskbus_projections.registry import BUILTIN

RATE = 1000
"""Envelopes per second."""
LOOK = 0.001
"""Seconds between two looks of the reader."""


async def append(bus: Bus, _path: Path) -> None:
    """Appends, each at its time, or as soon as the one before it has been answered."""

    async def run(count: int) -> list[int]:
        envelopes = list(traffic(count))
        begun, times = time.monotonic(), list[int]()
        for number, envelope in enumerate(envelopes):
            await asyncio.sleep(begun + number / RATE - time.monotonic())
            times.append(time.monotonic_ns())
            assert isinstance(await bus.publish(envelope), Appended)
        return times

    await attend({"append": run})


async def fold(bus: Bus, path: Path) -> None:
    """Follows, as `bus project --follow` does."""
    with Database.open(path, bus.namespace, BUILTIN) as database:
        following = asyncio.ensure_future(Projector(bus, database).follow())
        await attend({})
        following.cancel()
        with suppress(asyncio.CancelledError):
            await following


async def read(bus: Bus, path: Path) -> None:
    """Looks how many envelopes there are, and notes when it has seen each for the first time."""

    async def run(count: int) -> list[int]:
        seen: list[int] = []
        with Database.read(path, bus.namespace, BUILTIN) as database:
            while len(seen) < count:
                (newest,) = database.connection.execute("SELECT coalesce(max(n), 0) FROM events").fetchone()
                seen += [time.monotonic_ns()] * (newest - len(seen))
                await asyncio.sleep(LOOK)
        return seen

    await attend({"look": run})


async def main(role: str, url: str, namespace: str, path: str) -> None:
    """Play a role."""
    async with Connection.open(url) as connection:
        await {"append": append, "fold": fold, "read": read}[role](Bus(connection, namespace), Path(path))


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
