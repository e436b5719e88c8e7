"""The shared run of agents: from a delivery over a program to its outcome, its money and its end."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import anyio
import pytest

from taskbus.envelope import Acknowledgment, Answer, Cancellation, Cost, Delegation, Usage, Verdict, now
from taskbus.errors import ConfigurationError
from taskbus_agents.adapters.claude import Claude
from taskbus_agents.routing import RoutingPolicy
from taskbus_agents.runner import Runner
from taskbus_agents.spending import Spending
from taskbus_agents.trouble import Conduct
from tests.agents.scene import AGENT, TASK, StandIn, done, until
from tests.repositories import git, repository

pytestmark = pytest.mark.anyio


def is_there(pid: int) -> bool:
    """Whether a process is there."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


async def test_success_comes_with_its_evidence(scene):
    """Files with their hashes, criteria that were run, usage with its cost, and the agent's word marked as that."""
    await scene.delegate("$ grep -q hello a.txt", "file: a.txt", "reads well", task_type="implementation")
    word = done(outputs=["a.txt"], verification_result="I read it twice.")
    await scene.run(["write", "a.txt", "hello\nworld\n"], ["result", word])
    envelope = await scene.settled()
    completion = envelope.payload
    assert (completion.result.status, completion.termination_reason) == ("success", None)
    (artifact,) = completion.result.artifacts
    assert Path(artifact.path) == scene.home / "runs" / TASK / "1" / "a.txt"
    assert (artifact.size, artifact.summary) == (12, "added, +2 \N{MINUS SIGN}0 lines")
    assert "2 of 2 criteria that can be run are met" in completion.verification_result
    assert "reads well: not checked" in completion.verification_result
    assert "own word, not checked:\nI read it twice." in completion.verification_result
    assert (envelope.quality_gates.output.outcome, envelope.quality_gates.output.note) == ("passed", "criteria met: 2")
    (usage,) = envelope.usage
    assert (usage.input_tokens, usage.output_tokens, usage.cache_read_tokens) == (1200, 100, 200)
    assert (usage.cost.source, usage.cost.microusd) == ("reported", 4500)
    assert await scene.state() == "completed"


async def test_the_acknowledgment_names_the_model_and_the_hold_ends_with_the_outcome(scene):
    """What runs is known before it runs; what it cost is committed, and nothing stays held."""
    await scene.delegate()
    await scene.run(["write", "a", "x"], ["result", done()])
    (acknowledgment,) = await scene.envelopes("acknowledgment")
    assert (acknowledgment.payload.provider, acknowledgment.payload.model) == ("anthropic", "claude-sonnet-4-5")
    (reserved,) = await scene.envelopes("budget")
    assert (reserved.payload.budget, reserved.payload.hold.microusd) == ("reserved", 50_000)
    assert (await scene.sums())["provider:anthropic"] == (4500, 0)
    assert await scene.bus.budget.holds() == []


async def test_a_claim_without_a_criterion_is_marked(scene):
    """Something has changed, so that it is a success; whether it is what was asked for is its word alone."""
    await scene.delegate()
    await scene.run(["write", "a", "x"], ["result", done()])
    envelope = await scene.settled()
    assert envelope.payload.result.status == "success"
    assert envelope.payload.verification_result.startswith("Claim, not checked")
    assert (envelope.quality_gates.output.outcome, envelope.quality_gates.output.note) == (
        "skipped",
        "claim, not checked",
    )


async def test_a_text_may_be_what_was_asked_for(scene):
    """`says:` makes the answer itself the result."""
    await scene.delegate("says: forty-two")
    await scene.run(["result", done(description="It is forty-two.")])
    completion = await scene.completion()
    assert (completion.result.status, completion.result.description) == ("success", "It is forty-two.")


async def test_who_may_only_look_is_believed_when_it_has_looked(scene):
    """A reviewer changes nothing: that it used its tools is what there is to see."""
    await scene.delegate()
    await scene.run(["look"], ["result", done()], permission="read")
    assert (await scene.completion()).result.status == "success"


TROUBLES = [
    pytest.param(
        ["result", "Invalid API key", {"is_error": True, "api_error_status": 401}], "permanent", id="authentication"
    ),
    pytest.param(["result", "Overloaded", {"is_error": True, "api_error_status": 500}], "retryable", id="model-error"),
    pytest.param(["kill"], "retryable", id="killed"),
]


