"""A real agent's program as a coordinator: what it is told, what it may decide, and what its run costs."""

from __future__ import annotations

import json

import pytest

from taskbus.envelope import Delegation, ErrorDetails, Escalation, compose
from taskbus_agents.coordination import Office
from taskbus_agents.prompt import prompt
from tests.agents.scene import AGENT, TASK

pytestmark = pytest.mark.anyio
OTHER = "@other"


@pytest.fixture
def asked(scene):
    """Have @other's trouble with its task escalated to @coder."""

    async def ask(level: int = 2) -> None:
        await scene.say(Delegation(goal="do it", acceptance_criteria=("it works",)), recipient=OTHER)
        details = ErrorDetails(level=level, category="execution", message="It | does\nnot build.")
        await scene.say(Escalation(error_details=details), sender=OTHER, recipient=AGENT)

    return ask


async def last(scene, kind):
    """The newest envelope of a type."""
    return (await scene.envelopes(kind))[-1]


async def test_a_model_hands_a_task_out_again_and_its_run_is_paid_for(scene, asked):
    """Its last message names an agent; what it used is told by itself, and nothing stays reserved."""
    await asked()
    said = f"They cannot.\n{json.dumps({'target_agent': OTHER, 'context': {'goal': 'do half of it'}})}"
    await scene.run(["look"], ["result", said], coordinator="@lead")
    again = await last(scene, "delegation")
    assert (again.sender, again.recipient, again.payload.goal) == (AGENT, OTHER, "do half of it")
    assert again.payload.acceptance_criteria == ("it works",)
    assert again.usage == ()
    kinds = [each.payload.budget for each in await scene.envelopes("budget")]
    assert kinds == ["reserved", "settled"]
    assert (await last(scene, "budget")).usage
    assert await scene.bus.budget.holds() == []
    assert await scene.bus.budget.check() == []
    assert await scene.state() == "submitted"


async def test_a_model_is_told_what_it_may_decide(scene, asked):
    """The trouble stands quoted in what it is told, and how to reply is about a decision, not about work."""
    await asked()
    await scene.run(["look"], ["result", "I do not know."], coordinator="@lead")
    (told,) = scene.prompts()
    assert "| It | does\n| not build." in told
    assert "escalated to you, at level 2 of 4" in told
    assert '{"target_agent": "@name"' in told
    assert '{"answer"' not in told
    assert '"status": "success"' not in told
    assert "goes one level up by itself, to @lead" in told


async def test_the_names_of_those_who_may_get_it_are_told(scene):
    """With what each of them can do, and nothing that would end a line."""
    said = [
        compose(Delegation(goal="g"), sender="@boss", recipient=OTHER, task=TASK),
        compose(
            Escalation(error_details=ErrorDetails(level=3, category="execution", message="m")),
            sender=OTHER,
            recipient="@boss",
            task=TASK,
        ),
    ]
    office = Office("@boss", None, {"@b": "Does\nall.", "@a": ""})
    told = prompt(said, scene.definition(), folder=scene.home, office=office)
    assert "  - @a: says nothing of itself\n  - @b: Does all.\n" in told
    assert '{"answer"' in told
    assert "to a person." in told


@pytest.mark.parametrize("steps", [[["look"], ["result", "No idea."]], [["exit", 3]]])
async def test_what_a_model_does_not_decide_goes_up(scene, asked, steps):
    """Whether it says nothing of use, or its run is no success: the next level gets it, and nothing is reserved."""
    await asked()
    await scene.run(*steps, coordinator="@lead")
    said = await last(scene, "escalation")
    assert (said.recipient, said.payload.error_details.level) == ("@lead", 3)
    assert said.payload.error_details.message.endswith("It | does\nnot build.")
    assert await scene.bus.budget.holds() == []


async def test_without_money_nobody_decides(scene, asked):
    """A coordinator over its cap is not run: the escalation goes up with the reason."""
    await asked()
    await scene.bus.budget.set_cap(f"agent:{AGENT}", "day", 1, reason="enough")
    await scene.run(["look"], ["result", "No idea."], coordinator="@lead")
    said = await last(scene, "escalation")
    assert (said.sender, said.recipient) == ("@bus", "@lead")
    assert "refused-by-budget" in said.payload.error_details.message
    assert not (scene.home / "prompts").exists()


async def test_an_agents_own_escalation_names_its_coordinator(scene):
    """One that escalates in short, without a recipient, turns to whom its definition names."""
    await scene.delegate()
    await scene.run(["look"], ["result", json.dumps({"escalation": "The schema is wrong."})], coordinator="@lead")
    said = await last(scene, "escalation")
    assert (said.sender, said.recipient, said.payload.error_details.level) == (AGENT, "@lead", 2)
    assert said.usage
