"""The documentation of the wire forms: a Markdown page with a table for each part, written from the shape."""

from __future__ import annotations

from typing import cast

from taskbus import shape
from taskbus.envelope import MAX_BYTES, MessageType
from taskbus.findings import expected
from taskbus.shape import MARKER_ATTRIBUTE, ROOT, Field, Record, Scalar, Variants
from taskbus.shorthand import Handback, Handoff

_INTRODUCTION = f"""\
# The wire forms

Generated from the model (`envelope.py` and `payload.py` in `bus/taskbus`); do not edit. This writes it anew, and a
test fails when what is here differs from the model: `python -m taskbus.schema schemas`.

| file | what it describes |
| --- | --- |
| `envelope.schema.json` | the JSON form of an envelope: JSON Schema 2020-12 |
| `envelope.xsd` | the XML form of an envelope: XML Schema 1.0 |
| `delegation.schema.json`, `completion.schema.json` | the handoff shorthand: JSON Schema 2020-12 |
| `asyncapi.yaml` | the channels in which envelopes travel: AsyncAPI 3.0 |

Both forms hold the same, and either can be turned into the other and back (`bus convert`).

- A document is at most {MAX_BYTES} bytes long. JSON is in UTF-8; XML in any encoding that it declares.
- Nothing unknown may stand anywhere: no other fields, elements or attributes, no text between elements. XML
  has no namespace and no DOCTYPE; comments are passed over. JSON has no key twice.
- In XML the elements stand in the order of the tables. Text keeps its white space; around any other value
  white space does not count. The reader ignores where an editor finds the schema
  (`xsi:noNamespaceSchemaLocation`).
- Text holds any Unicode characters but those that XML cannot carry: control characters other than tab, line
  feed and carriage return; surrogates; U+FFFE and U+FFFF. They are refused in JSON too.
- Times have an offset from UTC, at most microseconds, and lie in the years 2000 to 2199.
- What is not needed may be left out; in JSON, text, numbers and objects that are not needed may also be
  `null`, unless another default is given.
- A document without `id` gets one that is derived from its timestamp and its bytes: the same document is the
  same envelope.
- The payload goes with the type. In the XML Schema, an attribute `{MARKER_ATTRIBUTE}` with a fixed value on
  the first required element of each payload keeps that rule; nobody needs to write it.
"""


def document() -> str:
    """The page."""
    head = shape.envelope()
    payload = cast("Variants", head.by_name["payload"].node)
    parts = [_INTRODUCTION, _section("The envelope", head, f"<{ROOT}>")]
    for kind, record in payload.kinds.items():
        parts.append(_section(f"Payload of type `{kind}`", record, f"<payload>` with `{_type(kind)}"))
    parts += [_section(record.name, record, None) for record in _shared(head, payload)]
    parts += [
        "## The handoff shorthand\n\nOnly JSON; `bus delegate` and `bus complete` take it.\n",
        *(_section(title, shape.record(each), None, xml=False) for title, each in _SHORTHAND),
    ]
    return "\n".join(parts)


_SHORTHAND = (("A delegation in short", Handoff), ("A completion in short", Handback))


def _type(kind: MessageType) -> str:
    return f"<type>{shape.type_scalar().word(kind)}</type>"


def _shared(head: Record, payload: Variants) -> list[Record]:
    """Every record that other records are made of, each once."""
    found: dict[str, Record] = {}

    def visit(record: Record) -> None:
        for field in record.fields:
            if isinstance(field.node, Record) and field.node.name not in found:
                found[field.node.name] = field.node
                visit(field.node)

    for record in (head, *payload.kinds.values(), *(shape.record(each) for _, each in _SHORTHAND)):
        visit(record)
    return list(found.values())


def _section(title: str, record: Record, element: str | None, *, xml: bool = True) -> str:
    where = f" In XML: `{element}`." if element else ""
    head = "| JSON | XML | holds | needed | meaning |" if xml else "| JSON | holds | needed | meaning |"
    rule = "| --- " * head.count(" | ") + "| --- |"
    rows = [_row(field, xml) for field in record.fields]
    return "\n".join([f"## {title}\n", f"{record.description}{where}\n", head, rule, *rows, ""])


def _row(field: Field, xml: bool) -> str:
    cells = [f"`{field.name}`", *([_place(field)] if xml else []), _holds(field, xml), _needed(field)]
    return f"| {' | '.join([*cells, field.description])} |"


def _place(field: Field) -> str:
    match field.place:
        case "attribute":
            return f"attribute `{field.element}`"
        case "text":
            return "the text of the element"
        case "element" if field.item is not None:
            return f"`<{field.element}>` of `<{field.item}>`"
        case "element":
            return f"`<{field.element}>`"


def _holds(field: Field, xml: bool) -> str:
    node = field.node
    if isinstance(node, Variants):
        return "the payload of the type"
    one = _scalar(node, xml) if isinstance(node, Scalar) else f"[{node.name}](#{node.name.lower()})"
    if field.brief is not None:
        one = f"{_scalar(field.brief, xml)}, or {one}"
    return one if field.item is None else f"list of: {one}"


def _scalar(scalar: Scalar, xml: bool) -> str:
    if not scalar.values:
        return expected(scalar, "json").replace("|", "\\|")
    return ", ".join(_both(value, scalar.word(value) if xml else value) for value in scalar.values)


def _both(value: str, word: str) -> str:
    return f"`{value}`" if value == word else f"`{value}` (XML `{word}`)"


def _needed(field: Field) -> str:
    if field.required:
        return "yes"
    match field.default:
        case str():
            return f"no: `{field.default}`"
        case bool():
            return f"no: `{str(field.default).lower()}`"
        case _:
            return "no"
