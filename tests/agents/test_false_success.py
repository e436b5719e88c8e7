"""The corpus of false successes: runs that claim to be done and are not. None of them is recorded as success.

Each case is what an agent's program does and says, the criteria of its delegation, and why it is no success.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field, replace

import pytest

from taskbus.envelope import Answer
from tests.agents.scene import TASK, Scene, StandIn, done
from tests.repositories import repository

pytestmark = pytest.mark.anyio

EMPTY = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
OTHER = json.dumps(
    {
        "sender": "@coder",
        "recipient": "@lead",
        "type": "completion",
        "context": {"task_id": "t-2", "timestamp": "2026-11-20T10:00:00Z"},
        "payload": {"result": {"status": "success", "description": "the other one is done"}},
    }
)
ERROR = {"is_error": True, "api_error_status": 500}
REFUSED = {"permission_denials": [{"tool_name": "Write"}]}
SCHEMA = json.dumps({"type": "object", "required": ["name"]})


@dataclass(frozen=True)
class Case:
    """One false success. `reason` is the termination reason; None where the delivery is parked or tried again.

    `before` are files that stand in the folder when the run begins; with them the agent works in it as it is.
    """

    steps: list
    reason: str | None
    criteria: tuple[str, ...] = ()
    before: dict[str, str] = field(default_factory=dict)
    more: dict = field(default_factory=dict)


CASES = {
    # --- It did nothing.
    "no tool call, an invented file": Case([["result", done(outputs=["src/redis.ts"])]], "contradicted"),
    "no tool call, nothing but words": Case([["result", done()]], "unproven"),
    "it only looked, and says it wrote": Case([["look"], ["look"], ["result", done()]], "unproven"),
    "an empty answer": Case([["result", ""]], "unproven"),
    "a promise": Case([["result", "I will now implement the cache. Everything works!"]], "unproven"),
    "a reviewer that has looked at nothing": Case([["result", done()]], "unproven", more={"permission": "read"}),
    "it changed nothing but its program's own files": Case(
        [["write", ".litter/state", "x"], ["result", done()]], "unproven"
    ),
    # --- The file that it names.
    "a file that is not there, beside one that is": Case(
        [["write", "a.ts", "x"], ["result", done(outputs=["a.ts", "b.ts"])]], "contradicted"
    ),
    "a file that was there before, unchanged": Case(
        [["look"], ["result", done(outputs=["old.ts"])]], "contradicted", before={"old.ts": "old"}
    ),
    "a file that was only touched": Case(
        [["touch", "old.ts"], ["result", done(outputs=["old.ts"])]], "contradicted", before={"old.ts": "old"}
    ),
    "a file written again as it was": Case(
        [["write", "old.ts", "old"], ["result", done(outputs=["old.ts"])]], "contradicted", before={"old.ts": "old"}
    ),
    "an empty file": Case([["write", "a.ts", ""], ["result", done(outputs=["a.ts"])]], "contradicted"),
    "an empty file that it does not name": Case([["write", "a.ts", ""], ["result", done()]], "unproven"),
    "a file outside of its folder": Case([["look"], ["result", done(outputs=["/etc/hostname"])]], "contradicted"),
    "a link that leads out of its folder": Case(
        [["link", "a.ts", "/etc/hostname"], ["result", done(outputs=["a.ts"])]], "contradicted"
    ),
    "a hash that the file does not have": Case(
        [["write", "a.ts", "x"], ["result", done(artifacts=[{"path": "a.ts", "sha256": EMPTY}])]], "contradicted"
    ),
    "it wrote its file, and removed it again": Case(
        [["write", "a.ts", "x"], ["remove", "a.ts"], ["result", done(outputs=["a.ts"])]], "contradicted"
    ),
    "it removed its folder": Case([["shell", 'rm -rf "$PWD"'], ["result", done()]], "contradicted"),
    "a completion.json of before": Case(
        [["result", ""]], "unproven", before={"completion.json": '{"status": "success"}'}
    ),
    # --- The criteria.
    "a check that fails": Case(
        [["write", "a", "x"], ["result", done(verification_result="All tests passed")]],
        "not-met",
        ("$ test -s b",),
    ),
    "one check of two fails": Case(
        [["write", "a", "x"], ["result", done()]], "not-met", ("$ test -s a", "check: test -s b")
    ),
    "a check that it has rewritten to pass": Case(
        [["shell", "echo 'exit 0' > check.sh"], ["write", "a", "x"], ["result", done()]],
        "not-met",
        ("$ sh check.sh",),
        before={"check.sh": "exit 1\n"},
    ),
    "a check that never ends by itself": Case([["write", "a", "x"], ["result", done()]], "not-met", ("$ kill -9 $$",)),
    "a file that must be there": Case([["write", "a", "x"], ["result", done()]], "not-met", ("file: b",)),
    "a file that must be there, and is empty": Case(
        [["write", "b", ""], ["write", "a", "x"], ["result", done()]], "not-met", ("file: b",)
    ),
    "a file that must have changed": Case(
        [["write", "a", "x"], ["result", done()]], "not-met", ("changed: b",), before={"b": "as ever"}
    ),
    "a document that does not fit its schema": Case(
        [["write", "a.json", '{"nam": 1}'], ["result", done()]], "not-met", (f"schema: a.json {SCHEMA}",)
    ),
    "a schema that it has rewritten to fit": Case(
        [["write", "s.json", "{}"], ["write", "a.json", "[]"], ["result", done()]],
        "not-met",
        ("schema: a.json s.json",),
        before={"s.json": SCHEMA},
    ),
    "an answer that does not say what it must": Case(
        [["look"], ["result", done(description="It is fine.")]], "not-met", ("says: SQL injection",)
    ),
    # --- The criteria that were met before.
    "a file that was there before": Case([["result", done()]], "unproven", ("file: old.ts",), before={"old.ts": "old"}),
    "a check that passed before": Case([["result", done()]], "unproven", ("$ test -f a",), before={"a": "x"}),
    "a check that nothing can fail": Case([["result", done()]], "unproven", ("$ true",)),
    "a document that fitted its schema before": Case(
        [["result", done()]], "unproven", (f"schema: a.json {SCHEMA}",), before={"a.json": '{"name": 1}'}
    ),
    "words beside a file that was there before": Case(
        [["result", "It is complete."]], "unproven", ("says: complete", "file: a"), before={"a": "x"}
    ),
    "a file that was there before, named as its own": Case(
        [["result", done(outputs=["a"])]], "unproven", ("file: a",), before={"a": "x"}
    ),
    "a reviewer that has only heard of a file": Case(
        [["result", done()]], "unproven", ("file: a",), before={"a": "x"}, more={"permission": "read"}
    ),
    "a file that was there before, in a copy": Case(
        [["result", done()]], "unproven", ("file: a",), before={"a": "x"}, more={"workspace": "copy"}
    ),
    "a file that it was to change, beside one that was there before": Case(
        [["result", done()]], "not-met", ("file: a", "changed: a"), before={"a": "x"}
    ),
    # --- What its program says.
    "exit code 0 after an error of the model, called success": Case(
        [["write", "a", "x"], ["result", done(), ERROR]], None
    ),
    "exit code 1 after a success": Case([["write", "a", "x"], ["result", done()], ["exit", 1]], "garbage"),
    "killed after a success": Case([["write", "a", "x"], ["result", done()], ["kill"]], None),
    "a limit of turns": Case([["write", "a", "x"], ["result", done(), {"subtype": "error_max_turns"}]], "turn-limit"),
    "no terminal record": Case([["write", "a", "x"], ["call", done()]], "garbage"),
    "a terminal record that was cut off": Case(
        [["write", "a", "x"], ["print", '{"type": "result", "subtype": "success", "is_error": fal']], "garbage"
    ),
    "a result that does not say whether it is an error": Case(
        [["write", "a", "x"], ["result", done(), {"is_error": None}]], None
    ),
    "a tool that was refused, and nothing written": Case([["result", done(), REFUSED]], "refused"),
    "a tool that was refused, after one that was not": Case(
        [["write", "a", "x"], ["result", done(), REFUSED]], "refused"
    ),
    "words instead of records": Case([["print", done()]], "garbage"),
    # --- What the agent says.
    "success for another task": Case([["write", "a", "x"], ["result", OTHER]], "invalid-completion"),
    "a completion that was cut off": Case(
        [["write", "a", "x"], ["result", 'Done.\n{"status": "success", "description": "All of']], "invalid-completion"
    ),
    "a status of its own": Case(
        [["write", "a", "x"], ["result", '{"status": "mostly", "description": "nearly"}']], "invalid-completion"
    ),
    "it corrects itself: a failure after a success": Case(
        [["write", "a", "x"], ["result", done() + "\nNo, wait:\n" + done("failure")]], None
    ),
    "it says partial": Case([["write", "a", "x"], ["result", done("partial")]], None),
}


@pytest.mark.parametrize("name", CASES)
async def test_no_false_success_is_recorded(scene, tmp_path, name):
    """Neither as a success, nor as something that would be accepted without anybody looking."""
    case = CASES[name]
    assert await _result(scene, tmp_path, case, review=True) in ("partial", "failure", "none")
    reasons = [each.payload.termination_reason for each in await scene.envelopes("completion")]
    assert reasons == ([case.reason] if case.reason is not None or reasons else [])


@pytest.mark.parametrize("name", [name for name, case in CASES.items() if case.reason is not None])
async def test_where_nobody_looks_it_has_failed(scene, tmp_path, name):
    """A partial result that nobody reviews would be accepted: so it is none."""
    assert await _result(scene, tmp_path, CASES[name], review=False) == "failure"
    assert await scene.state() == "failed"


async def test_a_file_of_an_earlier_attempt_is_none_of_this_one(scene):
    """Its full path leads out of the folder that this attempt has."""
    await scene.delegate()
    await scene.run(["write", "a.ts", "x"], ["result", done("failure")])
    await scene.delegate()
    earlier = str(scene.home / "runs" / TASK / "1" / "a.ts")
    await scene.run(["result", done(outputs=[earlier])])
    completion = await scene.completion()
    assert (completion.result.status, completion.termination_reason) == ("failure", "contradicted")


async def test_an_answer_does_not_make_a_claim_true(scene):
    """After a question, what stood there counts; what does not stand there still does not."""
    await scene.delegate()
    await scene.run(["result", json.dumps({"question": "Which?"})])
    await scene.say(Answer(answer="That one."))
    await scene.run(["result", done(outputs=["a.ts"])])
    assert (await scene.completion()).termination_reason == "contradicted"


async def test_an_adapter_that_believes_everything_is_not_believed(scene):
    """What an adapter misreads as success is still checked against the folder and the criteria."""

    class Gullible(StandIn):
        """It takes everything for a success."""

        def report(self, ended, job, read):
            """A success, whatever was printed."""
            from taskbus_agents.adapter import Report

            return Report(said="All done!")

    await scene.delegate("file: a.ts")
    await scene.run(["print", "Error: no model"], adapter=Gullible())
    assert (await scene.completion()).termination_reason == "not-met"


async def test_a_committed_file_is_no_work_of_a_run_in_a_worktree(scene, tmp_path):
    """It is in every worktree, whatever the run has done."""
    folder = repository(tmp_path / "project", {"a": "x"})
    await scene.delegate("file: a", "$ test -f a")
    await scene.run(["result", done()], workspace="worktree", folder=folder)
    envelope = await scene.settled()
    assert (envelope.payload.result.status, envelope.payload.termination_reason) == ("partial", "unproven")
    assert envelope.quality_gates.output.outcome == "failed"
    assert "used no tool" in envelope.payload.verification_result


@pytest.mark.parametrize(
    ("criteria", "steps"),
    [
        (("file: old",), [["look"]]),
        (("$ test -f old",), [["shell", "true"]]),
        (("$ test -f marker",), [["shell", "touch marker"]]),
        (("$ test ! -e old",), [["remove", "old"]]),
        (("says: done",), []),
        (("says: *", "Reads well"), []),
    ],
    ids=["looked", "ran something", "an empty file", "a removed file", "words alone", "words and a text"],
)
async def test_who_has_done_something_or_was_to_speak_alone_is_believed(scene, tmp_path, criteria, steps):
    """The other side: a tool, a change of any kind, or words where words alone were asked for."""
    case = Case([*steps, ["result", done()]], None, criteria, before={"old": "x"})
    assert await _result(scene, tmp_path, case, review=True) == "success"
    assert (await scene.settled()).quality_gates.output.outcome == "passed"


@pytest.mark.parametrize(("steps", "status"), [([], "partial"), ([["write", "a", "y"]], "success")])
async def test_of_a_program_that_tells_no_tools_the_folder_tells(scene, tmp_path, steps, status):
    """What has changed there is all that can be known of its work."""

    class Silent(StandIn):
        """It does not tell its tools."""

        def report(self, ended, job, read):
            """As usual, without them."""
            return replace(super().report(ended, job, read), tools=None)

    case = Case([*steps, ["result", done()]], None, ("file: a",), before={"a": "x"}, more={"adapter": Silent()})
    assert await _result(scene, tmp_path, case, review=True) == status


async def _result(scene: Scene, tmp_path, case: Case, *, review: bool) -> str:
    """The status that is recorded; "none" where there is no completion."""
    more = dict(case.more)
    if case.before:
        folder = tmp_path / "project"
        folder.mkdir()
        for name, text in case.before.items():
            (folder / name).write_text(text)
        more = {"workspace": "as-is", "folder": folder, **more}
    await scene.delegate(*case.criteria, review_required=review)
    await scene.run(*case.steps, **more)
    found = await scene.envelopes("completion")
    return found[-1].payload.result.status if found else "none"
