"""The XML form of envelopes: the `<agent-message>` document.

Reader and writer (`taskbus.xml_writer`) walk the shape of the model, so that both forms always hold the same.
The reader is strict: the order is fixed, nothing unknown may stand anywhere, and a document with a DOCTYPE is
refused, whatever is in it: entities and external references never get to work.
"""

from __future__ import annotations

import math
import re
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final, Protocol, cast

from lxml import (  # pyright: ignore[reportMissingTypeStubs]
    etree as untyped,  # pyright: ignore[reportAttributeAccessIssue, reportUnknownVariableType]
)

from taskbus import shape
from taskbus.errors import InvalidEnvelope, Problem
from taskbus.findings import Finding, Misread, Path, printable
from taskbus.shape import MARKER_ATTRIBUTE, ROOT, Field, Record, Scalar, Variants
from taskbus.validation import bounded, envelope_from
from taskbus.xml_writer import Writing

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from taskbus.envelope import AnyEnvelope, MessageType

etree = cast("Any", untyped)  # lxml has no type hints; `Element` has what is used of its elements


class Element(Protocol):
    """An element as lxml gives it, without comments and processing instructions."""

    tag: str
    text: str | None
    tail: str | None
    sourceline: int

    @property
    def attrib(self) -> Mapping[str, str]:
        """The attributes by their names."""
        ...

    def __iter__(self) -> Iterator[Element]:
        """The children, in their order."""
        ...

    def findtext(self, path: str) -> str | None:
        """The text of the first child of this name."""
        ...


_SPACE = " \t\r\n"
_SPACES = re.compile(f"[{_SPACE}]+")
INTEGER_PATTERN: Final = r"0|[1-9][0-9]{0,15}"
"""How a whole number is written in XML; no field holds one of more digits."""
_INTEGER = re.compile(rf"({INTEGER_PATTERN})\Z")
NUMBER_PATTERN: Final = r"-?(0|[1-9][0-9]*)(\.[0-9]+)?([eE][+\-]?[0-9]{1,3})?"
"""How a number with a fraction is written in XML; every form of Python's repr is among them."""
_NUMBER = re.compile(NUMBER_PATTERN + r"\Z")
_XSI = "{http://www.w3.org/2001/XMLSchema-instance}"
_DOCTYPE: Final = Problem("document", "a DOCTYPE", f"<{ROOT}> alone, without DOCTYPE and entities")
_HINTS: Final = frozenset({f"{_XSI}noNamespaceSchemaLocation", f"{_XSI}schemaLocation"})
"""Attributes of the root by which editors find the schema; they say nothing and are passed over."""


def read(document: bytes, *, source: str | None = None) -> AnyEnvelope:
    """Read one envelope strictly. Raises InvalidEnvelope with every problem of the document; `source` names
    it there.

    Any encoding that the document declares is read. Comments and processing instructions are passed over.
    Without an `id`, the envelope gets one derived from its timestamp and these bytes.
    """
    reading = _Reading()
    plain = reading.document(_parse(bounded(document, source), source))
    return envelope_from(plain, form="xml", document=document, source=source, known=reading.found, line=reading.line)


def write(envelope: AnyEnvelope, *, pretty: bool = False) -> bytes:
    """Write an envelope as XML in UTF-8, without line breaks unless `pretty`; what has its default value is
    left out.

    The envelope is taken as valid; text that XML cannot carry raises InvalidEnvelope all the same.
    """
    return Writing(pretty=pretty).document(envelope)


def _parse(document: bytes, source: str | None) -> Element:
    try:
        root = etree.fromstring(document, _parser())
    except etree.XMLSyntaxError as error:
        if _has_doctype(document):
            raise InvalidEnvelope([_DOCTYPE], source=source) from error
        line, column = error.position
        message = str(error.msg).partition(", line ")[0].partition("\n")[0]
        problem = Problem(f"line {line}, column {column}", printable(message, 200), "well-formed XML")
        raise InvalidEnvelope([problem], source=source) from error
    if root.getroottree().docinfo.internalDTD is not None:
        raise InvalidEnvelope([_DOCTYPE], source=source)
    if root.tag != ROOT:
        problem = Problem(f"line {root.sourceline}", _tag(root), f"<{ROOT}>")
        raise InvalidEnvelope([problem], source=source)
    return root


def _parser(target: _Prolog | None = None) -> Any:
    return etree.XMLParser(
        target=target,
        resolve_entities=False,
        no_network=True,
        load_dtd=False,
        huge_tree=False,
        remove_comments=True,
        remove_pis=True,
    )


class _Prolog:
    """Looks at the beginning of a document, which goes wrong later, for a DOCTYPE."""

    found = False

    def doctype(self, *_: object) -> None:
        """There is one; nothing behind it matters."""
        self.found = True
        raise EOFError

    def start(self, *_: object) -> None:
        """The root element: from here on there cannot be any."""
        raise EOFError

    def close(self) -> None:
        """The end of the document."""


def _has_doctype(document: bytes) -> bool:
    prolog = _Prolog()
    with suppress(EOFError, etree.XMLSyntaxError):  # both mean that the prolog has been seen
        etree.fromstring(document, _parser(prolog))
    return prolog.found


