"""Patterns: which of several, with `*` and `?` in them, a name belongs to. Case does not count.

The most specific one wins: a pattern without wildcards, else the one with the most other characters, else the first.
Square brackets stand for themselves, for some models have them in their names. Called by the policy.
"""

from __future__ import annotations

import re
from fnmatch import translate
from typing import TYPE_CHECKING, Generic, TypeVar

if TYPE_CHECKING:
    from collections.abc import Iterable

T = TypeVar("T")


class Patterns(Generic[T]):
    """What belongs to each pattern. Finding a name a second time costs a look into a dictionary."""

    def __init__(self, items: Iterable[tuple[str, T]]) -> None:
        # Sorted is stable: of those that are alike, the first stays first.
        ordered = sorted(items, key=lambda item: _weight(item[0]), reverse=True)
        self._ordered = [(_expression(pattern), value) for pattern, value in ordered]
        self._known: dict[tuple[str, ...], T | None] = {}
        self.alike = all(pattern == "*" for pattern, _ in ordered)
        """Whether what belongs to a name does not depend on the name."""

    def find(self, *names: str) -> T | None:
        """What belongs to the most specific pattern that one of the names has; None where none has."""
        if names not in self._known:
            self._known[names] = next(
                (value for form, value in self._ordered if any(form.fullmatch(name) for name in names)), None
            )
        return self._known[names]


def is_pattern(text: str) -> bool:
    """Whether it has a wildcard."""
    return "*" in text or "?" in text


def split(model: str) -> tuple[str, str]:
    """Provider and model of what is written `provider/model`; the model may have more slashes."""
    provider, _, name = model.partition("/")
    return provider, name


def _weight(pattern: str) -> tuple[bool, int]:
    return not is_pattern(pattern), sum(character not in "*?" for character in pattern)


def _expression(pattern: str) -> re.Pattern[str]:
    # It never goes back to a star that it has matched (CPython 3.11): no pattern makes the search slow.
    return re.compile(translate(pattern.replace("[", "[[]")), re.IGNORECASE)
