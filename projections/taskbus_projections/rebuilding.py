"""The rebuild: the history folded anew from its beginning, while everybody goes on with the old database.

It folds into a new file beside the old one, compares the two, and swaps the new one in. Readers see the old rows or the
new ones. Ended on the way, however hard, it leaves the old ones, and in the new file what it has done: the next rebuild
goes on from there, unless other read models or another log have come meanwhile.
"""

from __future__ import annotations

import fcntl
import gc
import sqlite3
from contextlib import asynccontextmanager, contextmanager
from typing import TYPE_CHECKING, Final, NamedTuple

import anyio
from anyio import to_thread

from taskbus.errors import CheckpointLost, NotFound, ProjectionStopped
from taskbus_projections import dump
from taskbus_projections.database import OWN, Checkpoint, Database, Outdated, explained, make_folder
from taskbus_projections.projector import Projector, interruptible
from taskbus_projections.swapping import clear, remove, swap

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Generator
    from pathlib import Path

    from taskbus.client import Bus
    from taskbus_projections.projector import Progress
    from taskbus_projections.registry import Models

LONG: Final = 20_000
"""From so many envelopes on, the first database is made as a rebuild makes it."""
_TRIES: Final = 3


class Rebuilt(NamedTuple):
    """What a rebuild did: the checkpoint, and the tables whose rows were not what the log says.

    `changed` is None where there was nothing to compare with: no old database, other read models, another
    log. `begun` is from where on it was folded: the beginning, or how far a rebuild had come that was interrupted.
    """

    checkpoint: Checkpoint
    changed: tuple[str, ...] | None
    begun: Checkpoint = Checkpoint()


async def up_to_date(
    bus: Bus,
    path: Path,
    models: Models,
    *,
    set_aside: bool = False,
    on_commit: Callable[[Progress], None] | None = None,
    on_rebuild: Callable[[str], None] | None = None,
) -> Checkpoint:
    """Catch up with the log; where the read models have changed, by a rebuild, after telling `on_rebuild`
    why. So is the first database of a long log made, which is several times as fast.

    Raises what `Projector.catch_up` and `Database.open` raise.
    """
    rebuilding = Rebuilding(bus, path, models, on_commit, set_aside=set_aside)
    try:
        if not await to_thread.run_sync(path.exists) and await length(bus) > LONG:
            return (await rebuilding.run(again=False)).checkpoint
        with Database.open(path, bus.namespace, models) as database:
            return await Projector(bus, database, set_aside=set_aside).catch_up(on_commit=on_commit)
    except Outdated as error:
        if on_rebuild:
            on_rebuild(error.message)
        return (await rebuilding.run(again=False)).checkpoint


async def rebuild(
    bus: Bus,
    path: Path,
    models: Models,
    *,
    set_aside: bool = False,
    on_commit: Callable[[Progress], None] | None = None,
) -> Rebuilt:
    """Fold the whole history into a new database and swap it in; the old one may be broken, outdated or missing.

    Of several rebuilds of one database, one works and the others wait. Cancelled, killed or failed, it leaves the old
    database as it was, and the next one goes on from where it was. Raises ProjectionStopped.
    """
    return await Rebuilding(bus, path, models, on_commit, set_aside=set_aside).run(again=True)


async def length(bus: Bus) -> int:
    """How many envelopes there ever were, in the archive and in the log."""
    trimmed = await bus.log.trimmed()
    return (trimmed.head.n if trimmed else 0) + await bus.log.count()


