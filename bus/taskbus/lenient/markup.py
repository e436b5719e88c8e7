"""Markup as models write it: from an `<agent-message>` block that need not be XML to a plain document.

What is a tag is told by the shape of the format, so that bare ampersands, comparisons, generics and HTML stay
text. A tag around text is never supplied, since nobody could tell where the text ended; a container's may be,
where the next one out is closed. The values keep the model's own names and spellings: `mending` reads them.
"""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import replace
from functools import cache, lru_cache
from html.entities import html5
from typing import TYPE_CHECKING, Final, TypeAlias, cast

from taskbus import shape
from taskbus.errors import InvalidEnvelope, Problem
from taskbus.findings import Repeated, printable
from taskbus.lenient.spelling import ALIASES, BLANK, TRANSPARENT, canonical
from taskbus.shape import Field, Record, Scalar, Variants

if TYPE_CHECKING:
    from collections.abc import Mapping

Members: TypeAlias = "list[tuple[str, object]]"

_OPENING = re.compile(
    r"""<\s*+([A-Za-z_][\w.:\-]{0,63}+)
    ((?:\s++[\w.:\-]++\s*+=\s*+(?:"[^"]*+"|'[^']*+'|[“”][^“”<>]*+[“”]|(?:[^\s"'“”<>/]|/(?!>))++))*+)
    \s*+(/?)\s*+>""",
    re.VERBOSE,
)
_ATTRIBUTE = re.compile(
    r"""([\w.:\-]++)\s*+=\s*+(?:"([^"]*+)"|'([^']*+)'|[“”]([^“”<>]*+)[“”]|((?:[^\s"'“”<>/]|/(?!>))++))"""
)
_CLOSING = re.compile(r"<\s*+/\s*+([A-Za-z_][\w.:\-]*+)\s*+>")
_TAG = re.compile(r"<\s*+(/?)\s*+([A-Za-z_][\w.:\-]*+)")
_ANY = re.compile(r"<\s*+(/?)\s*+([A-Za-z_][\w.:\-]*+)[^<>]*+>")
_ROOT_CUT = re.compile(r"</[^<>]{0,40}\Z")
_BLANKS = re.compile(f"[{BLANK}]*+")
_REFERENCE = re.compile(r"&(?:#([0-9]{1,7})|#[xX]([0-9A-Fa-f]{1,6})|([A-Za-z][A-Za-z0-9]{1,31}));")
_BARE = re.compile(r"&(?!#?[A-Za-z0-9]{1,32};)|<")
_PREDEFINED: Final = frozenset({"lt", "gt", "amp", "quot", "apos"})
_CDATA: Final = "<![CDATA["
_UNKNOWN: Final = "took references to unknown entities as text"
_LINES = re.compile(r"\r\n?")


def parse(block: str, line: int, *, finished: bool) -> tuple[dict[str, object] | Repeated, list[str]]:
    """Read a block from its opening tag on; `line` is where it begins in the text.

    `finished` says that its writer went on behind it: then the closing tag of the root may be missing. At the
    end of a text that broke off, more elements might have followed.

    Returns the plain document, with the names and values as they are written, and what was mended. Raises
    InvalidEnvelope where the structure is in doubt. Takes time in proportion to the length of the block.
    """
    reading = _Reading(_LINES.sub("\n", block), line, finished)
    return reading.document(), list(reading.repairs)


