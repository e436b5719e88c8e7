"""The promises about money: a cap holds whoever asks and whatever dies, and what is counted is what the log says."""

from __future__ import annotations

import os
import random
import signal
import sys
from collections import Counter
from datetime import UTC, datetime
from pathlib import Path

import anyio
import pytest

from taskbus.envelope import Acknowledgment, Budget, Cost, Delegation, Status, Usage, compose
from taskbus.errors import BudgetLost, Moved, OverBudget
from taskbus.money import Ledger
from tests.conformance.spender import CAPS
from tests.proxy import losing_replies

pytestmark = pytest.mark.anyio

PROCESSES, EACH, KILLED = 8, 125, 3
CAP = CAPS["provider:anthropic", "month"]


def usage(microusd, provider="anthropic"):
    """A call that cost so much."""
    return Usage(provider=provider, model="opus", cost=Cost(source="reported", microusd=microusd))


async def working(bus, *tasks, agent="@kilo"):
    """Tasks that an agent has taken on."""
    given = [compose(Delegation(goal="g"), sender="@boss", recipient=agent, task=task) for task in tasks]
    said = [compose(Acknowledgment(accepted=True), sender=agent, recipient="@boss", task=task) for task in tasks]
    assert not [each for each in await bus.publish_many([*given, *said]) if isinstance(each, Exception)]


async def reserve(bus, task, microusd, **more):
    """Reserve money for a run of @kilo on a task."""
    given = {"agent": "@kilo", "provider": "anthropic", "model": "opus", "caps": CAPS, **more}
    return await bus.budget.reserve(task, microusd=microusd, **given)


async def over_the_cap(bus):
    """How much was committed and held together at most, after any envelope of the log, and the ledger at its end."""
    ledger, most = Ledger(), 0
    async for entry in bus.log.read():
        ledger.fold(entry)
        month = [sums for (account, span), sums in ledger.accounts.items() if account == "provider:anthropic"]
        most = max([most, *(sums.committed + sums.held for sums in month)])
    return most, ledger


def plan_of(chance, process):
    """What a process is to ask for, and what it then uses: never more, since what is above that no cap can hold."""
    asked = [chance.randint(20_000, 60_000) for _ in range(EACH)]
    used = [chance.choice(("-", chance.randint(0, most))) for most in asked]
    return {f"p{process}-{n}": (most, some) for n, (most, some) in enumerate(zip(asked, used, strict=True))}


class Race:
    """The processes, and what they have said, line by line; all begin when the last one is ready."""

    def __init__(self, url, namespace, plans):
        """None is there yet."""
        self.words = [sys.executable, str(Path(__file__).parent / "spender.py"), url, namespace]
        self.plans, self.said, self.ready, self.go = plans, [], 0, anyio.Event()

    async def run(self):
        """Run all of them, and kill some amid it."""
        async with anyio.create_task_group() as group:
            for number, agent in enumerate(self.plans):
                group.start_soon(self._process, agent, 10 * (number + 1) if number < KILLED else None)

    async def _process(self, agent, dies):
        plan = [f"{task},{asked},{used}" for task, (asked, used) in self.plans[agent].items()]
        async with await anyio.open_process([*self.words, agent, *plan], env=os.environ, stderr=None) as process:
            text, told = "", 0
            async for part in process.stdout:
                *lines, text = (text + part.decode()).split("\n")
                for line in lines:
                    if line == "ready":
                        await self._begin(process)
                        continue
                    self.said.append(line.split(" "))
                    told += 1
                    if told == dies:
                        process.send_signal(signal.SIGKILL)
            assert await process.wait() == (-signal.SIGKILL if dies else 0)

    async def _begin(self, process):
        self.ready += 1
        if self.ready == PROCESSES:
            self.go.set()
        await self.go.wait()
        await process.stdin.send(b"\n")


async def stands(bus, kind):
    """How often each hold has a record of a kind in the log, with its amount."""
    return Counter(
        [
            (entry.task, entry.envelope.payload.hold.id, entry.envelope.payload.hold.microusd)
            async for entry in bus.log.read()
            if entry.type == "budget" and entry.envelope.payload.budget == kind
        ]
    )


