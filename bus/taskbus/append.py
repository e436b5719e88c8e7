"""The append: what goes to the server-side step, and what its answers mean.

`scripts/append.lua` is the only write path to log, inboxes and tasks. This module generates its tables from the
lifecycle, packs envelopes and settlements into its arguments, and turns refusals into typed conflicts.
"""

from __future__ import annotations

import re
from functools import cache
from importlib import resources
from typing import TYPE_CHECKING, cast

from msgspec import Struct

from taskbus import codec
from taskbus.connection import Script
from taskbus.envelope import MAX_BYTES, Delegation
from taskbus.errors import (
    DuplicateID,
    InvalidEnvelope,
    NotFound,
    Problem,
    Skipped,
    TaskbusError,
    UsageError,
)
from taskbus.lifecycle import ENDED, TABLE, TO_ASSIGNEE, WORK, Task, event_of
from taskbus.position import Position
from taskbus.refusals import article, immovable, refusal

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from typing import Any, TypeAlias

    from taskbus.codec import Document
    from taskbus.connection import Connection
    from taskbus.envelope import Acknowledgment, AnyEnvelope
    from taskbus.keys import Keys
    from taskbus.money import Caps
    from taskbus.payload import FailureReason

    Answers: TypeAlias = "list[Appended | TaskbusError]"

# The record of a task, word by word.
_WORDS = (
    *("state", "assignee", "token", "delivery", "review", "lease", "consumer", "cause"),
    *("root", "parent", "deadline", "delegator", "coordinator", "attempt"),
)
_PLACES = re.compile(r"^-- Places: (.+(?:\n-- and on: .+)*)$", re.MULTILINE)
_FORMS = {codec.JSON: "json", codec.XML: "xml"}


class Appended(Struct, frozen=True, gc=False):
    """Where an envelope stands in the log. `repeated`: it stood there already, and nothing was written."""

    position: Position
    repeated: bool = False


class Submission(Struct, frozen=True, gc=False):
    """A document on its way to the log, with the fencing token of the delivery that it is the outcome of.

    With `known`, the record of its task as it was read, it is refused when the task has changed since. `caps` are those
    of a policy, in microdollars by account and period: they hold for what it reserves, where none is recorded.

    Raises InvalidEnvelope for one that could not be appended: the script takes words apart at spaces, so a document
    that nobody read, and nobody checked, ends here.
    """

    document: Document
    token: int | None = None
    known: str | None = None
    caps: Caps | None = None

    def __post_init__(self) -> None:
        document, envelope = self.document, self.document.envelope
        context = envelope.context
        if not (isinstance(document, codec.Checked) and document.is_as_checked):
            words = (
                f"{envelope.id} {envelope.sender} {envelope.recipient} {context.task_id} {context.parent_task or '-'} "
                f"{context.correlation_id or '-'} {document.source_type or '-'}"
            )
            sized = len(document.source or b"") <= MAX_BYTES
            if len(words.split()) != 7 or document.content_type not in _FORMS or not sized:
                raise _unfit(document)
        if context.deadline is not None and context.deadline < context.timestamp:
            found, expected = f"{context.deadline:%FT%TZ}", f"a time after the timestamp, {context.timestamp:%FT%TZ}"
            raise InvalidEnvelope([Problem("context.deadline", found, expected)])


class Settlement(Struct, frozen=True, gc=False):
    """A delivery that is taken out of its agent's inbox in the same step; `delivery` is `priority/entry`.

    With a `reason` it is parked for that.
    """

    agent: str
    delivery: str
    token: int
    consumer: str
    task: str
    reason: FailureReason | None = None

    def words(self, count: int) -> tuple[str | int, ...]:
        """What the script is told of a unit with so many envelopes."""
        priority, _, entry = self.delivery.partition("/")
        what = "park" if self.reason else "settle"
        head = f"{count} {what} {self.agent} {self.consumer} {priority}"
        return f"{head} {self.reason}" if self.reason else head, entry, self.token, self.task


class Unparking(Struct, frozen=True, gc=False):
    """Parked deliveries of a task, by their positions, that are delivered again in the same step, or dropped."""

    agent: str
    task: str
    positions: tuple[str, ...]
    replayed: bool

    def words(self, count: int) -> tuple[str | int, ...]:
        """What the script is told of a unit with so many envelopes."""
        return f"{count} {'replay' if self.replayed else 'drop'} {self.agent}", self.task, ",".join(self.positions)


