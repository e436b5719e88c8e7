"""Random histories of money, legal and not: the server decides as the pure fold does, and counts what the log says."""

from __future__ import annotations

import copy
from datetime import UTC, datetime

import anyio
import fakeredis
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from taskbus.append import Appended, Submission, Unit, commit
from taskbus.client import Bus
from taskbus.codec import JSON, document, encode
from taskbus.connection import Connection
from taskbus.envelope import (
    Acknowledgment,
    Answer,
    Budget,
    Cancellation,
    Completion,
    Cost,
    Delegation,
    ErrorDetails,
    Escalation,
    Hold,
    Question,
    Result,
    Status,
    Usage,
    Verdict,
    compose,
    new_id,
)
from taskbus.errors import Fenced, LifecycleConflict, Moved, NotFound, OverBudget, Skipped, UsageError
from taskbus.lifecycle import MONEY, advance, message_of, refusal
from taskbus.log import Entry
from taskbus.money import MOST, Ledger, accounts_of, opened
from taskbus.position import Position

START = int(datetime(2040, 12, 30, 22, tzinfo=UTC).timestamp() * 1000)
HOUR = 3_600_000
TASKS, AGENTS, PROVIDERS = ("t0", "t1", "t2", "t3"), ("@a", "@b"), ("x", "y z%")
AMOUNTS = st.sampled_from((0, 1, 40, 60, 100, 101, 10**9, MOST))
CAPS = {("provider:x", "month"): 150, ("agent:@b", "day"): 200, ("task:t0", "task"): 400}

amount = st.sampled_from((0, 1, 40, 60, 100))
usage = st.lists(
    st.builds(
        Usage,
        provider=st.sampled_from(PROVIDERS),
        model=st.just("m"),
        cost=st.none() | st.builds(Cost, source=st.just("reported"), microusd=st.sampled_from((0, 1, 40, MOST))),
    ),
    max_size=2,
).map(tuple)
step = st.tuples(
    st.sampled_from(
        (
            *("delegate", "accept", "hold", "hold", "reserve", "reserve", "reserve", "reserve", "settle", "settle"),
            *(
                "release",
                "release",
                "release",
                "cap",
                "status",
                "question",
                "answer",
                "complete",
                "verdict",
                "escalate",
                "cancel",
                "warn",
            ),
        )
    ),
    st.sampled_from(TASKS),
    st.sampled_from((*AGENTS, "@human", "@bus", "@boss")),
    AMOUNTS | amount,
    st.sampled_from(PROVIDERS),
    usage,
)
calls = st.lists(st.lists(step, min_size=1, max_size=3), min_size=1, max_size=4)
histories = st.lists(st.tuples(calls, st.sampled_from((False, False, True))), min_size=5, max_size=30)
# What brings a task to where it is worked on; else most of a random history would be about tasks that are not.
GOES_ON = {
    None: "delegate",
    "submitted": "accept",
    "input-required": "answer",
    "completed": "verdict",
    **dict.fromkeys(("failed", "rejected", "escalated"), "delegate"),
}
TROUBLE = ErrorDetails(level=2, category="execution", message="x")


class Paper:
    """The same bus on paper: tasks by the table, money by the fold."""

    def __init__(self):
        """Nothing has happened."""
        self.tasks, self.ledger, self.time, self.count = {}, Ledger(), START, 0
        self.held = {}

    def say(self, envelope):
        """What an envelope answers."""
        task, message = self.tasks.get(envelope.task), message_of(envelope)
        refused = refusal(task, message, now=0)
        if refused is not None:
            return refused
        hold, payload = self.ledger.holds.get(envelope.task), envelope.payload
        if isinstance(payload, Budget) and payload.budget == "released" and (not hold or hold.id != payload.hold.id):
            return "moved"
        root = "t0" if envelope.task in TASKS else envelope.task
        names = (envelope.id, envelope.type, envelope.sender, envelope.recipient, envelope.task, root)
        entry = Entry(Position(0, self.time, self.count), *names, "normal", JSON, encode(envelope))
        trial, made = copy.deepcopy(self.ledger), opened(envelope)
        trial.fold(entry)
        for account, period, span in accounts_of(made.provider, envelope.sender, root, self.time) if made else ():
            cap = trial.caps.get((account, period), CAPS.get((account, period)))
            sums = trial.accounts[account, span]
            if made.microusd and sums.committed + sums.held > (MOST if cap is None else cap):
                return "budget"
        self.ledger, self.count = trial, self.count + 1
        self.tasks[envelope.task] = advance(task, message)
        if self.tasks[envelope.task] is None:
            del self.tasks[envelope.task]
        return None

    def unit(self, envelopes):
        """What a unit answers; refused, it has changed nothing."""
        before = dict(self.tasks), self.ledger, self.count
        told = [self.say(each) for each in envelopes]
        if any(told):
            self.tasks, self.ledger, self.count = before
            return [kind or "skipped" for kind in told]
        return told


