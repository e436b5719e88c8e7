"""Findings: everything that is wrong with a plain document, in plain words.

It walks a document beside the shape that it should have, and says of each difference where it is, what stands
there and what should. Only `taskbus.validation` and the readers call it, and only for documents that msgspec
has refused.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import datetime
from functools import cache
from typing import TYPE_CHECKING, Any, Final, Literal, TypeAlias, cast

from taskbus import shape
from taskbus.envelope import TIME_PATTERN, Artifact, Context
from taskbus.shape import Field, Record, Scalar, Variants

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

Form: TypeAlias = Literal["json", "xml"]
Path: TypeAlias = tuple[Field | int | str, ...]
"""The way to a value: fields of the shape, indexes of lists, names that the shape does not have."""

_SHOWN: Final = 60
"""How many characters of a wrong value are shown."""
_ESCAPES: Final = {"\n": r"\n", "\r": r"\r", "\t": r"\t"}
_TIME = re.compile(TIME_PATTERN)


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that is wrong: where, what stands there, what should; the line, where the reader knows it."""

    path: Path
    found: str
    expected: str
    line: int | None = None


@dataclass(frozen=True, slots=True)
class Misread:
    """Stands in a plain document for what could not be turned into a value; `text` is what was written."""

    text: str


@dataclass(frozen=True, slots=True)
class Repeated:
    """Stands in a plain document for an object in which `names` occur more than once."""

    plain: dict[str, object]
    names: tuple[str, ...]


def findings(plain: object, record: Record, form: Form) -> list[Finding]:
    """All that is wrong with `plain`, in the order of the shape; nothing where it is right."""
    walk = _Walk(form)
    walk.record(plain, record, ())
    return walk.found


def place(path: Path, form: Form) -> str:
    """A path in words: `payload.artifacts[0].path`, `agent-message/payload/artifacts/file[1]/@path`."""
    text = shape.ROOT if form == "xml" else ""
    item = ""
    for step in path:
        if form == "json":
            text += f"[{step}]" if isinstance(step, int) else f".{step if isinstance(step, str) else step.name}"
        elif isinstance(step, int):
            text += f"/{item}[{step + 1}]"
        elif isinstance(step, str):
            text += f"/{step}"
        else:
            text += {"element": f"/{step.element}", "attribute": f"/@{step.element}", "text": ""}[step.place]
            item = step.item or ""
    return text.lstrip(".") or "document"


def shown(value: object) -> str:
    """A value in a few characters, safe to print."""
    match value:
        case None:
            return "null"
        case bool():
            return "true" if value else "false"
        case str():
            return f'"{printable(value)}"'
        case dict() | Repeated():
            return "an object"
        case list() | tuple():
            return "a list"
        case Misread():
            return printable(value.text)
        case _:
            return printable(repr(value))


def printable(text: str, most: int = _SHOWN) -> str:
    """The beginning of `text`, with whatever does not print (or would steer a terminal) escaped."""
    kept = text if len(text) <= most else text[: most - 1]
    escaped = "".join(each if each.isprintable() else _ESCAPES.get(each, f"\\u{ord(each):04x}") for each in kept)
    return escaped if kept is text else escaped + "…"


def expected(node: Scalar | Record | Variants, form: Form) -> str:
    """What may stand in a place, in words."""
    if not isinstance(node, Scalar):
        required = [] if isinstance(node, Variants) else [each for each in node.fields if each.required]
        names = ", ".join(_name(each, form) for each in required)
        kind = "an object" if form == "json" else "an element"
        return f"{kind} with {names}" if names else kind
    if node.values:
        words = [node.word(each) if form == "xml" else f'"{each}"' for each in node.values]
        return words[0] if len(words) == 1 else "one of " + ", ".join(words)
    match node.kind:
        case "integer":
            return f"a whole number from {node.least} to {node.most}"
        case "number":
            return f"a number from {node.least:g} to {node.most:g}"
        case "boolean":
            return "true or false"
        case "time":
            return "a time such as 2026-11-20T09:30:00Z, of the years 2000 to 2199"
        case "string":
            if node.free:
                return "text, not empty" if node.min_length else "text"
            return node.form or _patterns().get(node.pattern, f"text that matches {node.pattern}")


def _name(field: Field, form: Form) -> str:
    if form == "json":
        return field.name
    return {"element": f"<{field.element}>", "attribute": f"@{field.element}", "text": "text"}[field.place]


