"""The audit table as a copy of the log: each row with its link, and every column as the fold makes it.

Owns one snapshot of the database, so that a projector may go on meanwhile. Its calls block. Called by `bus verify`.
"""

from __future__ import annotations

import sqlite3
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any, Final

from taskbus import chain
from taskbus.chain import Head
from taskbus.errors import TaskbusError
from taskbus.position import START, Position
from taskbus.verification.discrepancy import Absent, Discrepancy, Item
from taskbus.verification.walk import Walk
from taskbus_projections import events
from taskbus_projections.database import Database
from taskbus_projections.model import Fact

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterator
    from pathlib import Path

    from taskbus.keys import Keys
    from taskbus.log import Entry
    from taskbus.verification.discrepancy import Copy
    from taskbus_projections.registry import Models

_PAGE: Final = 1000
_SOURCELESS = "its column source_type is not what the envelope says"


class AuditCopy:
    """The audit table as a copy that carries links; see `taskbus.verification.verified.Linked`."""

    copy: Copy = "audit table"

    def __init__(self, database: Database, keys: Keys) -> None:
        self._database = database
        self._keys = keys
        self.found: list[Discrepancy] = []
        self.unchecked: list[str] = []
        self.unproven: list[Item] = []
        self.count = 0
        self.marks: list[Head] = []
        self.end = self._end()
        self._columns: list[str] = []

    @classmethod
    @contextmanager
    def read(cls, path: Path, models: Models, namespace: str, keys: Keys) -> Generator[AuditCopy]:
        """Open it, as of now. Raises what `Database.read` raises."""
        with Database.read(path, namespace, models) as database, database.snapshot():
            yield cls(database, keys)

    def check(self, moved: Callable[[int], None]) -> None:
        """Recompute every link, and every row."""

        def seen(item: Item) -> None:
            if item.n % _PAGE == 0 and item.entry is not None:
                self.marks.append(Head(item.n, item.entry.position, item.link))

        rows = self._database.connection.execute("PRAGMA table_info(events)")
        self._columns = [name for _, name, *_ in rows]
        walk = Walk(self.copy, chain.start(self._keys.prefix, self._keys.shard), on_item=seen)
        try:
            walk.through(self._items(moved), self.end or walk.head)
        except sqlite3.DatabaseError as error:
            what = f"it cannot be read from here on: {error}"
            last = self.end.n if self.end else None
            walk.found.append(Discrepancy(self.copy, "changed", what, walk.head.n + 1, last))
        if walk.stopped is not None:
            self.unchecked.append(f"the audit table behind #{walk.stopped}, since so much is wrong before")
        self.found += walk.found
        self.count, self.unproven = walk.count, walk.unproven

    def head_at(self, n: int) -> Head | None:
        """The head at an envelope, by its number."""
        row = self._database.connection.execute("SELECT position, link FROM events WHERE n = ?", (n,)).fetchone()
        return Head(n, Position.parse(row[0], shard=self._keys.shard), row[1]) if row else None

    def pages(self, after: Position, until: Position) -> Iterator[list[Item | Absent]]:
        """What stands after a position, up to and including another, in order; for a copy that was found sound."""
        for page in self._pages(self._number(after)):
            found = [item for each in page if (item := self._placed(each)) and after < item[1] <= until]
            if found:
                yield [item for item, _ in found]
            last = self._placed(page[-1])
            if last is None or last[1] >= until:
                return

    def _placed(self, each: tuple[Any, ...] | Absent) -> tuple[Item | Absent, Position] | None:
        if isinstance(each, Absent):
            return each, each.position
        entry = self._entry(each)
        return (Item(each[0], entry, each[-1], f"row {each[0]}"), entry.position) if entry else None

    def _end(self) -> Head | None:
        """The newest envelope that the database says it has folded."""
        try:
            checkpoint = self._database.checkpoint(self._keys.shard)
        except (TaskbusError, sqlite3.DatabaseError) as error:
            what = f"its checkpoint cannot be read: {error}"
            self.found.append(Discrepancy(self.copy, "changed", what))
            return None
        link = checkpoint.head or chain.beginning(self._keys.prefix)
        return Head(checkpoint.folded, checkpoint.position, link) if checkpoint.folded else None

    def _items(self, moved: Callable[[int], None]) -> Iterator[Item | Absent]:
        """All rows in the order of their numbers, with those envelopes in between that were set aside."""
        aside = 0
        for page in self._pages(0):
            moved(page[-1].n if isinstance(page[-1], Absent) else page[-1][0])
            for each in page:
                if isinstance(each, Absent):
                    aside += 1
                    yield each
                else:
                    yield self._item(each)
        if aside:
            what = "1 envelope that was" if aside == 1 else f"{aside} envelopes that were"
            self.unchecked.append(f"{what} set aside, since the audit table leaves out what cannot be folded")

    def _pages(self, after: int) -> Iterator[list[tuple[Any, ...] | Absent]]:
        absent = self._absent(after)
        query = "SELECT * FROM events WHERE n > ? ORDER BY n LIMIT ?"
        size = _PAGE
        while True:
            try:
                page = self._database.connection.execute(query, (after, size)).fetchall()
            except sqlite3.DatabaseError:
                if size == 1:
                    raise
                size = 1  # what stands before the damage is read
                continue
            rows: list[tuple[Any, ...] | Absent] = []
            for row in page:
                while absent and absent[0].n < row[0]:
                    rows.append(absent.pop(0))
                rows.append(row)
            if not page:
                if absent:
                    yield [*absent]
                return
            yield rows
            after = page[-1][0]

    def _absent(self, after: int) -> list[Absent]:
        query = (
            "SELECT n, position FROM set_aside "
            "WHERE n > ? AND model IN ('events', '*') AND envelope IS NOT NULL ORDER BY n"
        )
        found: list[Absent] = []
        for n, position in self._database.connection.execute(query, (after,)):
            with suppress(TaskbusError):  # what stands nowhere is no excuse for a row that is missing
                found.append(Absent(n, Position.parse(position, shard=self._keys.shard)))
        return found

    def _item(self, row: tuple[Any, ...]) -> Item:
        place, link = f"row {row[0]}", row[-1]
        entry = self._entry(row)
        if entry is None:
            return Item(row[0], None, link, place, f"{row[1]!r} is no position")
        return Item(row[0], entry, link, place, self._flaw(row, entry))

    def _entry(self, row: tuple[Any, ...]) -> Entry | None:
        try:
            return events.entry(row, self._keys.shard)
        except TaskbusError:
            return None  # reported as a row that cannot be read

    def _flaw(self, row: tuple[Any, ...], entry: Entry) -> str | None:
        """The first column that is not what the fold of the entry gives."""
        try:
            wanted = events.row(Fact.of(row[0], entry, row[-1]))
        except (TaskbusError, ValueError, KeyError, OverflowError, OSError) as error:
            return f"it cannot be decoded: {error}"
        if row == wanted:
            return None if (entry.source is None) == (entry.source_type is None) else _SOURCELESS
        differing = (name for name, one, other in zip(self._columns, row, wanted, strict=True) if one != other)
        return next((f"its column {name} is not what the envelope says" for name in differing), None)

    def _number(self, position: Position) -> int:
        """The number of the newest row at or before a position."""
        low, high = 0, self.end.n if self.end and position != START else 0
        while low < high:
            middle = (low + high + 1) // 2
            query = "SELECT n, position FROM events WHERE n <= ? ORDER BY n DESC LIMIT 1"
            row = self._database.connection.execute(query, (middle,)).fetchone()
            if row is None or Position.parse(row[1], shard=self._keys.shard) <= position:
                low = middle
            else:
                high = middle - 1
        return low
