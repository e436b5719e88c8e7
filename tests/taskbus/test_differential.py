"""One by one, in batches, and on paper: the same history of units ends in the same bus."""

from __future__ import annotations

import random

import pytest
from msgspec.structs import replace

from taskbus.append import Appended, Submission, Unit, commit, task_of
from taskbus.codec import document
from taskbus.envelope import PRIORITIES, compose
from taskbus.keys import Keys
from taskbus.lifecycle import ENDED, Message, advance, event_of, message_of, refusal
from taskbus.log import Log
from tests.taskbus.test_lifecycle import PAYLOADS, kind_of

pytestmark = pytest.mark.anyio

AGENTS = ("@boss", "@kilo", "@lead", "@human", "@bus")
SEEDS = range(6)
# Whether something is there to be given back is no matter of the lifecycle.
EVENTS = [event for event in PAYLOADS if event != "budget:released"]


def history(chance, count=150):
    """Units that somebody might send: mostly what the table allows, by whom it allows, the rest at random."""
    model, sent = {}, []
    for _ in range(count):
        tasks, unit = dict(model), []
        for _ in range(chance.choice((1, 1, 2, 3, 5))):
            if sent and chance.random() < 0.05:
                unit.append(chance.choice(sent))
                continue
            envelope, is_legal = one_more(chance, tasks)
            unit.append(envelope)
            if is_legal:
                tasks[envelope.task] = advance(tasks.get(envelope.task), message_of(envelope))
        if answers_of(unit, model, {envelope.id for envelope in sent})[1] is not None:
            model = tasks
            sent += unit
        yield unit


def one_more(chance, tasks):
    """An envelope about a task or a new one, and whether it is legal: in one case of ten whatever comes first."""
    going_on = [name for name, task in tasks.items() if task.state not in ENDED or chance.random() < 0.1]
    is_legal, tries = False, 1 if chance.random() < 0.1 else 200
    while not is_legal and tries > 0:
        tries -= 1
        name = chance.choice([*going_on[-4:], f"t{len(tasks)}"])
        event, sender, recipient = chance.choice(EVENTS), chance.choice(AGENTS), chance.choice(AGENTS)
        is_legal = refusal(tasks.get(name), Message(event, sender, recipient), now=0) is None
    priority = chance.choice(PRIORITIES)
    return compose(PAYLOADS[event], sender=sender, recipient=recipient, task=name, priority=priority), is_legal


def answers_of(unit, model, seen):
    """What each envelope of a unit answers, and the tasks after it with what brought them there; None if refused."""
    tasks, added, causes, told = dict(model), set(), {}, []
    for envelope in unit:
        task, message = tasks.get(envelope.task), message_of(envelope)
        if envelope.id in seen | added:
            told.append("repeated")
            continue
        refused = refusal(task, message, now=0)
        told.append(refused)
        if refused is None:
            added.add(envelope.id)
            tasks[envelope.task] = advance(task, message)
            if task is None or not event_of(envelope).startswith(("status", "budget")):
                causes[envelope.task] = envelope.id
    if set(told) <= {None, "repeated"}:
        return told, (tasks, causes)
    return ["skipped" if each.id in added else kind for each, kind in zip(unit, told, strict=True)], None


def on_paper(units):
    """The answers, the tasks and their causes that the pure module foretells."""
    model, seen, answers, causes = {}, set(), [], {}
    for unit in units:
        told, after = answers_of(unit, model, seen)
        answers.append(told)
        if after is not None:
            model, causes = after[0], causes | after[1]
            seen |= {envelope.id for envelope in unit}
    return answers, model, causes


async def play(connection, keys, units, sizes):
    """Append the units, so many in one call as `sizes` says; the answers, as the pure module calls them."""
    answers, rest = [], list(units)
    while rest:
        size = next(sizes)
        part, rest = rest[:size], rest[size:]
        given = [Unit(tuple(Submission(document(each)) for each in unit)) for unit in part]
        answers += [[answer_of(each) for each in found] for found in await commit(connection, keys, given)]
    return answers


def answer_of(answer):
    """The pure module's word for an answer, or that nothing was written for it."""
    return "repeated" if isinstance(answer, Appended) and answer.repeated else kind_of(answer)


async def left(connection, keys):
    """What the bus holds: log, task records and inboxes, without what time alone decides."""
    entries = [entry async for entry in Log(connection, keys).read()]
    order = {str(entry.position): entry.id for entry in entries}
    records = {}
    for task in {entry.task for entry in entries}:
        record = await connection.field(keys.index, f"task:{task}")
        delivered = record.split(" ")[3] != "-"
        records[task] = replace(task_of(task, record), token=0), delivered
    inboxes = {}
    for agent in AGENTS:
        for stream in keys.inboxes(agent):
            found = await connection.range(stream)
            name = stream.removeprefix(keys.prefix)
            inboxes[name] = [order[fields[b"at"].decode()] for _, fields in found]
    return [(entry.id, entry.root) for entry in entries], records, inboxes


@pytest.mark.parametrize("seed", SEEDS)
async def test_batches_mean_what_their_units_mean_one_by_one(any_connection, namespace, seed):
    """The same units, one by one and in random batches, give the answers and the state that the table foretells."""
    chance = random.Random(seed)
    units = list(history(chance))
    single, batched = Keys(namespace + "a:"), Keys(namespace + "b:")
    ones = iter(lambda: 1, 0)
    some = iter(lambda: chance.randint(1, 12), 0)
    answers = await play(any_connection, single, units, ones)
    assert await play(any_connection, batched, units, some) == answers
    foretold, model, causes = on_paper(units)
    assert answers == foretold
    one, many = await left(any_connection, single), await left(any_connection, batched)
    assert one == many
    for task, expected in model.items():
        known, _ = one[1][task]
        for name in ("state", "delegator", "assignee", "coordinator", "attempt", "review", "lease"):
            assert getattr(known, name) == getattr(expected, name), (task, name)
        assert known.cause == (None if known.state in ENDED else causes[task])
