"""The messages of a run: each move as the envelope that makes it, with an ID that follows from the run.

Whoever makes the same move writes the same ID, so that it stands in the log once, however many runners there are.
Called by the runner; appends nothing.
"""

from __future__ import annotations

import json
from datetime import timedelta
from typing import TYPE_CHECKING, Final

from taskbus.envelope import (
    Answer,
    Artifact,
    Cancellation,
    CriterionResult,
    Delegation,
    Payload,
    Verdict,
    compose,
    now,
)
from taskbus.validation import hashed_id
from taskbus_agents.plans import report

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from taskbus.envelope import AnyEnvelope
    from taskbus.payload import Route
    from taskbus_agents.plans.model import Node, Plan
    from taskbus_agents.plans.moves import Move
    from taskbus_agents.plans.run import Run

TASK_TYPE: Final = "plan"
"""The type of the task that a run is."""
ASK: Final = "ask"
CHECK: Final = "check"
"""The actions of what a run delegates to itself: to put a question to a person, and to run a command."""
_TOLD: Final = 4000
_MOST_TOLD: Final = 60_000
_MOST_ARTIFACTS: Final = 200
_MOST_ASKED: Final = 100_000


def run_id(run: str) -> str:
    """The ID of the envelope that a run begins with: known from its name alone, so that whoever looks finds it."""
    return hashed_id(0, f"plan {run}".encode())


def begin(plan: Plan, run: str, *, file: Path, sender: str) -> AnyEnvelope:
    """The delegation of a run. Its document goes beside it, as what it was made from."""
    return compose(
        Delegation(
            goal=plan.goal,
            task_type=TASK_TYPE,
            constraints=(f"The plan {plan.name}, as it stands in the document that this was made from",),
            artifacts=(
                Artifact(path=str(file), sha256=plan.digest, size=len(plan.source), media_type=plan.media_type),
            ),
            review_required=False,
        ),
        sender=sender,
        recipient=plan.agent,
        task=run,
        deadline=now() + timedelta(seconds=plan.deadline) if plan.deadline else None,
        id=run_id(run),
    )


