"""The adapters by name, imported when they are first asked for.

Owns which there are. Called by the registry, `bus agent run` and `bus agents`.
"""

from __future__ import annotations

from importlib import import_module
from types import MappingProxyType
from typing import TYPE_CHECKING, Final, cast

from taskbus.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from taskbus_agents.adapter import Adapter

COMMAND: Final = "command"
"""The name for any program that keeps to the contract of `bus agent run`; it is no adapter, but needs none."""
ADAPTERS: Final[Mapping[str, str]] = MappingProxyType(
    {
        "acp": "taskbus_agents.adapters.acp:Acp",
        "aider": "taskbus_agents.adapters.aider:Aider",
        "claude": "taskbus_agents.adapters.claude:Claude",
        "cline": "taskbus_agents.adapters.cline:Cline",
        "codex": "taskbus_agents.adapters.codex:Codex",
        "copilot": "taskbus_agents.adapters.copilot:Copilot",
        "gemini": "taskbus_agents.adapters.gemini:Gemini",
        "kilo": "taskbus_agents.adapters.kilo:Kilo",
        "opencode": "taskbus_agents.adapters.opencode:OpenCode",
        "pi": "taskbus_agents.adapters.pi:Pi",
        "qwen": "taskbus_agents.adapters.qwen:Qwen",
    }
)
"""Each adapter's name, with the module and the class that it is."""
PROVIDERS: Final[Mapping[str, str]] = MappingProxyType({"claude": "anthropic", "codex": "openai", "gemini": "google"})
"""Who runs the models of those that have models of their own, where a definition does not say."""


def adapter(name: str) -> Adapter:
    """The adapter of this name. Raises ConfigurationError where there is none."""
    place = ADAPTERS.get(name)
    if place is None:
        raise ConfigurationError(
            f"There is no adapter {name!r}.",
            advice=f"Use one of {', '.join(ADAPTERS)}, or {COMMAND!r} for a program of your own.",
        )
    module, _, kind = place.partition(":")
    make = cast("Callable[[], Adapter]", getattr(import_module(module), kind))
    return make()
