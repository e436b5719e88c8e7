"""Agents and routing on the command line: define, look, route, delegate, climb."""

from __future__ import annotations

import pytest

POLICY = """
[[ladder]]
rung = "one"
agent = "@one"
paid = false
for = ["docs"]
[[ladder]]
rung = "two"
agent = "@two"
paid = false
[[ladder]]
rung = "three"
agent = "@three"
paid = true
"""
ASKS = """echo '{"question": "what?"}'"""


@pytest.fixture
def project(bus):
    """A project with a policy and two definitions."""
    folder = bus.command.folder
    (folder / "policy.toml").write_text(POLICY, encoding="utf-8")
    (folder / "bus.toml").write_text('policy = "policy.toml"\nagent_folders = ["fleet"]\n', encoding="utf-8")
    (folder / "fleet").mkdir()
    (folder / "fleet" / "docs.md").write_text("---\nname: docs\nmodel: haiku\n---\nYou write.\n", encoding="utf-8")
    return folder


def test_agents_are_added_listed_and_shown(bus, project):
    """Definitions are written, listed with their places, and shown; a mistake makes the list end with 1."""
    assert (
        bus.ok("agents", "add", "one", "--tool", "Read", "--set", "concurrency=2", "--", "sh", "-c", "true") == "@one"
    )
    assert bus("agents", "add", "@one", "--adapter", "claude").code == 4
    assert bus("agents", "add", "@docs", "--adapter", "claude").code == 4
    assert bus("agents", "add", "@x", "--adapter", "claud").code == 2
    done = bus("agents", "add", "@x", "--adapter", "command")
    assert (done.code, "-- ./agent.sh" in done.stderr, "@x" in (project / "bus.toml").read_text()) == (2, True, False)
    found = bus("agents", "list", "--json").json()["agents"]
    assert [(each["name"], each["adapter"]) for each in found] == [("@docs", "claude"), ("@one", "command")]
    assert "You write." in bus.ok("agents", "show", "docs")
    assert bus("agents", "show", "dogs").code == 3
    done = bus("agents", "test", "@one", "--json")
    assert (done.code, done.json()["checks"][-1]["name"]) == (1, "outcome")
    (project / "fleet" / "bad.md").write_text("---\nnam: x\n---\n", encoding="utf-8")
    done = bus("agents", "list")
    assert done.code == 1
    assert "bad.md, line 1" in done.stderr
    assert "@docs" in done.stdout
    assert bus("agents", "doctor", "--json").code == 1
    (project / "fleet" / "bad.md").unlink()
    (project / "policy.toml").write_text(POLICY + 'model = "sonet"\n', encoding="utf-8")
    assert any("ladder[3].model" in each for each in bus("agents", "doctor", "--json").json()["mistakes"])


def test_work_is_routed_recorded_and_climbs(bus, project):
    """The chosen rung and each that was passed stand in the log with the delegation, and in the one after the climb."""
    assert bus.ok("route", "--task-type", "code").split()[0] == "@two"
    assert bus.ok("route", "--type", "code").split()[0] == "@two"
    assert "passed  one  not-able" in bus("route", "--task-type", "code", "--explain").stdout
    assert "@nobody is not defined here" in bus("route", "--agent", "@nobody", "--task-type", "x", "--explain").stderr
    nobody = bus("route", "--agent", "@three", "--json")
    assert (nobody.code, nobody.json()["passed"][0]["reason"]) == (1, "not-justified")
    done = bus("delegate", "--route", "Do it", "--type", "code", "--task", "t")
    assert (done.code, done.stdout.strip()) == (0, "t")
    assert "@two gets it, passing over one: not-able" in done.stderr
    route = bus.last().envelope.payload.route
    assert (bus.last().recipient, route.rung, [each.reason for each in route.passed]) == ("@two", "two", ["not-able"])
    assert "passed over one, not-able" in bus.ok("task", "t")
    assert bus("task", "t", "--json").json()["task"]["route"]["rung"] == "two"
    assert "routed to rung two" in bus.ok("audit", "--task", "t")
    bus.ok("ack", "t")
    bus.ok("complete", "t", "--status", "failure")
    exhausted = bus("route", "--climb", "t", "--json")
    assert (exhausted.code, exhausted.json()["result"]) == (1, "exhausted")
    assert bus.last().type == "escalation"
    assert bus("route", "--climb", "nothing").code == 3


