"""The log: positions, reading between them, and following through a restart of the server."""

from __future__ import annotations

from datetime import UTC, datetime

import anyio
import pytest

from taskbus.client import Bus
from taskbus.connection import Connection
from taskbus.envelope import Delegation, compose
from taskbus.errors import ForeignEntry, InvalidEnvelope, TimedOut, UsageError
from taskbus.position import START, Position
from tests import entries
from tests.servers import bundled_binary, end, running, start

pytestmark = pytest.mark.anyio


def delegation(goal="g"):
    """A delegation of a new task."""
    return compose(Delegation(goal=goal), sender="@boss", recipient="@kilo")


@pytest.fixture
async def bus(connection, namespace):
    """A bus with ten delegations in its log."""
    bus = Bus(connection, namespace)
    for number in range(10):
        await bus.publish(delegation(str(number)))
    return bus


def goals(entries):
    """The goals of delegations, which number them."""
    return [int(entry.envelope.payload.goal) for entry in entries]


def test_a_position_reads_what_it_writes():
    """The text form of a position is its stream ID, with the shard where it is not 0."""
    for text in ("1763625600000-0", "3/1763625600000-7"):
        assert str(Position.parse(text)) == text
    assert Position.parse("5") == Position(0, 5, 0)
    assert Position.parse("1763625600000-0").time == datetime(2025, 11, 20, 8, tzinfo=UTC)


@pytest.mark.parametrize("text", ["", "x", "1-", "-1", "1-2-3", "1/2/3", "१-0\n", f"{1 << 64}-0", f"1-{1 << 64}"])
def test_what_is_no_position_is_refused(text):
    """Anything else is a usage error that shows what positions look like."""
    with pytest.raises(UsageError) as refused:
        Position.parse(text)
    assert "1763625600000-0" in refused.value.advice or "64 bits" in refused.value.advice


def test_positions_are_ordered_as_numbers():
    """A longer number is later, also where its digits sort before."""
    assert Position.parse("9-0") < Position.parse("10-0") < Position.parse("10-2") < Position.parse("10-10")


async def test_reading_goes_from_position_to_position(bus):
    """Reading leaves out where it begins after, includes where it ends, and pages in between."""
    entries = [entry async for entry in bus.log.read(page=3)]
    assert goals(entries) == list(range(10))
    part = [entry async for entry in bus.log.read(entries[2].position, entries[5].position, page=2)]
    assert goals(part) == [3, 4, 5]
    assert await bus.log.end() == entries[-1].position
    assert goals(await bus.log.latest(3)) == [7, 8, 9]
    assert goals([await bus.log.get(entries[4].position)]) == [4]
    assert await bus.log.get(START) is None


async def test_an_empty_log_ends_at_its_start(connection, namespace):
    """Nothing was ever appended: the end is the start, and reading gives nothing."""
    log = Bus(connection, namespace).log
    assert await log.end() == START
    assert [entry async for entry in log.read()] == []


async def test_an_entry_that_is_not_ours_is_said_to_be(bus):
    """Something else wrote to the log's key: the entry is named, never skipped."""
    await bus.connection.execute("XADD", bus.keys.log, "*", "field", "value")
    with pytest.raises(ForeignEntry, match="not written by taskbus") as found:
        _ = [entry async for entry in bus.log.read()]
    assert found.value.position == str(await bus.log.end())


async def test_a_body_that_cannot_be_read_is_an_invalid_envelope(bus):
    """An entry whose body is no envelope can be listed, and says what is wrong when it is decoded."""
    await bus.connection.execute("XADD", bus.keys.log, "*", *entries.words())
    (entry,) = await bus.log.latest(1)
    with pytest.raises(InvalidEnvelope):
        _ = entry.envelope


async def test_following_gives_what_was_and_what_comes(bus):
    """A follower reads the log from its position, then each new envelope as it is appended."""
    seen: list[int] = []
    with anyio.fail_after(20):
        async with anyio.create_task_group() as group:

            async def write():
                for number in range(10, 15):
                    await bus.publish(delegation(str(number)))

            async for entry in bus.log.follow():
                seen += goals([entry])
                if seen[-1] == 9:
                    group.start_soon(write)
                if seen[-1] == 14:
                    break
    assert seen == list(range(15))


@pytest.fixture
def restart():
    """A function that kills a server and starts another on its data; what it started is ended after the test."""
    started = []

    def kill_and_start(server):
        server.process.kill()
        server.process.wait()
        started.append(start(bundled_binary(), server.folder))

    yield kill_and_start
    for server in started:
        end(server)


async def test_following_survives_a_restart_of_the_server(namespace, restart):
    """The server is killed and started again: the follower goes on with neither loss nor repetition, and says so."""
    seen: list[int] = []
    incidents: list[str] = []
    with running(bundled_binary()) as server:
        async with Connection.open(server.url) as connection:
            bus = Bus(connection, namespace)
            with anyio.fail_after(60):
                for number in range(5):
                    await bus.publish(delegation(str(number)))
                async with anyio.create_task_group() as group:

                    async def restart_and_write():
                        await anyio.to_thread.run_sync(restart, server)
                        for number in range(5, 10):
                            await bus.publish(delegation(str(number)))

                    follow = bus.log.follow(on_incident=lambda incident: incidents.append(incident.what))
                    async for entry in follow:
                        seen += goals([entry])
                        if seen[-1] == 4:
                            group.start_soon(restart_and_write)
                        if seen[-1] == 9:
                            break
    assert seen == list(range(10))
    assert any("going on after" in what for what in incidents)


