"""Envelopes: which one somebody means, and the columns that the audit trail shows of one.

Owns the way from a position, a number or the beginning of an ID to an envelope. Called by the audit trail and by the
chain of causation.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

from taskbus.errors import NotFound, UsageError
from taskbus.position import Position
from taskbus_projections.queries.answer import value

if TYPE_CHECKING:
    from taskbus_projections.database import Database

COLUMNS: Final = (
    "e.n, e.position, e.time, e.sender, e.recipient, e.type, e.task, e.root, e.summary, "
    "e.causation, c.n AS cause_n, c.type AS cause_type, e.by_hand, e.priority, e.correlation, e.sent, e.id"
)
"""Of an envelope `e` and of what caused it, `c`."""
BODIES: Final = ", e.content_type, e.body, e.source_type, e.source"
FROM: Final = (
    "events AS e LEFT JOIN events AS c ON c.n = (SELECT min(n) FROM events AS named WHERE named.id = e.causation)"
)

_NUMBER: Final = re.compile(r"#?(\d{1,11})", re.ASCII)
_POSITION: Final = re.compile(r"(?:\d{1,5}/)?\d{12,20}(?:-\d{1,20})?", re.ASCII)
_ID: Final = re.compile(r"[0-9a-f-]{1,36}", re.ASCII)


def envelope(database: Database, text: str) -> int:
    """The number of the envelope that is meant: by its position, its number in the log, or the beginning of its ID.

    Raises NotFound, and UsageError where several have an ID that begins so.
    """
    word = text.strip().lower()
    if _POSITION.fullmatch(word):
        place = Position.parse(word)
        n = number(database, place)
        if value(database, "SELECT position FROM events WHERE n = ?", (n,)) == str(place):
            return n
    elif (found := _NUMBER.fullmatch(word)) and value(database, "SELECT n FROM events WHERE n = ?", (int(found[1]),)):
        return int(found[1])
    if _ID.fullmatch(word):
        return _by_id(database, word)
    raise _missing(text)


def place_of(database: Database, text: str) -> Position:
    """Where in the log the envelope stands that is meant, as `envelope` reads it. Raises NotFound, UsageError."""
    place: str = value(database, "SELECT position FROM events WHERE n = ?", (envelope(database, text),))
    return Position.parse(place)


def _by_id(database: Database, word: str) -> int:
    found = database.connection.execute(
        "SELECT n, id, type FROM events WHERE id >= ? AND id < ? ORDER BY id LIMIT 4", (word, word + "g")
    ).fetchall()
    if not found:
        raise _missing(word)
    if len(found) > 1:
        names = ", ".join(f"{id} (#{n}, {type})" for n, id, type in found[:3])
        rest = ", and more" if len(found) > 3 else ""
        raise UsageError(
            f"Several envelopes have an ID that begins with {word}: {names}{rest}.", advice="Give more of the ID."
        )
    n: int = found[0][0]
    return n


def _missing(text: str) -> NotFound:
    return NotFound(
        f"There is no envelope {text} on this bus.",
        advice="Give its position, its number (#12) or the beginning of its ID, as `bus audit --json` has them.",
    )


def number(database: Database, position: Position, *, after: bool = False) -> int:
    """The number of the first envelope at a position or behind it; with `after`, behind it."""
    bounds = database.connection.execute("SELECT (SELECT min(n) FROM events), (SELECT max(n) FROM events)").fetchone()
    if bounds[1] is None:
        return 1
    low, high = bounds[0], bounds[1] + 1
    while low < high:
        middle = (low + high) // 2
        # Numbers may be missing: of envelopes that were set aside, and below those of a part of the log.
        n, place = database.connection.execute(
            "SELECT n, position FROM events WHERE n >= ? ORDER BY n LIMIT 1", (middle,)
        ).fetchone()
        found = Position.parse(place)
        if found > position or (found == position and not after):
            high = middle
        else:
            low = n + 1
    return low
