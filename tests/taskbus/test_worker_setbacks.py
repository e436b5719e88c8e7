"""The worker's setbacks: what becomes of a delivery that was not dealt with, by the reason of it."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import anyio
import pytest
from msgspec import structs

from taskbus.client import Bus
from taskbus.envelope import Cancellation, Completion, ErrorDetails, Question, Result, Status, Verdict, compose
from taskbus.errors import Permanent, QuotaLimited, RefusedByBudget, Retryable
from taskbus.parked import parked
from taskbus.terms import Terms
from taskbus.work import Outcome
from tests.taskbus.workplace import (
    DONE,
    Meeting,
    at_work,
    delegated,
    escalation_of,
    failing,
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


async def test_what_failed_is_tried_again(bus):
    """After a pause, by the same rule for what says that it may be retried and for what nobody foresaw."""
    envelope = await delegated(bus)
    calls, incidents = [], []
    handler = failing(Retryable("no network"), calls=calls, times=2)
    await idle(bus.worker("@kilo", handler, attempts=3, backoff=0, on_incident=incidents.append))
    assert [delivery.tries for delivery in calls] == [1, 2, 3]
    assert await talk(bus, envelope.task) == ["delegation", "acknowledgment", "completion"]
    assert [what.partition(" failed ")[2][:14] for what in incidents] == ["(1 of 3 tries)", "(2 of 3 tries)"]
    assert all(what.endswith("no network") for what in incidents)


@pytest.mark.parametrize(
    ("error", "reason"),
    [(Permanent("no such file"), "permanent"), (RefusedByBudget("over the cap"), "refused-by-budget")],
    ids=["permanent", "refused-by-budget"],
)
async def test_what_cannot_succeed_is_not_tried_again(bus, error, reason):
    """One call of the handler, and the coordinator decides; also where it was raised in a task group."""
    for nested in (False, True):
        envelope = await delegated(bus)
        calls = []
        raised = ExceptionGroup("unhandled errors in a TaskGroup", [error]) if nested else error
        await idle(bus.worker("@kilo", failing(raised, calls=calls), backoff=0))
        line = await the_parked(bus, envelope)
        assert (line.reason, line.tries, len(calls)) == (reason, 1, 1)
        assert (await escalation_of(bus, envelope)).envelope.payload.error_details.message.endswith(error.message)


async def test_a_used_up_quota_is_waited_for(bus):
    """Until its reset, however often, and no try is counted: one would be too many here."""
    envelope = await delegated(bus)
    calls, incidents = [], []

    async def handler(work):
        calls.append(work.delivery.tries)
        if len(calls) <= 3:
            raise QuotaLimited("used up", until=datetime.now(UTC) + timedelta(seconds=0.15))
        return DONE

    began = anyio.current_time()
    await idle(bus.worker("@kilo", handler, attempts=1, backoff=0, on_incident=incidents.append))
    assert anyio.current_time() - began > 0.4
    assert calls == [1] * 4
    assert await state(bus, envelope) == "completed"
    assert "+00:00: used up" in incidents[0]


async def test_a_worker_wakes_for_a_quota_by_itself(bus):
    """One that is idle beside another delivery does not sleep past the reset."""
    limited, other = await delegated(bus), await delegated(bus)
    meeting, calls = Meeting(), []

    async def handler(work):
        if work.delivery.task == other.task:
            return await meeting(work)
        calls.append(work.delivery)
        if len(calls) == 1:
            raise QuotaLimited(until=datetime.now(UTC) + timedelta(seconds=0.2))
        return DONE

    async with at_work(bus.worker("@kilo", handler, concurrency=2, lease=600), seconds=4):
        await reached(bus, limited, "completed")
    assert meeting.cancelled == [other.task]


async def test_a_reset_that_is_over_is_no_busy_loop(bus):
    """A clock that is wrong, or a provider that is, does not make the worker spin."""
    await delegated(bus)
    calls = []
    handler = failing(QuotaLimited(until=datetime.now(UTC) - timedelta(hours=1)), calls=calls)
    async with at_work(bus.worker("@kilo", handler, backoff=0)):
        await anyio.sleep(0.6)
    assert 2 <= len(calls) <= 8


async def test_a_handler_has_a_hard_limit(bus):
    """It is cancelled when it is reached, and its work parked at once."""
    envelope = await delegated(bus)
    meeting = Meeting()
    await idle(bus.worker("@kilo", meeting, hard_limit=0.1, lease=600))
    assert (await the_parked(bus, envelope)).reason == "timed-out"
    assert meeting.cancelled == [envelope.task]
    assert "0.1 s" in (await escalation_of(bus, envelope)).envelope.payload.error_details.message


async def test_a_handler_that_fails_when_it_is_cut_off_was_cut_off(bus):
    """What it raises on its way out does not make its delivery one that may be tried again."""
    envelope = await delegated(bus)

    async def handler(_work):
        try:
            await anyio.sleep_forever()
        finally:
            raise OSError("the pipe is closed")

    await idle(bus.worker("@kilo", handler, hard_limit=0.05, backoff=0))
    assert (await the_parked(bus, envelope)).reason == "timed-out"


async def test_the_hard_limit_begins_with_the_handler(bus):
    """What waits for its turn has not begun yet."""
    for _ in range(4):
        await delegated(bus)

    async def handler(_work):
        await anyio.sleep(0.15)
        return DONE

    await idle(bus.worker("@kilo", handler, prefetch=9, hard_limit=0.4))
    assert await parked(bus, "@kilo") == []


@pytest.mark.parametrize(
    ("outcome", "named"),
    [
        (Completion(result=Result(status="success", description="bell \x07")), "U+0007"),
        (Verdict(decision="accepted"), "may not send"),
        ("hello", "the handler returned str; expected a payload"),
        (7, "the handler returned int; expected a payload"),
        ({"status": "success"}, "the handler returned dict; expected a payload"),
        ([DONE, "x"], "list with str in it"),
        (None, "without an outcome"),
    ],
    ids=["invalid", "illegal", "text", "number", "dict", "mixed", "nothing"],
)
async def test_an_outcome_that_is_refused_parks_and_says_why(bus, outcome, named):
    """What the bus does not take today it does not take tomorrow: the handler is not called again for it."""
    envelope = await delegated(bus)
    calls = []

    async def handler(work):
        calls.append(work)
        return outcome

    await idle(bus.worker("@kilo", handler, backoff=0))
    assert (await the_parked(bus, envelope)).reason == "permanent"
    message = (await escalation_of(bus, envelope)).envelope.payload.error_details.message
    assert "the outcome was refused: " in message
    assert named in message
    assert len(calls) == 1


async def test_an_id_that_was_used_parks(bus):
    """An outcome under an ID that stands in the log with other content is refused."""
    envelope = await delegated(bus)

    async def handler(work):
        return [structs.replace(work.reply(Outcome(DONE)), id=envelope.id)]

    await idle(bus.worker("@kilo", handler))
    assert (await the_parked(bus, envelope)).reason == "permanent"


async def test_what_is_said_of_news_is_refused_at_once(bus):
    """A status about a task that is nobody's work any more does not go round until its lease has lapsed thrice."""
    envelope = await delegated(bus)
    await bus.publish(compose(Cancellation(reason="r"), sender="@boss", recipient="@kilo", task=envelope.task))

    async def handler(work):
        await work.say(Status(progress="too late"))

    await idle(bus.worker("@kilo", handler, lease=600, backoff=0, attempts=2), seconds=10)
    (line,) = await parked(bus, "@kilo")
    assert (line.is_work, line.entry.type) == (False, "cancellation")


