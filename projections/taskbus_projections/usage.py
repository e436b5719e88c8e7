"""The read model `usage`: the cost ledger, one row for each call of a model that an envelope reports.

Money is in microdollars, millionths of a US dollar. What has no cost is unpriced, and that is never zero.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

from taskbus_projections.model import ReadModel

if TYPE_CHECKING:
    import sqlite3

    from taskbus_projections.model import Fact

_STORE = "INSERT INTO usage VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"


class UsageLedger(ReadModel):
    """Every call that was reported, with its tokens and its cost."""

    name = "usage"
    version = 1
    tables: ClassVar[str] = """
        CREATE TABLE usage (
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
            reasoning_tokens INTEGER, -- output spent on reasoning
            cost_microusd INTEGER, -- in millionths of a US dollar; NULL where it is unpriced, never zero
            cost_source TEXT NOT NULL, -- reported by the agent, priced from a table, or unpriced
            price_table TEXT, -- the version of the price table
            PRIMARY KEY (n, call),
            CHECK (cost_source IN ('reported', 'priced', 'unpriced')),
            CHECK ((cost_microusd IS NULL) = (cost_source = 'unpriced'))
        ) STRICT;
        CREATE INDEX usage_by_root ON usage (root, task);
    """

    def begin(self, database: sqlite3.Connection) -> None:
        """Begin a batch."""
        super().begin(database)
        self._rows: list[tuple[Any, ...]] = []

    def fold(self, fact: Fact) -> None:
        """Keep each call that the envelope reports, whatever its type."""
        if not fact.envelope.usage:
            return
        entry = fact.entry
        about = (str(entry.position), entry.task, entry.root, entry.sender, fact.time)
        for call, used in enumerate(fact.envelope.usage, start=1):
            cost = used.cost
            self._rows.append(
                (
                    fact.n,
                    call,
                    *about,
                    used.provider,
                    used.model,
                    used.input_tokens,
                    used.output_tokens,
                    used.cache_read_tokens,
                    used.cache_write_tokens,
                    used.reasoning_tokens,
                    cost.microusd if cost else None,
                    cost.source if cost else "unpriced",
                    cost.table if cost else None,
                )
            )

    def finish(self) -> None:
        """Write the rows of the batch."""
        self.database.executemany(_STORE, self._rows)
