"""Verification at its edges: what the server says, what a copy leaves out, what happens meanwhile, and what is lost."""

from __future__ import annotations

import asyncio
import json
import random
import shutil
import sqlite3
from typing import TYPE_CHECKING

import pytest
from anyio import to_thread

from taskbus import moment
from taskbus.archive import Archive
from taskbus.errors import TaskbusError
from taskbus.verification import SealedCopy, Verification, heads
from taskbus_projections.audit_copy import AuditCopy
from taskbus_projections.database import Database
from taskbus_projections.projector import Projector
from taskbus_projections.registry import BUILTIN
from tests.entries import id_of, with_id
from tests.taskbus_projections import tampering
from tests.taskbus_projections.stories import story
from tests.taskbus_projections.test_verification import LENGTH, SEGMENT, Copies

if TYPE_CHECKING:
    from pathlib import Path

    from taskbus.client import Bus
    from taskbus.verification import Discrepancy, Linked, Verified

pytestmark = pytest.mark.anyio


@pytest.fixture
def copies(bus: Bus, tmp_path: Path) -> Copies:
    """Where the copies of a bus will be."""
    return Copies(bus, tmp_path)


def shown(found: Verified) -> list[tuple[str, str, int | None]]:
    """Where what is wrong, in short."""
    return [(each.copy, each.kind, each.n) for each in found.discrepancies]


# --- what the server says ---


async def test_the_record_of_the_trim_is_named_where_it_was_changed(copies: Copies) -> None:
    """Another count, place or link, and what is no record at all: it is the record, and no envelope, that is wrong."""
    await copies.make(21, trimmed=25)
    record = copies.bus.keys.archive
    before = await copies.bus.connection.hash(record)
    for name, value in (
        ("count", "24"),
        ("count", "x"),
        ("position", f"{before['position']}1"),
        ("position", copies.entries[9][0]),
        ("position", "nowhere"),
        ("head", "00" * 32),
        ("head", "0"),
    ):
        await copies.bus.connection.execute("HSET", record, name, value)
        found = await copies.verified()
        assert [each.copy for each in found.discrepancies] == ["trim record"], (name, value, found.discrepancies)
        await copies.bus.connection.execute("HSET", record, name, before[name])
    later = await copies.archive.head_at(moment.position(copies.entries[14][0]))
    assert later is not None
    words = ("count", later.n, "position", later.position.entry, "head", later.link.hex())
    await copies.bus.connection.execute("HSET", record, *words)
    assert shown(await copies.verified()) == [("trim record", "changed", 40)]
    await copies.bus.connection.execute("DEL", record)
    found = await copies.verified()
    assert [(each.copy, each.kind, each.n, each.last) for each in found.discrepancies] == [("log", "removed", 1, 25)]


async def test_what_was_trimmed_must_be_in_the_archive(copies: Copies) -> None:
    """The audit table has it all, and yet the archive that is gone is named, with all that was in it alone."""
    await copies.make(22, trimmed=25)
    shutil.rmtree(copies.segments)
    found = await copies.verified()
    assert [(each.copy, each.kind, each.n, each.last) for each in found.discrepancies] == [
        ("archive", "removed", 1, 25)
    ]


async def test_a_log_that_is_gone_is_one_discrepancy(copies: Copies) -> None:
    """Emptied, with its index: not one line for each envelope."""
    await copies.make(23)
    await copies.bus.connection.execute("DEL", copies.bus.keys.log, copies.bus.keys.index)
    found = await copies.verified()
    assert [(each.copy, each.kind, each.n, each.last) for each in found.discrepancies] == [
        ("log", "removed", 1, LENGTH)
    ]


async def test_a_field_that_stands_twice_is_a_change(copies: Copies) -> None:
    """Readers that take the first and readers that take the last would read two envelopes."""
    await copies.make(24)
    position, fields = copies.entries[5]
    words = [word for field in fields.items() for word in field]
    await tampering.rewrite(copies.bus, copies.entries[:5])
    await copies.bus.connection.execute("XADD", copies.bus.keys.log, position, b"body", b"{}", *words)
    for later, rest in copies.entries[6:]:
        await copies.bus.connection.execute("XADD", copies.bus.keys.log, later, *[w for f in rest.items() for w in f])
    assert shown(await copies.verified()) == [("log", "changed", 6)]


