"""The workspace: where one delivery is worked on, what stood there before, and what came of it.

An empty folder of its own, a folder as it is, a copy of it, or a git worktree of it. Owns how each is made, continued
and left; refuses to copy what is too large. Blocking: called by handlers beside the event loop.
"""

from __future__ import annotations

import os
import shutil
import stat
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final, Literal, TypeAlias

from taskbus.errors import ConfigurationError, Permanent
from taskbus_agents import room, worktree
from taskbus_agents.claim import Claim
from taskbus_agents.folders import STDERR_LOG, STDOUT_LOG, Folders
from taskbus_agents.snapshot import Snapshot, matches, places
from taskbus_agents.worktree import Worktree

if TYPE_CHECKING:
    from collections.abc import Generator

    from taskbus_agents.definition import WorkspaceKind
    from taskbus_agents.runner import Ended
    from taskbus_agents.snapshot import Change

COPIED_FILES: Final = 50_000
COPIED_BYTES: Final = 2 << 30
"""What a copy may have at most."""
COMPLETION_FILE: Final = "completion.json"
"""Where an agent may leave its outcome, in its working folder."""
_OWN: Final = (COMPLETION_FILE, STDOUT_LOG, STDERR_LOG)
_REPOSITORY: Final = ".git"

Going: TypeAlias = Literal["anew", "on", "back"]
"""How a delivery is begun: from the beginning; where it stopped to ask; from what was rejected."""


@dataclass(frozen=True, slots=True)
class Changes:
    """What a run has changed. `is_whole` is false where there are more files than were looked at, `is_gone` true
    where the folder itself was removed.
    """

    files: tuple[Change, ...] = ()
    is_whole: bool = True
    is_gone: bool = False
    commits: int = 0

    @property
    def shown(self) -> tuple[Change, ...]:
        """Those that show that something was done."""
        return tuple(each for each in self.files if each.is_something)

    def of(self, path: str) -> Change | None:
        """The change of this file, if it has one."""
        return next((each for each in self.files if each.path == path), None)


@dataclass(frozen=True, slots=True)
class Workspace:
    """One delivery's place: `folder` is where the agent works, `home` a folder beside it for this run alone.

    `logs` is where what the program printed is kept, if it is. `previous` is the folder of the task's run before this
    one, where it is still there. `is_own`: the folder is not the user's, so that its files go by their full paths.
    Without `looks` nobody knows what stood there before.
    """

    folder: Path
    home: Path
    logs: Path
    before: Snapshot
    skip: frozenset[Path]
    is_own: bool
    previous: Path | None = None
    tree: Worktree | None = None
    going: Going = "anew"
    looks: bool = True

    @classmethod
    def around(
        cls,
        folder: Path,
        *,
        is_own: bool,
        looks: bool,
        previous: Path | None = None,
        skip: frozenset[Path] = frozenset(),
    ) -> Workspace:
        """One around a folder that is there already, without a home and logs of its own."""
        before = Snapshot.of(folder, skip=skip, litter=_OWN) if looks else Snapshot()
        return cls(folder, folder, folder, before, skip, is_own=is_own, previous=previous, looks=looks)

    def check_room(self, writes: bool) -> None:
        """Raise Retryable where there is no room for a run, and Permanent where one that `writes` cannot do so."""
        room.check(self.home)
        if writes:
            room.check_writable(self.folder)

    def changes(self, litter: tuple[str, ...] = ()) -> Changes:
        """What is otherwise than before; not what the program leaves for itself, and not what the worker keeps."""
        # A link in its place would lead to other people's files.
        if not self.folder.is_dir() or (self.is_own and self.folder.is_symlink()):
            return Changes(is_gone=True)
        after = Snapshot.of(self.folder, skip=self.skip, litter=_OWN)
        found = tuple(each for each in self.before.changes(after) if not matches(each.path, litter))
        commits = self.tree.commits if self.tree is not None else 0
        return Changes(found, self.before.is_whole and after.is_whole, commits=commits)

    def named(self, path: str) -> str:
        """How a file of it is named to others."""
        return str(self.folder / path) if self.is_own else path

    def keep(self, ended: Ended) -> Path | None:
        """Keep what the program printed; returns the folder, None where there is nothing."""
        printed = {STDOUT_LOG: ended.stdout, STDERR_LOG: ended.stderr}
        for name, text in printed.items():
            if text.strip():
                # What cannot be kept, on a full disk for example, must not cost the outcome as well.
                with suppress(OSError):
                    self.logs.mkdir(exist_ok=True)
                    (self.logs / name).write_bytes(text)
        return self.logs if self.logs.is_dir() else None

    def drop(self) -> None:
        """Remove what was made for a run that never began; what stood there before stays."""
        if self.tree is not None:
            self.tree.remove()
        elif self.is_own:
            shutil.rmtree(self.folder, ignore_errors=True)

    def leave(self, changes: Changes | None = None) -> None:
        """Remove what nobody needs any more: the run's home, a worktree without changes, an empty folder."""
        if self.home != self.folder:
            shutil.rmtree(self.home, ignore_errors=True)
        if self.tree is not None:
            if changes is not None and not changes.files and not changes.commits:
                self.tree.remove()
        elif self.is_own:
            with suppress(OSError):  # there is something in it, or the agent has removed it itself
                self.folder.rmdir()