class Rebuilding:
    """One rebuild; see `rebuild`."""

    def __init__(
        self, bus: Bus, path: Path, models: Models, on_commit: Callable[[Progress], None] | None, *, set_aside: bool
    ) -> None:
        self._bus = bus
        self._path = path
        self._new = path.with_name(f"{path.name}.new")
        self._models = models
        self._on_commit = on_commit
        self._set_aside = set_aside

    async def run(self, *, again: bool) -> Rebuilt:
        """Rebuild; unless `again`, only where another process has not done it meanwhile."""
        bus, path = self._bus, self._path
        with explained(path):
            make_folder(path)
        changed, begun = None, Checkpoint()
        async with _alone(path):
            if again or _needed(path, bus.namespace, self._models):
                clear(path)
                try:
                    changed, begun = await self._folded()
                except CheckpointLost:
                    # What an earlier rebuild left is of another log, or this one is another since.
                    remove(self._new)
                    changed, begun = await self._folded()
                await swap(self._new, path)
                remove(self._new)
        with Database.open(path, bus.namespace, self._models) as database:
            projector = Projector(bus, database, set_aside=self._set_aside)
            return Rebuilt(await projector.catch_up(on_commit=self._on_commit), changed, begun)

    async def _folded(self) -> tuple[tuple[str, ...] | None, Checkpoint]:
        """Fold into the new file, from where it is, and complete it; the tables that differ from the old one's."""
        if not self._can_go_on():
            remove(self._new)
        with Database.open(self._new, self._bus.namespace, self._models, new=True) as new, _seldom_collected():
            begun = new.checkpoint(self._bus.keys.shard)
            projector = Projector(self._bus, new, set_aside=self._set_aside)
            changed = await self._compared(projector, new)
            await projector.catch_up(on_commit=self._on_commit)
            with explained(self._new):
                await interruptible(new, new.complete)
            return changed, begun

    def _can_go_on(self) -> bool:
        """Whether what an earlier rebuild left is of the same read models, and as strict as this one."""
        if not self._new.exists():
            return False
        try:
            with Database.open(self._new, self._bus.namespace, self._models, new=True) as new:
                if new.was_cut_off:
                    return False
                return self._set_aside or new.connection.execute("SELECT 1 FROM set_aside").fetchone() is None
        except (ProjectionStopped, sqlite3.Error):
            return False

    async def _compared(self, projector: Projector, new: Database) -> tuple[str, ...] | None:
        """Fold up to the old database's checkpoint, and name the tables that differ; None where unknown."""
        shard = self._bus.keys.shard
        try:
            for _ in range(_TRIES):
                await self._old_up_to(new.checkpoint(shard))
                with Database.read(self._path, new.namespace, new.models) as old:
                    checkpoint = old.checkpoint(shard)
                    if await projector.catch_up(until=checkpoint.position, on_commit=self._on_commit) != checkpoint:
                        return None
                    with old.snapshot(), new.snapshot():
                        if old.checkpoint(shard) == checkpoint:
                            found = await interruptible(new, lambda old=old: dump.differing(old, new))
                            return tuple(name for name in found if name not in OWN)
        except (NotFound, ProjectionStopped, sqlite3.Error):
            return None  # there is no old one, or it cannot be read: that may be why it is rebuilt
        return None

    async def _old_up_to(self, checkpoint: Checkpoint) -> None:
        """Fold the old database up to where the new one is, when a rebuild goes on that was farther."""
        with Database.read(self._path, self._bus.namespace, self._models) as old:
            if old.checkpoint(self._bus.keys.shard).position >= checkpoint.position:
                return
        with Database.open(self._path, self._bus.namespace, self._models) as old:
            await Projector(self._bus, old).catch_up(until=checkpoint.position)


def _needed(path: Path, namespace: str, models: Models) -> bool:
    try:
        with Database.read(path, namespace, models):
            return False
    except (Outdated, NotFound):
        return True


@contextmanager
def _seldom_collected() -> Generator[None]:
    """Nothing in a page refers back to itself: the collector would look at all of it in vain, for 7 % of the time."""
    before = gc.get_threshold()
    gc.set_threshold(200_000, *before[1:])
    try:
        yield
    finally:
        gc.set_threshold(*before)


@asynccontextmanager
async def _alone(path: Path) -> AsyncGenerator[None]:
    """One rebuild of this database at a time; the lock ends with the process, however that ends."""
    with explained(path):
        lock = path.with_name(f"{path.name}.lock").open("w")
    with lock:
        while True:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                await anyio.sleep(0.05)
        yield
