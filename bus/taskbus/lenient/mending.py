"""Mending: from a plain document with a model's own names and spellings to one of the right shape.

Names are matched by the shape of the model, values read by `spelling`, and whatever was read otherwise than
it stands is listed. What cannot be read stays as it is, so that validation refuses it in its place; only what
the format has no place for is left out, and listed with its content.
"""

from __future__ import annotations

import json
import re
from functools import cache
from typing import TYPE_CHECKING, Any, Final, cast

from taskbus import shape
from taskbus.envelope import Artifact, Gate
from taskbus.findings import Finding, Form, Path, Repeated, place, printable, shown
from taskbus.lenient import spelling
from taskbus.lenient.spelling import ALIASES, TRANSPARENT, canonical
from taskbus.shape import Field, Record, Scalar, Variants

if TYPE_CHECKING:
    from collections.abc import Mapping

_ABSENT: Final = object()
_LEFT_OUT_SHOWN: Final = 200


class Mending:
    """One pass over a document; `repairs` says what was read otherwise, `found` what cannot be right."""

    def __init__(self, form: Form) -> None:
        self.form: Form = form
        self.repairs: list[str] = []
        self.found: list[Finding] = []

    def document(self, plain: object, record: Record) -> object:
        """Mend a whole document, which should have the shape `record`."""
        if not isinstance(plain, dict | Repeated):
            return plain
        return self._record(cast("dict[str, object] | Repeated", plain), record, ())

    def _note(self, path: Path, what: str) -> None:
        self.repairs.append(f"{place(path, self.form)}: {what}")

    def _own(self, field: Field) -> str:
        return field.name if self.form == "json" else field.element

    def _record(self, value: dict[str, object] | Repeated, record: Record, path: Path) -> dict[str, object]:
        said = self._gathered(value, record, path)
        if record is shape.record(Gate):
            self._gate(said, path)
        elif record is shape.record(Artifact):
            self._artifact(said, path)
        if self.form == "xml":
            ranks = [record.fields.index(record.by_name[name]) for name in said if name in record.by_name]
            if record.text is None and ranks != sorted(ranks):
                self._note(path, "put the elements in order")
        plain: dict[str, object] = {}
        for field in record.fields:
            if field.name in said:
                mended = self._field(said[field.name], field, (*path, field), plain)
                if mended is not _ABSENT:
                    plain[field.name] = mended
        plain.update({name: said[name] for name in said if name not in record.by_name})
        return plain

    def _gathered(self, value: dict[str, object] | Repeated, record: Record, path: Path) -> dict[str, object]:
        """The members under the names of the fields that they belong to."""
        members = value
        if isinstance(members, Repeated):
            for name in members.names:
                known = _names(record).get(canonical(name))
                self.found.append(Finding((*path, known or printable(name)), "it more than once", "it once"))
            members = members.plain
        said: dict[str, object] = {}
        strangers: list[tuple[str, object]] = []
        for name, each in members.items():
            field = _names(record).get(canonical(name))
            if field is None:
                strangers.append((name, each))
                continue
            if name != self._own(field):
                self._note(path, f'read the name "{printable(name)}" as {self._own(field)}')
            self._put(said, field.name, each, path)
        for name, each in strangers:
            self._stranger(name, each, record, path, said)
        return said

    def _put(self, said: dict[str, object], name: str, value: object, path: Path) -> None:
        if name in said and said[name] != value:
            self.found.append(Finding((*path, name), "it more than once, not the same", "it once"))
        said.setdefault(name, value)

    def _stranger(self, name: str, value: object, record: Record, path: Path, said: dict[str, object]) -> None:
        spelt = canonical(name)
        alias = next((record.by_name[each] for each in ALIASES.get(spelt, ()) if each in record.by_name), None)
        if alias is not None:
            self._note(path, f'read the name "{printable(name)}" as {self._own(alias)}')
            self._put(said, alias.name, value, path)
        elif spelt in TRANSPARENT and isinstance(value, dict):
            self._note(path, f'took what stands in "{printable(name)}" out of it')
            for each, content in self._gathered(cast("dict[str, object]", value), record, path).items():
                self._put(said, each, content, path)
        elif (field := _listing(record, spelt)) is not None:
            self._note(path, f'put "{printable(name)}" into {self._own(field)}')
            said[field.name] = [*_listed(said.get(field.name, [])), *_listed(value)]
        elif (nest := _nest(record, spelt, said)) is not None:
            self._move(name, value, nest, path, said)
        elif _is_marker(record, spelt):
            # The mark of another type of message: which of the two is meant is for the sender to say.
            said[name] = value
        elif value not in (None, "", [], {}):
            content = json.dumps(value, ensure_ascii=False, default=str)
            self._note(path, f'left out "{printable(name)}": {printable(content, _LEFT_OUT_SHOWN)}')

    def _move(self, name: str, value: object, nest: Field, path: Path, said: dict[str, object]) -> None:
        """Put a member into the part of the record in which it belongs."""
        inner = said.get(nest.name) or dict[str, object]()
        members = cast("dict[str, object]", inner) if isinstance(inner, dict) else None
        if members is None or any(canonical(each) == canonical(name) for each in members):
            self.found.append(Finding((*path, nest, printable(name)), "it in two places", "it once"))
            return
        self._note(path, f'moved "{printable(name)}" into {self._own(nest)}')
        said[nest.name] = {**members, name: value}

    def _field(self, value: object, field: Field, path: Path, before: Mapping[str, object]) -> object:
        if value is None:
            return _ABSENT
        if field.item is not None:
            return self._list(value, field, path)
        node = field.node
        if isinstance(node, Variants):
            kind = node.kinds.get(cast("Any", before.get("type")))
            return self._nested(value, kind, field, path) if kind is not None else value
        if isinstance(node, Record):
            return self._nested(value, node, field, path)
        return self._scalar(value, node, field, path)

    def _nested(self, value: object, record: Record, field: Field, path: Path) -> object:
        if record.text is not None and not isinstance(value, dict | Repeated):
            is_path = record is shape.record(Artifact) and self.form == "json"
            value = {"path" if is_path else record.text.name: value}
        if isinstance(value, str) and not field.required and spelling.says_nothing(value):
            if value.strip():
                self._note(path, f"left out {shown(value)}")
            return _ABSENT
        if not isinstance(value, dict | Repeated):
            return value
        mended = self._record(cast("dict[str, object] | Repeated", value), record, path)
        return mended if mended or field.required else _ABSENT

    def _list(self, value: object, field: Field, path: Path) -> object:
        if isinstance(value, str) and spelling.says_nothing(value):
            if value.strip():
                self._note(path, f"read {shown(value)} as an empty list")
            return _ABSENT
        if isinstance(value, str) and (lines := spelling.bullets(value)) is not None:
            self._note(path, "read lines of text as a list")
            value = lines
        elif not isinstance(value, list):
            self._note(path, "read one value as a list of it")
        items: list[object] = []
        for index, each in enumerate(_listed(cast("object", value))):
            where = (*path, index)
            if each is None or (isinstance(each, str) and not each.strip(spelling.BLANK)):
                continue
            if isinstance(field.node, Record):
                brief = field.brief is not None and isinstance(each, str)
                item = each if brief else self._nested(each, field.node, field, where)
            else:
                item = self._scalar(each, cast("Scalar", field.node), field, where)
            if item is not _ABSENT:
                items.append(item)
        return items

    def _scalar(self, value: object, scalar: Scalar, field: Field, path: Path) -> object:
        if scalar.free:
            return self._text(value, path)
        if isinstance(value, bool) and scalar.values:
            value = "true" if value else "false"
        if isinstance(value, int) and not isinstance(value, bool) and scalar.kind == "string":
            value = str(value)
        if not isinstance(value, str):
            return value
        read = _value(value, scalar)
        if spelling.says_nothing(value) and not (scalar.values and read is not None):
            if value.strip(spelling.BLANK):
                self._note(path, f"left out {shown(value)}")
            return _ABSENT
        if field.name == "id" and not re.match(scalar.pattern or "", str(read)) and len(path) == 1:
            self._note(path, f"left out {shown(value)}, which is no UUIDv7")
            return _ABSENT
        if read is None:
            return value
        if not self._is_plain(value.strip(), read, scalar):
            own = scalar.word(read) if isinstance(read, str) and self.form == "xml" else read
            self._note(path, f"read {shown(value)} as {shown(own)}")
        return read

    def _is_plain(self, value: str, read: object, scalar: Scalar) -> bool:
        """Whether the strict reader of this form would have read the same."""
        match read:
            case str():
                return value == (scalar.word(read) if self.form == "xml" else read)
            case bool():
                return self.form == "xml" and value == ("true" if read else "false")
            case _:
                return self.form == "xml" and value.replace(".", "").isdecimal()

    def _text(self, value: object, path: Path) -> object:
        if isinstance(value, list):
            parts = _listed(cast("object", value))
            if not parts or not all(isinstance(each, str) for each in parts):
                return parts or _ABSENT
            self._note(path, "joined a list into one text")
            value = "\n".join(cast("list[str]", parts))
        if not isinstance(value, str):
            return value
        if not value.strip(spelling.BLANK):
            return _ABSENT
        text = spelling.visible(value)
        if text != value:
            self._note(path, "wrote characters that XML cannot carry as \\x.. or \\u....")
        return text

    def _gate(self, said: dict[str, object], path: Path) -> None:
        outcome = said.get("outcome")
        if not isinstance(outcome, str) or (read := spelling.gate(outcome)) is None:
            return
        word, note = read
        if note is not None:
            self._note(path, f"read {shown(outcome)} as {word}, with a note")
            before = said.get("note")
            said["note"] = f"{before}; {note}" if isinstance(before, str) and before.strip() else note
            outcomes = shape.record(Gate).by_name["outcome"].scalar
            said["outcome"] = outcomes.word(word) if self.form == "xml" else word

    def _artifact(self, said: dict[str, object], path: Path) -> None:
        """A file without a path whose text is one word: that is its path, as in the shorthand."""
        summary = said.get("summary")
        if "path" not in said and isinstance(summary, str) and len(summary.split()) == 1:
            if self.form == "xml":
                self._note(path, f"read {shown(summary.strip())} as the path")
            said["path"] = summary.strip()
            del said["summary"]