@cache
def _patterns() -> Mapping[str | None, str]:
    """What the patterns of the model mean."""
    head, context, artifact = shape.envelope(), shape.record(Context), shape.record(Artifact)
    return {
        head.by_name["id"].scalar.pattern: "a UUIDv7 such as 0199f0a2-7c4e-7d31-9b5a-3e6f1c2d4a58, in small letters",
        head.by_name["sender"].scalar.pattern: "a name such as @kilo (@, then at most 64 of A-Z a-z 0-9 . _ -)",
        context.by_name["task_id"].scalar.pattern: "an ID (at most 128 of A-Z a-z 0-9 . _ : -)",
        context.by_name["traceparent"].scalar.pattern: "a W3C traceparent, in small letters",
        artifact.by_name["sha256"].scalar.pattern: "64 hexadecimal digits, in small letters",
    }


class _Walk:
    def __init__(self, form: Form) -> None:
        self.form: Form = form
        self.found: list[Finding] = []

    def add(self, path: Path, found: str, expected: str) -> None:
        self.found.append(Finding(path, found, expected))

    def record(self, value: object, record: Record, path: Path) -> None:
        if isinstance(value, Repeated):
            for name in value.names:
                self.add((*path, record.by_name.get(name, printable(name))), "it more than once", "it once")
            value = value.plain
        if not isinstance(value, dict):
            self.add(path, shown(value), expected(record, self.form))
            return
        members = cast("dict[str, object]", value)
        for name in members:
            if name not in record.by_name:
                allowed = ", ".join(record.by_name)
                self.add((*path, printable(name)), "an unknown field", f"only {allowed}")
        for field in record.fields:
            if field.name in members:
                self.field(members[field.name], field, (*path, field), members)
            elif field.required:
                self.add((*path, field), "nothing", expected(field.node, self.form))

    def field(self, value: object, field: Field, path: Path, siblings: Mapping[str, object]) -> None:
        if value is None and field.nullable:
            return
        if field.item is None:
            self.node(value, field, path, siblings)
        elif isinstance(value, list | tuple):
            for index, each in enumerate(cast("Sequence[object]", value)):
                self.node(each, field, (*path, index), siblings)
        else:
            self.add(path, shown(value), "a list")

    def node(self, value: object, field: Field, path: Path, siblings: Mapping[str, object]) -> None:
        node = field.node
        if isinstance(node, Variants):
            kind = siblings.get("type")
            chosen = node.kinds.get(cast("Any", kind)) if isinstance(kind, str) else None
            if chosen is not None:
                self.record(value, chosen, path)
            elif not isinstance(value, dict | Repeated):
                self.add(path, shown(value), expected(node, self.form))
        elif isinstance(node, Scalar):
            self.scalar(value, node, path)
        elif field.brief is None or isinstance(value, dict | Repeated):
            self.record(cast("object", value), node, path)
        elif isinstance(value, str):
            self.scalar(value, field.brief, path)
        else:
            self.add(path, shown(value), f"{expected(field.brief, self.form)}, or {expected(node, self.form)}")

    def scalar(self, value: object, scalar: Scalar, path: Path) -> None:
        if isinstance(value, str) and scalar.free and (at := unfit(value, scalar)) is not None:
            found = f"the character U+{ord(value[at]):04X} (number {at + 1})"
            self.add(path, found, "text that XML can carry too")
            return
        if not _fits(value, scalar):
            found = f'"{shown(value)}"' if self.form == "xml" and isinstance(value, Misread) else shown(value)
            self.add(path, found, expected(scalar, self.form))


def unfit(text: str, scalar: Scalar) -> int | None:
    """Where the first character stands that the pattern of a free text does not allow, if there is one."""
    if scalar.pattern is None or re.match(scalar.pattern, text):
        return None
    allowed = re.match(scalar.pattern.removesuffix(r"\Z"), text)
    return allowed.end() if allowed else 0


def _fits(value: object, scalar: Scalar) -> bool:
    match scalar.kind:
        case "string":
            if not isinstance(value, str) or (scalar.values and value not in scalar.values):
                return False
            return len(value) >= scalar.min_length and re.match(scalar.pattern or "", value) is not None
        case "boolean":
            return isinstance(value, bool)
        case "time":
            return isinstance(value, str) and _is_time(value)
        case "integer" | "number":
            kinds = int if scalar.kind == "integer" else (int, float)
            if isinstance(value, bool) or not isinstance(value, kinds):
                return False
            least, most = scalar.least, scalar.most
            return (least is None or value >= least) and (most is None or value <= most)


def _is_time(text: str) -> bool:
    if _TIME.match(text) is None:
        return False
    try:
        datetime.fromisoformat(text)
    except ValueError:  # the 30th of February
        return False
    return True
