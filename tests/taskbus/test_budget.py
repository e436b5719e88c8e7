"""The budget on every server: what is reserved, how it ends, what counts, and how other buses' budgets failed."""

from __future__ import annotations

from contextlib import suppress

import anyio
import pytest
from msgspec import structs

from taskbus.accounts import WARN
from taskbus.append import Submission, Unit, all_appended, append, commit
from taskbus.cli.options import exit_code
from taskbus.client import Bus
from taskbus.codec import document
from taskbus.delivery import Delivery
from taskbus.envelope import (
    Acknowledgment,
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
)
from taskbus.errors import (
    BudgetLost,
    Conflict,
    Fenced,
    LifecycleConflict,
    Moved,
    NotFound,
    OverBudget,
    Permanent,
    RefusedByBudget,
    UsageError,
)
from taskbus.lifecycle import MONEY
from taskbus.money import MOST
from taskbus.setbacks import Setback
from taskbus.supervision import Supervision, look
from taskbus.terms import Terms
from taskbus.waits import Waits
from taskbus.work import Outcome
from tests.taskbus.workplace import Incidents, idle

pytestmark = pytest.mark.anyio

CAPS = {("provider:anthropic", "month"): 1000}
ACCEPTED = Acknowledgment(accepted=True)
DONE = Completion(result=Result(status="success"))


@pytest.fixture
def bus(any_connection, namespace):
    """A bus on every server."""
    return Bus(any_connection, namespace)


def call(microusd=None, provider="anthropic", model="opus"):
    """A call of a model, without a price where none is given."""
    cost = None if microusd is None else Cost(source="reported", microusd=microusd)
    return Usage(provider=provider, model=model, cost=cost)


async def say(bus, payload, task="t", *, sender="@kilo", recipient="@boss", usage=(), token=None):
    """Say something of a task."""
    envelope = compose(payload, sender=sender, recipient=recipient, task=task, usage=usage)
    await bus.publish(envelope, token=token)
    return envelope


async def working(bus, *tasks, agent="@kilo", parent=None):
    """Tasks that an agent works on."""
    for task in tasks:
        delegation = compose(Delegation(goal="g"), sender="@boss", recipient=agent, task=task, parent=parent)
        await bus.publish(delegation)
        await say(bus, ACCEPTED, task, sender=agent)


async def reserve(bus, task="t", microusd=100, **more):
    """Reserve money for a run of @kilo."""
    given = {"agent": "@kilo", "provider": "anthropic", "model": "opus", "caps": CAPS, **more}
    return await bus.budget.reserve(task, microusd=microusd, **given)


async def spent(bus, account="provider:anthropic", period="month"):
    """What an account has committed and held now, and how many calls have no price."""
    found = [each for each in await bus.budget.accounts() if (each.account, each.period) == (account, period)]
    return (found[0].committed, found[0].held, found[0].unpriced) if found else (0, 0, 0)


async def records(bus, kind):
    """The records of a kind that the log holds."""
    return [
        entry.envelope
        async for entry in bus.log.read()
        if entry.type == "budget" and entry.envelope.payload.budget == kind
    ]


# How the budgets of others failed, each by its name.


async def test_check_then_increment_lets_nobody_through(bus):
    """A hundred at once, each of which fits by itself: as many are let in as fit together, and no more."""
    names = [f"t{number}" for number in range(100)]
    await working(bus, *names)
    let_in = []

    async def one(task):
        with suppress(OverBudget):
            let_in.append(await reserve(bus, task, 90))

    async with anyio.create_task_group() as group:
        for task in names:
            group.start_soon(one, task)
    assert len(let_in) == 1000 // 90
    assert await spent(bus) == (0, 90 * len(let_in), 0)
    assert await bus.budget.check() == []


