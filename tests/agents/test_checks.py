"""The checks: which criteria can be run, and what they show."""

from __future__ import annotations

import json
import os

import anyio
import pytest

from taskbus_agents import fitting
from taskbus_agents.checks import Checks, Seen, is_runnable, parsed
from taskbus_agents.runner import Runner
from taskbus_agents.snapshot import Snapshot
from taskbus_agents.workspace import Workspace

pytestmark = pytest.mark.anyio


@pytest.fixture
def check(tmp_path):
    """Runs criteria on a folder in which something has changed."""
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "old").write_text("old")
    (folder / "check.sh").write_text("exit 0\n")
    (folder / "schema.json").write_text('{"type": "object", "required": ["a"]}')
    place = Workspace.around(folder, is_own=True, looks=True)
    (folder / "new").write_text("new")
    (folder / "empty").write_text("")
    (folder / "sub").mkdir()
    (folder / "sub" / "x").write_text("x")
    (folder / "out").symlink_to("/etc/hostname")
    (folder / "good.json").write_text('{"a": 1}')
    (folder / "bad.json").write_text('{"b": 1}')

    async def run(*criteria: str, answer: str = "", **more):
        async with Runner(grace=0.2) as runner:
            checks = Checks(runner, dict(os.environ), **more)
            return await checks.run(criteria, Seen(folder, place.changes(), answer))

    return run


@pytest.mark.parametrize(
    ("criterion", "form"),
    [
        ("$ pytest -q", "command"),
        ("check: make", "command"),
        ("check:make", "command"),
        ("file: a b.txt", "file"),
        ("changed: src", "changed"),
        ("schema: a.json {}", "schema"),
        ("says: yes", "says"),
        ("$20 at most", "text"),
        ("check the logs", "text"),
        ("file:", "text"),
        ("Passes verify_redis.py", "text"),
        ("  $ true", "command"),
    ],
)
def test_a_criterion_is_known_by_how_it_begins(criterion, form):
    """Everything else is a text, which is never taken for met."""
    assert parsed(criterion)[0] == form
    assert is_runnable(criterion) == (form != "text")


MET = [
    "$ true",
    "check: test -s new && grep -q new new",
    "$ sh check.sh",
    "file: new",
    "file: sub/../new",
    "file: old",
    "changed: new",
    "changed: sub",
    "changed: .",
    "schema: good.json schema.json",
    'schema: good.json {"type": "object"}',
    "says: IT  IS done",
    "says: *",
]
NOT_MET = {
    "$ false": "Exit code 1",
    "$ exit 7": "Exit code 7",
    "$ kill -9 $$": "signal 9",
    "$ echo all good; exit 1": "all good",
    "$ no-such-command-here": "not found",
    "$ (": "Exit code",
    "file: gone": "no such file",
    "file: empty": "empty",
    "file: sub": "no file",
    "file: out": "not in the working folder",
    "file: ../folder2/x": "not in the working folder",
    "file: /etc/hostname": "not in the working folder",
    "changed: old": "nothing there",
    "changed: empty": "nothing there",
    "schema: bad.json schema.json": "required",
    "schema: new schema.json": "no JSON",
    "schema: gone.json schema.json": "no such file",
    "schema: good.json": "names no schema",
    "schema: good.json {": "no JSON",
    'schema: good.json {"type": "nonsense"}': "cannot be used",
    'schema: good.json {"$ref": "http://127.0.0.1:9/s.json"}': "cannot be used",
    "says: nothing of the kind": "does not say so",
}


@pytest.mark.parametrize("criterion", MET)
async def test_what_is_met(check, criterion):
    """With something that shows it."""
    (found,) = await check(criterion, answer="Well, it is\ndone.")
    assert found.met == "met", found
    assert found.evidence


@pytest.mark.parametrize("criterion", NOT_MET)
async def test_what_is_not_met(check, criterion):
    """With why."""
    (found,) = await check(criterion, answer="Well, it is done.")
    assert found.met == "not-met", found
    assert NOT_MET[criterion] in found.evidence


async def test_an_agent_that_says_nothing_has_not_said_it(check):
    """Not even anything."""
    (found,) = await check("says: *", answer=" \n")
    assert found.met == "not-met"


async def test_a_text_is_for_a_reviewer(check):
    """It is neither met nor not."""
    (found,) = await check("Handles timeouts gracefully")
    assert found.met == "not-run"


async def test_commands_may_be_forbidden(check):
    """Then they are not run, and what is not run is not met."""
    (command, file) = await check("$ true", "file: new", commands=False)
    assert (command.met, file.met) == ("not-run", "met")


