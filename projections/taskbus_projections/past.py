"""The past: a database as it was at a moment, folded from the audit trail of the one that is up to date.

Owns the files that hold it: a few are kept, since who asks once asks again, and a later moment is folded on from an
earlier one. It needs no server, and asks for nothing that the audit trail does not have. Called by every query
with `--at`, and by `bus diff`.
"""

from __future__ import annotations

import os
import shutil
import sqlite3
import time
from contextlib import ExitStack, closing, contextmanager, suppress
from typing import TYPE_CHECKING, Any, Final

from taskbus.errors import ProjectionStopped, TaskbusError
from taskbus_projections import events
from taskbus_projections.batch import Batch
from taskbus_projections.database import Checkpoint, Database, SetAside, explained, make_folder
from taskbus_projections.model import Fact
from taskbus_projections.pages import Page
from taskbus_projections.queries.envelopes import number
from taskbus_projections.swapping import remove

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterator
    from pathlib import Path

    from taskbus.position import Position

KEPT: Final = 4
"""So many databases of the past are kept of each bus."""
FOLDER: Final = "past"
_PAGE: Final = 5000
_TRIES: Final = 3
_LEFT: Final = 3600.0
"""What nobody has written to for so many seconds, nobody is making any more."""


@contextmanager
def as_of(
    present: Database, position: Position, *, on_commit: Callable[[int, int], None] | None = None
) -> Generator[Database]:
    """A database with what stood in the log up to a position, and nothing else, open for reading.

    It is `present` itself where nothing is newer. `on_commit` is told how many envelopes are folded, and of how many.
    Raises what folding raises.
    """
    wanted = _checkpoint(present, position)
    if wanted == present.checkpoint(position.shard):
        yield present
        return
    folder = present.path.parent / FOLDER / present.path.stem
    path = folder / f"{wanted.folded:012d}-{(wanted.head.hex() or '0')[:16]}.db"
    with ExitStack() as stack:
        found = _kept(path, present, wanted, stack)
        for _ in range(_TRIES):
            if found is None:  # also where another process has removed it to make room, before it was opened here
                with explained(path):
                    make_folder(path)
                _make(path, present, wanted, on_commit)
                found = _kept(path, present, wanted, stack)
        if found is None:
            found = stack.enter_context(Database.read(path, present.namespace, present.models))
        with explained(path):
            _tidy(folder, path)
        try:
            with found.snapshot():
                yield found
        except (ProjectionStopped, sqlite3.DatabaseError) as error:
            code = getattr(error.__cause__ or error, "sqlite_errorcode", 0) & 0xFF
            if code not in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB):
                raise
            remove(path)
            message = f"{path}, which was folded before, could not be read: {error}"
            raise ProjectionStopped(message, advice="It was removed: ask again, and it is folded anew.") from error


def _checkpoint(present: Database, position: Position) -> Checkpoint:
    """The checkpoint at the newest envelope up to a position."""
    end = present.checkpoint(position.shard)
    if position >= end.position:
        return end
    query = "SELECT * FROM events WHERE n < ? ORDER BY n DESC LIMIT 1"
    row = present.connection.execute(query, (number(present, position, after=True),)).fetchone()
    return _at(row, position.shard) if row else Checkpoint()


def _at(row: tuple[Any, ...], shard: int) -> Checkpoint:
    return Checkpoint(events.entry(row, shard).position, row[2], row[0], row[-1])


def _kept(path: Path, present: Database, wanted: Checkpoint, stack: ExitStack) -> Database | None:
    """The database of a moment that was asked for before, open; None where it is to be folded anew."""
    try:
        found = stack.enter_context(Database.read(path, present.namespace, present.models))
        return found if found.checkpoint(wanted.position.shard) == wanted else None
    except (TaskbusError, sqlite3.Error, ValueError):
        return None  # there is none, one of other read models, or a broken one


def _make(path: Path, present: Database, wanted: Checkpoint, on_commit: Callable[[int, int], None] | None) -> None:
    """Fold it, in a file of this process alone, and let it stand under its name."""
    new = path.with_name(f"{path.name}.{os.getpid()}")
    remove(new)
    try:
        earlier = _earlier(path.parent, present, wanted)
        if earlier is not None:
            with explained(new):
                shutil.copyfile(earlier, new)
        with Database.open(new, present.namespace, present.models, new=True) as database:
            aside = present.connection.execute("SELECT EXISTS (SELECT 1 FROM set_aside)").fetchone() == (1,)
            batch = Batch(database, wanted.position.shard, set_aside=aside)
            for page in _pages(present, database.checkpoint(wanted.position.shard), wanted):
                folded = batch.fold(page).folded
                if on_commit:
                    on_commit(folded, wanted.folded)
            with explained(new):
                database.complete()
        with explained(path), closing(sqlite3.connect(new)) as done:
            # Read-only ones need no log of their own beside the file.
            done.execute("PRAGMA journal_mode = DELETE")
        with explained(path):
            new.replace(path)
    finally:
        remove(new)


def _earlier(folder: Path, present: Database, wanted: Checkpoint) -> Path | None:
    """The newest database of an earlier moment that can be folded on: of the same history, by the same read models."""
    for path in sorted(folder.glob("*.db"), reverse=True):
        count = path.stem.split("-")[0]
        # Below half, to fold with indexes takes longer than to begin anew without.
        if not count.isdigit() or not wanted.folded // 2 < int(count) < wanted.folded:
            continue
        row = present.connection.execute("SELECT * FROM events WHERE n = ?", (int(count),)).fetchone()
        with ExitStack() as stack:
            if row and _kept(path, present, _at(row, wanted.position.shard), stack):
                return path
    return None


def _pages(present: Database, at: Checkpoint, wanted: Checkpoint) -> Iterator[Page]:
    """The audit trail between two checkpoints, as pages to fold, with what could not be read at all."""
    shard = wanted.position.shard
    query = "SELECT * FROM events WHERE n > ? AND n <= ? ORDER BY n LIMIT ?"
    unread = "SELECT * FROM set_aside WHERE model = '*' AND n > ? AND n <= ?"
    while rows := present.connection.execute(query, (at.folded, wanted.folded, _PAGE)).fetchall():
        facts: list[Fact] = []
        for row in rows:
            entry = events.entry(row, shard)
            facts.append(Fact.of(row[0], entry, row[-1]))
        after = Checkpoint(facts[-1].entry.position, facts[-1].entry.id, facts[-1].n, facts[-1].link)
        aside = present.connection.execute(unread, (at.folded, after.folded)).fetchall()
        yield Page(at, after, facts, [SetAside(*each) for each in aside])
        at = after


def _tidy(folder: Path, used: Path) -> None:
    """Remove all but the newest in use, and what was left by who was ended; who reads one of them goes on doing so."""
    found: list[tuple[float, Path]] = []
    with suppress(OSError):  # a folder that others write to as well, or that only may be read
        os.utime(used)
    for path in folder.glob("*.db*"):
        with suppress(FileNotFoundError):  # another process tidies at the same time
            if path.suffix == ".db":
                found.append((path.stat().st_mtime, path))
            elif path.suffix[1:].isdecimal() and time.time() - _touched(path) > _LEFT:
                remove(path)
    for _, path in sorted(found)[:-KEPT]:
        remove(path)


def _touched(path: Path) -> float:
    """When a database that is being made was last written to."""
    wal = path.with_name(f"{path.name}-wal")
    return max(each.stat().st_mtime for each in (path, wal) if each.exists())
