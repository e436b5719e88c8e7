"""The projector: one engine that folds the history into all read models.

It reads the archive and the log as one, after the checkpoint, a page at a time, and commits the rows and the new
checkpoint of a page in one transaction. It never skips: what it cannot fold stops it with position and reason, or is
set aside where that was asked for, and a history that does not hold the checkpoint is refused. Any number of
projectors may run at once, in any processes: one writes, the others wait, see that the checkpoint has moved, and fold
only what is left.
"""

from __future__ import annotations

import asyncio
import socket
import sqlite3
from contextlib import aclosing, closing, suppress
from typing import TYPE_CHECKING, Final, NamedTuple, NoReturn, TypeVar

import anyio
from anyio import to_thread

from taskbus import trimming
from taskbus.errors import ProjectionStopped, TaskbusError, TimedOut, Unavailable
from taskbus.log import Incident
from taskbus_projections.batch import Batch
from taskbus_projections.database import Checkpoint, explained
from taskbus_projections.pages import PAGE, Reader, lost

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from taskbus.client import Bus
    from taskbus.position import Position
    from taskbus_projections.database import Database
    from taskbus_projections.pages import Page

T = TypeVar("T")

BULK: Final = 4000
"""The most envelopes of a transaction while a rebuild folds into a file that nobody reads; else it is PAGE."""
ANNOUNCE: Final = 1.0
"""How often, in seconds, the server is told at most how far this database is."""
WRITE_BACK: Final = 1.0
"""How often, in seconds, what was committed is moved into the file while following."""
_WAIT: Final = 5.0
_FEW: Final = 100
_BACKOFF: Final = (0.05, 0.1, 0.2, 0.5, 1.0)


class Progress(NamedTuple):
    """How far a projector is: the checkpoint, and the position that it folds up to."""

    checkpoint: Checkpoint
    end: Position


