"""The worker: one handler, acknowledgment beside it, the outcome after it, and no more at a time than agreed."""

from __future__ import annotations

import sys
from functools import partial

import anyio
import pytest

from taskbus.client import Bus
from taskbus.envelope import (
    Answer,
    Cancellation,
    Completion,
    Cost,
    Delegation,
    ErrorDetails,
    Escalation,
    Question,
    Result,
    Status,
    Usage,
    Verdict,
    compose,
)
from taskbus.errors import NoServer
from taskbus.work import Outcome
from tests.taskbus.workplace import (
    DONE,
    Incidents,
    Meeting,
    at_work,
    delegated,
    idle,
    reached,
    state,
    talk,
    the_parked,
)

pytestmark = pytest.mark.anyio


@pytest.fixture
def bus(connection, namespace):
    """A bus on the embedded server."""
    return Bus(connection, namespace)


async def done(_work):
    """A handler that succeeds at once."""
    return DONE


async def test_work_is_acknowledged_done_and_settled(bus):
    """The delegator hears that the work was taken on, then what came of it; usage travels with the outcome."""
    usage = Usage(provider="p", model="m", input_tokens=10, cost=Cost(source="reported", microusd=5))
    told = []

    async def handler(work):
        assert work.envelope.payload.goal == "g"
        await work.say(Status(progress="half", fraction=0.5))
        return Outcome(DONE, usage=(usage,))

    envelope = await delegated(bus, priority="high")
    worker = bus.worker("@kilo", handler, on_settled=lambda *args: told.append(args))
    await idle(worker)
    assert await talk(bus, envelope.task) == ["delegation", "acknowledgment", "status", "completion"]
    entry = (await bus.log.latest(1))[0]
    completion = entry.envelope
    assert (completion.sender, completion.recipient, completion.priority) == ("@kilo", "@boss", "high")
    assert (completion.context.causation_id, completion.context.correlation_id) == (envelope.id, envelope.task)
    assert completion.usage == (usage,)
    assert await state(bus, envelope) == "completed"
    assert await bus.inbox("@kilo").waiting() == []
    ((delivery, outcomes, appended),) = told
    assert (delivery.entry.id, [each.id for each in outcomes]) == (envelope.id, [completion.id])
    assert [each.position for each in appended] == [entry.position]
    assert worker.settled == 1


async def test_what_a_handler_says_comes_after_the_acknowledgment(bus, monkeypatch):
    """However long that takes: the handler may have begun meanwhile."""
    run = bus.connection.run

    async def late(script, keys, args):
        if any("acknowledgment:accepted" in str(arg) for arg in args):
            await anyio.sleep(0.3)
        return await run(script, keys, args)

    async def handler(work):
        await work.say(Status(progress="under way"))
        return DONE

    envelope = await delegated(bus)
    monkeypatch.setattr(bus.connection, "run", late)
    await idle(bus.worker("@kilo", handler, attempts=1))
    assert await talk(bus, envelope.task) == ["delegation", "acknowledgment", "status", "completion"]


def asking(bus, monkeypatch):
    """Note of each script that is called which of these it is to append."""
    run, calls = bus.connection.run, []

    async def counting(script, keys, args):
        calls.append(
            [each for each in ("acknowledgment", "question", "completion") if any(each in str(a) for a in args)]
        )
        return await run(script, keys, args)

    monkeypatch.setattr(bus.connection, "run", counting)
    return calls


async def test_work_that_is_done_at_once_needs_no_acknowledgment(bus, monkeypatch):
    """Its completion says it all, in one step for however much of it there is."""
    envelopes = [await delegated(bus) for _ in range(5)]
    calls = asking(bus, monkeypatch)
    await idle(bus.worker("@kilo", done, concurrency=5))
    assert [call for call in calls if call] == [["completion"]]
    for envelope in envelopes:
        assert await talk(bus, envelope.task) == ["delegation", "completion"]


async def test_work_that_fails_at_once_needs_no_acknowledgment(bus):
    """A completion that tells of a failure says it all as well, and the task is failed."""

    async def handler(_work):
        return Completion(result=Result(status="failure"))

    envelope = await delegated(bus)
    await idle(bus.worker("@kilo", handler))
    assert await talk(bus, envelope.task) == ["delegation", "completion"]
    assert await state(bus, envelope) == "failed"


