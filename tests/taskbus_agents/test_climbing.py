"""Climbing: work that one rung cannot do goes to the next, once, as the policy says, and is never lost."""

from __future__ import annotations

from datetime import timedelta

import anyio
import pytest

from taskbus.client import Bus
from taskbus.delivery import Release
from taskbus.envelope import (
    Acknowledgment,
    Cancellation,
    Completion,
    Delegation,
    ErrorDetails,
    Escalation,
    Result,
    Usage,
    compose,
    now,
)
from taskbus.errors import NotFound, Permanent, Retryable
from taskbus.parked import parked
from taskbus.payload import Route
from taskbus.settings import Settings
from taskbus.work import Outcome
from taskbus_agents.routing import Climber, Need, RoutingPolicy, climb, decide, observe

pytestmark = pytest.mark.anyio

POLICY = """
[prices."paid/*"]
input = 10
output = 10
[[ladder]]
rung = "one"
agent = "@one"
paid = false
[[ladder]]
rung = "two"
agent = "@two"
paid = false
[[ladder]]
rung = "three"
agent = "@three"
model = "paid/m"
[fallback.on]
quota = "climb"
refusal = "climb"
failure = "climb"
budget = "climb"
"""
DONE = Completion(result=Result(status="success", description="done"))


def failed(reason=None):
    """A completion that says that it failed."""
    error = ErrorDetails(level=1, category="execution", message="it failed")
    return Completion(result=Result(status="failure"), termination_reason=reason, error_details=error)


class Ladder:
    """A bus with a policy."""

    def __init__(self, bus, folder):
        self.bus = bus
        self.folder = folder
        self.policy = self.written(POLICY)

    def written(self, text):
        """Write the policy anew, and use it."""
        path = self.folder / "policy.toml"
        path.write_text(text, encoding="utf-8")
        self.policy = RoutingPolicy.load(path)
        return self.policy

    async def delegate(self, task="t", *, rung="one", route=True, **more):
        """Delegate a task to a rung."""
        payload = Delegation(goal="do it", route=Route(rung=rung) if route else None, **more.pop("payload", {}))
        envelope = compose(payload, sender="@lead", recipient=f"@{rung}", task=task, **more)
        await self.bus.publish(envelope)
        return envelope

    async def work(self, agent, outcome, **terms):
        """Let an agent work until its inbox is empty; `outcome` is returned, or raised."""

        async def handle(work):
            if work.envelope.type not in ("delegation", "answer", "verdict"):
                return None
            await work.acknowledged()
            if isinstance(outcome, Exception):
                raise outcome
            return outcome

        with anyio.fail_after(30):
            await self.bus.worker(agent, handle, backoff=0.01, **terms).run(until_idle=True)

    async def climb(self, task="t", **more):
        """Let a task climb."""
        return await climb(self.bus, self.policy, {}, task, **more)

    async def catch_up(self):
        """What a climber does at its start."""
        return [found for found in await Climber(self.bus, self.policy, {}).catch_up() if found.kind != "left"]

    async def said(self, *types):
        """The envelopes of these types in the log."""
        return [entry.envelope async for entry in self.bus.log.read() if entry.type in types]

    async def state(self, task="t"):
        """State and assignee of a task."""
        found = await self.bus.task(task)
        return found.state, found.assignee


@pytest.fixture
async def ladder(valkey, namespace, tmp_path):
    """A bus of this test, with a ladder of three rungs."""
    settings = Settings.load(url=valkey, namespace=namespace, home=tmp_path / "home", environ={}, cwd=tmp_path)
    async with Bus.connect(settings=settings) as bus:
        yield Ladder(bus, tmp_path)