class _Reading:
    """One pass over a document: `found` is what is wrong with its structure, `elements` where values are."""

    def __init__(self) -> None:
        self.found: list[Finding] = []
        self.elements: dict[Path, Element] = {}

    def line(self, path: Path) -> int | None:
        while path not in self.elements:
            path = path[:-1]
        return self.elements[path].sourceline

    def document(self, root: Element) -> object:
        self.elements[()] = root
        kind = root.findtext("type")
        self.kind: object = _value(shape.type_scalar(), kind) if kind is not None else None
        return self.record(root, shape.envelope(), ())

    def add(self, element: Element, path: Path, found: str, wanted: str) -> None:
        self.found.append(Finding(path, found, wanted, element.sourceline))

    def record(self, element: Element, record: Record, path: Path) -> dict[str, object]:
        self.elements[path] = element
        plain: dict[str, object] = {}
        self.attributes(element, record, path, plain)
        if record.text is not None:
            text = self.text(element, path)
            if text or record.text.required:
                plain[record.text.name] = _value(record.text.scalar, text)
        else:
            self.children(element, record, path, plain)
        return plain

    def attributes(self, element: Element, record: Record | None, path: Path, plain: dict[str, object]) -> None:
        known: Mapping[str, Field] = record.attributes if record is not None else {}
        for name, value in element.attrib.items():
            if name in known:
                plain[known[name].name] = _value(known[name].scalar, value)
            elif name == MARKER_ATTRIBUTE and (kind := _marked(path)) is not None:
                word = shape.type_scalar().word(kind)
                if _collapsed(value) != word:
                    self.add(element, path, f'{name}="{printable(value)}"', f'{name}="{word}" or none')
            elif path or name not in _HINTS:
                allowed = ", ".join(known) or "no attribute here"
                self.add(element, path, f"the attribute {printable(name)}", allowed)

    def text(self, element: Element, path: Path) -> str:
        """The text of an element that may hold nothing else."""
        for child in element:
            self.add(child, path, f"{_tag(child)} in a text", "text only, with < written as &lt;")
        return element.text or ""

    def children(self, element: Element, record: Record, path: Path, plain: dict[str, object]) -> None:
        self.no_text(element, path)
        last: tuple[int, Element] = (-1, element)
        for child in element:
            if child.tag not in record.elements:
                self.add(child, path, _tag(child), "one of " + " ".join(f"<{name}>" for name in record.elements))
                continue
            at, field = record.elements[child.tag]
            if field.name in plain:
                self.add(child, (*path, field), "it again", "it once")
                continue
            if at < last[0]:
                order = " ".join(f"<{name}>" for name in record.elements)
                self.add(child, path, f"{_tag(child)} after {_tag(last[1])}", f"the order {order}")
            else:
                last = (at, child)
            plain[field.name] = self.field(child, field, (*path, field))

    def field(self, element: Element, field: Field, path: Path) -> object:
        if field.item is None:
            return self.node(element, field.node, path)
        self.elements[path] = element
        self.attributes(element, None, path, {})
        self.no_text(element, path)
        items: list[object] = []
        for child in element:
            if child.tag == field.item:
                items.append(self.node(child, field.node, (*path, len(items))))
            else:
                self.add(child, path, _tag(child), f"<{field.item}>")
        return items

    def node(self, element: Element, node: Scalar | Record | Variants, path: Path) -> object:
        if isinstance(node, Scalar):
            self.elements[path] = element
            self.attributes(element, None, path, {})
            return _value(node, self.text(element, path))
        if isinstance(node, Record):
            return self.record(element, node, path)
        chosen = node.kinds.get(cast("MessageType", self.kind)) if isinstance(self.kind, str) else None
        if chosen is not None:
            return self.record(element, chosen, path)
        self.elements[path] = element
        return {}

    def no_text(self, element: Element, path: Path) -> None:
        texts = [(element, element.text), *((child, child.tail) for child in element)]
        for before, text in texts:
            if text and (stray := text.strip(_SPACE)):
                self.add(before, path, f'the text "{printable(stray)}" between elements', "elements only")


def _tag(element: Element) -> str:
    namespace, _, name = element.tag.rpartition("}")
    return f"<{printable(name)}>" + (f' of the namespace "{printable(namespace[1:])}"' if namespace else "")


def _marked(path: Path) -> MessageType | None:
    """The type of which the element at `path` is the marker."""
    if len(path) == 2 and isinstance(path[0], Field) and isinstance(path[1], Field) and path[0].name == "payload":
        return shape.markers().get(path[1].element)
    return None


def _collapsed(text: str) -> str:
    return _SPACES.sub(" ", text.strip(_SPACE))


def _value(scalar: Scalar, text: str) -> object:
    """What `text` says; where it is no value of its kind, validation finds the Misread in its place."""
    if scalar.free:
        return text
    text = _collapsed(text)
    if scalar.values:
        return scalar.by_word.get(text) or Misread(text)
    match scalar.kind:
        case "integer":
            return int(text) if _INTEGER.match(text) else Misread(text)
        case "number":
            number = float(text) if _NUMBER.match(text) else math.inf
            return number if math.isfinite(number) else Misread(text)
        case "boolean":
            return {"true": True, "false": False}.get(text, Misread(text))
        case "string" | "time":
            return text
