"""The archive: every byte comes back, segments are plain files, and what is damaged or missing is named."""

from __future__ import annotations

import io
import json
import shutil
import tracemalloc
from functools import partial

import anyio
import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from taskbus import chain
from taskbus.archive import Archive, lines, writing
from taskbus.client import Bus
from taskbus.errors import ArchiveFault, Damaged, Gap, OtherLog
from taskbus.history import History
from taskbus.log import Entry
from taskbus.position import START, Position
from tests import entries as written
from tests.taskbus.archived import fill, live, trim

pytestmark = pytest.mark.anyio

NAMES = st.text(st.characters(codec="utf-8"), max_size=20)
BYTES = st.binary(max_size=60) | st.text(max_size=60).map(str.encode)
POSITIONS = st.builds(Position, st.just(0), st.integers(0, 2**64 - 1), st.integers(0, 2**64 - 1))
ENTRIES = st.builds(
    Entry,
    POSITIONS,
    *([NAMES] * 7),
    st.sampled_from(["application/json", "application/xml"]),
    BYTES,
    st.none() | BYTES,
    st.none() | NAMES,
)


@pytest.fixture
def bus(connection, namespace):
    """A bus with an empty log."""
    return Bus(connection, namespace)


@pytest.fixture
def archive(bus, tmp_path):
    """An archive in a folder that is not there yet."""
    return Archive.open(tmp_path / "archive", bus.keys)


async def entries(pages):
    """All entries of pages."""
    return [entry async for page in pages for entry in page]


async def into(seen, pages):
    """Put all entries of pages into a list, as they come."""
    async for page in pages:
        seen += page


def sealing(archive, bus, **options):
    """Seal at once, also what is fresh."""
    return archive.seal(bus.log, **{"size": 10, "settle": 0, **options})


@settings(max_examples=300, deadline=None)
@given(ENTRIES)
def test_a_line_gives_back_every_byte(entry):
    """Whatever a log can hold, of any encoding or none, is the same after it was a line, and a line is valid JSON."""
    line = lines.write(7, entry, bytes(32))
    assert b"\n" not in line
    assert json.loads(line)["n"] == 7
    (found,) = lines.entries(lines.read(line + b"\n"), 0)
    assert found == entry
    assert (type(found.body), type(found.source)) == (type(entry.body), type(entry.source))


def test_text_stays_readable_and_bytes_stay_bytes():
    """UTF-8 is text in the line, under its plain name; anything else is base64, under a name that says so."""
    entry = Entry(START, "i", "status", "@a", "@b", "t", "t", "low", "application/xml", "ä\x01".encode(), b"\xff")
    found = json.loads(lines.write(1, entry, bytes(32)))
    names = "n position id type from to task root priority content_type link body source_base64"
    assert " ".join(found) == names
    assert (found["body"], found["source_base64"], found["link"]) == ("ä\x01", "/w==", "00" * 32)


async def test_what_was_sealed_reads_as_the_log(bus, archive):
    """Whole segments first, the rest when it is asked for; together they are the log, and the chain runs through."""
    await fill(bus, 1, 34)
    assert [made.count for made in await sealing(archive, bus)] == [10, 10, 10]
    assert (await archive.end()).n == 30
    assert await sealing(archive, bus) == []
    assert [made.count for made in await sealing(archive, bus, rest=True)] == [4]
    assert await entries(archive.pages()) == await live(bus)
    head = chain.start(bus.keys.prefix)
    async for page in archive.lines():
        for n, entry, link in page:
            head = chain.advance(head, entry)
            assert (n, link) == (head.n, head.link)
    assert await archive.end() == head
    segments = await archive.segments()
    assert [made.before for made in segments[1:]] == [made.head for made in segments[:-1]]


