"""A log that was made by hand: envelopes that were appended at chosen times, folded without a server."""

from __future__ import annotations

from typing import TYPE_CHECKING

from taskbus import chain
from taskbus.codec import JSON, encode
from taskbus.log import Entry
from taskbus.moment import at
from taskbus.position import Position
from taskbus_projections.batch import Batch
from taskbus_projections.database import Checkpoint
from taskbus_projections.instants import appended
from taskbus_projections.model import Fact
from taskbus_projections.pages import Page

if TYPE_CHECKING:
    from collections.abc import Iterable
    from datetime import datetime

    from taskbus.envelope import AnyEnvelope
    from taskbus_projections.database import Database


def fold(database: Database, said: Iterable[tuple[datetime, AnyEnvelope]]) -> list[Fact]:
    """Fold envelopes as if the server had appended each at its time; a task's root is that of its first parent."""
    facts: list[Fact] = []
    roots: dict[str, str] = {}
    link = chain.beginning(database.namespace)
    for n, (time, envelope) in enumerate(said, start=1):
        parent = envelope.context.parent_task
        root = roots.setdefault(envelope.task, roots.get(parent, parent) if parent else envelope.task)
        entry = Entry(
            Position(0, at(time).ms, n),
            envelope.id,
            envelope.type,
            envelope.sender,
            envelope.recipient,
            envelope.task,
            root,
            envelope.priority,
            JSON,
            encode(envelope),
        )
        link = chain.link(link, entry)
        facts.append(Fact(n, entry, envelope, appended(entry.position), str(entry.position), link))
    if facts:
        last = facts[-1]
        after = Checkpoint(last.entry.position, last.entry.id, last.n, last.link)
        Batch(database, 0).fold(Page(database.checkpoint(), after, facts, []))
    return facts
