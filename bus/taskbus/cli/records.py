"""Records: an entry of the log as `--json` and `--xml` give it to programs.

A record has the header fields of the entry beside the whole envelope, so that a filter need not look into it.
Called by the commands that read the log.
"""

from __future__ import annotations

from datetime import UTC, datetime
from functools import lru_cache
from typing import TYPE_CHECKING, Final

import msgspec

from taskbus import codec
from taskbus.errors import InvalidEnvelope

if TYPE_CHECKING:
    from taskbus.log import Entry

_ENCODE: Final = msgspec.json.Encoder().encode


class _Line(msgspec.Struct, gc=False):
    """A record whose envelope is JSON already."""

    position: str
    time: str
    id: str
    type: str
    sender: str = msgspec.field(name="from")
    recipient: str = msgspec.field(name="to")
    task: str
    root: str
    priority: str
    content_type: str
    envelope: msgspec.Raw


def record(found: Entry) -> dict[str, object]:
    """An entry as plain values; a body that cannot be read stands there as text, with its problems."""
    plain = _header(found)
    try:
        plain["envelope"] = msgspec.json.decode(codec.encode(found.envelope))
    except InvalidEnvelope as error:
        _explain(plain, found, error)
    return plain


def as_json(found: Entry) -> bytes:
    """The same as one line of JSON."""
    try:
        envelope = codec.encode(found.envelope)
    except InvalidEnvelope:
        return _ENCODE(record(found))
    # What is JSON already is neither read nor written once more: that takes as long as all the rest.
    return _ENCODE(
        _Line(
            str(found.position),
            _time(found.position.ms),
            found.id,
            found.type,
            found.sender,
            found.recipient,
            found.task,
            found.root,
            found.priority,
            found.content_type,
            msgspec.Raw(envelope),
        )
    )


def _header(found: Entry) -> dict[str, object]:
    return {
        "position": str(found.position),
        "time": _time(found.position.ms),
        "id": found.id,
        "type": found.type,
        "from": found.sender,
        "to": found.recipient,
        "task": found.task,
        "root": found.root,
        "priority": found.priority,
        "content_type": found.content_type,
    }


def _time(ms: int) -> str:
    return f"{_second(ms // 1000)}.{ms % 1000:03d}Z"


@lru_cache(maxsize=16)
def _second(seconds: int) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%S")


def _explain(plain: dict[str, object], found: Entry, error: InvalidEnvelope) -> None:
    plain.update(envelope=None, body=found.body.decode(errors="backslashreplace"), **error.details())


def as_xml(found: Entry) -> bytes:
    """An envelope as an XML document: the sender's own bytes where it wrote XML. Raises InvalidEnvelope."""
    if found.content_type == codec.XML:
        return found.body.strip()
    return codec.encode(found.envelope, codec.XML, pretty=True).strip()
