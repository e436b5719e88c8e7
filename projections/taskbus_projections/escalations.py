"""The read model `escalations`: who called for help at which level, who answered, with what, and how long that took.

What is escalated again before anybody has dealt with it is one incident: the first of its escalations names it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Final

from taskbus.envelope import Escalation
from taskbus.lifecycle import BUS, HUMAN
from taskbus_projections.instants import milliseconds
from taskbus_projections.rows import Rows
from taskbus_projections.steps import Follower
from taskbus_projections.sums import Sums

if TYPE_CHECKING:
    import sqlite3

    from taskbus.lifecycle import Event
    from taskbus_projections.model import Fact
    from taskbus_projections.steps import Step

_HUMAN_LEVEL: Final = 4
_ANSWERS: Final[dict[Event, str]] = {"parking:resumed": "replay"}


@dataclass(slots=True)
class _Escalation:
    """A row of `escalations`."""

    n: int
    incident: int
    raises: int | None
    task: str
    root: str
    agent: str
    sender: str
    recipient: str
    by_bus: int
    level: int
    category: str
    message: str
    attempted_recovery: str | None
    human: int
    attempt: int
    from_state: str | None
    time: str
    outcome: str | None = None
    answered_n: int | None = None
    answered_by: str | None = None
    answered: str | None = None
    answer_ms: int | None = None


@dataclass(slots=True)
class _Day:
    """A row of `escalation_days`."""

    day: str
    agent: str
    category: str
    incidents: int = 0
    repeats: int = 0
    human: int = 0
    answered: int = 0
    answer_ms: int = 0


class Escalations(Follower):
    """Every escalation with its answer, and the incidents of each day."""

    name = "escalations"
    version = 1
    tables: ClassVar[str] = """
        CREATE TABLE escalations ( -- Every escalation, and who dealt with it.
            n INTEGER PRIMARY KEY REFERENCES events (n), -- the envelope that escalated
            incident INTEGER NOT NULL REFERENCES escalations (n), -- the first escalation of the same trouble
            raises INTEGER REFERENCES escalations (n), -- the one before it, which nobody had dealt with
            task TEXT NOT NULL REFERENCES tasks (id), -- the task
            root TEXT NOT NULL, -- the root of the task's tree
            agent TEXT NOT NULL, -- who had the work
            sender TEXT NOT NULL, -- who escalated
            recipient TEXT NOT NULL, -- to whom
            by_bus INTEGER NOT NULL, -- 1 where the bus escalated it, else 0
            level INTEGER NOT NULL, -- who should deal with it: 1 specialist, 2 coordinator, 3 tech lead, 4 human
            category TEXT NOT NULL, -- execution, validation, integration or architectural
            message TEXT NOT NULL, -- what happened
            attempted_recovery TEXT, -- what was tried against it
            human INTEGER NOT NULL, -- 1 where it reached a human: it went to @human, or is of level 4; else 0
            attempt INTEGER NOT NULL, -- in which attempt
            from_state TEXT, -- the state of the task before
            time TEXT NOT NULL, -- when the log got it, ISO 8601 in UTC
            outcome TEXT, -- how it was dealt with: answer, delegation, cancellation, replay; NULL while it is open
            answered_n INTEGER REFERENCES events (n), -- the envelope that dealt with it
            answered_by TEXT, -- who sent that
            answered TEXT, -- when
            answer_ms INTEGER -- how long it was open, in milliseconds
        ) STRICT;
        CREATE TABLE escalation_days ( -- The incidents of each day, by agent and category of their first escalation.
            day TEXT NOT NULL, -- of the first escalation, in UTC: 2026-11-20
            agent TEXT NOT NULL, -- who had the work
            category TEXT NOT NULL, -- execution, validation, integration or architectural
            incidents INTEGER NOT NULL, -- how many
            repeats INTEGER NOT NULL, -- how often they were escalated again
            human INTEGER NOT NULL, -- how many of them reached a human
            answered INTEGER NOT NULL, -- how many of them were dealt with
            answer_ms INTEGER NOT NULL, -- how long those were open in all, in milliseconds
            PRIMARY KEY (day, agent, category)
        ) STRICT, WITHOUT ROWID;
        CREATE VIEW open_escalations AS -- What nobody has dealt with, the oldest first.
            SELECT
                n, -- the envelope that escalated
                time, -- when
                task, -- the task
                level, -- 1 to 4
                category, -- what kind of trouble it is
                agent, -- who had the work
                recipient, -- who is to deal with it
                human, -- 1 where it reached a human
                message -- what happened
            FROM escalations WHERE outcome IS NULL ORDER BY n;
        CREATE VIEW escalation_months AS -- The incidents of each month, and how many reached a human.
            SELECT
                substr(day, 1, 7) AS month, -- in UTC: 2026-11
                sum(incidents) AS incidents, -- how many
                sum(repeats) AS repeats, -- how often they were escalated again
                sum(human) AS human, -- how many of them reached a human
                round(1.0 * sum(human) / sum(incidents), 4) AS human_share, -- from 0 to 1
                sum(answered) AS answered, -- how many of them were dealt with
                sum(answer_ms) / nullif(sum(answered), 0) AS mean_answer_ms -- after how many milliseconds
            FROM escalation_days GROUP BY 1;
    """
    indexes: ClassVar[str] = """
        CREATE INDEX escalations_open ON escalations (n) WHERE outcome IS NULL;
        CREATE INDEX escalations_by_incident ON escalations (incident);
        CREATE INDEX escalations_by_task ON escalations (task);
        CREATE INDEX escalations_by_agent ON escalations (agent, n);
        CREATE INDEX escalations_by_level ON escalations (level, n);
        CREATE INDEX escalations_to_human ON escalations (n) WHERE human = 1;
    """

    def __init__(self) -> None:
        """Know no escalation yet."""
        self._rows = Rows("escalations", _Escalation)
        self._days = Sums("escalation_days", _Day, key=3)

    def begin(self, database: sqlite3.Connection) -> None:
        """Begin a batch."""
        super().begin(database)
        self._rows.begin(database)
        self._days.clear()

    def fold(self, fact: Fact) -> None:
        """Keep an escalation; note who deals with it."""
        step, payload = self._tasks.step, fact.envelope.payload
        if step is None:
            return
        if isinstance(payload, Escalation):
            self._escalate(fact, payload, step)
        elif step.escalation is not None and step.moved:
            self._answer(fact, step.event, step.escalation)

    def finish(self) -> None:
        """Write the escalations that the batch was about."""
        self._rows.finish()
        self._days.finish(self.database)

    def _escalate(self, fact: Fact, payload: Escalation, step: Step) -> None:
        entry, error = fact.entry, payload.error_details
        raised = self._rows.known(step.escalation) if step.escalation is not None else None
        human = entry.recipient == HUMAN or error.level == _HUMAN_LEVEL
        row = self._rows.add(
            _Escalation(
                n=fact.n,
                incident=raised.incident if raised else fact.n,
                raises=raised.n if raised else None,
                task=entry.task,
                root=entry.root,
                agent=step.agent,
                sender=entry.sender,
                recipient=entry.recipient,
                by_bus=int(entry.sender == BUS),
                level=error.level,
                category=error.category,
                message=error.message,
                attempted_recovery=error.attempted_recovery,
                human=int(human),
                attempt=step.attempt,
                from_state=step.before,
                time=fact.time,
            )
        )
        day = self._day(row)
        if raised is None:
            day.incidents += 1
        else:
            day.repeats += 1
        day.human += human and not any(each.human for each in self._chain(row.raises))

    def _answer(self, fact: Fact, event: Event, newest: int) -> None:
        """All escalations of an incident are dealt with at once."""
        for row in self._chain(newest):
            row.outcome = _ANSWERS.get(event, event)
            row.answered_n, row.answered_by, row.answered = fact.n, fact.entry.sender, fact.time
            row.answer_ms = milliseconds(fact.time) - milliseconds(row.time)
            if row.raises is None:
                day = self._day(row)
                day.answered += 1
                day.answer_ms += row.answer_ms

    def _chain(self, newest: int | None) -> list[_Escalation]:
        """An escalation, and those before it of the same incident."""
        found: list[_Escalation] = []
        while newest is not None:
            found.append(self._rows.known(newest))
            newest = found[-1].raises
        return found

    def _day(self, row: _Escalation) -> _Day:
        first = self._rows.known(row.incident)
        return self._days[first.time[:10], first.agent, first.category]
