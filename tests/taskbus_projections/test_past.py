"""The past: what a query with `--at` sees is what a fold up to that moment gives; and what differs between two."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from taskbus import moment
from taskbus.envelope import (
    Acknowledgment,
    Completion,
    Cost,
    Delegation,
    ErrorDetails,
    Escalation,
    Result,
    Usage,
    compose,
)
from taskbus.errors import ProjectionStopped
from taskbus.position import START
from taskbus_projections import dump, past
from taskbus_projections.database import PAGE_SIZE, Database
from taskbus_projections.past import as_of
from taskbus_projections.projector import Projector
from taskbus_projections.queries.differences import differences
from taskbus_projections.registry import BUILTIN
from tests.entries import with_id
from tests.taskbus_projections.stories import story
from tests.taskbus_projections.test_batch import Choosy

if TYPE_CHECKING:
    from taskbus.client import Bus
    from taskbus.envelope import AnyEnvelope, Payload
    from taskbus.position import Position

pytestmark = pytest.mark.anyio


async def folded(bus: Bus, path: Path, until: Position) -> bytes:
    """The dump of a database that was folded up to a position, envelope by envelope."""
    with Database.open(path, bus.namespace, BUILTIN) as database:
        if until > START:
            await Projector(bus, database, page=7).catch_up(until=until)
        return b"".join(dump.dump(database))


async def test_a_moment_of_the_past_is_the_fold_up_to_it(
    bus: Bus, path: Path, projector: Projector, tmp_path: Path
) -> None:
    """Anywhere in a log, also between two envelopes, before the first and at the last; from scratch, and folded on."""
    await bus.publish_many(list(story(3, 150)))
    await projector.catch_up()
    places = [START, *[entry.position async for entry in bus.log.read()]]
    with Database.read(path, bus.namespace, BUILTIN) as present:
        for n in (1, 60, 0, 90, 100, 149, 150):
            with as_of(present, places[n]) as found:
                assert found.checkpoint().folded == n
                assert b"".join(dump.dump(found)) == await folded(bus, tmp_path / f"{n}.db", places[n])
        # Between the positions of two envelopes, what stands before counts.
        with as_of(present, moment.before(places[71])) as found:
            assert found.checkpoint().folded == 70


async def test_the_present_is_the_database_itself(bus: Bus, path: Path, projector: Projector) -> None:
    """At the newest position nothing is folded, and nothing is kept."""
    await bus.publish_many(list(story(4, 20)))
    end = (await projector.catch_up()).position
    with Database.read(path, bus.namespace, BUILTIN) as present, as_of(present, end) as found:
        assert found is present
    assert not (path.parent / past.FOLDER).exists()


async def test_few_databases_of_the_past_are_kept(bus: Bus, path: Path, projector: Projector) -> None:
    """The last ones that were asked for; asking again folds nothing, and a broken one is made anew."""
    await bus.publish_many(list(story(5, 40)))
    await projector.catch_up()
    places = [entry.position async for entry in bus.log.read()]
    told: list[int] = []
    with Database.read(path, bus.namespace, BUILTIN) as present:
        for n in range(10, 20):
            with as_of(present, places[n]):
                pass
        files = sorted((path.parent / past.FOLDER).rglob("*.db"))
        assert [int(file.stem.split("-")[0]) for file in files] == [17, 18, 19, 20]
        with as_of(present, places[19], on_commit=lambda *counts: told.append(counts[0])):
            assert told == []
        files[-1].write_bytes(b"no database")
        with as_of(present, places[19], on_commit=lambda *counts: told.append(counts[0])) as found:
            assert found.checkpoint().folded == 20
        assert told == [20]


async def test_what_was_removed_or_broken_is_folded_again(
    bus: Bus, path: Path, projector: Projector, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By another process to make room, before it was opened here; and damaged within, found only by a question."""
    await bus.publish_many(list(story(6, 400)))
    await projector.catch_up()
    entries = [entry async for entry in bus.log.read()]
    places, ids = [entry.position for entry in entries], [entry.id for entry in entries]
    replace, made = Path.replace, list[Path]()

    def replaced_and_removed(self: Path, target: Path) -> Path:
        made.append(replace(self, target))
        if len(made) == 1:
            target.unlink()
        return target

    monkeypatch.setattr(Path, "replace", replaced_and_removed)
    with Database.read(path, bus.namespace, BUILTIN) as present:
        with as_of(present, places[299]) as found:
            assert found.checkpoint().folded == 300
        assert len(made) == 2
        content = made[0].read_bytes()
        pages = [content[at : at + PAGE_SIZE] for at in range(0, len(content), PAGE_SIZE)]
        made[0].write_bytes(b"".join(bytes(PAGE_SIZE) if ids[150].encode() in page else page for page in pages))
        with pytest.raises(ProjectionStopped, match="folded before"), as_of(present, places[299]) as found:
            found.connection.execute("SELECT * FROM events").fetchall()
        with as_of(present, places[299]) as found:
            assert len(found.connection.execute("SELECT * FROM events").fetchall()) == 300