# --- what happens meanwhile ---


async def test_a_trim_that_overtakes_it_is_nothing_wrong(copies: Copies) -> None:
    """Sealed, folded and trimmed beyond what the copies had when they were opened: said, and the chain goes on."""
    bus = copies.bus
    await copies.make(25, trimmed=25)
    loop, done = asyncio.get_running_loop(), []

    async def go_on() -> None:
        await bus.publish_many(list(story(26, 40)))
        await copies.archive.seal(bus.log, size=10, settle=0)
        end = await copies.archive.end()
        assert end is not None
        await copies.trim(end.position.entry, end.n)

    def moved(copy: str, _count: int) -> None:
        if copy == "audit table" and not done:
            done.append(asyncio.run_coroutine_threadsafe(go_on(), loop).result())

    await bus.publish_many(list(story(27, 15)))
    with AuditCopy.read(copies.database, BUILTIN, bus.namespace, bus.keys) as table:
        opened = [SealedCopy(Archive.open(copies.folder / "archive", bus.keys).store, bus.keys), table]
        found = await Verification(bus, lambda: opened, moved=moved).run()
    assert done
    assert found.discrepancies == []
    assert any("#91 to #140" in each for each in found.unchecked)
    head = await copies.archive.head_at(found.head.position)
    assert head == found.head


async def test_it_ends_soon_when_it_is_cancelled(copies: Copies) -> None:
    """In the middle of a copy that takes long: nothing goes on behind it."""
    started, counts = asyncio.Event(), list[int]()
    loop = asyncio.get_running_loop()

    class Endless(SealedCopy):
        def check(self, moved) -> None:
            while True:
                moved(len(counts))
                loop.call_soon_threadsafe(started.set)

    await copies.make(28)
    endless = Endless(copies.archive.store, copies.bus.keys)
    running = asyncio.ensure_future(
        Verification(copies.bus, lambda: [endless], moved=lambda _, count: counts.append(count)).run()
    )
    await started.wait()
    running.cancel()
    await asyncio.wait([running])
    assert running.cancelled()
    count = len(counts)
    await to_thread.run_sync(lambda: None)
    assert len(counts) == count


# --- what a copy leaves out ---


async def broken(copies: Copies, *, following: bool = True) -> None:
    """A log with an envelope that cannot be decoded, and one behind it, folded by a projector that goes on."""
    bus = copies.bus
    await copies.make(29)
    position, fields = copies.entries[-1]
    ms, id = int(position.split("-")[0]), b"01999999-9999-7999-8999-99999999999"
    undecoded = {**with_id(fields, id + b"1"), b"body": b"\xff\x00 is no JSON"}
    good = {**with_id(fields, id + b"2"), b"body": fields[b"body"].replace(id_of(fields), id + b"2")}
    for each in (undecoded, good) if following else (undecoded,):
        ms += 1
        await bus.connection.execute(
            "XADD", bus.keys.log, f"{ms}-0", *[word for field in each.items() for word in field]
        )
        await bus.connection.execute("HSET", bus.keys.index, id_of(each), f"{ms}-0")
        copies.entries.append((f"{ms}-0", each))
    with Database.open(copies.database, bus.namespace, BUILTIN) as database:
        await Projector(bus, database, set_aside=True).catch_up()
        database.connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        database.connection.execute("PRAGMA journal_mode = DELETE")


async def test_what_was_set_aside_is_said_and_no_alarm(copies: Copies) -> None:
    """In the log alone, and sealed; what stands behind it is still verified, by what another copy has before it."""
    await broken(copies)
    for _ in range(2):
        found = await copies.verified()
        assert found.discrepancies == []
        assert [each for each in found.unchecked if "set aside" in each]
        assert found.head.n == LENGTH + 2
        database = tampering.copied(copies.database, copies.folder / "tampered.db")
        with sqlite3.connect(database) as changed:
            changed.execute("UPDATE events SET body = CAST(body || ' ' AS BLOB) WHERE n = ?", (LENGTH + 2,))
        changed.close()
        assert shown(await copies.verified(database=database)) == [("audit table", "changed", LENGTH + 2)]
        await tampering.rewrite(copies.bus, [*copies.entries[:-2], copies.entries[-1]])
        assert (*shown(await copies.verified())[0],) == ("log", "removed", LENGTH + 1)
        await tampering.rewrite(copies.bus, copies.entries)
        await copies.archive.seal(copies.bus.log, size=SEGMENT, settle=0, rest=True)


