"""Promises about work: a handler runs once for as long as it takes, and what it cannot do is said, never swallowed."""

from __future__ import annotations

import os
import signal
import sys
from contextlib import asynccontextmanager, suppress
from datetime import timedelta
from functools import partial

import anyio
import pytest

from taskbus import parked
from taskbus.append import Submission, append
from taskbus.codec import document
from taskbus.envelope import Acknowledgment, Cancellation, Delegation, compose, now
from taskbus.errors import Permanent, QuotaLimited, RefusedByBudget
from taskbus.supervision import Supervision, look
from tests import entries
from tests.taskbus.workplace import DONE, Incidents, Meeting, at_work, delegated, eventually, held, idle, talk

pytestmark = [pytest.mark.anyio, pytest.mark.needs("blocking", "sharing")]

WORKER = """
import sys, anyio
from taskbus.client import Bus
from taskbus.envelope import Completion, Result

async def main(url, namespace, lease):
    async def handler(work):
        print("began", flush=True)
        await anyio.to_thread.run_sync(sys.stdin.readline)
        return Completion(result=Result(status="success", description="late"))

    async with Bus.connect(url, namespace=namespace) as bus:
        tell = lambda what: print(what, flush=True)
        await bus.worker("@kilo", handler, lease=float(lease), on_incident=tell).run()

anyio.run(main, *sys.argv[1:])
"""


@asynccontextmanager
async def worker_process(bus, lease):
    """A worker of another process that holds on to its first delivery; it is gone after the block."""
    words = [sys.executable, "-c", WORKER, bus.connection.address.url(), bus.namespace, str(lease)]
    async with await anyio.open_process(words, env=os.environ, stderr=None) as process:
        try:
            yield process
        finally:
            with suppress(ProcessLookupError):
                process.kill()


async def said(process, part):
    """Wait until the process has said something."""
    text = b""
    with anyio.fail_after(30):
        while part.encode() not in text:
            text += await process.stdout.receive()


async def is_in(bus, state, task):
    """Whether a task is in a state."""
    return (await bus.task(task)).state == state


class Failing:
    """A handler that fails so many times with the given error, and then does it."""

    def __init__(self, error, times=1000):
        """It has not run."""
        self.error = error
        self.times = times
        self.tries = []

    async def __call__(self, work):
        """Fail, or be done."""
        self.tries.append(work.delivery.tries)
        if len(self.tries) <= self.times:
            raise self.error
        return DONE


# A handler runs once


async def test_a_handler_that_runs_for_sixty_leases_runs_once(bus):
    """Another idle worker of the agent stands by all the time, and never gets it."""
    envelope = await delegated(bus)
    runs = []

    async def handler(work):
        runs.append(work.delivery.tries)
        await anyio.sleep(7.2)
        return DONE

    workers = [bus.worker("@kilo", handler, lease=0.12) for _ in range(2)]
    async with at_work(*workers):
        await eventually(partial(is_in, bus, "completed", envelope.task))
    assert runs == [1]


async def test_a_killed_workers_delivery_is_taken_over_within_its_lease_and_a_second(bus):
    """It is killed without a word; the next worker has the delivery in time, as another try."""
    await delegated(bus)
    meeting = Meeting()
    async with worker_process(bus, 1.0) as doomed:
        await said(doomed, "began")
        async with at_work(bus.worker("@kilo", meeting)):
            doomed.send_signal(signal.SIGKILL)
            with anyio.fail_after(1.0 + 1.0):
                await meeting.of(1)
    assert meeting.seen[0].tries == 2


async def test_a_stopped_zombie_that_wakes_up_overwrites_nothing(bus):
    """Stopped past its lease and woken, it is refused; what stands is the outcome of who took over."""
    envelope = await delegated(bus)
    meeting = Meeting()
    async with worker_process(bus, 0.5) as zombie:
        await said(zombie, "began")
        zombie.send_signal(signal.SIGSTOP)
        async with at_work(bus.worker("@kilo", meeting)):
            await meeting.of(1)
            await zombie.stdin.send(b"\n")
            zombie.send_signal(signal.SIGCONT)
            await said(zombie, "no longer ours")
            meeting.over.set()
            await eventually(partial(is_in, bus, "completed", envelope.task))
    assert await talk(bus, envelope.task) == ["delegation", "acknowledgment", "completion"]
    (completion,) = await bus.log.latest(1)
    assert completion.envelope.payload.result.description != "late"


async def test_a_cancellation_reaches_the_handler_at_once(bus):
    """Long before its lease would be renewed the handler is cancelled, and nothing of it is published."""
    envelope = await delegated(bus)
    meeting = Meeting()

    async def handler(work):
        return await meeting(work) if work.envelope.type == "delegation" else None

    async with at_work(bus.worker("@kilo", handler, lease=3600)):
        await meeting.of(1)
        await anyio.sleep(0.3)  # long enough for the first sign of life, after which the next is an hour away
        gone = compose(Cancellation(reason="r"), sender="@boss", recipient="@kilo", task=envelope.task)
        await bus.publish(gone)
        with anyio.fail_after(2):
            await eventually(partial(is_over, bus))
    assert meeting.cancelled == [envelope.task]
    assert await talk(bus, envelope.task) == ["delegation", "acknowledgment", "cancellation"]


