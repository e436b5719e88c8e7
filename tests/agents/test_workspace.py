"""The workspace: where a delivery is worked on, and what has changed there."""

from __future__ import annotations

import os
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from taskbus.errors import ConfigurationError, Permanent
from taskbus_agents import snapshot, workspace
from taskbus_agents.folders import Folders
from taskbus_agents.workspace import Workspaces
from tests.repositories import git, repository

REPOSITORY_FILES = {"a.txt": "one\ntwo\n", "src/b.py": "b = 1\n", ".gitignore": "build/\n"}


@pytest.fixture
def project(tmp_path) -> Path:
    """A folder with files, which is a git repository with one commit."""
    return repository(tmp_path / "project", REPOSITORY_FILES)


@pytest.fixture
def make(tmp_path, project):
    """Makes workspaces of a kind for one task."""

    def made(kind: str, *, going: str = "anew", source: Path | None = project, attempt: int = 1):
        return Workspaces(kind, Folders(tmp_path / "runs"), source).make("t:1", attempt, going)

    return made


def kinds(place) -> dict[str, str]:
    """What has changed, by path."""
    return {each.path: each.kind for each in place.changes().files}


def test_an_own_folder_is_empty_and_goes_when_nothing_was_left_in_it(make):
    """With everything that was made for the run."""
    place = make("own")
    assert list(place.folder.iterdir()) == []
    place.leave(place.changes())
    assert list(place.folder.parent.iterdir()) == []


@pytest.mark.parametrize("kind", ["as-is", "copy", "worktree"])
def test_changes_are_told_by_content(make, kind):
    """Added, changed and removed; what was only touched, or written again as it was, is none of them."""
    place = make(kind)
    (place.folder / "new.txt").write_text("n")
    (place.folder / "a.txt").write_text("one\nthree\nfour\n")
    (place.folder / "src" / "b.py").write_text("b = 1\n")
    os.utime(place.folder / "src" / "b.py", (1, 1))
    (place.folder / ".gitignore").unlink()
    found = place.changes()
    assert kinds(place) == {".gitignore": "removed", "a.txt": "changed", "new.txt": "added"}
    assert str(found.of("a.txt")) == "changed, +2 \N{MINUS SIGN}1 lines"
    assert found.of("new.txt").sha256 == "1b16b1df538ba12dc3f97edbb85caa7050d46c148134290feba80f8236c83db9"


def test_a_folder_as_it_is_stays_the_users(make, project):
    """Nothing is removed from it, and its files go by their own paths."""
    place = make("as-is")
    assert place.folder == project
    assert place.named("a.txt") == "a.txt"
    place.leave(place.changes())
    assert (project / "a.txt").exists()


@pytest.mark.parametrize("kind", ["copy", "worktree"])
def test_the_original_stays_as_it_is(make, project, kind):
    """Whatever is done in a copy or a checkout, commits included."""
    place = make(kind)
    (place.folder / "a.txt").write_text("mine")
    git(place.folder, "commit", "--quiet", "--all", "--message", "mine")
    assert (project / "a.txt").read_text() == REPOSITORY_FILES["a.txt"]
    assert git(project, "rev-parse", "main") == git(project, "rev-parse", "HEAD")
    assert git(project, "status", "--porcelain") == ""
    assert kinds(place) == {"a.txt": "changed"}


def test_a_worktree_without_changes_is_removed_with_its_branch(make, project):
    """Nobody has to tidy up after a run that did nothing."""
    place = make("worktree")
    assert git(place.folder, "branch", "--show-current") == "bus/t-1-1"
    place.leave(place.changes())
    assert git(project, "branch", "--list", "bus/*") == ""
    assert git(project, "worktree", "list").count("\n") == 0
    assert not place.folder.exists()


