"""Refusals: what the append answers where it refuses, as typed conflicts that say what would be legal.

Pure; called by the append, which asks the server and sorts its answers.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

from taskbus.errors import Conflict, Fenced, LifecycleConflict, Moved, ServerFault, TaskbusError
from taskbus.lifecycle import State, Task, event_of, legal

if TYPE_CHECKING:
    from collections.abc import Sequence

    from taskbus.append import Settlement, Submission, Unparking

_ENDED = "The task has ended; delegate a new one."
_HELD = " Wait for the worker, or let the delegator cancel the task."


def refusal(submission: Submission, reply: Sequence[bytes]) -> TaskbusError:
    """Why an envelope was refused, from the kind of it and what its task is."""
    kind, state, delegator, assignee, coordinator, _, _, consumer = (part.decode() for part in reply)
    envelope = submission.document.envelope
    task = Task(cast("State", state), delegator, assignee, coordinator)
    if kind == "moved":
        return Moved(
            f"Task {envelope.task} has changed since it was looked at: it is {state}.",
            task=envelope.task,
            envelope=envelope.id,
        )
    if kind == "fenced":
        return Fenced(
            f"Token {submission.token} is not the newest of task {envelope.task}: "
            f"the task is {state}, and {task.holder} holds it.",
            task=envelope.task,
            envelope=envelope.id,
        )
    addressees = {"question": f"the delegator, {delegator}, or @human", "delegation": "an agent"}
    addressee = addressees.get(envelope.type, f"the assignee, {assignee}")
    what = {
        "lifecycle": f"{envelope.sender} may not send {article(event_of(envelope).replace(':', ' '))}",
        "held": f"the worker {consumer} has the task under a lease",
        "recipient": f"{article(envelope.type)} must be addressed to {addressee}, not {envelope.recipient}",
    }.get(kind)
    if what is None:
        return ServerFault(f"The append answered {kind!r}, which this version does not know.")
    return _conflict(kind, task, what, task_id=envelope.task, envelope_id=envelope.id)


def _conflict(reason: str, task: Task, what: str, *, task_id: str, envelope_id: str | None = None) -> LifecycleConflict:
    permitted = legal(task.state or None)
    choices = "; ".join(f"{name} by {' or '.join(roles)}" for name, roles in permitted)
    held = f" and held by {task.holder}" if permitted else ""
    stands = f"{task.state}{held} (delegator {task.delegator}, assignee {task.assignee})" if task.state else "not begun"
    return LifecycleConflict(
        f"Task {task_id} is {stands}: {what}.",
        reason=reason,
        state=task.state,
        holder=task.holder,
        legal=permitted,
        task=task_id,
        envelope=envelope_id,
        advice=(f"Legal now: {choices}." if choices else _ENDED) + (_HELD if reason == "held" else ""),
    )


def article(noun: str) -> str:
    """A noun with its article."""
    return f"{'an' if noun[0] in 'aeiou' else 'a'} {noun}"


def immovable(move: Settlement | Unparking, refused: list[str]) -> Conflict:
    """Why the delivery of a unit could not be settled, replayed or dropped."""
    kind, state, delegator, assignee, coordinator, newest, _, consumer = refused
    task = Task(cast("State", state), delegator, assignee, coordinator)
    if kind == "open":
        return _conflict("open", task, "its work cannot be settled without an outcome", task_id=move.task)
    if kind == "moved":
        return Moved(
            f"What is parked of task {move.task} for {move.agent} has changed meanwhile.",
            task=move.task,
            advice="Look again: `bus parked ls` shows what is parked now.",
        )
    if newest == "-":
        return Fenced(f"The delivery to {move.agent} was settled by somebody else.", task=move.task)
    return Fenced(
        f"The delivery to {move.agent} was taken again: token {newest} of {consumer} is newer.", task=move.task
    )