async def is_over(bus):
    """Whether nothing stands in the inbox any more."""
    return await bus.inbox("@kilo").waiting() == []


# What fails


async def test_the_last_attempt_parks_and_escalates_in_one_step(bus):
    """A handler that always fails runs as often as agreed; then its delivery is listed, and the coordinator told."""
    envelope = await delegated(bus)
    handler = Failing(OSError("no network"))
    await idle(bus.worker("@kilo", handler, attempts=3, backoff=0.01))
    assert handler.tries == [1, 2, 3]
    (line,) = await parked.parked(bus, "@kilo")
    assert (line.entry.id, line.tries, line.reason, line.is_work) == (envelope.id, 3, "retryable", True)
    # Whether the work was acknowledged before it failed is the worker's business.
    assert [kind for kind in await talk(bus, envelope.task) if kind != "acknowledgment"] == [
        *("delegation", "escalation", "parking")
    ]
    assert [entry.type for _, entry in await bus.inbox("@boss").waiting()][-1] == "escalation"
    assert (await bus.task(envelope.task)).holder == "@boss"


@pytest.mark.parametrize("error", [Permanent("never"), RefusedByBudget("too dear")])
async def test_what_cannot_succeed_is_parked_at_once(bus, error):
    """No further attempt is made, and the reason stands beside it."""
    await delegated(bus)
    handler = Failing(error)
    await idle(bus.worker("@kilo", handler, attempts=3, backoff=0.01))
    (line,) = await parked.parked(bus, "@kilo")
    assert (handler.tries, line.reason) == ([1], error.reason)


async def test_a_retry_holds_nobody_up(bus):
    """While one delivery waits for its next attempt, the worker deals with those behind it."""
    first, second = await delegated(bus), await delegated(bus)
    order = []

    async def handler(work):
        order.append(work.delivery.task)
        if order == [first.task]:
            raise OSError
        return DONE

    await idle(bus.worker("@kilo", handler, backoff=0.2))
    assert order == [first.task, second.task, first.task]


async def test_a_quota_is_waited_for_and_never_parks(bus):
    """However often it is used up, the delivery comes again by itself when it is reset, and no attempt is counted."""
    envelope = await delegated(bus)
    tries = []

    async def handler(work):
        tries.append(work.delivery.tries)
        if len(tries) < 3:
            raise QuotaLimited("used up", until=now() + timedelta(seconds=0.1))
        return DONE

    await idle(bus.worker("@kilo", handler, attempts=1))
    assert tries == [1, 1, 1]
    assert await is_in(bus, "completed", envelope.task)


async def test_a_handler_beyond_its_hard_limit_is_parked(bus):
    """It is cancelled, and its work escalated: no handler runs for ever unnoticed."""
    envelope = await delegated(bus)
    meeting = Meeting()
    await idle(bus.worker("@kilo", meeting, hard_limit=0.1))
    (line,) = await parked.parked(bus, "@kilo")
    assert (meeting.cancelled, line.reason) == ([envelope.task], "timed-out")
    assert await is_in(bus, "escalated", envelope.task)


async def test_an_undecodable_message_is_parked_and_does_not_livelock(bus):
    """What nobody can read never reaches a handler; it is set aside with its error, and what follows is done."""
    broken, good = await delegated(bus), await delegated(bus)
    entry = next(each for each in await bus.log.latest(2) if each.id == broken.id)
    told = {"id": broken.id, "type": "delegation", "sender": "@boss", "recipient": "@kilo", "task": broken.task}
    await bus.connection.execute("XADD", bus.keys.log, "*", *entries.words(**told, body="{not json"))
    position = (await bus.connection.revrange(bus.keys.log, count=1))[0][0]
    await bus.connection.execute("XDEL", bus.keys.log, entry.position.entry)
    key = bus.keys.inbox("@kilo", "normal")
    ((first, _), *_) = await bus.connection.range(key)
    await bus.connection.execute("XDEL", key, first)
    await bus.connection.execute("XADD", key, "*", "at", position)
    handler = Failing(OSError(), times=0)
    await idle(bus.worker("@kilo", handler))
    (line,) = await parked.parked(bus, "@kilo")
    assert (len(handler.tries), line.reason, line.task) == (1, "undecodable", broken.task)
    assert await is_in(bus, "completed", good.task)
    assert await held(bus) == {}