@pytest.mark.parametrize(("step", "reason"), TROUBLES)
async def test_what_somebody_must_see_to_is_parked(scene, step, reason):
    """After its attempts, with what to do; nothing stays held."""
    await scene.delegate()
    await scene.run(["call", "thinking"], step)
    (parking,) = await scene.envelopes("parking")
    assert parking.payload.reason == reason
    assert await scene.state() == "escalated"
    assert await scene.bus.budget.holds() == []


async def test_a_login_that_is_missing_is_said_to_be(scene, monkeypatch):
    """The escalation names the variable, and no key."""
    monkeypatch.setenv("CODER_KEY", "sk-very-secret")
    await scene.delegate()
    step = ["result", "Invalid API key sk-very-secret", {"is_error": True, "api_error_status": 401}]
    await scene.run(step, ["stderr", "401 for sk-very-secret"], key="CODER_KEY")
    (escalation,) = await scene.envelopes("escalation")
    assert "Set CODER_KEY" in escalation.payload.error_details.message
    assert "401 for ***" in escalation.payload.error_details.message
    assert "very-secret" not in (scene.home / "runs" / TASK / "1.logs" / "stdout.log").read_text()
    assert all(b"sk-very-secret" not in entry.body for entry in [e async for e in scene.bus.log.read()])


async def test_a_key_that_is_not_set_is_said_before_anything_runs(scene):
    """And nothing is reserved for what cannot run."""
    await scene.delegate()
    await scene.run(["result", done()], key="NO_SUCH_KEY")
    (escalation,) = await scene.envelopes("escalation")
    assert "NO_SUCH_KEY, which is not set" in escalation.payload.error_details.message
    assert await scene.envelopes("budget") == []


async def test_a_quota_is_waited_for(scene):
    """Until its reset where it says when; it counts as no attempt, and the task is still at work."""
    at = int((now() + timedelta(hours=2)).timestamp())
    limit = ["print", json.dumps({"type": "system", "rate_limit_info": {"status": "rejected", "resetsAt": at}})]
    await scene.delegate()
    async with Runner(grace=0.5) as runner, anyio.create_task_group() as group:
        steps = [limit, ["result", "limit reached", {"is_error": True, "api_error_status": 429}]]
        agent = scene.agent(runner, scene.definition(*steps))
        worker = scene.bus.worker(AGENT, agent, supervision=None, on_incident=scene.incidents.append)
        group.start_soon(worker.run)
        await until(lambda: any("waits until" in each for each in scene.incidents))
        group.cancel_scope.cancel()
    assert await scene.state() == "working"
    (incident,) = [each for each in scene.incidents if "waits until" in each]
    assert f"{now() + timedelta(hours=2):%Y-%m-%dT%H}" in incident
    kinds = [each.payload.budget for each in await scene.envelopes("budget")]
    assert kinds == ["reserved", "settled"]


async def test_a_quota_makes_work_climb_where_the_policy_says_so(scene):
    """Then the task has failed for that reason, for somebody else to take it."""
    await scene.delegate()
    step = ["result", "limit reached", {"is_error": True, "api_error_status": 429}]
    await scene.run(step, conduct=Conduct(waits=False))
    completion = await scene.completion()
    assert (completion.result.status, completion.termination_reason) == ("failure", "quota")


@pytest.mark.parametrize(("writes", "status"), [(True, "partial"), (False, "failure")])
@pytest.mark.parametrize(
    ("subtype", "reason"), [("error_max_turns", "turn-limit"), ("error_max_budget", "money-limit")]
)
async def test_a_limit_is_no_success(scene, subtype, reason, writes, status):
    """What was done by then is kept, and called partial at best."""
    await scene.delegate()
    steps = [["write", "a", "x"]] if writes else []
    await scene.run(*steps, ["result", "", {"subtype": subtype, "is_error": True}])
    completion = await scene.completion()
    assert (completion.result.status, completion.termination_reason) == (status, reason)
    assert len(completion.result.artifacts) == writes


