"""The batch: what is set aside and what is not, and that the rest is folded as ever."""

from __future__ import annotations

import random
import sqlite3
from typing import TYPE_CHECKING, ClassVar

import anyio
import pytest

from taskbus import chain
from taskbus.codec import encode
from taskbus.envelope import Status, compose
from taskbus.errors import CheckpointLost, ProjectionStopped
from taskbus_projections import dump
from taskbus_projections.batch import Batch
from taskbus_projections.database import Checkpoint, Database
from taskbus_projections.model import ReadModel
from taskbus_projections.pages import Reader
from taskbus_projections.projector import Projector
from taskbus_projections.rebuilding import rebuild
from taskbus_projections.registry import BUILTIN
from tests import entries
from tests.taskbus_projections.stories import story

if TYPE_CHECKING:
    from taskbus_projections.model import Fact

pytestmark = pytest.mark.anyio


class Choosy(ReadModel):
    """A read model that cannot fold every ninth envelope: half of them at once, half when it writes the batch."""

    name = "choosy"
    version = 1
    tables: ClassVar[str] = "CREATE TABLE choosy (n INTEGER PRIMARY KEY CHECK (n % 18 <> 9)) STRICT;"

    def begin(self, database: sqlite3.Connection) -> None:
        """Forget."""
        super().begin(database)
        self._rows: list[tuple[int]] = []

    def fold(self, fact: Fact) -> None:
        """Keep it, or not."""
        self._rows.append((fact.n,))
        if fact.n % 18 == 0:
            self.database.execute("INSERT INTO choosy VALUES (?)", (-fact.n,))
            raise ValueError("not this one")

    def finish(self) -> None:
        """Write them, or not."""
        self.database.executemany("INSERT INTO choosy VALUES (?)", self._rows)


MODELS = (*BUILTIN, Choosy)


async def put(bus, **fields):
    """Write something into the log past the bus, as another program might."""
    position = await bus.connection.execute("XADD", bus.keys.log, "*", *entries.words(**fields))
    return position.decode()


async def test_what_one_read_model_cannot_fold_is_set_aside_for_it_alone(bus, path):
    """It is noted with model, position and reason; all other rows are there, of this read model and of the others."""
    await bus.publish_many(story(31, 150))
    with Database.open(path, bus.namespace, MODELS) as database:
        await Projector(bus, database, set_aside=True).catch_up()
        left = {n for n in range(1, 151) if n % 9 == 0}
        rows = database.query("SELECT * FROM set_aside ORDER BY n")
        assert [row["n"] for row in rows] == sorted(left)
        assert {row["model"] for row in rows} == {"choosy"}
        assert rows[1]["reason"] == "ValueError: not this one"
        assert "CHECK constraint failed" in rows[0]["reason"]
        events = {row["n"]: row for row in database.query("SELECT n, position, id, task FROM events")}
        assert all(events[row["n"]]["position"] == row["position"] for row in rows)
        assert [(row["envelope"], row["task"]) for row in rows] == [
            (events[row["n"]]["id"], events[row["n"]]["task"]) for row in rows
        ]
        assert {row["n"] for row in database.query("SELECT n FROM choosy")} == set(range(1, 151)) - left
        others = [dump.digests(database)]
    with Database.open(path.with_name("plain.db"), bus.namespace, BUILTIN) as plain:
        await Projector(bus, plain).catch_up()
        same = dump.digests(plain)
    assert {table: others[0][table] for table in same if table not in ("read_models", "set_aside")} == {
        table: digest for table, digest in same.items() if table not in ("read_models", "set_aside")
    }