@pytest.mark.needs("blocking", "sharing", "sockets")
async def test_a_thousand_reservations_race_for_one_cap(backend, bus, tmp_path):
    """From eight processes, of which three are killed amid it, with every fourth reply lost: never a microdollar over,
    no reservation lost, none twice, and the counters are what the log says.
    """
    chance = random.Random(8)
    plans = {f"@a{process}": plan_of(chance, process) for process in range(PROCESSES)}
    for agent, plan in plans.items():
        await working(bus, *plan, agent=agent)

    with anyio.fail_after(120):
        async with losing_replies(tmp_path / "p", backend.shared.socket, every=4) as proxy:
            race = Race(proxy.url(backend.url), bus.namespace, plans)
            await race.run()
        assert b"EVALSHA" in proxy.lost

    asked = {task: most for plan in plans.values() for task, (most, _) in plan.items()}
    most, ledger = await over_the_cap(bus)
    assert CAP - max(asked.values()) < most <= CAP
    assert await bus.budget.check() == []

    reserved, settled = await stands(bus, "reserved"), await stands(bus, "settled")
    assert set(reserved.values()) == set(settled.values()) == {1}
    assert {(task, amount) for task, _, amount in reserved} <= set(asked.items())
    let_in = {(task, id) for task, id, _ in reserved}
    assert {tuple(line[1:]) for line in race.said if line[0] != "refused"} <= let_in
    refused = {line[1] for line in race.said if line[0] == "refused"}
    assert refused
    assert not refused & {task for task, _ in let_in}
    (account,) = [each for each in await bus.budget.accounts(CAPS) if each.account == "provider:anthropic" and each.cap]
    assert account.held == sum(hold.microusd for hold in await bus.budget.holds()) == ledger_held(ledger)
    assert account.committed + account.held <= CAP


def ledger_held(ledger):
    """What the log says is held."""
    return sum(hold.microusd for hold in ledger.holds.values())


async def test_a_cap_is_reached_to_the_microdollar_and_not_passed(bus):
    """What fits just so is reserved; one microdollar more is refused, says why, and changes nothing."""
    await working(bus, "t", "u")
    await reserve(bus, "t", CAP - 1)
    with pytest.raises(OverBudget) as refused:
        await reserve(bus, "u", 2)
    error = refused.value
    assert (error.account, error.period, error.cap) == ("provider:anthropic", "month", CAP)
    assert (error.committed, error.held, error.asked) == (0, CAP - 1, 2)
    assert error.resets.day == 1
    assert [hold.task for hold in await bus.budget.holds()] == ["t"]
    await reserve(bus, "u", 1)
    assert await bus.budget.check() == []


async def test_all_accounts_have_room_or_none_is_charged(bus):
    """Refused by the last of its accounts, a reservation leaves the others as they were."""
    await working(bus, "t")
    before = await bus.budget.accounts()
    with pytest.raises(OverBudget) as refused:
        await reserve(bus, "t", 100, caps={("provider:anthropic", "month"): 1000, ("task:t", "task"): 99})
    assert (refused.value.account, refused.value.resets) == ("task:t", None)
    assert await bus.budget.accounts() == before == []


async def jump(bus, milliseconds):
    """The log goes on at a time that is still to come, as after a clock that was ahead."""
    log = bus.keys.log
    position = await bus.connection.execute("XADD", log, f"{milliseconds}-0", "x", "y")
    await bus.connection.execute("XDEL", log, position)


