"""One run around the projections: a writer, projectors, a rebuild and an archiver on one server, each killed at random.

Who is killed is started again at once, and goes on with what it finds. At the end the database that all of them have
folded must be the fold from zero, and hold every envelope that was acknowledged, once and in order.
"""

from __future__ import annotations

import asyncio
import os
import random
import signal
import sqlite3
import time
import traceback
from collections import Counter
from contextlib import closing, suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypeAlias

import anyio

from taskbus import chain, trimming
from taskbus.client import Bus
from taskbus.connection import Connection
from taskbus.errors import TaskbusError, TimedOut, Unavailable
from taskbus.settings import Settings
from taskbus_projections import projector as engine
from taskbus_projections.database import Database, place
from taskbus_projections.dump import differing, digest
from taskbus_projections.projector import Projector
from taskbus_projections.rebuilding import rebuild
from taskbus_projections.registry import BUILTIN
from tests import servers
from tests.chaos.history import History, read
from tests.chaos.troupe import DURABLE, spawn
from tests.taskbus_projections.stories import AGENTS, story

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from pathlib import Path

NAMESPACE = "folding:"
LIMIT = 60.0
"""Seconds after which a run that does not come to its end has failed."""

Role: TypeAlias = "Callable[[Stage, Bus], Awaitable[None]]"


@dataclass(frozen=True)
class Stage:
    """What every process of a run has. `length` is how many envelopes are written."""

    seed: int
    length: int
    folder: Path
    url: str
    history: History

    @property
    def settings(self) -> Settings:
        """Where everything is."""
        return Settings.load(url=self.url, namespace=NAMESPACE, home=self.folder / "home", environ={}, cwd=self.folder)

    @property
    def database(self) -> Path:
        """What is folded into."""
        return place(self.settings.home, NAMESPACE)


@dataclass
class Result:
    """What came of a run: kills by victim, what was resumed, sealed and trimmed, and what went wrong."""

    seed: int
    seconds: float = 0.0
    kills: Counter[str] = field(default_factory=Counter)
    envelopes: int = 0
    rebuilds: int = 0
    resumed: int = 0
    segments: int = 0
    trimmed: int = 0
    wrong: list[str] = field(default_factory=list)


async def write(stage: Stage, bus: Bus) -> None:
    """Append a story, and settle the deliveries: nobody works here, and the log is to be trimmed."""
    rng = random.Random(f"{stage.seed} writer")
    envelopes = list(story(stage.seed, stage.length))
    while envelopes:
        batch = envelopes[: rng.randint(1, 12)]
        with suppress(Unavailable, TimedOut):  # sent again as it is
            for answer in await bus.publish_many(batch):
                assert not isinstance(answer, TaskbusError), answer
            del envelopes[: len(batch)]
            for agent in (*AGENTS, "@human"):
                for stream in bus.keys.inboxes(agent):
                    await bus.connection.execute("XTRIM", stream, "MAXLEN", 0)
        await anyio.sleep(rng.choice((0.0, 0.002, 0.01)))
    stage.history.note("finished")


async def follow(stage: Stage, bus: Bus) -> None:
    """Fold as `bus project --follow` does."""
    with Database.open(stage.database, NAMESPACE, BUILTIN) as database:
        await Projector(bus, database, page=50).follow()


async def again(stage: Stage, bus: Bus) -> None:
    """Rebuild, again and again; nothing may differ."""
    while True:
        done = await rebuild(bus, stage.database, BUILTIN)
        stage.history.note("rebuilt", begun=done.begun.folded, folded=done.checkpoint.folded)
        if done.changed:
            stage.history.note("wrong", why=f"the rebuild differs in {', '.join(done.changed)}")


async def archive(stage: Stage, bus: Bus) -> None:
    """Seal and trim, again and again."""
    rng = random.Random(f"{stage.seed} archiver {os.getpid()}")
    store = bus.history.archive
    assert store is not None
    while True:
        made = await store.seal(bus.log, size=rng.choice((20, 64, 150)), rest=rng.random() < 0.2, settle=0.0)
        gone = await trimming.trim(bus, store)
        stage.history.note("archived", segments=len(made), trimmed=gone.count)
        await anyio.sleep(rng.choice((0.0, 0.01, 0.05)))


ROLES: dict[str, Role] = {
    "writer": write,
    "projector-1": follow,
    "projector-2": follow,
    "rebuild": again,
    "archiver": archive,
}


def play(stage: Stage, who: str) -> None:
    """Play a role until killed; whatever ends it otherwise, but a server that is away, is wrong."""
    engine.BULK = 60
    stage.history.note("start")

    async def main() -> None:
        while True:
            try:
                async with Connection.open(stage.url, timeout=1.0) as connection:
                    await ROLES[who](stage, Bus(connection, NAMESPACE, settings=stage.settings))
                    return
            except (Unavailable, TimedOut):
                await anyio.sleep(0.01)

    try:
        asyncio.run(main())
    except BaseException:
        stage.history.note("wrong", why=traceback.format_exc())
        raise


