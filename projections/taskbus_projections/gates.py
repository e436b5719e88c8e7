"""The read model `gates`: the outcomes of the five quality gates, envelope by envelope, and by day, agent and model."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Final

from taskbus_projections.steps import Follower
from taskbus_projections.sums import Sums

if TYPE_CHECKING:
    import sqlite3

    from taskbus.envelope import GateOutcome
    from taskbus_projections.model import Fact

_STORE = "INSERT INTO gates VALUES (?, ?, ?, ?, ?, ?)"
_LAYERS: Final = ("input", "hallucination", "boundary", "output", "escalation")


@dataclass(slots=True)
class _Day:
    """A row of `gate_days`."""

    day: str
    agent: str
    model: str
    layer: str
    passed: int = 0
    failed: int = 0
    skipped: int = 0
    not_triggered: int = 0


@dataclass(slots=True)
class _Total:
    """A row of `gate_totals`."""

    agent: str
    model: str
    layer: str
    passed: int = 0
    failed: int = 0
    skipped: int = 0
    not_triggered: int = 0


def _count(sums: _Day | _Total, outcome: GateOutcome) -> None:
    match outcome:
        case "passed":
            sums.passed += 1
        case "failed":
            sums.failed += 1
        case "skipped":
            sums.skipped += 1
        case "not-triggered":
            sums.not_triggered += 1


class Gates(Follower):
    """How each layer of each envelope's gates ended; whatever the lifecycle says of the envelope."""

    name = "gates"
    version = 1
    tables: ClassVar[str] = """
        CREATE TABLE gates ( -- The outcomes of quality gates, envelope by envelope.
            n INTEGER NOT NULL REFERENCES events (n), -- the envelope that reports it
            layer TEXT NOT NULL, -- input, hallucination, boundary, output or escalation
            outcome TEXT NOT NULL, -- passed, failed, skipped or not-triggered
            note TEXT, -- what was seen
            agent TEXT NOT NULL, -- who reports it
            model TEXT, -- the model of the envelope's first call, else that of the attempt; NULL where nobody said it
            PRIMARY KEY (n, layer)
        ) STRICT, WITHOUT ROWID;
        CREATE TABLE gate_days ( -- How many gates of each layer ended how on a day, by agent and model.
            day TEXT NOT NULL, -- of the report, in UTC: 2026-11-20
            agent TEXT NOT NULL, -- who reports it
            model TEXT NOT NULL, -- the model; empty where nobody said it
            layer TEXT NOT NULL, -- input, hallucination, boundary, output or escalation
            passed INTEGER NOT NULL, -- how many passed
            failed INTEGER NOT NULL, -- how many failed
            skipped INTEGER NOT NULL, -- how many were skipped
            not_triggered INTEGER NOT NULL, -- how many were not triggered
            PRIMARY KEY (day, agent, model, layer)
        ) STRICT, WITHOUT ROWID;
        CREATE TABLE gate_totals ( -- The same over all days: how many gates of each layer ended how.
            agent TEXT NOT NULL, -- who reports it
            model TEXT NOT NULL, -- the model; empty where nobody said it
            layer TEXT NOT NULL, -- input, hallucination, boundary, output or escalation
            passed INTEGER NOT NULL, -- how many passed
            failed INTEGER NOT NULL, -- how many failed
            skipped INTEGER NOT NULL, -- how many were skipped
            not_triggered INTEGER NOT NULL, -- how many were not triggered
            PRIMARY KEY (agent, model, layer)
        ) STRICT, WITHOUT ROWID;
        CREATE VIEW gate_rates AS -- How often each layer passes and fails, by agent and model.
            SELECT
                agent, -- who reports it
                model, -- the model; empty where nobody said it
                layer, -- input, hallucination, boundary, output or escalation
                passed, -- how many passed
                failed, -- how many failed
                skipped, -- how many were skipped
                not_triggered, -- how many were not triggered
                round(1.0 * failed / nullif(passed + failed, 0), 4) AS failed_share -- from 0 to 1
            FROM gate_totals;
    """
    indexes: ClassVar[str] = """
        CREATE INDEX gates_failed ON gates (n) WHERE outcome = 'failed';
        CREATE INDEX gates_by_agent ON gates (agent, outcome, n);
    """

    def __init__(self) -> None:
        """Know no sums yet."""
        self._days = Sums("gate_days", _Day, key=4)
        self._totals = Sums("gate_totals", _Total, key=3)

    def begin(self, database: sqlite3.Connection) -> None:
        """Begin a batch."""
        super().begin(database)
        self._days.clear()
        self._totals.clear()
        self._rows: list[tuple[Any, ...]] = []

    def fold(self, fact: Fact) -> None:
        """Keep each outcome that the envelope reports, whatever its type."""
        gates = fact.envelope.quality_gates
        if gates is None:
            return
        agent, model, day = fact.entry.sender, self._model(fact), fact.time[:10]
        outcomes = (gates.input, gates.hallucination, gates.boundary, gates.output, gates.escalation)
        for layer, gate in zip(_LAYERS, outcomes, strict=True):
            if gate is not None:
                self._rows.append((fact.n, layer, gate.outcome, gate.note, agent, model))
                _count(self._days[day, agent, model or "", layer], gate.outcome)
                _count(self._totals[agent, model or "", layer], gate.outcome)

    def finish(self) -> None:
        """Write the rows of the batch."""
        self.database.executemany(_STORE, self._rows)
        self._days.finish(self.database)
        self._totals.finish(self.database)

    def _model(self, fact: Fact) -> str | None:
        if fact.envelope.usage:
            return fact.envelope.usage[0].model
        step = self._tasks.step
        return step.model if step else None