async def test_garbage_fails_and_is_kept(scene):
    """Exit code 0 is no success; where the output is, is said."""
    await scene.delegate()
    await scene.run(["print", "\x1b[31m%%% what?"], ["stderr", "it broke"])
    completion = await scene.completion()
    assert (completion.result.status, completion.termination_reason) == ("failure", "garbage")
    assert "it broke" in completion.error_details.message
    assert b"%%% what?" in (scene.home / "runs" / TASK / "1.logs" / "stdout.log").read_bytes()


async def test_a_time_limit_ends_everything(scene, tmp_path):
    """The whole group; what is known of its usage is committed with the failure."""
    pid = tmp_path / "pid"
    await scene.delegate()
    await scene.run(["call", "let me see"], ["child", str(pid)], ["sleep", 600], timeout=1.0)
    envelope = await scene.settled()
    assert (envelope.payload.result.status, envelope.payload.termination_reason) == ("failure", "timeout")
    assert envelope.usage[0].input_tokens == 1200
    assert not is_there(int(pid.read_text()))


async def test_a_deadline_is_a_time_limit(scene, tmp_path):
    """That of the delegation, where it comes sooner than the definition's."""
    pid = tmp_path / "pid"
    await scene.delegate(deadline=now() + timedelta(seconds=1.5))
    await scene.run(["child", str(pid)], ["sleep", 600], timeout=500)
    assert (await scene.completion()).termination_reason == "timeout"
    assert not is_there(int(pid.read_text()))


async def test_a_deadline_that_is_over_starts_nothing(scene):
    """And costs nothing."""
    deadline = now() + timedelta(seconds=0.2)
    await scene.delegate(deadline=deadline)
    await anyio.sleep_until(anyio.current_time() + (deadline - now()).total_seconds())
    await scene.run(["write", "a", "x"], ["result", done()])
    assert (await scene.completion()).termination_reason == "timeout"
    assert await scene.envelopes("budget") == []


async def test_cancelling_a_task_ends_its_run_and_tells_what_it_used(scene, tmp_path):
    """No process stays, the hold ends, the usage counts."""
    pid, ready = tmp_path / "pid", tmp_path / "ready"
    await scene.delegate()
    async with Runner(grace=0.5) as runner, anyio.create_task_group() as group:
        definition = scene.definition(["call", "hm"], ["child", str(pid)], ["sleep", 600, str(ready)])
        agent = scene.agent(runner, definition)
        worker = scene.bus.worker(AGENT, agent, lease=0.6, supervision=None)
        group.start_soon(worker.run)
        await until(ready.exists)
        await scene.say(Cancellation(reason="no longer wanted"))
        await scene.followed("settled")
        group.cancel_scope.cancel()
    (settled,) = [each for each in await scene.envelopes("budget") if each.payload.budget == "settled"]
    assert settled.usage[0].input_tokens == 1200
    assert await scene.bus.budget.holds() == []
    assert not is_there(int(pid.read_text()))
    assert await scene.state() == "canceled"


async def test_a_run_that_is_tried_again_tells_its_usage_each_time(scene):
    """Each try is reserved and settled by itself."""
    await scene.delegate()
    await scene.run(["call", "hm"], ["kill"], attempts=2)
    kinds = [each.payload.budget for each in await scene.envelopes("budget")]
    assert kinds == ["reserved", "settled", "reserved", "settled"]


async def test_no_price_no_run(scene):
    """Refused before anything runs, with what to do; the definition may say otherwise."""
    await scene.delegate()
    await scene.run(["write", "a", "x"], ["result", done()], hold=None, provider="nobody", model="no-such-model")
    (parking,) = await scene.envelopes("parking")
    assert parking.payload.reason == "refused-by-budget"
    assert "unpriced = true" in parking.payload.message
    assert not (scene.home / "prompts").exists()


async def test_an_unpriced_model_runs_where_its_definition_says_so(scene):
    """It holds nothing, and its usage has no cost, which is not the same as free."""
    await scene.delegate()
    step = ["result", done(), {"modelUsage": {"m": {"inputTokens": 5, "outputTokens": 1, "costBasis": "unknown"}}}]
    await scene.run(["write", "a", "x"], step, hold=None, provider="nobody", model="m", unpriced=True)
    envelope = await scene.settled()
    assert envelope.payload.result.status == "success"
    assert envelope.usage[0].cost is None


