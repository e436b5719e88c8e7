"""Endpoints: how programs that serve any provider are told which model to take, where it is, and with which key.

Owns the names that these programs agree on. Called by the adapters of such programs.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from taskbus.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from taskbus_agents.definition import Definition

_VARIABLES: Final[Mapping[str, str]] = {
    "google": "GEMINI_API_KEY",
    "vercel": "AI_GATEWAY_API_KEY",
    "zhipu": "ZAI_API_KEY",
}


def key_variable(provider: str) -> str:
    """The environment variable in which programs look for the key of a provider."""
    return _VARIABLES.get(provider, f"{provider.upper().replace('-', '_')}_API_KEY")


def model(definition: Definition) -> str | None:
    """The model's name without its provider; None where the program chooses."""
    if definition.model is None or definition.provider is None:
        return definition.model
    return definition.model.removeprefix(f"{definition.provider}/")


def full_model(definition: Definition) -> str | None:
    """The model's name behind its provider's, as `provider/model`; None where the program chooses."""
    if definition.model is None or definition.provider is None:
        return definition.model
    return f"{definition.provider}/{model(definition)}"


def served_model(definition: Definition) -> str:
    """The model to ask of a base URL. Raises ConfigurationError where the definition names none."""
    name = model(definition)
    if name is None:
        place = definition.place or definition.name
        message = f"{place}: {definition.adapter} is given a base URL, but no model to ask for there."
        raise ConfigurationError(message, advice="Name it: model = …")
    return name


def provider(definition: Definition) -> str | None:
    """Who runs the model: by the definition, or by its model's full name; None where neither says so."""
    if definition.provider is not None:
        return definition.provider
    before, slash, _ = (definition.model or "").partition("/")
    return before if slash else None
