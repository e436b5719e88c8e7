"""A long outage: worker, tail and projector go on by themselves, from where they were."""

from __future__ import annotations

import os
import signal
from functools import partial

import anyio
import pytest

from taskbus.client import Bus
from taskbus.connection import Connection
from taskbus.envelope import Completion, Delegation, Result, compose
from taskbus_projections import BUILTIN, Database, Projector
from tests.servers import bundled_binary, end, running, start

pytestmark = pytest.mark.anyio

OUTAGE = 30.0
BACK_WITHIN = 5.0
"""Seconds, both as they are promised."""


class Party:
    """A worker, a tail and a projector of one bus, and what each has seen and said."""

    def __init__(self, url, namespace, path):
        """Nothing was seen yet."""
        self._url, self._namespace, self._path = url, namespace, path
        self.handled, self.tailed, self.folded = [], [], []
        self.incidents = {"worker": [], "tail": [], "projector": []}

    async def run(self):
        """Go on until cancelled."""
        async with Connection.open(self._url) as connection, anyio.create_task_group() as group:
            bus = Bus(connection, self._namespace)
            worker = bus.worker("@kilo", self._handle, lease=2.0, on_incident=self.incidents["worker"].append)
            group.start_soon(worker.run)
            group.start_soon(self._tail, bus)
            group.start_soon(self._project, bus)

    async def _handle(self, work):
        await work.acknowledged()
        self.handled.append(work.delivery.task)
        return Completion(result=Result(status="success"))

    async def _tail(self, bus):
        tell = self.incidents["tail"].append
        async for entry in bus.log.follow(on_incident=lambda incident: tell(incident.what)):
            self.tailed.append(entry.id)

    async def _project(self, bus):
        tell = self.incidents["projector"].append
        with Database.open(self._path, self._namespace, BUILTIN) as database:
            await Projector(bus, database).follow(
                on_commit=lambda progress: self.folded.append(progress.checkpoint.folded),
                on_incident=lambda incident: tell(incident.what),
            )

    async def have_seen(self, delegations):
        """Wait until everybody has seen so many delegations, and what came of them: three envelopes each."""
        while not (  # noqa: ASYNC110 - what the three do is noted by plain functions
            len(self.handled) >= delegations
            and len(self.tailed) >= 3 * delegations
            and self.folded
            and self.folded[-1] >= 3 * delegations
        ):
            await anyio.sleep(0.02)


async def delegate(url, namespace):
    """Delegate a task to @kilo, over a connection of its own."""
    async with Connection.open(url) as connection:
        await Bus(connection, namespace).publish(compose(Delegation(goal="g"), sender="@boss", recipient="@kilo"))


async def outage(how, namespace, path):
    """The story: a task, the outage, another task."""
    with running(bundled_binary(), "--appendfsync", "always") as server:
        party, again = Party(server.url, namespace, path), None
        async with anyio.create_task_group() as group:
            group.start_soon(party.run)
            await delegate(server.url, namespace)
            with anyio.fail_after(20):
                await party.have_seen(1)
            try:
                if how == "silence":
                    os.kill(server.process.pid, signal.SIGSTOP)
                    await anyio.sleep(OUTAGE)
                    os.kill(server.process.pid, signal.SIGCONT)
                else:
                    server.process.kill()
                    server.process.wait()
                    await anyio.sleep(OUTAGE)
                    again = await anyio.to_thread.run_sync(
                        partial(start, bundled_binary(), server.folder, "--appendfsync", "always")
                    )
                with anyio.fail_after(BACK_WITHIN):
                    await delegate(server.url, namespace)
                    await party.have_seen(2)
            finally:
                if server.process.poll() is None:
                    os.kill(server.process.pid, signal.SIGCONT)  # also where the wait was cut short
                if again is not None:
                    end(again)
            group.cancel_scope.cancel()
    assert len(set(party.handled)) == len(party.handled) == 2
    assert len(set(party.tailed)) == len(party.tailed) == 6
    for who, told in party.incidents.items():
        assert len(told) == 2, (how, who, told)
        assert "is back" in told[1], (how, who, told)


async def test_worker_tail_and_projector_go_on_after_half_a_minute(namespace, tmp_path):
    """A server that is silent, and one that is killed and started again: one incident, one return, nothing twice."""
    async with anyio.create_task_group() as group:
        for how in ("silence", "death"):
            group.start_soon(outage, how, namespace, tmp_path / f"{how}.db")