async def test_work_that_is_not_done_at_once_is_acknowledged_while_it_is_done(bus):
    """Also where its handler waits for that in so many words, and is done in no time."""
    slow, quick = await delegated(bus), await delegated(bus)

    async def handler(work):
        if work.delivery.task == quick.task:
            await work.acknowledged()
        else:
            await reached(bus, slow, "working")
        return DONE

    await idle(bus.worker("@kilo", handler, concurrency=2))
    for envelope in (slow, quick):
        assert await talk(bus, envelope.task) == ["delegation", "acknowledgment", "completion"]


async def test_a_question_that_is_asked_at_once_comes_with_its_acknowledgment(bus, monkeypatch):
    """Only work that was taken on can ask, so both are said in one step."""

    async def handler(_work):
        return Question(question="which?")

    envelope = await delegated(bus)
    calls = asking(bus, monkeypatch)
    await idle(bus.worker("@kilo", handler))
    assert [call for call in calls if call] == [["acknowledgment", "question"]]
    assert await talk(bus, envelope.task) == ["delegation", "acknowledgment", "question"]
    assert await state(bus, envelope) == "input-required"


@pytest.mark.parametrize("before", [True, False])
async def test_what_is_said_before_the_completion_needs_the_acknowledgment(bus, before):
    """A status that a handler returns with its completion is about work that was taken on; a part of it is not."""

    async def handler(work):
        if work.delivery.agent != "@kilo":
            return None
        part = compose(Delegation(goal="p"), sender="@kilo", recipient="@cline", parent=work.delivery.task)
        return [Status(progress="half") if before else part, DONE]

    envelope = await delegated(bus)
    await idle(bus.worker("@kilo", handler))
    between = ["acknowledgment", "status"] if before else []
    assert await talk(bus, envelope.task) == ["delegation", *between, "completion"]


async def test_work_that_is_settled_again_by_another_worker_is_done_once(bus, monkeypatch):
    """A worker that dies between the outcome of its handler and the settlement leaves a task that is to be done."""
    envelope = await delegated(bus)
    run, reached_it = bus.connection.run, anyio.Event()

    async def stuck(script, keys, args):
        if any("completion" in str(arg) for arg in args):
            reached_it.set()
            await anyio.sleep_forever()
        return await run(script, keys, args)

    monkeypatch.setattr(bus.connection, "run", stuck)
    with anyio.fail_after(30):
        async with anyio.create_task_group() as group:
            group.start_soon(bus.worker("@kilo", done, lease=0.05).run)
            await reached_it.wait()
            monkeypatch.setattr(bus.connection, "run", dead)
            group.cancel_scope.cancel()
    monkeypatch.setattr(bus.connection, "run", run)
    assert await state(bus, envelope) == "submitted"
    await idle(bus.worker("@kilo", done))
    assert await talk(bus, envelope.task) == ["delegation", "completion"]


async def dead(_script, _keys, _args):
    """The connection of a worker that is dead."""
    raise NoServer("It is dead.")


async def test_an_outcome_that_is_refused_was_taken_on(bus):
    """Where the completion was to say it all, and was refused with what came after it, the work is acknowledged."""

    async def handler(_work):
        return [DONE, Status(progress="half")]

    envelope = await delegated(bus)
    await idle(bus.worker("@kilo", handler))
    assert await talk(bus, envelope.task) == ["delegation", "acknowledgment", "escalation", "parking"]
    assert (await the_parked(bus, envelope)).reason == "permanent"


async def test_a_task_that_is_canceled_while_its_work_is_done_gets_no_outcome(bus, monkeypatch):
    """The step with its outcome is refused whole; the worker says so, and settles the others."""
    doomed, other = await delegated(bus), await delegated(bus)
    run, incidents = bus.connection.run, Incidents()

    async def meddling(script, keys, args):
        if any("completion:done" in str(arg) for arg in args):
            monkeypatch.setattr(bus.connection, "run", run)
            await bus.publish(compose(Cancellation(reason="no"), sender="@boss", recipient="@kilo", task=doomed.task))
        return await run(script, keys, args)

    monkeypatch.setattr(bus.connection, "run", meddling)
    await idle(bus.worker("@kilo", done, concurrency=2, on_incident=incidents))
    assert not {"acknowledgment", "completion"}.intersection(await talk(bus, doomed.task))
    assert await talk(bus, other.task) == ["delegation", "completion"]
    assert [what for what in incidents if "no longer ours" in what]


