"""The read model `accounts`: what every account has spent and holds, the caps on record, and the warnings.

The same sums as the server keeps in the step of each append, by the same rule of `taskbus.money`, which says what an
account is. Called by `bus costs`, the reports, and whoever compares the two.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Final, cast

from taskbus.envelope import Budget
from taskbus.money import accounts_of
from taskbus_projections.model import ReadModel
from taskbus_projections.sums import MOST, Sums, plus

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Mapping

    from taskbus_projections.budgets import Budgets
    from taskbus_projections.model import Fact

_CAP: Final = "INSERT INTO cap_decisions VALUES (?, ?, ?, ?, ?, ?, ?)"
_WARNING: Final = "INSERT INTO budget_warnings VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)"


@dataclass(slots=True)
class _Account:
    """A row of `accounts`."""

    account: str
    span: str
    period: str
    committed_microusd: int = 0
    held_microusd: int = 0
    unpriced_calls: int = 0


class Accounts(ReadModel):
    """Every account, in each month, day or task."""

    name = "accounts"
    version = 2
    tables: ClassVar[str] = """
        CREATE TABLE accounts ( -- What was spent and is held by provider, agent and tree: what caps are compared with.
            account TEXT NOT NULL, -- provider:anthropic, agent:@kilo, task:ROOT
            span TEXT NOT NULL, -- the month or the day in UTC, 2026-11 or 2026-11-20; ever for the tree of a task
            period TEXT NOT NULL, -- which of them: month, day, task
            committed_microusd INTEGER NOT NULL, -- what calls with a price cost, in the span of their hold if any
            held_microusd INTEGER NOT NULL, -- what open holds reserve that were made in that span
            unpriced_calls INTEGER NOT NULL, -- how many calls have no price: they are in no sum
            PRIMARY KEY (account, span)
        ) STRICT, WITHOUT ROWID;
        CREATE TABLE cap_decisions ( -- The caps that a human has decided on: they count before those of a policy.
            n INTEGER PRIMARY KEY REFERENCES events (n), -- the number of the envelope that records it
            account TEXT NOT NULL, -- of which account
            period TEXT NOT NULL, -- per month, day, or for a whole task
            microusd INTEGER, -- how much may be spent and held; NULL for no cap
            decided_by TEXT NOT NULL, -- who decided it
            decided TEXT NOT NULL, -- when, ISO 8601 in UTC
            reason TEXT -- why
        ) STRICT;
        CREATE TABLE budget_warnings ( -- That most of a cap is used: once for each span and cap.
            n INTEGER PRIMARY KEY REFERENCES events (n), -- the number of the envelope that warns
            account TEXT NOT NULL, -- of which account
            span TEXT NOT NULL, -- in which month or day, or ever
            period TEXT NOT NULL, -- which of them: month, day, task
            cap_microusd INTEGER NOT NULL, -- the cap
            committed_microusd INTEGER, -- what was spent then
            held_microusd INTEGER, -- what was held then
            task TEXT NOT NULL, -- the task that it was seen with
            warned TEXT NOT NULL -- when, ISO 8601 in UTC
        ) STRICT;
        CREATE VIEW caps AS -- The cap of each account that stands now, where a human has decided on one.
            SELECT
                account, -- of which account
                period, -- per month, day, or for a whole task
                microusd, -- how much may be spent and held; NULL for no cap, whatever a policy says
                decided_by, -- who decided it
                decided, -- when
                reason, -- why
                max(n) AS n -- the number of the envelope that records it
            FROM cap_decisions GROUP BY account, period;
        CREATE VIEW budget_use AS -- What is spent and held of each account, and left of the cap on record.
            SELECT
                a.account, -- provider:anthropic, agent:@kilo, task:ROOT
                a.period, -- month, day, task
                a.span, -- the month or day in UTC; ever for the tree of a task
                a.committed_microusd, -- what was spent
                a.held_microusd, -- what is held
                a.unpriced_calls, -- how many calls have no price
                c.microusd AS cap_microusd, -- the cap on record; NULL without one, where a policy may have one
                c.microusd - a.committed_microusd - a.held_microusd AS left_microusd -- what is left of it
            FROM accounts AS a LEFT JOIN caps AS c ON c.account = a.account AND c.period = a.period;
    """
    indexes: ClassVar[str] = """
        CREATE INDEX accounts_by_span ON accounts (span, period);
        CREATE INDEX cap_decisions_by_account ON cap_decisions (account, period, n);
    """

    def __init__(self) -> None:
        """Know no account yet."""
        self._accounts = Sums("accounts", _Account, key=2, fixed=1)

    def meet(self, others: Mapping[str, ReadModel]) -> None:
        """Find the holds; they are folded before."""
        self._budgets = cast("Budgets", others["budgets"])

    def begin(self, database: sqlite3.Connection) -> None:
        """Begin a batch."""
        super().begin(database)
        self._accounts.clear()
        self._caps: list[tuple[Any, ...]] = []
        self._warnings: list[tuple[Any, ...]] = []

    def fold(self, fact: Fact) -> None:
        """Count what was spent, and what is held; keep caps and warnings."""
        ms = self._budgets.spent_ms
        for used in fact.envelope.usage:
            for sums in self._of(used.provider, fact.entry.sender, fact.entry.root, ms):
                if used.cost is None:
                    sums.unpriced_calls += 1
                else:
                    sums.committed_microusd = plus(sums.committed_microusd, used.cost.microusd) or 0
        for change in self._budgets.changes:
            for sums in self._of(change.provider, change.agent, change.root, change.ms):
                sums.held_microusd = max(-MOST, min(MOST, sums.held_microusd + change.microusd))
        payload = fact.envelope.payload
        if isinstance(payload, Budget):
            self._record(fact, payload)

    def finish(self) -> None:
        """Write the sums, the caps and the warnings of the batch."""
        self._accounts.finish(self.database)
        self.database.executemany(_CAP, self._caps)
        self.database.executemany(_WARNING, self._warnings)

    def _record(self, fact: Fact, payload: Budget) -> None:
        if payload.account is None or payload.period is None:
            return
        of = payload.account, payload.period
        if payload.budget == "cap":
            self._caps.append((fact.n, *of, payload.microusd, fact.entry.sender, fact.time, payload.reason))
        elif payload.budget == "warned" and payload.span is not None and payload.microusd is not None:
            seen = (payload.microusd, payload.committed, payload.held)
            account, period = of
            self._warnings.append((fact.n, account, payload.span, period, *seen, fact.task, fact.time))

    def _of(self, provider: str, agent: str, root: str, ms: int) -> list[_Account]:
        return [
            self._accounts[account, span, period] for account, period, span in accounts_of(provider, agent, root, ms)
        ]
