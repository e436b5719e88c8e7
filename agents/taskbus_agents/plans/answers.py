"""Answers: what a person's words mean, to a question for approval, to the failure of a step or to a deadline.

Owns the words. To begin something again costs money: where an answer may mean that nobody wants that, it is unclear,
and is asked back. Pure.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final, Literal, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

Chosen: TypeAlias = Literal["retry", "skip", "stop", "unclear"]

_YES: Final = frozenset({"yes", "y", "ok", "okay", "approve", "approved", "accept", "accepted", "go", "true", "+1"})
_NO: Final = frozenset({"no", "n", "nope", "reject", "rejected", "deny", "denied", "decline", "false", "-1"})
_FAILURES: Final[Mapping[str, Chosen]] = {
    "retry": "retry",
    "again": "retry",
    "skip": "skip",
    "stop": "stop",
    "cancel": "stop",
    "abort": "stop",
}
_ON: Final = frozenset({"on", "ahead", "continue", "proceed", "sure", "fine", "then"})
_AGAIN: Final = frozenset({"retry", "again"})
_FILLING: Final = _AGAIN | {
    *("it", "this", "that", "them", "all", "both", "everything", "the", "run", "plan", "step", "steps"),
    *("please", "now", "thanks", "thank", "you", "do", "just", "to", "at", "once"),
    *("try", "trying", "retrying", "more", "any", "anymore"),
}
"""Words that change nothing about what is decided."""
_NOT: Final = _NO | {"not", "dont", "don't", "never", "nah"}
_REFUSING: Final = re.compile(
    r"\b(?:no|nope|nah|not|nor|never|none|nobody|nothing|neither|cannot|(?:do|wo|ca|is|does|should)nt|\w+n't|without"
    r"|stop\w*|halt|cancel\w*|abort\w*|skip\w*|quit|leave|forget|ignore|drop|give (?:it )?up|enough|wait|hold|pause"
    r"|later|reject\w*|den(?:y|ied)|declined?|refuse\w*)\b"
)
"""What stands in a refusal, and in many a hint."""
_POLITE: Final = re.compile(r"^\s*please\b[\s,]*", re.IGNORECASE)
_WORD: Final = re.compile(r"[a-z0-9'+-]+")
_PART: Final = re.compile(r"[;\n]+")
_NAMED: Final = re.compile(
    r"\s*(retry|again|skip|stop|cancel|abort)\s+([a-z0-9_-]+(?:\s*,\s*[a-z0-9_-]+)*)[\s.!]*", re.IGNORECASE
)
_ENDS: Final = re.compile(r"\s*(?:$|[:,.;!(–—-]|because\b|since\b)")
"""What stands behind a decision: nothing, or a reason."""
_OTHERS: Final = re.compile(r"\b(?:retry|again|stop|cancel|abort)\b")


def approval(answer: str) -> bool | None:
    """Whether an answer says yes or no; None where its first word says neither, or a yes is followed by a refusal."""
    first = next(iter(_words(answer)), "")
    if first in _NO:
        return False
    return True if first in _YES and not _REFUSING.search(_plain(answer)) else None


def about(name: str, answer: str, known: Collection[str]) -> tuple[Chosen | None, str]:
    """What an answer decides about a failed step, and what its agent is to be told; `known` are all steps' names.

    `retry`, `skip` and `stop` decide about all that has failed, `skip lint; retry build` about those alone: None for
    any other. A refusal is `stop`. What refuses nothing is what the agents are to know when they try again, and so is
    all that stands behind `retry:`. Anything else is unclear: a single other word, or a question.
    """
    answer = _POLITE.sub("", answer)
    parts = [part for part in _PART.split(answer) if part.strip()]
    named = [found for part in parts if (found := _NAMED.fullmatch(part)) and _is_named(found, known)]
    if named:
        decided: list[tuple[Chosen, list[str]]] = [
            (_FAILURES[found[1].casefold()], _names(found[2])) for found in named
        ]
        if len(named) < len(parts) or any(each not in known for _, names in decided for each in names):
            return "unclear", ""
        return next((what for what, names in decided if name in names), None), ""
    words = _words(answer)
    if words and words[0] in _FAILURES:
        return _decided(_FAILURES[words[0]], _plain(answer).partition(words[0])[2], answer)
    if words and not set(words) - _NOT - _FILLING - _YES:
        if _NOT.intersection(words):
            return "stop", ""
        return ("retry", "") if _AGAIN.intersection(words) else _UNCLEAR
    is_asking = answer.rstrip().endswith("?") or len(answer.split()) < 2
    is_hint = not (is_asking or _is_yes(words) or _REFUSING.search(_plain(answer)))
    return ("retry", answer.strip()) if is_hint else _UNCLEAR


def goes_on(answer: str, known: Collection[str]) -> bool | None:
    """Whether a run in which nothing has failed, such as one that is over its deadline, goes on; None if unclear."""
    if _is_yes(_words(answer)):
        return True
    chosen, _ = about("", answer, known)
    return None if chosen in ("unclear", "skip") else chosen != "stop"


_UNCLEAR: Final[tuple[Chosen, str]] = ("unclear", "")


def _decided(chosen: Chosen, rest: str, answer: str) -> tuple[Chosen, str]:
    """What an answer means that begins with a decision; `rest` is what stands behind that word."""
    if chosen == "retry":
        hint = answer[len(answer) - len(rest) :].strip(" :,.;!")
        is_clear = rest.lstrip().startswith(":") or not (_REFUSING.search(rest) or rest.lstrip().startswith("?"))
        is_empty = not set(_words(rest)) - _FILLING
        return (chosen, "" if is_empty else hint) if is_clear else _UNCLEAR
    while (found := _WORD.match(rest.lstrip())) and found[0] in _FILLING:
        rest = rest.lstrip()[found.end() :]
    is_clear = _ENDS.match(rest) and not (chosen == "skip" and _OTHERS.search(rest))
    return (chosen, "") if is_clear else _UNCLEAR


def _is_yes(words: list[str]) -> bool:
    return bool(words) and words[0] in _YES | _ON and not set(words) - _YES - _ON - _FILLING


def _is_named(found: re.Match[str], known: Collection[str]) -> bool:
    """Whether a decision is about steps by their names, as `skip lint` is, and `skip it` is not."""
    names = _names(found[2])
    is_about_any = any(each in known for each in names)
    return is_about_any or (
        _FAILURES[found[1].casefold()] != "stop" and not _FILLING.issuperset(map(str.casefold, names))
    )


def _names(written: str) -> list[str]:
    return [each.strip() for each in written.split(",")]


def _plain(answer: str) -> str:
    """An answer in small letters, as long as it was, with one kind of apostrophe."""
    lower = "".join(each.lower() if len(each.lower()) == 1 else each for each in answer)
    return re.sub("[’‘´`]", "'", lower)


def _words(answer: str) -> list[str]:
    return _WORD.findall(_plain(answer))