class Projector:
    """Folds the history of a bus into a database. Uses both, and closes neither; one call at a time.

    A transaction folds at most `page` envelopes. With `set_aside`, what a read model cannot fold is noted in the table
    of that name, and folding goes on. Cancelling leaves the database as of the last transaction; the next call goes
    on from there. The server is told how far the database is, so that the log is trimmed no further, unless it is
    the file of a rebuild.
    """

    def __init__(self, bus: Bus, database: Database, *, page: int | None = None, set_aside: bool = False) -> None:
        self._bus = bus
        self._database = database
        self._reader = Reader(bus, most=page or (BULK if database.unfinished else PAGE), set_aside=set_aside)
        self._batch = Batch(database, bus.keys.shard, set_aside=set_aside)
        self._announced: tuple[Position, float] | None = None
        self._end: Position | None = None

    async def catch_up(
        self, *, until: Position | None = None, on_commit: Callable[[Progress], None] | None = None
    ) -> Checkpoint:
        """Fold what stands in the history at the time of the call, or up to `until`; return the checkpoint.

        `on_commit` is called after each transaction. Raises ProjectionStopped with the position of what
        cannot be folded, after everything before it is, CheckpointLost when the history is not the one that
        was folded, and Gap with the segment that is missing.
        """
        # In this order: what another projector folds between the two is no envelope that the log lost.
        checkpoint = await self._checkpoint()
        end = await self._reader.end()
        if end < checkpoint.position:
            raise lost(checkpoint, f"it ends at {end}")
        end = min(end, until) if until else end
        try:
            done = checkpoint.position >= end
            while not done:
                checkpoint, done = await self._fold(checkpoint, end, on_commit)
        except ProjectionStopped:
            await self._announce(due=True)
            raise
        await self._announce(due=True)
        self._end = end
        return checkpoint

    async def follow(
        self,
        *,
        on_commit: Callable[[Progress], None] | None = None,
        on_incident: Callable[[Incident], None] | None = None,
    ) -> NoReturn:
        """Catch up, then fold each new envelope as it arrives; ends only by cancellation, or as `catch_up`
        does.

        When the server is gone it is tried again, at most a second apart, and `on_incident` is told.
        """
        report = on_incident or _unheard
        # Within a commit, as SQLite does it by default, this takes half a second on a busy disk.
        self._database.connection.execute("PRAGMA wal_autocheckpoint = 0")
        writing_back = asyncio.ensure_future(self._write_back())
        try:
            await self._follow(on_commit, report)
        finally:
            writing_back.cancel()
            self._database.connection.execute("PRAGMA wal_autocheckpoint = 1000")

    async def _follow(
        self, on_commit: Callable[[Progress], None] | None, report: Callable[[Incident], None]
    ) -> NoReturn:
        failures = 0
        while True:
            try:
                if failures:
                    await self._reader.end()
                    report(Incident("The server is back.", (await self._checkpoint()).position))
                    failures = 0
                checkpoint = await self.catch_up(on_commit=on_commit)
                while page := await self._arriving(checkpoint):
                    checkpoint = await self._commit(page, page.after.position, on_commit)
                    if checkpoint != page.after:
                        break
            except (Unavailable, TimedOut) as error:
                if not failures:
                    report(Incident(error.message, (await self._checkpoint()).position))
                await anyio.sleep(_BACKOFF[min(failures, len(_BACKOFF) - 1)])
                failures += 1

    async def _write_back(self) -> NoReturn:
        """Move what was committed out of the write-ahead log, beside the folding."""
        while True:
            await anyio.sleep(WRITE_BACK)
            await to_thread.run_sync(_write_back, self._database.path)

    async def _checkpoint(self) -> Checkpoint:
        with explained(self._database.path):
            return self._database.checkpoint(self._bus.keys.shard)

    async def _fold(
        self, at: Checkpoint, end: Position, on_commit: Callable[[Progress], None] | None
    ) -> tuple[Checkpoint, bool]:
        """Fold page after page, as long as nobody else does; whether that was all."""
        async with aclosing(self._reader.pages(at, end)) as pages:
            async for page in pages:
                at = await self._commit(page, end, on_commit)
                if at != page.after:
                    return at, at.position >= end
        return at, True

    async def _commit(self, page: Page, end: Position, on_commit: Callable[[Progress], None] | None) -> Checkpoint:
        at = await interruptible(self._database, lambda: self._batch.fold(page))
        if on_commit:
            on_commit(Progress(at, end))
        await self._announce()
        return at

    async def _arriving(self, at: Checkpoint) -> Page | None:
        """Wait for what follows; None where nothing comes for a while, or where it takes a closer look."""
        # Not the checkpoint: an entry that is no envelope may stand behind it.
        after = max(at.position, self._end or at.position)
        found = await self._bus.connection.wait({self._bus.keys.log: after.entry}, timeout=_WAIT, count=_FEW)
        return await self._reader.arrived(at, found.get(self._bus.keys.log, []))

    async def _announce(self, *, due: bool = False) -> None:
        """Tell the server how far this database is, unless it was told less than a second ago."""
        now = asyncio.get_running_loop().time()
        before = self._announced
        if (before and not due and now - before[1] < ANNOUNCE) or self._database.unfinished:
            return
        position = (await self._checkpoint()).position
        if before and before[0] == position and now - before[1] < _WAIT:
            return
        try:
            await trimming.announce(self._bus.connection, self._bus.keys, name_of(self._database.path), position)
        except TaskbusError:
            return  # it is told again in a second; as long as it is not, nothing more is trimmed
        self._announced = position, now


def name_of(path: Path) -> str:
    """The name by which the server knows a database: its machine and its file."""
    return f"{socket.gethostname()}:{path.resolve()}"


async def interruptible(database: Database, work: Callable[[], T]) -> T:
    """Run something on a database in a thread; cancelled, it is interrupted, and rolls back."""
    running = asyncio.ensure_future(to_thread.run_sync(work))
    try:
        return await asyncio.shield(running)
    except asyncio.CancelledError:
        with anyio.CancelScope(shield=True):
            while not running.done():
                database.connection.interrupt()  # again and again: it ends only what is under way at the moment
                await asyncio.wait([running], timeout=0.05)
        if not running.cancelled():
            running.exception()  # that it was interrupted is no news
        raise


def _write_back(path: Path) -> None:
    # Whatever keeps it from being done, a reader or another process that does it: it is tried again in a second.
    with suppress(sqlite3.Error), closing(sqlite3.connect(path, timeout=0.0)) as beside:
        beside.execute("PRAGMA wal_checkpoint(PASSIVE)")


def _unheard(_incident: Incident) -> None:
    """What becomes of incidents that nobody wants to hear of."""