def written(paper, step, seen):
    """The envelope of a step. What it settles or gives back is the open hold, or one before."""
    kind, task, who, microusd, provider, used = step
    known = paper.tasks.get(task)
    if kind == "release" and task not in paper.ledger.holds and microusd != 101:
        kind = "reserve"
    if kind in ("reserve", "hold", "settle", "status", "question", "complete", "escalate") and microusd != 101:
        kind = GOES_ON.get(known.state if known else None, kind)
    assignee = known.assignee if known else who
    hold = paper.ledger.holds.get(task)
    if hold is None or microusd == 1:
        hold = seen[-1] if seen else None
    named = Hold(id=hold.id, microusd=hold.microusd) if hold else Hold(id="none", microusd=1)
    new = Hold(id=new_id(), microusd=microusd)
    boss = who if who in ("@bus", "@human") else "@boss"
    sender, recipient, payload = {
        "delegate": (boss, who if who in AGENTS else "@a", Delegation(goal="g")),
        "accept": (assignee, "@boss", Acknowledgment(accepted=True)),
        "hold": (assignee, "@boss", Acknowledgment(accepted=True, provider=provider, model="m", hold=new)),
        "reserve": (assignee, "@bus", Budget(budget="reserved", hold=new, provider=provider, model="m")),
        "settle": (hold.agent if hold and microusd else who, "@bus", Budget(budget="settled", hold=named)),
        "release": (boss, "@bus", Budget(budget="released", hold=named)),
        "cap": (
            "@human",
            "@bus",
            Budget(
                budget="cap",
                account=("task:t0" if who == "@bus" else f"provider:{provider}"),
                period=("task" if who == "@bus" else "month"),
                microusd=None if microusd == MOST else microusd,
            ),
        ),
        "status": (assignee, "@boss", Status(progress="x")),
        "question": (assignee, "@human", Question(question="?")),
        "answer": ("@human", assignee, Answer(answer="!")),
        "complete": (assignee, "@boss", Completion(result=Result(status="success" if microusd else "failure"))),
        "verdict": ("@boss", assignee, Verdict(decision="rejected")),
        "escalate": ("@bus" if who == "@bus" else assignee, "@boss", Escalation(error_details=TROUBLE)),
        "cancel": ("@boss", assignee, Cancellation(reason="x")),
        "warn": ("@bus", "@human", Budget(budget="warned", account="agent:@a", span="2040-12", microusd=microusd)),
    }[kind]
    parent = "t0" if kind == "delegate" and task != "t0" else None
    name = MONEY if kind == "cap" else task
    return compose(payload, sender=sender, recipient=recipient, task=name, parent=parent, usage=used)


def kind_of(answer):
    """The paper's word for an answer."""
    if isinstance(answer, Appended):
        return None
    if isinstance(answer, LifecycleConflict):
        return answer.reason
    return {
        OverBudget: "budget",
        Moved: "moved",
        NotFound: "unknown",
        Skipped: "skipped",
        Fenced: "fenced",
        UsageError: "reserved",
    }[type(answer)]


async def jump(bus, milliseconds):
    """The log goes on at a later time."""
    position = await bus.connection.execute("XADD", bus.keys.log, f"{milliseconds}-0", "x", "y")
    await bus.connection.execute("XDEL", bus.keys.log, position)


async def play(url, namespace, history):
    """Say all of it, in calls of several units, and compare."""
    if url is None:
        client = fakeredis.FakeAsyncRedis(server=fakeredis.FakeServer())
        await compare(Bus(Connection(client), namespace), history)
        await client.aclose()
    else:
        async with Connection.open(url) as connection:
            await compare(Bus(connection, namespace), history)


async def compare(bus, history):
    """After every call, the answers are the paper's; at the end, what is counted is what the log says."""
    paper, seen = Paper(), []
    await jump(bus, paper.time)
    for said, later in history:
        units, expected = [], []
        for steps in said:
            # Each envelope is written as the unit before left the task; a unit's own changes are for it to trip over.
            envelopes = [written(paper, step, seen) for step in steps]
            expected.append(paper.unit(envelopes))
            seen += [hold for hold in paper.ledger.holds.values() if hold not in seen]
            units.append(Unit(tuple(Submission(document(each), caps=CAPS) for each in envelopes)))
        answers = await commit(bus.connection, bus.keys, units)
        assert [[kind_of(each) for each in unit] for unit in answers] == expected
        if later:
            paper.time += 5 * HOUR
            await jump(bus, paper.time)
    assert await bus.budget.check() == []
    ledger = await bus.budget.ledger()
    assert ledger.accounts == paper.ledger.accounts
    assert {task: hold.id for task, hold in ledger.holds.items()} == {t: h.id for t, h in paper.ledger.holds.items()}
    assert (ledger.caps, ledger.warned) == (paper.ledger.caps, paper.ledger.warned)


@pytest.mark.parametrize("server", ["valkey", "redis7", None])
@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(history=histories)
def test_the_server_counts_and_decides_as_the_fold_does(request, server, history):
    """Any history, one by one and in batches, over the turns of days and a year, on every server."""
    url = request.getfixturevalue(server) if server else None
    anyio.run(play, url, f"test_{new_id()}:", history)
