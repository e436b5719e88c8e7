"""The contract of read models: what one is, and what it gets to fold.

A read model is a class with a name, a version, its tables, and a method for each type of envelope that it
cares about. It must be a pure fold: the same log always gives the same rows, so it asks no clock, no random
number and no network. Packages add their own through the entry point group `taskbus.projections`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, NamedTuple

from taskbus_projections.instants import appended

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Mapping

    from taskbus.envelope import (
        Acknowledgment,
        Answer,
        AnyEnvelope,
        Budget,
        Cancellation,
        Completion,
        Delegation,
        Escalation,
        Parking,
        Question,
        Status,
        Verdict,
    )
    from taskbus.log import Entry


class Fact(NamedTuple):
    """One envelope of the log, with everything that a read model may use.

    `n` numbers the envelopes of the log from 1, those in the archive included; `time` is when the server appended
    it, in ISO 8601, UTC, to the millisecond; `position` is where it stands, as text; `link` is its link in the chain.
    """

    n: int
    entry: Entry
    envelope: AnyEnvelope
    time: str
    position: str
    link: bytes

    @classmethod
    def of(cls, n: int, entry: Entry, link: bytes) -> Fact:
        """The fact of an entry. Raises InvalidEnvelope where that cannot be decoded."""
        return cls(n, entry, entry.envelope, appended(entry.position), str(entry.position), link)

    @property
    def task(self) -> str:
        """The ID of the task."""
        return self.entry.task


class ReadModel:
    """What every read model extends: it folds nothing by itself.

    `version` goes up with every change of tables or methods; whatever was folded with an older one is folded
    anew. `tables` creates STRICT tables, with a comment behind each column, and whatever else they need from the
    beginning; `indexes` creates what only queries need: a rebuild makes it when all is folded, at a third of the cost.
    They are the model's own: it may refer to the tables of those that are folded before it, but writes to none of
    them.

    All methods run within the transaction that also moves the checkpoint, one batch of the log at a time:
    `begin`, `fold` for each envelope in the order of the log, `finish`. Whatever they raise stops the
    projection at that envelope, and rolls back. Rows may be kept in memory from `begin` to `finish`, but not
    from one batch to the next. Where the log is cut into batches is anybody's guess: `fold` reads no tables but the
    model's own, and `finish` finds those of the models before it as of the end of the batch.

    `bulk` is true while a rebuild folds into a file that nobody reads. What `complete` makes at the end of a rebuild
    from the rows that are there then, such as an index for full-text search, may be left out until then.
    """

    name: ClassVar[str]
    version: ClassVar[int]
    tables: ClassVar[str]
    indexes: ClassVar[str] = ""
    database: sqlite3.Connection
    bulk: bool = False

    def meet(self, others: Mapping[str, ReadModel]) -> None:
        """Get to know the read models that fold before this one, by name: once, before the first batch.

        What they keep in memory of the envelope that is folded now may be asked; where one of them could not fold it,
        it has nothing of it.
        """

    def begin(self, database: sqlite3.Connection) -> None:
        """Begin a batch; nothing is known of the one before."""
        self.database = database

    def fold(self, fact: Fact) -> None:
        """Fold one envelope: by default with the method that is named after its type."""
        getattr(self, fact.envelope.type)(fact, fact.envelope.payload)

    def finish(self) -> None:
        """Write what was kept in memory."""

    def complete(self) -> None:
        """Make what was left out while `bulk` was true."""

    def delegation(self, fact: Fact, payload: Delegation) -> None:
        """Fold a delegation."""

    def acknowledgment(self, fact: Fact, payload: Acknowledgment) -> None:
        """Fold an acknowledgment."""

    def status(self, fact: Fact, payload: Status) -> None:
        """Fold a status."""

    def question(self, fact: Fact, payload: Question) -> None:
        """Fold a question."""

    def answer(self, fact: Fact, payload: Answer) -> None:
        """Fold an answer."""

    def completion(self, fact: Fact, payload: Completion) -> None:
        """Fold a completion."""

    def verdict(self, fact: Fact, payload: Verdict) -> None:
        """Fold a verdict."""

    def escalation(self, fact: Fact, payload: Escalation) -> None:
        """Fold an escalation."""

    def cancellation(self, fact: Fact, payload: Cancellation) -> None:
        """Fold a cancellation."""

    def parking(self, fact: Fact, payload: Parking) -> None:
        """Fold a parking: a record of deliveries that were set aside, replayed or dropped."""

    def budget(self, fact: Fact, payload: Budget) -> None:
        """Fold a record of money: of a cap, which is about no task, a reservation, its end, or a warning."""