async def test_a_failure_climbs_with_its_record(ladder):
    """What failed goes to the next rung: by the bus, caused by the failure, with all that was asked for and why."""
    more = {
        "task_type": "code",
        "constraints": ("fast",),
        "acceptance_criteria": ("tests pass",),
        "review_required": False,
    }
    deadline = now() + timedelta(hours=1)
    await ladder.delegate(payload=more, priority="high", deadline=deadline)
    await ladder.work("@one", failed())
    found = await ladder.climb()
    assert (found.kind, found.agent) == ("climbed", "@two")
    *_, failure = await ladder.said("completion")
    _, again = await ladder.said("delegation")
    assert (again.sender, again.recipient, again.priority) == ("@bus", "@two", "high")
    assert (again.context.causation_id, again.context.deadline) == (failure.id, deadline)
    payload = again.payload
    assert (payload.task_type, payload.constraints, payload.acceptance_criteria) == ("code", ("fast",), ("tests pass",))
    assert (payload.review_required, payload.route.rung, payload.route.climbs) == (False, "two", 1)
    assert payload.route.policy == ladder.policy.version
    assert [(each.rung, each.reason) for each in payload.route.passed] == [("one", "failed-before")]
    await ladder.work("@two", DONE)
    assert await ladder.state() == ("accepted", "@two")
    (done,) = [each for each in await ladder.said("completion") if each.sender == "@two"]
    assert done.recipient == "@lead"


@pytest.mark.parametrize(
    ("outcome", "trigger"),
    [
        (failed(), "failure"),
        (failed("quota"), "quota"),
        (failed("budget"), "budget"),
        (Acknowledgment(accepted=False, decline_reason="not mine"), "refusal"),
        (Permanent("broken"), "failure"),
    ],
)
async def test_each_trigger_climbs_or_stops_as_the_policy_says(ladder, outcome, trigger):
    """Failures, quotas, caps, refusals and parked work climb where the policy says so, and else are left to people."""
    await ladder.delegate()
    if isinstance(outcome, Acknowledgment):
        await ladder.bus.publish(compose(outcome, sender="@one", recipient="@lead", task="t"))
    else:
        await ladder.work("@one", outcome)
    before = await ladder.state()
    ladder.written(POLICY.replace(f'{trigger} = "climb"', f'{trigger} = "stop"'))
    assert (await ladder.climb()).kind == "left"
    assert await ladder.catch_up() == []
    assert await ladder.state() == before
    ladder.written(POLICY)
    (found,) = await ladder.catch_up()
    assert (found.kind, found.agent) == ("climbed", "@two")
    assert await ladder.state() == ("submitted", "@two")
    assert await parked(ladder.bus, "@one") == []


async def test_work_that_is_parked_is_given_up_with_the_climb(ladder):
    """What was set aside for the rung before does not hold back the same agent with its next model."""
    ladder.written(
        '[models]\nsmall = "p/small"\nlarge = "p/large"\n'
        '[fallback]\norder = ["small", "large"]\n[fallback.on]\nfailure = "climb"\n'
        '[[ladder]]\nrung = "one"\nagent = "@one"\nmodel = "small"\npaid = false\n[justification]\nby_failures = true\n'
        '[prices."p/*"]\ninput = 1\noutput = 1\n'
    )
    await ladder.delegate()
    await ladder.work("@one", Retryable("again"), attempts=2)
    assert len(await parked(ladder.bus, "@one", "t")) == 1
    found = await ladder.climb()
    assert (found.kind, found.agent, found.envelope.payload.route.model) == ("climbed", "@one", "large")
    assert await parked(ladder.bus, "@one", "t") == []
    *_, dropped = await ladder.said("parking")
    assert (dropped.payload.parking, dropped.sender) == ("dropped", "@bus")
    await ladder.work("@one", DONE)
    assert (await ladder.state())[0] == "completed"


async def test_where_no_rung_is_left_it_is_escalated_once(ladder):
    """At the end of the ladder the coordinator gets it, with every rung and its reason; nothing is lost."""
    await ladder.delegate()
    for agent in ("@one", "@two"):
        await ladder.work(agent, failed())
        found = await ladder.climb()
    assert (found.kind, found.agent) == ("exhausted", "@lead")
    assert await ladder.state() == ("escalated", "@two")
    (told,) = await ladder.said("escalation")
    assert (told.sender, told.recipient) == ("@bus", "@lead")
    for word in ("one: failed-before", "two: failed-before", "three: not-justified"):
        assert word in told.payload.error_details.message
    assert (await ladder.climb(cause=(await ladder.said("completion"))[-1])).kind == "already"
    assert await ladder.catch_up() == []
    assert len(await ladder.said("escalation")) == 1