class Unit(Struct, frozen=True, gc=False):
    """What is one step by itself: some envelopes, and what becomes of a delivery with them."""

    submissions: tuple[Submission, ...]
    move: Settlement | Unparking | None = None


@cache
def script(name: str) -> Script:
    """A server-side script, with what the scripts share and the lifecycle's tables filled in.

    Where it declares `-- Places: A B`, and perhaps `-- and on: C` in the next line, `[A]` stands for the first place of
    a list, `[B]` for the second: what has places is made in half the time of what has names.
    """
    folder = resources.files("taskbus") / "scripts"

    def text(part: str) -> str:
        return (folder / f"{part}.lua").read_text(encoding="utf-8")

    parts = {
        "--[[TASK]]\n": "--[[CLOCK]]\n--[[RECORD]]\n",
        **{f"--[[{part.upper()}]]\n": text(part) for part in ("clock", "record", "units", "inbox", "group", "money")},
        "--[[ENDED]]": "|" + "|".join(sorted(ENDED)) + "|",
        "--[[RULES]]": "".join(f"|{line}" for line in _rules()) + "|",
        "--[[WORK]]": "|" + "|".join(sorted(WORK)) + "|",
        "--[[TO_ASSIGNEE]]": "|" + "|".join(sorted(TO_ASSIGNEE)) + "|",
    }
    source = text(name)
    for mark, part in parts.items():
        source = source.replace(mark, part)
    for names in _PLACES.findall(source):
        for place, each in enumerate(names.replace("\n-- and on:", "").split(), 1):
            source = source.replace(f"[{each}]", f"[{place}]")
    return Script(source)


def task_of(name: str, record: str) -> Task:
    """Read the record of the task `name`, as `scripts/record.lua` writes it."""
    words: Any = record.split(" ")
    state, assignee, token, _, review, lease, consumer, cause, root, parent, *others = words
    deadline, delegator, coordinator, attempt = others
    return Task(
        state,
        delegator,
        assignee,
        coordinator,
        int(attempt),
        review == "1",
        int(token),
        int(lease),
        name if root == "." else root,
        None if parent == "-" else parent,
        None if consumer == "-" else consumer,
        0 if deadline == "-" else int(deadline),
        None if cause == "-" else cause,
    )


def word_of(record: str, name: str) -> str:
    """One word of a task's record."""
    return record.split(" ")[_WORDS.index(name)]


def _rules() -> Iterator[str]:
    for (state, event), rule in TABLE.items():
        roles = " ".join(rule.roles)
        ends = f"{int(rule.to in ENDED)} {int(rule.unreviewed in ENDED)}"
        yield f"{state or ''} {event}>{rule.to or '-'} {rule.unreviewed or '-'} {ends} {int(rule.attempt)} {roles}"


async def append(
    connection: Connection, keys: Keys, submissions: Sequence[Submission], *, atomic: bool = True
) -> Answers:
    """Append all of `submissions` in one step on the server; one answer for each, in order.

    With `atomic`, a refusal of one refuses all: nothing is written, and the others answer with a Conflict that says
    so. Without, each stands for itself. Repeating a call whose reply was lost changes nothing. Raises Unavailable
    when the server cannot be used.
    """
    units = [Unit(tuple(submissions))] if atomic else [Unit((each,)) for each in submissions]
    answers = cast("list[Answers]", await commit(connection, keys, units))
    return [answer for unit in answers for answer in unit]


async def commit(connection: Connection, keys: Keys, units: Sequence[Unit]) -> list[Answers | TaskbusError]:
    """Append, and settle, in one step on the server; each unit is all or nothing, and stands for itself.

    A unit answers with one answer for each of its submissions, in order; with a Conflict where its delivery is not
    what it says: taken again, settled by somebody else, or open work without an outcome. Of a unit that is refused
    nothing is written: those of its submissions that are good in themselves answer with Skipped. Repeating a call
    whose reply was lost changes nothing. Raises Unavailable when the server cannot be used.
    """
    args: list[str | bytes | int] = [keys.prefix]
    for unit in units:
        count = len(unit.submissions)
        token = None
        if unit.move is not None:
            args += unit.move.words(count)
            token = unit.move.token if isinstance(unit.move, Settlement) else None
        elif count != 1:
            args.append(str(count))
        for submission in unit.submissions:
            args += _arguments(submission, token)
    replies = cast(
        "list[bytes | list[Any]]", await connection.run(script("append"), (keys.log, keys.index, keys.meta), args)
    )
    return [_answers(unit, reply, keys.shard) for unit, reply in zip(units, replies, strict=True)]


