"""The read model `parked`: the deliveries that were set aside, and what became of each."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Final

from taskbus_projections.model import ReadModel
from taskbus_projections.rows import Rows

if TYPE_CHECKING:
    import sqlite3

    from taskbus.envelope import Parking
    from taskbus_projections.model import Fact

BEHIND: Final = "behind"
"""Why a delivery was set aside that nothing was said of: it waits behind one of the same task."""


@dataclass(slots=True)
class _Delivery:
    """A row of the table."""

    agent: str
    envelope: str
    task: str
    state: str
    reason: str | None
    attempts: int | None
    message: str | None
    times: int = 0
    parked_n: int | None = None
    parked: str | None = None
    ended_n: int | None = None
    ended: str | None = None
    ended_by: str | None = None
    resumed: int = 0


class ParkedDeliveries(ReadModel):
    """Each delivery that was ever set aside, as the newest record of it says."""

    name = "parked"
    version = 1
    tables: ClassVar[str] = """
        CREATE TABLE parked ( -- Deliveries that were set aside, and what became of each.
            agent TEXT NOT NULL, -- whose delivery it is
            envelope TEXT NOT NULL, -- the ID of the envelope that was delivered
            task TEXT NOT NULL, -- its task
            state TEXT NOT NULL, -- parked: set aside now; replayed: delivered again; dropped: given up
            reason TEXT, -- why it was set aside; behind: it only waited behind another one of its task
            attempts INTEGER, -- how often it was tried before; NULL where that was not said
            message TEXT, -- what happened, for people to read
            times INTEGER NOT NULL, -- how often it was set aside; 0 where it only waited behind another one
            parked_n INTEGER REFERENCES events (n), -- the envelope that said so last
            parked TEXT, -- when that was, ISO 8601 in UTC
            ended_n INTEGER REFERENCES events (n), -- the envelope that said what became of it; NULL while it is parked
            ended TEXT, -- when that was
            ended_by TEXT, -- who decided it
            resumed INTEGER NOT NULL, -- 1 where its replay submitted the escalated task again, else 0
            PRIMARY KEY (agent, envelope)
        ) STRICT;
    """
    indexes: ClassVar[str] = """
        CREATE INDEX parked_now ON parked (parked_n) WHERE state = 'parked';
        CREATE INDEX parked_by_task ON parked (task);
    """

    def __init__(self) -> None:
        """Know no delivery yet."""
        self._rows = Rows("parked", _Delivery, key=2)

    def begin(self, database: sqlite3.Connection) -> None:
        """Begin a batch."""
        super().begin(database)
        self._rows.begin(database)

    def parking(self, fact: Fact, payload: Parking) -> None:
        """Note it for each of the deliveries; one that is named twice counts once."""
        for envelope in dict.fromkeys(payload.deliveries):
            row = self._rows.get(payload.agent, envelope) or self._rows.add(
                _Delivery(payload.agent, envelope, fact.entry.task, payload.parking, BEHIND, None, None)
            )
            row.state = payload.parking
            if payload.parking == "parked":
                row.reason, row.attempts, row.message = payload.reason, payload.attempts, payload.message
                row.times += 1
                row.parked_n, row.parked = fact.n, fact.time
                row.ended_n = row.ended = row.ended_by = None
                row.resumed = 0
            else:
                row.ended_n, row.ended, row.ended_by = fact.n, fact.time, fact.entry.sender
                row.resumed = int(payload.parking == "replayed" and payload.resumes)

    def finish(self) -> None:
        """Write the deliveries that the batch was about."""
        self._rows.finish()