async def test_check_then_increment_within_one_call(bus):
    """What the same call has reserved before counts: of a batch, as many are let in as fit."""
    names = [f"t{number}" for number in range(20)]
    await working(bus, *names)

    def one(task):
        said = Budget(budget="reserved", hold=Hold(id=f"h-{task}", microusd=300), provider="anthropic", model="opus")
        envelope = compose(said, sender="@kilo", recipient="@bus", task=task)
        return Submission(document(envelope), caps=CAPS)

    answers = await append(bus.connection, bus.keys, [one(task) for task in names], atomic=False)
    assert [isinstance(each, OverBudget) for each in answers] == [False] * 3 + [True] * 17
    assert await spent(bus) == (0, 900, 0)
    # A unit that is refused as a whole has reserved nothing, and leaves the room to the next one.
    await bus.budget.release("t0")
    answer = Submission(document(compose(Status(progress="x"), sender="@boss", recipient="@kilo", task="t5")))
    units = [Unit((one("t5"), one("t6"))), Unit((one("t5"), answer)), Unit((one("t7"),)), Unit((one("t8"),))]
    zeroth, first, second, third = await commit(bus.connection, bus.keys, units)
    assert [type(each).__name__ for each in zeroth] == ["Skipped", "OverBudget"]
    assert [type(each).__name__ for each in first] == ["Skipped", "LifecycleConflict"]
    all_appended(second)
    assert isinstance(third[0], OverBudget)
    assert await bus.budget.check() == []


async def test_a_failed_reservation_stops_the_run(bus):
    """A handler whose reservation fails runs no model: its work is parked, and escalated with what can be done."""
    await bus.publish(compose(Delegation(goal="g"), sender="@boss", recipient="@kilo", task="t"))
    ran = []

    async def handler(work):
        await work.acknowledged()
        await work.bus.budget.reserve(work.delivery, provider="anthropic", model="opus", microusd=2000, caps=CAPS)
        ran.append(work)
        return DONE

    await idle(bus.worker("@kilo", handler, backoff=0))
    assert ran == []
    entries = [entry async for entry in bus.log.read() if entry.type in ("escalation", "parking")]
    escalation, parking = (entry.envelope for entry in entries)
    assert parking.payload.reason == "refused-by-budget"
    assert escalation.recipient == "@boss"
    details = escalation.payload.error_details
    assert "$0.002 do not fit under the cap of provider:anthropic in 2" in details.message
    for choice in ("Reserve less", "--task t", "bus budget set 'provider:anthropic' AMOUNT --per month"):
        assert choice in details.attempted_recovery
    assert await spent(bus) == (0, 0, 0)


async def test_a_cancelled_call_leaks_no_hold(bus):
    """Whatever ends the run while it holds money: what was used of it counts, and nothing stays held."""
    await working(bus, "t")

    async def run(started):
        async with bus.budget.held(
            "t", agent="@kilo", provider="anthropic", model="opus", microusd=500, caps=CAPS
        ) as run:
            run.usage.append(call(900))
            started.set()
            await anyio.sleep_forever()

    async with anyio.create_task_group() as group:
        started = anyio.Event()
        group.start_soon(run, started)
        await started.wait()
        assert await spent(bus) == (0, 500, 0)
        group.cancel_scope.cancel()
    assert await spent(bus) == (900, 0, 0)
    assert await bus.budget.holds() == []
    # That comes after the settlement, so it was waited for.
    assert len(await records(bus, "warned")) == 1
    with pytest.raises(ZeroDivisionError):
        async with bus.budget.held("t", agent="@kilo", provider="anthropic", model="opus", microusd=500):
            raise ZeroDivisionError
    assert await spent(bus) == (900, 0, 0)


@pytest.mark.parametrize("ending", ["cancellation", "question", "completion", "escalation", "delegation"])
async def test_a_hold_ends_with_the_work(bus, ending):
    """Whatever ends the work, or interrupts it, gives back what was held, in the same step."""
    await working(bus, "t")
    await reserve(bus)
    if ending == "cancellation":
        await say(bus, Cancellation(reason="no"), sender="@boss", recipient="@kilo")
    elif ending == "question":
        await say(bus, Question(question="?"))
    elif ending == "completion":
        await say(bus, DONE, usage=(call(30),))
    else:
        await say(bus, Escalation(error_details=ErrorDetails(level=2, category="execution", message="no")))
    if ending == "delegation":
        await say(bus, Delegation(goal="again"), sender="@boss", recipient="@other")
    assert await bus.budget.holds() == []
    assert await spent(bus) == (30 if ending == "completion" else 0, 0, 0)
    assert await bus.budget.check() == []


