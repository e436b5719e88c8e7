"""One by one, in batches, and on paper: the same history of envelopes ends in the same bus."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest

from taskbus.append import Appended, Submission, append, task_of
from taskbus.codec import document
from taskbus.envelope import PRIORITIES, compose
from taskbus.keys import Keys
from taskbus.lifecycle import advance, event_of, message_of, refusal
from taskbus.log import Log
from tests.taskbus.test_lifecycle import PAYLOADS, kind_of

pytestmark = pytest.mark.anyio

AGENTS = ("@boss", "@kilo", "@lead", "@human", "@bus")
SEEDS = range(6)


def history(chance, count=250):
    """Envelopes that somebody might send: mostly what the table allows, by whom it allows, the rest at random."""
    model = {}
    for _ in range(count):
        task = f"t{chance.randrange(4)}"
        best = None
        for _ in range(12):
            event = chance.choice(list(PAYLOADS))
            sender, recipient = chance.choice(AGENTS), chance.choice(AGENTS)
            best = compose(PAYLOADS[event], sender=sender, recipient=recipient, task=task)
            if refusal(model.get(task), message_of(best), now=0) is None:
                break
        priority = chance.choice(PRIORITIES)
        envelope = compose(best.payload, sender=best.sender, recipient=best.recipient, task=task, priority=priority)
        if refusal(model.get(task), message_of(envelope), now=0) is None:
            model[task] = advance(model.get(task), message_of(envelope))
        yield envelope
        if chance.random() < 0.05:
            yield envelope


def on_paper(envelopes):
    """The answers and the tasks that the pure module foretells."""
    model, seen, answers, causes = {}, set(), [], {}
    for envelope in envelopes:
        task, message = model.get(envelope.task), message_of(envelope)
        if envelope.id in seen:
            answers.append("repeated")
            continue
        refused = refusal(task, message, now=0)
        answers.append(refused)
        if refused is None:
            seen.add(envelope.id)
            model[envelope.task] = advance(task, message)
            if task is None or event_of(envelope) != "status":
                causes[envelope.task] = envelope.id
    return answers, model, causes


async def play(connection, keys, envelopes, sizes):
    """Append the envelopes in batches of the given sizes; the answers, as the pure module calls them."""
    answers, rest = [], list(envelopes)
    while rest:
        size = next(sizes)
        part, rest = rest[:size], rest[size:]
        found = await append(connection, keys, [Submission(document(each)) for each in part], atomic=False)
        answers += ["repeated" if isinstance(a, Appended) and a.repeated else kind_of(a) for a in found]
    return answers


async def left(connection, keys):
    """What the bus holds: log, task records and inboxes, without what time alone decides."""
    entries = [entry async for entry in Log(connection, keys).read()]
    order = {str(entry.position): entry.id for entry in entries}
    records = {}
    for task in {entry.task for entry in entries}:
        record = await connection.field(keys.index, f"task:{task}")
        delivered = record.split(" ")[9] != "-"
        records[task] = replace(task_of(record), token=0), delivered
    inboxes = {}
    for agent in AGENTS:
        for stream in keys.inboxes(agent):
            found = await connection.range(stream)
            name = stream.removeprefix(keys.prefix)
            inboxes[name] = [order[fields[b"at"].decode()] for _, fields in found]
    return [(entry.id, entry.root) for entry in entries], records, inboxes


@pytest.mark.parametrize("seed", SEEDS)
async def test_batches_mean_what_their_envelopes_mean_one_by_one(any_connection, namespace, seed):
    """The same history, one by one and in random batches, gives the answers and the state that the table foretells."""
    chance = random.Random(seed)
    envelopes = list(history(chance))
    single, batched = Keys(namespace + "a:"), Keys(namespace + "b:")
    ones = iter(lambda: 1, 0)
    some = iter(lambda: chance.randint(1, 12), 0)
    answers = await play(any_connection, single, envelopes, ones)
    assert await play(any_connection, batched, envelopes, some) == answers
    foretold, model, causes = on_paper(envelopes)
    assert answers == foretold
    one, many = await left(any_connection, single), await left(any_connection, batched)
    assert one == many
    for task, expected in model.items():
        known, _ = one[1][task]
        for name in ("state", "delegator", "assignee", "coordinator", "attempt", "review", "lease"):
            assert getattr(known, name) == getattr(expected, name), (task, name)
        assert known.cause == causes[task]