async def test_an_empty_log_and_one_of_a_single_envelope(bus, archive):
    """Nothing to seal is no segment and no folder's file; one envelope is a segment of one."""
    assert await sealing(archive, bus, rest=True) == []
    assert (await archive.segments(), await archive.end(), await entries(archive.pages())) == ([], None, [])
    assert await archive.head_at(Position(0, 2**63, 0)) is None
    await fill(bus, 1, 1)
    (made,) = await sealing(archive, bus, rest=True)
    assert (made.first, made.last, made.count, len(made.frames)) == (1, 1, 1, 1)
    assert await entries(archive.pages()) == await live(bus)


async def test_sealing_goes_up_to_a_position(bus, archive):
    """What stands behind it is left for another time, in a whole segment or a rest."""
    await fill(bus, 1, 30)
    log = await live(bus)
    assert [made.count for made in await sealing(archive, bus, upto=log[14].position)] == [10]
    assert [made.count for made in await sealing(archive, bus, upto=log[14].position, rest=True)] == [5]
    assert [made.count for made in await sealing(archive, bus, rest=True)] == [10, 5]
    assert await entries(archive.pages()) == log


async def test_what_a_crash_could_take_back_is_not_sealed(bus, archive):
    """Envelopes younger than the time in which they come to disk are left, unless the rest is asked for and awaited."""
    await bus.connection.execute("XADD", bus.keys.log, "*", *written.words())
    assert await sealing(archive, bus, size=1, settle=60) == []
    assert [made.count for made in await sealing(archive, bus, rest=True, settle=0.3)] == [1]
    (made,) = await archive.segments()
    assert await bus.log.clock() >= made.end.position.ms / 1000 + 0.3


async def test_a_clock_that_was_set_back_keeps_nobody_waiting(bus, archive):
    """What came before counts as young for an hour; it is on disk as soon as everything else is."""
    ahead = round((await bus.log.clock() + 3600) * 1000)
    await bus.connection.execute("XADD", bus.keys.log, f"{ahead}-0", *written.words())
    with anyio.fail_after(10):
        assert [made.count for made in await sealing(archive, bus, rest=True, settle=0.1)] == [1]


async def test_a_segment_is_a_plain_file(bus, archive, tmp_path):
    """The zstd and jq of every machine read it, and the manifest tells its sum, sizes and frames."""
    await fill(bus, 1, 2500, size=600)
    (made,) = await sealing(archive, bus, size=2500)
    file = tmp_path / "archive" / bus.namespace.rstrip(":") / "0000000001-0000002500.jsonl.zst"
    assert made.file == file.name
    content = file.read_bytes()
    assert len(content) == made.bytes == sum(frame.bytes for frame in made.frames)
    with zstandard.ZstdDecompressor().stream_reader(io.BytesIO(content), read_across_frames=True) as stream:
        plain = stream.read()
    assert len(plain) == made.raw_bytes
    found = [json.loads(line) for line in plain.splitlines()]
    assert [line["n"] for line in found] == list(range(1, 2501))
    assert len(made.frames) == 3
    second = made.frames[1]
    alone = zstandard.ZstdDecompressor().decompress(content[second.offset : second.offset + second.bytes])
    assert json.loads(alone.splitlines()[0])["position"] == second.first_position == found[second.first - 1]["position"]
    if shutil.which("zstd") and shutil.which("jq"):
        command = f"zstd -dc {file} | jq -r .id | tail -1; sha256sum {file}"
        done = await anyio.run_process(command)
        assert done.stdout.decode().split()[:2] == ["e2500", made.sha256]


async def test_reading_goes_from_any_position_to_any_other(bus, archive):
    """Also from positions and to positions where nothing stands, within a frame, between segments, and beyond both."""
    await fill(bus, 1, 35)
    await sealing(archive, bus, rest=True)
    log = await live(bus)
    places = sorted({at for entry in log for at in around(entry.position)} | {START, Position(0, 2**63, 0)})
    for after in places:
        assert await entries(archive.pages(after, page=4)) == [entry for entry in log if entry.position > after]
    for after in places[::7]:
        for until in places[::5]:
            wanted = [entry for entry in log if after < entry.position <= until]
            assert await entries(archive.pages(after, until)) == wanted
            pages = [page async for page in archive.backwards(until, after)]
            assert [entry for page in reversed(pages) for entry in page] == wanted