def _value(text: str, scalar: Scalar) -> object:
    if scalar.values:
        return spelling.word(text, scalar)
    match scalar.kind:
        case "integer":
            return spelling.integer(text)
        case "number":
            return spelling.number(text)
        case "boolean":
            return {"true": True, "false": False, None: None}[spelling.word(text, scalar)]
        case "time":
            return spelling.time(text)
        case "string":
            is_name = scalar.pattern == shape.envelope().by_name["sender"].scalar.pattern
            return spelling.name(text) if is_name else spelling.bare(text)


def _listed(value: object) -> list[object]:
    return cast("list[object]", value) if isinstance(value, list) else [value]


@cache
def _names(record: Record) -> Mapping[str, Field]:
    """The fields of a record by both of their names."""
    return {canonical(name): each for each in record.fields for name in (each.name, each.element)}


def _listing(record: Record, spelt: str) -> Field | None:
    """The list of which this is the name of an item."""
    found = [each for each in record.fields if each.item is not None and canonical(each.item) == spelt]
    return found[0] if len(found) == 1 else None


def _nest(record: Record, spelt: str, said: Mapping[str, object]) -> Field | None:
    """The required part of a record, or of a part of it, in which a field of this name belongs."""
    for each in record.fields:
        inner = each.node
        if isinstance(inner, Variants):
            kind = said.get("type")
            read = spelling.word(kind, shape.type_scalar()) if isinstance(kind, str) else None
            inner = inner.kinds[cast("Any", read)] if read is not None else each.node
        if not each.required or each.item is not None or not isinstance(inner, Record):
            continue
        if spelt in _names(inner) or _listing(inner, spelt) or _nest(inner, spelt, {}):
            return each
    return None


def _is_marker(record: Record, spelt: str) -> bool:
    payloads = cast("Variants", shape.envelope().by_name["payload"].node).kinds.values()
    return record in payloads and any(canonical(name) == spelt for name in shape.markers())
