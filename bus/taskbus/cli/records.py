"""Records: an entry of the log as `--json` and `--xml` give it to programs.

A record has the header fields of the entry beside the whole envelope, so that a filter need not look into it.
Called by the commands that read the log.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from taskbus import codec
from taskbus.errors import InvalidEnvelope

if TYPE_CHECKING:
    from taskbus.log import Entry


def record(found: Entry) -> dict[str, object]:
    """An entry as plain values; a body that cannot be read stands there as text, with its problems."""
    plain: dict[str, object] = {
        "position": str(found.position),
        "time": found.position.time.isoformat(timespec="milliseconds").replace("+00:00", "Z"),
        "id": found.id,
        "type": found.type,
        "from": found.sender,
        "to": found.recipient,
        "task": found.task,
        "root": found.root,
        "priority": found.priority,
        "content_type": found.content_type,
    }
    try:
        plain["envelope"] = msgspec.json.decode(codec.encode(found.envelope))
    except InvalidEnvelope as error:
        plain.update(envelope=None, body=found.body.decode(errors="backslashreplace"), **error.details())
    return plain


def as_json(found: Entry) -> bytes:
    """An entry as one line of JSON."""
    return msgspec.json.encode(record(found))


def as_xml(found: Entry) -> bytes:
    """An envelope as an XML document: the sender's own bytes where it wrote XML. Raises InvalidEnvelope."""
    if found.content_type == codec.XML:
        return found.body.strip()
    return codec.encode(found.envelope, codec.XML, pretty=True).strip()
