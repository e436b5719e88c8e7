"""The read model `events`: the audit trail, one row for each envelope of the log, with a full-text search.

It holds every envelope that can be decoded, also one that no lifecycle allows, and refers to no other table.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

from taskbus.gist import gist
from taskbus.log import Entry
from taskbus.position import Position
from taskbus_projections.instants import instant
from taskbus_projections.model import ReadModel
from taskbus_projections.texts import spoken

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Sequence

    from taskbus_projections.model import Fact

_SUMMARY = 300
_STORE = f"INSERT INTO events VALUES ({', '.join('?' * 20)})"  # noqa: S608 - no more than placeholders
_STORE_TEXT = "INSERT INTO texts (rowid, text) VALUES (?, ?)"


class Events(ReadModel):
    """Who said what to whom, when, about which task, and why."""

    name = "events"
    version = 2
    tables: ClassVar[str] = """
        CREATE TABLE events ( -- The audit trail: every envelope of the log, as it was sent.
            n INTEGER PRIMARY KEY, -- the number of the envelope in the log, from 1
            position TEXT NOT NULL, -- where it stands in the log
            id TEXT NOT NULL, -- the ID of the envelope; twice where somebody used one anew that was archived
            type TEXT NOT NULL, -- of the message: delegation, acknowledgment, status, …
            sender TEXT NOT NULL, -- who said it
            recipient TEXT NOT NULL, -- to whom
            task TEXT NOT NULL, -- about which task
            root TEXT NOT NULL, -- the root of the task's tree
            time TEXT NOT NULL, -- when the log got it: the server's clock, ISO 8601 in UTC
            sent TEXT NOT NULL, -- when it was written: the sender's clock, ISO 8601 in UTC
            priority TEXT NOT NULL, -- critical, high, normal, low
            causation TEXT, -- why: the ID of the envelope that caused it
            correlation TEXT, -- the root task, as the sender named it
            by_hand INTEGER NOT NULL, -- 1 where somebody sent it by hand in the sender's name, else 0
            summary TEXT NOT NULL, -- what it says, in one line of at most 300 characters
            content_type TEXT NOT NULL, -- the media type of the body
            body BLOB NOT NULL, -- the bytes as they were sent
            source BLOB, -- what the body was made from, where it was: a handoff, a model's text
            source_type TEXT, -- the media type of the source
            link BLOB NOT NULL -- its link in the chain: SHA-256 over the link before it and what the log holds of it
        ) STRICT;
        CREATE VIRTUAL TABLE texts USING fts5( -- Full-text search: SELECT rowid FROM texts WHERE texts MATCH 'disk'.
            text, -- all texts of the payload, and the notes of the quality gates; rowid is the n of the envelope
            content = '', tokenize = 'unicode61 remove_diacritics 2'
        );
        INSERT INTO texts (texts, rank) VALUES ('hashsize', 16000000);
    """
    indexes: ClassVar[str] = """
        CREATE INDEX events_by_id ON events (id);
        CREATE INDEX events_by_task ON events (task);
        CREATE INDEX events_by_root ON events (root);
        CREATE INDEX events_by_sender ON events (sender, type);
        CREATE INDEX events_by_recipient ON events (recipient, type);
        CREATE INDEX events_by_type ON events (type);
        CREATE INDEX events_by_causation ON events (causation) WHERE causation IS NOT NULL;
        CREATE INDEX events_by_hand ON events (by_hand) WHERE by_hand = 1;
    """

    def begin(self, database: sqlite3.Connection) -> None:
        """Begin a batch."""
        super().begin(database)
        self._rows: list[tuple[Any, ...]] = []
        self._texts: list[tuple[int, str]] = []

    def fold(self, fact: Fact) -> None:
        """Keep the envelope, whatever its type."""
        self._rows.append(row(fact))
        self._texts.append((fact.n, spoken(fact.envelope)))

    def finish(self) -> None:
        """Write the rows of the batch."""
        self.database.executemany(_STORE, self._rows)
        self.database.executemany(_STORE_TEXT, self._texts)


def row(fact: Fact) -> tuple[Any, ...]:
    """The row of an envelope, in the order of the columns."""
    entry, envelope = fact.entry, fact.envelope
    context = envelope.context
    return (
        fact.n,
        fact.position,
        entry.id,
        entry.type,
        entry.sender,
        entry.recipient,
        entry.task,
        entry.root,
        fact.time,
        instant(context.timestamp),
        entry.priority,
        context.causation_id,
        context.correlation_id,
        int(context.by_hand),
        _line(gist(envelope)),
        entry.content_type,
        entry.body,
        entry.source,
        entry.source_type,
        fact.link,
    )


def entry(row: Sequence[Any], shard: int = 0) -> Entry:
    """The entry of the log that a row was made from. Raises UsageError for a position that is none."""
    _, position, id, type, sender, recipient, task, root = row[:8]
    place = Position.parse(position, shard=shard)
    return Entry(place, id, type, sender, recipient, task, root, row[10], *row[15:19])


def _line(text: str) -> str:
    plain = text.isprintable() and "  " not in text and text[:1] != " " != text[-1:]
    line = text if plain else " ".join(text.split())
    return line if len(line) <= _SUMMARY else f"{line[: _SUMMARY - 1]}…"
