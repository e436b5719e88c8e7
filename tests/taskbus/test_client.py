"""The client: one way in, and what it does with the bus."""

from __future__ import annotations

import anyio
import msgspec
import pytest

import taskbus
from taskbus import Acknowledgment, Appended, Bus, Delegation, Position, Status, compose
from taskbus.codec import document
from taskbus.errors import InvalidEnvelope, LifecycleConflict, NotFound, Skipped, UsageError

pytestmark = pytest.mark.anyio


def delegation(**more):
    """A delegation of a new task."""
    return compose(Delegation(goal=more.pop("goal", "g")), sender="@boss", recipient="@kilo", **more)


@pytest.fixture
async def bus(valkey, namespace):
    """A bus that was connected to as users do."""
    async with Bus.connect(valkey, namespace=namespace) as bus:
        yield bus


def test_every_public_name_can_be_imported():
    """What the package exports is there, and nothing else is."""
    for name in taskbus.__all__:
        assert getattr(taskbus, name) is not None
    assert set(taskbus._HOME) == set(taskbus.__all__)
    assert set(taskbus.__all__) <= set(dir(taskbus))
    with pytest.raises(AttributeError, match="nothing"):
        _ = taskbus.nothing


async def test_publishing_raises_what_refuses_it(bus):
    """One envelope: its position, or the typed refusal."""
    envelope = delegation()
    answer = await bus.publish(envelope)
    assert isinstance(answer.position, Position)
    with pytest.raises(LifecycleConflict):
        await bus.publish(compose(Status(progress="p"), sender="@kilo", recipient="@boss", task=envelope.task))
    with pytest.raises(NotFound, match="nowhere"):
        await bus.publish(compose(Status(progress="p"), sender="@kilo", recipient="@boss", task="nowhere"))
    with pytest.raises(InvalidEnvelope, match="sender"):
        await bus.publish(compose(Delegation(goal="g"), sender="kilo", recipient="@boss"))


async def test_publishing_many_answers_each_in_order(bus):
    """Over several batches, each envelope has its own answer: a position, or why it was refused."""
    good = [delegation(goal=str(n)) for n in range(25)]
    bad = compose(Status(progress="p"), sender="@kilo", recipient="@boss", task="nowhere")
    invalid = delegation(goal="")
    unfit = msgspec.structs.replace(document(delegation()), content_type="text/plain")
    given = [*good[:10], bad, *good[10:20], invalid, unfit, *good[20:]]
    answers = await bus.publish_many(given, batch=7)
    assert [type(answer) for answer in answers] == [
        *[Appended] * 10,
        NotFound,
        *[Appended] * 10,
        InvalidEnvelope,
        InvalidEnvelope,
        *[Appended] * 5,
    ]
    assert [entry.envelope.payload.goal async for entry in bus.log.read()] == [str(n) for n in range(25)]
    again = await bus.publish_many(good, batch=10)
    assert all(answer.repeated for answer in again)
    assert await bus.publish_many([]) == []


async def test_publishing_many_as_one_step_is_all_or_nothing(bus):
    """With `atomic`, an invalid envelope keeps all out, as one that is not legal does."""
    good = delegation()
    answers = await bus.publish_many([good, delegation(goal="")], atomic=True)
    assert [type(answer) for answer in answers] == [Skipped, InvalidEnvelope]
    assert await bus.log.latest(10) == []
    ack = compose(Acknowledgment(accepted=True), sender="@kilo", recipient="@boss", task=good.task)
    answers = await bus.publish_many([good, ack], atomic=True)
    assert [type(answer) for answer in answers] == [Appended, Appended]


async def test_a_task_is_what_the_bus_knows_of_it(bus):
    """Everything about a task can be asked by its ID; an unknown one is not found, and says where to look."""
    deadline = taskbus.envelope.now().replace(year=2100, microsecond=0)
    parent, child = delegation(), None
    await bus.publish(parent)
    child = delegation(parent=parent.task, deadline=deadline)
    await bus.publish(child)
    task = await bus.task(child.task)
    assert (task.state, task.delegator, task.assignee, task.attempt) == ("submitted", "@boss", "@kilo", 1)
    assert (task.root, task.parent, task.deadline) == (parent.task, parent.task, deadline.timestamp() * 1000)
    with pytest.raises(NotFound) as missing:
        await bus.task("nowhere")
    assert "bus tasks" in missing.value.advice


async def test_a_worker_needs_a_name_that_is_one_word(bus):
    """A consumer's name is written into records of words, so it is one."""
    for name in ("two words", "line\nbreak"):
        with pytest.raises(UsageError):
            bus.inbox("@kilo", consumer=name)


async def test_what_cannot_be_meant_is_refused_at_once(bus):
    """A name without @, a lease that no clock keeps and an empty batch are errors where they are written."""
    for name in ("kilo", "", "@", "@a b"):
        with pytest.raises(UsageError, match="no agent's name"):
            bus.inbox(name)
    for lease in (0, -1, float("inf"), float("nan")):
        with pytest.raises(UsageError, match="lease"):
            bus.inbox("@kilo", lease=lease)
    for batch in (0, -1):
        with pytest.raises(UsageError, match="batch"):
            await bus.publish_many([delegation()], batch=batch)


async def test_many_tasks_share_one_bus(bus):
    """Two hundred concurrent appends over one connection all arrive."""
    async with anyio.create_task_group() as group:
        for _ in range(200):
            group.start_soon(bus.publish, delegation())
    assert len([entry async for entry in bus.log.read()]) == 200
