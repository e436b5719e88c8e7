"""The runner: the handler of a run, from its delegation to its report.

It folds the run from the log, makes whatever is due, and waits for the next envelope. Each of its steps is one append
together with a status of the run under its fencing token, so that a runner whose lease is lost can begin nothing; a
second one that takes over goes on from the same envelopes. Called by the worker of the plan's agent.
"""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING, Final

import anyio

from taskbus import parked
from taskbus.append import Appended, Submission, Unit, commit
from taskbus.codec import document
from taskbus.envelope import Answer, Artifact, Completion, ErrorDetails, Escalation, Result, Status
from taskbus.errors import (
    Conflict,
    DuplicateID,
    Fenced,
    InvalidEnvelope,
    Moved,
    NotFound,
    Permanent,
    Skipped,
    TimedOut,
    Unavailable,
)
from taskbus.position import START
from taskbus.work import Outcome
from taskbus_agents.plans import moves, report
from taskbus_agents.plans.choosing import absent
from taskbus_agents.plans.following import Following
from taskbus_agents.plans.messages import Messages
from taskbus_agents.plans.run import NOBODY

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from taskbus.client import Bus
    from taskbus.envelope import AnyEnvelope
    from taskbus.errors import TaskbusError
    from taskbus.log import Entry
    from taskbus.position import Position
    from taskbus.work import Work
    from taskbus_agents.plans.choosing import Chooser, Chosen
    from taskbus_agents.plans.model import Node, Plan
    from taskbus_agents.plans.moves import Due, Move
    from taskbus_agents.plans.run import Run

_BATCH: Final = 50
"""At most so many moves are one append."""
_LOOK: Final = 5.0
"""Seconds after which it is looked again whether somebody is there for a step that waits for an agent."""
_PAUSE: Final = 0.2
_TOLD: Final = 2000
_SAID: Final = 1200
_REFUSALS: Final = 20
_ANSWER: Final = 300
_GO_ON: Final = '"go on" (or "stop")'
_VERBS: Final = {
    "begin": "begins {}",
    "again": "tries {} again",
    "check": "checks {}",
    "review": "asks for a review of {}",
    "ask": "passes on a question of {}",
    "tell": "answers {}",
    "accept": "accepts {}",
    "reject": "rejects {}",
    "cancel": "cancels {}",
    "judge": "checks the report",
}


