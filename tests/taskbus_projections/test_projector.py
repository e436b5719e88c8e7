"""The projector: what it folds, that it folds everything once, and how it stops."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
from contextlib import ExitStack
from datetime import UTC, datetime
from itertools import pairwise
from typing import ClassVar

import anyio
import pytest

from taskbus import log
from taskbus.client import Bus
from taskbus.codec import encode
from taskbus.connection import Connection
from taskbus.envelope import Completion, Delegation, Question, Result, Status, compose
from taskbus.errors import CheckpointLost, Permanent, ProjectionStopped
from taskbus.parked import replay
from taskbus.position import START
from taskbus_projections import dump
from taskbus_projections.database import Checkpoint, Database, Outdated
from taskbus_projections.instants import instant
from taskbus_projections.model import Fact, ReadModel
from taskbus_projections.projector import Progress, Projector
from taskbus_projections.registry import BUILTIN
from tests import entries
from tests.servers import bundled_binary, end, running, start
from tests.taskbus_projections import folding
from tests.taskbus_projections.stories import story

pytestmark = pytest.mark.anyio


async def publish(bus, envelopes):
    """Append all of them; the tests' stories are legal, so none is refused."""
    answers = await bus.publish_many(envelopes)
    assert [answer for answer in answers if isinstance(answer, Exception)] == []
    return answers


def fold_anew(path, namespace, models=BUILTIN):
    """A second database, for a fold from zero."""
    return Database.open(path.with_name("anew.db"), namespace, models)


class Questions(ReadModel):
    """What a user of the library writes: the questions of each task."""

    name = "questions"
    version = 1
    tables: ClassVar[str] = """
        CREATE TABLE questions (
            n INTEGER PRIMARY KEY, -- the number of the envelope
            task TEXT NOT NULL, -- the task
            question TEXT NOT NULL -- what was asked
        ) STRICT;
    """

    def question(self, fact: Fact, payload: Question) -> None:
        """Keep it."""
        self.database.execute("INSERT INTO questions VALUES (?, ?, ?)", (fact.n, fact.task, payload.question))


class Picky(ReadModel):
    """A read model that cannot fold one envelope, either at once or when it writes the batch."""

    name = "picky"
    version = 1
    tables: ClassVar[str] = "CREATE TABLE picky (n INTEGER PRIMARY KEY CHECK (n <> 70)) STRICT;"
    late: ClassVar[bool] = False

    def begin(self, database):
        """Begin a batch."""
        super().begin(database)
        self.kept = []

    def fold(self, fact):
        """Keep the number; write it at once unless `late`."""
        self.kept.append((fact.n,))
        if not self.late:
            self.finish()
            self.kept.clear()

    def finish(self):
        """Write what was kept."""
        self.database.executemany("INSERT INTO picky VALUES (?)", self.kept)


@pytest.mark.parametrize("seed", range(6))
async def test_the_tasks_are_as_the_server_keeps_them(bus, database, projector, seed):
    """After any legal story each row of `tasks` says what the server's own hash of the task says."""
    await publish(bus, story(seed, 400))
    await projector.catch_up()
    rows = database.query("SELECT * FROM tasks")
    assert len(rows) > 10
    assert len({row["state"] for row in rows}) > 4
    for row in rows:
        kept = await bus.task(row["id"])
        same = ("state", "delegator", "assignee", "coordinator", "attempt", "review", "root", "parent")
        assert {name: row[name] for name in same} == {name: getattr(kept, name) for name in same}
        due = datetime.fromtimestamp(kept.deadline / 1000, UTC) if kept.deadline else None
        assert row["deadline"] == (instant(due) if due else None)


async def test_a_task_that_was_parked_and_replayed_is_as_the_server_keeps_it(bus, database, projector):
    """Parking escalates it, a replay submits it again; the records stand in the audit trail and change nothing else."""
    envelope = compose(Delegation(goal="g"), sender="@boss", recipient="@kilo")
    await bus.publish(envelope)

    async def fails(work):
        raise Permanent("no access")

    async def done(work):
        return Completion(result=Result(status="success"))

    states = []
    for step in (
        lambda: bus.worker("@kilo", fails).run(limit=1),
        lambda: replay(bus, "@kilo", envelope.task, sender="@human"),
        lambda: bus.worker("@kilo", done).run(until_idle=True),
    ):
        await step()
        await projector.catch_up()
        (row,) = database.query("SELECT state, attempt FROM tasks")
        assert (row["state"], row["attempt"]) == ((await bus.task(envelope.task)).state, 1)
        states.append(row["state"])
    assert states == ["escalated", "submitted", "completed"]
    kinds = [row["type"] for row in database.query("SELECT type FROM events ORDER BY n")]
    assert kinds.count("parking") == 2


