"""The read model `events`: the audit trail, one row for each envelope of the log."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

from taskbus.gist import gist
from taskbus_projections.instants import instant
from taskbus_projections.model import ReadModel

if TYPE_CHECKING:
    import sqlite3

    from taskbus_projections.model import Fact

_SUMMARY = 300
_STORE = "INSERT INTO events VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"


class Events(ReadModel):
    """Who said what to whom, when, about which task, and why."""

    name = "events"
    version = 1
    tables: ClassVar[str] = """
        CREATE TABLE events (
            n INTEGER PRIMARY KEY, -- the number of the envelope in the log, from 1
            position TEXT NOT NULL, -- where it stands in the log
            id TEXT NOT NULL UNIQUE, -- the ID of the envelope
            type TEXT NOT NULL, -- of the message: delegation, acknowledgment, status, …
            sender TEXT NOT NULL, -- who said it
            recipient TEXT NOT NULL, -- to whom
            task TEXT NOT NULL REFERENCES tasks (id), -- about which task
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
            source_type TEXT -- the media type of the source
        ) STRICT;
        CREATE INDEX events_by_task ON events (task);
    """

    def begin(self, database: sqlite3.Connection) -> None:
        """Begin a batch."""
        super().begin(database)
        self._rows: list[tuple[Any, ...]] = []

    def fold(self, fact: Fact) -> None:
        """Keep the envelope, whatever its type."""
        entry, envelope = fact.entry, fact.envelope
        context = envelope.context
        self._rows.append(
            (
                fact.n,
                str(entry.position),
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
            )
        )

    def finish(self) -> None:
        """Write the rows of the batch."""
        self.database.executemany(_STORE, self._rows)


def _line(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= _SUMMARY else f"{line[: _SUMMARY - 1]}…"