class PlanRunner:
    """Carries out one run. `folder` is where its commands run; `on_incident` is told of what is odd."""

    def __init__(
        self,
        bus: Bus,
        plan: Plan,
        order: Entry,
        *,
        folder: Path,
        chooser: Chooser,
        on_incident: Callable[[str], None],
    ) -> None:
        self._bus = bus
        self._plan = plan
        self._order = order
        self._folder = folder
        self._chooser = chooser
        self._report = on_incident
        self._told: set[str] = set()

    async def carry_out(self, work: Work) -> Outcome:
        """Carry the run out to its end, or until somebody has to decide.

        Cancelling it changes nothing: whoever takes the run over goes on. Raises Fenced when that has happened, and
        Permanent where a task of the run is somebody else's.
        """
        await work.acknowledged()
        following = Following(self._bus, self._plan, self._order)
        messages = Messages(following.run, self._order.envelope, self._order.root, self._folder)
        async with following.kept_up():
            return await self._work(work, following, messages)

    async def _work(self, work: Work, following: Following, messages: Messages) -> Outcome:
        run, refusals = following.run, 0
        # What stands in the log by now was seen by whoever had the run before: nothing is decided before it is known.
        await following.reached(max(await self._end(), work.delivery.entry.position))
        while True:
            changes = run.changes
            found = moves.due(run)
            if found.end is not None:
                return _outcome(run, found)
            if not found.moves:
                await following.change(changes)
                continue
            made, envelopes, waits = await self._envelopes(run, found.moves[:_BATCH], messages, work)
            if not envelopes:
                await following.change(changes, within=_LOOK if waits else None)
                continue
            position, refused = await self._append(work, run, made, envelopes)
            if refused is None:
                refusals = 0
                await following.reached(position)
                continue
            refusals += 1
            await self._refused(run, refused, refusals)
            await following.reached(await self._end())
            await following.change(changes, within=_PAUSE)

    async def _end(self) -> Position:
        while True:
            try:
                return await self._bus.log.end()
            except (Unavailable, TimedOut):  # the worker says so
                await anyio.sleep(_PAUSE)

    async def _envelopes(
        self, run: Run, due: Sequence[Move], messages: Messages, work: Work
    ) -> tuple[list[Move], list[AnyEnvelope], bool]:
        """The moves that can be made, up to the first that the policy routes, as envelopes, those that say that nobody
        can among them; and whether some wait for an agent.
        """
        made: list[Move] = []
        found: list[AnyEnvelope] = []
        waits = False
        for move in due:
            node, chosen, said = move.node, None, ""
            if node is not None and node.kind == "step" and move.what in ("begin", "again"):
                chosen, said = await self._chosen(run, node, move)
            if chosen is None or chosen.agent is not None or node is None:
                if move.what == "again":
                    await self._unpark(run, move)
                made.append(move)
                agent, route = (chosen.agent, chosen.route) if chosen is not None else (None, None)
                found.append(messages.of(move, agent, route))
                if route is not None:
                    break  # whoever is chosen next has to be seen with this one in hand
            elif chosen.waits:
                waits = True
                self._tell(f"{node.name} waits for an agent: {chosen.why}")
            else:
                nobody = Status(action=f"{NOBODY}:{node.name}", progress=f"{said}: {chosen.why}"[:_TOLD])
                found.append(work.reply(Outcome(nobody)))
        return made, found, waits

    async def _chosen(self, run: Run, node: Node, move: Move) -> tuple[Chosen, str]:
        """Who gets a step, and what is said where nobody does."""
        piece = run.piece_of(node.name)
        if piece is None or move.what == "begin":
            return await self._chooser.choose(node, (), self._order.root), f"Nobody gets {node.name}"
        chosen = await self._chooser.again(node, piece, self._order.root, is_try=run.may_try_again(node, piece))
        return chosen, f"{piece.trouble[:_SAID]}; nobody gets it again"

    async def _unpark(self, run: Run, move: Move) -> None:
        """Give up what was set aside of a task that is tried again: the new delegation would wait behind it."""
        piece = run.pieces.get(move.task)
        if piece is not None and await parked.count(self._bus, piece.task.assignee, move.task):
            with suppress(NotFound, Moved):  # somebody else has dealt with it
                await parked.drop(self._bus, piece.task.assignee, move.task, sender=run.agent)

    async def _append(
        self, work: Work, run: Run, due: Sequence[Move], envelopes: list[AnyEnvelope]
    ) -> tuple[Position, TaskbusError | None]:
        """Append moves in one step with a status of the run; returns where they end, or why they were refused."""
        status = work.reply(Outcome(Status(progress=await self._progress(due, envelopes), fraction=_fraction(run))))
        token = work.delivery.token
        try:
            documents = [document(each) for each in (status, *envelopes)]
        except InvalidEnvelope as error:
            raise Permanent(f"A step cannot be delegated: {error.message[:_TOLD]}") from error
        unit = Unit(tuple(Submission(each, token if each.envelope.task == run.id else None) for each in documents))
        while True:
            try:
                answers = (await commit(self._bus.connection, self._bus.keys, [unit]))[0]
                break
            except (Unavailable, TimedOut):  # repeated, it changes nothing; the worker says so
                await anyio.sleep(_PAUSE)
        if not isinstance(answers, list):
            return START, answers
        refused = [each for each in answers if not isinstance(each, Appended)]
        if refused:
            return START, min(refused, key=lambda each: isinstance(each, Skipped))
        return max(each.position for each in answers if isinstance(each, Appended)), None

    async def _progress(self, due: Sequence[Move], envelopes: Sequence[AnyEnvelope]) -> str:
        """What is done in this append, in words."""
        said: dict[str, list[str]] = {}
        for move in due:
            said.setdefault(_VERBS[move.what], []).append(move.node.name if move.node is not None else move.task)
        text = "; ".join(verb.format(", ".join(names)) for verb, names in said.items()) or "somebody is missing"
        try:
            agents = {each.recipient for each in envelopes if each.type == "delegation"} - {self._plan.agent}
            gone = await absent(self._bus, agents) if agents else frozenset[str]()
        except (Unavailable, TimedOut):
            gone = frozenset[str]()  # it is told for people only, and the append that follows waits for the server
        for agent in sorted(gone):
            text += f"; no worker of {agent} is there"
            self._tell(f"No worker of {agent} is there: what it was given waits. `bus agent run {agent}` starts one.")
        return text[:4000]

    async def _refused(self, run: Run, error: TaskbusError, refusals: int) -> None:
        """What a refusal means: somebody else has the run, or a task was not as it seemed."""
        if error.task == run.id:
            if isinstance(error, (Fenced, NotFound)):
                raise error
            await anyio.sleep(_PAUSE)  # escalated or cancelled: the worker ends this handler
        elif isinstance(error, DuplicateID):
            pass  # another runner was here first: its envelope is in the log, and is applied before the next look
        elif isinstance(error, Conflict):
            task = await self._bus.task(error.task or run.id)
            if task.delegator != run.agent:
                raise Permanent(
                    f"Task {error.task} is in the way: {task.delegator} has delegated it, and it is no part of this "
                    f"run. End it, cancel this run, and begin another one."
                ) from error
        else:
            raise error
        if refusals >= _REFUSALS:
            raise error

    def _tell(self, incident: str) -> None:
        if incident not in self._told:
            self._told.add(incident)
            self._report(incident)


