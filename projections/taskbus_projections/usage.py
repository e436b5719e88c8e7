"""The read model `usage`: the cost ledger, one row for each call of a model that an envelope reports, and its sums.

Money is in microdollars, millionths of a US dollar. What has no cost is unpriced, and that is never zero. Whatever the
lifecycle says of an envelope, what it reports was spent.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from taskbus_projections.model import ReadModel
from taskbus_projections.sums import Sums, plus

if TYPE_CHECKING:
    import sqlite3

    from taskbus.envelope import Usage
    from taskbus_projections.model import Fact

_STORE = f"INSERT INTO usage VALUES ({', '.join('?' * 18)})"  # noqa: S608 - no more than placeholders


@dataclass(slots=True, kw_only=True)
class _Spent:
    """What was used and spent: the sums that all three tables end with."""

    calls: int = 0
    unpriced_calls: int = 0
    cost_microusd: int | None = None
    input_tokens: int | None = None
    output_tokens: int | None = None
    cache_read_tokens: int | None = None
    cache_write_tokens: int | None = None
    reasoning_tokens: int | None = None


@dataclass(slots=True)
class _Day(_Spent):
    """A row of `spending`."""

    day: str
    provider: str
    model: str
    agent: str


@dataclass(slots=True)
class _Task(_Spent):
    """A row of `task_spending`."""

    task: str
    root: str


@dataclass(slots=True)
class _Tree(_Spent):
    """A row of `tree_spending`."""

    root: str


class UsageLedger(ReadModel):
    """Every call that was reported, with its tokens and its cost; and what was spent by day, task and tree."""

    name = "usage"
    version = 3
    tables: ClassVar[str] = """
        CREATE TABLE usage ( -- The cost ledger: every call of a model that an envelope reports.
            n INTEGER NOT NULL REFERENCES events (n), -- the number of the envelope that reports it
            call INTEGER NOT NULL, -- which of the calls of that envelope, from 1
            position TEXT NOT NULL, -- where that envelope stands in the log
            task TEXT NOT NULL, -- the task that it was used for
            root TEXT NOT NULL, -- the root of the task's tree
            agent TEXT NOT NULL, -- who used it
            time TEXT NOT NULL, -- when the log got the report, ISO 8601 in UTC
            provider TEXT NOT NULL, -- who ran the model
            model TEXT NOT NULL, -- the model
            input_tokens INTEGER, -- those from and into a cache included; NULL where not said, as below
            output_tokens INTEGER, -- those of reasoning included
            cache_read_tokens INTEGER, -- input read from a cache
            cache_write_tokens INTEGER, -- input written to a cache
            cache_write_hour_tokens INTEGER, -- those of them that the cache keeps for an hour
            reasoning_tokens INTEGER, -- output spent on reasoning
            cost_microusd INTEGER, -- in millionths of a US dollar; NULL where it is unpriced, never zero
            cost_source TEXT NOT NULL, -- reported by the agent, priced from a table, or unpriced
            price_table TEXT, -- the version of the price table
            PRIMARY KEY (n, call),
            CHECK (cost_source IN ('reported', 'priced', 'unpriced')),
            CHECK ((cost_microusd IS NULL) = (cost_source = 'unpriced'))
        ) STRICT, WITHOUT ROWID;
        CREATE TABLE spending ( -- What was used and spent on a day, by provider, model and agent.
            day TEXT NOT NULL, -- of the report, in UTC: 2026-11-20
            provider TEXT NOT NULL, -- who ran the model
            model TEXT NOT NULL, -- the model
            agent TEXT NOT NULL, -- who used it
            calls INTEGER NOT NULL, -- how many calls
            unpriced_calls INTEGER NOT NULL, -- how many of them have no price
            cost_microusd INTEGER, -- what those with a price cost, in millionths of a US dollar; NULL without any
            input_tokens INTEGER, -- those from and into a cache included; NULL where nobody said, as below
            output_tokens INTEGER, -- those of reasoning included
            cache_read_tokens INTEGER, -- input read from a cache
            cache_write_tokens INTEGER, -- input written to a cache
            reasoning_tokens INTEGER, -- output spent on reasoning
            PRIMARY KEY (day, provider, model, agent)
        ) STRICT, WITHOUT ROWID;
        CREATE TABLE task_spending ( -- What was used and spent on a task, its parts not included.
            task TEXT NOT NULL PRIMARY KEY, -- the task
            root TEXT NOT NULL, -- the root of its tree
            calls INTEGER NOT NULL, -- how many calls
            unpriced_calls INTEGER NOT NULL, -- how many of them have no price
            cost_microusd INTEGER, -- what those with a price cost, in millionths of a US dollar; NULL without any
            input_tokens INTEGER, -- those from and into a cache included; NULL where nobody said, as below
            output_tokens INTEGER, -- those of reasoning included
            cache_read_tokens INTEGER, -- input read from a cache
            cache_write_tokens INTEGER, -- input written to a cache
            reasoning_tokens INTEGER -- output spent on reasoning
        ) STRICT, WITHOUT ROWID;
        CREATE TABLE tree_spending ( -- What was used and spent on a whole tree of tasks.
            root TEXT NOT NULL PRIMARY KEY, -- the root of the tree
            calls INTEGER NOT NULL, -- how many calls
            unpriced_calls INTEGER NOT NULL, -- how many of them have no price
            cost_microusd INTEGER, -- what those with a price cost, in millionths of a US dollar; NULL without any
            input_tokens INTEGER, -- those from and into a cache included; NULL where nobody said, as below
            output_tokens INTEGER, -- those of reasoning included
            cache_read_tokens INTEGER, -- input read from a cache
            cache_write_tokens INTEGER, -- input written to a cache
            reasoning_tokens INTEGER -- output spent on reasoning
        ) STRICT, WITHOUT ROWID;
        CREATE VIEW cost_by_month AS -- What was spent in each month, by provider.
            SELECT
                substr(day, 1, 7) AS month, -- in UTC: 2026-11
                provider, -- who ran the models
                sum(calls) AS calls, -- how many calls
                sum(unpriced_calls) AS unpriced_calls, -- how many of them have no price
                sum(cost_microusd) AS cost_microusd, -- what those with a price cost; NULL without any
                sum(input_tokens) AS input_tokens, -- those from and into a cache included
                sum(output_tokens) AS output_tokens -- those of reasoning included
            FROM spending GROUP BY 1, 2;
        CREATE VIEW cost_by_day AS -- What was spent on each day.
            SELECT
                day, -- in UTC
                sum(calls) AS calls, -- how many calls
                sum(unpriced_calls) AS unpriced_calls, -- how many of them have no price
                sum(cost_microusd) AS cost_microusd, -- what those with a price cost; NULL without any
                sum(input_tokens) AS input_tokens, -- those from and into a cache included
                sum(output_tokens) AS output_tokens -- those of reasoning included
            FROM spending GROUP BY day;
        CREATE VIEW cost_by_agent AS -- What each agent has spent.
            SELECT
                agent, -- who used it
                sum(calls) AS calls, -- how many calls
                sum(unpriced_calls) AS unpriced_calls, -- how many of them have no price
                sum(cost_microusd) AS cost_microusd, -- what those with a price cost; NULL without any
                sum(input_tokens) AS input_tokens, -- those from and into a cache included
                sum(output_tokens) AS output_tokens -- those of reasoning included
            FROM spending GROUP BY agent;
        CREATE VIEW cost_by_model AS -- What each model has cost.
            SELECT
                provider, -- who ran it
                model, -- the model
                sum(calls) AS calls, -- how many calls
                sum(unpriced_calls) AS unpriced_calls, -- how many of them have no price
                sum(cost_microusd) AS cost_microusd, -- what those with a price cost; NULL without any
                sum(input_tokens) AS input_tokens, -- those from and into a cache included
                sum(output_tokens) AS output_tokens -- those of reasoning included
            FROM spending GROUP BY provider, model;
        CREATE VIEW cost_by_tree AS -- What each tree of tasks has cost, the dearest first.
            SELECT
                s.root, -- the root of the tree
                t.state, -- how the root stands; NULL where nobody delegated it
                s.calls, -- how many calls
                s.unpriced_calls, -- how many of them have no price
                s.cost_microusd, -- what those with a price cost; NULL without any
                t.goal -- what the root is to reach
            FROM tree_spending AS s LEFT JOIN tasks AS t ON t.id = s.root ORDER BY s.cost_microusd DESC;
        CREATE VIEW cost_by_task AS -- What each task has cost without its parts, the dearest first.
            SELECT
                s.task, -- the task
                s.root, -- the root of its tree
                t.state, -- how it stands; NULL where nobody delegated it
                s.calls, -- how many calls
                s.unpriced_calls, -- how many of them have no price
                s.cost_microusd, -- what those with a price cost; NULL without any
                t.goal -- what it is to reach
            FROM task_spending AS s LEFT JOIN tasks AS t ON t.id = s.task ORDER BY s.cost_microusd DESC;
    """
    indexes: ClassVar[str] = """
        CREATE INDEX usage_by_task ON usage (task);
        CREATE INDEX usage_by_root ON usage (root, task);
        CREATE INDEX task_spending_by_root ON task_spending (root);
        CREATE INDEX task_spending_by_cost ON task_spending (cost_microusd);
        CREATE INDEX tree_spending_by_cost ON tree_spending (cost_microusd);
    """

    def __init__(self) -> None:
        """Know no sums yet."""
        self._days = Sums("spending", _Day, key=4)
        self._tasks = Sums("task_spending", _Task, key=1, fixed=1)
        self._trees = Sums("tree_spending", _Tree, key=1)

    def begin(self, database: sqlite3.Connection) -> None:
        """Begin a batch."""
        super().begin(database)
        self._rows: list[tuple[Any, ...]] = []
        for sums in (self._days, self._tasks, self._trees):
            sums.clear()

    def fold(self, fact: Fact) -> None:
        """Keep each call that the envelope reports, whatever its type."""
        if not fact.envelope.usage:
            return
        entry, day = fact.entry, fact.time[:10]
        about = (fact.position, entry.task, entry.root, entry.sender, fact.time)
        task, tree = self._tasks[entry.task, entry.root], self._trees[(entry.root,)]
        for call, used in enumerate(fact.envelope.usage, start=1):
            cost = used.cost
            tokens = (
                used.input_tokens,
                used.output_tokens,
                used.cache_read_tokens,
                used.cache_write_tokens,
                used.cache_write_hour_tokens,
                used.reasoning_tokens,
            )
            priced = (cost.microusd, cost.source, cost.table) if cost else (None, "unpriced", None)
            self._rows.append((fact.n, call, *about, used.provider, used.model, *tokens, *priced))
            spent = self._days[day, used.provider, used.model, entry.sender]
            for sums in (spent, task, tree):
                _add(sums, used)

    def finish(self) -> None:
        """Write the rows of the batch."""
        self.database.executemany(_STORE, self._rows)
        for sums in (self._days, self._tasks, self._trees):
            sums.finish(self.database)


def _add(sums: _Day | _Task | _Tree, used: Usage) -> None:
    sums.calls += 1
    if used.cost is None:
        sums.unpriced_calls += 1
    else:
        sums.cost_microusd = plus(sums.cost_microusd, used.cost.microusd)
    if used.input_tokens is not None:
        sums.input_tokens = plus(sums.input_tokens, used.input_tokens)
    if used.output_tokens is not None:
        sums.output_tokens = plus(sums.output_tokens, used.output_tokens)
    if used.cache_read_tokens is not None:
        sums.cache_read_tokens = plus(sums.cache_read_tokens, used.cache_read_tokens)
    if used.cache_write_tokens is not None:
        sums.cache_write_tokens = plus(sums.cache_write_tokens, used.cache_write_tokens)
    if used.reasoning_tokens is not None:
        sums.reasoning_tokens = plus(sums.reasoning_tokens, used.reasoning_tokens)