async def test_one_agents_retry_reruns_nothing_for_others(bus):
    """Each agent has deliveries of its own: what fails for one is neither repeated nor delayed for another."""
    mine, theirs = await delegated(bus, "@kilo"), await delegated(bus, "@other")
    failing, doing = Failing(OSError(), times=2), Failing(OSError(), times=0)
    async with anyio.create_task_group() as group:
        group.start_soon(idle, bus.worker("@kilo", failing, backoff=0.01))
        group.start_soon(idle, bus.worker("@other", doing, backoff=0.01))
    assert (failing.tries, doing.tries) == ([1, 2, 3], [1])
    for envelope in (mine, theirs):
        assert await is_in(bus, "completed", envelope.task)


async def test_what_is_parked_is_replayed_once_and_done(bus):
    """After its cause is mended the delivery is put back, the task submitted again, and the work done once."""
    envelope = await delegated(bus)
    handler = Failing(Permanent("broken"), times=1)
    await idle(bus.worker("@kilo", handler))
    assert len(await parked.replay(bus, "@kilo", envelope.task, sender="@human")) == 1
    await idle(bus.worker("@kilo", handler))
    assert (handler.tries, await parked.parked(bus, "@kilo")) == ([1, 1], [])
    assert await is_in(bus, "completed", envelope.task)


# How a worker ends


async def test_a_stopped_worker_ends_what_runs_and_hands_back_the_rest(bus):
    """Another worker has what was only waiting in it at once, as a first try; what runs is done by who began it."""
    first, second = await delegated(bus), await delegated(bus)
    one, two = Meeting(), Meeting()
    with anyio.fail_after(20):
        async with anyio.create_task_group() as group:
            stopping = bus.worker("@kilo", one, prefetch=5, lease=3600)
            group.start_soon(stopping.run)
            await one.of(1)
            await eventually(partial(_holds, bus, 2))
            stopping.stop()
            next_one = bus.worker("@kilo", two, lease=3600)
            group.start_soon(next_one.run)
            await two.of(1)
            for meeting in (one, two):
                meeting.over.set()
            next_one.stop()
    assert [(each.task, each.tries) for each in one.seen + two.seen] == [(first.task, 1), (second.task, 1)]
    assert await is_in(bus, "completed", first.task)


async def _holds(bus, count):
    return sum((await held(bus)).values()) == count


async def test_a_worker_that_is_stopped_at_once_hands_back_what_runs(bus):
    """Its handler is cancelled; the delivery is another one's at once, and was no attempt."""
    envelope = await delegated(bus)
    one, two = Meeting(), Meeting()
    two.over.set()
    async with at_work(bus.worker("@kilo", one, lease=3600)):
        await one.of(1)
    async with at_work(bus.worker("@kilo", two)):
        await eventually(partial(is_in, bus, "completed", envelope.task))
    assert (one.cancelled, [each.tries for each in two.seen]) == ([envelope.task], [1])


async def test_workers_that_end_leave_no_presence(bus):
    """However many come and go, nobody is known who is not there."""
    for _ in range(3):
        await delegated(bus)
        await idle(bus.worker("@kilo", Failing(OSError(), times=0)))
    assert await bus.connection.execute("ZCARD", bus.keys.workers) == 0


# What is not done in time


async def test_whatever_is_not_done_in_time_is_escalated_once(bus):
    """Not taken on in time, not done by its deadline: the coordinator hears of each once, of however many who look."""
    silent = Supervision(acknowledge=0.05, silent=3600, lost=3600, stale=3600, interval=0.001)
    waiting = await delegated(bus)
    late = compose(
        Delegation(goal="g"),
        sender="@boss",
        recipient="@human",
        deadline=now() + timedelta(seconds=0.05),
    )
    await append(bus.connection, bus.keys, [Submission(document(late))])
    await anyio.sleep(0.1)
    async with anyio.create_task_group() as group:
        for _ in range(8):
            group.start_soon(partial(look, bus, silent, at_once=True))
    for envelope in (waiting, late):
        assert await talk(bus, envelope.task) == ["delegation", "escalation"]
        assert await is_in(bus, "escalated", envelope.task)


async def test_an_overdue_task_is_told_of_though_it_was_taken_on_meanwhile(bus):
    """A deadline that passed while nobody watched is still told of after the work was acknowledged, late."""
    late = compose(Delegation(goal="g"), sender="@boss", recipient="@kilo", deadline=now() + timedelta(seconds=0.01))
    await bus.publish(late)
    await anyio.sleep(0.05)
    (delivery,) = (await bus.inbox("@kilo").take()).deliveries
    taken_on = compose(Acknowledgment(accepted=True), sender="@kilo", recipient="@boss", task=late.task)
    await bus.publish(taken_on, token=delivery.token)
    await look(bus, Supervision(), at_once=True)
    assert await talk(bus, late.task) == ["delegation", "acknowledgment", "escalation"]


async def test_incidents_are_told_and_not_swallowed(bus):
    """Each failure is reported by the worker that met it, with the error's own words."""
    await delegated(bus)
    incidents = Incidents()
    await idle(bus.worker("@kilo", Failing(Permanent("the disk is full")), on_incident=incidents))
    assert any("the disk is full" in what for what in incidents)