async def test_a_free_rung_of_the_ladder_costs_nothing(scene, tmp_path):
    """What the policy calls free runs without a reservation, and is not priced by its list price; other models are."""
    file = tmp_path / "policy.toml"
    rung = f'[[ladder]]\nrung = "1"\nagent = "{AGENT}"\nmodel = "google/gemini-2.5-pro"\npaid = false\n'
    file.write_text(rung, encoding="utf-8")
    policy = RoutingPolicy.load(file)
    definition = scene.definition(provider="google", model="gemini-2.5-pro", hold=None)
    spending = Spending(policy.money, policy.is_free)
    used = Usage(provider="google", model="gemini-2.5-pro", input_tokens=10, output_tokens=10)
    (free,) = spending.priced([used], definition)
    assert free.cost == Cost(source="priced", table=policy.money.table, microusd=0)
    other, listed = replace(definition, model="gemini-2.5-flash"), Spending(policy.money)
    for asked, of in ((spending, other), (listed, definition)):
        (paid,) = asked.priced([used], of)
        assert paid.cost is not None
        assert paid.cost.microusd > 0


async def test_over_its_cap_nothing_runs(scene):
    """The refusal is parked and escalated in one step; the cap is what a human recorded."""
    await scene.bus.budget.set_cap("agent:@coder", "month", 10_000, reason="test")
    await scene.delegate()
    await scene.run(["write", "a", "x"], ["result", done()])
    (parking,) = await scene.envelopes("parking")
    assert parking.payload.reason == "refused-by-budget"
    assert await scene.state() == "escalated"
    assert not (scene.home / "prompts").exists()


@pytest.mark.parametrize("kind", ["copy", "worktree"])
async def test_what_waits_for_money_leaves_nothing(scene, tmp_path, kind):
    """Each time that another run still holds the money, the workspace goes that was made in vain."""
    project = repository(tmp_path / "project", {"a.txt": "a\n"})
    await scene.bus.budget.set_cap("provider:anthropic", "month", 60_000, reason="test")
    await scene.say(Delegation(goal="g"), recipient="@other", task="other")
    await scene.say(Acknowledgment(accepted=True), sender="@other", recipient="@lead", task="other")
    await scene.bus.budget.reserve("other", agent="@other", provider="anthropic", model="m", microusd=20_000)
    await scene.delegate()
    seen = set()

    async def released():
        while len(seen) < 2:
            lines = (await scene.bus.connection.hash(scene.bus.keys.held(AGENT))).values()
            seen.update(line for line in lines if line.endswith("refused-by-budget"))
            await anyio.sleep(0.01)
        await scene.bus.budget.release("other")

    async with anyio.create_task_group() as group:
        group.start_soon(released)
        await scene.run(["write", "b.txt", "b"], ["result", done()], workspace=kind, folder=project)
    assert (await scene.completion()).result.status == "success"
    (folder,) = [each for each in (scene.home / "runs" / TASK).iterdir() if each.suffix != ".logs"]
    assert sorted(each.name for each in folder.iterdir() if each.name != ".git") == ["a.txt", "b.txt"]
    branches = git(project, "branch")
    assert len(branches.splitlines()) == (1 if kind == "copy" else 2)


async def test_anything_unasked_needs_the_policy(scene):
    """Refused when the handler is made, so that no worker begins."""
    async with Runner() as runner:
        definition = scene.definition(permission="bypass")
        with pytest.raises(ConfigurationError, match="bypass"):
            scene.agent(runner, definition)
        assert scene.agent(runner, definition, conduct=Conduct(bypass=True)).definition.permission == "bypass"


async def test_a_program_that_is_missing_is_told_with_how_to_install_it(scene):
    """Nothing is reserved for it."""

    class Missing(Claude):
        """A program that nobody has."""

        def launch(self, job):
            """A name that is not on any PATH."""
            return replace(super().launch(job), command=("no-such-program-here",))

    await scene.delegate()
    await scene.run(["result", done()], adapter=Missing())
    (escalation,) = await scene.envelopes("escalation")
    assert "npm install --global @anthropic-ai/claude-code@2.1.328" in escalation.payload.error_details.message
    assert await scene.envelopes("budget") == []


