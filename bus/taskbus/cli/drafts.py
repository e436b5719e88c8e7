"""Drafts: what a verb is to say, put together from its document and its flags, before the bus has been asked.

A document is a whole envelope, or the handoff shorthand where the verb has one. Flags fill what it lacks;
where the two disagree, that is a usage error, for nobody can tell which was meant. Nothing here speaks to a
server. Called by the verbs.
"""

from __future__ import annotations

import re
import sys
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, TypeAlias, TypeVar, cast

import msgspec
from msgspec import structs

from taskbus import codec, shorthand
from taskbus.cli.options import unreadable
from taskbus.cli.rendering import visible
from taskbus.codec import Document
from taskbus.envelope import Completion, Delegation, Payload, Priority, Usage
from taskbus.errors import InvalidEnvelope, NotFound, Problem, UsageError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from datetime import datetime

S = TypeVar("S", bound=msgspec.Struct)
T = TypeVar("T")

Nested: TypeAlias = "Mapping[str, tuple[type[msgspec.Struct], Mapping[str, Flag]]]"
"""For each part of a payload that has parts of its own: its type, and its flags by field."""
_DOCUMENT = re.compile(r"-|\S*/.*|\S+\.(?:json|xml)", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Source:
    """The bytes of a document, and where they came from, in words."""

    data: bytes
    name: str


@dataclass(frozen=True, slots=True)
class Words:
    """The arguments of a verb: a document, or the task, and a text."""

    task: str | None = None
    text: str | None = None
    document: Source | None = None


@dataclass(frozen=True, slots=True)
class Flag:
    """What an option says; None and empty mean that it was not given."""

    option: str
    value: object

    @property
    def given(self) -> bool:
        """Whether the option was given."""
        return self.value is not None and self.value != ()


@dataclass(frozen=True, slots=True)
class Draft:
    """What is to be said. What is None is for the bus to tell; `whole` is published as it stands."""

    payload: Payload
    sender: str | None = None
    recipient: str | None = None
    task: str | None = None
    parent: str | None = None
    priority: Priority = "normal"
    deadline: datetime | None = None
    usage: tuple[Usage, ...] = ()
    source: Source | None = None
    whole: Document | None = None


@dataclass(frozen=True, slots=True)
class Header:
    """What the flags say of everything but the payload, each with its option's name."""

    sender: Flag = field(default_factory=lambda: Flag("--as", None))
    recipient: Flag = field(default_factory=lambda: Flag("--to", None))
    task: Flag = field(default_factory=lambda: Flag("TASK", None))
    parent: Flag = field(default_factory=lambda: Flag("--parent", None))
    priority: Flag = field(default_factory=lambda: Flag("--priority", None))
    deadline: Flag = field(default_factory=lambda: Flag("--deadline", None))
    usage: Flag = field(default_factory=lambda: Flag("--provider", None))


def is_document(word: str) -> bool:
    """Whether an argument names a document: `-`, a path with a slash, or something.json, something.xml."""
    return _DOCUMENT.fullmatch(word) is not None


def sorted_out(words: Sequence[str], *, text: str | None = None, document_last: bool = False) -> Words:
    """Tell a verb's arguments apart: `TASK TEXT`, or a document in the place of the task.

    `text` names the text where the verb has one. With `document_last` a document may follow the task. Raises
    UsageError for arguments that are too many or too few.
    """
    if not words:
        advice = "Name the task, or give a document: a file, or - for stdin."
        raise UsageError("There is neither a task nor a document.", advice=advice)
    first, *rest = words
    if is_document(first):
        found = Words(document=opened(first))
    else:
        found = Words(task=_task(first))
        if document_last and rest:
            found = replace(found, document=opened(rest.pop(0)))
    if rest and text:
        found = replace(found, text=rest.pop(0))
    if rest:
        advice = 'Put a text of several words into quotes: "…".'
        raise UsageError(f"There is one argument too many: {rest[0]!r}.", advice=advice)
    if text and found.text is None and found.document is None:
        advice = f'Write it after the task, in quotes: {first} "…".'
        raise UsageError(f"The {text} is missing.", advice=advice)
    return found


def _task(word: str) -> str:
    from taskbus.cli.values import TASK

    return TASK.convert(word, None, None)


def opened(word: str) -> Source:
    """Read a document from a file or, for `-`, from stdin.

    Raises NotFound for a file that cannot be read, InvalidEnvelope for more bytes than a document may have;
    then the rest was not read.
    """
    if word == "-":
        return Source(codec.read_capped(sys.stdin.buffer, source="<stdin>"), "<stdin>")
    try:
        with Path(word).open("rb") as stream:
            name = visible(word)
            return Source(codec.read_capped(stream, source=name), name)
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        raise NotFound(f"{visible(word)} cannot be read: {reason}.", advice=unreadable(error)) from error


def combined(stated: T, flag: Flag, name: str, *, default: object = None) -> T:
    """What a document called `name` states and what a flag says. Raises UsageError where they disagree."""
    if not flag.given or flag.value == stated:
        return stated
    if stated == default or stated is None or stated == ():
        return cast("T", flag.value)
    raise UsageError(
        f"{flag.option} says {_shown(flag.value)}, but {name} says {_shown(stated)}.",
        advice=f"Leave {flag.option} out, or change the document.",
    )


def filled(part: S, name: str, flags: Mapping[str, Flag]) -> S:
    """A part of a document with what flags add to it. Raises UsageError where they disagree."""
    changes: dict[str, Any] = {}
    for each in structs.fields(part):
        if (flag := flags.get(each.name)) is not None:
            stated: object = getattr(part, each.name)
            changed = combined(stated, flag, name, default=each.default)
            if changed is not stated:
                changes[each.name] = changed
    return structs.replace(part, **changes) if changes else part


def built(kind: type[S], flags: Mapping[str, Flag]) -> S:
    """A part made of flags alone. Raises UsageError where one is missing without which it cannot be."""
    values: dict[str, Any] = {name: flag.value for name, flag in flags.items() if flag.given}
    for each in structs.fields(kind):
        if each.required and each.name not in values:
            option = flags[each.name].option if each.name in flags else each.name
            raise UsageError(f"{option} is missing.", advice="Give it as an option, or in a document.")
    return kind(**values)


def drafted(
    kind: type[Payload],
    flags: Mapping[str, Flag],
    header: Header,
    document: Source | None,
    nested: Nested = MappingProxyType({}),
) -> Draft:
    """Put a draft together. `flags` are those of the payload, `nested` those of its parts.

    Raises UsageError where flags and document disagree or something is missing, InvalidEnvelope for a bad
    document.
    """
    if document is None:
        parts = {name: Flag(name, built(part, inner)) for name, (part, inner) in nested.items()}
        return _headed(Draft(built(kind, {**flags, **parts})), header, "the command line")
    if kind in (Delegation, Completion) and shorthand.is_shorthand(document.data):
        draft = _from_shorthand(kind, document)
        payload = _filled_payload(draft.payload, document.name, flags, nested)
        return _headed(replace(draft, payload=payload), header, document.name)
    return _from_envelope(kind, flags, nested, header, document)


def in_short(data: bytes, source: str) -> InvalidEnvelope | None:
    """What to say of the handoff shorthand where only envelopes are taken; None for anything else."""
    kind = shorthand.kind(data)
    if kind is None:
        return None
    error = InvalidEnvelope([Problem("document", f"{_a(kind)} in the handoff shorthand", "an envelope")], source=source)
    command = "bus delegate FILE" if kind == "delegation" else "bus complete TASK FILE"
    error.advice = f"This is {_a(kind)} in the handoff shorthand: `{command}` takes it."
    return error


def _filled_payload(payload: Payload, name: str, flags: Mapping[str, Flag], nested: Nested) -> Payload:
    for part, (_, inner) in nested.items():
        stated: msgspec.Struct = getattr(payload, part)
        after = filled(stated, name, inner)
        if after is not stated:
            payload = structs.replace(payload, **cast("Any", {part: after}))
    return filled(payload, name, flags)


def _from_shorthand(kind: type[Payload], document: Source) -> Draft:
    if kind is Delegation:
        short = shorthand.read_delegation(document.data, source=document.name)
        return Draft(
            short.payload,
            recipient=short.recipient,
            parent=short.parent_task,
            priority=short.priority,
            deadline=short.deadline,
            source=document,
        )
    back = shorthand.read_completion(document.data, source=document.name)
    return Draft(back.payload, usage=back.usage, source=document)


def _headed(draft: Draft, header: Header, name: str) -> Draft:
    return replace(
        draft,
        sender=combined(draft.sender, header.sender, name),
        recipient=combined(draft.recipient, header.recipient, name),
        task=combined(draft.task, header.task, name),
        parent=combined(draft.parent, header.parent, name),
        priority=combined(draft.priority, header.priority, name, default="normal"),
        deadline=combined(draft.deadline, header.deadline, name),
        usage=combined(draft.usage, header.usage, name),
    )


def _from_envelope(
    kind: type[Payload],
    flags: Mapping[str, Flag],
    nested: Nested,
    header: Header,
    document: Source,
) -> Draft:
    read = codec.read(document.data, source=document.name)
    before, name = read.envelope, document.name
    if before.type != kind.TYPE:
        raise UsageError(
            f"{name} is {_a(before.type)}, and {_a(kind.TYPE)} is wanted here.",
            advice="`bus publish` takes envelopes of every type.",
        )
    after = filled(
        before,
        name,
        {
            "sender": header.sender,
            "recipient": header.recipient,
            "priority": header.priority,
            "usage": header.usage,
        },
    )
    context = filled(
        after.context,
        name,
        {"task_id": header.task, "parent_task": header.parent, "deadline": header.deadline},
    )
    payload = _filled_payload(after.payload, name, flags, nested)
    if context is not after.context or payload is not after.payload:
        after = structs.replace(after, context=context, payload=payload)
    whole = read
    if after is not before:
        whole = Document(after, codec.validated(after), codec.JSON, document.data, read.content_type)
    return Draft(
        after.payload,
        sender=after.sender,
        recipient=after.recipient,
        task=after.task,
        usage=after.usage,
        whole=whole,
    )


def _a(noun: str) -> str:
    return f"{'an' if noun[0] in 'aeiou' else 'a'} {noun}"


def _shown(value: object) -> str:
    text = str(msgspec.to_builtins(value))
    return repr(text if len(text) <= 60 else f"{text[:59]}…")
