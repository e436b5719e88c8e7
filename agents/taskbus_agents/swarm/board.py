"""The board of a swarm: what each of its agents is doing, folded from the lines of its crews.

Owns the counts and their words; prints nothing. Called by `bus swarm`, which shows it.
"""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TYPE_CHECKING, Literal, TypeAlias

from taskbus_agents.swarm.lines import Broken, Ready, Settled, Started

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from taskbus_agents.swarm.lines import Line
    from taskbus_agents.swarm.swarm import Crew

State: TypeAlias = Literal["starting", "idle", "working", "restarting", "broken", "ended"]


@dataclass(slots=True)
class Row:
    """One agent. `tasks` are those that it has in hand, `counts` what became of deliveries, by result."""

    agent: str
    state: State = "starting"
    tasks: list[str] = field(default_factory=list[str])
    counts: Counter[str] = field(default_factory=Counter[str])
    last: str = ""

    def plain(self) -> dict[str, object]:
        """The row as `--json` prints it."""
        counts = {name: self.counts[name] for name in ("succeeded", "failed", "asked", "escalated", "parked", "read")}
        return {"agent": self.agent, "state": self.state, "tasks": self.tasks, **counts, "last": self.last}


class Board:
    """All agents of a swarm, by name; `left_out` are those that cannot work for it, each with the reason."""

    def __init__(self, agents: Iterable[str], left_out: Mapping[str, str] = MappingProxyType({})) -> None:
        rows = [Row(agent) for agent in agents] + [Row(agent, "broken", last=why) for agent, why in left_out.items()]
        self.rows: Mapping[str, Row] = {row.agent: row for row in sorted(rows, key=lambda row: row.agent)}

    def hear(self, crew: Crew, line: Line) -> None:
        """Note what a crew told."""
        match line:
            case Ready(agents=agents):
                for agent in agents:
                    self._row(agent).state = "idle"
            case Started(agent=agent, task=task):
                row = self._row(agent)
                if task not in row.tasks:  # each try of a delivery is told
                    row.tasks.append(task)
                row.state = "working"
            case Settled(agent=agent, task=task):
                row = self._row(agent)
                if task in row.tasks:
                    row.tasks.remove(task)
                row.counts[line.result] += 1
                row.state = "working" if row.tasks else "idle"
                row.last = f"{line.result}: {line.message}" if line.message else f"{line.result} {task}"
            case Broken(agent=agent, text=text):
                self._row(agent).state, self._row(agent).last = "broken", text
            case _:
                for agent in (line.agent,) if line.agent else crew.agents:
                    self._row(agent).last = line.text

    def note(self, crew: Crew, now: float) -> None:
        """Note that a crew has begun, died or ended; `now` is by anyio's clock."""
        for agent in crew.agents:
            row = self._row(agent)
            if row.state == "broken":
                continue
            if crew.pid is not None:
                row.last = "started again" if row.state == "restarting" else row.last
                row.state = "starting"
            elif crew.is_over:
                row.state, row.tasks = "ended", []
            elif crew.again is not None:
                row.state, row.tasks = "restarting", []
                died = "its process died" if crew.deaths < 2 else f"its process died {crew.deaths} times in a row"
                row.last = f"{died}; starts again in {max(0, math.ceil(crew.again - now))} s"

    @property
    def counts(self) -> Counter[str]:
        """What became of the deliveries of all agents."""
        found: Counter[str] = Counter()
        for row in self.rows.values():
            found += row.counts
        return found

    def _row(self, agent: str) -> Row:
        return self.rows[agent]
