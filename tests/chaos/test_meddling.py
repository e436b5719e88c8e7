"""The line between clients and server: what is cut before was not executed, what is cut after was, and it is seeded."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest

from taskbus.client import Bus
from taskbus.connection import Connection
from taskbus.envelope import Delegation, compose
from taskbus.errors import TimedOut
from tests.chaos.history import History, merged, read
from tests.chaos.meddling import Line, label
from tests.chaos.plan import Noise, Trap, draw
from tests.proxy import Command, meddling, url_through

pytestmark = pytest.mark.anyio


class Scripted:
    """Does to the n-th append what it is told, and lets everything else pass."""

    def __init__(self, **acts):
        """`acts` are lists of acts by `before` and `after`."""
        self._acts = acts
        self.appends = []

    async def before(self, command):
        """What becomes of the command."""
        return self._next("before", command)

    async def after(self, command, reply):
        """What becomes of the reply."""
        return self._next("after", command)

    def _next(self, when, command):
        if label(command.words) != "append":
            return "pass"
        self.appends.append(when)
        return self._acts[when].pop(0) if self._acts.get(when) else "pass"


@pytest.fixture
async def known(valkey_server):
    """The server knows the scripts: it is not asked for one, and then told it, while a test counts."""
    async with Connection.open(valkey_server.url) as connection:
        await Bus(connection, "known:").publish(delegation())
    return valkey_server


def delegation():
    """An envelope that can be appended."""
    return compose(Delegation(goal="g"), sender="@boss", recipient="@anna")


@pytest.mark.parametrize(
    ("when", "seen"),
    [
        ("never", ["before", "after"]),
        ("before", ["before", "before", "after"]),
        ("after", ["before", "after", "before", "after"]),
    ],
)
async def test_an_append_that_is_cut_is_sent_again(known, namespace, tmp_path, when, seen):
    """Cut before its execution an append is executed once, cut after it twice, and it stands once either way."""
    line = Scripted(**{when: ["cut"]})
    async with (
        meddling(tmp_path / "p", known.socket, line),
        Connection.open(url_through(tmp_path / "p", known.url)) as connection,
    ):
        bus = Bus(connection, namespace)
        told = await bus.publish(delegation())
        assert told.repeated == (when == "after")
        assert len([entry async for entry in bus.log.read()]) == 1
    assert line.appends == seen


@pytest.mark.parametrize("when", ["before", "after"])
async def test_a_line_that_falls_silent_is_given_up(known, namespace, tmp_path, when):
    """Nothing comes back, the client runs into its time limit, and only what fell silent after it was executed."""
    line = Scripted(**{when: ["mute"] * 10})
    async with (
        meddling(tmp_path / "p", known.socket, line),
        Connection.open(url_through(tmp_path / "p", known.url), timeout=0.2) as connection,
    ):
        with pytest.raises(TimedOut):
            await Bus(connection, namespace).publish(delegation())
    async with Connection.open(known.url) as connection:
        assert len([entry async for entry in Bus(connection, namespace).log.read()]) == (when == "after")


async def meddled(plan, folder, count=200):
    """What a client's line does to so many commands and their replies."""
    line = Line(plan, "worker-a1", folder, History(folder, "line"))
    command = Command([b"XLEN", b"key"], 0)
    acts = []
    for _ in range(count):
        acts.append(await line.before(command))
        acts.append(await line.after(command, b":0\r\n"))
    return acts


async def test_noise_comes_from_the_seed(tmp_path):
    """The same seed meddles in the same way, another one differently, and a calmed line not at all."""
    noise = {"worker-a1": Noise(cut=0.1, mute=0.1)}
    one, same, other = (replace(draw(seed), noise=noise, traps=()) for seed in (1, 1, 2))
    acts = await meddled(one, tmp_path)
    assert {"pass", "cut", "mute"} == set(acts)
    assert acts == await meddled(same, tmp_path)
    assert acts != await meddled(other, tmp_path)
    line = Line(one, "worker-a1", tmp_path, History(tmp_path, "line"))
    line.calm()
    assert {await line.before(Command([b"XLEN", b"key"], 0)) for _ in range(100)} == {"pass"}


async def test_a_trap_kills_whoever_comes_to_it_for_the_nth_time(tmp_path):
    """The client whose third command of a name it is dies by SIGKILL, and the command is not passed on."""
    victim = await asyncio.create_subprocess_exec("sleep", "60")
    trap = Trap("worker-a1", 3, "XLEN", "before")
    line = Line(replace(draw(1), noise={}, traps=(trap,)), "worker-a1", tmp_path, History(tmp_path, "line"))
    command = Command([b"XLEN", b"key"], victim.pid)
    try:
        assert [await line.before(command) for _ in range(3)] == ["pass", "pass", "cut"]
        assert await victim.wait() == -9
    finally:
        if victim.returncode is None:
            victim.kill()
            await victim.wait()
    assert [event["name"] for event in merged([read(tmp_path / "line.jsonl")])] == ["worker before XLEN"]


def test_a_plan_comes_from_its_seed():
    """The same seed draws the same plan, and another one another; no two seeds of a hundred are alike."""
    assert draw(7) == draw(7)
    assert len({repr(replace(draw(seed), seed=0)) for seed in range(100)}) == 100


def test_a_history_outlives_its_kill(tmp_path):
    """A line that was cut off in the middle of its write is not read."""
    History(tmp_path, "someone").note("first", number=1)
    with (tmp_path / "someone.jsonl").open("a", encoding="utf-8") as file:
        file.write('{"t": 1.0, "wh')
    assert [(event["what"], event["number"]) for event in read(tmp_path / "someone.jsonl")] == [("first", 1)]
