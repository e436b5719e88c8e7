"""Trials: one tiny run of an agent, and what works of it."""

from __future__ import annotations

import os
import sys

import pytest

from taskbus_agents.definition import Definition
from taskbus_agents.programs import program, programs
from taskbus_agents.trial import FILE, tried

pytestmark = pytest.mark.anyio

CLAUDE = """#!{python}
import json, sys, os
prompt = sys.stdin.read()
if "--version" in sys.argv:
    print("2.1.328 (Claude Code)"); sys.exit()
if {writes}:
    open("{file}", "w").write("taskbus works\\n")
print(json.dumps({{"type": "result", "subtype": "success", "is_error": {error}, "api_error_status": {status},
    "result": "done", "total_cost_usd": 0.0125, "usage": {{"input_tokens": 100, "output_tokens": 20}},
    "modelUsage": {{"m": {{"inputTokens": 100, "outputTokens": 20, "costUSD": 0.0125, "costBasis": "list"}}}}}}))
"""


@pytest.fixture
def machine(tmp_path):
    """A machine on which a program called claude is, which answers as it is told to."""

    def made(*, writes=True, error="False", status="None"):
        folder = tmp_path / "bin"
        folder.mkdir(exist_ok=True)
        script = folder / "claude"
        text = CLAUDE.format(python=sys.executable, writes=writes, file=FILE, error=error, status=status)
        script.write_text(text, encoding="utf-8")
        script.chmod(0o755)
        return {"PATH": str(folder), "HOME": str(tmp_path), "BUS_TASK": "no"}

    return made


def checks(trial):
    """What was looked at, and how it was."""
    return {check.name: check.good for check in trial.checks}


async def test_everything_that_works_is_told(machine):
    """A program that does as it is asked is found, runs, tells what it used, and has written the file."""
    found = await tried(Definition(name="@a", adapter="claude"), environment=machine())
    assert found.good, found
    assert set(checks(found)) == {"program", "login", "run", "usage", "cost", "file"}
    notes = {check.name: check.note for check in found.checks}
    assert "2.1.328" in notes["program"]
    assert (notes["cost"], notes["usage"]) == ("$0.0125", "120 tokens of m")


async def test_a_success_without_the_file_is_none(machine):
    """A program that says that it is done and has written nothing does not work."""
    found = await tried(Definition(name="@a", adapter="claude"), environment=machine(writes=False))
    assert (found.good, checks(found)["run"], checks(found)["file"]) == (False, True, False)


async def test_a_refused_key_a_missing_key_and_a_missing_program_are_told(machine, tmp_path):
    """What keeps an agent from working is told before anything else is tried."""
    refused = await tried(Definition(name="@a", adapter="claude"), environment=machine(error="True", status="401"))
    assert (checks(refused)["login"], checks(refused)["run"]) == (False, False)
    keyless = await tried(Definition(name="@a", adapter="claude", key="NO_KEY"), environment=machine())
    assert checks(keyless) == {"key": False}
    missing = await tried(Definition(name="@a", adapter="codex"), environment={"PATH": str(tmp_path / "none")})
    assert checks(missing) == {"program": False}
    assert "npm" in missing.checks[0].note


@pytest.mark.parametrize(
    ("script", "good"),
    [
        ('cat > /dev/null; printf \'{"status": "success"}\'', {"program": True, "run": True, "outcome": True}),
        (
            'cat > completion.json; printf \'{"status": "success"}\' > completion.json',
            {"program": True, "run": True, "outcome": True},
        ),
        ("grep -q taskbus-check && exit 3", {"program": True, "run": False}),
        ("echo what", {"program": True, "run": True, "outcome": False}),
        ("sleep 30", {"program": True, "run": False}),
        (
            'test -z "$BUS_URL" || exit 9; printf \'{"question": "which?"}\'',
            {"program": True, "run": True, "outcome": True},
        ),
    ],
)
async def test_a_program_of_ones_own_is_tried_by_its_contract(script, good):
    """It gets a delegation on stdin, and must leave an outcome; no bus is in its environment."""
    definition = Definition(name="@a", adapter="command", command=("sh", "-c", script))
    environment = {**os.environ, "BUS_URL": "redis://nowhere"}
    found = await tried(definition, timeout=1.0, environment=environment)
    assert (checks(found), found.good) == (good, all(good.values()))


async def test_the_doctor_knows_what_is_there_and_what_is_missing(machine):
    """Each program with its version, whether that was tried, how to install it, and what access was found."""
    seen = {each.adapter: each for each in await programs(machine())}
    assert (seen["claude"].version, seen["claude"].is_tried, seen["claude"].missing) == ("2.1.328", True, ())
    assert seen["codex"].path is None
    assert any("node" in each for each in seen["codex"].missing)
    assert seen["codex"].install.startswith("npm install --global @openai/codex@")
    assert (await program("claude", {**machine(), "ANTHROPIC_API_KEY": "x"})).access == "ANTHROPIC_API_KEY is set"