async def test_a_hold_stays_while_the_work_goes_on(bus):
    """A status ends nothing, nor what is said of other tasks."""
    await working(bus, "t", "u")
    await reserve(bus)
    await say(bus, Status(progress="half"), usage=(call(5),))
    await say(bus, DONE, "u")
    assert await spent(bus) == (5, 100, 0)


async def test_no_counter_is_local_to_a_process(any_connection, namespace):
    """Another client, that knows nothing, is refused for what the first one holds; what ends it there frees it here."""
    first, second = Bus(any_connection, namespace), Bus(any_connection, namespace)
    await working(first, "t", "u")
    hold = await reserve(first, "t", 1000)
    with pytest.raises(OverBudget):
        await reserve(second, "u", 1)
    await second.budget.settle(hold)
    await reserve(second, "u", 1000)


async def test_a_fallback_from_free_to_paid_is_checked_again(bus):
    """What is free is reserved with nothing, whatever the cap; a run that turns to a paid model is checked for it."""
    await working(bus, "t", "u")
    await reserve(bus, "u", 1000)
    free = await reserve(bus, "t", 0, provider="local", model="qwen")
    assert free.microusd == 0
    await reserve(bus, "t", 0)
    with pytest.raises(OverBudget):
        await reserve(bus, "t", 1)
    assert [hold.microusd for hold in await bus.budget.holds()] == [1000, 0]


async def test_what_has_no_price_is_counted_and_never_free(bus):
    """A call without a price is an unpriced call of each account, beside what is committed, and no amount of 0."""
    await working(bus, "t")
    await say(bus, DONE, usage=(call(), call(7), call()))
    assert await spent(bus) == (7, 0, 2)
    assert await spent(bus, "task:t", "task") == (7, 0, 2)


@pytest.mark.parametrize("form", ["status", "completion", "verdict", "delegation", "acknowledgment", "settled"])
async def test_spending_counts_in_whatever_form_it_is_told(bus, form):
    """Any envelope that reports usage commits it to the provider's, the sender's and the tree's accounts."""
    await working(bus, "root")
    await working(bus, "t", parent="root")
    said = (call(40), call(2, provider="open router"))
    sender = "@kilo"
    if form == "status":
        await say(bus, Status(progress="x"), usage=said)
    elif form == "completion":
        await say(bus, DONE, usage=said)
    elif form == "settled":
        await bus.budget.settle(await reserve(bus), said)
    elif form == "verdict":
        sender = "@boss"
        await say(bus, DONE)
        await say(bus, Verdict(decision="accepted"), sender=sender, recipient="@kilo", usage=said)
    elif form == "delegation":
        sender = "@boss"
        await bus.publish(
            compose(Delegation(goal="g"), sender=sender, recipient="@kilo", task="v", parent="root", usage=said)
        )
    else:
        sender = "@new"
        await bus.publish(compose(Delegation(goal="g"), sender="@boss", recipient=sender, task="v", parent="root"))
        await say(bus, ACCEPTED, "v", sender=sender, usage=said)
    assert await spent(bus) == (40, 0, 0)
    assert await spent(bus, "provider:open router", "day") == (2, 0, 0)
    assert await spent(bus, f"agent:{sender}") == (42, 0, 0)
    assert await spent(bus, "task:root", "task") == (42, 0, 0)
    assert await bus.budget.check() == []


async def test_a_worst_case_hold_stands_in_the_way_no_longer_than_its_run(bus):
    """A hold far above the real cost refuses others only while its run may still use it: settled, the rest is free at
    once; and the refusal tells what is held apart from what is spent.
    """
    await working(bus, "t", "u")
    hold = await reserve(bus, "t", 950)
    with pytest.raises(OverBudget) as refused:
        await reserve(bus, "u", 100)
    assert (refused.value.committed, refused.value.held) == (0, 950)
    assert "$0.00 are spent and $0.00095 reserved of $0.001" in refused.value.message
    await bus.budget.settle(hold, [call(20)])
    await reserve(bus, "u", 980)