async def test_a_failure_that_is_returned_is_the_outcome(bus):
    """A handler that says that the work failed has dealt with it: it is the delegator's turn."""
    envelope = await delegated(bus)
    failure = Completion(
        result=Result(status="failure"),
        error_details=ErrorDetails(level=1, category="execution", message="it cannot be done"),
    )

    async def handler(_work):
        return failure

    await idle(bus.worker("@kilo", handler))
    assert await state(bus, envelope) == "failed"
    assert await parked(bus, "@kilo") == []


async def test_what_ends_the_work_is_returned_not_said(bus):
    """A handler that says a question and goes on is told to return it."""
    envelope = await delegated(bus)

    async def handler(work):
        await work.say(Question(question="which?"))

    await idle(bus.worker("@kilo", handler, attempts=1))
    assert "question" in (await escalation_of(bus, envelope)).envelope.payload.error_details.message
    assert "question" not in await talk(bus, envelope.task)


async def test_something_cancelled_that_the_handler_waited_for_is_its_failure(bus):
    """A cancellation that is not the worker's neither ends the worker nor leaves the delivery in its hands."""
    envelope = await delegated(bus)
    calls = []

    async def handler(_work):
        calls.append(1)
        if len(calls) == 1:
            raise anyio.get_cancelled_exc_class()
        return DONE

    await idle(bus.worker("@kilo", handler, backoff=0, lease=600), seconds=10)
    assert await state(bus, envelope) == "completed"


async def test_what_a_handler_raises_is_logged_and_made_printable(bus, caplog, capfd):
    """The line of the incident says what, the log says where; nothing is printed, and no terminal is disturbed."""
    envelope = await delegated(bus)
    incidents = []
    handler = failing(ValueError("no \x1b[31m idea"))
    await idle(bus.worker("@kilo", handler, attempts=1, on_incident=incidents.append))
    (record,) = [each for each in caplog.records if each.name == "taskbus.worker"]
    assert (record.levelname, record.exc_info[0]) == ("ERROR", ValueError)
    assert capfd.readouterr() == ("", "")
    assert incidents[0].endswith("is parked (retryable): ValueError: no \\x1b[31m idea")
    assert "\\x1b" in (await escalation_of(bus, envelope)).envelope.payload.error_details.message


async def test_a_retry_is_not_later_than_its_pause(bus):
    """A worker with room for more, or another one that is idle, is woken in time for what it gave back."""
    envelope, other = await delegated(bus), await delegated(bus)
    meeting, calls = Meeting(), []

    async def handler(work):
        if work.delivery.task == other.task:
            return await meeting(work)
        calls.append(work.delivery)
        if len(calls) == 1:
            await anyio.sleep(0.2)  # until the other slot waits for more
            raise OSError("x")
        return DONE

    async with at_work(bus.worker("@kilo", handler, concurrency=3, lease=600, backoff=0.1), seconds=4):
        await meeting.of(1)
        await reached(bus, envelope, "completed")


async def test_a_pause_grows_with_the_failures(bus):
    """Doubled each time, up to the longest, and never less than half of that."""
    terms = Terms(backoff=1.0, longest_backoff=10.0)
    for tries, longest in ((1, 1.0), (2, 2.0), (3, 4.0), (4, 8.0), (5, 10.0), (2000, 10.0)):
        pauses = [terms.pause(tries) for _ in range(200)]
        assert all(longest / 2 <= pause <= longest for pause in pauses)
        assert max(pauses) - min(pauses) > longest / 10