@dataclass(frozen=True, slots=True)
class Workspaces:
    """How workspaces are made: of which kind, under `folders`, from the folder `source`.

    `skip` are folders that are nobody's work, such as the home of the bus. Raises ConfigurationError for a kind
    without the folder that it needs.
    """

    kind: WorkspaceKind
    folders: Folders
    source: Path | None = None
    skip: frozenset[Path] = frozenset()

    def __post_init__(self) -> None:
        """Check that there is a folder where one is needed."""
        if self.kind != "own" and self.source is None:
            raise ConfigurationError(
                f"A workspace of the kind {self.kind!r} needs a folder.", advice="Name it with `folder`."
            )
        if self.source is not None and self.kind != "own" and not self.source.is_dir():
            raise ConfigurationError(
                f"{self.source} is no folder.", advice="Make it, or name another one with `folder`."
            )

    def make(self, task: str, attempt: int | str, going: Going = "anew") -> Workspace:
        """The place for one delivery. Raises Permanent where it cannot be made, whoever tries, and Retryable where it
        can once there is room for it. Nothing is left of one that could not be made.
        """
        if self.kind == "as-is" and self.source is not None and not self.source.is_dir():
            raise Permanent(f"{self.source} is no folder any more. Make it, or name another one with `folder`.")
        beside, home = self._beside(task, attempt)
        logs = beside.with_name(f"{beside.name}.logs")
        previous = Folders(self.folders.root).before(beside)
        skip = self.skip | {self.folders.root}
        if self.kind == "as-is" and self.source is not None:
            beside.rmdir()
            before = Snapshot.of(self.source, skip=skip, litter=_OWN)
            return Workspace(self.source, home, logs, before, skip, is_own=False, previous=previous, going=going)
        try:
            folder, before, tree = self._filled(beside, previous, going)
        except BaseException as error:
            shutil.rmtree(beside, ignore_errors=True)
            shutil.rmtree(home, ignore_errors=True)
            if isinstance(error, OSError):
                raise room.failure(f"The folder {beside} cannot be made", error) from error
            raise
        return Workspace(
            folder, home, logs, before, frozenset(), is_own=True, previous=previous, tree=tree, going=going
        )

    def claim(self, *, shared: bool) -> Claim:
        """The right to work in the folder, where several deliveries would work in the same one."""
        return Claim(self.source if self.kind == "as-is" else None, shared=shared)

    def _beside(self, task: str, attempt: int | str) -> tuple[Path, Path]:
        """A new folder for a delivery, and its home: one that a lost worker has left is not taken again."""
        passed: list[Path] = []
        while True:
            beside = self.folders.own(task, attempt)
            home = beside.with_name(f"{beside.name}.home")
            try:
                home.mkdir(mode=0o700)
            except FileExistsError:
                passed.append(beside)
            except OSError as error:
                beside.rmdir()
                raise room.failure(f"No home can be made for {task}", error) from error
            else:
                for each in passed:
                    each.rmdir()
                return beside, home

    def _filled(self, beside: Path, previous: Path | None, going: Going) -> tuple[Path, Snapshot, Worktree | None]:
        """The folder to work in, what stands in it before, and the worktree that it is in."""
        goes_on = going != "anew" and previous is not None
        tree = stopped = None
        folder = beside
        if self.kind == "worktree" and self.source is not None:
            stopped = worktree.head(previous) if goes_on and previous is not None else None
            start = worktree.begun(self.source, stopped) if stopped is not None else "HEAD"
            tree = Worktree.add(self.source, beside, f"{beside.parent.name}-{beside.name}", start=start)
            folder = tree.inside
        elif self.kind == "copy" and self.source is not None and (not goes_on or going == "on"):
            copy(self.source, folder, skip=self.skip | {self.folders.root})
        with _or_removed(tree):
            # Where it stopped to ask, what it had made by then is a part of what it makes.
            before = Snapshot.of(folder, litter=_OWN) if going == "on" else None
            if tree is not None and stopped is not None:
                tree.reset(stopped)
            if goes_on and previous is not None:
                _emptied(beside)
                copy(previous, beside, but=_OWN)
            if not folder.resolve().is_relative_to(beside.resolve()):
                raise Permanent(f"{folder} leads out of the worktree that it is in, by a link that was left there.")
            return folder, before or Snapshot.of(folder, litter=_OWN), tree


