"""The projector: one engine that folds the log into all read models.

It reads the log after the checkpoint, a page at a time, and commits the rows and the new checkpoint of a page
in one transaction. It never skips: what it cannot fold stops it with position and reason, and a log that does
not hold the checkpoint is refused. Any number of projectors may run at once, in any processes: one writes,
the others wait, see that the checkpoint has moved, and fold only what is left.
"""

from __future__ import annotations

from contextlib import aclosing
from typing import TYPE_CHECKING, Final, NamedTuple, NoReturn

import anyio
from anyio import to_thread

from taskbus import moment
from taskbus.errors import CheckpointLost, ForeignEntry, InvalidEnvelope, ProjectionStopped, TimedOut, Unavailable
from taskbus.log import Incident
from taskbus_projections.database import Checkpoint, explained
from taskbus_projections.instants import appended
from taskbus_projections.model import Fact

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from taskbus.client import Bus
    from taskbus.log import Entry
    from taskbus.position import Position
    from taskbus_projections.database import Database

PAGE: Final = 1000
"""The most envelopes of a transaction."""
PAGE_BYTES: Final = 8 << 20
"""About so many bytes of envelopes are held in memory; a page of long ones holds fewer of them."""
_FIRST: Final = 64
_LEAST: Final = 16
_WAIT: Final = 5.0
_BACKOFF: Final = (0.05, 0.1, 0.2, 0.5, 1.0)


class Progress(NamedTuple):
    """How far a projector is: the checkpoint, and the position that it folds up to."""

    checkpoint: Checkpoint
    end: Position


class Projector:
    """Folds the log of a bus into a database. Uses both, and closes neither; one call at a time.

    A transaction folds at most `page` envelopes. Cancelling leaves the database as of the last one; the next call
    goes on from there.
    """

    def __init__(self, bus: Bus, database: Database, *, page: int = PAGE) -> None:
        self._bus = bus
        self._database = database
        self._most = max(2, page)  # one of them is the checkpoint's own entry
        self._page = min(_FIRST, self._most)
        self._models = [model() for model in database.models]

    async def catch_up(
        self, *, until: Position | None = None, on_commit: Callable[[Progress], None] | None = None
    ) -> Checkpoint:
        """Fold what stands in the log at the time of the call, or up to `until`; return the checkpoint.

        `on_commit` is called after each transaction. Raises ProjectionStopped with the position of what
        cannot be folded, after everything before it is, and CheckpointLost when the log is not the one that
        was folded.
        """
        end = await self._bus.log.end()
        checkpoint = await self._checkpoint()
        if end < checkpoint.position:
            raise _lost(checkpoint, f"it ends at {end}")
        end = min(end, until) if until else end
        while checkpoint.position < end:
            page = await self._read(checkpoint, end)
            if not page:
                break  # what stood at the end was deleted from the log, and nothing is left to fold
            checkpoint = await to_thread.run_sync(self._fold, checkpoint, page)
            if on_commit:
                on_commit(Progress(checkpoint, end))
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
        failures = 0
        while True:
            try:
                checkpoint = await self.catch_up(on_commit=on_commit)
                if failures:
                    report(Incident("The server is back.", checkpoint.position))
                    failures = 0
                after = {self._bus.keys.log: checkpoint.position.entry}
                await self._bus.connection.wait(after, timeout=_WAIT, count=1)
            except (Unavailable, TimedOut) as error:
                if not failures:
                    report(Incident(error.message, (await self._checkpoint()).position))
                await anyio.sleep(_BACKOFF[min(failures, len(_BACKOFF) - 1)])
                failures += 1

    async def _checkpoint(self) -> Checkpoint:
        with explained(self._database.path):
            return self._database.checkpoint(self._bus.keys.shard)

    async def _read(self, checkpoint: Checkpoint, end: Position) -> list[Entry]:
        """The next page; it is read with the checkpoint's own entry, to see that this one is there."""
        found: list[Entry] = []
        foreign: ForeignEntry | None = None
        entries = self._bus.log.read(moment.before(checkpoint.position), end, page=self._page)
        async with aclosing(entries):
            try:
                async for entry in entries:
                    found.append(entry)
                    if len(found) == self._page:
                        break
            except ForeignEntry as error:
                foreign = error  # what stands before it is folded first; then it is met again
        if found:
            size = sum(len(entry.body) for entry in found) // len(found) + 1
            self._page = min(self._most, max(_LEAST, PAGE_BYTES // size))
        if checkpoint.envelope is not None:
            if not found or found[0].id != checkpoint.envelope or found[0].position != checkpoint.position:
                raise _lost(checkpoint, f"it goes on at {found[0].position}" if found else "it is empty there")
            del found[0]
        if foreign and not found:
            raise ProjectionStopped(foreign.message, position=foreign.position, advice=foreign.advice) from foreign
        return found

    def _fold(self, after: Checkpoint, entries: Sequence[Entry]) -> Checkpoint:
        """Fold a page; when one of its entries cannot be folded, everything before that one."""
        with explained(self._database.path):
            try:
                return self._commit(after, entries)
            except ProjectionStopped:
                if len(entries) == 1:
                    raise
            for entry in entries:
                after = self._commit(after, [entry])
            return after

    def _commit(self, after: Checkpoint, entries: Sequence[Entry]) -> Checkpoint:
        """Fold what follows `after` in one transaction, without what another projector has folded."""
        database = self._database
        with database.transaction():
            database.check_place()
            database.check_models()
            before = database.checkpoint(self._bus.keys.shard)
            if before.position < after.position:
                return before  # swapped for a rebuilt one meanwhile, which ends earlier
            fresh = [entry for entry in entries if entry.position > before.position]
            if not fresh:
                return before
            self._apply(before.folded, fresh)
            checkpoint = Checkpoint(fresh[-1].position, fresh[-1].id, before.folded + len(fresh))
            database.move(checkpoint)
        return checkpoint

    def _apply(self, folded: int, entries: Sequence[Entry]) -> None:
        entry, name = entries[0], ""
        try:
            for model in self._models:
                name = model.name
                model.begin(self._database.connection)
            for n, entry in enumerate(entries, start=folded + 1):
                fact = Fact(n, entry, entry.envelope, appended(entry.position))
                for model in self._models:
                    name = model.name
                    model.fold(fact)
            for model in self._models:
                name = model.name
                model.finish()
        except InvalidEnvelope as error:
            message = f"The body of the envelope at {entry.position} cannot be decoded: {error.message}"
            raise _stopped(entry, message) from error
        except Exception as error:  # read models may be somebody else's code, and raise anything
            message = f"The read model {name} cannot fold the {entry.type} at {entry.position}: {error!r}."
            raise _stopped(entry, message) from error


def _unheard(_incident: Incident) -> None:
    """What becomes of incidents that nobody wants to hear of."""


def _stopped(entry: Entry, message: str) -> ProjectionStopped:
    return ProjectionStopped(
        message,
        advice="Everything before it is folded: queries with `--no-sync` answer from that. "
        "A newer taskbus or read model may be able to fold it.",
        position=str(entry.position),
        envelope=entry.id,
        task=entry.task,
    )


def _lost(checkpoint: Checkpoint, instead: str) -> CheckpointLost:
    return CheckpointLost(
        f"The log does not hold the envelope at {checkpoint.position}, up to which it was folded: {instead}. "
        "It was emptied, trimmed or restored to an earlier state, or this is another server.",
        position=str(checkpoint.position),
        envelope=checkpoint.envelope,
    )
