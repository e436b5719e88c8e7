"""The history: archive and log as one, from any position, without regard to which of the two holds it.

What the server's record says was trimmed is read from the archive, everything else from the log; a trim that overtakes
the reader is nothing that it would notice. It refuses to leave anything out. Called by whoever reads the past: replay,
projector, queries, verification.
"""

from __future__ import annotations

from contextlib import aclosing
from typing import TYPE_CHECKING

from taskbus.errors import Gap, OtherLog
from taskbus.log import PAGE, gap
from taskbus.position import START
from taskbus.readahead import ahead

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable

    from taskbus.archive import Archive
    from taskbus.log import Entry, Incident, Log, Trimmed
    from taskbus.position import Position


class History:
    """The whole log of a bus. Uses log and archive, and closes neither; safe to use at once.

    Reading raises Gap where a part was trimmed and `archive` does not hold it, ArchiveFault where that cannot be read,
    ForeignEntry, and what reading the log raises.
    """

    def __init__(self, log: Log, archive: Archive | None = None) -> None:
        self._log = log
        self.archive = archive

    async def read(
        self, after: Position = START, until: Position | None = None, *, page: int = PAGE
    ) -> AsyncGenerator[Entry]:
        """All entries after `after`, up to and including `until`, in order."""
        async with aclosing(self.pages(after, until, page=page)) as pages:
            async for entries in pages:
                for entry in entries:
                    yield entry

    async def pages(
        self, after: Position = START, until: Position | None = None, *, page: int = PAGE
    ) -> AsyncGenerator[list[Entry]]:
        """The same, by pages of at most `page` entries and about 4 MB; the next is read while one is worked on.

        What stands before a foreign entry is given out before that is raised.
        """
        async with aclosing(ahead(self._pages(after, until, page))) as pages:
            async for entries in pages:
                yield entries

    async def backwards(self, until: Position, after: Position = START) -> AsyncGenerator[list[Entry]]:
        """Entries of the archive only, up to `until` or to where the log was trimmed: the newest page first."""
        trimmed = await self._log.trimmed()
        if trimmed is None or trimmed.head.position <= after:
            return
        archive = await self._archive(after, trimmed)
        async with aclosing(archive.backwards(min(until, trimmed.head.position), after)) as pages:
            async for entries in pages:
                yield entries

    async def follow(
        self, after: Position = START, *, on_incident: Callable[[Incident], None] | None = None
    ) -> AsyncGenerator[Entry]:
        """All entries after `after`, then each new one as it arrives, as `Log.follow` does.

        What was trimmed meanwhile comes from the archive. Where that does not hold it, following goes on behind the
        trim, and says so as an incident.
        """
        async with aclosing(self._log.follow(after, on_incident=on_incident, read=self.read)) as entries:
            async for entry in entries:
                yield entry

    async def _pages(self, after: Position, until: Position | None, page: int) -> AsyncGenerator[list[Entry]]:
        while True:
            try:
                async with aclosing(self._log.pages(after, until, page=page)) as live:
                    async for entries in live:
                        yield entries
                        after = entries[-1].position
                return
            except Gap:
                trimmed = await self._log.trimmed()
                if trimmed is None:
                    continue  # emptied between the two questions: the log that is there now has no gap
            end = trimmed.head.position if until is None else min(until, trimmed.head.position)
            async for entries in self._sealed(after, end, page, trimmed):
                yield entries
            after = end

    async def _sealed(self, after: Position, end: Position, page: int, trimmed: Trimmed) -> AsyncGenerator[list[Entry]]:
        """What was trimmed, from the archive; it must reach as far as the record says."""
        archive = await self._archive(after, trimmed)
        try:
            async with aclosing(archive.pages(after, end, page=page)) as pages:
                async for entries in pages:
                    yield entries
        except Gap as found:
            found.segment = found.segment or trimmed.segment
            raise

    async def _archive(self, after: Position, trimmed: Trimmed) -> Archive:
        """The archive, when it has what was trimmed last."""
        if self.archive is None:
            raise gap(after, trimmed)
        reached = await self.archive.head_at(trimmed.head.position)
        if reached is None or reached.position < trimmed.head.position:
            raise gap(after, trimmed, here=self.archive.url)
        if reached != trimmed.head:
            raise OtherLog(
                f"By the server's record the log was trimmed up to {trimmed.head.position}, with the link "
                f"{trimmed.head.link.hex()}: {self.archive.url} has another one there.",
                advice="Read the archive that the log was trimmed into: see --archive and BUS_ARCHIVE.",
            )
        return self.archive
