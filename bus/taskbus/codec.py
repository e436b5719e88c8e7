"""The face of the codecs: documents from outside are read strictly, bodies from the log quickly.

Whoever takes input from a person, a file or an agent calls `read`; whoever reads the log calls `decode`;
whoever is about to publish an envelope built in Python calls `validated`.
"""

from __future__ import annotations

from math import isfinite
from typing import TYPE_CHECKING, Final, cast

import msgspec

from taskbus import json, shape
from taskbus.envelope import MAX_BYTES, AnyEnvelope, MessageType, Status
from taskbus.errors import InvalidEnvelope, Problem
from taskbus.findings import findings, place, printable
from taskbus.validation import ENVELOPES, bounded, derived_id, header_is_formed, in_utc, may_hold_forbidden

if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import BinaryIO

JSON: Final = "application/json"
XML: Final = "application/xml"


class Document(msgspec.Struct, frozen=True, gc=False):
    """An envelope and the bytes in which its sender wrote it.

    `source` are the bytes that it was read from where those were no document themselves, such as the handoff
    shorthand or a model's free text; `source_type` is their media type.
    """

    envelope: AnyEnvelope
    body: bytes
    content_type: str
    source: bytes | None = None
    source_type: str | None = None


class Checked(Document, frozen=True, gc=False):
    """A document that `document` made of an envelope that was built in Python, and found valid: that `checked`."""

    checked: AnyEnvelope | None = None

    @property
    def is_as_checked(self) -> bool:
        """Whether nothing of it was replaced since that would have to be checked again before it is sent."""
        is_plain = self.source is None and self.source_type is None and self.content_type == JSON
        return self.checked is self.envelope and is_plain


class _Head(msgspec.Struct):
    """What has to be known of a JSON body before it can be decoded: its type, and whether it has an ID."""

    type: MessageType
    id: str | None = None


_HEAD: Final = msgspec.json.Decoder(_Head)
_DECODERS: Final[Mapping[str | None, msgspec.json.Decoder[AnyEnvelope]]] = {
    kind: msgspec.json.Decoder(target) for kind, target in ENVELOPES.items()
}
_BLANK: Final = b" \t\r\n\0\xef\xbb\xbf\xfe\xff"
"""White space, byte order marks, and the zero bytes of UTF-16: what may stand before the first character."""


def read(document: bytes, *, source: str | None = None) -> Document:
    """Read one envelope from outside, in XML or JSON; its first character tells which.

    Raises InvalidEnvelope with every problem; `source` names the document there.
    """
    first = bounded(document, source).lstrip(_BLANK)[:1]
    if first == b"<":
        return Document(_read_xml(document, source), document, XML)
    if first == b"{" or document.startswith((b"\xff\xfe", b"\xfe\xff")):
        return Document(json.read(document, source=source), document, JSON)
    begin = len(document) - len(document.lstrip())
    line, column = document.count(b"\n", 0, begin) + 1, begin - document.rfind(b"\n", 0, begin)
    found = f'"{printable(document[begin : begin + 120].decode(errors="replace"), 30)}"'
    problem = Problem(f"line {line}, column {column}", found, "an envelope: < of XML, or { of JSON")
    raise InvalidEnvelope([problem], source=source)


def read_capped(stream: BinaryIO, *, source: str | None = None) -> bytes:
    """Read a stream to its end. Raises InvalidEnvelope as soon as it is longer than any document may be."""
    document = stream.read(MAX_BYTES + 1)
    return bounded(document, source) if len(document) > MAX_BYTES else document


def decode(body: bytes, content_type: str = JSON, *, id: str | None = None, type: str | None = None) -> AnyEnvelope:
    """Read the body of an entry of the log, which was validated before it was appended.

    `id` is the entry's, for a body without one; `type`, where it is known, saves looking for it. Raises
    InvalidEnvelope for a body that no envelope was ever published with.
    """
    if content_type == XML:
        envelope = _read_xml(body, None)
        return msgspec.structs.replace(envelope, id=id) if id else envelope
    head = None
    try:
        head = None if type and id else _HEAD.decode(body)
        envelope = _DECODERS[type or (head and head.type)].decode(body)
        # Its sender may have escaped whatever it liked; what is written of it has an escape only where it must be.
        odd = may_hold_forbidden(body) and may_hold_forbidden(json.write(envelope))
    except (msgspec.MsgspecError, UnicodeDecodeError, KeyError, RecursionError):
        # A byte order mark, or 1.0 for an integer: legal, and seldom enough to go the long way.
        odd, envelope = True, None
    if envelope is None or odd or not header_is_formed(envelope):
        envelope = json.read(body)
        return msgspec.structs.replace(envelope, id=id) if id else envelope
    if id is None and head is not None and head.id is None:
        id = derived_id(envelope.context.timestamp, body)
    if id is not None and envelope.id != id:
        envelope = msgspec.structs.replace(envelope, id=id)
    return in_utc(envelope)


def encode(envelope: AnyEnvelope, content_type: str = JSON, *, pretty: bool = False) -> bytes:
    """Write an envelope in JSON or XML."""
    if content_type == XML:
        from taskbus import xml  # lxml is slow to import

        return xml.write(envelope, pretty=pretty)
    return json.write(envelope, pretty=pretty)


def document(envelope: AnyEnvelope | Document) -> Document:
    """The document in which an envelope goes onto the bus; one that was read already stays as it is.

    Raises InvalidEnvelope with every problem of an envelope that was built in Python.
    """
    if isinstance(envelope, Document):
        return envelope
    return Checked(envelope, validated(envelope), JSON, None, None, envelope)


def validated(envelope: AnyEnvelope) -> bytes:
    """Check an envelope that was built in Python; return its JSON form, with its times in UTC.

    Structs are not checked when they are built, so nothing goes onto the bus without this. Raises
    InvalidEnvelope with every problem.
    """
    try:
        envelope = in_utc(envelope)
        body = json.write(envelope)
        _DECODERS[envelope.type].decode(body)
    except (msgspec.MsgspecError, TypeError, ValueError, AttributeError, KeyError) as error:
        raise _refused(envelope, str(error)) from error
    context, payload = envelope.context, envelope.payload
    if not 2000 <= context.timestamp.year < 2200 or (context.deadline and not 2000 <= context.deadline.year < 2200):
        raise _refused(envelope, "a time")
    # JSON has no word for NaN and infinity: they are written as null, and come back as nothing.
    if envelope.type == "status" and not isfinite(cast("Status", payload).fraction or 0.0):
        raise _refused(envelope, "a fraction that is no number")
    if (may_hold_forbidden(body) or not header_is_formed(envelope)) and (problems := _problems(envelope)):
        raise InvalidEnvelope(problems)
    return bounded(body)


def _refused(envelope: AnyEnvelope, reason: str) -> InvalidEnvelope:
    return InvalidEnvelope(_problems(envelope) or [Problem("envelope", printable(reason, 200), "a valid envelope")])


def _problems(envelope: AnyEnvelope) -> list[Problem]:
    try:
        plain = msgspec.to_builtins(envelope)
    except (TypeError, ValueError, RecursionError):  # something that has no place in any document
        return []
    found = findings(plain, shape.envelope(), "json")
    return [Problem(place(each.path, "json"), each.found, each.expected) for each in found]


def _read_xml(document: bytes, source: str | None) -> AnyEnvelope:
    from taskbus import xml  # lxml is slow to import, and most of what is read is JSON

    return xml.read(document, source=source)
