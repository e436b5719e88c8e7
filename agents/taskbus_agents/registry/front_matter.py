"""Front matter: the fields at the beginning of a Markdown file, between two lines of `---`, each with its line.

A small part of YAML: fields with texts, lists and one level of fields below them. A scalar is the text that stands
there, so that a name may be `yes` or `1`. A description in one line may have colons in it, for which YAML alone refuses
it: many fleets have such, and it means the line. Anchors, aliases, tags and deep nesting are refused before anything is
built of them. Raises Malformed, and nothing else. Called by the registry.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, cast

if TYPE_CHECKING:
    from collections.abc import Iterator

    from yaml.events import Event

LARGEST: Final = 65_536
"""The most characters of front matter."""
_DEEPEST: Final = 4
_FENCE: Final = re.compile(r"---[ \t]*")
_END: Final = re.compile(r"(?:---|\.\.\.)[ \t]*")
# A text in one line that begins like one: with no sign of YAML's, and nothing indented below it.
_DESCRIPTION: Final = re.compile(
    r"^(description:[ \t]+)((?![-?:,\[\]{}#&*!|>'\"%@`])\S.*)$(?!\s*\n[ \t]+\S)", re.MULTILINE
)


class Plain(str):
    """A scalar that stands there without quotes: it may be meant as a number or as yes or no."""

    __slots__ = ()


@dataclass(frozen=True, slots=True)
class Given:
    """A value as it was written, and the line in which it stands."""

    value: object
    line: int


class Malformed(Exception):
    """The text has no front matter that can be read."""

    def __init__(self, line: int, message: str, advice: str = "") -> None:
        super().__init__(message)
        self.line, self.message, self.advice = line, message, advice


def read(text: str) -> tuple[dict[str, Given], str]:
    """The fields of a text, and what stands below them. Line ends may be those of any system."""
    lines = text.splitlines()
    if not lines or not _FENCE.fullmatch(lines[0]):
        raise Malformed(
            1,
            "there is no front matter.",
            "Begin the file with a line ---, then lines such as name: docs-writer, then a line ---.",
        )
    end = next((at for at, line in enumerate(lines[1:], start=1) if _END.fullmatch(line)), None)
    if end is None:
        raise Malformed(1, "the front matter has no end.", "Close it with a line --- before the instructions.")
    matter = "\n".join(lines[1:end])
    if len(matter) > LARGEST:
        raise Malformed(1, f"the front matter has more than {LARGEST} characters.", "Put the text below it.")
    return _fields(matter), "\n".join(lines[end + 1 :]).strip()


def _fields(matter: str) -> dict[str, Given]:
    import yaml  # only whoever has such files needs it

    # The parser of libyaml, where PyYAML was built with it, is several times as fast.
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    try:
        try:
            return _Builder(yaml.parse(matter, Loader=loader)).document()
        except yaml.YAMLError:
            matter = _DESCRIPTION.sub(_quoted, matter)  # line by line, so that the lines of other mistakes stay
            return _Builder(yaml.parse(matter, Loader=loader)).document()
    except yaml.YAMLError as error:
        raise _malformed(error, matter) from error
    except RecursionError as error:
        raise Malformed(2, "it is nested too deeply.") from error


def _quoted(found: re.Match[str]) -> str:
    text = found[2].rstrip().replace("'", "''")
    return f"{found[1]}'{text}'"


def _malformed(error: Exception, matter: str) -> Malformed:
    mark, context = getattr(error, "problem_mark", None), getattr(error, "context_mark", None)
    if context is not None and (mark is None or mark.line > matter.count("\n")):
        mark = context  # what is missing is missed at the end, and began before it
    position = getattr(error, "position", None)
    line = mark.line + 2 if mark is not None else 2
    if mark is None and isinstance(position, int):
        line += matter.count("\n", 0, position)
    problem = str(getattr(error, "problem", None) or getattr(error, "reason", None) or error)
    advice = 'Write a text with a colon or a sign in it in quotes: description: "…".'
    rows = matter.split("\n")
    if 0 <= line - 2 < len(rows) and "\t" in rows[line - 2]:
        advice = "Indent with spaces: YAML takes no tabs."
    return Malformed(line, f"this is no YAML: {problem.splitlines()[0]}.", advice)


class _Builder:
    """Makes the fields of the events of a parser, and refuses what only YAML's cleverness needs."""

    def __init__(self, events: Iterator[Event]) -> None:
        self._events = events

    def document(self) -> dict[str, Given]:
        from yaml import events as kinds

        found: dict[str, Given] | None = None
        for event in self._events:
            if isinstance(event, kinds.DocumentStartEvent) and found is not None:
                raise Malformed(_line(event), "there are two documents.", "Leave only one.")
            if isinstance(event, kinds.StreamStartEvent | kinds.DocumentStartEvent | kinds.DocumentEndEvent):
                continue
            if isinstance(event, kinds.StreamEndEvent):
                break
            given = self._value(event, 1)
            if isinstance(given.value, str) and not given.value.strip():
                found = {}
                continue
            if not isinstance(given.value, dict):
                raise Malformed(given.line, "the front matter has no fields.", "Write lines such as name: docs-writer.")
            found = cast("dict[str, Given]", given.value)
        return found or {}

    def _value(self, event: Event, depth: int) -> Given:
        from yaml import events as kinds

        line = _line(event)
        if isinstance(event, kinds.AliasEvent) or getattr(event, "anchor", None):
            raise Malformed(line, "an anchor or alias stands here.", "Write the value out; quote a text with & or *.")
        if getattr(event, "tag", None):
            raise Malformed(line, "a tag stands here.", "Leave it out; quote a text that begins with !.")
        if depth > _DEEPEST:
            raise Malformed(line, "it is nested too deeply.", "A field has a text, a list, or fields with texts.")
        if isinstance(event, kinds.ScalarEvent):
            return Given(event.value if event.style else Plain(event.value), line)
        if isinstance(event, kinds.SequenceStartEvent):
            items: list[object] = []
            while not isinstance(following := next(self._events), kinds.SequenceEndEvent):
                items.append(self._value(following, depth + 1).value)
            return Given(items, line)
        return Given(self._mapping(depth), line)

    def _mapping(self, depth: int) -> dict[str, Given]:
        from yaml import events as kinds

        fields: dict[str, Given] = {}
        while not isinstance(following := next(self._events), kinds.MappingEndEvent):
            key = self._value(following, depth + 1)
            if not isinstance(key.value, str):
                raise Malformed(key.line, "the name of a field is no text.", "Write lines such as name: docs-writer.")
            value = self._value(next(self._events), depth + 1)
            if (before := fields.get(str(key.value))) is not None:
                raise Malformed(
                    key.line, f"`{key.value}` stands twice, first in line {before.line}.", "Leave one of them out."
                )
            # The line of the field's name: a text of several lines may begin below it.
            fields[str(key.value)] = Given(value.value, key.line)
        return fields


def _line(event: Event) -> int:
    mark = event.start_mark
    return mark.line + 2 if mark is not None else 2
