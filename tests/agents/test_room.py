"""Disks that are full and folders that cannot be written in: a typed failure each, and nothing left behind."""

from __future__ import annotations

import os
import resource
from contextlib import contextmanager
from pathlib import Path

import anyio
import pytest

from taskbus.errors import Permanent, Retryable
from taskbus_agents import files, room
from taskbus_agents.folders import Folders
from taskbus_agents.runner import Runner
from taskbus_agents.workspace import Workspaces
from tests.agents.scene import AGENT, TASK, done
from tests.repositories import git, repository

FULL = 1 << 62
"""More than any disk has left."""


@contextmanager
def small_files():
    """No file larger than 64 KiB in the block, be it ours or a program's: as near to a full disk as any user gets."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (64 << 10, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.fixture
def project(tmp_path) -> Path:
    """A repository with one commit, of a file that is large for `small_files`."""
    return repository(tmp_path / "project", {"big.bin": os.urandom(200_000)})


def left(project: Path, tmp_path: Path) -> tuple[list[Path], list[str], int]:
    """What stands in the folders of the task, the branches, and how many worktrees there are."""
    branches = git(project, "branch", "--format", "%(refname:short)").split()
    return sorted((tmp_path / "runs" / "t").iterdir()), branches, git(project, "worktree", "list").count("\n") + 1


@pytest.mark.parametrize(("kind", "said"), [("copy", "cannot be copied"), ("worktree", "git made no worktree")])
def test_what_there_is_no_room_for_leaves_nothing(tmp_path, project, kind, said):
    """It may succeed at another time, and nothing in the user's repository tells of it."""
    made = Workspaces(kind, Folders(tmp_path / "runs"), project)
    with small_files(), pytest.raises(Retryable, match=said):
        made.make("t", 1)
    assert left(project, tmp_path) == ([], ["main"], 1)
    assert (made.make("t", 1).folder / "big.bin").is_file()


def test_work_that_cannot_be_gone_on_with_leaves_no_branch(tmp_path, project):
    """A worktree that was made already goes again where what stood in the last one does not fit into it."""
    git(project, "rm", "--quiet", "big.bin")
    (project / "a.txt").write_text("a")
    git(project, "add", "--all")
    git(project, "commit", "--quiet", "--message", "second")
    made = Workspaces("worktree", Folders(tmp_path / "runs"), project)
    first = made.make("t", 1)
    (first.folder / "new.bin").write_bytes(os.urandom(200_000))
    first.leave(first.changes())
    before = left(project, tmp_path)
    with small_files(), pytest.raises(Retryable, match="cannot be copied"):
        made.make("t", 2, "back")
    assert left(project, tmp_path) == before


def test_where_no_folder_can_be_made_somebody_must_see_to_it(tmp_path):
    """Trying again would change nothing."""
    (tmp_path / "runs").write_text("no folder")
    with pytest.raises(Permanent, match="No folder can be made for t"):
        Workspaces("own", Folders(tmp_path / "runs")).make("t", 1)


def test_files_for_a_program_that_cannot_be_written_are_said(tmp_path):
    """With the file: what the system says of a full disk names none."""
    with small_files(), pytest.raises(Retryable, match=r"settings\.json, which the program is to find"):
        files.write({tmp_path / "settings.json": b"x" * 200_000}, tmp_path)


@pytest.mark.skipif(os.getuid() == 0, reason="root may write everywhere")
def test_a_folder_that_cannot_be_written_in_is_said(tmp_path):
    """Before anything runs in it that would cost something."""
    place = Workspaces("as-is", Folders(tmp_path / "runs"), tmp_path).make("t", 1)
    tmp_path.chmod(0o555)
    try:
        with pytest.raises(Permanent, match="cannot be written in"):
            place.check_room(writes=True)
        place.check_room(writes=False)
    finally:
        tmp_path.chmod(0o755)


@pytest.mark.anyio
async def test_on_a_full_disk_nothing_is_begun(scene, monkeypatch):
    """It is tried again, then set aside with what is wrong; no model was paid for it."""
    monkeypatch.setattr(room, "LEAST", FULL)
    await scene.delegate()
    await scene.run(["write", "a.txt", "hello"], ["result", done()], attempts=2)
    (parking,) = [each.payload for each in await scene.envelopes("parking")]
    assert (parking.reason, parking.attempts) == ("retryable", 2)
    assert "There is no room left on the disk of" in parking.message
    assert not (scene.home / "prompts").exists()
    assert await scene.sums() == {}
    assert list((scene.home / "runs" / TASK).iterdir()) == []


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("permission", "step", "state"),
    [("edit", ["write", "a.txt", "hello"], "escalated"), ("read", ["look"], "completed")],
)
async def test_what_was_made_on_a_disk_that_is_full_now_is_no_success(scene, monkeypatch, permission, step, state):
    """Whatever the program says: the last of it may be missing. What it used is told; who only looks has its answer."""
    definition = scene.definition(step, ["result", done()], permission=permission)
    await scene.delegate()
    with anyio.fail_after(60):
        async with Runner(grace=0.5) as runner:
            agent = scene.agent(runner, definition, on_start=lambda _: monkeypatch.setattr(room, "LEAST", FULL))
            worker = scene.bus.worker(AGENT, agent, attempts=1, backoff=0.01, supervision=None)
            await worker.run(until_idle=True)
    assert await scene.state() == state
    assert len(await scene.envelopes("completion")) == (state == "completed")
    assert (await scene.sums())[f"agent:{AGENT}"] == (4500, 0)
