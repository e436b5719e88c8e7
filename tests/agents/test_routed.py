"""The model of a route: it is the one that runs, is said to run, and is paid for."""

from __future__ import annotations

from datetime import timedelta

import pytest

from taskbus.envelope import Verdict, now
from taskbus.payload import Route
from taskbus_agents.routing import RoutingPolicy, climb
from taskbus_agents.trouble import Conduct
from tests.agents.scene import AGENT, TASK, done

pytestmark = pytest.mark.anyio

HAIKU, SONNET = "claude-haiku-4-5", "claude-sonnet-4-5"
POLICY = f"""
[prices."anthropic/{HAIKU}"]
input = 1
output = 5
[prices."anthropic/{SONNET}"]
input = 3
output = 15
[[ladder]]
rung = "coder"
agent = "@coder"
model = "anthropic/{HAIKU}"
[fallback]
order = ["anthropic/{HAIKU}", "anthropic/{SONNET}"]
[fallback.on]
quota = "climb"
failure = "climb"
"""
WHY = "It is too hard for a free model."
LIMIT = ["result", "limit reached", {"is_error": True, "api_error_status": 429, "modelUsage": {}}]


def cost(model: str, dollars: float) -> dict:
    """What the program says that it used."""
    used = {"inputTokens": 1000, "outputTokens": 100, "costUSD": dollars, "costBasis": "list"}
    return {"modelUsage": {model: used}}


@pytest.fixture
def policy(tmp_path):
    """A policy in which an agent has two models, one above the other."""
    path = tmp_path / "policy.toml"
    path.write_text(POLICY)
    return RoutingPolicy.load(path)


async def said(scene) -> tuple[list, list]:
    """What was acknowledged, and what was reserved: for which model each time."""
    accepted = [(each.payload.provider, each.payload.model) for each in await scene.envelopes("acknowledgment")]
    money = [each.payload for each in await scene.envelopes("budget") if each.payload.budget == "reserved"]
    return accepted, [(each.model, each.hold.microusd) for each in money]


async def test_who_climbs_to_its_next_model_runs_that_one(scene, policy):
    """Its quota for one model is used up: the same agent gets the task again, and runs the next one on new money."""
    script = (
        ["when", HAIKU, LIMIT],
        ["when", SONNET, ["write", "a.txt", "x"], ["result", done(), cost(SONNET, 0.25)]],
    )
    definition = scene.definition(*script, model=HAIKU)
    registry = {AGENT: definition}
    await scene.delegate("file: a.txt", paid_model_justification=WHY, route=Route(rung="coder"))
    terms = {"model": HAIKU, "policy": policy.money, "conduct": Conduct(waits=False)}
    await scene.run(*script, **terms)
    assert (await scene.completion()).termination_reason == "quota"
    climbed = await climb(scene.bus, policy, registry, TASK)
    assert (climbed.kind, climbed.agent) == ("climbed", AGENT), climbed.decision
    assert climbed.envelope.payload.route.model == SONNET
    await scene.run(*script, **terms)
    outcome = await scene.settled()
    assert outcome.payload.result.status == "success"
    assert [(each.model, each.cost.microusd) for each in outcome.usage] == [(SONNET, 250_000)]
    accepted, reserved = await said(scene)
    assert accepted == [("anthropic", HAIKU), ("anthropic", SONNET)]
    # What the definition says of its own model's runs is no amount for another one's.
    assert reserved[0] == (HAIKU, 50_000)
    assert (reserved[1][0], reserved[1][1] > 50_000) == (SONNET, True)
    assert (await scene.sums())["provider:anthropic"] == (250_000, 0)


async def test_rework_runs_the_model_of_the_route(scene, policy):
    """A verdict names no model: the delegation before it does, and the second acknowledgment says so too."""
    await scene.delegate(paid_model_justification=WHY, route=Route(rung="c", provider="anthropic", model=SONNET))
    script = ["when", SONNET, ["write", "a.txt", str(now())], ["result", done(), cost(SONNET, 0.01)]]
    await scene.run(script, model=HAIKU, policy=policy.money)
    await scene.say(Verdict(decision="rejected", comment="more"))
    await scene.run(["when", SONNET, ["write", "b", "y"], ["result", done()]], model=HAIKU, policy=policy.money)
    accepted, reserved = await said(scene)
    assert accepted == [("anthropic", SONNET)] * 2
    assert [model for model, _ in reserved] == [SONNET] * 2
    assert (await scene.completion()).result.status == "success"


async def test_a_model_without_a_price_does_not_run_on_another_ones_money(scene, policy):
    """What is held for the definition's model says nothing of a model that a delegation names."""
    await scene.delegate(route=Route(rung="c", provider="anthropic", model="claude-nobody-knows"))
    await scene.run(["write", "a", "x"], ["result", done()], policy=policy.money)
    (parking,) = await scene.envelopes("parking")
    assert parking.payload.reason == "refused-by-budget"
    assert not (scene.home / "prompts").exists()


async def test_a_provider_that_the_program_does_not_have_is_refused(scene, policy):
    """Else the money of one would be counted for another."""
    await scene.delegate(route=Route(rung="c", provider="openai", model=SONNET))
    await scene.run(["write", "a", "x"], ["result", done()], policy=policy.money)
    (parking,) = await scene.envelopes("parking")
    assert "models of anthropic alone" in parking.payload.message
    assert await scene.envelopes("budget") == []
    assert not (scene.home / "prompts").exists()


async def test_a_quota_of_one_model_is_none_of_the_others(scene, policy):
    """Routing passes over the rung that is out of its quota, and takes the one above it."""
    from taskbus_agents.routing import Need, decide, observe

    await scene.delegate(route=Route(rung="coder"))
    conduct = Conduct(waits=False)
    await scene.run(LIMIT, model=HAIKU, policy=policy.money, conduct=conduct)
    registry = {AGENT: scene.definition(model=HAIKU)}
    need = Need(justification=WHY)
    facts = await observe(scene.bus, policy, registry, need)
    chosen = decide(policy, registry, need, facts)
    assert [(each.rung, each.reason) for each in chosen.passed] == [("coder", "out-of-quota")]
    assert [each.model for each in chosen.chosen] == [SONNET]
    assert facts.standing(AGENT).out_until(HAIKU) > now() + timedelta(minutes=9)