async def test_a_justified_task_climbs_to_the_paid_rung(ladder):
    """The reason that was recorded with the delegation opens paid rungs to every climb."""
    why = "kilo and gemini were tried on it"
    await ladder.delegate(payload={"paid_model_justification": why})
    for agent in ("@one", "@two"):
        await ladder.work(agent, failed())
        found = await ladder.climb()
    assert (found.kind, found.agent) == ("climbed", "@three")
    assert found.envelope.payload.paid_model_justification == why
    assert found.envelope.payload.route.model == "m"


async def test_of_many_climbers_one_climbs(ladder):
    """Ten that see the same failure make one envelope of it, by whatever policy each has."""
    await ladder.delegate()
    await ladder.work("@one", failed())
    found = []

    async def one():
        found.append((await ladder.climb()).kind)

    async with anyio.create_task_group() as group:
        for _ in range(10):
            group.start_soon(one)
    assert sorted(found) == ["already"] * 9 + ["climbed"]
    assert len(await ladder.said("delegation")) == 2


async def test_a_task_that_somebody_has_dealt_with_is_left_alone(ladder):
    """Whoever cancelled, answered or delegated it first is not overtaken."""
    await ladder.delegate()
    await ladder.work("@one", failed())
    (failure,) = await ladder.said("completion")
    await ladder.bus.publish(compose(Delegation(goal="mine"), sender="@lead", recipient="@other", task="t"))
    assert (await ladder.climb(cause=failure)).kind == "already"
    await ladder.work("@other", failed())
    assert (await ladder.climb(cause=failure)).kind == "already"
    assert (await ladder.climb()).kind == "left"
    assert (await ladder.climb(by_hand=True)).kind == "climbed"
    with pytest.raises(NotFound):
        await ladder.climb("unknown")


async def test_an_agent_that_asks_for_help_is_not_overtaken(ladder):
    """An escalation by the assignee itself is for the coordinator, and climbs only by hand."""
    await ladder.delegate()
    trouble = Escalation(error_details=ErrorDetails(level=2, category="execution", message="which one?"))
    await ladder.bus.publish(compose(trouble, sender="@one", recipient="@lead", task="t"))
    assert (await ladder.climb()).kind == "left"
    assert (await ladder.climb(by_hand=True)).agent == "@two"


async def test_what_is_over_does_not_climb(ladder):
    """A task that was cancelled stays so; one whose deadline is over, or that climbed often enough, is escalated."""
    await ladder.delegate("gone")
    await ladder.bus.publish(compose(Cancellation(reason="no"), sender="@lead", recipient="@one", task="gone"))
    assert (await ladder.climb("gone")).kind == "already"
    await ladder.delegate("late", deadline=now() + timedelta(seconds=0.2))
    await ladder.work("@one", failed())
    await anyio.sleep_until(anyio.current_time() + 0.3)
    found = await ladder.climb("late")
    assert (found.kind, found.why) == ("exhausted", "its deadline is over")
    ladder.written(POLICY.replace("[fallback.on]", "[fallback]\nmost = 1\n[fallback.on]"))
    await ladder.delegate("often")
    for agent in ("@one", "@two"):
        await ladder.work(agent, failed())
        found = await ladder.climb("often")
    assert (found.kind, "as often as it may" in found.why) == ("exhausted", True)


