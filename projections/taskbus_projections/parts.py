"""A part of the history, folded into a database of its own: a rehearsal, a look at how things stood, a copy to keep.

Owns how it is begun somewhere in the middle: numbers and links go on from what stands before, which is read and not
folded. It refuses to touch a file that is there. Called by `bus project --into`.
"""

from __future__ import annotations

import os
from contextlib import aclosing
from typing import TYPE_CHECKING

from anyio import to_thread

from taskbus import chain
from taskbus.errors import UsageError
from taskbus.position import START, Position
from taskbus_projections.database import Checkpoint, Database, explained
from taskbus_projections.projector import Projector, interruptible
from taskbus_projections.swapping import remove

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from taskbus.client import Bus
    from taskbus_projections.projector import Progress
    from taskbus_projections.registry import Models


async def fold_part(
    bus: Bus,
    path: Path,
    models: Models,
    *,
    after: Position = START,
    until: Position | None = None,
    set_aside: bool = False,
    on_commit: Callable[[Progress], None] | None = None,
) -> tuple[Checkpoint, int]:
    """Fold what stands after `after`, up to and including `until`, into a new file; its checkpoint, and how much of
    it was set aside.

    A part that begins later than the log has envelopes of tasks that nobody saw begin: what cannot be folded for that
    is set aside, always. The file is there when all of it is. Raises UsageError where there is one already, and what
    `Projector.catch_up` raises.
    """
    if await to_thread.run_sync(path.exists):
        raise UsageError(f"{path} is there already.", advice="Name a file that is not, or remove that one.")
    new = path.with_name(f"{path.name}.new")
    remove(new)
    try:
        with Database.open(new, bus.namespace, models, new=True) as database:
            begin = await _checkpoint(bus, after)
            if begin.folded:
                with explained(new), database.transaction():
                    database.move(begin)
            projector = Projector(bus, database, set_aside=set_aside or begin.folded > 0)
            checkpoint = await projector.catch_up(until=until, on_commit=on_commit) if _some(begin, until) else begin
            with explained(new):
                await interruptible(database, database.complete)
                (aside,) = database.connection.execute("SELECT count(*) FROM set_aside").fetchone()
        with explained(path):
            os.link(new, path)
    finally:
        remove(new)
    return checkpoint, aside


def _some(begin: Checkpoint, until: Position | None) -> bool:
    return until is None or until > begin.position


async def _checkpoint(bus: Bus, after: Position) -> Checkpoint:
    """The checkpoint at the newest envelope up to a position, by reading all that stand before it."""
    found = Checkpoint(head=chain.beginning(bus.keys.prefix))
    if after > START:
        async with aclosing(bus.history.pages(until=after)) as pages:
            async for entries in pages:
                n, head = found.folded, found.head
                for entry in entries:
                    n, head = n + 1, chain.link(head, entry)
                found = Checkpoint(entries[-1].position, entries[-1].id, n, head)
    return found