async def test_what_was_set_aside_last_is_no_alarm(copies: Copies) -> None:
    """The table ends before its checkpoint does: no link is known there but that of the checkpoint."""
    await broken(copies, following=False)
    found = await copies.verified()
    assert (found.discrepancies, found.head.n) == ([], LENGTH + 1)


async def test_an_entry_that_taskbus_did_not_write_is_named(copies: Copies) -> None:
    """At the end of the log, where no witness is, and in the middle of it."""
    await copies.make(30)
    await copies.bus.connection.execute("XADD", copies.bus.keys.log, "*", "some", "thing")
    assert shown(await copies.verified()) == [("log", "inserted", None)]
    ms = copies.entries[40][0].split("-")[0]
    await tampering.rewrite(copies.bus, copies.entries[:41])
    await copies.bus.connection.execute("XADD", copies.bus.keys.log, f"{ms}-9999", "some", "thing")
    for position, fields in copies.entries[41:]:
        words = [word for field in fields.items() for word in field]
        try:
            await copies.bus.connection.execute("XADD", copies.bus.keys.log, position, *words)
        except TaskbusError:
            return  # all of them stand in the same millisecond
    assert shown(await copies.verified()) == [("log", "inserted", None)]


async def test_a_column_that_goes_into_no_link_is_compared(copies: Copies) -> None:
    """The source's type is written as a dash in the link where there is none: a dash in the table is another thing."""
    await copies.make(31)
    database = tampering.copied(copies.database, copies.folder / "tampered.db")
    with sqlite3.connect(database) as changed:
        changed.execute("UPDATE events SET source_type = '-' WHERE n = 7")
    changed.close()
    assert shown(await copies.verified(database=database)) == [("audit table", "changed", 7)]


async def test_what_cannot_be_read_in_the_table_is_named(copies: Copies) -> None:
    """Bytes of the file that are no text any more, and a checkpoint that is none."""
    await copies.make(32)
    database = tampering.copied(copies.database, copies.folder / "tampered.db")
    content = database.read_bytes()
    id = id_of(copies.entries[33][1])
    database.write_bytes(content.replace(id, b"\xff" + id[1:]))
    first = (await copies.verified(database=database)).discrepancies[0]
    assert (first.copy, first.n) == ("audit table", 34)
    tampering.copied(copies.database, database)
    for position in ("nowhere", copies.entries[-2][0]):
        with sqlite3.connect(database) as changed:
            changed.execute("UPDATE checkpoint SET position = ?", (position,))
        changed.close()
        assert (await copies.verified(database=database)).discrepancies[0].copy == "audit table"


# --- the archive ---


async def test_tampering_with_a_manifest_is_named(copies: Copies) -> None:
    """Any byte of it but those of the tool's name, which nothing else knows of."""
    await copies.make(33, trimmed=25)
    rng = random.Random("manifests")
    target, tried = copies.folder / "tampered", 0
    while tried < 60:
        segments = tampering.copied(copies.segments.parent, target) / copies.segments.name
        path = rng.choice(sorted(segments.glob("*.json")))
        content = path.read_bytes()
        at = rng.randrange(len(content))
        changed = rng.choice([tampering.flipped, tampering.with_a_byte_more_or_less])(content, at, rng)
        if same(content, changed):
            continue
        tried += 1
        path.write_bytes(changed)
        found = await copies.verified(segments)
        assert found.discrepancies, (at, content[at - 20 : at + 20], changed[at - 20 : at + 20])
        assert found.discrepancies[0].copy == "archive"
        assert path.stem in (found.discrepancies[0].place or "")


