"""The terms of a swarm: the table [swarm] of a policy. Every mistake is told with file, line and key."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from taskbus_projections.patterns import Patterns
from taskbus_projections.policy_file import PolicyFile

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

_KNOWN: Final = ("agents", "processes", "grace")
MOST: Final = 256
"""Processes at most."""


@dataclass(frozen=True, slots=True)
class Terms:
    """Which agents work here, as patterns of names; in how many processes, None for one per core; `grace` is in
    seconds.
    """

    agents: tuple[str, ...] = ("@*",)
    processes: int | None = None
    grace: float = 30.0


def read(path: Path) -> Terms:
    """What a policy says. Raises ConfigurationError."""
    file = PolicyFile(path)
    table = file.table("swarm", known=_KNOWN)
    found = Terms()
    names = file.texts(("swarm", "agents"), table.get("agents", list(found.agents)))
    processes = table.get("processes")
    return Terms(
        agents=tuple(file.agent(("swarm", "agents"), name) for name in names),
        processes=file.number(("swarm", "processes"), processes, least=1, most=MOST) if processes is not None else None,
        grace=file.seconds(("swarm", "grace"), table["grace"]) if "grace" in table else found.grace,
    )


def chosen(known: Iterable[str], wanted: Iterable[str], unwanted: Iterable[str] = ()) -> list[str]:
    """Those of the names that match one of the wanted patterns, and none of the unwanted."""
    here, elsewhere = (Patterns((pattern, True) for pattern in patterns) for patterns in (wanted, unwanted))
    return [name for name in sorted(known) if here.find(name) and not elsewhere.find(name)]
