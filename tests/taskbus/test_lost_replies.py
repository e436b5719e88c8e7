"""Writes survive lost replies: what was executed and never heard of stands once, and in order."""

from __future__ import annotations

import anyio
import pytest

from taskbus.client import Bus
from taskbus.connection import Connection
from taskbus.envelope import Completion, Delegation, Result, Status, compose
from taskbus.work import Outcome
from tests.proxy import losing_replies

pytestmark = pytest.mark.anyio


async def test_every_tenth_reply_lost_leaves_each_envelope_once_and_in_order(valkey_server, namespace, tmp_path):
    """Four senders append 2,000 envelopes while every tenth reply is cut off: exactly 2,000 stand, in order."""
    sent: dict[str, list[str]] = {}
    async with losing_replies(tmp_path / "p", valkey_server.socket, every=10) as proxy:
        async with Connection.open(proxy.url(valkey_server.url)) as connection:
            bus = Bus(connection, namespace)

            async def sender(name: str) -> None:
                for number in range(500):
                    envelope = compose(Delegation(goal=f"{number}"), sender=name, recipient="@all")
                    sent.setdefault(name, []).append(envelope.id)
                    await bus.publish(envelope)

            async with anyio.create_task_group() as senders:
                for number in range(4):
                    senders.start_soon(sender, f"@sender-{number}")
        assert proxy.dropped >= 200
        assert b"EVALSHA" in proxy.lost
    async with Connection.open(valkey_server.url) as connection:
        entries = [entry async for entry in Bus(connection, namespace).log.read()]
    assert len(entries) == 2000
    for name, ids in sent.items():
        assert [entry.id for entry in entries if entry.sender == name] == ids


async def test_batches_survive_lost_replies(valkey_server, namespace, tmp_path):
    """A batch whose reply was lost is answered with the same positions when it is repeated."""
    envelopes = [compose(Delegation(goal=f"{n}"), sender="@boss", recipient="@all") for n in range(2000)]
    async with losing_replies(tmp_path / "p", valkey_server.socket, every=3) as proxy:
        async with Connection.open(proxy.url(valkey_server.url)) as connection:
            answers = await Bus(connection, namespace).publish_many(envelopes, batch=50)
        assert proxy.dropped >= 13
    async with Connection.open(valkey_server.url) as connection:
        entries = [entry async for entry in Bus(connection, namespace).log.read()]
    assert [entry.id for entry in entries] == [envelope.id for envelope in envelopes]
    assert [entry.position for entry in entries] == [answer.position for answer in answers]


async def test_a_worker_survives_lost_replies(valkey_server, namespace, tmp_path):
    """A worker behind a proxy that loses replies completes each task once."""

    async def handler(work):
        if work.envelope.type != "delegation":
            return None
        await work.say(Status(progress="under way"))
        return Outcome(Completion(result=Result(status="success")))

    async with (
        losing_replies(tmp_path / "p", valkey_server.socket, every=4) as proxy,
        Connection.open(proxy.url(valkey_server.url)) as connection,
    ):
        bus = Bus(connection, namespace)
        for number in range(50):
            await bus.publish(compose(Delegation(goal=f"{number}"), sender="@boss", recipient="@kilo"))
        await bus.worker("@kilo", handler, lease=0.5).run(until_idle=True)
    async with Connection.open(valkey_server.url) as connection:
        bus = Bus(connection, namespace)
        entries = [entry async for entry in bus.log.read()]
        kinds = [entry.type for entry in entries]
        assert kinds.count("completion") == 50
        assert kinds.count("acknowledgment") == 50
        assert {(await bus.task(entry.task)).state for entry in entries} == {"completed"}
        assert await bus.inbox("@kilo").waiting() == []