class _Reading:
    def __init__(self, text: str, line: int, finished: bool) -> None:
        self.text = text
        self.line = line
        self.finished = finished
        self.at = 0
        self.open: list[str] = []
        self.repairs: dict[str, None] = {}

    def document(self) -> dict[str, object] | Repeated:
        root = _OPENING.match(self.text)
        if root is None:
            raise self.wrong(0, "an opening tag that is no tag", f"<{shape.ROOT}>")
        self.at = root.end()
        members = self.attributes(root[2])
        if not root[3]:
            members += self.children(_merged_envelope(), root[1])
        return self.merged(members)

    def note(self, repair: str) -> None:
        self.repairs[repair] = None

    def wrong(self, at: int, found: str, expected: str) -> InvalidEnvelope:
        number = self.line + self.text.count("\n", 0, at)
        return InvalidEnvelope([Problem(f"line {number}", found, expected)])

    def unclosed(self, name: str, at: int) -> InvalidEnvelope:
        return self.wrong(at, f"<{printable(name)}> without its closing tag", f"</{printable(name)}>")

    def children(self, scope: Record | Field, name: str) -> Members:
        """What stands in a container, up to and with its closing tag."""
        self.open.append(canonical(name))
        members: Members = []
        while (tag := self.next_tag(name)) is not None:
            members += self.child(tag, scope)
        self.open.pop()
        return members

    def next_tag(self, name: str) -> re.Match[str] | None:
        """The next opening tag of a container; None at its end."""
        while True:
            at = self.at = self.past_blanks()
            if self.text.startswith("<!--", at):
                self.at = self.after("-->", at, "a comment that does not end")
            elif self.text.startswith("<?", at):
                self.at = self.after("?>", at, "a processing instruction that does not end")
            elif closing := _CLOSING.match(self.text, at):
                self.close(closing, name)
                return None
            elif (opening := _OPENING.match(self.text, at)) is not None:
                self.at = opening.end()
                return opening
            elif at == len(self.text) or (_ROOT_CUT.match(self.text, at) and self.is_root_cut(at)):
                self.end(name)
                return None
            else:
                rest = printable(self.text[at : at + 80].strip())
                raise self.wrong(at, f'"{rest}" in <{name}>', "an element")

    def past_blanks(self) -> int:
        return cast("re.Match[str]", _BLANKS.match(self.text, self.at)).end()

    def after(self, mark: str, at: int, found: str) -> int:
        end = self.text.find(mark, at)
        if end < 0:
            raise self.wrong(at, found, mark)
        return end + len(mark)

    def close(self, closing: re.Match[str], name: str) -> None:
        found = canonical(closing[1])
        if found == self.open[-1]:
            self.at = closing.end()
        elif found in self.open:
            self.note(f"supplied the closing tag of <{name}>")
        else:
            raise self.wrong(closing.start(), f"</{printable(closing[1])}>", f"</{name}>")

    def is_root_cut(self, at: int) -> bool:
        return canonical(shape.ROOT).startswith(canonical(self.text[at:].lstrip("</ ")))

    def end(self, name: str) -> None:
        """The text ends: only the closing tag of the root may be missing, if it was begun or text follows."""
        if len(self.open) > 1 or not (self.finished or self.text.startswith("</", self.at)):
            raise self.wrong(len(self.text), "the end of the text", f"</{name}>")
        self.at = len(self.text)
        self.note(f"supplied the closing tag of <{name}>")

    def child(self, tag: re.Match[str], scope: Record | Field) -> Members:
        name, closed = tag[1], bool(tag[3])
        attributes = self.attributes(tag[2])
        node = _node(scope, name)
        if node is None:
            if canonical(name) in TRANSPARENT and isinstance(scope, Record):
                return [*attributes, *([] if closed else self.children(scope, name))]
            return [(name, self.skipped(tag, attributes))]
        if not isinstance(node, Record):
            for attribute, _ in attributes:
                self.note(f'left out the attribute "{printable(attribute)}" of <{printable(name)}>')
        if closed:
            return [(name, self.merged(attributes) if isinstance(node, Record) else "")]
        if isinstance(node, Scalar) or not self.begins_with_tag(node):
            text = self.leaf(name)
            if isinstance(node, Record) and node.text is not None:
                return [(name, self.merged([*attributes, (node.text.element, text)]))]
            return [(name, text)]
        members = self.children(node, name)
        if isinstance(node, Field):
            return [(name, [value for _, value in members])]
        return [(name, self.merged([*attributes, *members]))]

    def begins_with_tag(self, node: Record | Field) -> bool:
        """Whether an element that may have children has any; one that may have text, only children it knows."""
        at = self.past_blanks()
        if isinstance(node, Record) and node.text is not None:
            first = _OPENING.match(self.text, at)
            return first is not None and _node(node, first[1]) is not None
        return at == len(self.text) or (self.text[at] == "<" and not self.text.startswith(_CDATA, at))

    def leaf(self, name: str) -> str:
        """The text of an element, up to and with its closing tag."""
        closing, start = _closing(canonical(name)), self.at
        raw: list[str] = []
        text: list[str] = []
        at = start
        while (found := closing.search(self.text, at)) is not None:
            raw.append(self.text[at : found.start()])
            text.append(self.decoded(raw[-1], name))
            if found[0] != _CDATA:
                self.at = found.end()
                self.unambiguous("".join(raw), name, start)
                return "".join(text)
            at = self.after("]]>", found.end(), "a CDATA section that does not end")
            text.append(self.text[found.end() : at - 3])
        raise self.unclosed(name, start)

    def unambiguous(self, raw: str, name: str, start: int) -> None:
        """Refuse a text that runs over the tags of other elements: its own closing tag is missing."""
        if "<" not in raw:
            return
        balance: Counter[str] = Counter()
        for tag in _TAG.finditer(raw):
            balance[canonical(tag[2])] += -1 if tag[1] else 1
        if balance[canonical(name)] > 0 or any(balance[each] < 0 for each in self.open):
            raise self.unclosed(name, start)

    def skipped(self, tag: re.Match[str], attributes: Members) -> str:
        """An element that the format does not have, as it is written; empty where it says nothing."""
        end = tag.end()
        if not tag[3]:
            end, self.at = self.matching(tag), tag.end()
        content, self.at = self.text[tag.end() : end], end
        says = attributes or _ANY.sub("", content).strip()
        return self.text[tag.start() : end] if says else ""

    def matching(self, tag: re.Match[str]) -> int:
        """Where an element ends, tags of the same name within it counted."""
        depth, same = 1, canonical(tag[1])
        for each in _ANY.finditer(self.text, tag.end()):
            if canonical(each[2]) == same and not each[0].endswith("/>"):
                depth += -1 if each[1] else 1
                if depth == 0:
                    return each.end()
        raise self.unclosed(tag[1], tag.start())

    def attributes(self, text: str) -> Members:
        return [
            (name, self.decoded("".join(values), name))
            for name, *values in cast("list[tuple[str, str, str, str]]", _ATTRIBUTE.findall(text))
        ]

    def decoded(self, text: str, name: str) -> str:
        """Text with its references resolved; a bare ampersand or < stands for itself."""
        if _BARE.search(text):
            self.note(f"took bare & or < in <{printable(name)}> as text")
        return _REFERENCE.sub(self.character, text) if "&" in text else text

    def character(self, reference: re.Match[str]) -> str:
        decimal, hexadecimal, name = reference.groups()
        if name is not None:
            if name not in _PREDEFINED:
                self.note("resolved references of HTML" if f"{name};" in html5 else _UNKNOWN)
            return html5.get(f"{name};", reference[0])
        code = int(decimal) if decimal is not None else int(hexadecimal, 16)
        return chr(code) if code <= 0x10FFFF else reference[0]

    def merged(self, members: Members) -> dict[str, object] | Repeated:
        """The members by name; one that is said twice and alike counts once."""
        plain: dict[str, object] = {}
        repeated: list[str] = []
        for name, value in members:
            listed = _is_item(name)
            if name not in plain:
                plain[name] = [value] if listed else value
            elif listed:
                cast("list[object]", plain[name]).append(value)
            elif plain[name] == value:
                self.note(f"read <{printable(name)}>, which stands twice and alike, once")
            elif name not in repeated:
                repeated.append(name)
        return Repeated(plain, tuple(repeated)) if repeated else plain