async def test_work_waits_for_what_other_runs_only_hold(bus):
    """Four tasks at once, of which one alone fits while it runs, though none costs much: the others wait for it, each
    is told of once, is tried as often as if nothing had been, and nobody is asked.
    """
    tasks = [f"t{number}" for number in range(4)]
    for task in tasks:
        await bus.publish(compose(Delegation(goal="g"), sender="@boss", recipient="@kilo", task=task))
    tries, incidents, asked = {}, Incidents(), 0

    async def handler(work):
        nonlocal asked
        asked += 1
        await work.acknowledged()
        await work.bus.budget.reserve(work.delivery, provider="anthropic", model="opus", microusd=900, caps=CAPS)
        tries[work.delivery.task] = work.delivery.tries
        while len(incidents) < 3 or asked < 9:  # noqa: ASYNC110 - the worker tells nobody that it tries again
            await anyio.sleep(0.01)
        return Outcome(DONE, (call(15),))

    await idle(bus.worker("@kilo", handler, concurrency=4, attempts=2, backoff=0, on_incident=incidents))
    assert tries == dict.fromkeys(tasks, 1)
    (waited, *_), said = (
        [what for what in incidents if "waits for money" in what],
        "$0.00 are spent and $0.0009 reserved",
    )
    assert said in waited
    assert len([what for what in incidents if "waits for money" in what]) == 3
    types = [entry.type async for entry in bus.log.read()]
    assert (types.count("completion"), types.count("escalation"), types.count("parking")) == (4, 0, 0)
    assert await spent(bus) == (60, 0, 0)
    assert await bus.budget.check() == []


async def test_what_is_parked_at_once_though_others_only_hold_the_room(bus):
    """A handler that says so, since the next rung is to have it; and where one of the accounts has spent its cap."""
    await working(bus, "held")
    await reserve(bus, "held", 900)

    async def handler(work):
        await work.acknowledged()
        try:
            await work.bus.budget.reserve(work.delivery, provider="anthropic", model="opus", microusd=200, caps=CAPS)
        except OverBudget as error:
            raise RefusedByBudget(error.message) from error

    await bus.publish(compose(Delegation(goal="g"), sender="@boss", recipient="@kilo", task="t"))
    await idle(bus.worker("@kilo", handler, backoff=0))
    assert (await bus.task("t")).state == "escalated"

    await bus.budget.set_cap("agent:@cline", "day", 150, reason="Little.")
    await working(bus, "u", agent="@cline")
    with pytest.raises(OverBudget) as refused:
        await reserve(bus, "u", 200, agent="@cline")
    error = refused.value
    assert (error.account, error.is_held, [each.account for each in error.full]) == (
        *("agent:@cline", False),
        ["agent:@cline", "provider:anthropic"],
    )


def test_the_pause_of_what_waits_for_money_grows(monkeypatch):
    """From a second to half a minute, spread, and with the number of those that wait; forgotten after a while."""
    clock = [1000.0]
    monkeypatch.setattr("taskbus.waits.monotonic", lambda: clock[0])
    waits, terms, held = Waits(), Terms(), Setback("refused-by-budget", "x", waits=True)
    one, other = (Delivery("@kilo", name, 1, 1, None, None) for name in ("a", "b"))
    pauses, told = [], []
    for _ in range(9):
        seconds, said = waits.next(one, held, terms)
        pauses.append(seconds)
        told.append(said is not None)
        clock[0] += seconds
    assert all(low <= each <= 2 * low for each, low in zip(pauses, (0.5, 1, 2, 4, 8, 15, 15, 15, 15), strict=True))
    assert told == [True] + [False] * 8
    assert waits.next(other, held, terms)[1] is not None
    crowd = [Delivery("@kilo", f"c{number}", 1, 1, None, None) for number in range(1000)]
    assert [waits.next(each, held, terms)[0] for each in crowd][-1] >= 100
    clock[0] += 1000
    seconds, said = waits.next(one, held, terms)
    assert seconds <= 1
    assert said is not None


