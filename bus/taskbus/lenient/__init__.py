"""The lenient reader: finds the envelope in what a model wrote, and makes a strict document of it.

Whoever runs an agent calls `find` with its whole output and with what is known of it anyway. It mends how
something is written, never what is said: a value that is missing, hedged or cut off makes the text hopeless.
Nothing gets lost silently: whatever was read otherwise than it stands, or left out, is listed in `repairs`.

    excerpts    where in the text an envelope may stand
    markup      an <agent-message> block that need not be XML, as a plain document
    notation    an object that need not be JSON, as JSON
    mending     a plain document with a model's own names and words, as the format has it
    spelling    names, words, times and numbers
"""

from __future__ import annotations

import json as standard_json
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final, cast

import msgspec

from taskbus import codec, json, shape, shorthand
from taskbus.envelope import MAX_BYTES, AnyEnvelope, Context
from taskbus.errors import InvalidEnvelope, Problem, UsageError
from taskbus.findings import Misread, Repeated, printable
from taskbus.lenient import markup
from taskbus.lenient.excerpts import Excerpt, Text
from taskbus.lenient.mending import Mending
from taskbus.lenient.spelling import canonical
from taskbus.validation import convert, envelope_from

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from taskbus.findings import Form
    from taskbus.lenient.notation import Reading

__all__ = ["DEFAULTS", "MAX_TEXT", "Found", "find"]

MAX_TEXT: Final = 16 << 20
"""The longest text that is searched, in characters. One document in it is at most MAX_BYTES long."""
DEFAULTS: Final = ("sender", "recipient", "task_id", "timestamp")
"""What a caller may know of an output, and a model may leave out."""


@dataclass(frozen=True, slots=True)
class Found:
    """An envelope that stood in a text.

    `document` is the strict document of it, in the form in which it was found (the shorthand becomes JSON);
    where nothing had to be mended, it is what the model wrote, byte for byte. `source` is the part of the
    text from which it was read, exactly as it stands there. `repairs` says in plain words what was mended, in
    order.
    """

    envelope: AnyEnvelope
    document: bytes
    content_type: str
    source: str
    repairs: tuple[str, ...]
    in_short: bool = False
    """Whether it was the handoff shorthand, whose envelope is made of what the caller knows."""


def find(text: str, *, defaults: Mapping[str, object] | None = None, outcome: bool = False) -> Found:
    """Find the envelope in a model's output: an `<agent-message>` block, JSON, or the handoff shorthand.

    `defaults` are what the caller knows (`sender`, `recipient`, `task_id`, `timestamp`, the last as a
    datetime or as the format writes it); each stands in only where the model wrote nothing. What the model
    wrote is never overridden: whether it agrees with what is known is for the caller to check.

    With `outcome`, the text is all that somebody wrote who was given a task: then an object that has a `status` of
    the handoff shorthand, or a `question`, and nothing that such a document cannot have, is one of its messages.

    Of several messages the last one counts: a model writes progress before the outcome, and drafts before the
    final word. Messages that name the `sender` and the `task_id` of the defaults go before others, which the
    model merely quotes. A message behind it that cannot be read makes the text hopeless, since it may be a
    correction; what stands before it is passed over, and listed. What stands in a model's reasoning
    (`<think>`) was not said.

    Without an `id`, or with one that is no UUIDv7, the envelope gets one derived from its timestamp and what
    the model wrote: the same text always gives the same envelope.

    Raises InvalidEnvelope with all problems of the message that would have counted, or with the one problem
    that there is no envelope in the text. Raises UsageError for a default of another name.
    """
    known = _checked(defaults)
    if len(text) > MAX_TEXT:
        raise InvalidEnvelope([Problem("text", f"{len(text)} characters", f"at most {MAX_TEXT}")])
    searched = Text(text, outcome=outcome)
    excerpts = searched.excerpts()
    if not excerpts:
        raise InvalidEnvelope([_nothing(searched.near, outcome=outcome)])
    return _with_passed_over(excerpts, *_last_word(text, excerpts, known))