@cache
def _merged_envelope() -> Record:
    """The envelope with one payload of all types' fields: what holds text does not depend on the type."""
    head = shape.envelope()
    kinds = cast("Variants", head.by_name["payload"].node).kinds.values()
    payload = Record(
        name="Payload",
        description="",
        fields=tuple({field.name: field for kind in kinds for field in kind.fields}.values()),
    )
    fields = tuple(replace(field, node=payload) if field.name == "payload" else field for field in head.fields)
    return Record(name=head.name, description=head.description, fields=fields)


@cache
def _elements(record: Record) -> Mapping[str, Scalar | Record | Field]:
    """What an element of each name holds in a record, or in a part of it: a value, a record, or a list."""
    found: dict[str, Scalar | Record | Field] = {}
    for field in record.fields:
        node = cast("Scalar | Record", field.node)
        for name in (field.name, field.element):
            found[canonical(name)] = field if field.item is not None else node
        if field.item is not None:
            found.setdefault(canonical(field.item), node)
    for field in record.fields:
        if field.item is None and isinstance(field.node, Record) and field.node.text is None:
            for name, node in _elements(field.node).items():
                found.setdefault(name, node)
    return found


def _node(scope: Record | Field, name: str) -> Scalar | Record | Field | None:
    if isinstance(scope, Field):
        # In a list every element is an item, whatever its name.
        return cast("Scalar | Record", scope.node)
    spelt = canonical(name)
    return _elements(scope).get(spelt) or (shape.type_scalar() if spelt in ALIASES else None)


def _is_item(name: str) -> bool:
    return canonical(name) in _items()


@cache
def _items() -> frozenset[str]:
    """Names that only items of lists have."""
    records = [_merged_envelope()]
    fields: list[Field] = []
    for record in records:
        fields += record.fields
        records += [each.node for each in record.fields if isinstance(each.node, Record)]
    single = {canonical(name) for each in fields for name in (each.name, each.element)}
    return frozenset(canonical(each.item) for each in fields if each.item is not None) - single


def _spelt(name: str) -> str:
    return r"[-_.]?".join(re.escape(each) for each in name)


@lru_cache(maxsize=256)
def _closing(name: str) -> re.Pattern[str]:
    return re.compile(rf"{re.escape(_CDATA)}|<\s*+/\s*+{_spelt(name)}\s*+>", re.IGNORECASE)