def test_a_worktree_with_changes_or_commits_stays(make, project):
    """On the branch that the completion names."""
    for attempt, command in enumerate(
        (["touch", "x"], ["git", "commit", "--quiet", "--allow-empty", "-m", "x"]), start=1
    ):
        place = make("worktree", attempt=attempt)
        who = {
            "GIT_AUTHOR_NAME": "x",
            "GIT_AUTHOR_EMAIL": "x@y",
            "GIT_COMMITTER_NAME": "x",
            "GIT_COMMITTER_EMAIL": "x@y",
        }
        subprocess.run(command, cwd=place.folder, check=True, env={**os.environ, **who})
        changes = place.changes()
        assert (len(changes.files), changes.commits) == ((1, 0) if attempt == 1 else (0, 1))
        place.leave(changes)
        assert place.folder.exists()
        assert f"bus/t-1-{attempt}" in git(project, "branch", "--list", "bus/*")


def test_a_worktree_of_a_folder_inside_of_a_repository_is_that_folder(make, project):
    """Work goes on where the agent's folder is, not at the top."""
    place = make("worktree", source=project / "src")
    assert place.folder.name == "src"
    assert (place.folder / "b.py").exists()
    assert (place.folder.parent / "a.txt").exists()


def test_hooks_of_the_repository_are_not_run(make, project, tmp_path):
    """A checkout for an agent is no reason to run anything."""
    hook = project / ".git" / "hooks" / "post-checkout"
    hook.write_text(f"#!/bin/sh\ntouch {tmp_path}/ran\n")
    hook.chmod(0o755)
    make("worktree")
    assert not (tmp_path / "ran").exists()


def test_what_cannot_be_a_worktree_is_said(make, tmp_path):
    """No repository, and one without a commit: with what to do, and nothing left behind."""
    bare = tmp_path / "bare"
    bare.mkdir()
    with pytest.raises(Permanent, match="no git repository"):
        make("worktree", source=bare)
    git(bare, "init", "--quiet")
    with pytest.raises(Permanent, match="no commit"):
        make("worktree", source=bare)
    assert list((tmp_path / "runs" / "t:1").iterdir()) == []


def test_a_kind_that_needs_a_folder_is_refused_without_one(make):
    """Before anything is made."""
    with pytest.raises(ConfigurationError, match="needs a folder"):
        make("copy", source=None)


def test_links_are_copied_as_links_and_never_followed(make, project, tmp_path):
    """A link to a secret shows its target's name, and nothing of the target."""
    secret = tmp_path / "secret"
    secret.mkdir()
    (secret / "key").write_text("k")
    (project / "out").symlink_to(secret)
    (project / "gone").symlink_to("nowhere")
    place = make("copy")
    assert (place.folder / "out").readlink() == secret
    assert "out/key" not in place.before.files
    (place.folder / "gone").unlink()
    (place.folder / "gone").symlink_to("elsewhere")
    (secret / "key").write_text("changed")
    assert kinds(place) == {"gone": "changed"}


def test_what_is_no_file_is_left_alone(make, project):
    """A pipe would be waited for for ever."""
    os.mkfifo(project / "pipe")
    place = make("copy")
    assert not (place.folder / "pipe").exists()
    assert "pipe" not in make("as-is").before.files


def test_repositories_inside_are_no_files_of_the_work(make, project):
    """What a commit changes in .git is nothing that the task has changed."""
    place = make("as-is")
    (project / "vendor" / ".git").mkdir(parents=True)
    (project / "vendor" / ".git" / "HEAD").write_text("x")
    git(project, "commit", "--quiet", "--allow-empty", "--message", "second")
    assert kinds(place) == {}


def test_a_copy_of_a_worktree_does_not_belong_to_its_repository(make, project, tmp_path):
    """A commit in it would else be one in the user's."""
    other = tmp_path / "other"
    git(project, "worktree", "add", "--quiet", str(other))
    place = make("copy", source=other)
    assert (place.folder / "a.txt").exists()
    assert not (place.folder / ".git").exists()


