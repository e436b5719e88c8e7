"""A database without a server: envelopes folded directly, as if the log had got one of them every few seconds."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import islice

from taskbus import chain
from taskbus.codec import JSON, encode
from taskbus.envelope import AnyEnvelope
from taskbus.log import Entry
from taskbus.position import Position
from taskbus_projections.batch import Batch
from taskbus_projections.database import Checkpoint, Database
from taskbus_projections.instants import appended
from taskbus_projections.model import Fact
from taskbus_projections.pages import Page

BEGIN = 1_790_000_000_000
"""When the log got the first envelope, in milliseconds since the epoch: in September 2026."""
STEP = 4_000
PAGE = 5_000


def fold(database: Database, envelopes: Iterable[AnyEnvelope], *, begin: int = BEGIN, step: int = STEP) -> Checkpoint:
    """Fold envelopes, `step` milliseconds apart; a task's root is that of its parent."""
    batch, at = Batch(database, 0), database.checkpoint()
    link = at.head or chain.beginning(database.namespace)
    roots: dict[str, str] = {}
    waiting = iter(envelopes)
    while chunk := list(islice(waiting, PAGE)):
        facts: list[Fact] = []
        for n, envelope in enumerate(chunk, start=at.folded + 1):
            context = envelope.context
            root = roots.setdefault(envelope.task, roots.get(context.parent_task or "", envelope.task))
            entry = Entry(
                Position(0, begin + n * step, 0),
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
        last = facts[-1]
        after = Checkpoint(last.entry.position, last.entry.id, last.n, link)
        at = batch.fold(Page(at, after, facts, []))
    return at