async def test_what_is_set_aside_does_not_depend_on_the_batches(bus, path):
    """Bit by bit, at once and by a rebuild, with strangers in the log: the same rows, the same that is set aside."""
    envelopes = list(story(32, 200))
    rng = random.Random(32)
    with Database.open(path, bus.namespace, MODELS) as database:
        while envelopes:
            count = rng.randint(1, 60)
            await bus.publish_many(envelopes[:count])
            del envelopes[:count]
            if rng.random() < 0.7:
                await put(bus, id=f"i{len(envelopes)}", **rng.choice([{}, {"form": "cbor"}, {"body": "no"}]))
            await Projector(bus, database, page=rng.randint(2, 40), set_aside=True).catch_up()
        found = dump.digest(database)
        kinds = {row["model"] for row in database.query("SELECT model FROM set_aside")}
        assert kinds == {"choosy", "*"}
    with Database.open(path.with_name("anew.db"), bus.namespace, MODELS) as anew:
        await Projector(bus, anew, set_aside=True).catch_up()
        assert dump.digest(anew) == found
    assert (await rebuild(bus, path, MODELS, set_aside=True)).changed == ()
    with Database.read(path, bus.namespace, MODELS) as database:
        assert dump.digest(database) == found


async def test_an_entry_that_cannot_be_read_is_set_aside_by_all(bus, database):
    """With its position and reason; what was decoded before and after it is folded, and numbered without a hole."""
    await bus.publish_many(story(33, 20))
    broken = await put(bus, body="no JSON")
    foreign = await put(bus, form="cbor")
    await bus.publish_many(story(34, 20))
    checkpoint = await Projector(bus, database, set_aside=True).catch_up()
    assert checkpoint.folded == 41
    rows = database.query("SELECT n, model, position, envelope, task FROM set_aside ORDER BY position")
    assert [tuple(row.values()) for row in rows] == [(21, "*", broken, "i", "t"), (21, "*", foreign, None, None)]
    numbers = [row["n"] for row in database.query("SELECT n FROM events ORDER BY n")]
    assert numbers == [n for n in range(1, 42) if n != 21]


async def test_following_does_not_run_in_circles_behind_a_stranger(bus, database, monkeypatch):
    """An entry at the end that is no envelope is read once, and then waited behind."""
    await bus.publish_many(story(35, 5))
    await put(bus, form="cbor")
    waited, begun, done = [], anyio.Event(), anyio.Event()
    wait = type(bus.connection).wait

    async def counted(self, streams, **terms):
        waited.append(streams[bus.keys.log])
        begun.set()
        found = await wait(self, streams, **terms)
        done.set()
        return found

    monkeypatch.setattr(type(bus.connection), "wait", counted)
    async with anyio.create_task_group() as following:
        following.start_soon(Projector(bus, database, set_aside=True).follow)
        await begun.wait()
        await bus.publish_many(story(36, 1))
        await done.wait()
        following.cancel_scope.cancel()
    assert waited[0] == str(await last_foreign(bus))


async def last_foreign(bus):
    """The position of the entry that is no envelope."""
    found = await bus.connection.range(bus.keys.log, "-", "+", 100)
    (position,) = [position for position, fields in found if fields.get(b"form") == b"cbor"]
    return position


async def test_rows_and_checkpoint_are_written_in_one_transaction(bus, database):
    """Between a BEGIN and its COMMIT stand both, for each page; nothing is written outside."""
    await bus.publish_many(story(42, 90))
    said = []
    database.connection.set_trace_callback(lambda sql: said.append(sql.split(" VALUES")[0]))
    await Projector(bus, database, page=30).catch_up()
    database.connection.set_trace_callback(None)
    text = "; ".join(word for word in said if word.split()[0] in ("BEGIN", "COMMIT", "INSERT", "UPDATE", "DELETE"))
    outside, *transactions = text.split("BEGIN IMMEDIATE")
    assert outside == ""
    assert len(transactions) == 3
    for transaction in transactions:
        written, _, behind = transaction.partition("COMMIT")
        assert "INSERT INTO events" in written
        assert "INTO checkpoint" in written
        assert behind.strip("; ") == ""