async def test_a_question_is_answered_and_the_work_goes_on(bus):
    """A handler that asks is called again with the answer, without a second acknowledgment."""

    async def handler(work):
        match work.envelope.payload:
            case Delegation():
                return Question(question="which?")
            case Answer(answer=answer):
                return Completion(result=Result(status="success", description=answer))
        return None

    envelope = await delegated(bus)
    await idle(bus.worker("@kilo", handler))
    assert await state(bus, envelope) == "input-required"
    await bus.publish(compose(Answer(answer="that"), sender="@boss", recipient="@kilo", task=envelope.task))
    await idle(bus.worker("@kilo", handler))
    said = ["delegation", "acknowledgment", "question", "answer", "completion"]
    assert await talk(bus, envelope.task) == said
    assert (await bus.log.latest(1))[0].envelope.payload.result.description == "that"


async def test_a_rejected_result_is_worked_on_again(bus):
    """The verdict that rejects begins the next attempt, which is taken on by itself."""

    async def handler(work):
        if work.envelope.type == "verdict":
            await work.acknowledged()
        return DONE if work.delivery.state in ("submitted", "working") else None

    envelope = await delegated(bus)
    await idle(bus.worker("@kilo", handler))
    await bus.publish(compose(Verdict(decision="rejected"), sender="@boss", recipient="@kilo", task=envelope.task))
    await idle(bus.worker("@kilo", handler))
    assert (await bus.task(envelope.task)).attempt == 2
    assert (await talk(bus, envelope.task))[-3:] == ["verdict", "acknowledgment", "completion"]


async def test_an_escalation_goes_to_whom_it_names(bus):
    """An outcome may go to somebody else than the delegator."""
    trouble = Escalation(error_details=ErrorDetails(level=2, category="execution", message="stuck"))

    async def handler(_work):
        return Outcome(trouble, recipient="@coordinator")

    envelope = await delegated(bus)
    await idle(bus.worker("@kilo", handler))
    task = await bus.task(envelope.task)
    assert (task.state, task.coordinator) == ("escalated", "@coordinator")


async def test_the_result_goes_to_the_delegator(bus):
    """After a coordinator has handed the task to another agent, the result still goes to who may judge it."""
    trouble = Escalation(error_details=ErrorDetails(level=2, category="execution", message="stuck"))

    async def kilo(_work):
        return Outcome(trouble, recipient="@coordinator")

    envelope = await delegated(bus)
    await idle(bus.worker("@kilo", kilo))
    again = compose(Delegation(goal="g"), sender="@coordinator", recipient="@other", task=envelope.task)
    await bus.publish(again)
    await idle(bus.worker("@other", done))
    assert (await bus.log.latest(1))[0].recipient == "@boss"


async def test_a_delegator_is_a_worker_too(bus):
    """What comes back to the delegator is delivered to its handler, and settled without an outcome."""
    heard = []

    async def boss(work):
        heard.append(work.envelope.type)
        if work.envelope.type == "completion":
            return [compose(Verdict(decision="accepted"), sender="@boss", recipient="@kilo", task=work.delivery.task)]
        return None

    envelope = await delegated(bus)
    await idle(bus.worker("@kilo", done))
    await idle(bus.worker("@boss", boss))
    assert heard == ["completion"]
    assert await state(bus, envelope) == "accepted"


async def test_sub_tasks_say_which_tree_they_belong_to(bus):
    """What a worker says of a part names the root of the tree, as the log does."""
    root = await delegated(bus)
    await delegated(bus, parent=root.task)
    await idle(bus.worker("@kilo", done))
    last = (await bus.log.latest(1))[0]
    assert (last.root, last.envelope.context.correlation_id) == (root.task, root.task)


async def test_a_long_handler_runs_once(bus):
    """A handler that takes sixty times its lease is given to nobody else meanwhile, however many wait for it."""
    runs = []

    async def handler(work):
        runs.append(work.delivery.token)
        await anyio.sleep(12.0)
        return DONE

    envelope = await delegated(bus)
    with anyio.fail_after(30):
        async with anyio.create_task_group() as group:
            for _ in range(2):
                worker = bus.worker("@kilo", handler, lease=0.2, concurrency=2)
                group.start_soon(partial(worker.run, until_idle=True))
    assert len(runs) == 1
    assert await state(bus, envelope) == "completed"


async def test_a_renewal_does_not_cut_off_the_settlement(bus):
    """However often the lease is renewed, a settled delivery is told as settled, and is no incident."""
    incidents = []
    for _ in range(30):
        await delegated(bus)
    await idle(bus.worker("@kilo", done, lease=0.01, attempts=100, on_incident=incidents.append))
    completions = [entry async for entry in bus.log.read() if entry.type == "completion"]
    assert len(completions) == 30
    assert not [what for what in incidents if "settled, canceled" in what]


