"""The history, as the projector reads it: archive and log as one, with what was trimmed, and with what is missing."""

from __future__ import annotations

import shutil
from pathlib import Path

import anyio
import pytest

from taskbus import trimming
from taskbus.client import Bus
from taskbus.errors import CheckpointLost, Gap
from taskbus.settings import Settings
from taskbus_projections import dump
from taskbus_projections.database import Database
from taskbus_projections.parts import fold_part
from taskbus_projections.projector import Projector, name_of
from taskbus_projections.rebuilding import rebuild
from taskbus_projections.registry import BUILTIN
from tests.taskbus_projections.stories import AGENTS, story

pytestmark = pytest.mark.anyio


@pytest.fixture
def bus(connection, namespace, valkey, tmp_path):
    """A bus that has an archive below its home."""
    settings = Settings.load(url=valkey, namespace=namespace, home=tmp_path, environ={}, cwd=tmp_path)
    return Bus(connection, namespace, settings=settings)


async def archived(bus, *, size=40):
    """Seal what there is, and trim it; how much of the log is gone."""
    for agent in (*AGENTS, "@human"):
        for stream in bus.keys.inboxes(agent):
            await bus.connection.execute("XTRIM", stream, "MAXLEN", 0)
    await bus.history.archive.seal(bus.log, size=size, settle=0.0)
    await trimming.trim(bus, bus.history.archive)
    record = await bus.log.trimmed()
    assert record is not None
    assert record.head.n > 0
    return record.head.n


def digest(path, namespace):
    """The digest of a database."""
    with Database.read(path, namespace, BUILTIN) as database:
        return dump.digest(database)


async def test_what_was_trimmed_is_folded_from_the_archive(bus, path, database):
    """From zero, from somewhere in the archive and by a rebuild: the same as before anything was trimmed."""
    answers = await bus.publish_many(story(51, 400))
    with Database.open(path.with_name("half.db"), bus.namespace, BUILTIN) as half:
        await Projector(bus, half).catch_up(until=answers[30].position)
        await Projector(bus, database).catch_up()
        before = dump.digest(database)
        await trimming.forget(bus.connection, bus.keys, name_of(half.path))
        assert await archived(bus) > 31
        assert (await bus.log.count()) < 400
        assert (await Projector(bus, half).catch_up()).folded == 400
        assert dump.digest(half) == before
    with Database.open(path.with_name("anew.db"), bus.namespace, BUILTIN) as anew:
        await Projector(bus, anew).catch_up()
        assert dump.digest(anew) == before
    assert (await rebuild(bus, path, BUILTIN)).changed == ()
    assert digest(path, bus.namespace) == before


async def test_a_database_that_stands_at_the_trim_needs_no_archive(bus, path, database):
    """What it has folded is known by the head of the chain; so is that another one has folded something else there."""
    await bus.publish_many(story(52, 200))
    gone = await archived(bus)
    record = await bus.log.trimmed()
    projector = Projector(bus, database)
    assert (await projector.catch_up(until=record.head.position)).folded == gone
    shutil.rmtree(bus.history.archive.url)
    assert (await projector.catch_up()).folded == 200
    with Database.open(path.with_name("other.db"), bus.namespace, BUILTIN) as other, other.transaction():
        other.move(database.checkpoint()._replace(position=record.head.position, folded=gone, head=b"\0" * 32))
    with (
        Database.open(path.with_name("other.db"), bus.namespace, BUILTIN) as other,
        pytest.raises(CheckpointLost, match="another head"),
    ):
        await Projector(bus, other).catch_up()


async def test_a_gap_names_what_is_missing(bus, path, database):
    """A segment that is gone, and an archive that is elsewhere: which one, in which store; what is folded stays."""
    await bus.publish_many(story(64, 400))
    assert await archived(bus) > 80
    first, second, *_ = await bus.history.archive.segments()
    for name in (second.file, f"{second.name}.json"):
        (Path(bus.history.archive.url) / name).unlink()
    with pytest.raises(Gap) as gap:
        await Projector(bus, database).catch_up()
    assert gap.value.first == second.first
    assert str(second.first) in gap.value.message
    assert database.checkpoint().folded == first.last
    without = Bus(bus.connection, bus.namespace)
    with (
        pytest.raises(Gap, match=r"up to segment \d+-\d+") as gap,
        Database.open(path.with_name("other.db"), bus.namespace, BUILTIN) as other,
    ):
        await Projector(without, other).catch_up()
    assert bus.history.archive.url in str(gap.value.message)