def test_binary_and_large_files_are_compared_without_lines(make, project, monkeypatch):
    """By their hash, or where they are too large by size and time, which is said to be unsure."""
    monkeypatch.setattr(snapshot, "LARGEST", 1000)
    (project / "small.bin").write_bytes(bytes(range(256)))
    (project / "huge.bin").write_bytes(b"x" * 2000)
    place = make("as-is")
    (project / "small.bin").write_bytes(bytes(range(255, -1, -1)))
    os.utime(project / "huge.bin", (1, 1))
    found = place.changes()
    assert (found.of("small.bin").added, found.of("small.bin").is_something) == (None, True)
    assert (found.of("huge.bin").is_sure, found.of("huge.bin").is_something) == (False, False)
    assert "too large" in str(found.of("huge.bin"))


def test_a_folder_with_too_many_files_is_looked_at_as_far_as_said(make, project, monkeypatch):
    """What only came into sight, or went out of it, is no change."""
    for number in range(20):
        (project / f"f{number:02}").write_text("x")
    monkeypatch.setattr(snapshot, "MOST_FILES", 10)
    place = make("as-is")
    (project / ".gitignore").unlink()
    (project / "a0").write_text("new")
    found = place.changes()
    assert not found.is_whole
    assert {each.path: each.kind for each in found.files} == {"a0": "added"}


def test_what_is_too_large_to_copy_is_refused(make, monkeypatch):
    """Before a disk is full; and nothing of it stays."""
    monkeypatch.setattr(workspace, "COPIED_FILES", 2)
    with pytest.raises(Permanent, match="too large"):
        make("copy")


def test_the_runs_themselves_are_not_copied(project, tmp_path):
    """A home of the bus inside of the folder would be copied into itself."""
    root = project / ".bus" / "runs"
    place = Workspaces("copy", Folders(root), project, frozenset({project / ".bus"})).make("t", 1)
    assert not (place.folder / ".bus").exists()
    looked = Workspaces("as-is", Folders(root), project, frozenset({project / ".bus"})).make("t", 1)
    (project / ".bus" / "log").write_text("x")
    assert looked.changes().files == ()


def test_a_folder_that_the_agent_removed_is_gone(make):
    """Which is no change like any other."""
    place = make("own")
    place.folder.rmdir()
    assert place.changes().is_gone
    place.leave(place.changes())


@pytest.mark.parametrize("kind", ["own", "copy", "worktree"])
def test_work_goes_on_where_it_stopped_to_ask(make, kind):
    """In a new folder with what was there, commits included; what was made by then still counts as made."""
    first = make(kind)
    (first.folder / "half.txt").write_text("h")
    if kind == "worktree":
        git(first.folder, "add", "half.txt")
        git(first.folder, "commit", "--quiet", "--message", "half")
    (first.folder / "loose.txt").write_text("l")
    first.leave(first.changes())
    second = make(kind, going="on")
    assert second.folder != first.folder
    (second.folder / "whole.txt").write_text("w")
    assert kinds(second) == {"half.txt": "added", "loose.txt": "added", "whole.txt": "added"}
    second.leave(second.changes())
    third = make(kind, going="back")
    assert kinds(third) == {}
    assert (third.folder / "whole.txt").exists()


def test_a_folder_as_it_is_is_worked_in_by_one_at_a_time(tmp_path, project):
    """Of whichever agents and workers; those who only look may look together. Others need not wait for each other."""

    def claims(kind, *, shared=False):
        return Workspaces(kind, Folders(tmp_path / "runs"), project).claim(shared=shared)

    first, second, third = claims("as-is"), claims("as-is"), claims("as-is", shared=True)
    assert first.take()
    assert not second.take()
    assert not third.take()
    first.leave()
    assert third.take()
    other = claims("as-is", shared=True)
    assert other.take()
    other.leave()
    assert not second.take()
    third.leave()
    assert second.take()
    assert claims("copy").take()
    assert kinds_of(project) == []


def kinds_of(project: Path) -> list[str]:
    """What git sees as changed."""
    return git(project, "status", "--porcelain").splitlines()