def copy(source: Path, folder: Path, *, skip: frozenset[Path] = frozenset(), but: tuple[str, ...] = ()) -> None:
    """Copy a folder into an empty one: links as links, nothing of `skip`, no file that is called one of `but` at its
    top, nothing that is neither file nor folder.

    A repository comes along, but not the file by which a worktree names the one that it belongs to: a commit in the
    copy would be one in the original. Raises Permanent where it is too large, or cannot be read, and Retryable where
    there is no room for it.
    """
    files = size = 0
    stack = [(source, folder)]
    skipped = places(skip)
    try:
        while stack:
            here, there = stack.pop()
            there.mkdir(exist_ok=True)
            with os.scandir(here) as entries:
                for entry in entries:
                    status = entry.stat(follow_symlinks=False)
                    place = there / entry.name
                    if stat.S_ISDIR(status.st_mode):
                        if (status.st_dev, status.st_ino) not in skipped:
                            stack.append((Path(entry.path), place))
                        continue
                    if _stays(entry, status.st_mode) or (here == source and entry.name in but):
                        continue
                    files += 1
                    size += status.st_size
                    if files > COPIED_FILES or size > COPIED_BYTES:
                        raise Permanent(
                            f'{source} is too large to be copied for each delivery. Use `workspace = "worktree"`.'
                        )
                    if stat.S_ISLNK(status.st_mode):
                        place.symlink_to(os.readlink(entry.path))  # noqa: PTH115 - a name of any bytes
                    else:
                        shutil.copy2(entry.path, place)
    except OSError as error:
        raise room.failure(f"{source} cannot be copied", error) from error


@contextmanager
def _or_removed(tree: Worktree | None) -> Generator[None]:
    """Remove a worktree, and its branch, where what is done in the block fails."""
    try:
        yield
    except BaseException:
        if tree is not None:
            tree.remove()
        raise


def _stays(entry: os.DirEntry[str], mode: int) -> bool:
    """Whether something that is no folder is not copied."""
    return entry.name == _REPOSITORY or not (stat.S_ISREG(mode) or stat.S_ISLNK(mode))


def _emptied(folder: Path) -> None:
    """Remove everything in a folder but the file by which a worktree names its repository."""
    for each in folder.iterdir():
        if each.is_dir() and not each.is_symlink():
            shutil.rmtree(each)
        elif each.name != _REPOSITORY:
            each.unlink()
