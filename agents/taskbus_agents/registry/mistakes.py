"""A mistake in an agent's definition: where it stands, what is wrong, and what to do about it."""

from __future__ import annotations

import difflib
from dataclasses import dataclass
from typing import TYPE_CHECKING

from taskbus.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence
    from pathlib import Path

_SHOWN = 60
_TOLD = 50


@dataclass(frozen=True, slots=True)
class Mistake:
    """One mistake. `name` is that of the agent whose definition it spoils, where it is known; `line` 0 is of what is
    not written yet.
    """

    file: Path
    line: int
    message: str
    advice: str = ""
    name: str | None = None

    @property
    def told(self) -> str:
        """Where, and what."""
        return f"{self.file}, line {self.line}: {self.message}" if self.line else f"{self.name}: {self.message}"

    def __str__(self) -> str:
        """Where, what, and what to do."""
        return f"{self.told}{f' {self.advice}' if self.advice else ''}"


def raised(mistakes: Sequence[Mistake]) -> ConfigurationError:
    """All of them as one error."""
    if len(mistakes) == 1:
        (only,) = mistakes
        return ConfigurationError(only.told, advice=only.advice or None)
    told = "\n".join(f"  {mistake}" for mistake in mistakes[:_TOLD])
    more = f"\n  … and {len(mistakes) - _TOLD} more." if len(mistakes) > _TOLD else ""
    message = f"{len(mistakes)} things are wrong in the definitions of agents:\n{told}{more}"
    return ConfigurationError(message, advice="`bus agents list` shows those that are good.")


def nearest(word: str, known: Collection[str], shown: str = "{}") -> str:
    """A question whether the nearest of the known words was meant; empty where none is near."""
    near = difflib.get_close_matches(word, known, n=1)
    return f"Did you mean `{shown.format(near[0])}`?" if near else ""


def words(value: object) -> str:
    """What was found, for a message."""
    if value is None:
        return "nothing"
    if isinstance(value, dict | list):
        return f"a {'table' if isinstance(value, dict) else 'list'}"
    found = repr(str(value)) if isinstance(value, str) else str(value)
    return found if len(found) <= _SHOWN else f"{found[:_SHOWN]}…"