def test_what_a_lost_worker_has_left_is_in_nobodys_way(make):
    """A delivery that is tried again gets a home of its own, also in a folder as it is."""
    lost = make("as-is")
    again = make("as-is")
    assert lost.home != again.home
    assert list(again.home.iterdir()) == []
    again.leave(again.changes())
    assert [each.name for each in again.home.parent.iterdir()] == [lost.home.name]


def test_a_link_in_the_place_of_its_folder_is_no_work(make, tmp_path):
    """What stands elsewhere is not what the run has made."""
    place = make("own")
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "result.txt").write_text("somebody else's")
    place.folder.rmdir()
    place.folder.symlink_to(tmp_path / "other")
    assert place.changes().is_gone


@pytest.mark.parametrize("kind", ["as-is", "copy"])
def test_the_home_of_the_bus_is_nobodys_work_by_any_name(tmp_path, project, kind):
    """A folder that is named through a link has the home of the bus in it all the same."""
    home = project / ".bus"
    (home / "runs").mkdir(parents=True)
    (home / "log").write_text("1")
    (tmp_path / "link").symlink_to(project)
    folders = Folders(home / "runs")
    place = Workspaces(kind, folders, tmp_path / "link", frozenset({home})).make("t", 1)
    (home / "log").write_text("2")
    assert place.changes().files == ()
    assert kind == "as-is" or not (place.folder / ".bus").exists()


def test_a_folder_that_is_gone_is_said(tmp_path, project):
    """Not that the program could not be started."""
    made = Workspaces("as-is", Folders(tmp_path / "runs"), project)
    project.rename(tmp_path / "elsewhere")
    with pytest.raises(Permanent, match="no folder any more"):
        made.make("t", 1)


def test_git_runs_nothing_that_the_agent_has_named(make, tmp_path):
    """A repository that an agent has put in the place of its own says how objects are fetched: nobody fetches them."""
    place = make("worktree")
    evil, told = place.folder / "evil", tmp_path / "told"
    script = tmp_path / "script"
    script.write_text(f"#!/bin/sh\ntouch {told}\n")
    script.chmod(0o755)
    git(place.folder.parent, "init", "--quiet", "--initial-branch", "main", str(evil))
    settings = {
        "core.repositoryformatversion": "1",
        "extensions.partialClone": "x",
        "remote.x.url": f"ext::{script}",
        "remote.x.promisor": "true",
        "protocol.ext.allow": "always",
        "core.fsmonitor": str(script),
    }
    for name, value in settings.items():
        git(evil, "config", name, value)
    (evil / ".git" / "refs" / "heads" / "main").write_text(f"{'1' * 40}\n")
    (place.folder / ".git").unlink()
    (place.folder / ".git").write_text(f"gitdir: {evil / '.git'}\n")
    assert place.changes().commits == 0
    make("worktree", going="on")
    assert not told.exists()


def test_commits_are_counted_whatever_the_folder_says(make):
    """The repository knows of them, also where the agent has removed what names it."""
    place = make("worktree")
    git(place.folder, "commit", "--quiet", "--allow-empty", "--message", "mine")
    (place.folder / ".git").unlink()
    assert place.changes().commits == 1


def test_many_worktrees_of_one_repository_at_once(tmp_path, project):
    """Each on a branch of its own, whose names may be one and the same; what is unchanged goes while others come."""

    def one(number: int):
        place = Workspaces("worktree", Folders(tmp_path / "runs"), project).make(f"t{':.'[number % 2]}{number // 4}", 1)
        if number % 3:
            (place.folder / "new.txt").write_text(str(number))
        place.leave(place.changes())
        return place

    with ThreadPoolExecutor(8) as pool:
        places = list(pool.map(one, range(16)))
    assert len({place.tree.branch for place in places}) == 16
    stay = [place for number, place in enumerate(places) if number % 3]
    assert git(project, "worktree", "list").count("\n") == len(stay)
    assert all((place.folder / "new.txt").exists() for place in stay)
