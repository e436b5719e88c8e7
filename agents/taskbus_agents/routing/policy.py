"""The routing policy: the parts of a policy file that say who gets which work, and on which terms.

One reader for them beside `taskbus_projections.policy`, which has tiers, prices and caps of the same file. What it
says is data, and none of it stands in the code. Called by routing, plans and the swarm.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from taskbus_agents.registry.models import Models
from taskbus_agents.routing import terms
from taskbus_agents.routing.rungs import ladder as ladder_of
from taskbus_agents.routing.rungs import matrix
from taskbus_projections.patterns import Patterns
from taskbus_projections.policy import Policy
from taskbus_projections.policy_file import PolicyFile

if TYPE_CHECKING:
    from pathlib import Path

    from taskbus.settings import Settings
    from taskbus_agents.definition import Definition
    from taskbus_agents.routing.rungs import Row, Rung
    from taskbus_agents.routing.terms import Complexity, Limit, Terms

_NONE: Final = terms.Complexity()


@dataclass(frozen=True, slots=True)
class RoutingPolicy:
    """What one file says of routing. `version` is the first 12 digits of its SHA-256; `money` is the rest of it."""

    path: Path
    version: str
    money: Policy
    models: Models
    ladder: tuple[Rung, ...]
    rows: tuple[Row, ...]
    terms: Terms
    _by_type: Patterns[str]

    @classmethod
    def load(cls, path: Path) -> RoutingPolicy:
        """Read a file. Raises ConfigurationError with file, line and key of every mistake."""
        return PolicyFile.whole(path, cls.read)

    @classmethod
    def read(cls, file: PolicyFile) -> RoutingPolicy:
        """The same of a file that is open. Raises ConfigurationError for the first mistake."""
        money, models = Policy.read(file), Models.read(file)
        ladder = ladder_of(file, models)
        rows = matrix(file, models, ladder)
        return cls(
            path=file.path,
            version=file.digest,
            money=money,
            models=models,
            ladder=ladder,
            rows=rows,
            terms=terms.read(file),
            _by_type=Patterns((row.task_type, row.task_type) for row in rows),
        )

    @classmethod
    def of(cls, settings: Settings) -> RoutingPolicy | None:
        """The policy that the settings name; None where they name none. Raises ConfigurationError."""
        return cls.load(settings.policy) if settings.policy else None

    @classmethod
    def needed(cls, settings: Settings) -> RoutingPolicy:
        """The same, where nothing can be done without one."""
        return cls.load(Policy.needed(settings).path)

    @property
    def rungs(self) -> tuple[Rung, ...]:
        """All of the ladder, then all of the matrix."""
        return (*self.ladder, *(rung for row in self.rows for rung in row.rungs))

    def routes(self, task_type: str) -> tuple[Rung, ...]:
        """The rungs of the matrix for a task type: those of the most specific pattern that it has."""
        pattern = self._by_type.find(task_type)
        return tuple(rung for row in self.rows if row.task_type == pattern for rung in row.rungs)

    def complexity(self, name: str | None) -> Complexity:
        """What work of a complexity gets; the usual one for None. Raises KeyError for one that has no table."""
        wanted = name or self.terms.usual
        return self.terms.complexity[wanted] if wanted else _NONE

    def limit(self, name: str) -> Limit | None:
        """The limits of an agent, or of a provider."""
        return self.terms.limits.find(name)

    def may_bypass(self, agent: str) -> bool:
        """Whether an agent may do anything without being asked, where its definition says so."""
        return bool(self.terms.bypass.find(agent))

    def is_free(self, definition: Definition) -> bool:
        """Whether a rung of the ladder says that what an agent is defined to run costs nothing."""
        return any(
            rung.paid is False
            and rung.agent == definition.name
            and rung.model in (None, definition.model)
            and rung.provider in (None, definition.provider)
            for rung in self.rungs
        )
