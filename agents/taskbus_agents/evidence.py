"""The evidence: what a run has shown of what it says, and which completion that makes.

A success needs more than a word: a criterion that was run, or a changed file, and nothing that contradicts it. What
remains a claim is marked as one. Pure but for a look at the files that the agent names; called by handlers.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Literal, TypeAlias

from taskbus.envelope import Artifact, Completion, ErrorDetails, Gate, Result
from taskbus.findings import printable
from taskbus_agents.checks import parsed, relative, within

if TYPE_CHECKING:
    from collections.abc import Sequence

    from taskbus_agents.adapter import Trouble
    from taskbus_agents.checks import Checked
    from taskbus_agents.definition import Permission
    from taskbus_agents.snapshot import Change
    from taskbus_agents.workspace import Changes, Workspace

MOST_ARTIFACTS: Final = 200
_URL: Final = re.compile(r"[A-Za-z][A-Za-z0-9+.\-]*:")
_SHOWN: Final = 200
_LONGEST: Final = 20_000
_LISTED: Final = 10
_OF_FOLDER: Final = frozenset({"command", "file", "changed", "schema"})
"""The forms of criteria that ask for something other than words."""

Status: TypeAlias = Literal["success", "partial", "failure"]


@dataclass(frozen=True, slots=True)
class Run:
    """What a run came to that its program calls a success.

    `claim` is the agent's own completion, None where it wrote none; `said` its last message. `tools` is how many tool
    calls it made, None where that is not known. `word_counts`: the program is the user's own, and its word is enough
    where nothing contradicts it. `reviewed`: somebody looks at the result.
    """

    workspace: Workspace
    changes: Changes
    claim: Completion | None = None
    said: str = ""
    checked: Sequence[Checked] = ()
    tools: int | None = None
    refused: Sequence[str] = ()
    notes: Sequence[str] = ()
    permission: Permission = "edit"
    reviewed: bool = True
    word_counts: bool = False


@dataclass(frozen=True, slots=True)
class Judgment:
    """The status that the evidence allows, why it is no success, and what was seen."""

    status: Status
    reason: str | None
    message: str
    gate: Gate


def completion(run: Run) -> tuple[Completion, Gate]:
    """The completion of a run that its program calls a success, and how its output was verified."""
    found = judged(run)
    claim = run.claim
    error = None
    if found.message:
        error = ErrorDetails(level=1, category="validation", message=found.message[:_LONGEST])
    elif claim is not None:
        error = claim.error_details
    description = (claim.result.description if claim is not None else None) or run.said.strip()
    return (
        Completion(
            action=claim.action if claim is not None else None,
            result=Result(status=found.status, description=_clean(description) or None, artifacts=artifacts(run)),
            verification_result=verification(run),
            next_steps=claim.next_steps if claim is not None else None,
            termination_reason=found.reason or (claim.termination_reason if claim is not None else None),
            error_details=error,
        ),
        found.gate,
    )


def cut_short(run: Run, trouble: Trouble, message: str) -> tuple[Completion, Gate]:
    """The completion of a run that a limit ended: partial where it shows something and somebody looks at it."""
    status: Status = "partial" if run.changes.shown and run.reviewed else "failure"
    made = Completion(
        result=Result(status=status, description=_clean(run.said.strip()) or None, artifacts=artifacts(run)),
        verification_result=verification(run),
        termination_reason=trouble,
        error_details=ErrorDetails(level=1, category="execution", message=message[:_LONGEST]),
    )
    return made, Gate(outcome="skipped", note=f"ended by its {trouble}")


def judged(run: Run) -> Judgment:
    """What the evidence allows to be said of a run that claims success, or less."""
    claimed: Status = run.claim.result.status if run.claim is not None else "success"
    if claimed == "failure":
        return Judgment("failure", None, "", Gate(outcome="skipped", note="the agent reports a failure"))
    if contradictions := list(_contradictions(run)):
        message = f"The agent's word is contradicted: {'; '.join(contradictions[:_LISTED])}."
        return Judgment("failure", "contradicted", message, _failed("contradicted"))
    failing = [each for each in run.checked if each.met == "not-met"]
    passing = [each for each in run.checked if each.met == "met"]
    if failing and claimed == "success":
        listed = "; ".join(str(each) for each in failing[:_LISTED])
        message = f"{len(failing)} of {len(failing) + len(passing)} criteria that were run are not met: {listed}"
        return Judgment("failure", "not-met", message, _failed(f"criteria not met: {len(failing)}"))
    if claimed == "partial":
        note = f"{len(passing)} of {len(failing) + len(passing)} criteria met" if run.checked else "nothing was run"
        return Judgment("partial", None, "", Gate(outcome="failed" if failing else "skipped", note=note))
    if passing and not _proves_nothing(run):
        return Judgment("success", None, "", Gate(outcome="passed", note=f"criteria met: {len(passing)}"))
    return _claimed(run)


def _claimed(run: Run) -> Judgment:
    """Of a success that no criterion stands for."""
    # Who may only look has not made what has changed meanwhile.
    shown = run.changes.shown if run.permission != "read" or run.word_counts else ()
    if run.refused:
        tools = printable(", ".join(dict.fromkeys(run.refused)), _SHOWN)
        message = f"It was not allowed to use {tools}, so that what it did is not known to be all."
        return Judgment(_less(run) if shown else "failure", "refused", message, _failed("tools were refused"))
    note = "claim, not checked"
    if shown or run.word_counts:
        return Judgment("success", None, "", Gate(outcome="skipped", note=note))
    if run.permission == "read" and run.tools and _answer(run):
        return Judgment("success", None, "", Gate(outcome="skipped", note=note))
    nothing = "It has changed no file" if run.permission != "read" else "It has looked at nothing"
    wanted = "a criterion that can be run, such as `file: PATH` or `$ COMMAND`"
    criteria = "no criterion could be run"
    if any(each.met == "met" for each in run.checked):
        nothing, criteria = f"{nothing}, used no tool", "no criterion that is met shows any work"
        wanted = "a criterion that the work makes true, such as `changed: PATH`"
    message = (
        f"{nothing}, and {criteria}: that it is done is its word alone. "
        f"Give the task {wanted}; `says: *` alone where the answer itself is what was asked for."
    )
    return Judgment(_less(run), "unproven", message, _failed(note))


def _proves_nothing(run: Run) -> bool:
    """Whether it has only spoken, so that what is met of its folder, or by a command, was met before it."""
    others_change = run.permission == "read" and not run.workspace.is_own
    touched = run.changes.commits or (run.changes.files and not others_change)
    # In a folder with more files than are looked at, only the program can tell that it has done nothing.
    spoke = not run.tools and not touched and (run.changes.is_whole or run.tools == 0)
    return spoke and not run.word_counts and any(parsed(each.criterion)[0] in _OF_FOLDER for each in run.checked)


def verification(run: Run) -> str:
    """What was checked, with what it showed; and what is the agent's word alone, marked as that."""
    lines: list[str] = []
    ran = [each for each in run.checked if each.met != "not-run"]
    if ran:
        met = sum(each.met == "met" for each in ran)
        lines.append(f"Checked: {met} of {len(ran)} criteria that can be run are met.")
    else:
        lines.append("Claim, not checked: no criterion could be run.")
    lines += [f"- {each}" for each in run.checked]
    lines.append(_looked(run))
    if run.workspace.tree is not None and (run.changes.files or run.changes.commits):
        tree = run.workspace.tree
        lines.append(f"Git worktree {tree.folder} on branch {tree.branch}, {run.changes.commits} commits.")
    if run.tools is not None:
        lines.append(f"Tool calls: {run.tools}.")
    if run.permission == "read" and run.changes.files and not run.word_counts:
        lines.append("Note: it may only look, and what has changed meanwhile is not said to be its work.")
    if ran and _proves_nothing(run):
        lines.append("Note: it has changed nothing and used no tool, so that what is met shows no work.")
    lines += [f"Note: {note}" for note in run.notes]
    if run.claim is not None and run.claim.verification_result:
        lines += ["The agent's own word, not checked:", run.claim.verification_result]
    return _clean("\n".join(lines))


