"""A run: how far a plan is, folded from the envelopes of its tasks, and from nothing else.

Whoever folds the same part of the log gets the same run, so that a runner that takes over knows what the one before
it knew. Owns the names of a run's tasks. Pure; fed by runner, gatekeeper and whoever looks on.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, Literal, TypeAlias

from taskbus.envelope import (
    Acknowledgment,
    Answer,
    Cancellation,
    Completion,
    Delegation,
    Escalation,
    Question,
    Status,
    Verdict,
)
from taskbus.errors import InvalidEnvelope
from taskbus.lifecycle import DELIVERED, OPEN, Task, advance, message_of
from taskbus.position import START
from taskbus_agents.plans import answers, graph

if TYPE_CHECKING:
    from collections.abc import Iterator
    from datetime import datetime

    from taskbus.envelope import AnyEnvelope, Usage
    from taskbus.log import Entry
    from taskbus.position import Position
    from taskbus_agents.plans.model import Node, OnFailure, Plan

Phase: TypeAlias = Literal[
    "waiting", "open", "asking", "check", "review", "judging", "accept", "reject", "again", "failed", "done"
]
"""Of a node: not begun; somebody works on it; it needs an answer; its result is to be checked, to be reviewed, is
being judged, is to be accepted or rejected; it is to be tried again; it has failed for good; it is done."""
NOBODY: Final = "nobody"
"""The action of the status that says that nobody gets a step, or gets it again, before a colon and the step's name."""
_NO_TOKEN: Final = 1


@dataclass(slots=True)
class Piece:
    """One task of a run. `task` is as the lifecycle has it; `begun` and `since` are when it was first delegated, and
    when it came into its state; `cause` is the envelope that brought it there. `trouble` is what went wrong with it,
    `ended` why it was cancelled.
    """

    task: Task
    delegation: Entry
    cause: Entry
    begun: datetime
    since: datetime
    completion: Completion | None = None
    question: Question | None = None
    questions: int = 0
    progress: str = ""
    trouble: str = ""
    ended: str = ""
    rungs: list[str] = field(default_factory=list[str])
    usage: list[Usage] = field(default_factory=list["Usage"])

    @property
    def is_open(self) -> bool:
        """Whether it can still be cancelled."""
        return self.task.state in OPEN

    @property
    def is_routed(self) -> bool:
        """Whether the policy has chosen who has it."""
        payload = self.delegation.envelope.payload
        return isinstance(payload, Delegation) and payload.route is not None


