"""The database: the SQLite file that holds the read models of one namespace.

Owns where it is, how it is opened, and the tables that are no read model's: whose log it holds, in which
versions, and how far (the checkpoint). It refuses a file of another namespace, and one that is not from
taskbus. Write-ahead logging lets readers go on while one process writes. Called by the projector, the rebuild
and the queries.
"""

from __future__ import annotations

import os
import sqlite3
import textwrap
import time
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple
from urllib.parse import quote

from taskbus import home as homes
from taskbus.errors import NotFound, ProjectionStopped, TaskbusError, TimedOut
from taskbus.position import START, Position

if TYPE_CHECKING:
    from collections.abc import Generator, Iterator, Mapping, Sequence

    from taskbus_projections.registry import Models

APPLICATION: Final = 0x7461736B
"""SQLite's `application_id`: the file is from taskbus."""
SCHEMA: Final = 2
"""SQLite's `user_version`: the version of the tables below. With another one, all is folded anew."""
UNFINISHED: Final = -SCHEMA
"""The `user_version` of a file that a rebuild folds into, until it is complete: nobody else opens that."""
PATIENCE: Final = 60.0
"""How long another writer is waited for, in seconds; swapping a rebuilt database in takes longest."""

PAGE_SIZE: Final = 8192
"""In bytes. Rows hold about a kilobyte: an eighth less space than with pages of 4096, and a little faster."""

CACHE: Final = 32000
"""Kibibytes of the file that a connection which writes keeps in memory."""

TABLES: Final = """
    CREATE TABLE bus ( -- Whose log is folded here.
        namespace TEXT NOT NULL -- the namespace whose log is folded here
    ) STRICT;
    CREATE TABLE read_models ( -- The read models, by which the rows of all other tables were folded.
        name TEXT NOT NULL PRIMARY KEY, -- the read model
        version INTEGER NOT NULL -- with which its rows were folded
    ) STRICT;
    CREATE TABLE checkpoint ( -- Up to where the log was folded.
        shard INTEGER NOT NULL PRIMARY KEY, -- the shard of the log
        position TEXT NOT NULL, -- of the envelope that was folded last; 0-0 before the first
        envelope TEXT, -- the ID of that envelope; NULL before the first
        folded INTEGER NOT NULL, -- how many envelopes of the history stand up to there
        head BLOB NOT NULL -- the link of that envelope in the chain, which runs over all up to there
    ) STRICT;
    CREATE TABLE set_aside ( -- What could not be folded, where that was to be noted and gone on from.
        n INTEGER NOT NULL, -- the number of the envelope in the log; for an entry that is none, of the one before it
        model TEXT NOT NULL, -- the read model that could not fold it; * where none could, since it cannot be read
        position TEXT NOT NULL, -- where it stands in the log
        envelope TEXT, -- its ID; NULL for an entry that is no envelope
        task TEXT, -- its task; NULL for an entry that is no envelope
        reason TEXT NOT NULL, -- why it could not be folded
        PRIMARY KEY (position, model)
    ) STRICT;
"""
OWN: Final = ("bus", "read_models", "checkpoint", "set_aside")

_CANNOT_READ: Final = {sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB}
_BUSY: Final = {sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED}


class Checkpoint(NamedTuple):
    """Up to where the log was folded: the last position, the envelope there, and how many there were.

    `head` is the link of that envelope in the chain, empty before the first.
    """

    position: Position = START
    envelope: str | None = None
    folded: int = 0
    head: bytes = b""


class SetAside(NamedTuple):
    """What could not be folded: by which read model, of which envelope, and why."""

    n: int
    model: str
    position: str
    envelope: str | None
    task: str | None
    reason: str


class Outdated(ProjectionStopped):
    """The database was folded with older read models; a rebuild brings it up to date."""

    advice = "`bus rebuild` folds the log anew; every query without `--no-sync` does so by itself."


def place(home: Path, namespace: str) -> Path:
    """The file of a namespace below the home folder; no two namespaces share one."""
    return home / homes.PROJECTIONS / f"{namespace.removesuffix(':').replace(':', '~')}.db"


