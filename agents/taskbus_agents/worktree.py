"""Git worktrees: a checkout of a repository on a branch of its own, for one delivery.

Owns what is asked of git. Runs none of the repository's hooks, and never asks anybody for a password. Called by the
workspace, beside the event loop.
"""

from __future__ import annotations

import os
import re
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from taskbus.envelope import new_id
from taskbus.errors import Permanent, Retryable
from taskbus.findings import printable

_LONGEST: Final = 300.0
_SHOWN: Final = 500
_PAUSES: Final = (0.1, 0.4)
_REF: Final = re.compile(r"[^A-Za-z0-9_\-]+")


@dataclass(frozen=True, slots=True)
class Worktree:
    """A worktree of `repository` at `folder`, on `branch`, begun at the commit `base`; `inside` is where to work.

    `kept` is where the repository keeps it: what the folder itself says of that is the agent's to change.
    """

    repository: Path
    folder: Path
    branch: str
    base: str
    inside: Path
    kept: Path

    @classmethod
    def add(cls, source: Path, folder: Path, name: str, *, start: str = "HEAD") -> Worktree:
        """A new one at `folder`, which must be empty, from the repository around `source`.

        Raises Permanent where there is none, or it has no commit, and Retryable where git cannot make one now, as on
        a full disk; nothing is left of it then.
        """
        top = _asked(source, "rev-parse", "--show-toplevel", why=f"{source} is in no git repository")
        base = _asked(source, "rev-parse", "--verify", f"{start}^{{commit}}", why=f"{top} has no commit {start}")
        branch = f"bus/{_REF.sub('-', name).strip('-')}"
        # Two tasks may have names that make one branch, at the same moment too.
        if git(source, "branch", "--no-track", branch, base).returncode != 0:
            branch = f"{branch}-{new_id()[-6:]}"
            _made(source, "branch", "--no-track", branch, base)
        try:
            _made(source, "worktree", "add", "--quiet", str(folder), branch)
            kept = _asked(folder, "rev-parse", "--absolute-git-dir", why=f"{folder} is no worktree")
            inside = folder / source.resolve().relative_to(Path(top).resolve())
            inside.mkdir(parents=True, exist_ok=True)  # a folder that no commit has
        except BaseException:
            _removed(Path(top), folder, branch)
            raise
        return cls(Path(top), folder, branch, base, inside, Path(kept))

    @property
    def commits(self) -> int:
        """How many commits were made on it; 0 where that cannot be told."""
        done = git(self.repository, f"--git-dir={self.kept}", "rev-list", "--count", f"{self.base}..HEAD")
        return int(done.stdout) if done.returncode == 0 and done.stdout.strip().isdigit() else 0

    def reset(self, commit: str) -> None:
        """Have its branch go on from this commit. Raises Permanent."""
        _asked(self.folder, "reset", "--quiet", "--hard", commit, why=f"git could not go on from {commit}")

    def remove(self) -> None:
        """Remove it and its branch. What cannot be removed stays: git then says so when somebody looks."""
        _removed(self.repository, self.folder, self.branch)


def head(folder: Path) -> str | None:
    """The commit that a worktree stands at; None for what is none."""
    done = git(folder, "rev-parse", "--verify", "HEAD^{commit}", reaches=False)
    return done.stdout.strip() if done.returncode == 0 else None


def begun(source: Path, stopped: str) -> str:
    """The commit that work which stopped at another one was begun from; that one itself where git does not know."""
    done = git(source, "merge-base", "HEAD", stopped)
    return done.stdout.strip() if done.returncode == 0 else stopped


def _removed(repository: Path, folder: Path, branch: str) -> None:
    # Twice: one that git could not finish is locked.
    _tried(repository, "worktree", "remove", "--force", "--force", str(folder))
    git(repository, "worktree", "prune")
    _tried(repository, "branch", "-D", branch)


def git(folder: Path, *words: str, reaches: bool = True) -> subprocess.CompletedProcess[str]:
    """Run git in a folder. Raises Permanent where it is not installed, or does not come to an end.

    Where an agent has worked it `reaches` nobody: the settings there may name commands for that.
    """
    # What a git that runs a hook has set would point it elsewhere.
    own = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    own |= {"GIT_TERMINAL_PROMPT": "0", "LC_ALL": "C"} | ({} if reaches else {"GIT_ALLOW_PROTOCOL": "none"})
    safely = ("-c", "core.hooksPath=/dev/null", "-c", "core.fsmonitor=false")
    try:
        return subprocess.run(
            ["git", *safely, "-C", str(folder), *words],  # noqa: S607 - git is the user's
            env=own,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=_LONGEST,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        message = f"git could not be run in {folder}: {error}. Install it, or use another kind of workspace."
        raise Permanent(message) from error


def _asked(folder: Path, *words: str, why: str) -> str:
    done = git(folder, *words)
    if done.returncode != 0:
        said = printable(done.stderr.strip(), _SHOWN)
        raise Permanent(f'{why}: {said} Commit something first, or use `workspace = "copy"`.')
    return done.stdout.strip()


def _made(source: Path, *words: str) -> None:
    done = _tried(source, *words)
    if done.returncode != 0:
        said = printable(done.stderr.strip().rstrip("."), _SHOWN) or f"it ended with {done.returncode}"
        raise Retryable(f"git made no worktree of {source}: {said}. It needs room, and leave to write in both places.")


def _tried(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """Run what can fail by chance: git reads what another one that adds a worktree has only begun to write."""
    done = git(folder, *words)
    for pause in _PAUSES:
        if done.returncode == 0:
            break
        time.sleep(pause)
        done = git(folder, *words)
    return done