async def test_a_refusal_names_every_cap_and_what_helps(bus):
    """All accounts without room, first those that no end of a run helps; and to wait only where that does."""
    await working(bus, "t", "u", "v")
    await bus.budget.set_cap("agent:@kilo", "day", 1500, reason="Less.")
    await reserve(bus, "t", 800)
    with pytest.raises(OverBudget) as refused:
        await reserve(bus, "u", 900)
    error = refused.value
    assert [(each.account, each.period) for each in error.full] == [
        ("provider:anthropic", "month"),
        ("agent:@kilo", "day"),
    ]
    assert error.is_held
    assert "; nor under that of agent:@kilo in 2" in error.message
    assert error.advice.startswith("Wait until a run has ended that money is reserved for: `bus budget holds`")
    assert "2026" not in error.advice
    assert "'provider:anthropic' AMOUNT --per month --reason …` and `bus budget set 'agent:@kilo'" in error.advice

    await say(bus, Status(progress="x"), "v", usage=(call(950),))
    with pytest.raises(OverBudget) as refused:
        await reserve(bus, "u", 100)
    error = refused.value
    assert (error.account, error.committed, error.is_held) == ("provider:anthropic", 950, False)
    assert error.advice.startswith(f"Wait until {error.resets:%FT%TZ}, when it is counted anew")
    assert "agent:@kilo" in error.message
    with pytest.raises(OverBudget) as refused:
        await reserve(bus, "u", 1001)
    assert refused.value.advice.startswith("Reserve less: ")
    details = refused.value.details()
    assert [each["account"] for each in details["full"]] == ["provider:anthropic", "agent:@kilo"]
    assert details["is_held"] is False


async def test_spending_above_the_hold_counts_in_full(bus):
    """A run that used more than was reserved has used it: nothing more fits then but what is free."""
    await working(bus, "t", "u")
    hold = await reserve(bus, "t", 900)
    await bus.budget.settle(hold, [call(1500)])
    assert await spent(bus) == (1500, 0, 0)
    with pytest.raises(OverBudget):
        await reserve(bus, "u", 1)
    await reserve(bus, "u", 0)


# The rules of holds.


async def test_a_new_reservation_replaces_the_one_before(bus):
    """A task has one hold: the next run's takes its place, and does not have to fit beside it."""
    await working(bus, "t")
    first = await reserve(bus, "t", 900)
    second = await reserve(bus, "t", 1000)
    assert [hold.id for hold in await bus.budget.holds()] == [second.id]
    assert await spent(bus) == (0, 1000, 0)
    await bus.budget.settle(first, [call(50)])
    assert await spent(bus) == (50, 1000, 0)
    assert [hold.id for hold in await bus.budget.holds()] == [second.id]
    with pytest.raises(OverBudget):
        await reserve(bus, "t", 951)
    assert [hold.id for hold in await bus.budget.holds()] == [second.id]


async def test_an_acknowledgment_reserves_as_well(bus):
    """What it holds is reserved for the provider that it names; refused, it is not taken on."""
    await bus.publish(compose(Delegation(goal="g"), sender="@boss", recipient="@kilo", task="t"))
    said = Acknowledgment(accepted=True, provider="anthropic", model="opus", hold=Hold(id="h1", microusd=700))
    await bus.budget.set_cap("provider:anthropic", "month", 600, reason="Less.")
    with pytest.raises(OverBudget):
        await say(bus, said)
    assert (await bus.task("t")).state == "submitted"
    await bus.budget.set_cap("provider:anthropic", "month", None, reason="More.")
    await say(bus, said)
    (hold,) = await bus.budget.holds()
    assert (hold.id, hold.microusd, hold.provider, hold.agent) == ("h1", 700, "anthropic", "@kilo")
    await say(bus, DONE)
    assert await spent(bus) == (0, 0, 0)


async def test_only_the_newest_token_reserves_and_any_settles(bus):
    """A worker that lost its lease is refused money, but what it has used is told, and ends nobody else's hold."""
    await bus.publish(compose(Delegation(goal="g"), sender="@boss", recipient="@kilo", task="t"))
    inbox = bus.inbox("@kilo", lease=0.001)
    (old,) = (await inbox.take()).deliveries
    await say(bus, ACCEPTED, token=old.token)
    stale = await reserve(bus, old)
    while not (taken := (await inbox.take()).deliveries):  # noqa: ASYNC110 - the lease lapses by the server's clock
        await anyio.sleep(0.002)
    with pytest.raises(Fenced):
        await reserve(bus, old)
    fresh = await reserve(bus, taken[0], 200)
    assert fresh.token == taken[0].token
    await bus.budget.settle(stale, [call(60)])
    assert await spent(bus) == (60, 200, 0)
    assert await bus.budget.check() == []