async def test_every_envelope_is_in_the_audit_trail_as_it_was_sent(bus, database, projector):
    """The rows of `events` have the positions, headers and bytes of the log, in its order, numbered from 1."""
    await publish(bus, story(1, 300))
    await projector.catch_up()
    log = [
        (str(e.position), e.id, e.type, e.sender, e.recipient, e.task, e.root, e.content_type, e.body)
        async for e in bus.log.read()
    ]
    rows = database.connection.execute(
        "SELECT position, id, type, sender, recipient, task, root, content_type, body FROM events ORDER BY n"
    ).fetchall()
    assert rows == log
    assert database.query("SELECT min(n) AS first, max(n) AS last FROM events") == [{"first": 1, "last": 300}]
    assert {row[7] for row in rows} == {"application/json", "application/xml"}


async def test_every_call_is_in_the_ledger_and_unpriced_is_not_zero(bus, database, projector):
    """Each call of each envelope is one row; without a price its cost is NULL, with the source saying so."""
    envelopes = list(story(2, 200))
    await publish(bus, envelopes)
    await projector.catch_up()
    said = [
        (n, call, used.cost.microusd if used.cost else None, used.cost.source if used.cost else "unpriced")
        for n, document in enumerate(envelopes, start=1)
        for call, used in enumerate(document.envelope.usage, start=1)
    ]
    found = database.connection.execute("SELECT n, call, cost_microusd, cost_source FROM usage ORDER BY n, call")
    assert found.fetchall() == said
    assert {source for *_, source in said} == {"reported", "priced", "unpriced"}


async def test_folding_bit_by_bit_is_folding_from_zero(bus, path, database):
    """The canonical dump is the same, however the log was cut into transactions."""
    envelopes = list(story(3, 250))
    rng = random.Random(3)
    while envelopes:
        count = rng.randint(1, 60)
        await publish(bus, envelopes[:count])
        del envelopes[:count]
        checkpoint = await Projector(bus, database, page=rng.randint(2, 40)).catch_up()
    with fold_anew(path, bus.namespace) as anew:
        assert await Projector(bus, anew).catch_up() == checkpoint
        assert dump.digest(anew) == dump.digest(database)
        assert dump.digests(anew) == dump.digests(database)
    assert checkpoint.folded == 250


async def test_a_projector_that_is_killed_leaves_rows_and_checkpoint_together(bus, path, valkey):
    """Whatever transaction SIGKILL hits, the next process goes on, and ends with the same dump as a fold from zero."""
    await publish(bus, story(4, 300))
    with Database.open(path, bus.namespace, folding.MODELS):
        pass
    for at in (1, 13, 39, 40, 41, 77, 150, 299, 300):
        dead = fold(valkey, bus.namespace, path, at)
        assert dead.returncode == -signal.SIGKILL
        with Database.read(path, bus.namespace, folding.MODELS) as database:
            folded = database.checkpoint().folded
            assert at - 20 <= folded < at
            counts = "SELECT (SELECT count(*) FROM events) AS events, (SELECT count(*) FROM deadly) AS deadly"
            assert database.query(counts) == [{"events": folded, "deadly": folded}]
    assert fold(valkey, bus.namespace, path, 0).stdout == "300\n"
    with (
        Database.read(path, bus.namespace, folding.MODELS) as database,
        fold_anew(path, bus.namespace, folding.MODELS) as anew,
    ):
        await Projector(bus, anew).catch_up()
        assert dump.digest(anew) == dump.digest(database)


def fold(url, namespace, path, at):
    """Run a projector of its own that kills itself at an envelope."""
    return subprocess.run(
        [sys.executable, "-m", "tests.taskbus_projections.folding", url, namespace, path, str(at)],
        check=False,
        capture_output=True,
        text=True,
        timeout=60,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )


async def test_several_projectors_fold_everything_once(bus, path):
    """Four at once, each on a connection of its own: one writes, the others wait, and nothing is folded twice."""
    await publish(bus, story(5, 600))
    commits = []
    with ExitStack() as opened:
        databases = [opened.enter_context(Database.open(path, bus.namespace, BUILTIN)) for _ in range(4)]
        async with anyio.create_task_group() as together:
            for database, page in zip(databases, (16, 17, 23, 31), strict=True):
                one = Projector(bus, database, page=page)
                together.start_soon(lambda one=one: one.catch_up(on_commit=commits.append))
        anew = opened.enter_context(fold_anew(path, bus.namespace))
        await Projector(bus, anew).catch_up()
        assert dump.digest(anew) == dump.digest(databases[0])
    assert {progress.checkpoint.folded for progress in commits} >= {600}
    assert len(commits) < 4 * 600 / 15 + 8


async def test_what_another_projector_folds_meanwhile_is_no_loss(bus, path, projector, monkeypatch):
    """One that has asked where the log ends finds the database farther than that, and takes it for what it is."""
    await publish(bus, story(24, 20))
    end = bus.log.end

    async def late():
        monkeypatch.setattr(bus.log, "end", end)
        found = await end()
        await publish(bus, story(25, 20))
        with Database.open(path, bus.namespace, BUILTIN) as database:
            await Projector(bus, database).catch_up()
        return found

    monkeypatch.setattr(bus.log, "end", late)
    assert (await projector.catch_up()).folded == 40
    assert (await projector.catch_up()).folded == 40


async def test_progress_is_told_after_each_transaction(bus, projector):
    """`on_commit` gets ever later checkpoints, and the position that is the end."""
    answers = await publish(bus, story(6, 200))
    told = []
    checkpoint = await projector.catch_up(on_commit=told.append)
    assert [progress.checkpoint.folded for progress in told] == [100, 200]
    assert {progress.end for progress in told} == {answers[-1].position}
    assert told[-1].checkpoint == checkpoint
    assert await projector.catch_up(on_commit=told.append) == checkpoint
    assert len(told) == 2


async def test_folding_stops_at_the_position_that_was_asked_for(bus, projector):
    """`until` is included."""
    answers = await publish(bus, story(7, 100))
    assert (await projector.catch_up(until=answers[41].position)).folded == 42
    assert (await projector.catch_up()).folded == 100


async def test_long_envelopes_are_read_a_few_at_a_time(bus, database, monkeypatch):
    """The page shrinks so that memory holds about so many bytes, whatever the length of the envelopes."""
    monkeypatch.setattr(log, "PAGE_BYTES", 20_000)
    told = [Progress(Checkpoint(), START)]
    first = compose(Delegation(goal="x" * 2000), sender="@boss", recipient="@kilo")
    await publish(bus, [first, *(compose(first.payload, sender="@boss", recipient="@kilo") for _ in range(299))])
    await Projector(bus, database).catch_up(on_commit=told.append)
    steps = [after.checkpoint.folded - before.checkpoint.folded for before, after in pairwise(told)]
    assert steps[0] == 100
    assert 0 < max(steps[1:]) < 20_000 / 2000
    assert sum(steps) == 300


async def test_a_read_model_of_a_users_own_is_folded_beside_the_others(bus, path):
    """A class with a name, a version, tables and a method for a type is all that it takes."""
    await publish(bus, story(8, 400))
    with Database.open(path, bus.namespace, (*BUILTIN, Questions)) as database:
        await Projector(bus, database).catch_up()
        asked = database.query("SELECT n, task FROM questions ORDER BY n")
        assert asked == database.query("SELECT n, task FROM events WHERE type = 'question' ORDER BY n")
        assert len(asked) > 3


async def put(bus, **fields):
    """Write something into the log past the bus, as another program might."""
    position = await bus.connection.execute("XADD", bus.keys.log, "*", *entries.words(**fields))
    return position.decode()


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({}, "cannot be decoded"),
        ({"body": "no JSON"}, "cannot be decoded"),
        ({"form": "xml", "body": "<agent-message>"}, "cannot be decoded"),
        ({"form": "cbor"}, "not written by taskbus"),
        ({"body": None}, "not written by taskbus"),
    ],
)
async def test_what_cannot_be_decoded_stops_the_projection_loudly(bus, projector, database, fields, reason):
    """Everything before it is folded; the error says where it stands and why; nothing after it is folded."""
    await publish(bus, story(9, 90))
    position = await put(bus, **fields)
    await publish(bus, story(10, 5))
    for _ in range(2):
        with pytest.raises(ProjectionStopped, match=reason) as stopped:
            await projector.catch_up()
        assert stopped.value.position == position
        assert database.checkpoint().folded == 90