async def test_a_manifest_that_leads_elsewhere_is_named(copies: Copies) -> None:
    """Before the beginning of the file, and to another file: nothing is read there."""
    await copies.make(37)
    path = min(copies.segments.glob("*.json"))
    whole = json.loads(path.read_bytes())
    frame = whole["frames"][0]
    for change in (
        {"file": "../other\x00"},
        {"frames": [frame | {"offset": -5}]},
        {"frames": [frame | {"bytes": -5}]},
        {"before": "0"},
    ):
        path.write_text(json.dumps(whole | change))
        (found, *_) = (await copies.verified()).discrepancies
        assert (found.copy, found.kind, found.n, found.place) == ("archive", "changed", 1, f"manifest {path.name}")


def same(one: bytes, other: bytes) -> bool:
    """Whether a manifest says the same, but for the name of the tool."""
    try:
        documents = [json.loads(each) | {"tool": None} for each in (one, other)]
    except ValueError:
        return False
    return documents[0] == documents[1]


async def test_segments_that_overlap_must_agree(copies: Copies) -> None:
    """As two archivers leave them in a store without locks: fine as they are, and named where one of them lies."""
    bus = copies.bus
    await copies.make(34)
    await Archive.open(copies.folder / "second", bus.keys).seal(bus.log, size=30, settle=0)
    second = copies.folder / "second" / copies.segments.name
    for path in [*second.glob("0000000001-*"), *second.glob("0000000061-*")]:
        path.unlink()
    both = tampering.copied(copies.segments.parent, copies.folder / "both") / copies.segments.name
    shutil.copytree(second, both, dirs_exist_ok=True)
    assert (await copies.verified(both)).discrepancies == []
    changed = [(position, dict(fields)) for position, fields in copies.entries]
    changed[44][1][b"body"] += b" "
    await tampering.rewrite(bus, changed)
    await Archive.open(copies.folder / "third", bus.keys).seal(bus.log, size=30, settle=0)
    await tampering.rewrite(bus, copies.entries)
    third = copies.folder / "third" / copies.segments.name
    for path in third.glob("0000000031-*"):
        shutil.copyfile(path, both / path.name)
    assert ("archive", "changed", 45) in shown(await copies.verified(both))


async def test_an_archive_in_an_object_store(copies: Copies) -> None:
    """The same through fsspec; half a manifest at its end is said, since somebody may be writing it."""
    bus = copies.bus
    await copies.make(35)
    url = f"memory://{bus.namespace.removesuffix(':')}"
    archive = Archive.open(url, bus.keys)
    await archive.seal(bus.log, size=30, settle=0)

    async def verified() -> Verified:
        return await Verification(bus, lambda: [SealedCopy(archive.store, bus.keys)]).run()

    found = await verified()
    assert (found.discrepancies, found.counts["archive"], found.unwitnessed) == ([], 90, 0)
    (last,) = [name for name in archive.store.names() if name.startswith("0000000061") and name.endswith(".json")]
    archive.store.write(last, (archive.store.read(last) or b"")[:100])
    found = await verified()
    assert (found.discrepancies, found.unwitnessed) == ([], 30)
    assert any("0000000061-0000000090" in each for each in found.unchecked)
    (data,) = [name for name in archive.store.names() if name.startswith("0000000031") and "jsonl" in name]
    archive.store.remove(data)
    first: Discrepancy = (await verified()).discrepancies[0]
    assert (first.copy, first.kind, first.n, first.last) == ("archive", "changed", 31, 60)


# --- exported heads ---


async def test_heads_that_no_copy_reaches_are_said(copies: Copies) -> None:
    """Trimmed, and the archive is elsewhere: what was exported of that part can be neither confirmed nor denied."""
    await copies.make(36, trimmed=45)
    exported = heads.read(heads.write(copies.bus.keys, (await copies.verified()).marks), copies.bus.keys)
    nothing: list[Linked] = []
    found = await Verification(copies.bus, lambda: nothing, heads=exported).run()
    assert [each.copy for each in found.discrepancies] == ["archive"]
    assert any("exported heads" in each for each in found.unchecked)


async def test_an_empty_log_is_sound_and_its_heads_can_be_read(copies: Copies) -> None:
    """Before the first envelope there is no head, and a file without any confirms everything."""
    copies.folder.mkdir(exist_ok=True)
    nothing: list[Linked] = []
    found = await Verification(copies.bus, lambda: nothing).run()
    assert (found.discrepancies, found.head.n, found.marks) == ([], 0, [])
    assert heads.read(heads.write(copies.bus.keys, found.marks), copies.bus.keys) == []
