"""How models spell names, words, times and numbers: from each spelling to the value that it plainly means.

Every function returns None for what it cannot read, or could read in two ways: the caller leaves that as it
stands, and validation refuses it there. Nothing here knows where in an envelope a value belongs.
"""

from __future__ import annotations

import re
import unicodedata
from functools import cache
from typing import TYPE_CHECKING, Final

from taskbus import shape
from taskbus.envelope import Gate

if TYPE_CHECKING:
    from collections.abc import Mapping

    from taskbus.shape import Scalar

BLANK: Final = " \t\r\n\u00a0\u2009\u200b\u200c\u200d\u2060\ufeff"
"""White space, and characters that show nothing."""
ALIASES: Final[Mapping[str, tuple[str, ...]]] = {
    "from": ("sender",),
    "fromagent": ("sender",),
    "to": ("recipient",),
    "toagent": ("recipient",),
    "targetagent": ("recipient",),
    "file": ("path",),
    "filename": ("path",),
    "filepath": ("path",),
    "description": ("summary", "message"),
    "reason": ("decline_reason", "comment"),
}
"""Other names that leave no doubt which field is meant, in records that have such a field and not the name."""
TRANSPARENT: Final = frozenset({"header"})
"""Elements that some models put around others; what is in them belongs where they stand."""

_MARKUP: Final = "*`\"'“”„«»"
_SEPARATORS = re.compile(r"[-_.\s]+")
_NOTHING: Final = frozenset({"", "null", "none", "nil", "n/a", "na", "undefined", "-", "–", "—"})
_BULLET = re.compile(r"(?:[-*•]|[0-9]{1,2}[.)])[ \t]+")
_UNFIT = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\ud800-\udfff\ufffe\uffff]")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._\-]*\Z")
_INTEGER = re.compile(r"[0-9]{1,16}\Z")
_NUMBER = re.compile(r"[0-9]+(\.[0-9]+)?\Z")
_TIME = re.compile(
    r"(\d{4}-\d\d-\d\d)[Tt ]\s*(\d\d:\d\d)(:\d\d)?(\.\d+)?\s*(?:([Zz]|UTC|GMT)|([+-]\d\d)(?::?(\d\d))?)\Z",
    re.ASCII,
)

# What models write for the words of the format, without case, blanks, hyphens and signs.
_OTHERWISE: Final[Mapping[str, tuple[str, ...]]] = {
    "true": ("yes",),
    "false": ("no",),
    "success": ("true", "yes", "successful", "succeeded"),
    "partial": ("partially", "partialsuccess"),
    "failure": ("false", "no", "fail", "failed"),
    "passed": ("pass", "ok"),
    "failed": ("fail",),
    "skipped": ("skip",),
    "not-triggered": ("n/a", "notapplicable"),
    "accepted": ("accept", "approved"),
    "rejected": ("reject",),
    "normal": ("medium",),
    "acknowledgment": ("acknowledgement", "ack"),
    "status": ("statusupdate",),
    "completion": ("taskcomplete",),
}
_GOOD: Final = frozenset({"true", "success", "passed", "accepted"})
_BAD: Final = frozenset({"false", "failure", "failed", "rejected"})
_GOOD_SIGNS: Final = frozenset("✅✔✓☑🟢👍")
_BAD_SIGNS: Final = frozenset("❌✗✘✖🔴⛔🚫👎☒")
_IDLE_SIGNS: Final = frozenset("⏭➖⚪⏸⊘–—-_.!" + BLANK + _MARKUP + "\ufe0f")
# What may stand between an outcome and its note; a hyphen only between blanks, since it also joins words.
_NOTE = re.compile(r"\s+[-–—]\s+|\s*[:;,|]\s*|\s*\(")


def canonical(name: str) -> str:
    """A name without case, hyphens, underscores, dots and blanks: `task_ID` and `TaskId` are `taskid`."""
    return _SEPARATORS.sub("", unicodedata.normalize("NFKC", name).strip(BLANK)).lower()