async def test_following_says_loudly_that_the_log_was_emptied(namespace, restart):
    """A server that comes back without the log is an incident, and following begins again at its start."""
    incidents: list[str] = []
    with running(bundled_binary()) as server:
        async with Connection.open(server.url) as connection:
            bus = Bus(connection, namespace)
            with anyio.fail_after(60):
                await bus.publish(delegation("1"))
                async with anyio.create_task_group() as group:

                    async def empty_and_restart():
                        await connection.execute("DEL", bus.keys.log, bus.keys.index)
                        await anyio.to_thread.run_sync(restart, server)
                        await bus.publish(delegation("2"))

                    seen: list[int] = []
                    async for entry in bus.log.follow(on_incident=lambda incident: incidents.append(incident.what)):
                        seen += goals([entry])
                        if len(seen) == 1:
                            group.start_soon(empty_and_restart)
                        if len(seen) == 2:
                            break
    assert seen == [1, 2]
    assert any("emptied" in what for what in incidents)


async def test_following_notices_that_the_log_was_emptied_without_a_lost_connection(bus, monkeypatch):
    """FLUSHALL cuts no connection; the follower notices all the same, says so, and gives out what comes then."""
    monkeypatch.setattr("taskbus.log.PATIENCE", 0.05)
    incidents: list[str] = []
    seen: list[int] = []
    noticed = anyio.Event()

    def notice(incident):
        incidents.append(incident.what)
        noticed.set()

    with anyio.fail_after(20):
        async with anyio.create_task_group() as group:

            async def empty_and_write():
                await bus.connection.execute("DEL", bus.keys.log, bus.keys.index)
                await noticed.wait()
                await bus.publish(delegation("77"))

            async for entry in bus.log.follow(on_incident=notice):
                seen += goals([entry])
                if seen[-1] == 9:
                    group.start_soon(empty_and_write)
                if seen[-1] == 77:
                    break
    assert seen == [*range(10), 77]
    assert len(incidents) == 1


async def test_a_log_that_lost_its_end_is_not_given_out_again(bus, monkeypatch):
    """When the newest entries are gone, as after a power loss, following goes on after those that are left."""
    monkeypatch.setattr("taskbus.log.PATIENCE", 0.05)
    entries = [entry async for entry in bus.log.read()]
    copy = {entry.position.entry: entry for entry in entries}
    seen: list[int] = []
    incidents = []
    noticed = anyio.Event()

    def notice(incident):
        incidents.append(incident)
        noticed.set()

    with anyio.fail_after(20):
        async with anyio.create_task_group() as group:

            async def lose_the_end():
                kept = [await bus.connection.range(bus.keys.log, at, at) for at in list(copy)[:7]]
                await bus.connection.execute("DEL", bus.keys.log, bus.keys.index)
                for ((at, fields),) in kept:
                    words = [word for pair in fields.items() for word in pair]
                    await bus.connection.execute("XADD", bus.keys.log, at, *words)
                await noticed.wait()
                await bus.publish(delegation("77"))

            async for entry in bus.log.follow(on_incident=notice):
                seen += goals([entry])
                if seen[-1] == 9:
                    group.start_soon(lose_the_end)
                if seen[-1] == 77:
                    break
    assert seen == [*range(10), 77]
    assert incidents[0].position == entries[6].position


async def test_a_page_that_takes_too_long_is_asked_for_in_parts(bus, monkeypatch):
    """When a page of large entries does not come in time, smaller ones are asked for, and all of them come."""
    asked = []
    real = bus.connection.range

    async def slow(stream, start, end, count):
        asked.append(count)
        if count > 4:
            raise TimedOut
        return await real(stream, start, end, count)

    monkeypatch.setattr(bus.connection, "range", slow)
    assert goals([entry async for entry in bus.log.read(page=200)]) == list(range(10))
    assert asked[:3] == [100, 12, 1]
    monkeypatch.setattr(bus.connection, "range", lambda *_: slow(*_[:3], 9))
    with pytest.raises(TimedOut):
        _ = [entry async for entry in bus.log.read()]


async def test_a_server_is_back_when_it_answers_and_not_before(namespace):
    """However often it is tried meanwhile, its absence is one incident, and its return one more."""
    incidents = []
    with running(bundled_binary()) as server:
        async with Connection.open(server.url, timeout=0.3) as connection, anyio.create_task_group() as group:
            bus = Bus(connection, namespace)

            async def follow():
                async for _ in bus.log.follow(on_incident=lambda incident: incidents.append(incident.what)):
                    pass

            await bus.publish(compose(Delegation(goal="g"), sender="@boss", recipient="@kilo"))
            group.start_soon(follow)
            await anyio.sleep(0.2)
            end(server)
            await anyio.sleep(2)  # several tries
            assert len(incidents) == 1
            again = await anyio.to_thread.run_sync(start, bundled_binary(), server.folder)
            try:
                with anyio.fail_after(10):
                    while len(incidents) < 2:  # noqa: ASYNC110 - incidents come by a plain function
                        await anyio.sleep(0.02)
            finally:
                end(again)
            assert "is back" in incidents[1]
            group.cancel_scope.cancel()
