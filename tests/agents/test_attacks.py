"""What goes wrong around a run: other workers, lost ones, clocks, keys, and programs that do what they may not."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import anyio
import pytest

from taskbus.envelope import now
from taskbus.errors import QuotaLimited
from taskbus.payload import Route
from taskbus_agents import files
from taskbus_agents.adapter import Report
from taskbus_agents.adapters.claude import Claude
from taskbus_agents.masking import Mask
from taskbus_agents.runner import Ended, Runner
from taskbus_agents.trouble import Conduct, failure
from tests.agents.scene import AGENT, TASK, StandIn, done, until
from tests.servers import is_alive

pytestmark = pytest.mark.anyio

KEY = "sk-0123456789abcdef-very-secret"


async def test_two_workers_do_not_work_in_one_folder_at_once(scene, tmp_path):
    """The second waits, says so, and is not charged with what the first has changed."""
    folder, ready, go = tmp_path / "project", tmp_path / "ready", tmp_path / "go"
    folder.mkdir()
    await scene.delegate(task="one")
    await scene.delegate(task="two")
    wait = f"touch {ready}; while [ ! -e {go} ]; do sleep 0.05; done"
    async with Runner(grace=0.5) as runner, anyio.create_task_group() as group:
        terms = {"workspace": "as-is", "folder": folder}
        first = scene.agent(runner, scene.definition(["shell", wait], ["write", "a", "x"], ["result", done()], **terms))
        second = scene.agent(runner, scene.definition(["result", done()], **terms))
        group.start_soon(lambda: scene.bus.worker(AGENT, first, supervision=None).run(limit=1))
        await until(ready.exists)
        group.start_soon(lambda: scene.bus.worker(AGENT, second, supervision=None).run(limit=1))
        await until(lambda: any("another delivery is worked on" in each for each in scene.incidents))
        go.touch()
    found = {each.task: each.payload for each in await scene.envelopes("completion")}
    assert (found["one"].result.status, found["two"].result.status) == ("success", "partial")
    assert found["two"].result.artifacts == ()


async def test_a_folder_that_stays_taken_is_waited_for_until_the_deadline(scene, tmp_path):
    """Then the task has failed, and cost nothing."""
    folder = tmp_path / "project"
    folder.mkdir()
    async with Runner(grace=0.5) as runner:
        agent = scene.agent(runner, scene.definition(["result", done()], workspace="as-is", folder=folder))
        claim = agent.workspaces.claim(shared=False)
        assert claim.take()
        await scene.delegate(deadline=now() + timedelta(seconds=1))
        with anyio.fail_after(30):
            await scene.bus.worker(AGENT, agent, supervision=None).run(limit=1)
        claim.leave()
    assert (await scene.completion()).termination_reason == "timeout"
    assert await scene.envelopes("budget") == []


async def test_a_key_is_shown_to_nobody(scene, monkeypatch, tmp_path):
    """Neither by what a check prints, nor line by line as it comes, whichever variable it stands in."""
    monkeypatch.setenv("HOUSE_API_KEY", KEY)
    lines = []
    await scene.delegate("$ env; false")
    async with Runner(grace=0.5) as runner:
        definition = scene.definition(["stderr", f"using {KEY}"], ["write", "a", "x"], ["result", done()])
        agent = replace(scene.agent(runner, definition), on_stderr=lambda task, line: lines.append((task, line)))
        await scene.bus.worker(AGENT, agent, supervision=None).run(until_idle=True)
    assert (TASK, "using ***") in lines
    assert (await scene.completion()).termination_reason == "not-met"
    assert all(KEY.encode() not in entry.body for entry in [each async for each in scene.bus.log.read()])


def test_a_mask_covers_keys_and_nothing_else():
    """Short words and paths stand in any text."""
    environment = {
        "A_KEY": KEY,
        "SSH_KEY": "/var/keys/somebody/id_ed25519",
        "MODE_TOKEN": "on",
        "BUS_URL": "redis://worker:hunter22@host/0",
        "PATH": "/usr/bin:/usr/local/bin:/bin",
    }
    text = f"{KEY} /var/keys/somebody/id_ed25519 on hunter22 /usr/bin:/usr/local/bin:/bin short!"
    assert Mask.of(environment, key="short!").text(text) == (
        "*** /var/keys/somebody/id_ed25519 on *** /usr/bin:/usr/local/bin:/bin ***"
    )


async def test_without_a_home_the_run_goes_on(scene, monkeypatch):
    """A service has none: what the program would have left there is not read, and nothing else is lost."""

    class Reading(StandIn):
        """One that reads a file in its home."""

        def launch(self, job):
            """As usual."""
            return replace(super().launch(job), reads={"log": ".agent/*.jsonl"})

    monkeypatch.delenv("HOME", raising=False)
    monkeypatch.setattr(Path, "home", lambda: (_ for _ in ()).throw(RuntimeError("no home")))
    await scene.delegate()
    await scene.run(["write", "a", "x"], ["result", done()], adapter=Reading())
    envelope = await scene.settled()
    assert envelope.payload.result.status == "success"
    assert envelope.usage[0].cost.microusd == 4500


def test_what_a_run_has_written_is_found_whatever_the_clock_says(tmp_path):
    """The time may be set back meanwhile; what stood there before is another run's, and of several the last counts."""
    names = {"log": "logs/*.jsonl"}
    (tmp_path / "logs").mkdir()
    (tmp_path / "logs" / "old.jsonl").write_text("old")
    before = files.stamps(names, tmp_path)
    assert files.read(names, tmp_path, before=before) == {}
    new = tmp_path / "logs" / "new.jsonl"
    new.write_text("new")
    os.utime(new, (1, 1))
    assert files.read(names, tmp_path, before=before) == {"log": b"new"}
    (tmp_path / "logs" / "old.jsonl").write_text("older, and written again")
    assert files.read(names, tmp_path, before=before) == {"log": b"older, and written again"}