@pytest.mark.parametrize("state", ["submitted", "input-required", "canceled"])
async def test_money_is_reserved_for_work_alone(bus, state):
    """Where no run can be under way, nothing is reserved."""
    await bus.publish(compose(Delegation(goal="g"), sender="@boss", recipient="@kilo", task="t"))
    if state == "input-required":
        await say(bus, ACCEPTED)
        await say(bus, Question(question="?"))
    if state == "canceled":
        await say(bus, Cancellation(reason="no"), sender="@boss", recipient="@kilo")
    with pytest.raises(LifecycleConflict):
        await reserve(bus)
    with pytest.raises(NotFound):
        await reserve(bus, "nothing")
    assert await bus.budget.holds() == []


async def test_nobody_settles_or_gives_back_what_is_anothers(bus):
    """Another agent's word ends no hold; a worker's gives none back; and each is given back once."""
    await working(bus, "t")
    hold = await reserve(bus)
    forged = Budget(budget="settled", hold=Hold(id=hold.id, microusd=100))
    await say(bus, forged, sender="@other", recipient="@bus")
    released = Budget(budget="released", hold=Hold(id=hold.id, microusd=100), agent="@kilo")
    with pytest.raises(LifecycleConflict):
        await say(bus, released, recipient="@bus")
    with pytest.raises(Moved):
        await say(bus, structs.replace(released, hold=Hold(id="another", microusd=100)), sender="@human")
    assert [each.id for each in await bus.budget.holds()] == [hold.id]
    await bus.budget.release("t", reason="It hangs.")
    with pytest.raises(NotFound):
        await bus.budget.release("t")
    with pytest.raises(Moved):
        await say(bus, released, sender="@human")
    assert await spent(bus) == (0, 0, 0)


async def test_a_settlement_counts_once(bus):
    """Told again, with whatever usage, it changes nothing, and answers with where it stands."""
    await working(bus, "t")
    hold = await reserve(bus)
    first = await bus.budget.settle(hold, [call(10)])
    again = await bus.budget.settle(hold, [call(99)])
    assert (again.position, again.repeated) == (first.position, True)
    assert await spent(bus) == (10, 0, 0)


# Caps.


async def test_a_cap_on_record_holds_before_a_policys(bus):
    """A human's decision is in force for everybody, whether it is more, less, or no cap at all."""
    await working(bus, "t")
    await bus.budget.set_cap("provider:anthropic", "month", 50, reason="Less.")
    with pytest.raises(OverBudget) as refused:
        await reserve(bus, "t", 51)
    assert refused.value.cap == 50
    await bus.budget.set_cap("provider:anthropic", "month", 5000, reason="More.")
    await reserve(bus, "t", 5000)
    await bus.budget.set_cap("provider:anthropic", "month", None, reason="Enough of it.")
    await reserve(bus, "t", 50_000)
    assert await bus.budget.caps() == {("provider:anthropic", "month"): None}
    (account,) = [each for each in await bus.budget.accounts(CAPS) if each.recorded]
    assert (account.cap, account.left, account.used) == (None, None, None)
    entry = (await bus.log.latest(1))[0]
    assert [each.payload.reason for each in await records(bus, "cap")] == ["Less.", "More.", "Enough of it."]
    assert entry.type == "budget"


async def test_only_a_human_decides_on_caps(bus):
    """Nobody else records one, and none is recorded under another name, or of what is no account."""
    for sender in ("@kilo", "@bus", "@boss"):
        with pytest.raises(Conflict):
            await bus.budget.set_cap("agent:@kilo", "day", 5, reason="Mine.", sender=sender)
    await working(bus, "t")
    with pytest.raises(LifecycleConflict):
        await say(bus, Budget(budget="cap", account="agent:@kilo", period="day", microusd=1), sender="@human")
    for account, period, amount in (
        ("kilo", "day", 1),
        ("agent:kilo", "day", 1),
        ("task:t", "month", 1),
        ("agent:@kilo", "task", 1),
        ("agent:@kilo", "day", -1),
        ("provider:*", "day", 1),
        ("provider:a\nb", "day", 1),
        ("provider: ", "day", 1),
        ("agent:@kilo", "day", MOST + 1),
    ):
        with pytest.raises(UsageError):
            await bus.budget.set_cap(account, period, amount, reason="?")
    assert await bus.budget.caps() == {}


