"""Sealing: the log becomes segments, one after the other, each of which stands whole or not at all.

Owns the order of the steps: the right to write, what is sealed already, whether the log goes on from there, then for
each segment its file, and last its manifest. It refuses a log that is not the one that was sealed before. Called by
the archive.
"""

from __future__ import annotations

from contextlib import aclosing
from typing import TYPE_CHECKING, Final, NoReturn

import anyio
from anyio import to_thread

from taskbus import chain, moment
from taskbus.archive.catalog import Catalog
from taskbus.archive.manifest import DATA, SUFFIX, UNFINISHED, Name
from taskbus.archive.reading import Reader
from taskbus.archive.writing import Writer
from taskbus.errors import Gap, OtherLog
from taskbus.position import Position
from taskbus.readahead import ahead

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable

    from taskbus.archive.archive import Archive
    from taskbus.archive.manifest import Manifest
    from taskbus.archive.stores import Claim, Store
    from taskbus.chain import Head
    from taskbus.keys import Keys
    from taskbus.log import Entry, Log, Trimmed

_RETRY: Final = 0.1
_LAST: Final = 2**64 - 1
_MOVE: Final = (
    "Nothing was sealed or trimmed. Where the log was set back, by a crash or an older copy of its server: move the "
    "segments with envelopes after number {0} to another place, and keep them; the next run goes on behind that."
)
_NONE: Final[list[Entry]] = []


