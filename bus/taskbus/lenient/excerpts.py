"""Where in a model's free text an envelope may stand.

It finds `<agent-message>` blocks and JSON objects that look like an envelope or the handoff shorthand, frees
them from what stands around and in front of their lines, and passes over what was only thought. It decides
nothing about their content. It takes time in proportion to the length of the text, whatever is in it.
"""

from __future__ import annotations

import html
import json
import re
from bisect import bisect_left, bisect_right
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import accumulate
from typing import TYPE_CHECKING, Final

from taskbus.envelope import MAX_BYTES
from taskbus.errors import InvalidEnvelope, Problem
from taskbus.lenient import notation

if TYPE_CHECKING:
    from collections.abc import Iterable

_THINKING: Final = r"(?:think|thinking|thought|reasoning)"
_ROOT: Final = r"agent[-_ ]?message"
_BETWEEN: Final = r"(?:[\s>│┃|+\ufeff\u200b]|\\[nrt])*+"
_BEGUN: Final = rf"<\s*+{_ROOT}\b[^<>]*+>(?={_BETWEEN}<\s*+[A-Za-z!?])"
_OPENING = re.compile(_BEGUN, re.IGNORECASE)
# In backticks a closing tag is talked about; an opening one counts only with an element behind it anyway.
_CLOSING = re.compile(rf"(?<!`)<\s*+/\s*+{_ROOT}\s*+>", re.IGNORECASE)
_ESCAPED_CLOSING = re.compile(rf"&lt;/{_ROOT}\s*+&gt;", re.IGNORECASE)
_START = re.compile(
    rf"""(?P<thinking>^[ \t>]*+<{_THINKING}>)
    |(?P<thought>(?<!`)</{_THINKING}>(?=[ \t]*+(?:\n|\r|\Z)))
    |(?P<xml>{_BEGUN})
    |(?P<escaped>&lt;{_ROOT}\b[^<>&]{{0,200}}+&gt;(?=\s*+&lt;[A-Za-z!?]))
    |(?P<json>\{{(?=[\s>│┃|+]*+["'“„A-Za-z_$/]))""",
    re.VERBOSE | re.IGNORECASE | re.MULTILINE,
)
_THOUGHT = re.compile(rf"</{_THINKING}>", re.IGNORECASE)
_FENCE = re.compile(r"^[ \t>│┃|+]*+(?:```|~~~)", re.MULTILINE)
_MARKS = re.compile(r"[ \t>│┃|+]+\Z")
_BORDER = re.compile(r"[ \t]*[│┃|][ \t]*\Z")
_REFERENCE = re.compile(r"&(?:lt|gt|amp|quot|apos|#39|#34|#x27);")
_DOCTYPE = re.compile(rf"<!DOCTYPE\s++{_ROOT}|<!ENTITY", re.IGNORECASE)
# ECMA-48: control sequences (colours, most of all), and operating system commands such as links.
_CODE = re.compile(r"\x1b\[[0-?]*+[ -/]*+[@-~]|\x1b\][^\x07\x1b]*+(?:\x07|\x1b\\)")
_IN_STRING = re.compile(r"<[^<>]*+>\s*+\\[nrt]")
_TELLTALE = re.compile(
    r"payload|sender|recipient|target[-_]?agent|outputs|verification[-_]?result|next[-_]?steps", re.IGNORECASE
)
_BROKEN = re.compile(
    r"(?:sender|recipient|target[-_]?agent|verification[-_]?result|next[-_]?steps)[\"'”]?\s*+:\s*+[\"'“]",
    re.IGNORECASE,
)
_SHORT_TELLTALE = re.compile(rf"{_TELLTALE.pattern}|status|question", re.IGNORECASE)
_BROKEN_SHORT = re.compile(
    r"""\{\s*+["']?(?:status["']?\s*+:\s*+["'](?:success|partial|failure)\b|question["']?\s*+:\s*+["'])""",
    re.IGNORECASE,
)
_RESUME = re.compile(r"^([ \t>]*+)(?:```|~~~|\{|<)", re.MULTILINE)
_FRAME = re.compile(r"^[ \t>│┃|+]+|[ \t]*[│┃|][ \t]*$", re.MULTILINE)
_LONGEST_MARKS: Final = 200