class Run:
    """One run of a plan. `apply` each entry of the log, in order, from the run's delegation on.

    `pieces` are its tasks by their IDs, the run's own among them; `halted` is what a person said who stopped it while
    nothing had failed, `unclear` the last answer to the run where it is not clear what that means; `settled` says of
    each node that is over whether it is done or skipped; `active` are those that have begun and are not over, `ready`
    those that may begin; `failed` are those of the active ones that have failed for good, with what is to become of
    the run.
    """

    def __init__(self, plan: Plan, id: str) -> None:
        self.plan = plan
        self.id = id
        self.agent = plan.agent
        self.position: Position = START
        self.changes = 0
        self.pieces: dict[str, Piece] = {}
        self.settled: dict[str, Literal["done", "skipped"]] = {}
        self.active: set[str] = set()
        self.failed: dict[str, OnFailure] = {}
        self.nobody: dict[str, str] = {}
        self.hints: dict[str, str] = {}
        self.halted = ""
        self.unclear: AnyEnvelope | None = None
        self._decided: dict[str, OnFailure] = {}
        self._granted: dict[str, int] = {}
        self._generations: dict[str, int] = {}
        self._aside: dict[str, list[str]] = {}
        self._order = {name: at for at, name in enumerate(graph.levels(plan.nodes))}
        self._missing = {name: len(set(node.after)) for name, node in plan.nodes.items()}
        self._ready: set[tuple[int, str]] = set()
        for name in [each for each, count in self._missing.items() if count == 0]:
            self._may_begin(name)

    # What the log says.

    def apply(self, entry: Entry) -> bool:
        """Take in one entry. Returns whether it belongs to the run."""
        self.position = entry.position
        is_ours = entry.task == self.id or entry.task.startswith((f"{self.id}.", f"{self.id}:"))
        if not is_ours:
            return False
        try:
            envelope = entry.envelope
        except InvalidEnvelope:
            return False  # from a newer version: what it says is not known here, and the bus shows it
        self.changes += 1
        if (piece := self._advanced(entry, envelope)) is None:
            return False
        self._note(piece, envelope)
        if entry.task == self.id:
            self._decide(envelope)
        else:
            name, _, aside = entry.task[len(self.id) + 1 :].partition(":")
            if name in self.plan.nodes and name not in self.settled:
                self.active.add(name)
            if aside and entry.type == "delegation" and entry.task not in self._aside.setdefault(name, []):
                self._aside[name].append(entry.task)
        self.refresh()  # after each entry, so that what a run is depends on the log alone, and not on who looked when
        return True

    def _advanced(self, entry: Entry, envelope: AnyEnvelope) -> Piece | None:
        piece = self.pieces.get(entry.task)
        if piece is None and entry.task != self.id and entry.sender != self.agent:
            return None  # somebody else's, under a name of ours: where that is in the way, the server says so
        try:
            task = advance(piece.task if piece else None, message_of(envelope, _NO_TOKEN))
        except KeyError:
            return None  # not legal: of a task whose beginning stands before the run's own
        if task is None:
            return None
        at = entry.position.time
        if piece is None:
            piece = self.pieces[entry.task] = Piece(task, entry, entry, at, at)
        elif task.state != piece.task.state or entry.type == "delegation":
            piece.cause, piece.since = entry, at
        piece.task = task
        if entry.type == "delegation":
            piece.delegation, piece.trouble = entry, ""
            route = envelope.payload.route if isinstance(envelope.payload, Delegation) else None
            piece.rungs += [route.rung] if route is not None else []
        piece.usage += envelope.usage
        return piece

    def _note(self, piece: Piece, envelope: AnyEnvelope) -> None:
        payload = envelope.payload
        match payload:
            case Completion():
                piece.completion = payload
                error = payload.error_details
                said = error.message if error is not None else payload.result.description
                failed = payload.result.status == "failure"
                piece.trouble = (said or payload.termination_reason or "it failed") if failed else ""
            case Acknowledgment() if not payload.accepted:
                piece.trouble = f"{envelope.sender} declined: {payload.decline_reason or 'no reason given'}"
            case Escalation():
                piece.trouble = payload.error_details.message
            case Verdict() if payload.decision == "rejected":
                piece.trouble = payload.comment or "the result was rejected"
            case Cancellation():
                piece.ended = f"it was cancelled: {payload.reason}"
            case Question():
                piece.question, piece.questions = payload, piece.questions + 1
            case Status():
                piece.progress = payload.progress
                what, _, name = (payload.action or "").partition(":")
                if piece is self.root and what == NOBODY and name in self.plan.nodes:
                    self.nobody[name] = payload.progress
                    self.active.add(name)
            case _:
                pass

    def _decide(self, envelope: AnyEnvelope) -> None:
        """What people said to the run itself: to go on after it had failed, or what is to become of a failure."""
        payload = envelope.payload
        is_anew = isinstance(payload, Delegation) and self.root is not None and self.root.task.attempt > 1
        if not is_anew and not isinstance(payload, Answer):
            return
        self.refresh()
        self.halted, self.unclear = "", None
        if isinstance(payload, Answer):
            if self.failed:
                is_clear = answers.about("", payload.answer, self.plan.nodes)[0] != "unclear"
            else:
                goes = answers.goes_on(payload.answer, self.plan.nodes)
                self.halted, is_clear = payload.answer if goes is False else "", goes is not None
            if not is_clear:
                self.unclear = envelope
                return
        for name, on_failure in list(self.failed.items()):
            if isinstance(payload, Answer):
                if on_failure != "escalate":
                    continue
                chosen, hint = answers.about(name, payload.answer, self.plan.nodes)
                if chosen is None or chosen == "unclear":
                    continue
                if chosen != "retry":
                    self._decided[name] = chosen
                    continue
                if hint:
                    self.hints[name] = hint
            self._grant(name)

    def _grant(self, name: str) -> None:
        """Let a node that has failed be tried again, as often as at first."""
        self._decided.pop(name, None)
        piece = self.pieces.get(self.task_of(name))
        self.nobody.pop(name, None)
        self.failed.pop(name, None)
        if piece is not None and piece.task.state == "canceled":
            self._generations[name] = self._generations.get(name, 1) + 1
            piece = None
        if piece is None:
            self.active.discard(name)
            self._may_begin(name)
        else:
            self._granted[name] = piece.task.attempt

    # What follows from it.

    @property
    def root(self) -> Piece | None:
        """The run's own task."""
        return self.pieces.get(self.id)

    def task_of(self, name: str) -> str:
        """The task of a node; another one where the first was cancelled, since nothing leads out of that."""
        generation = self._generations.get(name, 1)
        return f"{self.id}.{name}" if generation == 1 else f"{self.id}.{name}:{generation}"

    def piece_of(self, name: str) -> Piece | None:
        """What is known of a node's task."""
        return self.pieces.get(self.task_of(name))

    def aside(self, name: str) -> Iterator[tuple[str, Piece]]:
        """The tasks beside a node's own: its checks, reviews and questions."""
        for task in self._aside.get(name, ()):
            if task != self.task_of(name):
                yield task, self.pieces[task]

    def phase(self, node: Node) -> Phase:
        """Where a node stands that is not settled."""
        piece = self.piece_of(node.name)
        if piece is None:
            return "failed" if node.name in self.nobody else "waiting"
        state = piece.task.state
        if state in DELIVERED:
            return "open"
        if state == "input-required":
            return "asking"
        if state == "accepted":
            return "done"
        if state == "completed":
            return self._judged(node, piece)
        may_go_on = state != "canceled" and node.name not in self.nobody
        # Whether a routed step climbs the policy says, and where not, the status of nobody does.
        return "again" if may_go_on and (self.may_try_again(node, piece) or piece.is_routed) else "failed"

    def _judged(self, node: Node, piece: Piece) -> Phase:
        judges: tuple[tuple[Phase, object], ...] = (("check", node.check), ("review", node.review))
        for judge, is_wanted in judges:
            if not is_wanted:
                continue
            by = self.pieces.get(f"{self.task_of(node.name)}:{judge}-{piece.task.attempt}")
            if by is None:
                return judge
            if by.task.state in DELIVERED or by.task.state in ("input-required", "completed"):
                return "judging"
            if by.task.state != "accepted":
                piece.trouble = by.trouble
                return "reject" if self.may_try_again(node, piece) else "failed"
        return "accept"

    def may_try_again(self, node: Node, piece: Piece) -> bool:
        """Whether a failed node has a try left."""
        return piece.task.attempt - self._granted.get(node.name, 0) <= node.retries

    def refresh(self) -> None:
        """Settle what is done, or skipped, and find what may begin after it."""
        self.failed = {}
        for name in sorted(self.active, key=self._order.__getitem__):
            node = self.plan.nodes[name]
            phase = self.phase(node)
            if phase == "done":
                self._settle(name, "done")
            elif phase == "failed":
                on_failure = self._decided.get(name, node.on_failure)
                if on_failure == "skip":
                    self._settle(name, "skipped")
                else:
                    self.failed[name] = on_failure

    def _settle(self, name: str, how: Literal["done", "skipped"]) -> None:
        over = [name]
        while over:
            name = over.pop()
            self.settled[name] = how
            self.active.discard(name)
            for each in self.plan.followers[name]:
                self._missing[each] -= 1
                if self._missing[each] == 0:
                    if self.plan.nodes[each].kind == "join":
                        over.append(each)
                    else:
                        self._may_begin(each)
            how = "done"

    def _may_begin(self, name: str) -> None:
        if self.plan.nodes[name].kind == "join":
            self._settle(name, "done")
        else:
            self._ready.add((self._order[name], name))

    @property
    def ready(self) -> Iterator[Node]:
        """What may begin, in an order that all agree on."""
        for _, name in sorted(self._ready):
            if name not in self.active and name not in self.settled:
                yield self.plan.nodes[name]

    def forget_begun(self) -> None:
        """Drop from what may begin whatever has begun."""
        self._ready = {each for each in self._ready if each[1] not in self.active and each[1] not in self.settled}

    @property
    def is_over(self) -> bool:
        """Whether every node is settled."""
        return len(self.settled) == len(self.plan.nodes)

    @property
    def state(self) -> str:
        """The state of the run's own task; `waiting` before it was delegated."""
        return self.root.task.state if self.root is not None else "waiting"
