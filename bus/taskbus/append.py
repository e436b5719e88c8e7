"""The append: what goes to the server-side step, and what its answers mean.

`scripts/append.lua` is the only write path to log, inboxes and tasks. This module generates its tables from the
lifecycle, packs envelopes and settlements into its arguments, and turns refusals into typed conflicts.
"""

from __future__ import annotations

from functools import cache
from importlib import resources
from typing import TYPE_CHECKING, cast

from msgspec import Struct

from taskbus import codec
from taskbus.connection import Script
from taskbus.envelope import MAX_BYTES, Delegation
from taskbus.errors import (
    DuplicateID,
    Fenced,
    InvalidEnvelope,
    LifecycleConflict,
    NotFound,
    Problem,
    ServerFault,
    Skipped,
)
from taskbus.lifecycle import TABLE, TO_ASSIGNEE, WORK, State, Task, event_of, legal
from taskbus.position import Position

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from taskbus.codec import Document
    from taskbus.connection import Connection
    from taskbus.errors import TaskbusError
    from taskbus.keys import Keys

_ENDED = "The task has ended; delegate a new one."
# The record of a task, word by word.
_WORDS = (
    *("state", "delegator", "assignee", "coordinator", "attempt", "review", "token", "lease", "root", "delivery"),
    *("consumer", "parent", "deadline", "cause"),
)
_HELD = " Wait for the worker, or let the delegator cancel the task."
_FORMS = {codec.JSON: "json", codec.XML: "xml"}


class Appended(Struct, frozen=True):
    """Where an envelope stands in the log. `repeated`: it stood there already, and nothing was written."""

    position: Position
    repeated: bool = False


class Submission(Struct, frozen=True):
    """A document on its way to the log, with the fencing token of the delivery that it is the outcome of.

    Raises InvalidEnvelope for one that could not be appended: the script takes words apart at spaces, so a document
    that nobody read, and nobody checked, ends here.
    """

    document: Document
    token: int | None = None

    def __post_init__(self) -> None:
        document, envelope = self.document, self.document.envelope
        context = envelope.context
        words = (
            f"{envelope.id} {envelope.sender} {envelope.recipient} {context.task_id} {context.parent_task or '-'} "
            f"{context.correlation_id or '-'} {document.source_type or '-'}"
        )
        if len(words.split()) != 7 or document.content_type not in _FORMS or len(document.source or b"") > MAX_BYTES:
            raise _unfit(document)
        if context.deadline is not None and context.deadline < context.timestamp:
            found, expected = f"{context.deadline:%FT%TZ}", f"a time after the timestamp, {context.timestamp:%FT%TZ}"
            raise InvalidEnvelope([Problem("context.deadline", found, expected)])


class Settlement(Struct, frozen=True):
    """A delivery to be taken out of its agent's inbox in the same step; `delivery` is `priority/entry`."""

    agent: str
    delivery: str
    token: int
    consumer: str
    task: str


@cache
def script(name: str) -> Script:
    """A server-side script, with what the scripts share and the lifecycle's tables filled in."""
    folder = resources.files("taskbus") / "scripts"
    parts = {
        "--[[TASK]]\n": (folder / "task.lua").read_text(encoding="utf-8"),
        "--[[RULES]]": "".join(f"|{line}" for line in _rules()) + "|",
        "--[[WORK]]": "|" + "|".join(sorted(WORK)) + "|",
        "--[[TO_ASSIGNEE]]": "|" + "|".join(sorted(TO_ASSIGNEE)) + "|",
    }
    source = (folder / f"{name}.lua").read_text(encoding="utf-8")
    for mark, part in parts.items():
        source = source.replace(mark, part)
    return Script(source)


def task_of(record: str) -> Task:
    """Read the record of a task, as `scripts/task.lua` writes it."""
    word = dict(zip(_WORDS, record.split(" "), strict=True))
    return Task(
        cast("State", word["state"]),
        word["delegator"],
        word["assignee"],
        word["coordinator"],
        attempt=int(word["attempt"]),
        review=word["review"] == "1",
        token=int(word["token"]),
        lease=int(word["lease"]),
        root=word["root"],
        parent=_given(word["parent"]),
        consumer=_given(word["consumer"]),
        deadline=int(_given(word["deadline"]) or 0),
        cause=_given(word["cause"]),
    )


def _given(word: str) -> str | None:
    return None if word == "-" else word


def _rules() -> Iterator[str]:
    for (state, event), rule in TABLE.items():
        roles = " ".join(rule.roles)
        yield f"{state or ''} {event}>{rule.to} {rule.unreviewed or '-'} {int(rule.attempt)} {roles}"


