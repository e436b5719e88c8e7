"""The models that a plan names, beside those that run: what differs is noted before anything runs."""

from __future__ import annotations

import pytest

from taskbus.settings import Settings
from taskbus_agents.plans import document, models

AGENTS = """
[agents."@coder"]
adapter = "claude"
model = "claude-opus-4-1"

[agents."@researcher"]
adapter = "opencode"
provider = "groq"
model = "llama-3.3-70b"

[agents."@open"]
adapter = "kilo"

[agents."@script"]
adapter = "command"
command = ["./script"]
"""
PRICE = '[prices."groq/llama-3.3-70b"]\ninput = 1.0\noutput = 2.0\n'
LADDER = '[[ladder]]\nrung = "free"\nagent = "@researcher"\npaid = false\n'


@pytest.fixture
def noted(tmp_path):
    """The notes about a plan whose one step is assigned as in a line of ASSIGN, where AGENTS are defined."""

    def notes(assigned: str, policy: str | None = None) -> list[str]:
        (tmp_path / "bus.toml").write_text(AGENTS)
        if policy is not None:
            (tmp_path / "policy.toml").write_text(policy)
        settings = Settings.load(
            policy=tmp_path / "policy.toml" if policy is not None else None, home=tmp_path, environ={}, cwd=tmp_path
        )
        written = f"SPLIT:\n a\nASSIGN:\n {assigned}\n"
        return models.notes(document.parse(written.encode(), form="text", stem="p", place="p"), settings)

    return notes


@pytest.mark.parametrize(
    "assigned", ["a: @coder (claude-opus-4-1)", "a: @researcher (groq/llama-3.3-70b)", "a: @researcher (llama-3.3-70b)"]
)
def test_a_model_that_runs_anyway_is_not_noted(noted, assigned):
    """With its provider and without, it is the same."""
    assert noted(assigned) == []


@pytest.mark.parametrize(
    ("assigned", "runs"),
    [
        ("a: @coder (claude-haiku-4-5)", "@coder runs anthropic/claude-opus-4-1, as it is defined"),
        ("a: @open (z-ai/glm4.7)", "@open runs whatever its program chooses"),
    ],
)
def test_a_model_that_does_not_run_is_noted(noted, assigned, runs):
    """The definition's model runs, and is paid: whoever wrote another one into the plan is told which."""
    (said,) = noted(assigned)
    assert said.startswith("line 2: a: the plan says ")
    assert runs in said
    assert said.endswith("; it is only told what the plan says")


@pytest.mark.parametrize(
    ("assigned", "policy", "why"),
    [
        ("a: @coder (claude-opus-4-1, free)", None, "which costs money (about "),
        ("a: @open (free)", None, "and nobody says what that costs"),
        ("a: @researcher (llama-3.3-70b, free)", PRICE, "which costs money (about "),
        ("a: @researcher (llama-3.3-70b, free)", PRICE + LADDER, None),
        ("a: @script (free)", None, None),
        ("a: @coder (claude-opus-4-1, paid)", None, None),
    ],
)
def test_a_step_that_is_to_be_free_does_not_cost_in_silence(noted, assigned, policy, why):
    """It is free where the policy says so, or the prices; else it is said that nobody promises it, and why."""
    said = noted(assigned, policy)
    assert len(said) == (why is not None)
    assert why is None or ("the plan says free" in said[0] and why in said[0])


def test_agents_that_are_not_defined_here_are_named_once(tmp_path):
    """What they run stands elsewhere: nobody here can say whether it is what the plan says."""
    written = "SPLIT:\n a + b\nASSIGN:\n a: @x (m, free)\n b: @y (n)\n"
    plan = document.parse(written.encode(), form="text", stem="p", place="p")
    (said,) = models.notes(plan, Settings.load(home=tmp_path, environ={}, cwd=tmp_path))
    assert "only told to @x, @y: what runs, and what it costs, is what their definitions say" in said


def test_a_plan_that_names_no_model_has_no_such_note(tmp_path):
    """Without any, not even the definitions are read."""
    (tmp_path / "bus.toml").write_text(AGENTS)
    settings = Settings.load(home=tmp_path, environ={}, cwd=tmp_path)
    (tmp_path / "bus.toml").write_text("[agents.@")
    plan = document.parse(b'[steps.a]\ngoal = "x"\nagent = "@x"\n', form="toml", stem="p", place="p")
    assert models.notes(plan, settings) == []
    named = document.parse(plan.source + b'model = "m"\n', form="toml", stem="p", place="p")
    assert "definitions or policy have mistakes" in models.notes(named, settings)[0]
