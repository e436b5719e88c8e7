"""The history: archive and log read as one, wherever the seam is and however it moves meanwhile."""

from __future__ import annotations

import itertools
import random
import shutil
from contextlib import aclosing

import anyio
import pytest

from taskbus.archive import Archive
from taskbus.client import Bus
from taskbus.errors import Damaged, ForeignEntry, Gap, OtherLog
from taskbus.history import History
from taskbus.position import START, Position
from taskbus.readahead import ahead
from tests.taskbus.archived import fill, live, trim

pytestmark = pytest.mark.anyio


@pytest.fixture
def bus(connection, namespace):
    """A bus with an empty log."""
    return Bus(connection, namespace)


@pytest.fixture
def archive(bus, tmp_path):
    """An archive where a command with this folder as its home looks for one."""
    return Archive.open(tmp_path / ".bus" / "archive", bus.keys)


async def sealed(bus, archive, last, *, size=7):
    """Fill the log, seal it in small segments, and return what it holds."""
    await fill(bus, 1, last)
    await archive.seal(bus.log, size=size, settle=0)
    return await live(bus)


async def entries(pages):
    """All entries of pages."""
    return [entry async for page in pages for entry in page]


async def test_reading_goes_from_every_position_to_every_other_across_the_seam(bus, archive):
    """Wherever the seam is, and whether or not anything stands at the positions: never one too few or too many."""
    log = await sealed(bus, archive, 24)
    history = History(bus.log, archive)
    places = [START, *(Position(0, e.position.ms + 1, 0) for e in log[2::3]), *(e.position for e in log)]
    for end in (None, 4, 10, 19):
        if end is not None:
            await trim(bus, archive, log[end].position)
        for after in places:
            assert await entries(history.pages(after, page=5)) == [e for e in log if e.position > after]
        for after in places[::5]:
            for until in places[::3]:
                wanted = [e for e in log if after < e.position <= until]
                assert [entry async for entry in history.read(after, until, page=4)] == wanted


@pytest.mark.parametrize("seed", range(12))
async def test_a_trim_that_overtakes_a_reader_is_nothing_that_it_notices(bus, archive, seed):
    """Envelopes are appended, sealed and trimmed at random between any two pages: each is read once, in order."""
    chance = random.Random(seed)
    log, seen, last = await sealed(bus, archive, 40), [], 40
    async with aclosing(History(bus.log, archive).pages(page=chance.randint(1, 5))) as pages:
        async for page in pages:
            seen += page
            if chance.random() < 0.5 and last < 80:
                last += 5
                await fill(bus, last - 4, last)
                log += (await live(bus))[-5:]
            if chance.random() < 0.5:
                await archive.seal(bus.log, size=chance.randint(1, 20), settle=0)
            if chance.random() < 0.5:
                trimmed, end = await bus.log.trimmed(), await archive.end()
                first = trimmed.head.n if trimmed else 0
                await trim(bus, archive, log[chance.randint(max(first, 1) - 1, end.n - 1)].position)
    assert seen == log[: len(seen)]
    assert len(seen) >= last - 10, "what came before the last page or two was asked for is there"


async def test_without_the_archive_the_gap_is_said(bus, archive, tmp_path):
    """Who has no archive, another one, or one that ends too early hears what is missing, and where it is."""
    log = await sealed(bus, archive, 21)
    for file in archive.store.path.glob("0000000015-*"):
        file.rename(tmp_path / file.name)
    early = [entry async for entry in archive.read()]
    for path in tmp_path.glob("0000000015-*"):
        path.rename(archive.store.path / path.name)
    assert len(early) == 14
    await trim(bus, archive, log[18].position)
    for history in (History(bus.log), History(bus.log, Archive.open(tmp_path / "other", bus.keys))):
        with pytest.raises(Gap) as raised:
            await entries(history.pages(log[2].position))
        gap = raised.value
        assert (gap.after, gap.until, gap.last) == (str(log[2].position), str(log[18].position), 19)
        assert (gap.store, gap.segment) == (archive.url, "the-last-one")
        assert archive.url in gap.message
        assert "--archive" in gap.advice
        assert await entries(history.pages(log[18].position)) == log[19:]
        assert await entries(history.pages(log[19].position)) == log[20:]
    for file in archive.store.path.glob("0000000008-*"):
        file.unlink()
    with pytest.raises(Gap) as raised:
        await entries(History(bus.log, archive).pages())
    assert (raised.value.first, raised.value.last) == (8, 14)