class Messages:
    """Writes the envelopes of one run. `root` is the root of the tree that the run belongs to."""

    def __init__(self, run: Run, order: AnyEnvelope, root: str, folder: Path) -> None:
        self._run = run
        self._order = order
        self._root = root
        self._folder = folder

    def of(self, move: Move, agent: str | None = None, route: Route | None = None) -> AnyEnvelope:
        """A move as an envelope; a step's delegation goes to `agent`, chosen by `route` where the plan names none."""
        node = move.node
        is_step = node is not None and node.kind == "step" and move.what in ("begin", "again")
        if is_step and node is not None:
            return self._delegation(move, self._step(node, route), agent)
        if move.what in ("begin", "again", "check", "judge", "review", "ask"):
            return self._delegation(move, self._own(move))
        payloads: dict[str, Callable[[], Payload]] = {
            "tell": lambda: Answer(answer=report.shortened(move.text, _MOST_ASKED)),
            "accept": lambda: self._verdict(move),
            "reject": lambda: self._verdict(move),
        }
        return self._said(move, payloads.get(move.what, lambda: Cancellation(reason=move.text))())

    def _own(self, move: Move) -> Delegation:
        """What the run delegates to itself: to run a command, or to put a question to a person."""
        node, name = move.node, move.node.name if move.node is not None else ""
        if node is None:
            return _checking("The report of the whole run", "", self._folder)
        if move.what == "check" or node.kind == "check":
            command = node.check if move.what == "check" else node.command
            return _checking(node.title, command or "", self._folder)
        question = node.question
        if move.what == "review":
            question = f"Is this result of {self._run.id}, step {name}, good?\n\n{self._result(node)}"
        elif move.what == "ask":
            question = f"{name} of {self._run.id} asks: {report.shortened(move.text, _MOST_ASKED)}"
        return Delegation(action=ASK, goal=question, review_required=False)

    def _delegation(self, move: Move, payload: Delegation, recipient: str | None = None) -> AnyEnvelope:
        run, node = self._run, move.node
        # A command is ended by whoever runs it; what waits for somebody is watched by the bus.
        is_watched = node is not None and move.what in ("begin", "again") and node.kind in ("step", "approval")
        seconds = node.timeout if node is not None and is_watched else None
        known = run.pieces.get(move.task)
        cause = known.cause.envelope if known is not None else self._newest(node)
        return compose(
            payload,
            sender=run.agent,
            recipient=recipient or run.agent,
            task=move.task,
            parent=run.id,
            root=self._root,
            priority=node.priority if node is not None else "normal",
            cause=cause,
            deadline=now() + timedelta(seconds=seconds) if seconds else None,
            id=self._id(move.task, "delegation", move.attempt),
        )

    def _said(self, move: Move, payload: Payload) -> AnyEnvelope:
        """What is said to whoever has a task, because of what brought it into its state."""
        piece = self._run.pieces[move.task]
        return compose(
            payload,
            sender=self._run.agent,
            recipient=piece.task.assignee,
            task=move.task,
            root=self._root,
            cause=piece.cause.envelope,
            id=self._id(move.task, payload.TYPE, piece.cause.id),
        )

    def _id(self, task: str, *what: object) -> str:
        begun = self._run.pieces[self._run.id].begun
        return hashed_id(int(begun.timestamp() * 1000), " ".join(map(str, ("plan", task, *what))).encode())

    def _newest(self, node: Node | None) -> AnyEnvelope:
        """What a node begins because of: the last thing that happened before it."""
        run = self._run
        before = [piece for name in (node.after if node else ()) for piece in report.behind(run, name)]
        newest = max((piece.cause for piece in before), key=lambda entry: entry.position, default=None)
        return newest.envelope if newest is not None else self._order

    def _step(self, node: Node, route: Route | None) -> Delegation:
        run, piece = self._run, self._run.piece_of(node.name)
        told, artifacts = _inputs(run, node)
        goal = (
            node.goal if not told else f"{node.goal}\n\nResults of the steps before, as their agents told them:\n{told}"
        )
        constraints = list(node.constraints)
        if node.use:
            constraints.append(node.use)
        if piece is not None and piece.trouble:
            constraints.append(f"It was tried before, and that failed: {piece.trouble[:_TOLD]}")
        if hint := run.hints.get(node.name):
            constraints.append(f"A person says: {hint[:_TOLD]}")
        artifacts = [*(Artifact(path=path) for path in node.artifacts), *artifacts]
        return Delegation(
            goal=goal,
            task_type=node.task_type,
            constraints=tuple(dict.fromkeys(constraints)),
            artifacts=report.fitting(artifacts, _MOST_ARTIFACTS),
            acceptance_criteria=node.criteria,
            review_required=node.review or node.check is not None,
            paid_model_justification=node.justification,
            route=route,
        )

    def _verdict(self, move: Move) -> Verdict:
        run, node = self._run, move.node
        results: list[CriterionResult] = []
        for task, piece in run.aside(node.name) if node is not None else ():
            if piece.completion is not None and task.endswith(f"-{run.pieces[move.task].task.attempt}"):
                what = f"$ {node.check}" if node is not None and ":check-" in task else "review by a person"
                met = piece.completion.result.status != "failure"
                evidence = piece.completion.verification_result or piece.completion.result.description
                results.append(CriterionResult(criterion=what, met=met, evidence=evidence))
        decision = "accepted" if move.what == "accept" else "rejected"
        return Verdict(decision=decision, criteria=tuple(results), comment=move.text or None)

    def _result(self, node: Node | None) -> str:
        piece = self._run.piece_of(node.name) if node is not None else None
        completion = piece.completion if piece is not None else None
        if completion is None:
            return ""
        files = "\n".join(f"- {each.path}" for each in completion.result.artifacts)
        return "\n\n".join(part for part in (completion.result.description or "", files) if part)[:_TOLD]


def _checking(title: str, command: str, folder: Path) -> Delegation:
    return Delegation(
        action=CHECK,
        goal=title,
        acceptance_criteria=(f"$ {command}",) if command else (),
        artifacts=(Artifact(path=str(folder)),),
        review_required=False,
    )


def _inputs(run: Run, node: Node) -> tuple[str, Sequence[Artifact]]:
    """What the steps right before a node came to: told line by line, each quoted, and their artifacts."""
    lines: list[str] = []
    artifacts: list[Artifact] = []
    left = _MOST_TOLD
    for name in report.steps_before(run, node):
        piece = run.piece_of(name)
        completion = piece.completion if piece is not None else None
        if run.settled.get(name) == "skipped":
            said = "skipped, because it failed"
        elif completion is not None:
            said = json.dumps((completion.result.description or "done")[: min(_TOLD, left)], ensure_ascii=False)
            artifacts += completion.result.artifacts
        else:
            continue
        left = max(0, left - len(said))
        lines.append(f"- {name}: {said}")
    return "\n".join(lines), artifacts
