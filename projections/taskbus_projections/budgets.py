"""The read model `budgets`: the money that was reserved before models ran, and what became of each reservation.

A hold is opened by the acknowledgment that names it, and ends when the task leaves the states in which a model may
run. Spending itself is in the ledger: a hold says what was expected of it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from taskbus.envelope import Acknowledgment
from taskbus_projections.rows import Rows
from taskbus_projections.steps import Follower
from taskbus_projections.sums import MOST, Sums, plus

if TYPE_CHECKING:
    import sqlite3

    from taskbus.envelope import Hold
    from taskbus_projections.model import Fact
    from taskbus_projections.steps import Step


@dataclass(slots=True)
class _Hold:
    """A row of `holds`."""

    n: int
    hold: str
    microusd: int
    provider: str | None
    model: str | None
    agent: str
    task: str
    root: str
    attempt: int
    state: str
    opened: str
    ended_n: int | None = None
    ended: str | None = None
    ended_by: str | None = None
    calls: int = 0
    unpriced_calls: int = 0
    cost_microusd: int | None = None


@dataclass(slots=True)
class _Month:
    """A row of `budgets`."""

    month: str
    provider: str
    holds: int = 0
    open_holds: int = 0
    reserved_microusd: int = 0
    held_microusd: int = 0
    calls: int = 0
    unpriced_calls: int = 0
    cost_microusd: int | None = None


class Budgets(Follower):
    """Every hold, and the sums of holds by month and provider."""

    name = "budgets"
    version = 1
    tables: ClassVar[str] = """
        CREATE TABLE holds ( -- Money that was reserved before a model ran, and what was really spent.
            n INTEGER PRIMARY KEY REFERENCES events (n), -- the acknowledgment that opened it
            hold TEXT NOT NULL, -- the name of the reservation
            microusd INTEGER NOT NULL, -- how much was reserved, in millionths of a US dollar
            provider TEXT, -- who was to run the model, where that was said
            model TEXT, -- the model that was to run, where that was said
            agent TEXT NOT NULL, -- for whom
            task TEXT NOT NULL REFERENCES tasks (id), -- for which task
            root TEXT NOT NULL, -- the root of the task's tree
            attempt INTEGER NOT NULL, -- for which attempt
            state TEXT NOT NULL, -- open; settled by an outcome of the agent's own; released by anything else
            opened TEXT NOT NULL, -- when, ISO 8601 in UTC
            ended_n INTEGER REFERENCES events (n), -- the envelope that ended it
            ended TEXT, -- when
            ended_by TEXT, -- what that was: completion:done, completion:failure, escalation, cancellation, …
            calls INTEGER NOT NULL, -- how many calls the agent reported for the task meanwhile
            unpriced_calls INTEGER NOT NULL, -- how many of them have no price
            cost_microusd INTEGER -- what those with a price cost: the real cost; NULL without any
        ) STRICT;
        CREATE TABLE budgets ( -- The holds of each month, by provider.
            month TEXT NOT NULL, -- in which they were opened, in UTC: 2026-11
            provider TEXT NOT NULL, -- who was to run the models; empty where that was not said
            holds INTEGER NOT NULL, -- how many were opened
            open_holds INTEGER NOT NULL, -- how many of them are open
            reserved_microusd INTEGER NOT NULL, -- how much was reserved in all
            held_microusd INTEGER NOT NULL, -- how much of that is held now
            calls INTEGER NOT NULL, -- how many calls were reported under them
            unpriced_calls INTEGER NOT NULL, -- how many of those have no price
            cost_microusd INTEGER, -- what those with a price cost; NULL without any
            PRIMARY KEY (month, provider)
        ) STRICT, WITHOUT ROWID;
        CREATE VIEW budget_use AS -- Held and spent in each month, by provider: what a cap is compared with.
            SELECT
                month, -- in UTC: 2026-11
                provider, -- who ran the models; empty where a hold did not say it
                sum(held_microusd) AS held_microusd, -- reserved in that month and still held
                sum(spent_microusd) AS spent_microusd, -- what calls with a price cost, with a hold or without
                sum(held_microusd) + coalesce(sum(spent_microusd), 0) AS committed_microusd, -- both together
                sum(calls) AS calls, -- how many calls
                sum(unpriced_calls) AS unpriced_calls -- how many of them have no price
            FROM (
                SELECT month, provider, held_microusd, NULL AS spent_microusd, 0 AS calls, 0 AS unpriced_calls
                FROM budgets
                UNION ALL
                SELECT substr(day, 1, 7), provider, 0, cost_microusd, calls, unpriced_calls FROM spending
            ) GROUP BY month, provider;
    """
    indexes: ClassVar[str] = """
        CREATE INDEX holds_open ON holds (opened) WHERE state = 'open';
        CREATE INDEX holds_by_name ON holds (hold);
        CREATE INDEX holds_by_task ON holds (task);
        CREATE INDEX holds_by_agent ON holds (agent, n);
    """

    def __init__(self) -> None:
        """Know no hold yet."""
        self._holds = Rows("holds", _Hold)
        self._months = Sums("budgets", _Month, key=2)

    def begin(self, database: sqlite3.Connection) -> None:
        """Begin a batch."""
        super().begin(database)
        self._holds.begin(database)
        self._months.clear()

    def fold(self, fact: Fact) -> None:
        """Open a hold, count what is spent under it, end it."""
        step = self._tasks.step
        if step is None:
            return
        if step.hold is not None:
            hold = self._holds.known(step.hold)
            if hold.agent == fact.entry.sender:
                self._spend(hold, fact)
            if step.after not in ("working", "input-required"):
                self._end(hold, fact, step)
        payload = fact.envelope.payload
        if isinstance(payload, Acknowledgment) and payload.accepted and payload.hold:
            self._open(fact, payload, payload.hold, step)

    def finish(self) -> None:
        """Write the holds that the batch was about."""
        self._holds.finish()
        self._months.finish(self.database)

    def _open(self, fact: Fact, payload: Acknowledgment, hold: Hold, step: Step) -> None:
        opened = self._holds.add(
            _Hold(
                n=fact.n,
                hold=hold.id,
                microusd=hold.microusd,
                provider=payload.provider,
                model=payload.model,
                agent=fact.entry.sender,
                task=fact.entry.task,
                root=fact.entry.root,
                attempt=step.attempt,
                state="open",
                opened=fact.time,
            )
        )
        month = self._month(opened)
        month.holds += 1
        month.open_holds += 1
        month.reserved_microusd = plus(month.reserved_microusd, hold.microusd) or 0
        month.held_microusd = plus(month.held_microusd, hold.microusd) or 0
        self._spend(opened, fact)

    def _spend(self, hold: _Hold, fact: Fact) -> None:
        if not fact.envelope.usage:
            return
        month = self._month(hold)
        for used in fact.envelope.usage:
            for sums in (hold, month):
                sums.calls += 1
                if used.cost is None:
                    sums.unpriced_calls += 1
                else:
                    sums.cost_microusd = plus(sums.cost_microusd, used.cost.microusd)

    def _end(self, hold: _Hold, fact: Fact, step: Step) -> None:
        hold.state = "settled" if fact.entry.sender == hold.agent else "released"
        hold.ended_n, hold.ended, hold.ended_by = fact.n, fact.time, step.event
        month = self._month(hold)
        month.open_holds -= 1
        month.held_microusd = max(-MOST, month.held_microusd - hold.microusd)

    def _month(self, hold: _Hold) -> _Month:
        return self._months[hold.opened[:7], hold.provider or ""]