@pytest.mark.parametrize(
    ("account", "period"),
    [("agent:@kilo", "day"), ("agent:@kilo", "month"), ("task:root", "task"), ("provider:a b%c", "day")],
)
async def test_every_account_has_a_cap_of_its_own(bus, account, period):
    """Agents, days and trees of tasks are capped as providers are, whatever the provider is called."""
    await working(bus, "root")
    await working(bus, "t", parent="root")
    await bus.budget.set_cap(account, period, 99, reason="Small.")
    with pytest.raises(OverBudget) as refused:
        await reserve(bus, "t", 100, provider="a b%c", caps={})
    assert (refused.value.account, refused.value.period, refused.value.cap) == (account, period, 99)
    await reserve(bus, "t", 99, provider="a b%c", caps={})


async def test_no_account_can_be_overrun_into_what_cannot_be_counted(bus):
    """What is committed stops at the most that counts exactly, and nothing can be reserved beyond it, cap or not."""
    await working(bus, "t")
    await say(bus, Status(progress="x"), usage=(call(MOST), call(MOST)))
    assert await spent(bus) == (MOST, 0, 0)
    with pytest.raises(OverBudget):
        await reserve(bus, "t", 1, caps={})
    with pytest.raises(UsageError):
        await reserve(bus, "t", MOST + 1)
    assert await bus.budget.check() == []


# Warnings.


async def test_four_fifths_of_a_cap_are_warned_of_once(bus):
    """The human is told of an account when most of it is used or held, once for each cap, however many find it."""
    await working(bus, "t", "u", "v")
    edge = round(1000 * WARN)
    await reserve(bus, "t", edge - 1)
    assert await records(bus, "warned") == []

    async with anyio.create_task_group() as group:
        for task in ("u", "v"):
            group.start_soon(reserve, bus, task, 1)
    (warning,) = await records(bus, "warned")
    assert (warning.sender, warning.recipient) == ("@bus", "@human")
    said = warning.payload
    assert (said.account, said.period, said.microusd) == ("provider:anthropic", "month", 1000)
    assert said.committed + said.held >= edge
    hold = await reserve(bus, "u", 5)
    assert len(await records(bus, "warned")) == 1
    await bus.budget.set_cap("provider:anthropic", "month", 900, reason="Less.")
    await bus.budget.settle(hold, [call(5)])
    assert [each.payload.microusd for each in await records(bus, "warned")] == [1000, 900]
    assert await bus.budget.check() == []


# Lost workers.


def only_lost(seconds):
    """Supervision of lost workers; all other times are far."""
    hour = 3600.0
    return Supervision(acknowledge=hour, lost=seconds, silent=hour, stale=hour)


async def test_a_lost_workers_hold_is_given_back_once_and_visibly(bus):
    """Where nobody goes on with the run, whoever watches gives its money back, once."""
    await bus.publish(compose(Delegation(goal="g"), sender="@boss", recipient="@kilo", task="t"))
    inbox = bus.inbox("@kilo", lease=0.001)
    (delivery,) = (await inbox.take()).deliveries
    await say(bus, ACCEPTED, token=delivery.token)
    hold = await reserve(bus, delivery)
    while not (taken := (await inbox.take()).deliveries):  # noqa: ASYNC110 - the lease lapses by the server's clock
        await anyio.sleep(0.002)
    found = await look(bus, only_lost(3600.0), at_once=True)
    (released,) = [each for each in found if each.type == "budget"]
    assert (released.payload.hold.id, released.payload.ended, released.sender) == (hold.id, "lost", "@bus")
    assert taken[0].token > delivery.token
    assert await look(bus, only_lost(3600.0), at_once=True) == []
    assert await spent(bus) == (0, 0, 0)
    assert len(await records(bus, "released")) == 1