async def test_an_archive_of_another_past_is_not_spliced_in(bus, archive):
    """The server's record has the link at the seam: an archive with another one there is refused."""
    log = await sealed(bus, archive, 21)
    await trim(bus, archive, log[9].position)
    await bus.connection.execute("HSET", bus.keys.archive, "head", "ab" * 32)
    with pytest.raises(OtherLog, match=str(log[9].position)):
        await entries(History(bus.log, archive).pages())
    assert await entries(History(bus.log, archive).pages(log[9].position)) == log[10:]


@pytest.mark.parametrize(
    ("foreign", "later"), [*itertools.product(("0000000001", "0000000011", "0000000021"), (0, 1000))]
)
async def test_a_segment_of_another_log_hides_nothing(bus, archive, tmp_path, foreign, later):
    """Its positions would lead readers past segments of this one: they hear of it before they are given any of it."""
    await fill(bus, 1 + later, 30 + later)
    log = await live(bus)
    await archive.seal(bus.log, size=10, settle=0)
    await trim(bus, archive, log[24].position)
    other = Bus(bus.connection, bus.namespace.replace("test", "other"))
    await fill(other, 1001 - later, 1030 - later)
    strange = Archive.open(tmp_path / "strange", bus.keys)
    await strange.seal(other.log, size=10, settle=0)
    for file in strange.store.path.glob(f"{foreign}-*"):
        shutil.copy(file, archive.store.path / file.name)
    for after, until in [(START, None), (START, log[4].position), (log[14].position, None)]:
        given, wanted = [], [each for each in log if after < each.position <= (until or log[-1].position)]
        try:
            async for page in History(bus.log, archive).pages(after, until):
                given += page
        except (Damaged, Gap, OtherLog):
            assert given == wanted[: len(given)]
        else:
            assert given == wanted


async def test_the_log_alone_says_the_gap_to_who_stands_before_it(bus, archive):
    """Reading the live log raises before a trim, also where it comes between two pages, and is as ever behind it."""
    log = await sealed(bus, archive, 28)
    pages = bus.log.pages(page=6)
    assert await anext(pages) == log[:6]
    await trim(bus, archive, log[5].position)
    assert await anext(pages) == log[6:12]
    await trim(bus, archive, log[12].position)
    with pytest.raises(Gap, match=f"what follows {log[11].position} is in"):
        await anext(pages)
    with pytest.raises(Gap):
        await anext(bus.log.read())
    for n in (12, 13):
        assert [entry async for entry in bus.log.read(log[n].position)] == log[n + 1 :]
    assert (await bus.log.trimmed()).head == await archive.head_at(log[12].position)
    await trim(bus, archive, log[27].position)
    assert await live(bus) == []
    with pytest.raises(Gap):
        await anext(bus.log.read(log[26].position))


async def test_following_behind_a_trim_notices_nothing(bus, archive):
    """All that a follower was given is trimmed, also the newest: it goes on with the next, without an incident."""
    log = await sealed(bus, archive, 14)
    for follow in (bus.log.follow, History(bus.log, archive).follow):
        trimmed = await bus.log.trimmed()
        after = trimmed.head.position if trimmed else START
        seen, incidents = [], []
        with anyio.fail_after(30):
            async with aclosing(follow(after, on_incident=incidents.append)) as entries:
                async for entry in entries:
                    seen.append(entry)
                    if len(seen) == 14:
                        await trim(bus, archive, entry.position)
                        await fill(bus, len(log) + 1, len(log) + 14)
                        await archive.seal(bus.log, size=7, settle=0)
                        log += await live(bus)
                    if len(seen) == 28:
                        break
        assert incidents == []
        assert seen == [entry for entry in log if entry.position > after]
        await trim(bus, archive, seen[13].position)