def bare(text: str) -> str:
    """A value without the blanks, quotation marks and Markdown emphasis around it, in plain characters."""
    return unicodedata.normalize("NFKC", text).strip(BLANK + _MARKUP)


def says_nothing(text: str) -> bool:
    """Whether a value stands for none: empty, null, none, N/A, a dash."""
    return text.strip(BLANK + _MARKUP).lower() in _NOTHING


def bullets(text: str) -> list[str] | None:
    """The items of a text in which every line is one, with a dash, a dot or a number in front."""
    lines = [line.strip(BLANK) for line in text.split("\n") if line.strip(BLANK)]
    found = [_BULLET.match(line) for line in lines]
    return [line[each.end() :] for line, each in zip(lines, found, strict=True) if each] if all(found) else None


def visible(text: str) -> str:
    r"""The text with every character that XML cannot carry written out, as `\x00` or `\ud83d`."""
    return _UNFIT.sub(lambda m: f"\\x{ord(m[0]):02x}" if m[0] < "\x80" else f"\\u{ord(m[0]):04x}", text)


def word(text: str, scalar: Scalar) -> str | None:
    """The one of the scalar's values (of a boolean: true, false) that the text names; signs must agree."""
    letters: list[str] = []
    signs: set[bool] = set()
    for each in unicodedata.normalize("NFKC", text):
        if each.isalnum() or each == "/":
            letters.append(each.lower())
        elif each in _GOOD_SIGNS or each in _BAD_SIGNS:
            signs.add(each in _GOOD_SIGNS)
        elif each not in _IDLE_SIGNS:
            return None
    spelt = "".join(letters)
    for value, spellings in _spellings(scalar).items():
        good, bad = value in _GOOD, value in _BAD
        if (good and False in signs) or (bad and True in signs):
            continue
        if spelt in spellings if spelt else signs and (good or bad):
            return value
    return None


def gate(text: str) -> tuple[str, str | None] | None:
    """The outcome of a quality gate, and the note that stands behind it."""
    outcomes = shape.record(Gate).by_name["outcome"].scalar
    if (whole := word(text, outcomes)) is not None:
        return whole, None
    if (split := _NOTE.search(text)) is None:
        return None
    outcome = word(text[: split.start()], outcomes)
    note = text[split.end() :].strip(BLANK)
    if split[0].endswith("("):
        note = note.removesuffix(")").strip(BLANK)
    return (outcome, note or None) if outcome is not None else None


def name(text: str) -> str:
    """An agent's name, with its @."""
    found = bare(text)
    return f"@{found}" if _NAME.match(found) else found


def time(text: str) -> str | None:
    """A moment, spelt as the format wants it; None without an offset from UTC."""
    found = _TIME.match(bare(text))
    if found is None:
        return None
    day, minute, second, fraction, utc, hours, minutes = found.groups()
    offset = "Z" if utc else f"{hours}:{minutes or '00'}"
    return f"{day}T{minute}{second or ':00'}{(fraction or '')[:7]}{offset}"


def integer(text: str) -> int | None:
    """A whole number."""
    found = bare(text)
    return int(found) if _INTEGER.match(found) else None


def number(text: str) -> float | None:
    """A number; a percentage is a fraction of one."""
    found = bare(text)
    digits = found.removesuffix("%").rstrip(BLANK)
    if _NUMBER.match(digits) is None:
        return None
    return float(digits) / 100 if digits != found else float(digits)


@cache
def _spellings(scalar: Scalar) -> Mapping[str, frozenset[str]]:
    values = scalar.values or ("true", "false")
    types = scalar is shape.type_scalar()
    found: dict[str, frozenset[str]] = {}
    for value in values:
        spelt = {canonical(value), canonical(scalar.word(value)), *_OTHERWISE.get(value, ())}
        if types:
            spelt |= {f"task{each}" for each in spelt}
        # The signs within the XML words of the model ("✓ Passed") count as signs.
        found[value] = frozenset("".join(c for c in each if c.isalnum() or c == "/") for each in spelt)
    return found