async def test_what_the_lifecycle_has_no_rule_for_stops_the_projection(bus, projector, database):
    """A status of a task that was never delegated cannot come from the bus, so it is not counted as if it had."""
    stray = compose(Status(progress="half"), sender="@kilo", recipient="@boss", task="t")
    position = await put(bus, id=stray.id, body=encode(stray))
    with pytest.raises(ProjectionStopped, match="read model tasks cannot fold the status") as stopped:
        await projector.catch_up()
    assert (stopped.value.position, stopped.value.envelope, stopped.value.task) == (position, stray.id, "t")
    assert database.checkpoint().folded == 0


@pytest.mark.parametrize("late", [False, True])
async def test_a_read_model_that_fails_stops_at_its_envelope(bus, path, monkeypatch, late):
    """Also when the rows are written at the end of a batch, the error names the envelope, and those before are kept."""
    monkeypatch.setattr(Picky, "late", late)
    answers = await publish(bus, story(11, 100))
    with Database.open(path, bus.namespace, (*BUILTIN, Picky)) as database:
        with pytest.raises(ProjectionStopped, match="read model picky cannot fold") as stopped:
            await Projector(bus, database).catch_up()
        assert stopped.value.position == str(answers[69].position)
        assert database.checkpoint().folded == 69
        assert database.query("SELECT count(*) AS n FROM picky") == [{"n": 69}]


async def test_an_emptied_log_is_refused(bus, projector, database):
    """After the log is gone, and after it has begun anew, the error says `bus rebuild`; the rows stay."""
    await publish(bus, story(12, 30))
    checkpoint = await projector.catch_up()
    await bus.connection.execute("DEL", bus.keys.log)
    with pytest.raises(CheckpointLost, match="ends at 0-0") as lost:
        await projector.catch_up()
    assert "bus rebuild" in lost.value.advice
    await put(bus)
    with pytest.raises(CheckpointLost, match="goes on at") as lost:
        await projector.catch_up()
    assert lost.value.position == str(checkpoint.position)
    assert database.checkpoint() == checkpoint


async def test_a_log_that_was_restored_to_an_earlier_state_is_refused(bus, projector):
    """A log that ends before the checkpoint has lost what is folded already."""
    answers = await publish(bus, story(13, 30))
    await projector.catch_up()
    kept = await bus.connection.range(bus.keys.log, "-", answers[9].position.entry)
    await bus.connection.execute("DEL", bus.keys.log)
    for position, fields in kept:
        words = [word for pair in fields.items() for word in pair]
        await bus.connection.execute("XADD", bus.keys.log, position, *words)
    with pytest.raises(CheckpointLost, match=f"ends at {answers[9].position}"):
        await projector.catch_up()


async def test_a_gap_after_the_checkpoint_is_refused(bus, database, projector):
    """A log that was trimmed beyond the checkpoint would leave out envelopes silently."""
    answers = await publish(bus, story(14, 60))
    await projector.catch_up(until=answers[19].position)
    await bus.connection.execute("XTRIM", bus.keys.log, "MINID", answers[30].position.entry)
    with pytest.raises(CheckpointLost, match=f"goes on at {answers[30].position}"):
        await projector.catch_up()
    await bus.connection.execute("XTRIM", bus.keys.log, "MAXLEN", 0)
    with pytest.raises(CheckpointLost, match="empty there"):
        await projector.catch_up()
    assert database.checkpoint().folded == 20


async def test_a_log_whose_end_was_deleted_is_folded_as_far_as_it_goes(bus, projector):
    """An entry deleted from the end before it was folded leaves nothing to wait for."""
    answers = await publish(bus, story(15, 10))
    await bus.connection.execute("XDEL", bus.keys.log, answers[-1].position.entry)
    assert (await projector.catch_up()).folded == 9


async def test_an_empty_log_is_nothing_to_fold(projector):
    """The checkpoint is before the first envelope."""
    checkpoint = await projector.catch_up()
    assert (checkpoint.position, checkpoint.envelope, checkpoint.folded) == (START, None, 0)


async def test_a_file_that_was_removed_is_not_folded_into(bus, path, projector):
    """Rows that nobody will ever see are no rows."""
    await publish(bus, story(16, 10))
    path.unlink()
    with pytest.raises(ProjectionStopped, match="removed or replaced"):
        await projector.catch_up()


