"""A read model that kills its process at crash points of the fold; it folds how many envelopes there were."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from taskbus_projections.model import ReadModel
from taskbus_projections.registry import BUILTIN

if TYPE_CHECKING:
    from taskbus_projections.model import Fact
    from taskbus_projections.registry import Models
    from tests.chaos.handling import Doom


class Doomed(ReadModel):
    """Comes last, so that all rows of a batch are written when it is asked to finish."""

    name = "doomed"
    version = 1
    tables: ClassVar[str] = "CREATE TABLE doomed (n INTEGER PRIMARY KEY, id TEXT NOT NULL) STRICT"
    doom: ClassVar[Doom | None] = None

    def fold(self, fact: Fact) -> None:
        """Write a row at once, and perhaps no more."""
        self.database.execute("INSERT INTO doomed VALUES (?, ?)", (fact.n, fact.entry.id))
        if self.doom is not None:
            self.doom.reached("in-fold")

    def finish(self) -> None:
        """All rows are written, and nothing is committed."""
        if self.doom is not None:
            self.doom.reached("before-commit")


def models() -> Models:
    """The read models of a run's projection."""
    return (*BUILTIN, Doomed)
