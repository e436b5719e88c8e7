"""Money that other runs hold: work waits for it, unless its policy has the next rung do it."""

from __future__ import annotations

import json
from dataclasses import replace

import anyio
import pytest

from taskbus.envelope import Acknowledgment, Delegation, compose
from taskbus.payload import Route
from taskbus_agents.definition import Definition
from tests.taskbus_agents.place import AGENT, OK

pytestmark = pytest.mark.anyio

MODEL = {"provider": "anthropic", "model": "claude-sonnet-4-5"}


def agent(script: str) -> Definition:
    """An agent that is a script, whose runs are expected to cost $0.90 each."""
    words = ("sh", "-c", script)
    return Definition(name=AGENT, adapter="command", command=words, hold=900_000, **MODEL)


async def test_worst_case_holds_park_nothing(place, tmp_path):
    """Four tasks at once under a cap that one hold nearly fills: all are done, one after the other, and none is sent
    to a human, since next to nothing is spent.
    """
    await place.bus.budget.set_cap("provider:anthropic", "month", 1_000_000, reason="cap")
    tasks = [f"t{number}" for number in range(4)]
    for task in tasks:
        await place.delegate(task, review_required=False)
    used = {**MODEL, "input_tokens": 100, "output_tokens": 80}
    said = json.dumps({"status": "success", "description": "done", "usage": [used]})
    script = f"until [ -e {tmp_path}/go ]; do sleep 0.02; done; printf '%s' '{said}'"

    async def others_wait():
        while len(place.incidents) < 3:  # noqa: ASYNC110 - a worker in another task sets no event here
            await anyio.sleep(0.01)
        (tmp_path / "go").touch()

    async with anyio.create_task_group() as group:
        group.start_soon(others_wait)
        await place.serve("", definition=agent(script), concurrency=4, attempts=1, backoff=0.1)
    assert [(await place.bus.task(task)).state for task in tasks] == ["accepted"] * 4
    assert await place.said("parking", "escalation") == []
    waits = [each for each in place.incidents if "waits for money that other runs hold" in each]
    assert len(waits) == 3
    assert all("$0.00 are spent and $0.90 reserved of $1.00" in each for each in waits)
    (account,) = [each for each in await place.bus.budget.accounts() if each.cap]
    assert (account.committed, account.held) == (4 * 1_500, 0)
    assert await place.bus.budget.check() == []


@pytest.mark.parametrize(("action", "routed"), [("climb", True), ("climb", False), ("stop", True)])
async def test_a_policy_that_climbs_does_not_wait(place, tmp_path, action, routed):
    """Work that was routed goes to the next rung at once, where the policy says so; what was not, waits."""
    policy = tmp_path / "policy.toml"
    policy.write_text(f'[caps]\nanthropic = 1\n[fallback.on]\nbudget = "{action}"\n', encoding="utf-8")
    place.settings = replace(place.settings, policy=policy)
    for payload, sender, recipient in (
        (Delegation(goal="g"), "@lead", "@other"),
        (Acknowledgment(accepted=True), "@other", "@lead"),
    ):
        await place.bus.publish(compose(payload, sender=sender, recipient=recipient, task="other"))
    await place.bus.budget.reserve("other", agent="@other", provider="anthropic", model="m", microusd=200_000)
    await place.delegate("t", review_required=False, **({"route": Route(rung="coder", **MODEL)} if routed else {}))

    async def released():
        while not place.incidents:  # noqa: ASYNC110 - a worker in another task sets no event here
            await anyio.sleep(0.01)
        await place.bus.budget.release("other")

    async with anyio.create_task_group() as group:
        group.start_soon(released)
        await place.serve("", definition=agent(OK), attempts=1)
    if action == "climb" and routed:
        (parking,) = await place.said("parking")
        assert (parking.reason, (await place.bus.task("t")).state) == ("refused-by-budget", "escalated")
    else:
        assert await place.said("parking") == []
        assert (await place.bus.task("t")).state == "accepted"