def _answers(unit: Unit, reply: bytes | list[Any], shard: int) -> Answers | TaskbusError:
    if isinstance(reply, bytes):
        if len(unit.submissions) == 1:
            return [Appended(Position.of(reply, shard))]
        return [Appended(Position.of(position, shard)) for position in reply.split()]
    if reply and isinstance(reply[0], bytes):
        return immovable(cast("Settlement | Unparking", unit.move), [part.decode() for part in reply])
    return [_answer(each, answer, shard) for each, answer in zip(unit.submissions, reply, strict=True)]


def all_appended(answers: Answers | TaskbusError) -> list[Appended]:
    """The answers of a unit. Raises what it was refused for."""
    if isinstance(answers, TaskbusError):
        raise answers
    refused = [answer for answer in answers if not isinstance(answer, Appended)]
    if refused:
        raise min(refused, key=lambda error: isinstance(error, Skipped))
    return cast("list[Appended]", answers)


def _arguments(submission: Submission, moved: int | None = None) -> list[str | bytes | int]:
    """What the script is told of an envelope; `moved` is the token of the delivery that its unit settles or parks."""
    document, token, known = submission.document, submission.token, submission.known
    envelope = document.envelope
    context = envelope.context
    head = f"{event_of(envelope)} {envelope.sender} {envelope.recipient}"
    given = "=" if known is not None else "" if token is None else "d" if token == moved else "t"
    # Most envelopes say nothing of money: whether one does is looked at here, and what it says in its own module.
    pays = envelope.usage or envelope.type == "budget"
    pays = pays or (envelope.type == "acknowledgment" and cast("Acknowledgment", envelope.payload).hold)
    said = _money(envelope, submission.caps) if pays else ""
    if said:
        given = f"{given or '-'}$"
    priority, form, source = envelope.priority, _FORMS[document.content_type], document.source
    terms = "- - - 1"
    if envelope.type == "delegation":
        # What a task is part of, and what it is to be, is looked at where it is delegated, and nowhere else.
        parent, root = context.parent_task or "-", context.correlation_id or "-"
        if root == context.task_id and parent == "-":
            root = "-"
        deadline = int(context.deadline.timestamp() * 1000) if context.deadline else "-"
        terms = f"{parent} {root} {deadline} {int(cast('Delegation', envelope.payload).review_required)}"
    if priority != "normal" or form != "json" or source or terms != "- - - 1":
        origin = document.source_type or "-"
        head = f"{head} {given or '-'} {priority} {form} {int(bool(source))} {origin} {terms}"
    elif given:
        head = f"{head} {given}"
    args: list[str | bytes | int] = [head, envelope.id, context.task_id, document.body]
    if known is not None:
        args.append(known)
    elif given[:1] == "t":
        args.append(cast("int", token))
    if said:
        args.append(said)
    if source:
        args.append(source)
    return args


def _money(envelope: AnyEnvelope, caps: Caps | None) -> str:
    from taskbus.money import announced  # many a process never says anything of money

    return announced(envelope, caps)


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
    if kind in (b"budget", b"uncounted"):
        from taskbus.money import over

        return over(envelope, [part.decode() for part in reply])
    if kind == b"reserved":
        return UsageError(
            f"No task can be called {envelope.task}: caps are recorded under that name.",
            advice="Leave the task's ID out, and one is made; or use another one.",
        )
    if kind == b"unknown":
        return NotFound(
            f"There is no task {envelope.task} on this bus, so {article(envelope.type)} cannot be about it.",
            task=envelope.task,
            envelope=envelope.id,
            advice="Begin it with a delegation, or check the task ID and the namespace.",
        )
    return refusal(submission, reply)


def skipped(submission: Submission) -> Skipped:
    """What a good envelope answers when its call is all or nothing, and another one was refused."""
    envelope = submission.document.envelope
    return Skipped(envelope=envelope.id, task=envelope.task)