def _fraction(run: Run) -> float:
    return len(run.settled) / len(run.plan.nodes)


def _outcome(run: Run, found: Due) -> Outcome:
    """What the run ends with: its report, or what somebody has to decide."""
    if found.end == "escalate":
        return _to_decide(run, found.why)
    status = "failure" if found.end == "failure" else "partial" if found.end == "partial" else "success"
    artifacts: list[Artifact] = []
    for node in run.plan.steps:
        piece = run.piece_of(node.name)
        if piece is not None and piece.completion is not None and node.name in run.settled:
            artifacts += piece.completion.result.artifacts
    judged = run.pieces.get(moves.check_task(run))
    evidence = judged.completion.verification_result if judged is not None and judged.completion is not None else None
    result = Result(
        status=status,
        description=report.text(run, status, found.why),
        artifacts=report.fitting(artifacts, 1000),
    )
    if status != "failure":
        return Outcome(Completion(result=result, verification_result=evidence))
    details = ErrorDetails(level=2, category="execution", message=found.why[:8000])
    return Outcome(
        Completion(result=result, verification_result=evidence, termination_reason="stopped", error_details=details)
    )


def _to_decide(run: Run, why: str) -> Outcome:
    """What somebody has to decide, and how; an answer that was not clear goes back to whoever gave it."""
    retry = '"retry" (or "retry: what the agent is to know", "skip", "stop")'
    said = f"{why[:8000]}. " if why else ""
    said += f"Decide with: bus answer {run.id} {retry if run.failed else _GO_ON}"
    recipient = None
    if run.unclear is not None and isinstance(run.unclear.payload, Answer):
        recipient = run.unclear.sender
        answer = report.shortened(run.unclear.payload.answer, _ANSWER)
        said = f'The answer "{answer}" does not say clearly what is to be done, so nothing was begun. {said}'
    details = ErrorDetails(level=2, category="execution", message=said)
    return Outcome(Escalation(error_details=details), recipient=recipient)


async def end_open(bus: Bus, run: Run, messages: Messages) -> int:
    """Cancel what is still open of a run that was cancelled; returns how much. Repeating it changes nothing."""
    ended = 0
    for task in list(moves.open_tasks(run)):
        move = moves.Move("cancel", task, None, f"{moves.NOT_NEEDED}the run was cancelled.")
        try:
            await bus.publish(messages.of(move))
            ended += 1
        except (Conflict, NotFound):
            continue  # it has ended by itself meanwhile
    return ended