async def test_a_check_has_its_time(check, tmp_path):
    """It is ended with whatever it started."""
    (found,) = await check("$ sleep 600 & sleep 600", timeout=0.3)
    assert found.met == "not-met"
    assert "ended" in found.evidence


async def test_evidence_cannot_steer_a_terminal(check):
    """Whatever a check prints."""
    (found,) = await check(r"$ printf '\033[2Jgone\n'")
    assert "\x1b" not in str(found)


async def test_a_document_too_deep_to_read_is_no_document(check, tmp_path):
    """Not an error of ours."""
    (tmp_path / "folder" / "deep.json").write_text("[" * 200_000)
    (found,) = await check('schema: deep.json {"type": "array"}')
    assert (found.met, "no JSON" in found.evidence) == ("not-met", True)


async def test_a_schema_that_never_comes_to_an_end_is_ended(check, monkeypatch):
    """Each step refers twice to the next: it doubles thirty times. The worker does something else meanwhile."""
    doubled = {f"a{number}": {"allOf": [{"$ref": f"#/$defs/a{number + 1}"}] * 2} for number in range(40)}
    schema = json.dumps({"$ref": "#/$defs/a0", "$defs": {**doubled, "a40": {}}})
    turns = 0

    async def go_on():
        nonlocal turns
        while True:
            turns += 1
            await anyio.sleep(0.01)

    monkeypatch.setattr(fitting, "LONGEST", 1.5)
    async with anyio.create_task_group() as group:
        group.start_soon(go_on)
        (found,) = await check(f"schema: good.json {schema}")
        group.cancel_scope.cancel()
    assert (found.met, "ended" in found.evidence) == ("not-met", True)
    assert turns > 10


async def test_a_million_mistakes_are_counted_only_so_far(check, tmp_path):
    """A document of which nothing fits takes no memory worth mentioning."""
    (tmp_path / "folder" / "many.json").write_text(json.dumps([1] * 1_000_000))
    (found,) = await check('schema: many.json {"items": {"type": "string"}}')
    assert "more than 100 mistakes" in found.evidence


async def test_what_stands_in_the_folder_is_no_library(check, tmp_path):
    """What looks at a schema imports nothing from where the agent worked."""
    (tmp_path / "folder" / "json.py").write_text("raise SystemExit(0)")
    (found,) = await check("schema: good.json schema.json")
    assert found.met == "met", found


async def test_all_checks_together_have_their_time(check):
    """What the deadline leaves no time for is not met, and says why."""
    found = await check("$ sleep 600", "$ true", until=anyio.current_time() + 0.5)
    assert [each.met for each in found] == ["not-met", "not-met"]
    assert "no time left" in found[1].evidence


CHANGED_CHECKS = [
    "$ ./check.sh",
    "$ sh -e check.sh",
    "$ true; sh check.sh",
    "$ true|sh check.sh",
    "$ . ./check.sh",
    "$ timeout 5 ./check.sh",
    "$ cd sub && ./inner.sh",
    "$ cd sub && sh inner.sh",
    "$ ./linked.sh",
    "$ # looks harmless\nsh check.sh",
    "$ env A=1 ./check.sh",
    "$ (./check.sh)",
]


@pytest.mark.parametrize("criterion", CHANGED_CHECKS)
async def test_a_check_that_the_run_has_changed_is_not_met(tmp_path, criterion):
    """However it is started."""
    folder = tmp_path / "folder"
    (folder / "sub").mkdir(parents=True)
    for name in ("check.sh", "sub/inner.sh"):
        (folder / name).write_text("#!/bin/sh\nexit 1\n")
        (folder / name).chmod(0o755)
    (folder / "linked.sh").symlink_to("check.sh")
    place = Workspace.around(folder, is_own=True, looks=True)
    for name in ("check.sh", "sub/inner.sh"):
        (folder / name).write_text("#!/bin/sh\nexit 0\n")
    async with Runner(grace=0.2) as runner:
        (found,) = await Checks(runner, dict(os.environ)).run([criterion], Seen(folder, place.changes()))
    assert (found.met, "changed the check itself" in found.evidence) == ("not-met", True)


def test_snapshots_of_nothing_are_empty(tmp_path):
    """A folder that is not there has no files."""
    assert Snapshot.of(tmp_path / "gone").files == {}
    assert json.dumps(sorted(Snapshot.of(tmp_path).files)) == "[]"
