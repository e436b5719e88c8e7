"""The XML Schema of the XML form, written from the shape of the model.

It accepts what the strict reader accepts, the rule included that a payload goes with the type of the message.
XML Schema 1.0 has no conditions; the rule is kept by identity constraints over an attribute with a fixed
value that the marker of each payload has by default.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, cast
from xml.etree import ElementTree as ET
from xml.etree.ElementTree import Element, SubElement

from taskbus import shape
from taskbus.envelope import MARKERS, TIME_PATTERN, MessageType
from taskbus.shape import MARKER_ATTRIBUTE, ROOT, Field, Record, Scalar, Variants
from taskbus.xml import INTEGER_PATTERN, NUMBER_PATTERN

if TYPE_CHECKING:
    from collections.abc import Iterable


def document() -> bytes:
    """The XML Schema, as a document in UTF-8."""
    return _Schema().document()


class _Schema:
    """Collects the named types while the elements are written; each type is written once."""

    def __init__(self) -> None:
        self.root = Element("xs:schema", {"xmlns:xs": "http://www.w3.org/2001/XMLSchema"})
        self.types: dict[str, Element] = {}
        self.names: dict[object, str] = {}

    def document(self) -> bytes:
        record = shape.envelope()
        _documented(self.root, "The XML form of taskbus envelopes. Generated from the model: do not edit.")
        root = SubElement(self.root, "xs:element", {"name": ROOT})
        _documented(root, record.description)
        self.content(SubElement(root, "xs:complexType"), record)
        _tie_type_to_payload(root)
        self.root.extend(self.types[name] for name in sorted(self.types))
        ET.indent(self.root)
        return ET.tostring(self.root, encoding="UTF-8", xml_declaration=True) + b"\n"

    def content(self, parent: Element, record: Record) -> None:
        """Fill a complexType with the children or the text, and the attributes, of a record."""
        if record.text is None:
            sequence = SubElement(parent, "xs:sequence")
            for _, field in record.elements.values():
                self.element(sequence, field)
            attributes = parent
        else:
            # An optional text may be missing, and then the element is empty.
            base = self.simple(record.text.scalar, record.text) if record.text.required else "xs:string"
            attributes = _extended(parent, "xs:simpleContent", base)
        for name, field in record.attributes.items():
            use = {"use": "required"} if field.required else {}
            attribute = {"name": name, "type": self.simple(field.scalar, field), **use}
            _documented(SubElement(attributes, "xs:attribute", attribute), field.description)

    def element(self, parent: Element, field: Field, marker: MessageType | None = None) -> None:
        occurs = {} if field.required or marker else {"minOccurs": "0"}
        element = SubElement(parent, "xs:element", {"name": field.element, **occurs})
        if isinstance(field.node, Variants):
            _documented(element, field.description)
            self.payload(SubElement(element, "xs:complexType"), field.node)
        elif field.item is not None:
            _documented(element, field.description)
            items = SubElement(SubElement(element, "xs:complexType"), "xs:sequence")
            attributes = {"name": field.item, "minOccurs": "0", "maxOccurs": "unbounded"}
            SubElement(items, "xs:element", attributes).set("type", self.type(field))
        else:
            element.set("type", self.type(field) if marker is None else self.marker(field, marker))
            _documented(element, field.description)

    def payload(self, parent: Element, variants: Variants) -> None:
        """A sequence: what all payloads begin with, then one of them, told by its marker, its first field."""
        sequence = SubElement(parent, "xs:sequence")
        first = next(iter(variants.kinds.values()))
        common = first.fields[: first.fields.index(first.by_name[MARKERS["delegation"]])]
        for field in common:
            self.element(sequence, field)
        choice = SubElement(sequence, "xs:choice")
        for kind, record in variants.kinds.items():
            branch = SubElement(choice, "xs:sequence")
            for field in record.fields[len(common) :]:
                marks = shape.markers().get(field.element)
                self.element(branch, field, marks)
                if marks and marks != kind:
                    branch[-1].set("minOccurs", "0")

    def type(self, field: Field) -> str:
        node = field.node
        if isinstance(node, Scalar):
            return self.simple(node, field)
        record = cast("Record", node)
        if record.name not in self.types:
            kind = self.types[record.name] = Element("xs:complexType", {"name": record.name})
            _documented(kind, record.description)
            self.content(kind, record)
        return record.name

    def marker(self, field: Field, kind: MessageType) -> str:
        """The type of a marker element: the field's, and the attribute that tells the type of the message."""
        name = f"marker-{field.element}"
        if name not in self.types:
            self.types[name] = Element("xs:complexType", {"name": name})
            simple = isinstance(field.node, Scalar)
            extended = _extended(
                self.types[name], "xs:simpleContent" if simple else "xs:complexContent", self.type(field)
            )
            fixed = {"name": MARKER_ATTRIBUTE, "type": "xs:token", "fixed": shape.type_scalar().word(kind)}
            SubElement(extended, "xs:attribute", fixed)
        return name

    def simple(self, scalar: Scalar, field: Field) -> str:
        """The name of the type of a single value; equal limits share a type."""
        base, facets = _facets(scalar)
        if not facets:
            return base
        key = (base, *facets)
        if key not in self.names:
            name = {"boolean": "flag", "time": "time", "string": "words" if scalar.free else ""}.get(scalar.kind)
            name = name or field.element
            if name in self.types:
                raise ValueError(f"two types of the name {name}")
            self.names[key] = name
            self.types[name] = Element("xs:simpleType", {"name": name})
            restriction = SubElement(self.types[name], "xs:restriction", {"base": base})
            for facet, value in facets:
                SubElement(restriction, f"xs:{facet}", {"value": value})
        return self.names[key]