async def test_what_another_projector_has_folded_of_a_page_is_not_folded_again(bus, database):
    """Also where it has stopped in the middle of the page that is at hand; nor anything when it is farther."""
    answers = await bus.publish_many(story(43, 120))
    batch = Batch(database, bus.keys.shard)
    reader = Reader(bus, most=50)
    pages = [page async for page in reader.pages(Checkpoint(), answers[-1].position)]
    assert [page.after.folded for page in pages] == [50, 100, 120]
    with Database.open(database.path, bus.namespace, BUILTIN) as second:
        other = Projector(bus, second)
        for until, page, folded in ((20, pages[0], 50), (90, pages[1], 100), (120, pages[2], 120)):
            await other.catch_up(until=answers[until - 1].position)
            assert batch.fold(page).folded == folded
            assert batch.fold(page).folded == folded
    numbers = [row["n"] for row in database.query("SELECT n FROM events ORDER BY n")]
    assert numbers == list(range(1, 121))
    with Database.open(database.path.with_name("anew.db"), bus.namespace, BUILTIN) as anew:
        await Projector(bus, anew).catch_up()
        assert dump.differing(anew, database) == []


async def test_a_full_disk_is_no_envelopes_fault(bus, path):
    """What SQLite says of the file stops the projection, and nothing is set aside for it."""
    await bus.publish_many(story(37, 300))
    with Database.open(path, bus.namespace, BUILTIN) as database:
        (pages,) = database.connection.execute("PRAGMA page_count").fetchone()
        database.connection.execute(f"PRAGMA max_page_count = {pages + 2}")
        with pytest.raises(ProjectionStopped, match="cannot be used: database or disk is full"):
            await Projector(bus, database, set_aside=True).catch_up()
        assert database.query("SELECT * FROM set_aside") == []
        database.connection.execute("PRAGMA max_page_count = 1000000")
        assert (await Projector(bus, database, set_aside=True).catch_up()).folded == 300


async def test_a_rebuild_that_is_strict_does_not_go_on_from_one_that_was_not(bus, path):
    """What the other one has set aside stops it."""
    await bus.publish_many(story(38, 60))
    stray = compose(Status(progress="half"), sender="@kilo", recipient="@boss", task="t")
    position = await put(bus, id=stray.id, body=encode(stray))
    await bus.publish_many(story(39, 60))
    with anyio.CancelScope() as scope:
        await rebuild(bus, path, BUILTIN, set_aside=True, on_commit=lambda _: scope.cancel())
    with pytest.raises(ProjectionStopped) as stopped:
        await rebuild(bus, path, BUILTIN)
    assert stopped.value.position == position
    done = await rebuild(bus, path, BUILTIN, set_aside=True)
    assert (done.begun.folded, done.checkpoint.folded) == (60, 121)


async def test_each_row_of_the_audit_trail_has_its_link_in_the_chain(bus, database, projector):
    """The links are those of the log, and the last one stands in the checkpoint."""
    await bus.publish_many(story(40, 80))
    checkpoint = await projector.catch_up()
    head, links = chain.beginning(bus.keys.prefix), []
    async for entry in bus.log.read():
        head = chain.link(head, entry)
        links.append(head)
    assert [row["link"] for row in database.query("SELECT link FROM events ORDER BY n")] == links
    assert database.checkpoint().head == checkpoint.head == head


async def test_a_database_of_another_log_is_not_folded_on(bus, path, database):
    """Between two projectors, one of which has folded something else, the head of the chain tells."""
    await bus.publish_many(story(41, 50))

    def change(progress):
        if progress.checkpoint.folded == 20:
            with Database.open(path, bus.namespace, BUILTIN) as other:
                other.connection.execute("UPDATE checkpoint SET head = zeroblob(32)")

    with pytest.raises(CheckpointLost, match="another head"):
        await Projector(bus, database, page=20).catch_up(on_commit=change)