def artifacts(run: Run) -> tuple[Artifact, ...]:
    """What the run has changed, and whatever else the agent names that is no file."""
    claims = {relative(run.workspace.folder, each.path): each for each in _named(run)}
    listed = sorted(run.changes.files, key=lambda change: change.path not in claims)[:MOST_ARTIFACTS]
    found = [_artifact(run.workspace, change, claims.get(change.path)) for change in listed]
    listed_paths = {change.path for change in listed}
    others = [each for path, each in claims.items() if path not in listed_paths]
    return (*found, *(each for each in others if run.word_counts or _URL.match(each.path)))


def _artifact(workspace: Workspace, change: Change, claim: Artifact | None) -> Artifact:
    summary = str(change)
    if claim is not None and claim.summary:
        summary = f"{claim.summary} ({summary})"
    return Artifact(
        path=printable(workspace.named(change.path), 4096),
        sha256=change.sha256,
        size=change.size,
        media_type=claim.media_type if claim is not None else None,
        summary=summary,
    )


def _contradictions(run: Run) -> list[str]:
    if run.changes.is_gone:
        return ["its working folder is gone"]
    found: list[str] = []
    if run.permission == "read" and run.workspace.is_own and run.changes.files and not run.word_counts:
        found.append(f"it may only look, and has changed {printable(run.changes.files[0].path, _SHOWN)}")
    inside = unchanged = 0
    for each in _named(run):
        if _URL.match(each.path):
            continue
        said = _contradicted(run, each)
        if said is not None:
            found.append(said)
        elif within(run.workspace.folder, each.path) is not None:
            inside += 1
            unchanged += not _is_changed(run, each.path)
    proven = any(each.met == "met" for each in run.checked)
    if inside and inside == unchanged and run.workspace.going != "on" and not run.word_counts and not proven:
        found.append("no file that it names was changed by this run")
    return found


