"""Validation: from a plain document (dicts, lists, strings, numbers) to a checked struct, or to all its
problems.

Every reader ends here. A document that is right takes the short way through msgspec; for one that is not,
everything that is wrong is collected (`taskbus.findings`). Nothing is guessed, filled in or dropped.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from functools import cache
from hashlib import sha256
from typing import TYPE_CHECKING, Any, Final, TypeVar, cast

import msgspec
import uuid_utils
from msgspec import structs

from taskbus import shape
from taskbus.envelope import MAX_BYTES, NAME_PATTERN, PAYLOADS, TIME_PATTERN, AnyEnvelope, Envelope, MessageType
from taskbus.errors import InvalidEnvelope, Problem
from taskbus.findings import Finding, Form, Path, findings, place
from taskbus.payload import ID_PATTERN, TASK_PATTERN

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

S = TypeVar("S", bound=msgspec.Struct)

ENVELOPES: Final[Mapping[MessageType, type[AnyEnvelope]]] = {
    kind: Envelope[payload] for kind, payload in PAYLOADS.items()
}
"""The type of the envelope for each type of message."""

_LISTED: Final = 100
"""How many problems of a document are listed one by one."""
_TIME = re.compile(TIME_PATTERN)
_ID, _NAME, _TASK = (each.removeprefix("^").removesuffix(r"\Z") for each in (ID_PATTERN, NAME_PATTERN, TASK_PATTERN))
# What is not there is left empty, what is there has a plus: no value has the six spaces between them in it.
_HEADER = re.compile(rf"{_ID} {_NAME} {_NAME} {_TASK} (?:\+{_TASK})? (?:\+{_TASK})? (?:\+{_ID})?")
# As numbers, since Python looks for a byte in a twentieth of the time that it takes for bytes.
_BACKSLASH, _SPECIALS = 0x5C, 0xEF
_FORBIDDEN = re.compile(rb"\\[ubf]|\xef\xbf[\xbe\xbf]")
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def bounded(document: bytes, source: str | None = None) -> bytes:
    """Return `document` unless it is empty or longer than MAX_BYTES; then raise InvalidEnvelope."""
    if len(document) > MAX_BYTES:
        size = f"more than {MAX_BYTES} bytes"
        limit = f"at most {MAX_BYTES} bytes: put what is long into files, and name them as artifacts"
        raise InvalidEnvelope([Problem("document", size, limit)], source=source)
    if not document.strip(b" \t\r\n"):
        raise InvalidEnvelope([Problem("document", "nothing", "an XML or JSON document")], source=source)
    return document


def envelope_from(
    plain: object,
    *,
    form: Form,
    document: bytes,
    source: str | None = None,
    known: Sequence[Finding] = (),
    line: Callable[[Path], int | None] | None = None,
) -> AnyEnvelope:
    """Turn the plain form of `document` into an envelope; without an `id`, it gets the derived one.

    `known` is what the reader has found wrong already, `line` tells the line of a path. Times come out in
    UTC. Raises InvalidEnvelope with every problem, in the order of the document's lines where they are known.
    """
    record = shape.envelope()
    head = cast("dict[str, object]", plain if isinstance(plain, dict) else {})
    kind = head.get("type")
    target = ENVELOPES.get(cast("MessageType", kind)) if isinstance(kind, str) else None
    message = convert(cast("object", plain), target, record, form=form, source=source, known=known, line=line)
    if "id" not in head:
        message = structs.replace(message, id=derived_id(message.context.timestamp, document))
    return in_utc(message)


def convert(
    plain: object,
    target: type[S] | None,
    record: shape.Record,
    *,
    form: Form = "json",
    source: str | None = None,
    known: Sequence[Finding] = (),
    line: Callable[[Path], int | None] | None = None,
) -> S:
    """Turn a plain document into the struct `target`, whose shape is `record`.

    Raises InvalidEnvelope with every problem; always where `known` has any or there is no `target`.
    """
    reason = "no type"
    if target is not None and not known:
        try:
            struct = msgspec.convert(plain, target)
            if _times_are_lexical(plain, record) and is_formed(struct, msgspec.json.encode(struct)):
                return struct
            reason = "a value in another form"
        except (msgspec.ValidationError, UnicodeError, RecursionError) as error:
            reason = str(error)
    found = [*known, *findings(plain, record, form)]
    # The walk above finds whatever msgspec refuses; should the two ever differ, msgspec's own words are
    # shown.
    found = found or [Finding((), reason, "a valid document")]
    raise InvalidEnvelope(_problems(found, form, line), source=source)


def _problems(found: Sequence[Finding], form: Form, line: Callable[[Path], int | None] | None) -> list[Problem]:
    numbered = [(each.line or (line(each.path) if line else None), each) for each in found]
    numbered.sort(key=lambda pair: pair[0] or 0)
    problems = [
        Problem(
            f"line {number}, {place(each.path, form)}" if number else place(each.path, form),
            each.found,
            each.expected,
        )
        for number, each in numbered[:_LISTED]
    ]
    if more := len(numbered) - _LISTED if len(numbered) > _LISTED else 0:
        problems.append(Problem("document", f"{more} more problems", "none"))
    return problems


@cache
def _time_paths(record: shape.Record) -> tuple[tuple[str, ...], ...]:
    paths: list[tuple[str, ...]] = []
    for field in record.fields:
        if isinstance(field.node, shape.Record) and field.item is None:
            paths.extend((field.name, *rest) for rest in _time_paths(field.node))
        elif isinstance(field.node, shape.Scalar) and field.node.kind == "time":
            paths.append((field.name,))
    return tuple(paths)


def _times_are_lexical(plain: object, record: shape.Record) -> bool:
    # msgspec also takes a space for the T, a small z, and years that the format does not have.
    for path in _time_paths(record):
        value: Any = plain
        for name in path:
            value = value.get(name) if value is not None else None
        if value is not None and _TIME.match(value) is None:
            return False
    return True


def is_formed(struct: msgspec.Struct, body: bytes) -> bool:
    """Whether the header and the texts have the forms that msgspec leaves to this check (`taskbus.payload.apart`).

    `body` is what msgspec wrote of the struct: of all that it escapes in JSON with a letter, only the line breaks and
    the tab may stand in a text.
    """
    return not may_hold_forbidden(body) and (
        not isinstance(struct, Envelope) or header_is_formed(cast("AnyEnvelope", struct))
    )


def may_hold_forbidden(body: bytes) -> bool:
    """Whether a JSON document may hold a character that no text may; in one that msgspec wrote, it does."""
    if _BACKSLASH not in body and _SPECIALS not in body:
        return False
    return _FORBIDDEN.search(body.replace(b"\\\\", b"")) is not None


def header_is_formed(envelope: AnyEnvelope) -> bool:
    """Whether the names and IDs in the header have their forms."""
    context = envelope.context
    parent = "" if context.parent_task is None else f"+{context.parent_task}"
    root = "" if context.correlation_id is None else f"+{context.correlation_id}"
    cause = "" if context.causation_id is None else f"+{context.causation_id}"
    header = f"{envelope.id} {envelope.sender} {envelope.recipient} {context.task_id} {parent} {root} {cause}"
    return _HEADER.fullmatch(header) is not None


def derived_id(timestamp: datetime, document: bytes) -> str:
    """The ID of an envelope that was written without one: a UUIDv7 of its timestamp and its bytes.

    The same document always gets the same ID, so that publishing it twice publishes it once.
    """
    return hashed_id((timestamp - _EPOCH) // timedelta(milliseconds=1), document)


def hashed_id(milliseconds: int, seed: bytes) -> str:
    """A UUIDv7 of a time in milliseconds since the epoch, and the hash of a seed (RFC 9562, section 5.7)."""
    octets = (milliseconds & (2**48 - 1)).to_bytes(6, "big") + sha256(seed).digest()[:10]
    return str(uuid_utils.UUID(bytes=octets, version=7))  # which sets the bits of version and variant


def in_utc(envelope: AnyEnvelope) -> AnyEnvelope:
    """The same envelope with its times in UTC.

    A time that would leave the years of the format in UTC (hours at both ends of them) keeps its offset.
    """
    context = envelope.context
    if context.timestamp.tzinfo is UTC and (context.deadline is None or context.deadline.tzinfo is UTC):
        return envelope
    deadline = None if context.deadline is None else _utc(context.deadline)
    context = structs.replace(context, timestamp=_utc(context.timestamp), deadline=deadline)
    return structs.replace(envelope, context=context)


def _utc(time: datetime) -> datetime:
    if time.tzinfo is None:  # Python would take it for local time; validation refuses it
        return time
    try:
        moved = time.astimezone(UTC)
    except OverflowError:  # the first and the last day that Python knows
        return time
    return moved if 2000 <= moved.year < 2200 else time