def test_what_cannot_be_routed_says_why(bus, project):
    """Nobody to take it, no policy, an envelope that is written already: refused, with what to do."""
    done = bus("delegate", "--route", "@three", "Do it")
    assert (done.code, "three: not-justified" in done.stderr) == (4, True)
    assert bus.log() == []
    assert bus.ok(
        "delegate", "--route", "@three", "Do it", "--justification", "both free ones failed on it", "--task", "p"
    )
    assert bus.last().envelope.payload.paid_model_justification == "both free ones failed on it"
    assert bus("delegate", "--complexity", "simple", "@two", "x").code == 2
    assert bus("delegate", "--route", "--complexity", "odd", "x").code == 2
    (project / "goal.md").write_text("a long goal", encoding="utf-8")
    assert bus.ok("delegate", "--route", "--goal-file", "goal.md", "--task-type", "docs")
    assert bus.last().envelope.payload.task_type == "docs"
    assert (bus.last().recipient, bus.last().envelope.payload.goal) == ("@one", "a long goal")
    (project / "bus.toml").write_text("", encoding="utf-8")
    assert bus("route", "--task-type", "x").code == 2


def test_the_doctor_reads_the_policy(bus, project):
    """It says which rungs nobody here can serve, each once; a mistake in any table, also with --policy, ends with 1."""
    judged = bus("agents", "doctor", "--json").json()["policy"]
    assert (judged["sound"], judged["path"]) == (True, str(project / "policy.toml"))
    assert judged["unserved"] == [{"rung": name, "agent": f"@{name}"} for name in ("one", "two", "three")]
    bus.ok("agents", "add", "@one", "--", "sh", "-c", "true")
    told = bus("agents", "doctor").stderr
    assert f"The policy {project / 'policy.toml'} is sound." in told
    assert ("rung one" in told, "Nobody here can serve its rung two: @two is not defined." in told) == (False, True)
    other = project / "other.toml"
    for text, place in (
        ("[checks]\ncommands = 3\n", "other.toml, line 2, key `checks.commands`"),
        ("[coordination]\nagain = 0\n", "other.toml, line 2, key `coordination.again`"),
        ("[swarm]\nprocesses = 0\n", "other.toml, line 2, key `swarm.processes`"),
        ("[models]\nopus = 3\nhaiku = 4\n", "other.toml, line 3, key `models.haiku`"),
    ):
        other.write_text(text, encoding="utf-8")
        done = bus("agents", "doctor", "--policy", "other.toml")
        assert (done.code, place in done.stderr, "is sound" in done.stderr) == (1, True, False)
        assert bus("agents", "doctor", "--policy", "other.toml", "--json").json()["policy"]["sound"] is False
    (project / "bus.toml").write_text("", encoding="utf-8")
    assert bus("agents", "doctor", "--json").json()["policy"] is None


def test_a_model_without_a_price_is_told_before_it_is_refused(bus, project):
    """Doctor and trial say what a run would be refused for, and how the model is named; not where a rung names one."""
    bus.ok("agents", "add", "@short", "--adapter", "claude", "--model", "sonnet")
    bus.ok("agents", "add", "@full", "--adapter", "claude", "--model", "claude-sonnet-4-5")
    bus.ok("agents", "add", "@unnamed", "--adapter", "claude")
    bus.ok("agents", "add", "@tool", "--", "sh", "-c", ASKS)
    bus.ok("agents", "add", "@paid", "--provider", "nobody", "--model", "x", "--", "sh", "-c", ASKS)

    def told():
        lacking = bus("agents", "doctor", "--json").json()["lacking"]
        return {each["agent"]: each["what"] for each in lacking if each["what"].startswith("Nobody says what")}

    assert set(told()) == {"@docs", "@short", "@unnamed", "@paid"}
    assert "such as claude-sonnet-" in told()["@short"]
    assert "unpriced = true" in told()["@unnamed"]
    done = bus("agents", "test", "@paid", "--json")
    assert (done.code, {each["name"]: each["good"] for each in done.json()["checks"]}) == (
        1,
        {"program": True, "run": True, "outcome": True, "price": False},
    )
    bus.ok("agents", "add", "@paid", "--replace", "--set", "unpriced=true", "--provider", "x", "--", "sh", "-c", ASKS)
    bus.ok("agents", "test", "@paid")
    rung = '[[ladder]]\nrung = "u"\nagent = "@unnamed"\nmodel = "anthropic/claude-sonnet-4-5"\n'
    (project / "policy.toml").write_text(f"{POLICY}{rung}", encoding="utf-8")
    assert set(told()) == {"@docs", "@short"}