@pytest.mark.parametrize("model", ["--dangerously-skip-permissions", "-x", "a b", "a\nb", "$(id)"])
async def test_a_model_of_a_route_is_no_option_of_the_command_line(scene, model):
    """A route comes in a message, and whoever sent it must not say what the program may do."""
    await scene.delegate(route=Route(rung="r", provider="anthropic", model=model))
    await scene.run(["result", done()], unpriced=True)
    (parking,) = await scene.envelopes("parking")
    assert "no name of a model" in parking.payload.message
    assert not (scene.home / "prompts").exists()


@pytest.mark.parametrize(
    ("reset", "seconds"),
    [(None, 900), (-3600, 900), (-0.5, 900), (7200, 7200), (300 * 86_400, 32 * 86_400)],
)
async def test_a_reset_that_cannot_be_is_not_believed(scene, reset, seconds):
    """One that is over would mean to try again at once, for ever; none is further away than a month."""
    at = now() + timedelta(seconds=reset) if reset is not None else None
    found = failure(
        Report(trouble="quota", until=at),
        Ended(1, b"", b"", 1.0),
        adapter=Claude(),
        definition=scene.definition(),
        conduct=Conduct(),
        kept=None,
    )
    assert isinstance(found, QuotaLimited)
    assert abs((found.until - now()).total_seconds() - seconds) < 5


async def test_who_may_only_look_and_changes_something_has_failed(scene):
    """Whatever it says, and whatever else is met."""
    await scene.delegate("says: *")
    await scene.run(["write", "a.txt", "x"], ["result", done()], permission="read")
    completion = await scene.completion()
    assert (completion.result.status, completion.termination_reason) == ("failure", "contradicted")
    assert "may only look, and has changed a.txt" in completion.error_details.message


async def test_what_others_change_meanwhile_is_no_evidence_of_who_only_looks(scene, tmp_path):
    """In a folder as it is, people work as well: it has not failed for that, and is not believed for it."""
    folder = tmp_path / "project"
    folder.mkdir()
    await scene.delegate()
    terms = {"workspace": "as-is", "folder": folder, "permission": "read"}
    await scene.run(["shell", "echo x > theirs"], ["result", done(), {"permission_denials": []}], **terms)
    completion = await scene.completion()
    assert completion.result.status == "success"
    assert "not said to be its work" in completion.verification_result
    script = ["print", json.dumps({"type": "system"})], ["result", done()]
    await scene.delegate(task="t-2")
    (folder / "theirs").unlink()
    await scene.run(["print", "{}"], *script, **terms)
    assert (await scene.completion()).result.status == "partial"


