"""Steps that the routing policy gives to somebody: they climb by the plan alone, whoever else lets tasks climb."""

from __future__ import annotations

from collections import Counter

import anyio
import pytest

from taskbus.envelope import Acknowledgment
from taskbus.errors import Permanent
from taskbus.settings import Settings
from taskbus_agents import registry, routing
from taskbus_agents.plans import report
from tests.taskbus_agents.crew import Crew, breaches, done, failed

pytestmark = pytest.mark.anyio
RUNGS = {"free": "@kilo", "next": "@cline", "last": "@codex"}
LADDER = "".join(f'[[ladder]]\nrung = "{rung}"\nagent = "{agent}"\n\n' for rung, agent in RUNGS.items())
CLIMBS = '[fallback]\non = { failure = "climb", refusal = "climb", quota = "climb" }\n'
TWO = '[steps.a]\ngoal = "x"\n{more}\n[steps.b]\ngoal = "y"\nagent = "@reviewer"\nafter = ["a"]\n'


@pytest.fixture
async def crew(place, tmp_path):
    """A crew whose policy has three rungs."""
    made = Crew(place.bus, place.settings, tmp_path)
    (tmp_path / "policy.toml").write_text(LADDER + CLIMBS)
    made.settings = Settings.load(
        url=place.settings.url,
        namespace=place.bus.namespace,
        home=tmp_path,
        policy=tmp_path / "policy.toml",
        environ={},
        cwd=tmp_path,
    )
    return made


async def carried_out(crew, plan, *, climber=True):
    """Carry a plan out while a swarm's climber follows the same log; the run, once nothing moves any more."""
    async with anyio.create_task_group() as group:
        if climber:
            policy = routing.RoutingPolicy.needed(crew.settings)
            group.start_soon(routing.Climber(crew.bus, policy, registry.read(crew.settings)).run)
        async with crew.at_work(*RUNGS.values(), "@reviewer"):
            run = (await crew.carry_out(await crew.begin(plan))).run
            await anyio.sleep(0.3)  # whoever would still begin something has begun it
        group.cancel_scope.cancel()
    if "skipped" not in run.settled.values():
        assert breaches(plan, run.id, await crew.entries()) == []
    return run


async def declines(_work):
    """What a worker that declines returns."""
    return Acknowledgment(accepted=False, decline_reason="not mine")


async def breaks(_work):
    """What a worker does whose work is set aside."""
    raise Permanent("no key")


@pytest.mark.parametrize("climber", [True, False], ids=["with a climber", "alone"])
@pytest.mark.parametrize("goes_wrong", [failed(), declines, breaks], ids=["fails", "declines", "is parked"])
async def test_a_routed_step_climbs_once_whoever_looks_on(crew, climber, goes_wrong):
    """Each rung has it once, the gate behind it opens after the last of them, and the report names who did it."""
    plan = crew.plan(TWO.format(more=""))
    crew.script["a"] = [goes_wrong, goes_wrong, done("at last")]
    run = await carried_out(crew, plan, climber=climber)
    assert run.state == "accepted", report.text(run, run.state)
    assert [work.delivery.agent for work in crew.seen["a"]] == list(RUNGS.values())
    assert len(crew.seen["b"]) == 1
    assert "a: done, @codex, attempt 3" in run.root.completion.result.description
    assert run.piece_of("a").rungs == list(RUNGS)


@pytest.mark.parametrize(("on_failure", "state"), [("stop", "failed"), ("skip", "accepted")])
async def test_a_routed_step_that_nobody_can_do_ends_as_the_plan_says(crew, on_failure, state):
    """After the last rung it has failed for good: nobody begins it once more, and the report says what went wrong."""
    plan = crew.plan(TWO.format(more=f'on_failure = "{on_failure}"'))
    crew.script["a"] = [failed(f"broke {n}") for n in range(3)]
    run = await carried_out(crew, plan)
    assert run.state == state
    assert [work.delivery.agent for work in crew.seen["a"]] == list(RUNGS.values())
    assert len(crew.seen["b"]) == (on_failure == "skip")
    assert "broke 2" in run.root.completion.result.description
    kinds = Counter(e.type for e in await crew.entries() if e.task == f"{run.id}.a")
    assert (kinds["delegation"], kinds["escalation"]) == (3, 0)


async def test_a_policy_that_does_not_climb_leaves_it_to_the_retries_of_the_plan(crew, tmp_path):
    """Without `climb` a failure is a try, and the next try goes to the next rung."""
    (tmp_path / "policy.toml").write_text(LADDER)
    crew.script["a"] = [failed(), failed("twice")]
    run = await carried_out(crew, crew.plan(TWO.format(more="retries = 1")))
    assert run.state == "failed"
    assert [work.delivery.agent for work in crew.seen["a"]] == ["@kilo", "@cline"]
    assert "twice" in run.root.completion.error_details.message


async def test_steps_that_begin_together_keep_the_limits_of_the_policy(crew, tmp_path):
    """Who is busy with one of them is passed over for the next, and the last one waits until somebody is free."""
    limits = "".join(f'[limits."{agent}"]\nconcurrency = 1\n' for agent in ("@kilo", "@cline"))
    (tmp_path / "policy.toml").write_text(LADDER.partition('[[ladder]]\nrung = "last"')[0] + limits)
    both = anyio.Event()

    async def wait(_work):
        if len(crew.seen) == 2:
            both.set()
        await both.wait()
        return done()

    crew.script = {name: [wait] for name in "abc"}
    steps = "".join(f'[steps.{name}]\ngoal = "x"\n' for name in "abc")
    run = await carried_out(crew, crew.plan(steps))
    assert run.state == "accepted"
    order = [(e.task[-1], e.recipient) for e in await crew.entries() if e.type == "delegation" and e.task != run.id]
    assert order[:2] == [("a", "@kilo"), ("b", "@cline")]
    assert [name for name, _ in order] == ["a", "b", "c"]
    assert [len(crew.seen[name]) for name in "abc"] == [1, 1, 1]