def around(position):
    """A position with those directly before and behind it, which may not exist."""
    ms, sequence = position.ms, position.sequence
    return [Position(0, ms, sequence), Position(0, ms, sequence + 1), Position(0, ms - 1, 9)]


async def test_heads_are_known_at_frames_and_at_every_position(bus, archive, monkeypatch):
    """The end of each frame from manifests alone, and the newest envelope at or before any position."""
    monkeypatch.setattr(writing, "FRAME_LINES", 4)
    await fill(bus, 1, 20)
    await sealing(archive, bus)
    head, heads = chain.start(bus.keys.prefix), {}
    for entry in await live(bus):
        head = chain.advance(head, entry)
        heads[head.n] = head
    assert [each.n for each in await archive.heads()] == [4, 8, 10, 14, 18, 20]
    assert await archive.heads(heads[8].position, heads[18].position) == [heads[n] for n in (10, 14, 18)]
    assert await archive.heads(heads[8].position, heads[17].position) == [heads[n] for n in (10, 14)]
    for at in (place for head in heads.values() for place in around(head.position)):
        found = [head for head in heads.values() if head.position <= at]
        assert await archive.head_at(at) == (found[-1] if found else None)


@pytest.mark.parametrize("overlap", [(5, 25), (11, 30), (1, 40), (15, 35)])
async def test_overlapping_segments_read_as_one(bus, archive, tmp_path, overlap):
    """Two archivers may seal the same envelopes in other parts: each envelope is read once, in order."""
    await fill(bus, 1, 40)
    await sealing(archive, bus)
    first, last = overlap
    log = await live(bus)
    head = chain.start(bus.keys.prefix)
    for entry in log[: first - 1]:
        head = chain.advance(head, entry)
    folder = archive.store.path
    with (folder / "other").open("wb") as file:
        writer = writing.Writer(file, bus.keys, head)
        writer.add(log[first - 1 : last])
        made = writer.finish(by_sum=True)
    (folder / "other").rename(folder / made.file)
    (folder / f"{made.name}.json").write_bytes(made.encode())
    for after in (START, log[3].position, log[12].position, log[33].position):
        assert await entries(archive.pages(after)) == [entry for entry in log if entry.position > after]
    pages = [page async for page in archive.backwards(log[-1].position)]
    assert [entry for page in reversed(pages) for entry in page] == log
    assert (await archive.end()).n == 40


async def test_a_missing_segment_is_a_gap_that_is_named(bus, archive):
    """Reading across it stops loudly; from behind it, it goes on; sealing makes it anew while the log has it."""
    await fill(bus, 1, 30)
    await sealing(archive, bus)
    log = await live(bus)
    for file in archive.store.path.glob("0000000011-*"):
        file.unlink()
    with pytest.raises(Gap) as raised:
        await entries(archive.pages())
    assert (raised.value.first, raised.value.last) == (11, 20)
    with pytest.raises(Gap):
        await entries(archive.pages(log[14].position))
    assert await entries(archive.pages(log[9].position, log[9].position)) == []
    assert await entries(archive.pages(log[19].position)) == log[20:]
    assert (await archive.end()).n == 10
    await sealing(archive, bus)
    assert await entries(archive.pages()) == log


async def test_every_flipped_or_missing_byte_of_a_segment_is_found(bus, archive, monkeypatch):
    """Any one bit of the file: a typed error names the segment and the envelope, and what is before it can be read."""
    monkeypatch.setattr(writing, "FRAME_LINES", 4)
    await fill(bus, 1, 10)
    (made,) = await sealing(archive, bus)
    log, path = await live(bus), archive.store.path / made.file
    content = path.read_bytes()
    for at in range(0, len(content), 3):
        for damaged in (content[:at] + bytes([content[at] ^ 1 << at % 8]) + content[at + 1 :], content[:at]):
            path.write_bytes(damaged)
            n = next(frame.first for frame in reversed(made.frames) if frame.offset <= at)
            seen: list[Entry] = []
            with pytest.raises(Damaged) as raised:
                await into(seen, archive.pages())
            assert (raised.value.segment, raised.value.n) == ("0000000001-0000000010", n)
            assert raised.value.position == log[n - 1].position.entry
            assert seen == log[: n - 1]
            assert f"envelope {n} " in raised.value.message
    path.unlink()
    with pytest.raises(Damaged, match="gone"):
        await entries(archive.pages())


