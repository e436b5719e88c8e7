"""Short names of models: what `opus` or `inherit` in a definition means.

A policy says it, in its table [models] or by a tier of that name; without one, the word goes to the program as it
stands. Called by the registry and by routing.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from taskbus_projections.patterns import split
from taskbus_projections.policy import Policy
from taskbus_projections.policy_file import PolicyFile

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

INHERIT: Final = "inherit"
"""Whatever model the program runs by itself."""


@dataclass(frozen=True, slots=True)
class Models:
    """The short names of a policy, in lower case, each with provider and model."""

    known: Mapping[str, tuple[str, str]] = field(default_factory=dict[str, tuple[str, str]])

    @classmethod
    def load(cls, path: Path | None) -> Models:
        """Those of a policy; none without one. Raises ConfigurationError with file, line and key of every mistake."""
        return PolicyFile.whole(path, cls.read) if path is not None else cls()

    @classmethod
    def read(cls, file: PolicyFile) -> Models:
        """Those of a file that is open. Raises ConfigurationError for the first mistake."""
        known = {tier.name.casefold(): tier.model for tier in Policy.read(file).tiers if tier.model is not None}
        for name, value in file.table("models").items():
            keys = ("models", name)
            provider, model = split(file.text(keys, value))
            if not provider or not model:
                raise file.wrong(keys, value, 'provider and model, such as "anthropic/claude-opus-4-5"')
            known[name.casefold()] = (provider, model)
        return cls(known)

    def meant(self, word: str) -> tuple[str | None, str | None]:
        """Provider and model that a word in a definition means; None for what it does not say."""
        if word.casefold() == INHERIT:
            return None, None
        return self.known.get(word.casefold(), (None, word))
