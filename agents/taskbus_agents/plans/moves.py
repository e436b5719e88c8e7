"""The moves: what is due in a run, from how far it is.

Owns every rule of carrying out a plan: when a node begins, is tried again or judged, who is asked, when and how the
run ends. Pure; called by the runner, which appends what is due.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, Literal, TypeAlias

from taskbus.lifecycle import DELIVERED

if TYPE_CHECKING:
    from collections.abc import Iterator

    from taskbus_agents.plans.model import Node
    from taskbus_agents.plans.run import Piece, Run

What: TypeAlias = Literal["begin", "again", "check", "review", "ask", "tell", "accept", "reject", "cancel", "judge"]
"""Delegate a node; delegate it again; have its result checked, or reviewed; put its question to a person; tell it the
answer; accept or reject its result; cancel a task; have the whole run checked."""
End: TypeAlias = Literal["success", "partial", "failure", "escalate"]

NOT_NEEDED: Final = "It is not needed any more: "


@dataclass(frozen=True, slots=True)
class Move:
    """One thing to be done. `task` is about which task, `node` whose it is; `text` what is said; `attempt` is that of
    the task which a delegation begins.
    """

    what: What
    task: str
    node: Node | None = None
    text: str = ""
    attempt: int = 1


@dataclass(slots=True)
class Due:
    """What is due: moves, or, where there are none and nobody works, the end. `why` says why a run stops."""

    moves: list[Move] = field(default_factory=list[Move])
    end: End | None = None
    why: str = ""


def due(run: Run) -> Due:
    """What is due now. The same run always has the same moves due; none while all of it is in other hands."""
    run.refresh()
    run.forget_begun()
    if run.unclear is not None:
        return Due(end="escalate", why=_failures(run))
    stopped = next((name for name, on_failure in run.failed.items() if on_failure == "stop"), None)
    is_stopping = stopped is not None or bool(run.halted)
    found, at_work = Due(), 0
    for name in sorted(run.active):
        node = run.plan.nodes[name]
        moves, works = _of_active(run, node, is_stopping=is_stopping)
        found.moves += moves
        at_work += works
    if not is_stopping:
        for node in run.ready:
            if at_work >= run.plan.parallel:
                break
            found.moves.append(Move("begin", run.task_of(node.name), node))
            at_work += 1
    if not found.moves and not at_work:
        _end(run, found, stopped)
    return found


def _of_active(run: Run, node: Node, *, is_stopping: bool) -> tuple[list[Move], int]:
    """The moves about a node that has begun, and whether it is at work, or will be after them."""
    task, piece, phase = run.task_of(node.name), run.piece_of(node.name), run.phase(node)
    if piece is None:
        return [], 0
    moves = list(_asides_to_end(run, node, piece))
    attempt = piece.task.attempt
    if is_stopping and phase in ("check", "review", "reject", "again"):
        return moves, 0  # nothing new begins
    match phase:
        case "open" | "asking" if node.kind == "approval" and is_stopping:
            moves.append(Move("cancel", task, node, f"{NOT_NEEDED}the plan has stopped."))
        case "asking" if node.kind == "step":
            moves += _asking(run, node, piece)
        case "check" | "review":
            moves.append(Move(phase, f"{task}:{phase}-{attempt}", node))
        case "accept" | "reject":
            moves.append(Move(phase, task, node, piece.trouble if phase == "reject" else ""))
        case "again":
            moves.append(Move("again", task, node, attempt=attempt + 1))
        case _:
            pass
    return moves, int(phase not in ("failed", "waiting", "done"))


def _asking(run: Run, node: Node, piece: Piece) -> Iterator[Move]:
    """A step's question goes to a person, and the answer back to the step."""
    task = f"{run.task_of(node.name)}:question-{piece.questions}"
    asked = run.pieces.get(task)
    if asked is None:
        yield Move("ask", task, node, piece.question.question if piece.question else "")
    elif asked.task.state == "accepted" and asked.completion is not None:
        yield Move("tell", run.task_of(node.name), node, asked.completion.result.description or "yes")


def _asides_to_end(run: Run, node: Node, piece: Piece) -> Iterator[Move]:
    """Questions that are still open while their step has gone on without the answer."""
    for task, aside in run.aside(node.name):
        is_question = ":question-" in task
        still = piece.task.state == "input-required" and task.endswith(f":question-{piece.questions}")
        if is_question and aside.is_open and not still:
            yield Move("cancel", task, node, f"{NOT_NEEDED}{node.name} has gone on without it.")


def _end(run: Run, found: Due, stopped: str | None) -> None:
    """How the run ends, now that nothing of it is at work and nothing may begin."""
    if stopped is not None:
        found.why = f"{stopped} has failed: {trouble(run, stopped)}"
    elif run.halted and not run.is_over:
        found.why = f"it was stopped: {run.halted}"
    elif run.failed:
        found.end, found.why = "escalate", _failures(run)
        return
    judging = check_task(run)
    left = [task for task in open_tasks(run) if task != judging]
    if left:
        found.moves = [Move("cancel", task, None, f"{NOT_NEEDED}the plan has ended.") for task in left]
        return
    if found.why:
        found.end = "failure"
        return
    if run.plan.check is not None:
        judged = run.pieces.get(judging)
        if judged is None:
            found.moves = [Move("judge", judging)]
            return
        if judged.task.state in DELIVERED:
            return
        if judged.task.state != "accepted":
            found.end, found.why = "failure", f"the plan's own check has failed: {judged.trouble}"
            return
    found.end = "partial" if "skipped" in run.settled.values() else "success"


def _failures(run: Run) -> str:
    return "; ".join(f"{name} has failed: {trouble(run, name)}" for name in run.failed)


def check_task(run: Run) -> str:
    """The task that checks the whole run, anew in each attempt of it."""
    return f"{run.id}:check-{run.root.task.attempt if run.root else 1}"


def open_tasks(run: Run) -> Iterator[str]:
    """The tasks of a run that are still open, without the run's own."""
    for task, piece in run.pieces.items():
        if task != run.id and piece.is_open:
            yield task


def trouble(run: Run, name: str) -> str:
    """What went wrong with a node, in words."""
    piece = run.piece_of(name)
    return run.nobody.get(name) or (piece.trouble or piece.ended if piece else "") or "no reason is known"