async def test_an_adapter_that_fails_costs_neither_the_hold_nor_the_task(scene):
    """A fault in reading is garbage, and is told."""

    class Broken(StandIn):
        """One that cannot read."""

        def report(self, ended, job, read):
            """Fail."""
            raise RuntimeError("oh")

    await scene.delegate()
    await scene.run(["result", done()], adapter=Broken())
    assert (await scene.completion()).termination_reason == "garbage"
    assert any("could not be read" in each for each in scene.incidents)


async def test_a_question_is_asked_and_the_answer_goes_on_where_it_stopped(scene):
    """What was made by then is in the new folder, and counts as a part of the work."""
    await scene.delegate("file: half.txt", "file: whole.txt")
    question = json.dumps({"question": "Blue or green?", "blocks": ["the colour"]})
    await scene.run(["write", "half.txt", "1"], ["result", f"Hm.\n{question}"])
    assert await scene.state() == "input-required"
    await scene.say(Answer(answer="Blue."))
    await scene.run(["write", "whole.txt", "2"], ["result", done(outputs=["half.txt", "whole.txt"])])
    completion = await scene.completion()
    assert completion.result.status == "success"
    assert [Path(each.path).name for each in completion.result.artifacts] == ["half.txt", "whole.txt"]
    last = scene.prompts()[-1]
    assert "| Blue or green?" in last
    assert "| Blue." in last


async def test_rework_begins_with_what_was_rejected(scene):
    """And must change something: what stood there is no evidence of new work."""
    await scene.delegate()
    await scene.run(["write", "a.txt", "1"], ["result", done(outputs=["a.txt"])])
    await scene.say(Verdict(decision="rejected", comment="more"))
    await scene.run(["result", done(outputs=["a.txt"])])
    completion = await scene.completion()
    assert (completion.result.status, completion.termination_reason) == ("failure", "contradicted")


async def test_a_private_home_is_not_the_users(scene, tmp_path):
    """It is made for the run, and gone after it; what would let the program settle its own task is not there."""
    told = tmp_path / "environment"
    await scene.delegate()
    await scene.run(["environment", str(told)], ["write", "a", "x"], ["result", done()], home="private")
    found = json.loads(told.read_text())
    assert found["HOME"] == str(scene.home / "runs" / TASK / "1.home")
    assert [each.name for each in (scene.home / "runs" / TASK).iterdir()] == ["1"]
    assert not {"BUS_TOKEN", "BUS_TASK", "XDG_CONFIG_HOME"} & set(found)


async def test_what_the_program_leaves_for_itself_is_nobodys_work(scene):
    """Its own files are no artifacts, and no evidence."""
    await scene.delegate()
    await scene.run(["write", ".litter/log", "x"], ["result", done()])
    completion = await scene.completion()
    assert (completion.result.status, completion.result.artifacts) == ("partial", ())


async def test_a_lost_worker_leaves_a_hold_that_the_next_run_replaces(scene, tmp_path):
    """Two holds never count at once, and the outcome is the second worker's."""
    ready = tmp_path / "ready"
    await scene.delegate()
    script = [["call", "hm"], ["sleep", 600, str(ready)]]
    program = (
        "import anyio, sys\n"
        "from tests.agents import scene as s\n"
        "from taskbus.client import Bus\n"
        "from taskbus_agents.runner import Runner\n"
        "from pathlib import Path\n"
        "import json\n"
        "async def main():\n"
        "    async with Bus.connect(sys.argv[1], namespace=sys.argv[2]) as bus, Runner() as runner:\n"
        "        it = s.Scene(bus, Path(sys.argv[3]))\n"
        "        agent = it.agent(runner, it.definition(*json.loads(sys.argv[4])))\n"
        "        await bus.worker(s.AGENT, agent, lease=0.5, supervision=None).run()\n"
        "anyio.run(main)\n"
    )
    address = scene.bus.connection.address
    words = [address.url(), scene.bus.namespace, str(scene.home), json.dumps(script)]
    process = subprocess.Popen([sys.executable, "-c", program, *words])  # noqa: ASYNC220 - it outlives nothing here
    await until(ready.exists)
    process.kill()
    process.wait()
    assert len(await scene.bus.budget.holds()) == 1
    await scene.run(["write", "a", "x"], ["result", done()], attempts=3, settled=1)
    assert (await scene.completion()).result.status == "success"
    assert await scene.bus.budget.holds() == []
    assert (await scene.sums())["provider:anthropic"] == (4500, 0)