@pytest.mark.parametrize(("year", "month"), [(2031, 1), (2032, 3)])
async def test_a_month_and_a_day_turn_with_the_positions_of_the_log(bus, year, month):
    """Caps are counted anew from the first millisecond of the next month or day, in UTC; runs stay in theirs."""
    turn = int(datetime(year, month, 1, tzinfo=UTC).timestamp() * 1000)
    caps = {("provider:anthropic", "month"): 100, ("agent:@kilo", "day"): 100, ("task:t", "task"): 250}
    await jump(bus, turn - 60_000)
    await working(bus, "t", "u", "v")
    held = await reserve(bus, "t", 60, caps=caps)
    await bus.budget.settle(held, [usage(40)])
    old = await reserve(bus, "t", 60, caps=caps)
    with pytest.raises(OverBudget) as refused:
        await reserve(bus, "u", 1, caps=caps)
    assert refused.value.resets == datetime(year, month, 1, tzinfo=UTC)

    await jump(bus, turn)
    new = await reserve(bus, "u", 100, caps=caps)
    assert new.position.ms >= turn > old.position.ms
    await bus.budget.settle(old, [usage(10)])
    now = {(each.account, each.span): (each.committed, each.held) for each in await bus.budget.accounts(all_spans=True)}
    before, after = old.since.strftime("%Y-%m"), f"{year}-{month:02}"
    assert now["provider:anthropic", before] == (50, 0)
    assert now["provider:anthropic", after] == (0, 100)
    assert now["agent:@kilo", f"{after}-01"] == (0, 100)
    assert now["task:t", "ever"] == (50, 0)
    with pytest.raises(OverBudget) as refused:
        await reserve(bus, "v", 1, caps=caps)
    assert (refused.value.committed, refused.value.is_held) == (0, True)
    assert await bus.budget.check() == []


async def test_what_a_run_costs_counts_where_it_was_reserved(bus):
    """A run that goes on over midnight uses up the day in which it began: the next one has all of its cap."""
    turn = int(datetime(2031, 1, 1, tzinfo=UTC).timestamp() * 1000)
    caps = {("provider:anthropic", "day"): 100, ("provider:anthropic", "month"): 100}
    await jump(bus, turn - 60_000)
    await working(bus, "t", "u", "v", "w")
    old = await reserve(bus, "t", 100, caps=caps)
    await jump(bus, turn)
    new = await reserve(bus, "u", 100, caps=caps)
    half = compose(Status(progress="half"), sender="@kilo", recipient="@boss", task="t", usage=(usage(60),))
    await bus.publish(half)
    for hold in (old, new):
        await bus.budget.settle(hold, [usage(40 if hold is old else 100)])
    assert await committed(bus) == {"2030-12-31": 100, "2030-12": 100, "2031-01-01": 100, "2031-01": 100}
    assert await bus.budget.check() == []

    # What nobody reserved counts when it is told.
    await bus.publish(compose(Status(progress="x"), sender="@kilo", recipient="@boss", task="v", usage=(usage(5),)))
    assert await committed(bus) == {"2030-12-31": 100, "2030-12": 100, "2031-01-01": 105, "2031-01": 105}
    # More than was reserved counts beside it; what somebody else says of the task, when it is told.
    await jump(bus, turn + 2 * 86_400_000)
    more = await reserve(bus, "w", 0, caps=caps)
    await jump(bus, turn + 3 * 86_400_000)
    await bus.publish(compose(Budget(budget="settled"), sender="@cline", recipient="@bus", task="w", usage=(usage(1),)))
    await bus.budget.settle(more, [usage(9)])
    found = await committed(bus)
    assert (found["2031-01-03"], found["2031-01-04"], found["2031-01"]) == (9, 1, 115)
    assert await bus.budget.check() == await bus.budget.rebuild() == []


async def committed(bus):
    """What a provider has committed, by the month and the day."""
    found = await bus.budget.accounts(all_spans=True)
    return {each.span: each.committed for each in found if each.account == "provider:anthropic"}