async def test_a_projector_says_how_far_it_is_so_that_nothing_more_is_trimmed(bus, path, database):
    """The server knows each database by machine and file; the file of a rebuild is none of them."""
    answers = await bus.publish_many(story(54, 300))
    await Projector(bus, database).catch_up(until=answers[49].position)
    with Database.open(path.with_name("new.db"), bus.namespace, BUILTIN, new=True) as new:
        await Projector(bus, new).catch_up(until=answers[9].position)
    (known,) = await trimming.projections(bus.connection, bus.keys)
    assert (known.name, known.position) == (name_of(path), answers[49].position)
    assert await archived(bus) <= 50
    await Projector(bus, database).catch_up()
    assert await archived(bus) > 50
    (known,) = await trimming.projections(bus.connection, bus.keys)
    assert known.position == answers[-1].position


async def test_following_goes_on_when_the_log_is_trimmed_below_it(bus, database):
    """Sealing and trimming beside a projector that follows are nothing that it would notice."""
    envelopes = list(story(55, 400))
    incidents, commits = [], []
    reached = anyio.Event()

    def told(progress):
        commits.append(progress.checkpoint.folded)
        if progress.checkpoint.folded == 400:
            reached.set()

    async with anyio.create_task_group() as following:
        following.start_soon(lambda: Projector(bus, database).follow(on_commit=told, on_incident=incidents.append))
        for start in range(0, 400, 50):
            await bus.publish_many(envelopes[start : start + 50])
            await bus.history.archive.seal(bus.log, size=20, settle=0.0)
            await trimming.trim(bus, bus.history.archive)
        await reached.wait()
        following.cancel_scope.cancel()
    assert incidents == []
    assert commits == sorted(set(commits))


async def test_a_part_of_the_history_is_folded_into_a_database_of_its_own(bus, path):
    """With the numbers, positions and links that it has in the whole; what began before it is set aside, and said."""
    answers = await bus.publish_many(story(56, 300))
    await archived(bus)
    with Database.open(path, bus.namespace, BUILTIN) as whole:
        await Projector(bus, whole).catch_up()
        part = path.with_name("part.db")
        until = answers[249].position
        checkpoint, aside = await fold_part(bus, part, BUILTIN, after=answers[99].position, until=until)
        assert (checkpoint.folded, checkpoint.position) == (250, until)
        rows = "SELECT n, position, id, link FROM events WHERE n BETWEEN 101 AND 250 ORDER BY n"
        with Database.read(part, bus.namespace, BUILTIN) as found:
            assert found.query("SELECT min(n) AS first, max(n) AS last FROM events") == [{"first": 101, "last": 250}]
            assert found.query(rows) == whole.query(rows)
            assert found.query("SELECT count(*) AS n FROM set_aside") == [{"n": aside}]
            assert aside > 0
            begun = found.query("SELECT id FROM tasks ORDER BY id")
        delegated = "SELECT task FROM events WHERE n BETWEEN 101 AND 250 AND type = 'delegation'"
        assert begun == whole.query(f"SELECT id FROM tasks WHERE id IN ({delegated}) ORDER BY id")


async def test_the_beginning_of_the_history_is_what_was_folded_then(bus, path, database):
    """Up to a moment in the past, nothing is set aside, and all rows are those of that moment."""
    answers = await bus.publish_many(story(57, 200))
    await Projector(bus, database).catch_up(until=answers[119].position)
    then = dump.digest(database)
    part = path.with_name("then.db")
    checkpoint, aside = await fold_part(bus, part, BUILTIN, until=answers[119].position)
    assert (checkpoint.folded, aside) == (120, 0)
    assert digest(part, bus.namespace) == then
    assert not part.with_name(f"{part.name}.new").exists()
