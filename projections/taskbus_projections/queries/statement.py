"""Statements: one query of the user's own, which can read everything and change nothing.

Owns what a statement may do (an authorizer asks for each step of it), how long it may take and how many rows it may
give, and where in it a mistake is. Called by `bus sql`.
"""

from __future__ import annotations

import difflib
import re
import sqlite3
import time
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, TypeAlias

from taskbus.errors import TimedOut, UsageError
from taskbus_projections.database import explained

if TYPE_CHECKING:
    from collections.abc import Generator, Iterator, Mapping, Sequence

    from taskbus_projections.database import Database

Value: TypeAlias = "str | int | float | bytes | None"

LONGEST: Final = 64 << 20
"""In bytes: the longest text or blob that a statement may make."""
_STEPS: Final = 5_000
"""After so many steps of SQLite's machine the clock is looked at: well under a millisecond."""
_CHUNK: Final = 500
_READS: Final = frozenset(
    {sqlite3.SQLITE_SELECT, sqlite3.SQLITE_READ, sqlite3.SQLITE_FUNCTION, sqlite3.SQLITE_RECURSIVE}
)
_PRAGMAS: Final = frozenset(
    {
        *("table_info", "table_xinfo", "table_list", "index_list", "index_info", "index_xinfo", "foreign_key_list"),
        *("database_list", "collation_list", "function_list", "module_list", "pragma_list", "compile_options"),
        *("integrity_check", "quick_check", "foreign_key_check"),
    }
)
"""They only tell; their argument says of what."""
_VALUES: Final = frozenset(
    {
        *("user_version", "application_id", "schema_version", "data_version", "page_count", "page_size", "encoding"),
        *("freelist_count", "journal_mode", "foreign_keys", "query_only", "cache_size"),
    }
)
"""They tell without an argument, and set with one."""
_KINDS: Final[Mapping[int, str]] = {
    sqlite3.SQLITE_ATTACH: "ATTACH",
    sqlite3.SQLITE_DETACH: "DETACH",
    sqlite3.SQLITE_INSERT: "INSERT",
    sqlite3.SQLITE_UPDATE: "UPDATE",
    sqlite3.SQLITE_DELETE: "DELETE",
    sqlite3.SQLITE_TRANSACTION: "a transaction of its own",
    sqlite3.SQLITE_SAVEPOINT: "a savepoint",
    sqlite3.SQLITE_ANALYZE: "ANALYZE",
    sqlite3.SQLITE_REINDEX: "REINDEX",
    sqlite3.SQLITE_ALTER_TABLE: "ALTER",
}
_SKIPPED: Final = re.compile(r"'(?:[^']|'')*'|--[^\n]*|/\*.*?\*/", re.DOTALL)
_QUOTED: Final = re.compile(r'"(?:[^"]|"")*"|`[^`]*`|\[[^]]*\]')
_SYNTAX: Final = re.compile(r'near "(.*)": syntax error', re.DOTALL)
_UNKNOWN: Final = re.compile(r"no such (table|column|function|collation sequence)s?: (?:.*\.)?(.+)")
_CHANGES: Final = re.compile("cannot VACUUM|may not be modified|readonly database|cannot start a transaction")
_TOKEN: Final = re.compile(r'unrecognized token: "(.*)"', re.DOTALL)


@dataclass(frozen=True, slots=True)
class Table:
    """What a statement gave: the names of its columns, each once, and rows; whether there would be more of them."""

    columns: tuple[str, ...]
    rows: list[tuple[Value, ...]]
    more: bool = False

    def named(self) -> Iterator[dict[str, Value]]:
        """The rows, each by its column names."""
        for row in self.rows:
            yield dict(zip(self.columns, row, strict=True))


def ask(
    database: Database,
    sql: str,
    parameters: Mapping[str, Value] | None = None,
    *,
    limit: int | None = None,
    seconds: float | None = None,
) -> Table:
    """Answer one statement.

    Raises UsageError for one that is wrong or would do more than read, with the place of the mistake, and TimedOut
    after so many seconds. KeyboardInterrupt ends a statement that runs.
    """
    given = parameters or {}
    _checked(sql, given)
    guard = _Guard(seconds)
    with _read_only(database.connection, guard):
        try:
            return _fetched(database.connection.execute(sql, given), limit)
        except sqlite3.Error as error:
            _explain(database, sql, error, guard)
            with explained(database.path):
                raise
        # Python 3.11 warns of a second statement, newer ones raise; text that is no UTF-8 cannot be sent.
        except (sqlite3.Warning, UnicodeEncodeError) as error:
            raise UsageError(f"The query cannot be asked: {error}", advice="Ask one SELECT, as plain text.") from error


