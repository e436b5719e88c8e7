"""The archive of one log: where it is, what it holds, reading it, and the way to sealing.

Owns how the store is opened, on first use, and that waiting for it never blocks the event loop. Called by the history,
by `bus archive`, and by whoever verifies.
"""

from __future__ import annotations

from contextlib import aclosing
from functools import cached_property
from typing import TYPE_CHECKING, Final, TypeVar

from anyio import to_thread

from taskbus import home as homes
from taskbus.address import redacted
from taskbus.archive import stores
from taskbus.archive.catalog import Catalog
from taskbus.archive.reading import Reader
from taskbus.position import START, Position
from taskbus.readahead import ahead
from taskbus.settings import Settings

if TYPE_CHECKING:
    import os
    from collections.abc import AsyncGenerator, Callable, Iterator

    from taskbus.archive.lines import Sealed
    from taskbus.archive.manifest import Manifest
    from taskbus.archive.reading import Batch, Chunk
    from taskbus.archive.stores import Store
    from taskbus.chain import Head
    from taskbus.keys import Keys
    from taskbus.log import Entry, Log

T = TypeVar("T")

SEGMENT: Final = 50_000
"""Envelopes of a segment."""
PAGE: Final = 1000


class Archive:
    """The segments of one log in one place. Every call sees what stands there at that time; safe to use at once.

    All raise ArchiveFault where the store cannot be used, ConfigurationError where its driver is not installed, Damaged
    for a segment that cannot be read, and OtherLog for one of another log.
    """

    def __init__(self, where: str, keys: Keys) -> None:
        self._where = where
        self._keys = keys

    @classmethod
    def open(cls, where: Settings | str | os.PathLike[str], keys: Keys) -> Archive:
        """The archive at a path or a URL, or that of the settings: `archive` in the home, where they name none.

        Each namespace has a folder of its own there. Nothing is read or made by this.
        """
        if isinstance(where, Settings):
            where = where.archive or where.home / homes.ARCHIVE
        return cls(str(where), keys)

    @property
    def url(self) -> str:
        """Where it is, with the folder of the namespace, without secrets."""
        shown = "/".join((self._where.rstrip("/"), *self._parts))
        return redacted(shown) if "://" in shown else shown

    @cached_property
    def store(self) -> Store:
        """Where its files are. Raises ConfigurationError where its driver is not installed."""
        return stores.opened(self._where, *self._parts)

    @property
    def _parts(self) -> tuple[str, ...]:
        shard = (str(self._keys.shard),) if self._keys.shard else ()
        return (self._keys.namespace.removesuffix(":").replace(":", "~"), *shard)

    async def segments(self) -> list[Manifest]:
        """All segments that stand, in order; two may overlap, and then agree."""

        def found(catalog: Catalog) -> list[Manifest]:
            return list(catalog.manifests())

        return await self._ask(found)

    async def end(self) -> Head | None:
        """The newest envelope that can be reached from the first segment without a gap; None without segments."""

        def found(catalog: Catalog) -> Head | None:
            last = catalog.unbroken()
            return last.end if last else None

        return await self._ask(found)

    async def head_at(self, position: Position) -> Head | None:
        """The newest sealed envelope at or before a position; None where there is none."""
        return await self._ask(lambda catalog: Reader(self.store, catalog).head_at(position))

    async def heads(self, after: Position = START, until: Position | None = None) -> list[Head]:
        """The heads at the end of each frame, of about 1 MB and at most 1,000 envelopes, after a position.

        Up to and including `until`. Reads manifests alone.
        """
        return await self._ask(lambda catalog: Reader(self.store, catalog).heads(after, until))

    async def seal(
        self,
        log: Log,
        upto: Position | None = None,
        *,
        size: int = SEGMENT,
        rest: bool = False,
        settle: float | None = None,
        progress: Callable[[int], None] | None = None,
    ) -> list[Manifest]:
        """Seal what the log has after the newest segment, up to and including `upto`; returns the new segments.

        Whole segments of `size` envelopes; with `rest` the last one may hold fewer. `progress` hears how many
        envelopes were read so far. Interrupted anywhere, what was sealed before stays, and the next call goes on
        behind it; of two at once in a folder, one waits. What a crash of the server's machine could still take back
        is left for the next time, or with `rest` waited for: `settle` seconds, 2 unless the server is durable at once.
        Raises Gap where the log was trimmed beyond what is sealed here, OtherLog, and whatever reading the log raises.
        """
        from taskbus.archive.sealing import Sealing

        return await Sealing(self, log, self._keys, size=size, progress=progress).run(upto, rest=rest, settle=settle)

    async def check(self, log: Log) -> None:
        """Raise Gap or OtherLog where `seal` would, since the log does not go on from what is sealed."""
        from taskbus.archive.sealing import Sealing

        await Sealing(self, log, self._keys, size=SEGMENT).begin()

    async def read(self, after: Position = START, until: Position | None = None) -> AsyncGenerator[Entry]:
        """All sealed entries after `after`, up to and including `until`, in order. Raises Gap at a hole."""
        async with aclosing(self.pages(after, until)) as pages:
            async for entries in pages:
                for entry in entries:
                    yield entry

    async def pages(
        self, after: Position = START, until: Position | None = None, *, page: int = PAGE
    ) -> AsyncGenerator[list[Entry]]:
        """The same, by pages of at most `page` entries; memory holds some megabytes of a segment, packed, and
        one frame of it unpacked.
        """
        batches = self._batches(lambda reader: reader.chunks(after, until), lambda batch: batch.entries())
        async with aclosing(batches):
            async for entries in batches:
                for start in range(0, len(entries), page):
                    yield entries[start : start + page] if len(entries) > page else entries

    async def lines(self, after: Position = START, until: Position | None = None) -> AsyncGenerator[list[Sealed]]:
        """The same with the number and the link of each, as the segment has them: not recomputed."""
        batches = self._batches(lambda reader: reader.chunks(after, until), lambda batch: batch.sealed())
        async with aclosing(batches):
            async for sealed in batches:
                yield sealed

    async def backwards(self, until: Position, after: Position = START) -> AsyncGenerator[list[Entry]]:
        """What stands after `after`, up to and including `until`: page by page from the newest, in order within each.

        Raises Gap when it comes to a hole.
        """
        batches = self._batches(lambda reader: reader.chunks_backwards(until, after), lambda batch: batch.entries())
        async with aclosing(batches):
            async for entries in batches:
                yield entries

    async def _ask(self, question: Callable[[Catalog], T]) -> T:
        return await to_thread.run_sync(lambda: question(Catalog(self.store, self._keys)))

    async def _batches(
        self, read: Callable[[Reader], Iterator[Chunk]], made: Callable[[Batch], list[T]]
    ) -> AsyncGenerator[list[T]]:
        async with aclosing(ahead(self._chunks(read))) as chunks:
            async for chunk in chunks:
                # Not in a thread: what one makes and another throws away takes the allocator half as long again.
                for batch in chunk.batches():
                    yield made(batch)

    async def _chunks(self, read: Callable[[Reader], Iterator[Chunk]]) -> AsyncGenerator[Chunk]:
        found = await to_thread.run_sync(lambda: read(Reader(self.store, Catalog(self.store, self._keys))))
        while (chunk := await to_thread.run_sync(next, found, None)) is not None:
            yield chunk