def make_folder(path: Path) -> None:
    """Make the folder of a database, which only this user can read, and the home around it. Raises OSError."""
    if path.parent.name == homes.PROJECTIONS:
        homes.make(path.parent.parent)
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)


@dataclass(frozen=True, slots=True)
class Database:
    """An open database. Used by one thread at a time; `Database.open` and `Database.read` close it."""

    path: Path
    namespace: str
    models: Models
    connection: sqlite3.Connection
    inode: int

    @classmethod
    @contextmanager
    def open(cls, path: Path, namespace: str, models: Models, *, new: bool = False) -> Generator[Database]:
        """Open for folding; made where there is none, with its folder, which only this user can read.

        `new` says that it is the file of a rebuild: nobody reads it before it is complete. Raises Outdated where it
        was folded with older read models, ProjectionStopped where it cannot be used.
        """
        with explained(path):
            make_folder(path)
            made = sqlite3.connect(path, PATIENCE, isolation_level=None, check_same_thread=False)
        try:
            with explained(path):
                self = cls(path, namespace, models, made, path.stat().st_ino)
                if not _blank(made):
                    self.check(new=new)
                _prepare(made, new=new)
                with self.transaction():
                    if _blank(made):
                        self._create(new=new)
                    else:
                        self.check(new=new)
            yield self
        finally:
            made.close()

    @classmethod
    @contextmanager
    def read(cls, path: Path, namespace: str, models: Models) -> Generator[Database]:
        """Open for reading only. Raises NotFound where there is none, and what `open` raises."""
        missing = NotFound(
            f"There is no projection of {namespace} yet ({path}).",
            advice="Ask without `--no-sync`, or run `bus project`: both make it.",
        )
        if not path.exists():
            raise missing
        with explained(path):
            uri = f"file:{quote(str(path))}?mode=ro"
            found = sqlite3.connect(uri, PATIENCE, isolation_level=None, check_same_thread=False, uri=True)
        try:
            with explained(path):
                self = cls(path, namespace, models, found, path.stat().st_ino)
                if _blank(found):  # another process is about to make it
                    raise missing
                self.check()
            yield self
        finally:
            found.close()

    def checkpoint(self, shard: int = 0) -> Checkpoint:
        """Up to where the log was folded."""
        row = self.connection.execute(
            "SELECT position, envelope, folded, head FROM checkpoint WHERE shard = ?", (shard,)
        ).fetchone()
        return Checkpoint(Position.parse(row[0], shard=shard), *row[1:]) if row else Checkpoint()

    @property
    def unfinished(self) -> bool:
        """Whether it is the file of a rebuild, and not complete."""
        return self.connection.execute("PRAGMA user_version").fetchone() == (UNFINISHED,)

    @property
    def was_cut_off(self) -> bool:
        """Whether it is unfinished, and the machine has been started anew since: then nobody knows what it holds."""
        return self.unfinished and self.connection.execute("SELECT boot FROM unfinished").fetchone() != (_boot(),)

    def move(self, checkpoint: Checkpoint) -> None:
        """Move the checkpoint; within the transaction that writes the rows."""
        self.connection.execute(
            "INSERT OR REPLACE INTO checkpoint VALUES (?, ?, ?, ?, ?)",
            (checkpoint.position.shard, checkpoint.position.entry, *checkpoint[1:]),
        )

    def set_aside(self, given: SetAside) -> None:
        """Note what could not be folded; within the transaction that folds the rest."""
        self.connection.execute("INSERT OR REPLACE INTO set_aside VALUES (?, ?, ?, ?, ?, ?)", given)

    def complete(self) -> None:
        """Make what a rebuild leaves for its end: indexes, and what the read models left out. Once it is, it stays so.

        Raises whatever a read model raises: then nothing has changed.
        """
        if not self.unfinished:
            return
        with self.transaction():
            if self.connection.execute("SELECT completed FROM unfinished").fetchone() == (0,):
                # An index is sorted in as much memory as the pages may have.
                self.connection.execute("PRAGMA cache_size = -8000")
                for script in (model.indexes for model in self.models):
                    self._run(script)
                for model in self.models:
                    folder = model()
                    folder.database = self.connection
                    folder.complete()
                self.connection.execute("UPDATE unfinished SET completed = 1")
        with self.path.open("rb") as file:
            os.fsync(file)  # so far nothing was waited for
        with self.transaction():
            self.connection.execute("DROP TABLE unfinished")
            self.connection.execute(f"PRAGMA user_version = {SCHEMA}")

    @contextmanager
    def transaction(self) -> Generator[None]:
        """All or nothing, and the only writer of the file meanwhile: others wait for it."""
        self.connection.execute("BEGIN IMMEDIATE")
        try:
            yield
            self.connection.execute("COMMIT")
        except BaseException:
            # A full disk or a broken file has ended the transaction already.
            if self.connection.in_transaction:
                self.connection.execute("ROLLBACK")
            raise

    @contextmanager
    def snapshot(self) -> Generator[None]:
        """Several queries see one and the same state of the file."""
        self.connection.execute("BEGIN")
        try:
            yield
        finally:
            self.connection.execute("ROLLBACK")

    def query(self, sql: str, parameters: Mapping[str, object] | Sequence[object] = ()) -> list[dict[str, Any]]:
        """The rows of a query, each by its column names."""
        from sqlite_utils import Database as Tables  # slow to import, and folding does without

        # Its rows are typed as dictionaries of unknown things.
        tables: Any = Tables(self.connection, recursive_triggers=False, execute_plugins=False)
        with explained(self.path):
            return list(tables.query(sql, parameters))

    def check(self, *, new: bool = False) -> None:
        """See whether this is the database that is meant, with the read models that are installed."""
        application, schema = (
            self.connection.execute(f"PRAGMA {name}").fetchone()[0] for name in ("application_id", "user_version")
        )
        if application != APPLICATION:
            message = f"{self.path} is a database, but not from taskbus."
            raise ProjectionStopped(message, advice="Move it away, or choose another BUS_HOME.")
        if schema != SCHEMA and not (new and schema == UNFINISHED):
            raise self._other(f"its tables are of version {schema}, here of {SCHEMA}", newer=schema > SCHEMA)
        (namespace,) = self.connection.execute("SELECT namespace FROM bus").fetchone()
        if namespace != self.namespace:
            message = f"{self.path} holds the namespace {namespace}, not {self.namespace}."
            raise ProjectionStopped(
                message, advice="Choose another BUS_HOME for this namespace, or move the file away."
            )
        self.check_models()

    def check_place(self) -> None:
        """See whether the path still names the file that is open. Raises ProjectionStopped."""
        if not self.path.exists() or self.path.stat().st_ino != self.inode:
            message = f"{self.path} was removed or replaced while it was in use."
            raise ProjectionStopped(message, advice="Start the command again: it goes on with the file that is there.")

    def check_models(self) -> None:
        """See whether the rows were folded with the read models that are installed."""
        recorded: dict[str, int] = dict(self.connection.execute("SELECT name, version FROM read_models"))
        wanted = {model.name: model.version for model in self.models}
        if recorded == wanted:
            return
        for name, version in recorded.items():
            if version > wanted.get(name, 0):
                here = f"version {wanted[name]} is" if name in wanted else "it is not"
                raise self._other(
                    f"its read model {name} is of version {version}, and here {here} installed", newer=True
                )
        name = next(name for name, version in wanted.items() if version > recorded.get(name, 0))
        before = f"is of version {recorded[name]}" if name in recorded else "is missing"
        raise self._other(f"its read model {name} {before}, and here version {wanted[name]} is installed", newer=False)

    def _other(self, what: str, *, newer: bool) -> ProjectionStopped:
        if not newer:
            return Outdated(f"{self.path} was folded with older read models: {what}.")
        return ProjectionStopped(
            f"{self.path} was folded with other read models than those that are installed: {what}.",
            advice="Install taskbus and packages as they were, or fold it anew with `bus rebuild`.",
        )

    def _create(self, *, new: bool) -> None:
        scripts = [TABLES, *(model.tables for model in self.models)]
        for script in scripts if new else (*scripts, *(model.indexes for model in self.models)):
            self._run(script)
        if new:
            self._run("CREATE TABLE unfinished (boot TEXT NOT NULL, completed INTEGER NOT NULL) STRICT")
            self.connection.execute("INSERT INTO unfinished VALUES (?, 0)", (_boot(),))
        self.connection.execute("INSERT INTO bus VALUES (?)", (self.namespace,))
        versions = [(model.name, model.version) for model in self.models]
        self.connection.executemany("INSERT INTO read_models VALUES (?, ?)", versions)
        self.connection.execute(f"PRAGMA application_id = {APPLICATION}")
        self.connection.execute(f"PRAGMA user_version = {UNFINISHED if new else SCHEMA}")

    def _run(self, script: str) -> None:
        """Run the statements of a script, in the transaction that they belong to."""
        for statement in _statements(script):
            self.connection.execute(statement)


