"""The worker: one handler, acknowledgment before it, the outcome after it, and no delivery that ends the worker."""

from __future__ import annotations

import sys
from functools import partial

import anyio
import pytest

from taskbus.client import Bus
from taskbus.connection import Connection
from taskbus.envelope import (
    Acknowledgment,
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
from taskbus.worker import Outcome
from tests.servers import bundled_binary, end, running, start

pytestmark = pytest.mark.anyio

DONE = Completion(result=Result(status="success"))


class Incidents(list):
    """What a worker reported; a test can wait for it."""

    def __init__(self):
        """Nothing was reported yet."""
        super().__init__()
        self._changed = anyio.Event()

    def __call__(self, what):
        """Note an incident."""
        self.append(what)
        self._changed.set()
        self._changed = anyio.Event()

    async def until(self, part):
        """Wait for an incident that has `part` in it."""
        while not any(part in what for what in self):
            await self._changed.wait()


@pytest.fixture
def bus(connection, namespace):
    """A bus on the embedded server."""
    return Bus(connection, namespace)


async def delegated(bus, **more):
    """A delegation to @kilo that stands in the log."""
    envelope = compose(Delegation(goal="g"), sender="@boss", recipient="@kilo", **more)
    await bus.publish(envelope)
    return envelope


async def talk(bus, task):
    """What was said of a task, in order, as types."""
    return [entry.type async for entry in bus.log.read() if entry.task == task]


async def test_work_is_acknowledged_done_and_settled(bus):
    """The delegator hears that the work was taken on, then what came of it; usage travels with the outcome."""
    usage = Usage(provider="p", model="m", input_tokens=10, cost=Cost(source="reported", microusd=5))

    async def handler(work):
        assert work.envelope.payload.goal == "g"
        await work.say(Status(progress="half", fraction=0.5))
        return Outcome(DONE, usage=(usage,))

    envelope = await delegated(bus, priority="high")
    worker = bus.worker("@kilo", handler)
    await worker.run(until_idle=True)
    assert await talk(bus, envelope.task) == ["delegation", "acknowledgment", "status", "completion"]
    completion = (await bus.log.latest(1))[0].envelope
    assert (completion.sender, completion.recipient, completion.priority) == ("@kilo", "@boss", "high")
    assert (completion.context.causation_id, completion.context.correlation_id) == (envelope.id, envelope.task)
    assert completion.usage == (usage,)
    assert (await bus.task(envelope.task)).state == "completed"
    assert await bus.inbox("@kilo").waiting() == []
    assert worker.settled == 1


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
    await bus.worker("@kilo", handler).run(until_idle=True)
    assert (await bus.task(envelope.task)).state == "input-required"
    await bus.publish(compose(Answer(answer="that"), sender="@boss", recipient="@kilo", task=envelope.task))
    await bus.worker("@kilo", handler).run(until_idle=True)
    said = ["delegation", "acknowledgment", "question", "answer", "completion"]
    assert await talk(bus, envelope.task) == said
    assert (await bus.log.latest(1))[0].envelope.payload.result.description == "that"


async def test_a_rejected_result_is_worked_on_again(bus):
    """The verdict that rejects begins the next attempt, with an acknowledgment of its own."""

    async def handler(work):
        return DONE if work.delivery.state in ("submitted", "working") else None

    envelope = await delegated(bus)
    await bus.worker("@kilo", handler).run(until_idle=True)
    await bus.publish(compose(Verdict(decision="rejected"), sender="@boss", recipient="@kilo", task=envelope.task))
    await bus.worker("@kilo", handler).run(until_idle=True)
    assert (await bus.task(envelope.task)).attempt == 2
    assert (await talk(bus, envelope.task))[-3:] == ["verdict", "acknowledgment", "completion"]


async def test_a_handler_that_raises_is_a_failed_completion(bus):
    """An exception is the task's failure, said in the log with its text made printable; the worker goes on."""
    incidents = []

    async def handler(work):
        if work.envelope.type == "delegation":
            raise ValueError("no \x1b[31m idea")

    first, second = await delegated(bus), await delegated(bus)
    await bus.worker("@kilo", handler, on_incident=incidents.append).run(until_idle=True)
    for envelope in (first, second):
        assert (await bus.task(envelope.task)).state == "failed"
    payload = (await bus.log.latest(1))[0].envelope.payload
    assert payload.termination_reason == "handler-error"
    assert payload.error_details.message == "ValueError: no \\x1b[31m idea"
    assert len(incidents) == 2


@pytest.mark.parametrize(
    "outcome",
    [
        Completion(result=Result(status="success", description="bell \x07")),
        Verdict(decision="accepted"),
    ],
    ids=["invalid", "illegal"],
)
async def test_an_outcome_that_is_refused_is_a_failure_that_says_why(bus, outcome):
    """What the bus does not take from a handler fails the task, instead of leaving it in nobody's hands."""

    async def handler(_work):
        return outcome

    envelope = await delegated(bus)
    incidents = []
    await bus.worker("@kilo", handler, on_incident=incidents.append).run(until_idle=True)
    assert (await bus.task(envelope.task)).state == "failed"
    assert "refused" in incidents[0]
    assert await bus.inbox("@kilo").waiting() == []


async def test_an_escalation_goes_to_whom_it_names(bus):
    """An outcome may go to somebody else than the delegator."""
    trouble = Escalation(error_details=ErrorDetails(level=2, category="execution", message="stuck"))

    async def handler(_work):
        return Outcome(trouble, recipient="@coordinator")

    envelope = await delegated(bus)
    await bus.worker("@kilo", handler).run(until_idle=True)
    task = await bus.task(envelope.task)
    assert (task.state, task.coordinator) == ("escalated", "@coordinator")


async def test_a_delegator_is_a_worker_too(bus):
    """What comes back to the delegator is delivered to its handler, and settled without an outcome."""
    heard = []

    async def boss(work):
        heard.append(work.envelope.type)
        if work.envelope.type == "completion":
            return [compose(Verdict(decision="accepted"), sender="@boss", recipient="@kilo", task=work.delivery.task)]
        return None

    async def kilo(work):
        return DONE if work.envelope.type == "delegation" else None

    envelope = await delegated(bus)
    await bus.worker("@kilo", kilo).run(until_idle=True)
    await bus.worker("@boss", boss).run(until_idle=True)
    assert heard == ["acknowledgment", "completion"]
    assert (await bus.task(envelope.task)).state == "accepted"


async def test_a_handler_that_fails_on_news_gets_them_again_a_few_times(bus):
    """A failure on what is no work of its own leaves the delivery to its lease, three times at most."""
    calls = []

    async def boss(work):
        calls.append(work.envelope.type)
        raise RuntimeError("not now")

    envelope = await delegated(bus)
    decline = compose(Cancellation(reason="r"), sender="@boss", recipient="@kilo", task=envelope.task)
    await bus.publish(decline)
    with anyio.fail_after(20):
        await bus.worker("@kilo", boss, lease=0.05).run(until_idle=True)
    assert calls == ["cancellation"] * 3
    assert await bus.inbox("@kilo").waiting() == []


async def test_a_long_handler_runs_once(bus):
    """A handler that takes many times its lease is not given to another worker meanwhile."""
    runs = []

    async def handler(work):
        runs.append(work.delivery.token)
        await anyio.sleep(1.0)
        return DONE

    envelope = await delegated(bus)
    with anyio.fail_after(20):
        async with anyio.create_task_group() as group:
            for _ in range(2):
                worker = bus.worker("@kilo", handler, lease=0.1)
                group.start_soon(partial(worker.run, until_idle=True))
    assert len(runs) == 1
    assert (await bus.task(envelope.task)).state == "completed"


async def test_cancelling_the_task_cancels_the_handler(bus):
    """The worker notices that its task is not wanted any more, and stops the handler."""
    cancelled = anyio.Event()

    async def handler(work):
        if work.envelope.type == "delegation":
            try:
                await bus.publish(
                    compose(Cancellation(reason="no"), sender="@boss", recipient="@kilo", task=work.delivery.task)
                )
                await anyio.sleep_forever()
            finally:
                cancelled.set()

    envelope = await delegated(bus)
    with anyio.fail_after(20):
        await bus.worker("@kilo", handler, lease=0.1).run(limit=1)
    assert cancelled.is_set()
    assert (await bus.task(envelope.task)).state == "canceled"


async def test_concurrency_is_bounded(bus):
    """No more handlers than asked for run at a time, and that many do."""
    running_now, most = 0, 0
    three = anyio.Event()

    async def handler(work):
        nonlocal running_now, most
        running_now += 1
        most = max(most, running_now)
        if most == 3:
            three.set()
        await three.wait()
        await anyio.sleep(0.01)
        running_now -= 1
        return DONE

    for _ in range(9):
        await delegated(bus)
    with anyio.fail_after(20):
        await bus.worker("@kilo", handler, concurrency=3).run(until_idle=True)
    assert most == 3


async def test_a_stopped_worker_finishes_what_it_has(bus):
    """After `stop` nothing more is taken, and what is under way is settled."""
    envelope = await delegated(bus)
    later = await delegated(bus)
    worker = None

    async def handler(_work):
        worker.stop()
        return DONE

    worker = bus.worker("@kilo", handler)
    with anyio.fail_after(10):
        await worker.run()
    assert (await bus.task(envelope.task)).state == "completed"
    assert (await bus.task(later.task)).state == "submitted"


async def test_stopping_wakes_a_worker_that_waits(bus):
    """A worker that waits for work stops at once."""
    worker = bus.worker("@kilo", lambda _work: None)
    with anyio.move_on_after(10) as patience:
        async with anyio.create_task_group() as group:
            group.start_soon(worker.run)
            await anyio.sleep(0.1)
            worker.stop()
    assert not patience.cancelled_caught
    assert worker.settled == 0


async def test_a_worker_outlives_its_server(namespace):
    """The server is killed and comes back: the worker says so, and works on."""
    incidents = Incidents()
    done = anyio.Event()

    async def handler(_work):
        done.set()
        return DONE

    with running(bundled_binary()) as server:
        async with Connection.open(server.url, timeout=1) as connection:
            bus = Bus(connection, namespace)
            again = None
            with anyio.fail_after(60):
                async with anyio.create_task_group() as group:
                    worker = bus.worker("@kilo", handler, on_incident=incidents)
                    group.start_soon(worker.run)
                    await anyio.sleep(0.1)
                    server.process.kill()
                    server.process.wait()
                    await incidents.until("Trying again")
                    again = await anyio.to_thread.run_sync(start, bundled_binary(), server.folder)
                    envelope = await delegated(bus)
                    await done.wait()
                    worker.stop()
                assert (await bus.task(envelope.task)).state == "completed"
        end(again)


async def test_a_body_that_cannot_be_read_does_not_stop_the_worker(bus):
    """What cannot be decoded is reported and taken out; what comes after it is worked on."""
    bad = await delegated(bus)
    (entry,) = await bus.log.latest(1)
    await bus.connection.execute("XDEL", bus.keys.log, entry.position.entry)
    fields = ("id", bad.id, "type", "delegation", "from", "@boss", "to", "@kilo", "task", bad.task, "body", "{}")
    good_position = entry.position.entry
    await bus.connection.execute("DEL", bus.keys.log)
    await bus.connection.execute("XADD", bus.keys.log, good_position, *fields)
    good = await delegated(bus)
    incidents = []

    async def handler(_work):
        return DONE

    await bus.worker("@kilo", handler, on_incident=incidents.append).run(until_idle=True)
    assert "cannot be dealt with" in incidents[0]
    assert (await bus.task(good.task)).state == "completed"
    assert (await bus.task(bad.task)).state == "escalated"
    (escalation,) = [entry for entry in await bus.log.latest(10) if entry.type == "escalation"]
    assert (escalation.recipient, escalation.envelope.payload.error_details.category) == ("@boss", "validation")


async def test_what_the_bus_refuses_a_handler_fails_its_task(bus):
    """A handler whose own publishing is refused has failed; its task is not left in nobody's hands."""

    async def handler(work):
        await work.bus.publish(compose(Status(progress="p"), sender="@kilo", recipient="@boss", task="nowhere"))

    envelope = await delegated(bus)
    await bus.worker("@kilo", handler).run(until_idle=True)
    assert (await bus.task(envelope.task)).state == "failed"
    assert "nowhere" in (await bus.log.latest(1))[0].envelope.payload.error_details.message


async def test_an_id_that_was_used_fails_the_task(bus):
    """An outcome under an ID that stands in the log with other content is refused, and the task fails."""
    envelope = await delegated(bus)

    async def handler(work):
        copy = work.reply(Outcome(DONE))
        return [type(copy)(**{name: getattr(copy, name) for name in copy.__struct_fields__} | {"id": envelope.id})]

    await bus.worker("@kilo", handler).run(until_idle=True)
    assert (await bus.task(envelope.task)).state == "failed"


async def test_a_worker_that_lost_its_delivery_publishes_nothing(bus):
    """Whoever comes back with an old token is refused, says so, and leaves the delivery to its new owner."""
    envelope = await delegated(bus)
    incidents = []
    owner = bus.inbox("@kilo", lease=60)
    mine = []

    async def handler(work):
        await bus.connection.execute("ZADD", bus.keys.leases("@kilo"), 1, work.delivery.name)
        mine.extend((await owner.take()).deliveries)
        return DONE

    with anyio.fail_after(20):
        await bus.worker("@kilo", handler, on_incident=incidents.append).run(limit=1)
    assert "taken again" in incidents[0] or "not the newest" in incidents[0]
    assert (await bus.task(envelope.task)).state == "working"
    await owner.settle(mine[0], [mine_outcome(envelope.task)])
    assert (await bus.task(envelope.task)).state == "completed"


def mine_outcome(task):
    """The completion of the delivery's new owner."""
    return compose(DONE, sender="@kilo", recipient="@boss", task=task)


async def test_a_position_that_is_gone_is_reported(bus):
    """An inbox that points at nothing in the log is said, and the worker goes on."""
    await delegated(bus)
    (entry,) = await bus.log.latest(1)
    await bus.connection.execute("XDEL", bus.keys.log, entry.position.entry)
    later = await delegated(bus)
    incidents = []

    async def handler(_work):
        return DONE

    await bus.worker("@kilo", handler, on_incident=incidents.append).run(until_idle=True)
    assert str(entry.position) in incidents[0]
    assert (await bus.task(later.task)).state == "completed"


async def test_until_idle_ends_with_the_last_handler(bus):
    """With several handlers at a time, the worker ends when the last one has, not a lease later."""

    async def handler(work):
        await anyio.sleep(0.05 if work.envelope.payload.goal == "g" else 0)
        return DONE

    for _ in range(3):
        await delegated(bus)
    with anyio.fail_after(15):
        await bus.worker("@kilo", handler, concurrency=2, lease=60).run(until_idle=True)
    assert await bus.inbox("@kilo").waiting() == []


async def test_work_outlives_a_server_that_is_away_for_a_while(namespace):
    """The server is gone when the worker starts, and again while it works: the work is done once it is back."""
    incidents, settled = Incidents(), anyio.Event()
    away, runs = anyio.Event(), []

    with running(bundled_binary()) as server:
        async with Connection.open(server.url, timeout=0.3) as connection:
            bus = Bus(connection, namespace)
            envelope = await delegated(bus)

            async def handler(_work):
                runs.append(1)
                if len(runs) == 1:
                    end(servers[-1])
                    await incidents.until("not renewed")
                    away.set()
                return DONE

            end(server)
            servers = []
            worker = bus.worker("@kilo", handler, lease=0.5, on_incident=incidents, on_settled=lambda *_: settled.set())
            with anyio.fail_after(60):
                async with anyio.create_task_group() as group:
                    group.start_soon(worker.run)
                    await incidents.until("Trying again")
                    servers.append(await anyio.to_thread.run_sync(start, bundled_binary(), server.folder))
                    await away.wait()
                    await incidents.until("left to its lease")
                    servers.append(await anyio.to_thread.run_sync(start, bundled_binary(), server.folder))
                    await settled.wait()
                    worker.stop()
                assert (await bus.task(envelope.task)).state == "completed"
                kinds = await talk(bus, envelope.task)
        end(servers[-1])
    assert kinds == ["delegation", "acknowledgment", "completion"]


async def test_a_handler_that_makes_nothing_of_its_work_has_failed(bus):
    """Work without an outcome fails the task, instead of leaving it in nobody's hands."""

    async def handler(_work):
        return None

    envelope = await delegated(bus)
    await bus.worker("@kilo", handler).run(until_idle=True)
    assert (await bus.task(envelope.task)).state == "failed"
    assert "without an outcome" in (await bus.log.latest(1))[0].envelope.payload.error_details.message


async def test_the_result_goes_to_the_delegator(bus):
    """After a coordinator has handed the task to another agent, the result still goes to who may judge it."""
    trouble = Escalation(error_details=ErrorDetails(level=2, category="execution", message="stuck"))

    async def kilo(_work):
        return Outcome(trouble, recipient="@coordinator")

    async def other(work):
        return DONE if work.envelope.type == "delegation" else None

    envelope = await delegated(bus)
    await bus.worker("@kilo", kilo).run(until_idle=True)
    again = compose(Delegation(goal="g"), sender="@coordinator", recipient="@other", task=envelope.task)
    await bus.publish(again)
    await bus.worker("@other", other).run(until_idle=True)
    assert (await bus.log.latest(1))[0].recipient == "@boss"


async def test_what_ends_the_work_is_returned_not_said(bus):
    """A handler that says a question and goes on is told to return it."""

    async def handler(work):
        await work.say(Question(question="which?"))
        return DONE

    envelope = await delegated(bus)
    await bus.worker("@kilo", handler).run(until_idle=True)
    assert (await bus.task(envelope.task)).state == "failed"
    assert await talk(bus, envelope.task) == ["delegation", "acknowledgment", "completion"]


async def test_a_renewal_does_not_cut_off_the_settlement(bus):
    """However often the lease is renewed, a settled delivery is told as settled, and is no incident."""
    incidents, settled = [], []

    async def handler(_work):
        return DONE

    for _ in range(30):
        await delegated(bus)
    worker = bus.worker(
        "@kilo", handler, lease=0.004, on_incident=incidents.append, on_settled=lambda *_: settled.append(1)
    )
    with anyio.fail_after(30):
        await worker.run(until_idle=True)
    completions = [entry async for entry in bus.log.read() if entry.type == "completion"]
    assert len(completions) == 30
    assert not [what for what in incidents if "settled, canceled" in what]


async def test_sub_tasks_say_which_tree_they_belong_to(bus):
    """What a worker says of a part names the root of the tree, as the log does."""

    async def handler(_work):
        return DONE

    root = await delegated(bus)
    await delegated(bus, parent=root.task)
    await bus.worker("@kilo", handler).run(until_idle=True)
    last = (await bus.log.latest(1))[0]
    assert (last.root, last.envelope.context.correlation_id) == (root.task, root.task)


@pytest.mark.parametrize(
    ("returned", "named"),
    [("hello", "str"), (7, "int"), ({"status": "success"}, "dict"), ([DONE, "x"], "list with str in it")],
)
async def test_a_wrong_return_is_named_with_what_was_expected(bus, returned, named):
    """The author of a handler reads in the failure what a handler may return."""

    async def handler(_work):
        return returned

    envelope = await delegated(bus)
    await bus.worker("@kilo", handler).run(until_idle=True)
    assert (await bus.task(envelope.task)).state == "failed"
    assert (await bus.log.latest(1))[0].envelope.payload.error_details.message == (
        f"the handler returned {named}; expected a payload such as Completion, an Outcome, a list of them, or None"
    )


async def test_what_a_handler_raises_is_logged_with_its_traceback(bus, caplog, capfd):
    """The line of the incident says what; the log says where. Nothing is printed."""

    async def handler(_work):
        raise ValueError("no idea")

    await delegated(bus)
    await bus.worker("@kilo", handler).run(until_idle=True)
    (record,) = [each for each in caplog.records if each.name == "taskbus.worker"]
    assert record.levelname == "ERROR"
    assert record.exc_info[0] is ValueError
    assert capfd.readouterr() == ("", "")


async def test_a_program_without_logging_prints_nothing():
    """Python prints errors that nobody listens to; a library's are not its to print."""
    program = "import logging, taskbus.worker; logging.getLogger('taskbus.worker').error('x')"
    done = await anyio.run_process([sys.executable, "-c", program])
    assert (done.stdout, done.stderr) == (b"", b"")


async def test_a_worker_that_waits_for_another_says_so_and_ends_soon_after_it(bus):
    """It does not sit out the lease of a delivery that was settled long ago."""
    envelope = await delegated(bus)
    other = bus.inbox("@kilo", consumer="worker-other", lease=600)
    (delivery,) = (await other.take()).deliveries
    incidents = Incidents()
    with anyio.fail_after(30):
        async with anyio.create_task_group() as group:
            worker = bus.worker("@kilo", lambda _work: None, on_incident=incidents)
            group.start_soon(partial(worker.run, until_idle=True))
            await incidents.until("Waiting for 1 delivery that worker-other holds.")
            await anyio.sleep(1.2)
            await bus.publish(
                compose(Acknowledgment(accepted=True), sender="@kilo", recipient="@boss", task=envelope.task),
                token=delivery.token,
            )
            await other.settle(delivery, [mine_outcome(envelope.task)])
    assert len(incidents) == 1


async def test_an_outage_is_told_once_and_so_is_its_end(namespace):
    """However long the server is away, it is one line with what to do, and one when it is back."""
    incidents = Incidents()

    async def handler(_work):
        return DONE

    with running(bundled_binary()) as server:
        async with Connection.open(server.url, timeout=0.3) as connection:
            worker = Bus(connection, namespace).worker("@kilo", handler, on_incident=incidents)
            worker.advice = "`bus up` starts it."
            again = None
            with anyio.fail_after(60):
                async with anyio.create_task_group() as group:
                    group.start_soon(worker.run)
                    await anyio.sleep(0.1)
                    end(server)
                    await incidents.until("Trying again")
                    await anyio.sleep(2.5)
                    again = await anyio.to_thread.run_sync(start, bundled_binary(), server.folder)
                    await incidents.until("The server is back.")
                    worker.stop()
        end(again)
    away, back = incidents
    assert away.endswith(" Trying again. `bus up` starts it.")
    assert back == "The server is back."