async def test_following_from_before_a_trim_reads_the_archive_or_says_the_gap(bus, archive):
    """With the archive nothing is missing; the log alone says loudly that there is a gap, and goes on behind it."""
    log = await sealed(bus, archive, 21)
    await trim(bus, archive, log[13].position)
    for follow, wanted in ((History(bus.log, archive).follow, log), (bus.log.follow, log[14:])):
        seen, incidents = [], []
        with anyio.fail_after(30):
            async with aclosing(follow(on_incident=incidents.append)) as entries:
                async for entry in entries:
                    seen.append(entry)
                    if entry == log[-1]:
                        break
        assert seen == wanted
        assert [archive.url in each.what for each in incidents] == [True] * (wanted is not log)


async def test_following_over_a_hole_in_the_archive_leaves_out_no_more_than_that(bus, archive):
    """A segment is missing: what is before it and behind it is given out, and the hole is an incident."""
    log = await sealed(bus, archive, 28)
    await trim(bus, archive, log[20].position)
    for file in archive.store.path.glob("0000000008-*"):
        file.unlink()
    seen, incidents = [], []
    with anyio.fail_after(30):
        async with aclosing(History(bus.log, archive).follow(on_incident=incidents.append)) as entries:
            async for entry in entries:
                seen.append(entry)
                if entry == log[-1]:
                    break
    assert seen == log[:7] + log[14:]
    assert ["8 to 14" in each.what for each in incidents] == [True]
    assert incidents[0].position == log[13].position


async def test_what_stands_before_a_foreign_entry_comes_first(bus, archive):
    """The page before it is given out, then the error names it; with the seam before it as well."""
    log = await sealed(bus, archive, 7)
    await bus.connection.execute("XADD", bus.keys.log, "*", "not", "ours")
    await trim(bus, archive, log[3].position)
    seen = []
    with pytest.raises(ForeignEntry):
        await into(seen, History(bus.log, archive).pages())
    assert seen == log


async def into(seen, pages):
    """Put all entries of pages into a list, as they come."""
    async for page in pages:
        seen += page


async def test_reading_ahead_ends_what_it_reads_from():
    """Whoever stops early leaves nothing running, and an error comes in its turn."""
    closed = []

    async def pages():
        try:
            yield 1
            yield 2
            raise ForeignEntry
        finally:
            closed.append(True)

    some = ahead(pages())
    assert [await anext(some), await anext(some)] == [1, 2]
    with pytest.raises(ForeignEntry):
        await anext(some)
    async with aclosing(ahead(pages())) as some:
        assert await anext(some) == 1
    assert closed == [True, True]


async def test_replay_and_tail_show_archive_and_log_as_one(bus, archive, run_bus):
    """The commands find the archive in the home; --archive names another, and without one the gap is an error."""
    log = await sealed(bus, archive, 21)
    whole = run_bus("replay", "--json")
    await trim(bus, archive, log[17].position)
    ids = [entry.id for entry in log]
    after = run_bus("replay", "--json")
    assert (after.stdout, after.code) == (whole.stdout, 0)
    assert [line["id"] for line in after.lines()] == ids
    part = run_bus("replay", "--json", "--from", str(log[5].position), "--to", str(log[19].position))
    assert [line["id"] for line in part.lines()] == ids[5:20]
    assert [line["id"] for line in run_bus("tail", "-n", "9", "--no-follow", "--json").lines()] == ids[-9:]
    task = run_bus("tail", "-n", "9", "--task", log[0].task, "--no-follow", "--json")
    assert [line["id"] for line in task.lines()] == [entry.id for entry in log if entry.task == log[0].task]
    assert [line["id"] for line in run_bus("tail", "--no-follow", "--json").lines()] == ids[18:]
    since = run_bus("tail", "--since", str(log[3].position), "--no-follow", "--json")
    assert [line["id"] for line in since.lines()] == ids[3:]
    lost = run_bus("replay", "--json", "--archive", "elsewhere")
    assert (lost.code, lost.json()["error"], lost.json()["store"]) == (3, "Gap", archive.url)
    some = run_bus("tail", "-n", "9", "--no-follow", "--json", env={"BUS_ARCHIVE": "elsewhere"})
    assert (len(some.lines()), some.code) == (3, 0)
    assert archive.url in some.stderr