@pytest.mark.parametrize("backlog", [0, 300])
async def test_cancelling_the_task_cancels_the_handler(bus, backlog):
    """At once, long before a renewal would find out, also where the cancellation stands behind much other work."""
    doomed, other = await delegated(bus), await delegated(bus)
    meeting, incidents = Meeting(), Incidents()
    worker = bus.worker("@kilo", meeting, lease=600, concurrency=2, on_incident=incidents)
    async with at_work(worker, seconds=20):
        await meeting.of(2)
        await anyio.sleep(0.2)  # the first renewal is over: the next one is minutes away
        more = [compose(Delegation(goal="g"), sender="@boss", recipient="@kilo") for _ in range(backlog)]
        await bus.publish_many(more)
        await bus.publish(compose(Cancellation(reason="no"), sender="@boss", recipient="@kilo", task=doomed.task))
        await incidents.until("no longer ours")
        assert meeting.cancelled == [doomed.task]
        meeting.over.set()
        await reached(bus, other, "completed")
    assert await state(bus, doomed) == "canceled"


@pytest.mark.parametrize("outcome", [DONE, None])
async def test_a_handler_that_swallows_its_cancellation_publishes_nothing(bus, outcome):
    """Whatever it returns of a task that was canceled meanwhile is dropped; the worker goes on."""
    envelope, later = await delegated(bus), None
    incidents, began = Incidents(), anyio.Event()

    async def handler(work):
        if work.delivery.task != envelope.task or work.envelope.type != "delegation":
            return DONE if work.delivery.is_work else None
        await work.acknowledged()
        began.set()
        try:
            await anyio.sleep_forever()
        except anyio.get_cancelled_exc_class():
            return outcome

    worker = bus.worker("@kilo", handler, lease=600, on_incident=incidents)
    async with at_work(worker):
        await began.wait()
        await bus.publish(compose(Cancellation(reason="no"), sender="@boss", recipient="@kilo", task=envelope.task))
        later = await delegated(bus)
        await reached(bus, later, "completed")
    assert await talk(bus, envelope.task) == ["delegation", "acknowledgment", "cancellation"]
    assert worker.settled == 2
    assert len(incidents) == 1


async def test_an_outcome_that_was_published_before_a_crash_is_not_published_again(bus):
    """Its ID is the delivery's: whoever works on it again settles it with the outcome that stands."""
    envelope = await delegated(bus)
    await idle(bus.worker("@kilo", done))
    verdict = Outcome(Verdict(decision="accepted"), recipient="@kilo")
    incidents, ids = [], []

    async def boss(work):
        if work.envelope.type != "completion":
            return None
        ids.append(work.delivery.outcome_id(1))
        if len(ids) == 1:
            await bus.publish(work.reply(verdict, number=1))
            raise OSError("the power is gone")
        return verdict

    await idle(bus.worker("@boss", boss, backoff=0, on_incident=incidents.append))
    (stands,) = [entry async for entry in bus.log.read() if entry.type == "verdict"]
    assert ids == [stands.id] * 2
    assert (await talk(bus, envelope.task))[-1] == "verdict"
    assert any("stands already" in what for what in incidents)
    assert await bus.inbox("@boss").waiting() == []


async def test_a_worker_that_lost_its_delivery_publishes_nothing(bus):
    """Whoever comes back with an old token is refused, says so, and leaves the delivery to its new owner."""
    envelope = await delegated(bus)
    incidents, mine = [], []
    owner = bus.inbox("@kilo", lease=60)

    async def handler(work):
        await work.acknowledged()
        await bus.connection.execute("ZADD", bus.keys.leases("@kilo"), 1, work.delivery.name)
        mine.extend((await owner.take()).deliveries)
        return DONE

    worker = bus.worker("@kilo", handler, on_incident=incidents.append, supervision=None)
    with anyio.fail_after(20):
        await worker.run(limit=1)
    assert "taken again" in incidents[0]
    assert worker.settled == 0
    assert await state(bus, envelope) == "working"
    await owner.settle(mine[0], [compose(DONE, sender="@kilo", recipient="@boss", task=envelope.task)])
    assert await state(bus, envelope) == "completed"


async def test_a_program_without_logging_prints_nothing():
    """Python prints errors that nobody listens to; a library's are not its to print."""
    program = "import logging, taskbus.worker; logging.getLogger('taskbus.worker').error('x')"
    finished = await anyio.run_process([sys.executable, "-c", program])
    assert (finished.stdout, finished.stderr) == (b"", b"")
