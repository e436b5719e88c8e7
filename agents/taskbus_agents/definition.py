"""The definition of an agent: who it is, which program it is, on which terms it works.

Made by the registry from bus.toml and from Markdown files; read by adapters, routing and the swarm. Pure.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Literal, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

Permission: TypeAlias = Literal["read", "edit", "bypass"]
"""What an agent may do without being asked: look only; change files in its working folder, the default; anything."""
WorkspaceKind: TypeAlias = Literal["own", "as-is", "copy", "worktree"]
"""Where a delivery is worked on: an empty folder of its own; the folder itself; a copy of it; a git worktree of it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Definition:
    """One agent. Times are in seconds, money is in microdollars; `place` is where it was defined, for errors.

    `model` is the model's name as the program takes it, `provider` who runs it, as caps and prices name it; None
    where the program chooses. `base_url` is where the program finds its models instead of its usual place, `key` the
    environment variable with the key for it. `home` says whether the program sees its user's home, with that user's
    login, or a private one made for each run. `hold` is what is reserved for a run; None to estimate it. `unpriced`
    says whether a model without a price may run.
    """

    name: str
    adapter: str
    description: str = ""
    instructions: str = ""
    provider: str | None = None
    model: str | None = None
    tools: tuple[str, ...] = ()
    task_types: tuple[str, ...] = ()
    command: tuple[str, ...] = ()
    permission: Permission = "edit"
    workspace: WorkspaceKind = "own"
    folder: Path | None = None
    base_url: str | None = None
    key: str | None = None
    home: Literal["user", "private"] = "user"
    environment: Mapping[str, str] = field(default_factory=dict[str, str])
    hold: int | None = None
    unpriced: bool = False
    coordinator: str | None = None
    concurrency: int = 1
    attempts: int = 3
    lease: float = 30.0
    timeout: float | None = None
    silence: float | None = None
    hard_limit: float | None = None
    place: str = ""

    def running(self, provider: str | None, model: str | None) -> Definition:
        """The same with the model that a route names; None for its own.

        What is reserved for a run is said of its own model: for another one the policy and the prices say it.
        """
        if model is None or (model == self.model and provider in (None, self.provider)):
            return self
        return replace(self, provider=provider or self.provider, model=model, hold=None)