async def test_a_projector_notices_that_other_read_models_took_over(bus, path, projector):
    """After a rebuild by a newer version, an older process stops instead of mixing its rows in."""
    await publish(bus, story(17, 10))
    with Database.open(path, bus.namespace, BUILTIN) as other:
        other.connection.execute("UPDATE read_models SET version = 99 WHERE name = 'tasks'")
    with pytest.raises(ProjectionStopped, match="other read models") as stopped:
        await projector.catch_up()
    assert not isinstance(stopped.value, Outdated)


async def test_a_database_that_fell_back_is_folded_again_from_there(bus, path, database):
    """After a swap to a rebuilt database that ends earlier, no envelope is left out."""
    await publish(bus, story(18, 120))
    told = []

    def fall_back(progress):
        told.append(progress.checkpoint.folded)
        if len(told) == 2:
            with Database.open(path, bus.namespace, BUILTIN) as other:
                other.connection.execute("PRAGMA foreign_keys = OFF")
                with other.transaction():
                    for table in dump.digests(other):
                        if table not in ("bus", "read_models"):
                            other.connection.execute(f"DELETE FROM {table}")

    await Projector(bus, database, page=30).catch_up(on_commit=fall_back)
    assert told[:3] == [30, 60, 0]
    with fold_anew(path, bus.namespace) as anew:
        await Projector(bus, anew).catch_up()
        assert dump.differing(anew, database) == []
        assert list(dump.dump(anew)) == list(dump.dump(database))
        assert dump.digest(anew) == dump.digest(database)


async def test_following_folds_what_arrives(bus, projector, database):
    """Each new envelope is told of once it is committed, without anybody asking."""
    commits, told = anyio.create_memory_object_stream(100)
    envelopes = list(story(19, 40))
    async with anyio.create_task_group() as following, commits, told:
        following.start_soon(lambda: projector.follow(on_commit=commits.send_nowait))
        folded = 0
        for count in (1, 5, 30, 4):
            await publish(bus, envelopes[folded : folded + count])
            folded += count
            while (await told.receive()).checkpoint.folded < folded:
                pass
            assert database.checkpoint().folded == folded
        following.cancel_scope.cancel()


async def test_following_stops_when_the_log_begins_anew(bus, projector, database):
    """What arrives in a log that was emptied does not follow from what was folded."""
    commits, told = anyio.create_memory_object_stream(100)
    stopped = []

    async def follow():
        try:
            await projector.follow(on_commit=commits.send_nowait)
        except CheckpointLost as lost:
            stopped.append(lost)

    async with anyio.create_task_group() as following, commits, told:
        await publish(bus, story(21, 20))
        following.start_soon(follow)
        while (await told.receive()).checkpoint.folded < 20:
            pass
        await publish(bus, story(22, 5))
        while (await told.receive()).checkpoint.folded < 25:
            pass
        await bus.connection.execute("DEL", bus.keys.log, bus.keys.index, bus.keys.meta)
        await publish(bus, story(23, 5))
    assert len(stopped) == 1
    assert database.checkpoint().folded == 25


async def test_following_survives_a_restart_of_the_server(path, namespace):
    """It says that the server is gone and that it is back, and goes on without loss or repeat."""
    envelopes = list(story(20, 60))
    incidents = []
    commits, told = anyio.create_memory_object_stream(100)
    with running(bundled_binary()) as server:
        async with Connection.open(server.url) as connection, commits, told:
            bus = Bus(connection, namespace)
            with Database.open(path, namespace, BUILTIN) as database:
                async with anyio.create_task_group() as following:
                    following.start_soon(
                        lambda: Projector(bus, database).follow(
                            on_commit=commits.send_nowait, on_incident=incidents.append
                        )
                    )
                    await publish(bus, envelopes[:30])
                    while (await told.receive()).checkpoint.folded < 30:
                        pass
                    await anyio.to_thread.run_sync(end, server)
                    again = await anyio.to_thread.run_sync(start, bundled_binary(), server.folder)
                    try:
                        await publish(bus, envelopes[30:])
                        while (await told.receive()).checkpoint.folded < 60:
                            pass
                    finally:
                        following.cancel_scope.cancel()
                        end(again)
                assert database.query("SELECT count(*) AS n FROM events") == [{"n": 60}]
    assert len(incidents) == 2
    assert incidents[1].what == "The server is back."
