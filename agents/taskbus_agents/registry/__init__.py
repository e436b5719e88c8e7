"""The registry: every agent that this project defines, from bus.toml and from folders of Markdown files.

Owns where definitions are looked for and what makes them whole: defaults, short names of models, no name twice.
Every mistake names file and line, and all of them are told at once. Called by `bus agents`, `bus agent run`,
routing, plans and the swarm.
"""

from __future__ import annotations

from taskbus_agents.registry.mistakes import Mistake, raised
from taskbus_agents.registry.registry import Registry, find, read

__all__ = ["Mistake", "Registry", "find", "raised", "read"]