async def test_what_was_left_by_who_was_ended_is_removed(bus: Bus, path: Path, projector: Projector) -> None:
    """Once nobody has written to it for an hour; what is being made stays."""
    await bus.publish_many(list(story(7, 30)))
    await projector.catch_up()
    folder = path.parent / past.FOLDER / path.stem
    folder.mkdir(parents=True)
    left, making = folder / "000000000009-00.db.12345", folder / "000000000009-00.db.12346"
    for each in (left, making):
        each.touch()
        each.with_name(f"{each.name}-wal").touch()
        os.utime(each, (0, 0))
    os.utime(left.with_name(f"{left.name}-wal"), (0, 0))
    with Database.read(path, bus.namespace, BUILTIN) as present, as_of(present, START):
        pass
    names = {each.name for each in folder.iterdir()}
    assert {making.name, f"{making.name}-wal"} == {name for name in names if not name.endswith(".db")}


async def test_what_was_set_aside_stays_so_in_the_past(bus: Bus, path: Path, tmp_path: Path) -> None:
    """What no read model can read, and what one of them cannot fold: the rest is as in a fold up to there."""
    models = (*BUILTIN, Choosy)
    await bus.publish_many(list(story(8, 40)))
    ((position, fields),) = await bus.connection.revrange(bus.keys.log, count=1)
    broken = {**with_id(fields, b"broken"), b"body": b"\xff is no JSON"}
    place = f"{int(position.split('-')[0]) + 1}-0"
    await bus.connection.execute("XADD", bus.keys.log, place, *[word for field in broken.items() for word in field])
    await bus.publish_many(list(story(9, 40)))
    places = [entry.position async for entry in bus.log.read()]
    with Database.open(path, bus.namespace, models) as present:
        await Projector(bus, present, set_aside=True).catch_up()
        for n in (39, 60):
            with (
                as_of(present, places[n]) as found,
                Database.open(tmp_path / f"{n}.db", bus.namespace, models) as other,
            ):
                await Projector(bus, other, set_aside=True).catch_up(until=places[n])
                assert b"".join(dump.dump(found)) == b"".join(dump.dump(other))
                query = "SELECT * FROM set_aside"
                assert len(found.connection.execute(query).fetchall()) > 1
                assert found.connection.execute(query).fetchall() == other.connection.execute(query).fetchall()


async def test_what_differs_between_two_moments(bus: Bus, path: Path, projector: Projector) -> None:
    """Tasks begun and moved on, with what came in between alone: envelopes, escalations, money."""

    def said(payload: Payload, sender: str, recipient: str, task: str, *usage: Usage) -> AnyEnvelope:
        return compose(payload, sender=sender, recipient=recipient, task=task, usage=usage)

    spent = Usage(provider="p", model="m", cost=Cost(source="reported", microusd=5))
    unpriced = Usage(provider="p", model="m")
    error = ErrorDetails(level=2, category="execution", message="stuck")
    await bus.publish_many(
        [
            said(Delegation(goal="one"), "@lead", "@kilo", "one"),
            said(Acknowledgment(accepted=True), "@kilo", "@lead", "one", spent),
            said(Delegation(goal="two"), "@lead", "@kilo", "two"),
        ]
    )
    start = await bus.log.end()
    await bus.publish_many(
        [
            said(Completion(result=Result(status="success")), "@kilo", "@lead", "one", spent, spent, unpriced),
            said(Delegation(goal="three"), "@lead", "@cline", "three"),
            said(Escalation(error_details=error), "@cline", "@lead", "three"),
        ]
    )
    end = (await projector.catch_up()).position
    with Database.read(path, bus.namespace, BUILTIN) as present:
        with as_of(present, start) as older:
            found = differences(older, present)
        assert [(task["id"], task["before"], task["envelopes"]) for task in found.tasks] == [
            ("one", {"state": "working"}, 1),
            ("three", None, 2),
        ]
        one = found.tasks[0]
        assert (one["calls"], one["unpriced_calls"], one["cost_microusd"]) == (3, 1, 10)
        assert [(row["provider"], row["calls"], row["cost_microusd"]) for row in found.spending] == [("p", 3, 10)]
        assert [(row["task"], row["opened"], row["ended"]) for row in found.escalations] == [("three", 1, 0)]
        assert {row["state"]: (row["before"], row["now"]) for row in found.standing} == {
            "working": (1, 0),
            "submitted": (1, 1),
            "completed": (0, 1),
            "escalated": (0, 1),
        }
        with as_of(present, end) as older:
            assert differences(older, present).are_none