class _Guard:
    """What a statement may do, and until when."""

    def __init__(self, seconds: float | None) -> None:
        self.seconds = seconds
        self.deadline = None if seconds is None else time.monotonic() + seconds
        self.late = False
        self.refused: str | None = None

    def allow(self, action: int, one: str | None, two: str | None, *_: str | None) -> int:
        if action in _READS:
            allowed = (two or "").lower() != "load_extension"
        elif action == sqlite3.SQLITE_PRAGMA:
            name = (one or "").lower()
            allowed = name in _PRAGMAS or (name in _VALUES and two is None)
        else:
            # So a virtual table says what columns it has; `query_only` holds whatever the statement does.
            allowed = action == sqlite3.SQLITE_UPDATE and one in ("sqlite_master", "sqlite_temp_master")
        if not allowed and self.refused is None:
            named = {sqlite3.SQLITE_PRAGMA: f"PRAGMA {one}", sqlite3.SQLITE_FUNCTION: f"{two}()"}
            self.refused = named.get(action) or _KINDS.get(action, "to change something")
        return sqlite3.SQLITE_OK if allowed else sqlite3.SQLITE_DENY

    def step(self) -> int:
        # What a signal raises in here, Ctrl-C most of all, also stops SQLite, which says only that it was interrupted.
        self.late = self.deadline is not None and time.monotonic() > self.deadline
        return int(self.late)


@contextmanager
def _read_only(connection: sqlite3.Connection, guard: _Guard) -> Generator[None]:
    (before,) = connection.execute("PRAGMA query_only").fetchone()
    factory, longest = connection.text_factory, connection.getlimit(sqlite3.SQLITE_LIMIT_LENGTH)
    connection.execute("PRAGMA query_only = ON")
    connection.text_factory = _text
    connection.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, LONGEST)
    connection.set_authorizer(guard.allow)
    connection.set_progress_handler(guard.step, _STEPS)
    try:
        yield
    finally:
        connection.set_progress_handler(None, 0)
        connection.set_authorizer(None)
        connection.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, longest)
        connection.text_factory = factory
        connection.execute(f"PRAGMA query_only = {before}")


def _text(raw: bytes) -> str:
    return raw.decode(errors="replace")


def _checked(sql: str, parameters: Mapping[str, Value]) -> None:
    if not _SKIPPED.sub("", sql).strip(" \t\r\n;"):
        raise UsageError(
            "The query is empty.", advice='Ask something: bus sql "SELECT state, count(*) FROM tasks GROUP BY 1".'
        )
    if "\0" in sql:
        raise UsageError("The query has a NUL character in it.", advice="Give it as plain text.")
    plain = _QUOTED.sub("", _SKIPPED.sub("", sql))
    asked = set(re.findall(r"(?<!:)[:@$]([A-Za-z_]\w*)", plain))
    if missing := sorted(asked - set(parameters)):
        raise UsageError(
            f"The query has the parameter :{missing[0]}, which has no value.",
            advice=f"Give it one: --param {missing[0]}=VALUE.",
        )
    if unused := sorted(set(parameters) - asked):
        raise UsageError(
            f"The query has no parameter :{unused[0]}.",
            advice=f"Write :{unused[0]} where its value belongs, or leave it out.",
        )


def _fetched(cursor: sqlite3.Cursor, limit: int | None) -> Table:
    names = _apart([column[0] for column in cursor.description or ()])
    rows: list[tuple[Any, ...]] = []
    # One row more than is wanted tells whether there are more; no query runs on for what nobody sees.
    while part := cursor.fetchmany(_CHUNK if limit is None else min(_CHUNK, limit + 1 - len(rows))):
        rows += part
        if limit is not None and len(rows) > limit:
            return Table(names, rows[:limit], more=True)
    return Table(names, rows)


def _apart(names: Sequence[str]) -> tuple[str, ...]:
    """Names of columns, each once: the second `n` is `n_2`."""
    found: list[str] = []
    for name in names:
        number, other = 1, name
        while other in found:
            number += 1
            other = f"{name}_{number}"
        found.append(other)
    return tuple(found)


