"""What a program of one's own used: priced without a policy, and counted where it does not tell, however it ends."""

from __future__ import annotations

import json
import sys

import anyio
import pytest

from taskbus.envelope import Cancellation
from taskbus.position import START
from taskbus_agents.definition import Definition
from taskbus_agents.service import Service, serve
from tests.taskbus_agents.place import AGENT, OK

pytestmark = pytest.mark.anyio

MODEL = {"provider": "anthropic", "model": "claude-sonnet-4-5"}
BUS = f"'{sys.executable}' -m taskbus"


def agent(script: str, **more) -> Definition:
    """An agent that is a script, and says which model it runs."""
    return Definition(**{"name": AGENT, "adapter": "command", "command": ("sh", "-c", script), **MODEL, **more})


def prints(**said) -> str:
    """A script that answers with a completion in short."""
    return f"printf '%s' '{json.dumps({'status': 'success', 'description': 'done', **said})}'"


async def counted(place) -> tuple[int, int, int]:
    """What @kilo has committed this month, in microdollars, how many calls have no price, and what is still held."""
    found = [
        each for each in await place.bus.budget.accounts() if (each.account, each.period) == ("agent:@kilo", "month")
    ]
    return (found[0].committed, found[0].unpriced, found[0].held) if found else (0, 0, 0)


async def test_a_cap_fills_without_a_policy(place):
    """The published prices are put on what a command tells, so that the work after it is refused."""
    await place.bus.budget.set_cap("provider:anthropic", "month", 1_000_000, reason="cap")
    used = {**MODEL, "input_tokens": 100_000, "output_tokens": 50_000}
    for task in ("one", "two"):
        await place.delegate(task)
        await place.serve("", definition=agent(prints(usage=[used])))
    assert await counted(place) == (1_050_000, 0, 0)
    (parking,) = await place.said("parking")
    assert parking.reason == "refused-by-budget"


@pytest.mark.parametrize(
    "script",
    [
        OK,
        prints(usage=[]),
        prints(usage={}),
        prints(usage=None),
        prints(usage=[{**MODEL, "input_tokens": -1, "output_tokens": 1}]),
        prints(usage=[{**MODEL, "input_tokens": 1.5, "output_tokens": 1}]),
        prints(usage=[{**MODEL, "input_tokens": 9 * 10**15, "output_tokens": 1}]),
        """printf '{"question": "which?"}'""",
        "echo what",
        "kill -9 $$",
        "exit 3",
        "exit 75",
        "sleep 600",
        f'{BUS} complete "$BUS_TASK" --status success',
    ],
)
async def test_usage_that_is_not_told_is_a_call_without_a_price(place, script):
    """However a paid run ends, it is never one that cost nothing."""
    await place.delegate()
    await place.serve("", definition=agent(script), attempts=1, timeout=2.0 if "sleep" in script else None)
    assert await counted(place) == (0, 1, 0)


async def test_a_price_beyond_all_counting_keeps_the_tokens_and_the_work(place):
    """The completion stands with its usage, which has no cost."""
    await place.delegate()
    await place.serve("", definition=agent(prints(usage=[{**MODEL, "input_tokens": 9 * 10**15, "output_tokens": 1}])))
    (envelope,) = [entry.envelope async for entry in place.bus.log.read() if entry.type == "completion"]
    assert envelope.payload.result.status == "success"
    assert [(used.input_tokens, used.cost) for used in envelope.usage] == [(9 * 10**15, None)]


async def test_usage_is_told_once_whoever_tells_it(place):
    """What is tried again keeps what it said that it used; what has completed by itself is not counted again."""
    used = {**MODEL, "cost": {"source": "reported", "microusd": 7}}
    await place.delegate("again")
    await place.serve("", definition=agent(f"{prints(usage=[used])}; exit 75"), attempts=1)
    assert await counted(place) == (7, 0, 0)
    await place.delegate("itself")
    words = "--status success --provider anthropic --model claude-sonnet-4-5 --cost 0.5"
    await place.serve("", definition=agent(f'{BUS} complete "$BUS_TASK" {words}'))
    assert await counted(place) == (500_007, 0, 0)


async def test_a_run_that_is_canceled_is_counted(place, tmp_path):
    """Nobody hears what it used any more, and its hold ends."""
    ready = tmp_path / "ready"
    await place.delegate()
    definition = agent(f"touch {ready}; sleep 600")
    with anyio.fail_after(60):
        async with anyio.create_task_group() as group:
            service = Service(AGENT, definition=definition, lease=0.6)
            group.start_soon(lambda: serve(place.settings, service, on_settled=place.settled.append, on_incident=print))
            while not ready.exists():  # noqa: ASYNC110 - another process sets no event here
                await anyio.sleep(0.02)
            await place.say(Cancellation(reason="no longer wanted"))
            async for entry in place.bus.log.follow(START):
                if entry.type == "budget" and entry.envelope.payload.budget == "settled":
                    break
            group.cancel_scope.cancel()
    assert await counted(place) == (0, 1, 0)


@pytest.mark.parametrize(
    "definition",
    [
        agent(OK, provider=None, model=None),
        agent(OK, model=None),
        agent("", command=("/no/such/program",)),
    ],
)
async def test_what_nobody_pays_for_is_not_counted(place, definition):
    """A command that names no model has no calls; neither has one that could not be started."""
    await place.delegate()
    await place.serve("", definition=definition)
    assert await counted(place) == (0, 0, 0)
