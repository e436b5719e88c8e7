"""Kinds of work, told from the words of a step: whom an assignment of a plan's text means, and what a router looks at.

Owns the table of words. Pure; called by the reader of the text form.
"""

from __future__ import annotations

import re
from typing import Final

_WORDS: Final = re.compile(r"[a-z0-9]+")

# The first word of a step that stands here decides: "write tests" are tests, since nobody is told apart by "write".
KINDS: Final = {
    "research": ("research", "explore", "find", "investigate", "analyse", "analyze", "study", "compare", "assess"),
    "planning": ("plan", "design", "architecture", "architect", "specify", "spec"),
    "test": ("test", "tests", "testing", "coverage"),
    "documentation": ("doc", "docs", "document", "documentation", "readme", "changelog"),
    "deployment": ("deploy", "deployment", "release", "ship", "publish", "rollout"),
    "review": ("review", "verify", "check", "lint", "build", "validate", "audit", "types", "typecheck", "a11y"),
    "implementation": ("implement", "implementation", "code", "fix", "add", "refactor", "migrate", "change", "create"),
}
_KIND: Final = {word: kind for kind, words in KINDS.items() for word in words}
_ARTICLES: Final = frozenset({"the", "a", "an"})


def words(text: str) -> tuple[str, ...]:
    """The words of a text, in small letters."""
    return tuple(_WORDS.findall(text.casefold()))


def kind(text: str) -> str | None:
    """The kind of work that a text is about; None where no word of it tells."""
    return next((_KIND[word] for word in words(text) if word in _KIND), None)


def alike(one: str, other: str) -> bool:
    """Whether two words are the same but for their ending: test and tests, implement and implementation."""
    short, long = sorted((one, other), key=len)
    return one == other or (len(short) >= 4 and long.startswith(short))


def place(key: str, text: str) -> int | None:
    """At which of its words a text names a key; None where it does not."""
    wanted = [each for each in words(key) if each not in _ARTICLES] or list(words(key))
    found = words(text)
    places = [next((at for at, word in enumerate(found) if alike(want, word)), None) for want in wanted]
    known = [each for each in places if each is not None]
    return min(known) if wanted and len(known) == len(places) else None