def _nothing(near: Excerpt | None, *, outcome: bool) -> Problem:
    """The problem of a text in which nothing was found."""
    if near is not None and near.reading is not None:
        others = printable(", ".join(f'"{name}"' for name in near.reading.strange), 100)
        return Problem(
            f"line {near.line}", f"an outcome in short with {others}", "one without it (nothing is left out)"
        )
    if outcome:
        short = 'the shorthand {"status": "success"} or {"question": "…"}'
        return Problem("text", "no envelope", f"an <agent-message> block, a JSON envelope, or {short}")
    return Problem("text", "no envelope", "an <agent-message> block or a JSON envelope")


def _checked(defaults: Mapping[str, object] | None) -> dict[str, object]:
    known = {name: value for name, value in (defaults or {}).items() if value is not None}
    if unknown := known.keys() - set(DEFAULTS):
        raise UsageError(f"A default cannot be {', '.join(sorted(unknown))}, only {', '.join(DEFAULTS)}.")
    if isinstance(moment := known.get("timestamp"), datetime):
        if moment.tzinfo is None:
            raise UsageError("The default timestamp has no offset from UTC.")
        known["timestamp"] = moment.astimezone(UTC).isoformat().replace("+00:00", "Z")
    return known


def _last_word(text: str, excerpts: Sequence[Excerpt], known: Mapping[str, object]) -> tuple[int, Found]:
    """The last message, or the last that agrees with what is known, if all behind it can be read."""
    index = last = len(excerpts) - 1
    found = latest = _read(text, excerpts[last], known)
    while not _agrees(found.envelope, known):
        index -= 1
        if index < 0:
            return last, latest
        try:
            found = _read(text, excerpts[index], known)
        except InvalidEnvelope:
            # It may be what should have counted, so nothing before it does; what stands behind it was valid.
            return last, latest
    return index, found


def _agrees(envelope: AnyEnvelope, known: Mapping[str, object]) -> bool:
    return known.get("sender") in (None, envelope.sender) and known.get("task_id") in (None, envelope.task)


def _with_passed_over(excerpts: Sequence[Excerpt], index: int, found: Found) -> Found:
    others = [each for each in excerpts if each is not excerpts[index] and each.text != excerpts[index].text]
    if not others:
        return found
    lines = ", ".join(str(each.line) for each in others[:10]) + (", …" if len(others) > 10 else "")
    note = f"passed over what stands on line{'s' if len(others) > 1 else ''} {lines}"
    return replace(found, repairs=(*found.repairs, note))


def _read(text: str, excerpt: Excerpt, known: Mapping[str, object]) -> Found:
    source = text[excerpt.start : excerpt.end]
    where = f"the message on line {excerpt.line}"
    # Lone surrogates have no bytes; written out, they are text like any other.
    document = excerpt.text.encode(errors="backslashreplace")
    if len(document) > MAX_BYTES:
        size = f"more than {MAX_BYTES} bytes"
        raise InvalidEnvelope([Problem(f"line {excerpt.line}", size, f"at most {MAX_BYTES} bytes")])
    try:
        strict = codec.read(document, source=where)
    except InvalidEnvelope:
        return _mended(excerpt, source, document, known, where)
    return Found(strict.envelope, document, strict.content_type, source, excerpt.repairs)


def _mended(excerpt: Excerpt, source: str, document: bytes, known: Mapping[str, object], where: str) -> Found:
    reading = excerpt.reading
    in_short = False
    if reading is None:
        if excerpt.text.startswith("<!"):
            problem = Problem(f"line {excerpt.line}", "a DOCTYPE", "<agent-message> alone, without entities")
            raise InvalidEnvelope([problem])
        plain, repairs = markup.parse(document.decode(), excerpt.line, finished=excerpt.finished)
        envelope, more = _envelope(plain, "xml", document, known, where)
        content_type = codec.XML
    else:
        plain, repairs = _plain_json(reading, excerpt.line, where), list(reading.repairs)
        envelope, more = _envelope(plain, "json", document, known, where)
        content_type = codec.JSON
        in_short = _is_short(plain)
    strict = codec.encode(envelope, content_type)
    # The promise of this module: what comes out is valid for the strict reader.
    again = codec.read(strict, source=where).envelope
    mended = (*excerpt.repairs, *repairs, *more) or ("wrote the document anew",)
    return Found(again, strict, content_type, source, mended, in_short)