class Sealing:
    """One run: everything after the newest segment."""

    def __init__(
        self, archive: Archive, log: Log, keys: Keys, *, size: int, progress: Callable[[int], None] | None = None
    ) -> None:
        self._archive = archive
        self._log = log
        self._keys = keys
        self._size = size
        self._progress = progress
        self._made: list[Manifest] = []

    async def run(self, upto: Position | None, *, rest: bool, settle: float | None) -> list[Manifest]:
        """Seal all that may be sealed; returns the new segments."""
        store = await to_thread.run_sync(lambda: self._archive.store)
        claim = await _claimed(store)
        try:
            catalog, head, trimmed = await self.begin()
            if store.is_guarded:
                floor = max(head.n, trimmed.head.n if trimmed else 0)
                await to_thread.run_sync(_clean, store, catalog, floor)
            waiting = await self._log.count() + (trimmed.head.n if trimmed else 0) - head.n
            if waiting >= (1 if rest else self._size):
                upto = await self._settled(upto, rest=rest, settle=settle)
                await self._write(store, head, upto, rest=rest)
        finally:
            claim.release()
        return self._made

    async def begin(self) -> tuple[Catalog, Head, Trimmed | None]:
        """What is sealed, its head, and up to where the log was trimmed. Raises Gap, and OtherLog."""
        store = await to_thread.run_sync(lambda: self._archive.store)
        catalog = await to_thread.run_sync(Catalog, store, self._keys)
        newest = await to_thread.run_sync(catalog.unbroken)
        head = newest.end if newest else chain.start(self._keys.prefix, self._keys.shard)
        trimmed = await self._log.trimmed()
        await self._check(catalog, Reader(store, catalog), head, trimmed)
        return catalog, head, trimmed

    async def _check(self, catalog: Catalog, reader: Reader, head: Head, trimmed: Trimmed | None) -> None:
        """Raise Gap or OtherLog where the log does not go on from what is sealed."""
        if trimmed is not None:
            end = trimmed.head
            if head.n < end.n:
                self._refuse_gap(head, trimmed)
            if await to_thread.run_sync(reader.head_at, end.position) != end:
                raise OtherLog(
                    f"The log was trimmed up to {end.position}, envelope {end.n} with the link {end.link.hex()}: "
                    f"{self._archive.url} has another one there."
                )
            if head.n == end.n:
                return
        if head.n == 0:
            return
        stands = await self._log.get(head.position)
        if stands != await to_thread.run_sync(_entry_at, reader, head.position):
            what = "none" if stands is None else "another one"
            raise OtherLog(
                f"The newest envelope of {self._archive.url} is number {head.n} at {head.position}; "
                f"the log of {self._keys.namespace} has {what} there.",
                advice=await self._way_back(catalog, reader, trimmed),
            )

    async def _way_back(self, catalog: Catalog, reader: Reader, trimmed: Trimmed | None) -> str | None:
        """What to do where the log was set back, and agrees with all segments but the newest; None for another log."""
        for piece in reversed(catalog.pieces):
            end = (await to_thread.run_sync(catalog.manifest, piece.name)).end
            if trimmed is not None and end.n <= trimmed.head.n:
                return _MOVE.format(end.n)
            stands = await self._log.get(end.position)
            if stands is not None and stands == await to_thread.run_sync(_entry_at, reader, end.position):
                return _MOVE.format(end.n)
        return None

    def _refuse_gap(self, head: Head, trimmed: Trimmed) -> NoReturn:
        end, url = trimmed.head, self._archive.url
        raise Gap(
            f"The log was trimmed up to envelope {end.n} at {end.position}, and {url} ends with {head.n}: what is "
            f"missing is in {trimmed.store}.",
            advice=f"Name that archive, or copy its files to {url}; nothing was sealed.",
            after=str(head.position),
            until=str(end.position),
            first=head.n + 1,
            last=end.n,
            store=trimmed.store,
            segment=trimmed.segment,
        )

    async def _settled(self, upto: Position | None, *, rest: bool, settle: float | None) -> Position:
        """Up to where the log may be sealed: nothing that the server could still lose becomes part of the archive."""
        end = await self._log.end()
        end = end if upto is None else min(end, upto)
        settle = await self._log.exposure() if settle is None else settle
        if not settle:
            return end
        limit = await self._log.clock() - settle
        if rest:
            # No longer than it takes, though the clock was set back since the newest envelope came.
            await anyio.sleep(min(settle, max(0.0, end.ms / 1000 - limit)))
            return end
        return min(end, Position(end.shard, max(0, int(limit * 1000)), _LAST))

    async def _write(self, store: Store, head: Head, upto: Position, *, rest: bool) -> None:
        async with aclosing(ahead(self._log.pages(head.position, upto))) as pages:
            source = _Source(pages)
            while (made := await self._segment(store, source, head, rest=rest)) is not None:
                self._made.append(made)
                head = made.end

    async def _segment(self, store: Store, source: _Source, head: Head, *, rest: bool) -> Manifest | None:
        """Write the next segment; None where nothing is left for one."""
        before = sum(made.count for made in self._made)
        entries = await source.take(self._size)
        if not entries:
            return None
        with store.making() as path:
            with path.open("wb") as file:
                writer = Writer(file, self._keys, head)
                while entries:
                    await to_thread.run_sync(writer.add, entries)
                    if self._progress:
                        self._progress(before + writer.count)
                    entries = await source.take(self._size - writer.count)
                if writer.count < self._size and not rest:
                    return None
                manifest = await to_thread.run_sync(lambda: writer.finish(by_sum=not store.is_guarded))
            await to_thread.run_sync(store.put, path, manifest.file)
        await to_thread.run_sync(store.write, f"{manifest.name}{SUFFIX}", manifest.encode())
        return manifest


class _Source:
    """Entries of pages, in parts as large as they are wanted."""

    def __init__(self, pages: AsyncGenerator[list[Entry]]) -> None:
        self._pages = pages
        self._left: list[Entry] = []

    async def take(self, most: int) -> list[Entry]:
        """The next ones, at most so many; none at the end."""
        if not self._left and most:
            self._left = await anext(self._pages, _NONE)
        taken, self._left = self._left[:most], self._left[most:]
        return taken


async def _claimed(store: Store) -> Claim:
    # The lock belongs to another process: nothing of this one would ever set an event.
    while (claim := await to_thread.run_sync(store.claim)) is None:  # noqa: ASYNC110
        await anyio.sleep(_RETRY)
    return claim


def _clean(store: Store, catalog: Catalog, floor: int) -> None:
    """Remove what a run that was ended left: never what may be all that there is of envelopes that were trimmed."""
    standing = set(catalog.names)
    for file in catalog.files:
        name = Name.of(file)
        is_left = file.endswith(DATA) and name is not None and name not in standing and name.first > floor
        if file.endswith(UNFINISHED) or is_left:
            store.remove(file)


def _entry_at(reader: Reader, position: Position) -> Entry | None:
    found = [batch.entries() for batch in reader.forwards(moment.before(position), position)]
    return found[-1][-1] if found else None