async def append(
    connection: Connection,
    keys: Keys,
    submissions: Sequence[Submission],
    *,
    settlements: Sequence[Settlement] = (),
    atomic: bool = True,
) -> list[Appended | TaskbusError]:
    """Append all of `submissions`, and settle, in one atomic step; one answer for each, in order.

    With `atomic`, a refusal of one refuses all: nothing is written, and the others answer with a Conflict that
    says so. Without, each stands for itself. Repeating a call whose reply was lost changes nothing. Raises Fenced
    when a settlement's token is not that of the newest delivery, or somebody else has settled it, and Unavailable
    when the server cannot be used.
    """
    args: list[str | bytes | int] = [keys.prefix, "1" if atomic else "0", len(settlements)]
    for settlement in settlements:
        args += (settlement.agent, settlement.delivery, settlement.token, settlement.consumer, settlement.task)
    for submission in submissions:
        args += _arguments(submission)
    replies = cast("list[list[bytes]]", await connection.run(script("append"), (keys.log, keys.index, keys.meta), args))
    if settlements and replies:
        _check_settlements(replies[0], settlements)
    return [_answer(submission, reply, keys.shard) for submission, reply in zip(submissions, replies, strict=True)]


def _arguments(submission: Submission) -> tuple[str | bytes | int, ...]:
    document, token = submission.document, submission.token
    envelope = document.envelope
    context, payload = envelope.context, envelope.payload
    deadline = int(context.deadline.timestamp() * 1000) if context.deadline else "-"
    review = 0 if isinstance(payload, Delegation) and not payload.review_required else 1
    seldom = (
        f"{context.parent_task or '-'} {context.correlation_id or '-'} {envelope.priority} {deadline} {review} "
        f"{_FORMS[document.content_type]} {document.source_type or '-'}"
    )
    return (
        envelope.id,
        event_of(envelope),
        envelope.sender,
        envelope.recipient,
        context.task_id,
        "" if token is None else token,
        seldom,
        document.body,
        document.source or b"",
    )


def _unfit(document: Document) -> InvalidEnvelope:
    forms = " or ".join(_FORMS)
    if document.content_type not in _FORMS:
        return InvalidEnvelope([Problem("content type", repr(document.content_type), forms)])
    if len(document.source or b"") > MAX_BYTES:
        return InvalidEnvelope([Problem("source", f"{len(document.source or b'')} bytes", f"at most {MAX_BYTES}")])
    if len((document.source_type or "-").split()) != 1:
        return InvalidEnvelope([Problem("source type", repr(document.source_type), "a media type without spaces")])
    return InvalidEnvelope([Problem("header", "a name or ID with spaces in it", "a document that codec.read gave")])


def _answer(submission: Submission, reply: list[bytes], shard: int) -> Appended | TaskbusError:
    kind = reply[0]
    if kind in (b"appended", b"repeated"):
        return Appended(Position.of(reply[1], shard), repeated=kind == b"repeated")
    envelope = submission.document.envelope
    if kind == b"other":
        where = reply[1].decode()
        at = f"at {where}" if where else "in the same call"
        return DuplicateID(
            f"The ID {envelope.id} stands already {at}, with other content.",
            envelope=envelope.id,
            task=envelope.task,
            position=where or None,
        )
    if kind == b"skipped":
        return skipped(submission)
    if kind == b"unknown":
        return NotFound(
            f"There is no task {envelope.task} on this bus, so {_a(envelope.type)} cannot be about it.",
            task=envelope.task,
            envelope=envelope.id,
            advice="Begin it with a delegation, or check the task ID and the namespace.",
        )
    return _refusal(submission, reply)


def skipped(submission: Submission) -> Skipped:
    """What a good envelope answers when its call is all or nothing, and another one was refused."""
    envelope = submission.document.envelope
    return Skipped(envelope=envelope.id, task=envelope.task)


def _refusal(submission: Submission, reply: list[bytes]) -> TaskbusError:
    kind, state, delegator, assignee, coordinator, _, _, consumer = (part.decode() for part in reply)
    envelope = submission.document.envelope
    task = Task(cast("State", state), delegator, assignee, coordinator)
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
        "lifecycle": f"{envelope.sender} may not send {_a(event_of(envelope).replace(':', ' '))}",
        "held": f"the worker {consumer} has the task under a lease",
        "recipient": f"{_a(envelope.type)} must be addressed to {addressee}, not {envelope.recipient}",
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


def _a(noun: str) -> str:
    return f"{'an' if noun[0] in 'aeiou' else 'a'} {noun}"


def _check_settlements(reply: list[bytes], settlements: Sequence[Settlement]) -> None:
    kind, state, delegator, assignee, coordinator, newest, _, consumer = (
        [part.decode() for part in reply] if len(reply) == 8 else [""] * 8
    )
    if kind == "open":
        task = Task(cast("State", state), delegator, assignee, coordinator)
        found = next(s.task for s in settlements if s.agent == assignee)
        raise _conflict("open", task, "its work cannot be settled without an outcome", task_id=found)
    if kind == "fenced" and not state:
        if newest == "-":
            raise Fenced(f"The delivery to {assignee} was settled by somebody else.")
        raise Fenced(f"The delivery to {assignee} was taken again: token {newest} of {consumer} is newer.")