@dataclass(frozen=True, slots=True)
class Excerpt:
    """A part of a text that may be an envelope: `text` is what it says, freed from what frames its lines.

    `start` and `end` are its places in the whole text, `line` the line of its beginning; `reading` is what
    `notation` made of it, where it is JSON. `finished`: its code fence is closed, so nothing more was to
    follow.
    """

    start: int
    end: int
    line: int
    text: str
    repairs: tuple[str, ...] = ()
    reading: notation.Reading | None = None
    finished: bool = False


class Text:
    """A model's output without its colour codes, in which excerpts are looked for.

    With `outcome`, an object with nothing but a completion or a question in short is one of them. `near` is the
    last object that only its other keys keep from that.
    """

    def __init__(self, original: str, *, outcome: bool = False) -> None:
        self.near: Excerpt | None = None
        self._outcome = outcome
        codes = [each.span() for each in _CODE.finditer(original)]
        lengths = list(accumulate(end - start for start, end in codes))
        self._codes = [start - before for (start, _), before in zip(codes, [0, *lengths], strict=False)]
        self._lengths = [0, *lengths]
        self.plain = _CODE.sub("", original) if codes else original
        self._fences = _starts(_FENCE.finditer(self.plain))
        self._telltales = _starts((_SHORT_TELLTALE if outcome else _TELLTALE).finditer(self.plain))
        self._doctypes = _starts(_DOCTYPE.finditer(self.plain))
        self._openings = _starts(_OPENING.finditer(self.plain))
        self._escaped_ends = [each.end() for each in _ESCAPED_CLOSING.finditer(self.plain)]
        self._ends = self._matched()
        # As many tokens as characters: enough to go over a dense document four times.
        self._work = len(self.plain) + 100_000
        self._no_json_before = 0

    def excerpts(self) -> list[Excerpt]:
        """Every excerpt of what was said, in order.

        Raises InvalidEnvelope for a text of too many objects without an end.
        """
        found: list[Excerpt] = []
        at = 0
        while (start := _START.search(self.plain, at)) is not None:
            excerpt: Excerpt | None = None
            at = start.end()
            match start.lastgroup:
                case "thinking":
                    end = _THOUGHT.search(self.plain, at)
                    at = end.end() if end is not None else len(self.plain)
                case "thought":
                    found.clear()
                    self.near = None
                case "json":
                    excerpt = self._object(start.start())
                case "escaped":
                    excerpt = self._escaped_block(start.start())
                case _:
                    excerpt = self._block(start.start(), found[-1].end if found else 0)
            if excerpt is not None:
                found.append(excerpt)
                at = max(at, excerpt.end)
        return self._placed(found)

    def _matched(self) -> dict[int, int]:
        """Where each block ends whose closing tag is there; blocks within blocks have their own."""
        ends: dict[int, int] = {}
        open_: list[int] = []
        closings = list(_CLOSING.finditer(self.plain))
        marks = [(at, None) for at in self._openings] + [(each.start(), each) for each in closings]
        for at, closing in sorted(marks, key=lambda mark: mark[0]):
            if closing is None:
                open_.append(at)
            elif open_:
                ends[open_.pop()] = closing.end()
        return ends

    def _block(self, start: int, after_last: int) -> Excerpt:
        end = self._ends.get(start)
        if end is None:
            after = (_next(self._openings, start + 1), _next(self._fences, start), len(self.plain))
            end = min(each for each in after if each is not None)
        finished = _FENCE.match(self.plain, end) is not None
        doctype = _next(self._doctypes, after_last)
        if doctype is not None and doctype < start:
            return Excerpt(doctype, end, 0, self.plain[doctype:end])
        text, repairs = _unwrapped(self.plain[start:end].rstrip(), self._before(start))
        if "\n" not in text and (_IN_STRING.match(text) or '=\\"' in text):
            try:
                text = json.loads(f'"{text}"', strict=False)
            except json.JSONDecodeError:
                pass  # backslashes of its own: it stands as it is
            else:
                repairs = (*repairs, "took the block out of a JSON string")
        return Excerpt(start, end, 0, text, repairs, finished=finished)

    def _escaped_block(self, start: int) -> Excerpt | None:
        end = _next(self._escaped_ends, start)
        if end is None:
            return None
        text, repairs = _unwrapped(self.plain[start:end], self._before(start))
        text = _REFERENCE.sub(lambda found: html.unescape(found[0]), text)
        return Excerpt(start, end, 0, text, (*repairs, "unescaped the whole block"))

    def _object(self, start: int) -> Excerpt | None:
        telltale = _next(self._telltales, start)
        if start < self._no_json_before or telltale is None or telltale > start + MAX_BYTES:
            return None
        marks = self._before(start)
        quoted = bool(marks.strip()) and _MARKS.match(marks) is not None
        text = self._unquoted if quoted else self.plain
        reading = self._read(text, start)
        if reading.problem is not None:
            if reading.too_deep:
                self._no_json_before = reading.end
            if _BROKEN.search(text, start, reading.end) is None and not self._breaks_off(text, start, reading):
                return None
            return Excerpt(start, self._resumed(start, reading.end), 0, "", (), reading)
        if (inner := reading.envelope) is None:
            self._no_json_before = reading.end
            if reading.strange:
                line = self.plain.count("\n", 0, start) + 1
                self.near = Excerpt(start, reading.end, line, text[start : reading.end], (), reading)
            return None
        if inner != start:
            reading = self._read(text, inner)
        repairs = (f"took away the {marks.strip()} in front of each line",) if quoted else ()
        return Excerpt(inner, reading.end, 0, text[inner : reading.end], repairs, reading)

    @cached_property
    def _unquoted(self) -> str:
        """The text with blanks for what frames its lines, so that everything keeps its place."""
        return _FRAME.sub(lambda found: " " * len(found[0]), self.plain)

    def _breaks_off(self, text: str, start: int, reading: notation.Reading) -> bool:
        """Whether an outcome in short begins here and the text ends within it."""
        ends = reading.problem is not None and reading.problem[0].startswith("the end of the text")
        return self._outcome and ends and _BROKEN_SHORT.match(text, start) is not None

    def _read(self, text: str, start: int) -> notation.Reading:
        reading = notation.read(text, start, outcome=self._outcome)
        self._work -= reading.work
        if self._work < 0:
            raise InvalidEnvelope([Problem("text", "too many objects that do not end", "one envelope")])
        return reading

    def _resumed(self, start: int, at: int) -> int:
        """Where to look on after an object that breaks off: at the next one that is no deeper in."""
        depth = len(self._before(start))
        for line in _RESUME.finditer(self.plain, at):
            if len(line[1]) <= depth:
                return line.start()
        return len(self.plain)

    def _before(self, start: int) -> str:
        """What stands in front on the same line."""
        begin = max(0, start - _LONGEST_MARKS)
        return self.plain[max(begin, self.plain.rfind("\n", begin, start) + 1) : start]

    def _placed(self, found: list[Excerpt]) -> list[Excerpt]:
        """The excerpts with their places in the original text, and their lines."""
        placed: list[Excerpt] = []
        line, at = 1, 0
        for each in found:
            line, at = line + self.plain.count("\n", at, each.start), each.start
            start, end = self._original(each.start), self._original(each.end - 1) + 1
            coloured = end - start > each.end - each.start
            repairs = ("left out colour codes", *each.repairs) if coloured else each.repairs
            placed.append(replace(each, start=start, end=end, line=line, repairs=repairs))
        return placed

    def _original(self, at: int) -> int:
        return at + self._lengths[bisect_right(self._codes, at)]


def _starts(found: Iterable[re.Match[str]]) -> list[int]:
    return [each.start() for each in found]


def _next(places: list[int], at: int) -> int | None:
    index = bisect_left(places, at)
    return places[index] if index < len(places) else None


def _unwrapped(text: str, before: str) -> tuple[str, tuple[str, ...]]:
    """Take away what every line begins with: a list's indentation, a quotation's marks, a box's sides."""
    if not _MARKS.match(before) or "\n" not in text:
        return text, ()
    first, *rest = text.split("\n")
    lines = [first]
    for line in rest:
        if line.startswith(before):
            lines.append(line[len(before) :])
        elif line.strip() in {"", before.strip()}:
            lines.append("")
        elif before.strip() and line.startswith(before.rstrip()):
            lines.append(line[len(before.rstrip()) :])
        else:
            return text, ()
    if not before.strip():
        return "\n".join(lines), ("took away the indentation of the block",)
    if before.strip(" \t>+"):
        lines = [_BORDER.sub("", line) for line in lines]
    return "\n".join(lines), (f"took away the {before.strip()} in front of each line",)