async def test_the_climber_follows_the_log(ladder):
    """A climber climbs what stood open before it began, and whatever goes wrong while it runs, up to the last rung."""
    await ladder.delegate("before")
    await ladder.work("@one", failed())
    seen, done = [], anyio.Event()

    def told(found):
        seen.append((found.task, found.kind, found.agent))
        if len(seen) == 4:
            done.set()

    async with anyio.create_task_group() as group:
        for _ in range(2):
            group.start_soon(Climber(ladder.bus, ladder.policy, {}, on_climb=told).run)
        await ladder.delegate("while")
        with anyio.fail_after(30):
            while not done.is_set():
                for agent in ("@one", "@two"):
                    await ladder.work(agent, failed())
        group.cancel_scope.cancel()
    assert sorted(seen) == [
        ("before", "climbed", "@two"),
        ("before", "exhausted", "@lead"),
        ("while", "climbed", "@two"),
        ("while", "exhausted", "@lead"),
    ]
    assert len(await ladder.said("delegation")) == 4


async def test_the_facts_are_those_of_the_server(ladder):
    """Open work, waits for quotas, failed quotas, rates and tokens are read from the bus as they are."""
    ladder.written(
        POLICY.replace("[fallback.on]", '[fallback]\npause = "10m"\n[fallback.on]')
        + '[limits."@two"]\nrate = "2/hour"\ntokens = "100/day"\nconcurrency = 5\n'
    )
    need = Need()
    facts = await observe(ladder.bus, ladder.policy, {}, need)
    assert [choice.agent for choice in decide(ladder.policy, {}, need, facts).chosen] == ["@one"]
    await ladder.delegate("a")
    until = now() + timedelta(minutes=7)
    inbox = ladder.bus.inbox("@one")
    (delivery,) = (await inbox.take()).deliveries
    await inbox.release([Release(delivery, 7 * 60, reason="quota-limited")])
    facts = await observe(ladder.bus, ladder.policy, {}, need)
    assert facts.standing("@one").open == 1
    assert abs(facts.standing("@one").quota_until - until) < timedelta(seconds=5)
    assert [choice.agent for choice in decide(ladder.policy, {}, need, facts).chosen] == ["@two"]
    assert (await ladder.bus.task("a")).state in ("submitted", "working")
    await ladder.delegate("b", rung="two")
    usage = Usage(provider="p", model="m", input_tokens=70, output_tokens=30)
    await ladder.work("@two", Outcome(DONE, (usage,)))
    facts = await observe(ladder.bus, ladder.policy, {}, need)
    assert (facts.begun("@two", 3600), facts.tokens("@two", 86_400), facts.tokens("p", 86_400)) == (1, 100, 100)
    assert decide(ladder.policy, {}, need, facts).passed[1].reason == "out-of-quota"
    await ladder.delegate("c", rung="two")
    await ladder.work("@two", failed("quota"))
    facts = await observe(ladder.bus, ladder.policy, {}, need)
    assert facts.standing("@two").quota_until > now() + timedelta(minutes=9)


async def test_caps_and_holds_count_as_the_server_has_them(ladder):
    """A paid rung is passed where its money would not fit: by the policy's cap, or by a human's decision."""
    ladder.written(POLICY + "[caps]\npaid = 1\n[holds]\n'paid/m' = '0.60'\n")
    need = Need(justification="the free ones have failed", failed=frozenset({"one", "two"}))

    async def decided():
        facts = await observe(ladder.bus, ladder.policy, {}, need)
        found = decide(ladder.policy, {}, need, facts)
        return [choice.agent for choice in found.chosen] or found.passed[-1].reason

    assert await decided() == ["@three"]
    await ladder.delegate(rung="three")
    await ladder.bus.publish(compose(Acknowledgment(accepted=True), sender="@three", recipient="@lead", task="t"))
    await ladder.bus.budget.reserve("t", agent="@three", provider="paid", model="m", microusd=600_000)
    assert await decided() == "over-budget"
    await ladder.bus.budget.set_cap("provider:paid", "month", 1_200_000, reason="enough")
    assert await decided() == ["@three"]
    await ladder.bus.connection.execute("DEL", ladder.bus.keys.budget)
    assert await decided() == "over-budget"
