"""The surroundings: what an agent's program finds beside its task: its environment, its home, its key.

Keeps from it what would let it publish an outcome past the evidence, and whose home it is not to see. Called by the
shared run of agents.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Final

from taskbus.errors import Permanent

if TYPE_CHECKING:
    from collections.abc import Mapping

    from taskbus_agents.adapter import Launch
    from taskbus_agents.definition import Definition
    from taskbus_agents.workspace import Workspace

_TASK_VARIABLES: Final = ("BUS_TASK", "BUS_TOKEN", "BUS_ATTEMPT", "BUS_TRY", "BUS_PREVIOUS")
_HOMES: Final = ("XDG_CONFIG_HOME", "XDG_DATA_HOME", "XDG_CACHE_HOME", "XDG_STATE_HOME")


def environment(
    inherited: Mapping[str, str], definition: Definition, launch: Launch, workspace: Workspace
) -> dict[str, str]:
    """The environment of a run."""
    own = {name: value for name, value in inherited.items() if name not in _TASK_VARIABLES}
    if definition.home == "private":
        own = {name: value for name, value in own.items() if name not in _HOMES}
        own["HOME"] = str(workspace.home)
    own["PWD"] = str(workspace.folder)
    for name, value in {**definition.environment, **launch.environment}.items():
        if value is None:
            own.pop(name, None)
        else:
            own[name] = value
    return own


def home(inherited: Mapping[str, str], definition: Definition, workspace: Workspace) -> Path:
    """Where the program has its home. Where nobody says, there is nothing of the user's to be read."""
    return workspace.home if definition.home == "private" else Path(inherited.get("HOME") or workspace.home)


def key(inherited: Mapping[str, str], definition: Definition) -> str | None:
    """The key that the definition names a variable for. Raises Permanent where that is not set."""
    name = definition.key
    if name is None:
        return None
    found = definition.environment.get(name) or inherited.get(name)
    if not found:
        raise Permanent(f"{definition.name} has its key in {name}, which is not set in the environment of the worker.")
    return found