async def test_a_manifest_that_is_broken_is_named(bus, archive):
    """In the middle it is an error; the last one was never finished, and is made anew."""
    await fill(bus, 1, 30)
    await sealing(archive, bus)
    first, _, last = sorted(archive.store.path.glob("*.json"))
    content = last.read_bytes()
    last.write_bytes(content[:-40])
    assert (await archive.end()).n == 20
    await sealing(archive, bus)
    assert last.read_bytes() == content
    first.write_bytes(content)
    with pytest.raises(Damaged, match="0000000001-0000000010"):
        await entries(archive.pages())


async def test_half_a_manifest_that_others_cover_hides_nothing(bus, archive):
    """A store that is no folder may keep half of one: what was made anew in another size is read, and gone on with."""
    await fill(bus, 1, 30)
    await sealing(archive, bus, size=30)
    (half,) = archive.store.path.glob("*.json")
    half.write_bytes(half.read_bytes()[:-40])
    await sealing(archive, bus, size=20)
    await sealing(archive, bus, rest=True)
    assert half.exists()
    assert [str(each.name) for each in await archive.segments()] == ["0000000001-0000000020", "0000000021-0000000030"]
    assert await entries(archive.pages()) == await live(bus)
    await fill(bus, 31, 40)
    assert [made.first for made in await sealing(archive, bus)] == [31]


async def test_another_log_is_refused(bus, archive, tmp_path, connection):
    """A changed, emptied or foreign log is not sealed behind the old one; nor is another namespace's archive read."""
    await fill(bus, 1, 10)
    await sealing(archive, bus)
    newest = (await live(bus))[-1]
    await connection.execute("XDEL", bus.keys.log, newest.position.entry)
    await fill(bus, 11, 20)
    with pytest.raises(OtherLog, match="number 10"):
        await sealing(archive, bus)
    await connection.execute("DEL", bus.keys.log)
    await connection.execute("XADD", bus.keys.log, newest.position.entry, *written.words())
    with pytest.raises(OtherLog, match="another one"):
        await sealing(archive, bus)
    stranger = Bus(connection, "stranger:")
    shutil.copytree(archive.store.path, tmp_path / "archive" / "stranger")
    with pytest.raises(OtherLog, match=r"stranger:\{0\}:"):
        await entries(Archive.open(tmp_path / "archive", stranger.keys).pages())


@pytest.mark.parametrize("gone", [0, 10, 15, 20])
async def test_a_log_that_was_set_back_can_be_gone_on_with(bus, archive, tmp_path, gone):
    """An older copy of the server lacks what was sealed last: it is told what to move, and then nothing is missing."""
    await fill(bus, 1, 40)
    await sealing(archive, bus, upto=(await live(bus))[19].position, rest=True)
    log = await live(bus)
    if gone:
        await trim(bus, archive, log[gone - 1].position)
    await sealing(archive, bus)
    for entry in log[24:]:
        await bus.connection.execute("XDEL", bus.keys.log, entry.position.entry)
    await fill(bus, 50, 60)
    with pytest.raises(OtherLog) as refused:
        await sealing(archive, bus)
    assert "after number 20 " in (refused.value.advice or "")
    for file in archive.store.path.glob("00000000[23]1-*"):
        file.rename(tmp_path / file.name)
    assert (await sealing(archive, bus))[0].first == 21
    found = [entry async for entry in History(bus.log, archive).read()]
    assert found == log[:24] + (await live(bus))[-11:]