def _contradicted(run: Run, artifact: Artifact) -> str | None:
    """What is wrong with a file that the agent names as an output."""
    shown = printable(artifact.path, _SHOWN)
    folder = run.workspace.folder
    place = within(folder, artifact.path)
    if place is None:
        # Only one that may go anywhere can have made something elsewhere; nobody has looked at it there.
        return None if run.word_counts or run.permission == "bypass" else f"{shown} is not in its working folder"
    change = run.changes.of(relative(folder, artifact.path))
    if not place.exists():
        return None if change is not None and change.kind == "removed" else f"{shown} is not there"
    if not place.is_file() or change is None:
        return None
    if artifact.sha256 is not None and change.sha256 is not None and artifact.sha256 != change.sha256:
        return f"{shown} has another SHA-256 than it says"
    if artifact.size is not None and change.size is not None and artifact.size != change.size:
        return f"{shown} has {change.size} bytes, not {artifact.size}"
    return None


def _is_changed(run: Run, path: str) -> bool:
    name = relative(run.workspace.folder, path)
    if name == ".":
        return bool(run.changes.shown)
    return any(each.path == name or each.path.startswith(f"{name}/") for each in run.changes.shown)


def _named(run: Run) -> tuple[Artifact, ...]:
    return run.claim.result.artifacts if run.claim is not None else ()


def _looked(run: Run) -> str:
    files = run.changes.files
    if run.changes.is_gone:
        return "Files: the working folder is gone."
    kinds = [(kind, sum(each.kind == kind for each in files)) for kind in ("added", "changed", "removed")]
    counts = ", ".join(f"{count} {kind}" for kind, count in kinds if count) or "none changed"
    more = f"; the first {MOST_ARTIFACTS} are listed" if len(files) > MOST_ARTIFACTS else ""
    partly = "" if run.changes.is_whole else "; the folder has more files than are looked at"
    return f"Files: {counts}{more}{partly}."


def _answer(run: Run) -> str:
    return ((run.claim.result.description if run.claim is not None else None) or run.said).strip()


def _less(run: Run) -> Status:
    """Less than a success: where nobody looks at a partial one, it would pass for one."""
    return "partial" if run.reviewed else "failure"


def _failed(note: str) -> Gate:
    return Gate(outcome="failed", note=note)


def _clean(text: str) -> str:
    shown = "".join(c if c.isprintable() or c in "\n\t" else repr(c)[1:-1] for c in text)
    return shown if len(shown) <= _LONGEST else f"{shown[:_LONGEST]} … ({len(shown) - _LONGEST} more characters)"