def run(seed: int, kills: int, folder: Path, binary: Path) -> Result:
    """One run, with so many kills. Nothing is left running, however it ends."""
    began = time.monotonic()
    rng = random.Random(seed)
    result = Result(seed)
    server = servers.start(binary, folder, *DURABLE)
    pids: dict[str, int] = {}

    def start(who: str) -> None:
        stage = Stage(seed, 40 * kills, folder, server.url, History(folder, who))
        pids[who] = spawn(lambda: play(stage, who), folder / f"{who}.err")

    try:
        for who in ROLES:
            start(who)
        due = time.monotonic() + 0.3
        victims = rng.choices(("projector", "rebuild", "archiver", "server"), (5, 4, 3, 1), k=kills)
        while (victims or not _finished(folder)) and time.monotonic() < began + LIMIT:
            if victims and time.monotonic() >= due:
                victim = victims.pop()
                result.kills[victim] += 1
                if victim == "server":
                    server.process.kill()
                    server.process.wait()
                    server = servers.start(binary, folder, *DURABLE)
                else:
                    who = f"projector-{rng.choice((1, 2))}" if victim == "projector" else victim
                    _kill(pids[who])
                    start(who)
                due = time.monotonic() + rng.choice((0.01, 0.03, 0.08, 0.15))
            time.sleep(0.002)
        if victims:
            result.wrong.append(f"{len(victims)} kills were left when its time was over")
        for pid in pids.values():
            _kill(pid)
        pids.clear()
        asyncio.run(_judge(Stage(seed, 40 * kills, folder, server.url, History(folder, "judge")), result))
    finally:
        for pid in pids.values():
            _kill(pid)
        server.process.kill()
        server.process.wait()
    result.seconds = time.monotonic() - began
    return result


def _finished(folder: Path) -> bool:
    return any(event["what"] == "finished" for event in read(folder / "writer.jsonl"))


def _kill(pid: int) -> None:
    with suppress(ProcessLookupError, ChildProcessError):
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)


async def _judge(stage: Stage, result: Result) -> None:
    """Compare what was folded with a fold from zero, and with what the log and the archive hold."""
    async with Connection.open(stage.url) as connection:
        bus = Bus(connection, NAMESPACE, settings=stage.settings)
        with Database.open(stage.database, NAMESPACE, BUILTIN) as folded:
            checkpoint = await Projector(bus, folded).catch_up()
            with Database.open(stage.folder / "fresh.db", NAMESPACE, BUILTIN) as fresh:
                await Projector(bus, fresh).catch_up()
                if digest(folded) != digest(fresh):
                    result.wrong.append(f"not the fold from zero, in {', '.join(differing(folded, fresh))}")
                if words(folded.path) != words(fresh.path):
                    result.wrong.append("the full-text search is not that of a fold from zero")
            links = folded.connection.execute("SELECT n, id, link FROM events ORDER BY n").fetchall()
            sound = folded.connection.execute("PRAGMA integrity_check").fetchall()
            if sound != [("ok",)] or folded.connection.execute("PRAGMA foreign_key_check").fetchall():
                result.wrong.append(f"the database is broken: {sound}")
        head, expected = chain.beginning(bus.keys.prefix), list[tuple[int, str, bytes]]()
        async for entry in bus.history.read():
            head = chain.link(head, entry)
            expected.append((len(expected) + 1, entry.id, head))
        trimmed = await bus.log.trimmed()
    if links != expected or checkpoint.head != head:
        result.wrong.append("the audit trail is not the history")
    if len(expected) != stage.length:
        result.wrong.append(f"{len(expected)} envelopes instead of {stage.length}")
    result.envelopes, result.trimmed = len(expected), trimmed.head.n if trimmed else 0
    for who in ROLES:
        for event in read(stage.folder / f"{who}.jsonl"):
            if event["what"] == "wrong":
                result.wrong.append(f"{who}: {event['why']}")
            elif event["what"] == "rebuilt":
                result.rebuilds += 1
                result.resumed += event["begun"] > 0
            elif event["what"] == "archived":
                result.segments += event["segments"]


def words(path: Path) -> list[tuple[str, int, int]]:
    """What the full-text search of a database knows: each word, in how many envelopes, and how often."""
    with closing(sqlite3.connect(path)) as database:
        database.execute("CREATE VIRTUAL TABLE temp.words USING fts5vocab('main', 'texts', 'row')")
        return database.execute("SELECT * FROM words ORDER BY term").fetchall()
