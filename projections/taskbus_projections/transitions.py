"""The read model `transitions`: each change of a task's state, and how long the task was in the state before."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

from taskbus_projections.steps import Follower

if TYPE_CHECKING:
    import sqlite3

    from taskbus_projections.model import Fact

_STORE = "INSERT INTO transitions VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"


class Transitions(Follower):
    """Which envelope brought a task from which state into which; what changes no state has no row."""

    name = "transitions"
    version = 1
    tables: ClassVar[str] = """
        CREATE TABLE transitions ( -- Each change of a task's state; a status changes none.
            n INTEGER PRIMARY KEY REFERENCES events (n), -- the envelope that brought it
            task TEXT NOT NULL REFERENCES tasks (id), -- the task
            from_state TEXT, -- the state before; NULL for the first delegation
            to_state TEXT NOT NULL, -- the state after
            event TEXT NOT NULL, -- what it was: the type of the message, and how it turned out: verdict:rejected
            sender TEXT NOT NULL, -- by whom
            assignee TEXT NOT NULL, -- who is to do the task from then on
            attempt INTEGER NOT NULL, -- the number of the attempt from then on
            time TEXT NOT NULL, -- when the log got it, ISO 8601 in UTC
            after_ms INTEGER -- milliseconds since the transition before; NULL for the first delegation
        ) STRICT;
    """
    indexes: ClassVar[str] = """
        CREATE INDEX transitions_by_task ON transitions (task);
    """

    def begin(self, database: sqlite3.Connection) -> None:
        """Begin a batch."""
        super().begin(database)
        self._rows: list[tuple[Any, ...]] = []

    def fold(self, fact: Fact) -> None:
        """Keep what moved the task."""
        step = self._tasks.step
        if step is not None and step.moved:
            entry, states = fact.entry, (step.before, step.after)
            said = (step.event, entry.sender, step.assignee, step.attempt)
            self._rows.append((fact.n, entry.task, *states, *said, fact.time, step.stayed))

    def finish(self) -> None:
        """Write the rows of the batch."""
        self.database.executemany(_STORE, self._rows)
