"""Delegating on the command line: a name that nobody is known by, and a wait that a budget ends."""

from __future__ import annotations

import json

import anyio
import pytest

from taskbus.client import Bus
from taskbus.envelope import Completion, Result
from tests.conftest import BusCommand
from tests.scenarios.conftest import Console


@pytest.fixture
def project(bus: Console) -> Console:
    """A bus with a definition of @codex, and a policy with a rung for @opencode."""
    folder = bus.command.folder
    (folder / "policy.toml").write_text('[[ladder]]\nagent = "@opencode"\npaid = false\n', encoding="utf-8")
    (folder / "bus.toml").write_text('policy = "policy.toml"\n[agents."@codex"]\nadapter = "codex"\n', encoding="utf-8")
    return bus


async def delegation(client: Bus) -> None:
    """Wait until something is delegated."""
    with anyio.fail_after(20):
        async for entry in client.log.follow():
            if entry.type == "delegation":
                return


@pytest.mark.parametrize(("typed", "meant"), [("@codx", "@codex"), ("@opncode", "@opencode"), ("@Codex", "@codex")])
def test_a_name_that_was_mistyped_is_pointed_out(project: Console, typed: str, meant: str) -> None:
    """It is sent all the same, and one line says who may be meant, and how it is taken back."""
    done = project("delegate", typed, "g", "--task", "T")
    assert (done.code, done.stdout, project.last().recipient) == (0, "T\n", typed)
    (said,) = [line for line in done.stderr.splitlines() if "known as" in line]
    assert f"did you mean {meant}?" in said
    project.ok(*said.partition("take it back: bus ")[2].partition(' "')[0].split(), "a wrong name")
    assert project.last().type == "cancellation"
    as_json = project("delegate", f"{typed}y", "g", "--json")
    assert (as_json.code, "warning" in as_json.json(), "did you mean" in as_json.stderr) == (0, False, True)


def test_names_that_are_known_are_not_doubted(project: Console) -> None:
    """Whoever is defined, stands in the policy, was sent anything or is at work; and people."""
    for name in ("@codex", "@opencode", "@human", "codex"):
        assert "known as" not in project("delegate", name, "g").stderr
    assert "Nobody is known as @zebra yet. To take it back" in project("delegate", "@zebra", "g").stderr
    assert "known as" not in project("delegate", "@zebra", "g").stderr

    project.on_bus(lambda client: client.inbox("@codex2").take())
    assert "known as" not in project("delegate", "@codex2", "g").stderr
    (project.command.folder / "bus.toml").write_text("[agents.a]\nadaptr = 1\n", encoding="utf-8")
    assert "did you mean @codex" in project("delegate", "@codexx", "g").stderr


def test_on_a_bus_that_knows_nobody_no_name_is_doubted(bus: Console) -> None:
    """The first agent of all has to be named by somebody, and a policy that cannot be read stops nobody."""
    (bus.command.folder / "policy.toml").write_text("ladder = 3\n", encoding="utf-8")
    (bus.command.folder / "bus.toml").write_text('policy = "policy.toml"\n', encoding="utf-8")
    done = bus("delegate", "@kilo", "g")
    assert (done.code, "known as" in done.stderr) == (0, False)


@pytest.mark.parametrize("as_json", [False, True])
def test_a_wait_that_a_budget_ends(bus: Console, run_bus: BusCommand, *, as_json: bool) -> None:
    """Exit code 7, with what was refused and what can be done; with --json it stands in the outcome."""
    bus.ok("budget", "set", "anthropic", "0.10", "--reason", "little")

    async def reserving(work):
        await work.acknowledged()
        await work.bus.budget.reserve(work.delivery, provider="anthropic", model="opus", microusd=200_000)
        return Completion(result=Result(status="success"))

    async def serve(client):
        await delegation(client)
        await client.worker("@kilo", reserving).run(until_idle=True)

    extra = ("--json",) if as_json else ()
    with run_bus.start("delegate", "@kilo", "g", "--task", "T", "--wait", "--timeout", "30s", *extra) as process:
        bus.on_bus(serve)
        printed, told = process.communicate(timeout=30)
    assert process.returncode == 7, told
    if as_json:
        outcome = json.loads(printed)
        told = json.dumps(outcome["outcome"], ensure_ascii=False)
        assert outcome["state"] == "escalated"
    for words in ("$0.20 do not fit", "Reserve less", "bus delegate @agent GOAL --task T", "bus budget set"):
        assert words in told


def test_a_wait_that_ends_with_other_trouble(bus: Console, run_bus: BusCommand) -> None:
    """What was parked for another reason is no matter of money: exit code 1."""

    async def failing(_work):
        raise LookupError("nothing there")

    async def serve(client):
        await delegation(client)
        await client.worker("@kilo", failing, attempts=1).run(until_idle=True)

    with run_bus.start("delegate", "@kilo", "g", "--wait", "--timeout", "30s") as process:
        bus.on_bus(serve)
        _, told = process.communicate(timeout=30)
    assert (process.returncode, "bus budget set" in told) == (1, False)
