"""Verification: what was tampered with is named, right to the envelope, in every copy; and nothing else is."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

import pytest

from taskbus import moment
from taskbus.archive import Archive
from taskbus.chain import Head
from taskbus.errors import InvalidEnvelope, OtherLog
from taskbus.keys import Keys
from taskbus.verification import SealedCopy, Verification, Verified, heads
from taskbus_projections.audit_copy import AuditCopy
from taskbus_projections.database import Database
from taskbus_projections.projector import Projector
from taskbus_projections.registry import BUILTIN
from tests.taskbus_projections import tampering
from tests.taskbus_projections.stories import story

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from taskbus.client import Bus
    from tests.taskbus_projections.tampering import Raw, Tampering

pytestmark = pytest.mark.anyio

LENGTH, SEGMENT = 90, 20
TRIALS = 130


class Copies:
    """A bus whose log was sealed in part and folded: each trial works on copies of the copies."""

    def __init__(self, bus: Bus, folder: Path) -> None:
        self.bus = bus
        self.folder = folder
        self.archive = Archive.open(folder / "archive", bus.keys)
        self.segments = folder / "archive" / bus.namespace.removesuffix(":")
        self.database = folder / "folded.db"
        self.entries: list[Raw] = []
        self.numbers: dict[str, int] = {}

    async def make(self, seed: int, *, trimmed: int = 0) -> None:
        """Append a story, seal, fold, and take `trimmed` envelopes out of the log."""
        await self.bus.publish_many(list(story(seed, LENGTH)))
        await self.archive.seal(self.bus.log, size=SEGMENT, settle=0)
        with Database.open(self.database, self.bus.namespace, BUILTIN) as database:
            await Projector(self.bus, database).catch_up()
            database.connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
            database.connection.execute("PRAGMA journal_mode = DELETE")
        found = await self.bus.connection.range(self.bus.keys.log)
        self.numbers = {position: n for n, (position, _) in enumerate(found, 1)}
        self.entries = [(position, dict(fields)) for position, fields in found]
        if trimmed:
            await self.trim(found[trimmed - 1][0], trimmed)
            del self.entries[:trimmed]

    async def trim(self, position: str, count: int) -> None:
        """Take so many envelopes out of the log, as a trim does."""
        head = await self.archive.head_at(moment.position(position))
        assert head is not None
        assert head.n == count
        words = ("count", count, "position", position, "head", head.link.hex(), "store", "here", "segment", "some")
        await self.bus.connection.execute("HSET", self.bus.keys.archive, *words)
        ms, sequence = position.split("-")
        await self.bus.connection.execute("XTRIM", self.bus.keys.log, "MINID", f"{ms}-{int(sequence) + 1}")

    async def verified(
        self, segments: Path | None = None, database: Path | None = None, exported: Sequence[Head] = ()
    ) -> Verified:
        """Verify the copies, or others in their place."""
        keys = self.bus.keys
        store = Archive.open((segments or self.segments).parent, keys).store
        with AuditCopy.read(database or self.database, BUILTIN, self.bus.namespace, keys) as table:
            return await Verification(self.bus, lambda: [SealedCopy(store, keys), table], heads=exported).run()


@pytest.fixture
def copies(bus: Bus, tmp_path: Path) -> Copies:
    """Where the copies of a bus will be."""
    return Copies(bus, tmp_path)


@pytest.mark.parametrize("seed", range(6))
async def test_nothing_is_wrong_with_what_nobody_touched(copies: Copies, seed: int) -> None:
    """Sealed, trimmed or neither: every link agrees, and the newest head is that of the whole chain."""
    await copies.make(seed, trimmed=(0, 0, 1, 19, 20, 75)[seed])
    found = await copies.verified()
    assert found.discrepancies == []
    assert found.counts == {"archive": 80, "audit table": LENGTH, "log": LENGTH - (0, 0, 1, 19, 20, 75)[seed]}
    assert (found.head.n, found.unwitnessed) == (LENGTH, 0)


async def test_what_no_witness_has_seen_is_counted(copies: Copies) -> None:
    """Envelopes that are newer than archive and audit table are read, chained and counted, not passed over."""
    await copies.make(1)
    await copies.bus.publish_many(list(story(2, 7)))
    found = await copies.verified()
    assert (found.discrepancies, found.head.n, found.unwitnessed) == ([], LENGTH + 7, 7)


@pytest.mark.parametrize("kind", ["in_a_file", "in_lines", "with_segments"])
async def test_tampering_with_the_archive_is_named(copies: Copies, kind: str) -> None:
    """A byte of a file, a byte of a line, lines and whole segments."""
    await copies.make(11, trimmed=25)
    target = copies.folder / "tampered"
    for trial in range(TRIALS if kind != "with_segments" else 12):
        segments = tampering.copied(copies.segments.parent, target) / copies.segments.name
        done = getattr(tampering, kind)(segments, random.Random(f"{kind} {trial}"))
        named(done, await copies.verified(segments), trial, exact=kind != "in_a_file")


async def test_tampering_with_the_log_is_named(copies: Copies) -> None:
    """Fields and entries, where the archive is the witness and where the audit table is."""
    await copies.make(12, trimmed=25)
    for trial in range(TRIALS):
        done = await tampering.in_the_log(copies.bus, copies.entries, copies.numbers, random.Random(f"log {trial}"))
        named(done, await copies.verified(), trial)
    await tampering.rewrite(copies.bus, copies.entries)
    assert (await copies.verified()).discrepancies == []


async def test_tampering_with_the_audit_table_is_named(copies: Copies) -> None:
    """Columns and rows."""
    await copies.make(13, trimmed=25)
    for trial in range(TRIALS):
        database = tampering.copied(copies.database, copies.folder / "tampered.db")
        done = tampering.in_the_table(database, random.Random(f"table {trial}"))
        named(done, await copies.verified(database=database), trial)


def named(done: Tampering, found: Verified, trial: int, *, exact: bool = True) -> None:
    """The first discrepancy is about the envelope that was tampered with, in the copy that it was done in."""
    what = f"trial {trial}: {done.what}: {found.discrepancies}"
    assert found.discrepancies, what
    first = found.discrepancies[0]
    assert first.copy == done.copy, what
    by_number = first.n in done.numbers
    by_place = first.position in done.positions or first.id in done.ids
    whole_file = not exact and first.n is None and first.place
    assert by_number or by_place or whole_file, what


async def test_a_copy_that_was_made_anew_from_an_envelope_on_is_told_from_the_other(
    copies: Copies, tmp_path: Path
) -> None:
    """Somebody forges an audit table whose links all agree: archive, log and an exported head give it away."""
    await copies.make(14)
    forged = Copies(copies.bus, tmp_path / "forged")
    forged.folder.mkdir()
    changed = [(position, dict(fields)) for position, fields in copies.entries]
    changed[29][1][b"body"] = changed[29][1][b"body"].replace(b"0", b"1", 1) + b" "
    await tampering.rewrite(copies.bus, changed)
    with Database.open(forged.database, copies.bus.namespace, BUILTIN) as database:
        await Projector(copies.bus, database).catch_up()
    await tampering.rewrite(copies.bus, copies.entries)
    found = await copies.verified(database=forged.database)
    assert [(each.copy, each.kind, each.n) for each in found.discrepancies] == [("audit table", "changed", 30)]


async def test_exported_heads_give_away_what_every_copy_agrees_on(copies: Copies) -> None:
    """Log, archive and audit table made anew, all of them alike: only a head that was kept elsewhere knows."""
    await copies.make(15)
    exported = heads.read(heads.write(copies.bus.keys, (await copies.verified()).marks), copies.bus.keys)
    assert (await copies.verified(exported=exported)).discrepancies == []
    changed = [(position, dict(fields)) for position, fields in copies.entries]
    changed[41][1][b"body"] += b" "
    await tampering.rewrite(copies.bus, changed)
    again = Copies(copies.bus, copies.folder / "again")
    again.folder.mkdir()
    await again.archive.seal(copies.bus.log, size=SEGMENT, settle=0)
    with Database.open(again.database, copies.bus.namespace, BUILTIN) as database:
        await Projector(copies.bus, database).catch_up()
    assert (await again.verified()).discrepancies == []
    found = await again.verified(exported=exported)
    assert [(each.copy, each.n, each.last) for each in found.discrepancies] == [("exported heads", 41, 60)]
    await tampering.rewrite(copies.bus, copies.entries[:50])
    found = await copies.verified()
    assert [(each.copy, each.kind, each.n, each.last) for each in found.discrepancies] == [("log", "removed", 51, 90)]


async def test_a_file_of_heads_is_read_strictly(bus: Bus) -> None:
    """What is no file of heads, and what is another log's, is refused by name."""
    written = heads.write(bus.keys, [Head(1, moment.position("1763625600000-0"), bytes(32))])
    assert heads.read(written, bus.keys)[0].n == 1
    for content in (b"", b"[]", b"{}", written.replace(b'"n": 1', b'"n": 0'), written.replace(b"00" * 32, b"00" * 31)):
        with pytest.raises(InvalidEnvelope, match="heads"):
            heads.read(content, bus.keys)
    with pytest.raises(InvalidEnvelope, match="version"):
        heads.read(written.replace(b'"version": 1', b'"version": 2'), bus.keys)
    with pytest.raises(OtherLog, match="other:"):
        heads.read(written, Keys("other:"))
    with pytest.raises(OtherLog) as refused:
        heads.read(written.replace(b'"prefix": "', b'"prefix": "\\u001b[31m'), bus.keys)
    assert "\x1b" not in refused.value.message
