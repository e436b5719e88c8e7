"""Writing the XML form: from an envelope to the text of its document, by walking the shape of the model.

Only `taskbus.xml` calls it. It needs no XML library: what has to be escaped is said by XML 1.0, and is
little.
"""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING, Any, cast

from taskbus import shape
from taskbus.errors import InvalidEnvelope, Problem
from taskbus.findings import place, unfit
from taskbus.shape import ROOT, Field, Record, Scalar, Variants

if TYPE_CHECKING:
    from taskbus.envelope import AnyEnvelope
    from taskbus.findings import Path


class Writing:
    """One pass over an envelope; `out` collects the document."""

    def __init__(self, *, pretty: bool) -> None:
        self.out: list[str] = []
        self.pretty = pretty

    def document(self, envelope: AnyEnvelope) -> bytes:
        """The whole document. Raises InvalidEnvelope for text that XML cannot carry."""
        self._record(ROOT, envelope, shape.envelope(), ())
        return "".join(self.out).encode() + (b"\n" if self.pretty else b"")

    def _record(self, tag: str, struct: object, record: Record, path: Path) -> None:
        self.out.append(f"{self._indent(path)}<{tag}")
        for name, field in record.attributes.items():
            value: object = getattr(struct, field.name)
            if not _absent(value, field):
                text = _attribute(self._lexical(value, field.scalar, (*path, field)))
                self.out.append(f' {name}="{text}"')
        start = len(self.out)
        if record.text is not None:
            value = getattr(struct, record.text.name)
            if value is not None:
                self.out.append(_text(self._lexical(value, record.text.scalar, (*path, record.text))))
        else:
            for _, field in record.elements.values():
                value = getattr(struct, field.name)
                if not _absent(value, field):
                    self._field(value, field, (*path, field), cast("Any", struct))
        self._close(tag, start, path if record.text is None else None)

    def _field(self, value: object, field: Field, path: Path, owner: AnyEnvelope) -> None:
        node = field.node
        if field.item is not None:
            self.out.append(f"{self._indent(path)}<{field.element}")
            start = len(self.out)
            for index, each in enumerate(cast("tuple[object, ...]", value)):
                self._node(field.item, each, cast("Scalar | Record", node), (*path, index))
            self._close(field.element, start, path)
        elif isinstance(node, Variants):
            self._record(field.element, value, node.kinds[owner.type], path)
        else:
            self._node(field.element, value, node, path)

    def _node(self, tag: str, value: object, node: Scalar | Record, path: Path) -> None:
        if isinstance(node, Record):
            self._record(tag, value, node, path)
            return
        text = _text(self._lexical(value, node, path))
        self.out.append(f"{self._indent(path)}<{tag}>{text}</{tag}>" if text else f"{self._indent(path)}<{tag}/>")

    def _indent(self, path: Path) -> str:
        return "\n" + "  " * len(path) if self.pretty and path else ""

    def _close(self, tag: str, start: int, path: Path | None) -> None:
        """Close an element; between children of a `path` (None: after text) the line is broken."""
        if len(self.out) == start:
            self.out.append("/>")
            return
        self.out.insert(start, ">")
        if self.pretty and path is not None:
            self.out.append("\n" + "  " * len(path))
        self.out.append(f"</{tag}>")

    def _lexical(self, value: object, scalar: Scalar, path: Path) -> str:
        """How a value is written, before escaping."""
        match value:
            case bool():
                return "true" if value else "false"
            case float():
                return repr(value)
            case datetime():
                return value.isoformat().replace("+00:00", "Z")
            case _:
                text = scalar.word(str(value))
        if (at := unfit(text, shape.text())) is not None:
            problem = f"the character U+{ord(text[at]):04X} (number {at + 1})"
            raise InvalidEnvelope([Problem(place(path, "xml"), problem, "text that XML can carry")])
        return text


def _absent(value: object, field: Field) -> bool:
    """Whether JSON leaves this field out too."""
    return value is None or value == field.default


def _text(text: str) -> str:
    text = text.replace("&", "&amp;").replace("<", "&lt;").replace("]]>", "]]&gt;")
    # A bare carriage return would be read as a line feed (XML 1.0, section 2.11).
    return text.replace("\r", "&#13;")


def _attribute(text: str) -> str:
    # White space but the blank would be read as a blank (XML 1.0, section 3.3.3).
    return _text(text).replace('"', "&quot;").replace("\t", "&#9;").replace("\n", "&#10;")