async def test_sealing_goes_on_behind_a_trim_and_refuses_a_gap(bus, archive, tmp_path):
    """Numbers and links run on where the log was trimmed; an archive that ends before the trim is not gone on with."""
    await fill(bus, 1, 20)
    await sealing(archive, bus)
    log = await live(bus)
    await trim(bus, archive, log[19].position)
    await fill(bus, 21, 30)
    (made,) = await sealing(archive, bus)
    assert (made.first, made.last) == (21, 30)
    log += (await live(bus))[-10:]
    assert await entries(archive.pages()) == log
    with pytest.raises(Gap) as raised:
        await Archive.open(tmp_path / "other", bus.keys).seal(bus.log, rest=True, settle=0)
    assert (raised.value.first, raised.value.last, raised.value.store) == (1, 20, archive.url)
    await bus.connection.execute("HSET", bus.keys.archive, "head", "00" * 32)
    with pytest.raises(OtherLog, match="link"):
        await sealing(archive, bus)


async def test_two_archivers_at_once_seal_everything_once(bus, archive, tmp_path):
    """In a folder one works and the others wait: no segment is made twice, nor any envelope left out."""
    await fill(bus, 1, 300)
    made = []

    async def run(archive):
        made.extend(await sealing(archive, bus))

    async with anyio.create_task_group() as group:
        for _ in range(4):
            group.start_soon(run, Archive.open(tmp_path / "archive", bus.keys))
    assert sorted(each.first for each in made) == list(range(1, 301, 10))
    assert await entries(archive.pages()) == await live(bus)


async def test_a_cancelled_archiver_leaves_what_it_has_sealed(bus, archive):
    """Cancelling between two pages keeps the segments that stand, and nothing else but what the next run removes."""
    await fill(bus, 1, 5000)
    with anyio.CancelScope() as scope:

        def progress(count):
            if count > 2000:
                scope.cancel()

        await sealing(archive, bus, size=700, progress=progress)
    assert scope.cancelled_caught
    assert 0 < (await archive.end()).n < 5000
    await sealing(archive, bus, size=700, rest=True)
    assert await entries(archive.pages()) == await live(bus)
    assert {path.suffix for path in archive.store.path.iterdir()} == {".zst", ".json", ""}


async def test_what_was_left_behind_is_removed_unless_it_may_be_all_there_is(bus, archive):
    """Unfinished files go; a segment that lost its manifest stays while the log does not have its envelopes."""
    await fill(bus, 1, 20)
    await sealing(archive, bus)
    folder = archive.store.path
    await trim(bus, archive, (await live(bus))[14].position)
    (folder / "1.tmp").write_bytes(b"")
    (folder / "0000000021-0000000030.jsonl.zst").write_bytes(b"")
    (folder / "0000000011-0000000020.json").unlink()
    with pytest.raises(Gap):
        await sealing(archive, bus)
    (folder / "0000000011-0000000020.json").write_bytes(b"{")
    with pytest.raises(Gap):
        await sealing(archive, bus)
    assert (folder / "0000000011-0000000020.jsonl.zst").exists()


async def test_a_folder_that_cannot_be_used_says_so(bus, tmp_path):
    """A file where the folder should be is an error of the archive with a way on, for reading and for sealing."""
    await fill(bus, 1, 1)
    (tmp_path / "archive").write_text("")
    archive = Archive.open(tmp_path / "archive", bus.keys)
    for call in (partial(sealing, archive, bus, rest=True), archive.segments):
        with pytest.raises(ArchiveFault, match="archive"):
            await call()


async def test_memory_stays_flat_while_reading_and_sealing(bus, archive, monkeypatch):
    """Four times as many envelopes take no more memory, neither to seal nor to read."""
    monkeypatch.setattr(writing, "FRAME_LINES", 100)
    peaks = []
    for first, last in ((1, 1500), (1501, 7500)):
        await fill(bus, first, last, size=1000)
        tracemalloc.start()
        await sealing(archive, bus, size=last, rest=True)
        async for _ in archive.pages():
            pass
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < 1.5 * peaks[0]
