"""Answers: what a person's words mean, to a question for approval or to the failure of a step.

Owns the words; where none of them begins an answer, it is no decision. Pure.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final, Literal, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

Chosen: TypeAlias = Literal["retry", "skip", "stop"]

_YES: Final = frozenset({"yes", "y", "ok", "okay", "approve", "approved", "accept", "accepted", "go", "true", "+1"})
_NO: Final = frozenset({"no", "n", "nope", "reject", "rejected", "deny", "denied", "decline", "false", "-1"})
_FAILURES: Final[Mapping[str, Chosen]] = {"retry": "retry", "again": "retry", "skip": "skip", "stop": "stop"}
_WORD: Final = re.compile(r"[a-z0-9+-]+")
_PART: Final = re.compile(r"[;\n]+")
_NAMED: Final = re.compile(
    r"\s*(retry|again|skip|stop)\s+((?:[A-Za-z0-9_-]+)(?:\s*,\s*[A-Za-z0-9_-]+)*)\s*", re.IGNORECASE
)


def approval(answer: str) -> bool | None:
    """Whether an answer says yes or no; None where its first word says neither."""
    found = _WORD.search(answer.casefold())
    word = found[0] if found else ""
    return True if word in _YES else False if word in _NO else None


def about(name: str, answer: str, known: Collection[str]) -> tuple[Chosen | None, str]:
    """What an answer decides about a failed step, and what its agent is to be told; `known` are all steps' names.

    `retry`, `skip` and `stop` decide about all that has failed, `skip lint; retry build` about those alone. Anything
    else is what the agents are to know when they try again.
    """
    parts = [part for part in _PART.split(answer) if part.strip()]
    named = [(found[1].casefold(), _names(found[2])) for part in parts if (found := _NAMED.fullmatch(part))]
    if parts and len(named) == len(parts) and all(each in known for _, names in named for each in names):
        return next((_FAILURES[what] for what, names in named if name in names), None), ""
    found = _WORD.search(answer.casefold())
    word = found[0] if found else ""
    if word in _FAILURES:
        chosen = _FAILURES[word]
        rest = answer[answer.casefold().index(word) + len(word) :].strip(" :,.;")
        return chosen, rest if chosen == "retry" else ""
    return "retry", answer.strip()


def _names(written: str) -> list[str]:
    return [each.strip() for each in written.split(",")]