async def test_a_run_is_cut_so_that_it_has_ended_by_its_deadline(scene):
    """Who does not obey is killed after a grace, which must be over by then: else the bus takes the task as overdue."""
    given = []

    class Timed(StandIn):
        """One that tells how long it may run."""

        def launch(self, job):
            """As usual."""
            given.append(job.timeout)
            return super().launch(job)

    await scene.delegate(deadline=now() + timedelta(seconds=100))
    await scene.run(["write", "a", "x"], ["result", done()], adapter=Timed())
    assert 50 < max(given) < 99.5


async def test_what_a_try_before_has_done_in_a_folder_as_it_is_contradicts_nobody(scene, tmp_path):
    """The model failed after the file was there: who finds it done says so, and is not called a liar."""
    folder = tmp_path / "project"
    folder.mkdir()
    await scene.delegate()
    error = ["result", "Overloaded", {"is_error": True, "api_error_status": 500}]
    make = f"touch {tmp_path}/again; echo x > a.txt"
    first = ["unless", str(tmp_path / "again"), ["shell", make], error]
    await scene.run(first, ["result", done(outputs=["a.txt"])], attempts=2, workspace="as-is", folder=folder)
    completion = await scene.completion()
    assert (completion.result.status, completion.termination_reason) == ("partial", "unproven")


async def test_a_program_that_is_stopped_is_ended_with_what_left_it(scene, tmp_path):
    """It neither hears of its time, nor does what has left its group and its parent."""
    pid = tmp_path / "pid"
    away = f"setsid sh -c 'setsid sleep 600 & echo $! > {pid}' &"
    await scene.delegate()
    await scene.run(["call", "hm"], ["shell", away], ["shell", "sleep 0.3; kill -STOP $PPID"], timeout=1.5)
    envelope = await scene.settled()
    assert (envelope.payload.termination_reason, envelope.usage[0].input_tokens) == ("timeout", 2400)
    assert not is_alive(int(pid.read_text()))


async def test_more_than_is_read_is_no_result(scene):
    """It is ended when it prints without end, and its memory is not the worker's."""
    await scene.delegate()
    await scene.run(["write", "a", "x"], ["shell", "yes"], ["result", done()])
    completion = await scene.completion()
    assert (completion.result.status, completion.termination_reason) == ("failure", "garbage")
    assert "more than is read" in completion.error_details.message


async def test_what_cost_more_than_was_held_counts_in_full(scene):
    """Of two models one has a price: the other counts as unpriced, not as nothing; then the cap is over."""
    await scene.bus.budget.set_cap("agent:@coder", "month", 100_000, reason="test")
    models = {
        "claude-sonnet-4-5": {"inputTokens": 5, "outputTokens": 1, "costUSD": 0.5, "costBasis": "list"},
        "house-model": {"inputTokens": 5, "outputTokens": 1, "costUSD": 0.1, "costBasis": "unknown"},
    }
    await scene.delegate()
    await scene.run(["write", "a", "x"], ["result", done(), {"modelUsage": models}])
    (account,) = [each for each in await scene.bus.budget.accounts() if each.account == "agent:@coder" and each.cap]
    assert (account.committed, account.held, account.unpriced) == (500_000, 0, 1)
    await scene.delegate(task="t-2")
    await scene.run(["write", "a", "x"], ["result", done()])
    assert (await scene.bus.task("t-2")).state == "escalated"
    assert len(scene.prompts()) == 1


async def test_a_definition_that_has_gone_from_under_it_ends_nothing(scene, tmp_path):
    """The folder is removed while it works: it has nothing to show, and the next delivery says what lacks."""
    folder = tmp_path / "project"
    folder.mkdir()
    terms = {"workspace": "as-is", "folder": folder}
    await scene.delegate()
    await scene.delegate(task="t-2")
    async with Runner(grace=0.5) as runner:
        definition = scene.definition(["shell", f"rm -r {folder}"], ["result", done()], **terms)
        worker = scene.bus.worker(AGENT, scene.agent(runner, definition), attempts=1, supervision=None)
        await worker.run(until_idle=True)
    found = {each.task: each.payload for each in await scene.envelopes("completion", "parking")}
    assert found[TASK].termination_reason == "contradicted"
    assert "cannot be opened" in found["t-2"].message