def _plain_json(reading: Reading, line: int, where: str) -> object:
    if reading.problem is not None:
        found, expected = reading.problem
        raise InvalidEnvelope([Problem(f"line {line} and after", found, expected)], source=where)
    return json.parse(reading.json.encode(errors="backslashreplace"), source=where)


def _envelope(
    plain: object, form: Form, document: bytes, known: Mapping[str, object], where: str
) -> tuple[AnyEnvelope, list[str]]:
    if form == "json" and _is_short(plain):
        return _short(plain, document, known, where)
    mending = Mending(form)
    mended = mending.document(plain, shape.envelope())
    notes = [*mending.repairs, *_filled(mended, known)]
    return envelope_from(mended, form=form, document=document, source=where, known=mending.found), notes


def _is_short(plain: object) -> bool:
    keys = {canonical(name) for name in _members(plain)}
    return "type" not in keys and "payload" not in keys


def _kind(plain: object) -> type[shorthand.Handoff | shorthand.Handback | shorthand.Ask]:
    keys = {canonical(name) for name in _members(plain)}
    if "targetagent" in keys:
        return shorthand.Handoff
    is_question = "question" in keys and keys <= {canonical(name) for name in shorthand.Ask.__struct_fields__}
    return shorthand.Ask if is_question else shorthand.Handback


def _short(plain: object, document: bytes, known: Mapping[str, object], where: str) -> tuple[AnyEnvelope, list[str]]:
    """Read the handoff shorthand; what its envelope needs besides comes from the caller."""
    mending = Mending("json")
    kind = _kind(plain)
    record = shape.record(kind)
    mended = mending.document(plain, record)
    if mending.found:
        convert(mended, kind, record, source=where, known=mending.found)
    data = standard_json.dumps(mended, default=_written).encode()
    head: dict[str, object] = {"context": {}}
    if kind is shorthand.Handoff:
        short = shorthand.read_delegation(data, source=where)
        head |= {"recipient": short.recipient, "type": "delegation", "priority": short.priority}
        head["context"] = {"parent_task": short.parent_task, "deadline": short.deadline}
    else:
        read = shorthand.read_question if kind is shorthand.Ask else shorthand.read_completion
        short = read(data, source=where)
        head |= {"type": short.payload.TYPE, "usage": short.usage}
    full = msgspec.to_builtins({**head, "payload": short.payload})
    notes = [*mending.repairs, "read the handoff shorthand", *_filled(full, known)]
    return envelope_from(full, form="json", document=document, source=where), notes


def _written(value: object) -> object:
    return value.text if isinstance(value, Misread) else repr(value)


def _members(plain: object) -> dict[str, object]:
    if isinstance(plain, Repeated):
        return plain.plain
    return cast("dict[str, object]", plain) if isinstance(plain, dict) else {}


def _filled(mended: object, known: Mapping[str, object]) -> list[str]:
    """Let what the caller knows stand in where nothing stands."""
    if not isinstance(mended, dict):
        return []
    head = cast("dict[str, object]", mended)
    context = head.setdefault("context", {})
    parts = [head, cast("dict[str, object]", context)] if isinstance(context, dict) else [head]
    notes: list[str] = []
    for name, value in known.items():
        for part, record in zip(parts, (shape.envelope(), shape.record(Context)), strict=False):
            if name in record.by_name and name not in part:
                part[name] = value
                notes.append(f"{name}: taken from the caller")
    return notes