async def test_the_hold_of_a_run_that_goes_on_is_left_alone(bus):
    """Under a lease that lasts, and by hand, money stays reserved, however short the patience of who watches."""
    await working(bus, "by-hand")
    await reserve(bus, "by-hand")
    await bus.publish(compose(Delegation(goal="g"), sender="@boss", recipient="@kilo", task="t"))
    inbox = bus.inbox("@kilo", lease=600)
    taken = (await inbox.take(5)).deliveries
    (delivery,) = [each for each in taken if each.task == "t"]
    await say(bus, ACCEPTED, token=delivery.token)
    await reserve(bus, delivery)
    assert [each.type for each in await look(bus, only_lost(0.001), at_once=True)] == []
    assert len(await bus.budget.holds()) == 2


async def test_usage_of_an_outcome_that_comes_too_late_counts(bus):
    """A handler that ends after its task was canceled has spent what it did: the refused outcome's usage is told."""
    await bus.publish(compose(Delegation(goal="g"), sender="@boss", recipient="@kilo", task="t"))

    async def handler(work):
        if work.envelope.type != "delegation":
            return None
        await work.acknowledged()
        await work.bus.publish(
            compose(
                Escalation(error_details=ErrorDetails(level=2, category="execution", message="Stop.")),
                sender="@bus",
                recipient="@boss",
                task="t",
            )
        )
        return Outcome(DONE, usage=(call(33),))

    await idle(bus.worker("@kilo", handler, backoff=0, supervision=None))
    assert await spent(bus) == (33, 0, 0)
    (settled,) = await records(bus, "settled")
    assert (settled.sender, settled.payload.hold) == ("@kilo", None)
    assert (await bus.task("t")).state == "escalated"


async def test_the_name_of_the_caps_stays_free(bus):
    """Nobody can begin a task under the name that caps are recorded by."""
    with pytest.raises(UsageError, match="caps are recorded"):
        await bus.publish(compose(Delegation(goal="g"), sender="@boss", recipient="@kilo", task=MONEY))


async def _fails(_work):
    raise Permanent("I cannot read this.")


async def _nothing(_work):
    return None


async def test_work_that_is_parked_holds_no_money(bus):
    """Given up for good, the work's hold ends; another agent's delivery of the same task, parked, ends none."""
    for task in ("t", "u"):
        await bus.publish(compose(Delegation(goal="g"), sender="@boss", recipient="@kilo", task=task))

    kept = []

    async def works(work):
        await work.acknowledged()
        await work.bus.budget.reserve(work.delivery, provider="anthropic", model="opus", microusd=100)
        if work.delivery.task == "t":
            raise Permanent("It cannot be done.")
        await work.say(Status(progress="half"))
        await idle(bus.worker("@boss", _fails, backoff=0, supervision=None))
        kept.extend(await bus.budget.holds())
        return DONE

    await idle(bus.worker("@kilo", works, backoff=0, supervision=None))
    assert [hold.task for hold in kept] == ["u"]
    parked = [entry.envelope.payload async for entry in bus.log.read() if entry.type == "parking"]
    assert {each.agent for each in parked} == {"@kilo", "@boss"}
    assert await bus.budget.holds() == []
    assert await bus.budget.check() == []


async def test_what_is_parked_of_an_agent_gives_its_money_back(bus):
    """Also where the task is not escalated with it: nothing of the task is handled behind what is parked."""
    await working(bus, "t")
    await idle(bus.worker("@kilo", _nothing, backoff=0, supervision=None))
    await reserve(bus)
    said = Budget(budget="warned", account="agent:@kilo", period="day", span="2026-11-20", microusd=5)
    await say(bus, said, sender="@bus", recipient="@kilo")
    await idle(bus.worker("@kilo", _fails, backoff=0, supervision=None))
    assert (await bus.task("t")).state == "working"
    assert await bus.budget.holds() == []
    assert await bus.budget.check() == []


async def test_a_refusal_tells_json_what_is_left(bus):
    """Its details name account, span, cap and when that is counted anew; its exit code is that of such refusals."""
    await working(bus, "t")
    with pytest.raises(OverBudget) as refused:
        await reserve(bus, "t", 1001)
    details = refused.value.details()
    assert (details["error"], details["account"], details["cap"], details["asked"]) == (
        "OverBudget",
        "provider:anthropic",
        1000,
        1001,
    )
    assert details["resets"].endswith("-01T00:00:00+00:00")
    assert exit_code(refused.value) == exit_code(BudgetLost()) == exit_code(RefusedByBudget()) == 7
