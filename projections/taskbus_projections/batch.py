"""The batch: what one transaction folds into a database, by all read models, with its checkpoint.

Rows and checkpoint are there together or not at all. It never skips: what cannot be folded stops it with position
and reason, after everything before that is committed, or is set aside in a table of its own. Called by the projector,
in a thread.
"""

from __future__ import annotations

import sqlite3
from typing import TYPE_CHECKING, Any, Final, TypeAlias

from taskbus.errors import ProjectionStopped
from taskbus_projections.database import Checkpoint, SetAside, explained
from taskbus_projections.model import ReadModel
from taskbus_projections.pages import GO_ON, other

if TYPE_CHECKING:
    from collections.abc import Callable

    from taskbus_projections.database import Database
    from taskbus_projections.pages import Page

_Method: TypeAlias = "Callable[..., None]"

_OURS: Final = {
    sqlite3.SQLITE_BUSY,
    sqlite3.SQLITE_LOCKED,
    sqlite3.SQLITE_FULL,
    sqlite3.SQLITE_IOERR,
    sqlite3.SQLITE_CORRUPT,
    sqlite3.SQLITE_NOTADB,
    sqlite3.SQLITE_NOMEM,
    sqlite3.SQLITE_READONLY,
    sqlite3.SQLITE_CANTOPEN,
    sqlite3.SQLITE_INTERRUPT,
}
"""What SQLite says of the file, the disk or the machine: no read model is to blame, and no envelope."""


class Failed(Exception):
    """A read model could not fold something of a page."""

    def __init__(self, model: str, cause: Exception) -> None:
        super().__init__(model)
        self.model = model
        self.cause = cause


class Batch:
    """Folds pages into a database, one transaction each; with `set_aside` it goes on after what cannot be folded."""

    def __init__(self, database: Database, shard: int, *, set_aside: bool = False) -> None:
        self._database = database
        self._shard = shard
        self._set_aside = set_aside
        self._models = [model() for model in database.models]
        for at, model in enumerate(self._models):
            model.meet({before.name: before for before in self._models[:at]})
        self._methods: dict[str, tuple[list[_Method], list[_Method]]] = {}

    def fold(self, page: Page) -> Checkpoint:
        """Fold a page; returns the checkpoint of the database, which another projector may have moved meanwhile.

        Raises ProjectionStopped with the position of what cannot be folded, after everything before it is, and
        CheckpointLost where another log was folded.
        """
        with explained(self._database.path):
            return self._folded(page)

    def _folded(self, page: Page) -> Checkpoint:
        try:
            return self._commit(page)
        except Failed as error:
            if len(page.facts) < 2:
                if not self._set_aside or not page.facts:
                    raise _stopped(page, error) from error.cause
                return self._commit(page, apart=True)
        first, second = page.halves()
        at = self._folded(first)
        return self._folded(second) if at == first.after else at

    def _commit(self, page: Page, *, apart: bool = False) -> Checkpoint:
        """Fold a page in one transaction, without what another projector has folded."""
        database = self._database
        with database.transaction():
            database.check_place()
            database.check_models()
            at = database.checkpoint(self._shard)
            if at != page.before:
                if at.position < page.before.position or at.position >= page.after.position:
                    return at  # it was swapped for one that ends earlier, or all of the page is folded
                if at.position == page.before.position:
                    raise other(at)
                page = page.since(at)
            if apart:
                self._apply_apart(page)
            else:
                self._apply(page)
            for each in page.aside:
                database.set_aside(each)
            database.move(page.after)
        return page.after

    def _apply(self, page: Page) -> None:
        connection, bulk, methods = self._database.connection, self._database.unfinished, self._methods
        name, method = "", None
        try:
            for model in self._models:
                name, model.bulk = model.name, bulk
                model.begin(connection)
            name = ""
            for fact in page.facts:
                envelope = fact.envelope
                whole, parts = methods.get(envelope.type) or self._found(envelope.type)
                for method in whole:
                    method(fact)
                for method in parts:
                    method(fact, envelope.payload)
            for model in self._models:
                name = model.name
                model.finish()
        except Exception as error:  # read models may be somebody else's code, and raise anything
            if _is_ours(error):
                raise
            raise Failed(name or _owner(method), error) from error

    def _apply_apart(self, page: Page) -> None:
        """Each read model for itself: what one cannot fold is noted, and what the others make of it stays."""
        connection, bulk = self._database.connection, self._database.unfinished
        (fact,) = page.facts
        for model in self._models:
            model.bulk = bulk
            connection.execute("SAVEPOINT apart")
            try:
                model.begin(connection)
                model.fold(fact)
                model.finish()
            except Exception as error:  # as above
                if _is_ours(error):
                    raise
                connection.execute("ROLLBACK TO apart")
                model.begin(connection)
                reason = f"{type(error).__name__}: {error}"
                self._database.set_aside(
                    SetAside(fact.n, model.name, fact.position, fact.entry.id, fact.entry.task, reason)
                )
            connection.execute("RELEASE apart")

    def _found(self, kind: str) -> tuple[list[_Method], list[_Method]]:
        """What the read models do with a type: the whole `fold` of some, of others the method that is named so.

        Models that others may ask come with `fold`, and so before those that have only methods.
        """
        whole: list[_Method] = []
        parts: list[_Method] = []
        for model in self._models:
            if type(model).fold is not ReadModel.fold:
                whole.append(model.fold)
            elif getattr(type(model), kind) is not getattr(ReadModel, kind):
                parts.append(getattr(model, kind))
        self._methods[kind] = whole, parts
        return whole, parts


def _owner(method: Any) -> str:
    name: str = method.__self__.name
    return name


def _is_ours(error: Exception) -> bool:
    if isinstance(error, MemoryError):
        return True
    return isinstance(error, sqlite3.Error) and getattr(error, "sqlite_errorcode", 0) & 0xFF in _OURS


def _stopped(page: Page, failed: Failed) -> ProjectionStopped:
    cause = failed.cause
    if not page.facts:
        message = f"The read model {failed.model} fails without any envelope: {cause!r}."
        return ProjectionStopped(message, advice=GO_ON, position=str(page.before.position))
    entry = page.facts[0].entry
    message = f"The read model {failed.model} cannot fold the {entry.type} at {entry.position}: {cause!r}."
    return ProjectionStopped(message, advice=GO_ON, position=str(entry.position), envelope=entry.id, task=entry.task)