@pytest.mark.parametrize("lost", ["budget", "holds"])
async def test_counters_that_are_lost_refuse_until_they_are_made_again(bus, lost):
    """Without them nothing is reserved, other work goes on, and a rebuild from the log makes them what they were."""
    await working(bus, "t", "u")
    await reserve(bus, "t", 1000)
    await bus.budget.set_cap("provider:anthropic", "month", 5000, reason="Enough.")
    await bus.connection.execute("DEL", getattr(bus.keys, lost))
    for amount in (0, 1):
        with pytest.raises(BudgetLost) as refused:
            await reserve(bus, "u", amount)
    assert "bus budget rebuild" in refused.value.advice
    done = compose(Acknowledgment(accepted=True), sender="@new", recipient="@boss", task="w")
    await bus.publish(compose(Delegation(goal="g"), sender="@boss", recipient="@new", task="w"))
    await bus.publish(type(done)(**{f: getattr(done, f) for f in done.__struct_fields__} | {"usage": (usage(70),)}))
    with pytest.raises(BudgetLost):
        await reserve(bus, "u", 1)
    assert await bus.budget.check() != []

    assert await bus.budget.rebuild() != []
    assert await bus.budget.check() == await bus.budget.rebuild() == []
    (account,) = [each for each in await bus.budget.accounts() if each.recorded]
    assert (account.committed, account.held, account.cap) == (70, 1000, 5000)
    with pytest.raises(OverBudget):
        await reserve(bus, "u", 5000 - 70 - 1000 + 1)
    await reserve(bus, "u", 5000 - 70 - 1000)


async def test_what_is_spent_after_a_loss_makes_no_new_counters(bus):
    """Counters that began anew in the middle of a month would let through what they have not seen."""
    await working(bus, "t", "u")
    await bus.budget.settle(await reserve(bus, "t", 1), [usage(CAP - 10)])
    await bus.connection.execute("DEL", bus.keys.budget)
    await bus.publish(compose(Status(progress="x"), sender="@kilo", recipient="@boss", task="t", usage=(usage(1),)))
    with pytest.raises(BudgetLost):
        await reserve(bus, "u", 100)
    await bus.budget.rebuild()
    with pytest.raises(OverBudget) as refused:
        await reserve(bus, "u", 100)
    assert refused.value.committed == CAP - 9


class Growing:
    """A history whose log grows so many times, each time that somebody has read it to its end."""

    def __init__(self, history, grow, times):
        """Nobody has read it yet."""
        self.history, self.grow, self.times = history, grow, times

    async def read(self, *span):
        """What it holds; then it holds more."""
        async for entry in self.history.read(*span):
            yield entry
        if self.times:
            self.times -= 1
            await self.grow()


@pytest.mark.parametrize("times", [0, 1, 3])
async def test_a_rebuild_amid_traffic_loses_nothing(bus, times):
    """What is reserved, spent and settled while the log is read is counted, in whichever moment it comes."""
    await working(bus, "t", "u")
    hold = await reserve(bus, "u", 500)

    async def grow():
        await reserve(bus, "t", 10)
        await bus.budget.settle(hold, [usage(3)])

    history = bus.history
    bus.history = Growing(history, grow, times)
    await bus.budget.rebuild()
    bus.history = history
    assert await bus.budget.check() == []
    (account,) = [each for each in await bus.budget.accounts(CAPS) if each.cap]
    assert (account.committed, account.held) == ((3, 10) if times else (0, 500))


async def test_a_log_that_outruns_a_rebuild_is_left_as_it_is(bus):
    """What cannot be caught up with is not written, and the counters go on as they were."""
    await working(bus, "t")

    async def grow():
        await reserve(bus, "t", 10)

    history = bus.history
    bus.history = Growing(history, grow, 10_000)
    with pytest.raises(Moved, match="grows so fast"):
        await bus.budget.rebuild()
    bus.history = history
    assert await bus.budget.check() == []


@pytest.mark.needs("restart")
async def test_money_survives_a_crash_of_the_server(own, own_bus):
    """Killed and started again on its data, the server holds and counts what it did."""
    await working(own_bus, "t", "u")
    await own_bus.connection.execute("CONFIG", "SET", "appendfsync", "always")
    await reserve(own_bus, "t", CAP - 5)
    own.kill()
    own.back()
    assert await own_bus.budget.check() == []
    with pytest.raises(OverBudget):
        await reserve(own_bus, "u", 6)
