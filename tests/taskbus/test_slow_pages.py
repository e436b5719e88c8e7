"""Reading a page that takes the server too long: it is asked for in smaller ones, down to one entry."""

from __future__ import annotations

import pytest

from taskbus.cli.selection import Selection
from taskbus.cli.tail import _latest
from taskbus.client import Bus
from taskbus.envelope import Delegation, compose
from taskbus.errors import TimedOut
from taskbus.position import START
from taskbus.verification import raw

pytestmark = pytest.mark.anyio


@pytest.fixture
async def bus(fake_connection, namespace):
    """A bus in memory with twenty envelopes."""
    bus = Bus(fake_connection, namespace)
    for number in range(20):
        payload = Delegation(goal="g")
        await bus.publish(compose(payload, sender="@boss", recipient="@kilo", task=f"task-{number:02}"))
    return bus


def slow(monkeypatch, connection, name, most):
    """Have pages of more than so many entries take too long; how many were asked for at a time."""
    asked, ask = [], getattr(connection, name)

    async def limited(*words):
        asked.append(int(words[-1]))
        if asked[-1] > most:
            raise TimedOut("too long")
        return await ask(*words)

    monkeypatch.setattr(connection, name, limited)
    return asked


async def test_the_newest_envelopes_are_read_in_smaller_pages(bus, monkeypatch):
    """`bus tail` shows what it would have shown."""
    asked = slow(monkeypatch, bus.connection, "revrange", 3)
    found = await _latest(bus, Selection(), START, await bus.log.end(), 16, archived=False)
    assert [each.task for each in found] == [f"task-{number:02}" for number in range(4, 20)]
    assert asked[0] > 3
    assert max(asked[1:]) <= 3


async def test_one_envelope_that_takes_too_long_is_an_error(bus, monkeypatch):
    """There is nothing smaller to ask for."""
    slow(monkeypatch, bus.connection, "revrange", 0)
    with pytest.raises(TimedOut):
        await _latest(bus, Selection(), START, await bus.log.end(), 16, archived=False)


async def nothing(_position):
    """No trim came in between."""


@pytest.mark.parametrize("most", [5, 0])
async def test_the_log_is_verified_in_smaller_pages(bus, monkeypatch, most):
    """As it stands, each entry once; one that takes too long by itself is an error."""
    end = await bus.log.end()
    ask = bus.connection.execute

    async def limited(*words):
        if words[0] == "XRANGE" and int(words[-1]) > most:
            raise TimedOut("too long")
        return await ask(*words)

    monkeypatch.setattr(bus.connection, "execute", limited)
    pages = raw.entries(bus, end, after=START, overtaken=nothing)
    if most == 0:
        with pytest.raises(TimedOut):
            await anext(aiter(pages))
        return
    found = [each async for page in pages for each in page]
    assert len(found) == 20
    assert all(each.entry is not None for each in found)
