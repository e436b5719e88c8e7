"""The masking: keys in what programs print are written over before anybody reads, keeps or publishes it.

Some programs print the key that was refused, and a check may print its whole environment. What a program means is read
before, so that no mask can break it. Called by the shared run of agents, by commands and by checks.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, replace
from html import escape
from typing import TYPE_CHECKING, Final, TypeVar, cast
from urllib.parse import unquote

from msgspec import Struct, structs

from taskbus.codec import Document, document
from taskbus_agents.secret import words

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from taskbus_agents.adapter import Report
    from taskbus_agents.runner import Ended

_IN_URL: Final = r"(://[^/@\s:\"']{0,200}:)[^/\s\"']{1,200}@"
_URL: Final = re.compile(_IN_URL)
_URL_BYTES: Final = re.compile(_IN_URL.encode())
_OVER: Final = "***"
_NO_TEXTS: Final = frozenset({"status", "category", "outcome", "sha256", "route"})
"""Fields of an envelope that have words of the format in them, or none that a program has said."""
_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class Mask:
    """Texts that nobody is to see. Passwords in URLs are none of them, and masked wherever they stand."""

    secrets: tuple[str, ...] = ()

    @classmethod
    def of(cls, *environments: Mapping[str, str], key: str | None = None) -> Mask:
        """What `secret` finds in environments; and a key, in any case."""
        found = words(environments, key)
        # As they stand in an address, in JSON, in XML.
        found |= {unquote(each) for each in found}
        found |= {written for each in found for written in (json.dumps(each)[1:-1], escape(each, quote=False))}
        return cls(tuple(sorted(found, key=len, reverse=True)))

    def text(self, text: str) -> str:
        """A text without them."""
        for secret in self.secrets:
            text = text.replace(secret, _OVER)
        return _URL.sub(rf"\1{_OVER}@", text)

    def data(self, data: bytes) -> bytes:
        """Bytes without them."""
        for secret in self.secrets:
            data = data.replace(secret.encode(errors="surrogateescape"), _OVER.encode())
        return _URL_BYTES.sub(rb"\1" + _OVER.encode() + b"@", data)

    def ended(self, ended: Ended) -> Ended:
        """The end of a run without them."""
        return replace(ended, stdout=self.data(ended.stdout), stderr=self.data(ended.stderr))

    def report(self, report: Report) -> Report:
        """A report without them, but for the agent's last message, which is still to be understood."""
        notes, refused = (tuple(map(self.text, each)) for each in (report.notes, report.refused))
        return replace(report, message=self.text(report.message), notes=notes, refused=refused)

    def lines(self, write: Callable[[str, str], None] | None) -> Callable[[str, str], None] | None:
        """What is given lines with a name, and hands them on without them."""
        return None if write is None else lambda name, line: write(name, self.text(line))

    def document(self, made: Document) -> Document:
        """What settles a delivery, without them, also in what it was made of; the same where none stands in it."""
        envelope = made.envelope
        gates = self._of(envelope.quality_gates)
        masked = structs.replace(envelope, payload=self._of(envelope.payload), quality_gates=gates)
        source = self.data(made.source) if made.source is not None else None
        if masked == envelope and source == made.source and self.data(made.body) == made.body:
            return made
        found = document(masked)
        if source is None:
            return Document(found.envelope, found.body, found.content_type, self.data(made.body), made.content_type)
        return Document(found.envelope, found.body, found.content_type, source, made.source_type)

    def _of(self, part: _T) -> _T:
        """A part of an envelope, and all that is in it."""
        found: object = part
        if isinstance(part, str):
            found = self.text(part)
        elif isinstance(part, tuple):
            found = tuple(map(self._of, cast("tuple[object, ...]", part)))
        elif isinstance(part, Struct):
            texts = {name: cast("object", getattr(part, name)) for name in part.__struct_fields__}
            found = structs.replace(part, **{name: self._of(it) for name, it in texts.items() if name not in _NO_TEXTS})
        return cast("_T", found)