def _facets(scalar: Scalar) -> tuple[str, list[tuple[str, str]]]:
    if scalar.values:
        return "xs:token", [("enumeration", scalar.word(value)) for value in scalar.values]
    limits = [
        ("minInclusive", None if scalar.least is None else str(scalar.least)),
        ("maxInclusive", None if scalar.most is None else str(scalar.most)),
    ]
    ranged = [(facet, value) for facet, value in limits if value is not None]
    match scalar.kind:
        case "string" if scalar.free:
            # XML itself keeps out the characters that the pattern of a text keeps out.
            return "xs:string", [("minLength", str(scalar.min_length))] if scalar.min_length else []
        case "string":
            return "xs:token", [("pattern", _pattern(scalar.pattern or ".*"))]
        case "integer":
            return "xs:integer", [("pattern", _pattern(INTEGER_PATTERN)), *ranged]
        case "number":
            return "xs:double", [("pattern", _pattern(NUMBER_PATTERN)), *ranged]
        case "boolean":
            return "xs:boolean", [("pattern", "true|false")]
        case "time":
            return "xs:dateTime", [("pattern", _pattern(TIME_PATTERN))]


def _pattern(pattern: str) -> str:
    """The pattern for XML Schema, where a pattern always means the whole of a value."""
    return re.sub(r"^\^|\\Z$", "", pattern)


def _extended(parent: Element, content: str, base: str) -> Element:
    return SubElement(SubElement(parent, content), "xs:extension", {"base": base})


def _documented(element: Element, text: str) -> None:
    annotation = Element("xs:annotation")
    SubElement(annotation, "xs:documentation").text = text
    element.insert(0, annotation)


def _tie_type_to_payload(root: Element) -> None:
    """The type must be that of a marker, and each marker that is no one else's must be of the type."""
    payloads = shape.payloads()
    markers = [payloads[kind].by_name[marker] for kind, marker in MARKERS.items()]
    everyone = _paths(markers)
    own = _paths(each for each in markers if sum(each.element in record.elements for record in payloads.values()) == 1)
    _constraint(root, "key", "payload-kind", everyone, f"@{MARKER_ATTRIBUTE}")
    _constraint(root, "keyref", "type-has-its-payload", "type", ".", refer="payload-kind")
    _constraint(root, "key", "type", "type", ".")
    _constraint(root, "keyref", "payload-has-its-type", own, f"@{MARKER_ATTRIBUTE}", refer="type")


def _paths(markers: Iterable[Field]) -> str:
    return "|".join(f"payload/{each.element}" for each in markers)


def _constraint(root: Element, kind: str, name: str, selector: str, field: str, **refer: str) -> None:
    constraint = SubElement(root, f"xs:{kind}", {"name": name, **refer})
    SubElement(constraint, "xs:selector", {"xpath": selector})
    SubElement(constraint, "xs:field", {"xpath": field})