@contextmanager
def explained(path: Path) -> Generator[None]:
    """Turn what SQLite and the file system say of the database into what the user can do about it."""
    try:
        yield
    except TaskbusError:
        raise
    except sqlite3.Error as error:
        code = getattr(error, "sqlite_errorcode", 0) & 0xFF
        if code in _BUSY:
            message = f"Another process has been writing to {path} for more than {PATIENCE:g} s."
            raise TimedOut(message, advice="Wait for it (a rebuild takes long), or end it; then try again.") from error
        if code in _CANNOT_READ:
            message = f"{path} cannot be read: {error}."
            raise ProjectionStopped(message, advice="`bus rebuild` makes it anew from the log.") from error
        advice = "Check the disk and the rights of its folder. The log is not touched by this."
        raise ProjectionStopped(f"{path} cannot be used: {error}.", advice=advice) from error
    except OSError as error:
        advice = "Check the disk and the rights of its folder, or choose another BUS_HOME."
        raise ProjectionStopped(f"{path} cannot be used: {error.strerror or error}.", advice=advice) from error


def _blank(connection: sqlite3.Connection) -> bool:
    return connection.execute("SELECT NOT EXISTS (SELECT 1 FROM sqlite_master)").fetchone() == (1,)


def _boot() -> str:
    """Which start of the machine this is."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    except OSError:  # not on Linux
        import psutil

        return str(psutil.boot_time())


def _prepare(connection: sqlite3.Connection, *, new: bool) -> None:
    """Settings of a connection that writes."""
    connection.execute("PRAGMA foreign_keys = ON")
    connection.execute(f"PRAGMA cache_size = -{CACHE}")
    connection.execute(f"PRAGMA page_size = {PAGE_SIZE}")
    if new:
        # Each page is written once, and nothing is waited for. What a crash of the machine leaves is not gone on with.
        connection.execute("PRAGMA synchronous = OFF")
        connection.execute("PRAGMA journal_mode = TRUNCATE")
        return
    # Within WAL a crash of the machine may take back the newest commits, rows and checkpoint together.
    connection.execute("PRAGMA synchronous = NORMAL")
    connection.execute("PRAGMA journal_size_limit = 67108864")
    deadline = time.monotonic() + PATIENCE
    while connection.execute("PRAGMA journal_mode").fetchone() != ("wal",):
        try:
            connection.execute("PRAGMA journal_mode = WAL")
        except sqlite3.OperationalError as error:
            # SQLite does not wait for others who open a new file at the same moment (3.40).
            if error.sqlite_errorcode not in _BUSY or time.monotonic() > deadline:
                raise
            time.sleep(0.01)


def _statements(script: str) -> Iterator[str]:
    """The statements of a script; `executescript` would commit the transaction that they belong to."""
    part = ""
    for line in textwrap.dedent(script).strip().splitlines(keepends=True):
        part += line
        if sqlite3.complete_statement(part):
            yield part.strip()
            part = ""
    if part.strip():
        yield part
