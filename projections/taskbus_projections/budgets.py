"""The read model `budgets`: the money that was reserved before models ran, and what became of each reservation.

When a hold begins and ends is the rule of `taskbus.money`, which the server keeps, too. Spending itself is in the
ledger: a hold says what was expected of it. What that makes of the accounts is folded by `Accounts`, which asks here.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, NamedTuple

from taskbus.money import ends, opened
from taskbus_projections.instants import milliseconds
from taskbus_projections.rows import Rows
from taskbus_projections.steps import Follower
from taskbus_projections.sums import MOST, Sums, plus

if TYPE_CHECKING:
    import sqlite3

    from taskbus.money import Opened
    from taskbus_projections.model import Fact
    from taskbus_projections.steps import Step


@dataclass(slots=True)
class _Hold:
    """A row of `holds`."""

    n: int
    hold: str
    microusd: int
    provider: str
    model: str | None
    price_table: str | None
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


class Change(NamedTuple):
    """So many microdollars more that are held, or less, for an agent with a provider, in the span of a time in UTC."""

    microusd: int
    provider: str
    agent: str
    root: str
    ms: int


class Budgets(Follower):
    """Every hold, and the sums of holds by month and provider."""

    name = "budgets"
    version = 3
    tables: ClassVar[str] = """
        CREATE TABLE holds ( -- Money that was reserved before a model ran, and what was really spent.
            n INTEGER PRIMARY KEY REFERENCES events (n), -- the acknowledgment or the record that opened it
            hold TEXT NOT NULL, -- the name of the reservation
            microusd INTEGER NOT NULL, -- how much was reserved, in millionths of a US dollar
            provider TEXT NOT NULL, -- who was to run the model: unknown where nobody said it
            model TEXT, -- the model that was to run, where that was said
            price_table TEXT, -- the version of the prices that the amount goes by, where that was said
            agent TEXT NOT NULL, -- for whom
            task TEXT NOT NULL REFERENCES tasks (id), -- for which task
            root TEXT NOT NULL, -- the root of the task's tree
            attempt INTEGER NOT NULL, -- for which attempt
            state TEXT NOT NULL, -- open; settled by the agent's own words; replaced by the next one; released
            opened TEXT NOT NULL, -- when, ISO 8601 in UTC
            ended_n INTEGER REFERENCES events (n), -- the envelope that ended it
            ended TEXT, -- when
            ended_by TEXT, -- what that was: completion:done, escalation, cancellation, budget:released, …
            calls INTEGER NOT NULL, -- how many calls the agent reported for the task meanwhile
            unpriced_calls INTEGER NOT NULL, -- how many of them have no price
            cost_microusd INTEGER -- what those with a price cost: the real cost; NULL without any
        ) STRICT;
        CREATE TABLE budgets ( -- The holds of each month, by provider.
            month TEXT NOT NULL, -- in which they were opened, in UTC: 2026-11
            provider TEXT NOT NULL, -- who was to run the models: unknown where nobody said it
            holds INTEGER NOT NULL, -- how many were opened
            open_holds INTEGER NOT NULL, -- how many of them are open
            reserved_microusd INTEGER NOT NULL, -- how much was reserved in all
            held_microusd INTEGER NOT NULL, -- how much of that is held now
            calls INTEGER NOT NULL, -- how many calls were reported under them
            unpriced_calls INTEGER NOT NULL, -- how many of those have no price
            cost_microusd INTEGER, -- what those with a price cost; NULL without any
            PRIMARY KEY (month, provider)
        ) STRICT, WITHOUT ROWID;
        CREATE INDEX holds_open ON holds (opened, task) WHERE state = 'open';
    """
    indexes: ClassVar[str] = """
        CREATE INDEX holds_by_name ON holds (hold);
        CREATE INDEX holds_by_task ON holds (task);
        CREATE INDEX holds_by_agent ON holds (agent, n);
    """

    def __init__(self) -> None:
        """Know no hold yet."""
        self._holds = Rows("holds", _Hold)
        self._months = Sums("budgets", _Month, key=2)
        self._open: dict[str, int] = {}
        self.changes: list[Change] = []
        """What the envelope that is folded now did to what is held."""
        self.spent_ms = 0
        """The time in whose spans counts what it says was used: that of its sender's open hold, or its own."""

    def begin(self, database: sqlite3.Connection) -> None:
        """Begin a batch."""
        super().begin(database)
        self._holds.begin(database)
        self._months.clear()
        self._open = dict(database.execute("SELECT task, n FROM holds WHERE state = 'open'"))
        self.changes = []

    def fold(self, fact: Fact) -> None:
        """Count what is spent under the task's hold, end it, open one."""
        self.changes.clear()
        self.spent_ms = fact.entry.position.ms
        step, n = self._tasks.step, self._open.get(fact.task)
        hold = self._holds.known(n) if n is not None else None
        is_under = hold is not None and fact.entry.sender == hold.agent
        if hold is not None and is_under and fact.envelope.usage:
            self.spent_ms = milliseconds(hold.opened)
        if step is None:
            return
        if hold is not None:
            if is_under:
                self._spend(hold, fact)
            if ends(fact.envelope, hold.hold, hold.agent):
                self._end(hold, fact, step)
        made = opened(fact.envelope)
        if made is not None:
            hold = self._make(fact, made, step)
            if not is_under:
                self._spend(hold, fact)

    def finish(self) -> None:
        """Write the holds that the batch was about."""
        self._holds.finish()
        self._months.finish(self.database)

    def _make(self, fact: Fact, made: Opened, step: Step) -> _Hold:
        hold = self._holds.add(
            _Hold(
                n=fact.n,
                hold=made.id,
                microusd=made.microusd,
                provider=made.provider,
                model=made.model,
                price_table=made.table,
                agent=fact.entry.sender,
                task=fact.task,
                root=fact.entry.root,
                attempt=step.attempt,
                state="open",
                opened=fact.time,
            )
        )
        self._open[fact.task] = fact.n
        self._change(hold, hold.microusd)
        month = self._month(hold)
        month.holds += 1
        month.open_holds += 1
        month.reserved_microusd = plus(month.reserved_microusd, hold.microusd) or 0
        month.held_microusd = plus(month.held_microusd, hold.microusd) or 0
        return hold

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
        if step.event in ("budget:reserved", "acknowledgment:accepted"):
            hold.state = "replaced"
        else:
            hold.state = "settled" if fact.entry.sender == hold.agent else "released"
        hold.ended_n, hold.ended, hold.ended_by = fact.n, fact.time, step.event
        del self._open[fact.task]
        self._change(hold, -hold.microusd)
        month = self._month(hold)
        month.open_holds -= 1
        month.held_microusd = max(-MOST, month.held_microusd - hold.microusd)

    def _change(self, hold: _Hold, microusd: int) -> None:
        self.changes.append(Change(microusd, hold.provider, hold.agent, hold.root, milliseconds(hold.opened)))

    def _month(self, hold: _Hold) -> _Month:
        return self._months[hold.opened[:7], hold.provider]
