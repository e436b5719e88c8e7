"""The masking: keys in what programs print are written over before anybody reads, keeps or publishes it.

Some programs print the key that was refused, and a check may print its whole environment. Pure. Called by the shared
run of agents.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from taskbus_agents.checks import Checked
    from taskbus_agents.runner import Ended

_SHORTEST: Final = 6
"""Shorter ones stand in any text."""
_SHORTEST_FOUND: Final = 16
_NAMES: Final = re.compile(r"(?:KEY|TOKEN|SECRET|PASSWORD|PASSWD)\Z", re.IGNORECASE)
_IN_URL: Final = re.compile(r"://[^/@\s:]*:([^/@\s]+)@")
_OVER: Final = "***"


@dataclass(frozen=True, slots=True)
class Mask:
    """Texts that nobody is to see."""

    secrets: tuple[str, ...] = ()

    @classmethod
    def of(cls, environment: Mapping[str, str], key: str | None = None) -> Mask:
        """What looks like a secret in an environment, by the names of variables; and a key, in any case."""
        found = {key} if key is not None and len(key) >= _SHORTEST else set[str]()
        for name, value in environment.items():
            # A path is none, and is printed often.
            if _NAMES.search(name) and len(value) >= _SHORTEST_FOUND and not re.search(r"\s|^[/~.]", value):
                found.add(value)
            found |= {word for word in _IN_URL.findall(value) if len(word) >= _SHORTEST}
        return cls(tuple(sorted(found, key=len, reverse=True)))

    def text(self, text: str) -> str:
        """A text without them."""
        for secret in self.secrets:
            text = text.replace(secret, _OVER)
        return text

    def ended(self, ended: Ended) -> Ended:
        """The end of a run without them."""
        return replace(ended, stdout=self._data(ended.stdout), stderr=self._data(ended.stderr))

    def checked(self, found: Iterable[Checked]) -> list[Checked]:
        """What checks have shown, without them."""
        return [replace(each, evidence=self.text(each.evidence)) for each in found]

    def _data(self, data: bytes) -> bytes:
        for secret in self.secrets:
            data = data.replace(secret.encode(errors="surrogateescape"), _OVER.encode())
        return data
