"""JSON as models write it: from an object that need not be JSON to the JSON that it plainly means.

It works on the level of tokens: comments and trailing commas go, other quotation marks, unquoted keys and
Python's words are put right, what a string may not hold is escaped, and a comma comes between a value and the key
on the next line. Grammar and values are left to the strict parser. It never supplies a quotation mark, and no
bracket but the outermost one, where the code fence is closed behind it: at the end of a text that broke off, more
might have followed.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Final

from taskbus import shape, shorthand
from taskbus.envelope import MAX_BYTES
from taskbus.findings import printable
from taskbus.lenient import spelling
from taskbus.lenient.spelling import canonical

if TYPE_CHECKING:
    from collections.abc import Mapping

    from msgspec import Struct

MAX_DEPTH: Final = 32
"""How many brackets may stand within each other; an envelope has at most five."""

_CHARACTERS: Final = 256
"""How many characters a search passes in the time that a token takes."""
_TOKEN = re.compile(
    r"""(?P<space>[\s\ufeff\u200b]++)
    |(?P<comment>//[^\n]*+|/\*)
    |(?P<string>"(?:[^"\\]++|\\.)*+"|'(?:[^'\\]++|\\.)*+'|[“„](?:[^“”\\]++|\\.)*+[“”])
    |(?P<number>-?[0-9][0-9.eE+\-]*+)
    |(?P<word>[A-Za-z_$][\w$\-]*+)
    |(?P<mark>[{}\[\]:,])
    |(?P<fence>(?:```|~~~))""",
    re.VERBOSE | re.DOTALL,
)
_OTHER_SPACE = re.compile(r"[^ \t\r\n]")
_KEY = re.compile(r"\s*+:")
_IN_STRING = re.compile(r'\\u[0-9a-fA-F]{4}|\\.|[\x00-\x1f"]', re.DOTALL)
_ESCAPES: Final = frozenset('"\\/bfnrtu')
_SHORT: Final[Mapping[str, str]] = {"\n": "\\n", "\r": "\\r", "\t": "\\t", '"': '\\"'}
_WORDS: Final[Mapping[str, str]] = {"True": "true", "False": "false", "None": "null", "undefined": "null"}
_HEAD: Final = frozenset({"sender", "recipient", "context", "header"})
_HANDBACK: Final = frozenset({"outputs", "verificationresult", "nextsteps"})
_SHORT_STATUS: Final = frozenset({"success", "partial", "failure"})
_HANDOFF: Final = frozenset({"context", "goal", "tasktype"})
_VALUES: Final = frozenset({"}", "]", "string", "number", "word"})
"""What the last token of a value may be."""
_CLOSERS: Final[Mapping[str, str]] = {"{": "}", "[": "]"}


@dataclass(frozen=True, slots=True)
class Reading:
    """An object found in a text: where it ends, the JSON that it means, and what was mended.

    `envelope` is where the outermost object in it begins that has the keys of an envelope; `strange` are the keys
    of an object that would be an outcome in short without them. Where the object cannot be read, `problem` says
    what was found and what was expected at `end`; `too_deep`: it was the depth. `work` is what the reading took,
    in tokens.
    """

    end: int
    json: str
    repairs: tuple[str, ...]
    envelope: int | None
    problem: tuple[str, str] | None
    work: int
    too_deep: bool = False
    strange: tuple[str, ...] = ()


def read(text: str, start: int, *, outcome: bool = False) -> Reading:
    """Read the object that begins with the brace at `start`, at most as long as a document may be.

    With `outcome`, a completion or a question in short is known by its status or its question alone.
    """
    return _Reading(text, start, outcome=outcome).object()


def looks_like_envelope(members: Mapping[str, str]) -> bool:
    """Whether an object may be an envelope or the handoff shorthand, by its canonical keys and its type.

    Many other records have a type and a payload: the type must be one of ours, or somebody must be named.
    """
    keys = members.keys()
    typed = spelling.word(members.get("type", "-"), shape.type_scalar()) is not None
    if "payload" in keys:
        return typed or bool(keys & _HEAD)
    if typed:
        return bool(keys & _HEAD)
    if "targetagent" in keys:
        return bool(keys & _HANDOFF)
    return len(keys & _HANDBACK) > ("status" not in keys)


def strange_in_outcome(members: Mapping[str, str]) -> tuple[str, ...] | None:
    """Which keys have no place in the outcome in short that an object would be; None where it is none anyway.

    Tools report a status as well: only with our words for it, and nothing of their own, it is an outcome.
    """
    if members.get("status", "").strip().lower() in _SHORT_STATUS:
        known = _names(shorthand.Handback)
    elif members.get("question", "").strip() and "status" not in members:
        known = _names(shorthand.Ask)
    else:
        return None
    return tuple(sorted(members.keys() - known))


@cache
def _names(kind: type[Struct]) -> frozenset[str]:
    return frozenset(canonical(name) for name in kind.__struct_fields__)


class _Reading:
    def __init__(self, text: str, start: int, *, outcome: bool) -> None:
        self.outcome = outcome
        self.strange: tuple[str, ...] = ()
        self.text = text
        self.at = start
        self.limit = min(len(text), start + MAX_BYTES)
        self.out: list[str] = []
        self.open: list[tuple[str, int, dict[str, str]]] = []
        self.key = ""
        self.envelope: int | None = None
        self.work = 0
        self.last = ""
        self.repairs: dict[str, None] = {}

    def object(self) -> Reading:
        while True:
            self.work += 1
            token = _TOKEN.match(self.text, self.at, self.limit)
            if token is None or token.lastgroup == "fence":
                return self.end(token)
            problem = self.take(token)
            if problem is not None:
                return self.done(problem)
            self.at = token.end() if token[0] != "/*" else self.at
            if not self.open:
                return self.done()

    def done(self, problem: tuple[str, str] | None = None) -> Reading:
        too_deep = len(self.open) == MAX_DEPTH
        done = "".join(self.out) if problem is None else ""
        return Reading(self.at, done, tuple(self.repairs), self.envelope, problem, self.work, too_deep, self.strange)

    def end(self, token: re.Match[str] | None) -> Reading:
        """The text ends, or something stands there that no JSON has."""
        if token is None and self.at == self.limit < len(self.text):
            return self.done((f"more than {MAX_BYTES} characters", "at most as many"))
        if token is None and self.at < len(self.text):
            if self.text[self.at] in "\"'“„":
                self.work += (self.limit - self.at) // _CHARACTERS
                return self.done(("the end of the text within a string", "its closing quotation mark"))
            return self.done((f'"{printable(self.text[self.at : self.at + 20])}"', "JSON"))
        if token is None or len(self.open) > 1 or self.last not in {"}", "]", "string", "word"}:
            return self.done(("the end of the text", f'"{self.open[-1][0]}"'))
        self.close()
        self.repairs["supplied the last }"] = None
        self.out.append("}")
        return self.done()

    def take(self, token: re.Match[str]) -> tuple[str, str] | None:
        """Write one token as JSON has it; returns the problem where there is none such."""
        text = token[0]
        match token.lastgroup:
            case "space":
                self.out.append(_OTHER_SPACE.sub(" ", text))
                return None
            case "comment":
                return self.comment(text)
            case "mark":
                return self.mark(text)
            case "string":
                self.comma(token.end())
                self.out.append(self.string(text))
                self.member(text[1:-1], token.end())
            case "word":
                if (problem := self.word(text, token.end())) is not None:
                    return problem
            case _:
                self.out.append(text)
        self.last = str(token.lastgroup)
        return None

    def comment(self, text: str) -> tuple[str, str] | None:
        self.repairs["left out comments"] = None
        if text == "/*":
            end = self.text.find("*/", self.at, self.limit)
            if end < 0:
                self.work += (self.limit - self.at) // _CHARACTERS
                return "a comment that does not end", "*/"
            self.at = end + 2
        return None

    def mark(self, text: str) -> tuple[str, str] | None:
        if text in _CLOSERS:
            if len(self.open) == MAX_DEPTH:
                return f"more than {MAX_DEPTH} brackets within each other", "the few levels of an envelope"
            self.open.append((_CLOSERS[text], self.at, {}))
        elif text in "}]":
            if self.open[-1][0] != text:
                return f'"{text}"', f'"{self.open[-1][0]}"'
            self.close()
            if self.last == ",":
                self.repairs["left out trailing commas"] = None
                self.drop_comma()
        self.out.append(text)
        self.last = text
        return None

    def close(self) -> None:
        _, start, members = self.open.pop()
        if (self.envelope is None or start < self.envelope) and looks_like_envelope(members):
            self.envelope = start
        elif self.outcome and not self.open and self.envelope is None:
            strange = strange_in_outcome(members)
            self.envelope = start if strange == () else None
            self.strange = strange or ()

    def drop_comma(self) -> None:
        at = len(self.out) - 1
        while self.out[at] != ",":
            at -= 1
        del self.out[at]

    def comma(self, end: int) -> None:
        """Supply the comma between a value and the key on the next line."""
        if self.last in _VALUES and "\n" in self.out[-1] and _KEY.match(self.text, end):
            self.repairs["supplied commas between lines"] = None
            self.out.append(",")

    def string(self, text: str) -> str:
        inner = text[1:-1]
        if text[0] != '"':
            self.repairs["read other quotation marks as those of JSON"] = None
        return f'"{_IN_STRING.sub(self.escaped, inner)}"'

    def escaped(self, found: re.Match[str]) -> str:
        text = found[0]
        if text == "\\'":
            self.repairs["mended escapes"] = None
            return "'"
        if text[0] == "\\":
            if len(text) == 6 or (text[1] in _ESCAPES and text[1] != "u"):
                return text
            self.repairs["mended escapes"] = None
            return "\\\\" + (_SHORT.get(text[1]) or json.dumps(text[1])[1:-1])
        if text != '"':
            self.repairs["escaped line ends and other control characters in strings"] = None
        return _SHORT.get(text) or f"\\u{ord(text):04x}"

    def member(self, text: str, end: int) -> None:
        """Remember a key of the innermost object, and the string that is the value of a key."""
        members = self.open[-1][2]
        if self.last == ":":
            members[self.key] = text
        elif len(text) < 40 and _KEY.match(self.text, end):
            self.key = canonical(text)
            members[self.key] = ""

    def word(self, text: str, end: int) -> tuple[str, str] | None:
        if _KEY.match(self.text, end):
            self.repairs["put keys into quotation marks"] = None
            self.comma(end)
            self.out.append(f'"{text}"')
            self.member(text, end)
            return None
        if text in _WORDS:
            self.repairs["read Python's words as those of JSON"] = None
        elif text not in {"true", "false", "null", "NaN", "Infinity"}:
            return f'"{printable(text)}"', "a value of JSON"
        self.out.append(_WORDS.get(text, text))
        return None