def _explain(database: Database, sql: str, error: sqlite3.Error, guard: _Guard) -> None:
    """Say what is wrong with a statement; nothing where it is the file that is."""
    message, code = str(error), getattr(error, "sqlite_errorcode", None)
    if code == sqlite3.SQLITE_INTERRUPT and not guard.late:
        raise KeyboardInterrupt from error
    if guard.late:
        raise TimedOut(
            f"The query took longer than {guard.seconds:g} s.",
            advice="Narrow it down (EXPLAIN QUERY PLAN shows what it reads), or give it more: --timeout 60s.",
        ) from error
    if guard.refused is not None or _CHANGES.search(message):
        raise UsageError(
            f"A query may only read; this one wants {guard.refused or 'to change something'}.",
            advice="Ask with SELECT, VALUES or WITH. Rows come from the log alone: `bus rebuild` folds them anew.",
        ) from error
    if code in (sqlite3.SQLITE_TOOBIG, sqlite3.SQLITE_NOMEM):
        raise UsageError(
            f"The query makes a text that is too long: {message}.", advice="Ask for less of it."
        ) from error
    if isinstance(error, sqlite3.ProgrammingError) or (code is not None and code & 0xFF == sqlite3.SQLITE_ERROR):
        place, advice = _place(database.connection, sql, message)
        shown = _pointed(sql, place) if place is not None else ""
        raise UsageError(
            f"The query is wrong: {message.rstrip('.')}.{shown}", advice=advice or _advice(database, message)
        ) from error


def _place(connection: sqlite3.Connection, sql: str, message: str) -> tuple[int | None, str | None]:
    """Where a mistake is, as an index into the statement, and what to do about it where that is special."""
    if message == "incomplete input":
        return len(sql.rstrip()), "It ends too early: is a parenthesis or a word missing?"
    if "one statement at a time" in message:
        return None, "Ask one statement; further ones go into commands of their own."
    if "bindings supplied" in message or "has no name" in message:
        return None, "Parameters have names here: write :name, and give --param name=VALUE."
    if found := _TOKEN.match(message):
        place = sql.find(found[1])
        return (place if place >= 0 else None), None
    if found := _SYNTAX.match(message):
        return _first_wrong(connection, sql, found[1], message), None
    if found := _UNKNOWN.match(message):
        word = re.search(rf"(?<!\w){re.escape(found[2])}(?!\w)", _blanked(sql), re.IGNORECASE)
        return (word.start() if word else None), None
    return None, None


def _first_wrong(connection: sqlite3.Connection, sql: str, token: str, message: str) -> int | None:
    """The place of the token at which the statement stops to make sense: cut off behind it, it is as wrong."""
    for found in re.finditer(re.escape(token), sql):
        try:
            connection.execute(f"EXPLAIN {sql[: found.end()]} ")
        except (sqlite3.Error, sqlite3.Warning) as error:
            if str(error) == message:
                return found.start()
    return None


def _blanked(sql: str) -> str:
    """The statement with blanks for its texts and comments, as long as it was."""
    return _SKIPPED.sub(lambda found: " " * len(found[0]), sql)


def _pointed(sql: str, place: int) -> str:
    """The line of a statement with the mistake, and a mark below it."""
    line = sql.count("\n", 0, place) + 1
    start = sql.rfind("\n", 0, place) + 1
    column = place - start + 1
    text = sql[start:].partition("\n")[0]
    left = max(0, column - 61)
    return f" Line {line}, column {column}:\n  {text[left : left + 100]}\n  {' ' * (column - 1 - left)}^"


def _advice(database: Database, message: str) -> str:
    found = _UNKNOWN.match(message)
    if found and found[1] in ("table", "column"):
        near = difflib.get_close_matches(found[2], _words(database, found[1]), n=3)
        if near:
            return f"Is it {' or '.join(near)}? `bus schema` lists all tables and columns."
    return "`bus schema` lists all tables and columns; EXPLAIN QUERY PLAN SELECT … shows how a query is answered."


def _words(database: Database, kind: str) -> list[str]:
    sql = "SELECT DISTINCT name FROM pragma_table_list WHERE type IN ('table', 'view')"
    if kind == "column":
        sql = f"SELECT DISTINCT c.name FROM ({sql}) AS t, pragma_table_info(t.name) AS c"  # noqa: S608 - text of our own
    return [row[0] for row in database.connection.execute(sql)]
