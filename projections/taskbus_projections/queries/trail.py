"""The trail: the envelopes that meet some conditions, the newest of them.

Owns the search: which envelopes say something, and about what. Called by `bus audit` and `bus task`.
"""

from __future__ import annotations

import re
import sqlite3
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from taskbus.envelope import MESSAGE_TYPES
from taskbus.errors import ProjectionStopped, UsageError
from taskbus_projections.queries import narrowing
from taskbus_projections.queries.answer import Page, at_most, flagged, marks, rows, value
from taskbus_projections.queries.envelopes import BODIES, COLUMNS, FROM, number
from taskbus_projections.queries.narrowing import Condition, equal

if TYPE_CHECKING:
    from collections.abc import Generator, Sequence

    from taskbus.position import Position
    from taskbus_projections.database import Database

_SAYS: Final = "EXISTS (SELECT 1 FROM texts WHERE texts MATCH ? AND texts.rowid = e.n)"
_WORD: Final = re.compile(r"[^\W_]")


@dataclass(frozen=True, slots=True)
class Sought:
    """Which envelopes are sought: all conditions are to be met, several types are alternatives.

    `since` and `until` are included. `search` are words that all stand in what was said, in any order and case, a
    trailing * for any ending; `match` is an expression of FTS5.
    """

    task: str | None = None
    root: str | None = None
    agent: str | None = None
    types: Sequence[str] = ()
    by_hand: bool = False
    since: Position | None = None
    until: Position | None = None
    search: str | None = None
    match: str | None = None


def audit(database: Database, sought: Sought | None = None, *, bodies: bool = False, limit: int | None = None) -> Page:
    """The newest envelopes that match, the oldest of them first, with what caused each. Raises UsageError."""
    asked = sought or Sought()
    most = at_most(None if limit is None else limit + 1)
    said = expression(asked.search, asked.match)
    with _understood(said):
        arms, leads = _arms(database, asked)
        if said is not None and not (leads < narrowing.FEW and _many(database, said)):
            inner, values = _by_text(asked, _span(database, asked), said, most)
        else:
            inner, values = _by_arms(asked, arms, _span(database, asked), said, most)
        found = rows(
            database,
            f"SELECT {COLUMNS}{BODIES if bodies else ''} FROM ({inner}) AS found CROSS JOIN {FROM} "  # noqa: S608 - our own words
            "WHERE e.n = found.n ORDER BY e.n DESC LIMIT ?",
            (*values, most),
        )
    more = limit is not None and len(found) > limit
    return Page([flagged(row, "by_hand") for row in reversed(found[:limit])], more=more)


def expression(search: str | None, match: str | None) -> str | None:
    """What is asked of the full-text search; None where nothing is. Raises UsageError for words without letters."""
    if match is not None:
        return match
    if search is None:
        return None
    words: list[str] = []
    for word in search.split():
        if _WORD.search(word):
            quoted = word.rstrip("*").replace('"', '""')
            words.append(f'"{quoted}"{"*" if word.endswith("*") else ""}')
    if not words:
        raise UsageError(f"There is no word to search for in {search!r}.", advice="Words have letters or digits.")
    return " AND ".join(words)


@contextmanager
def _understood(said: str | None) -> Generator[None]:
    """Turn what SQLite says of an expression of the search into a mistake of its writer. Raises UsageError."""
    try:
        yield
    except ProjectionStopped as error:
        cause = error.__cause__
        if said is None or not isinstance(cause, sqlite3.Error) or cause.sqlite_errorcode != sqlite3.SQLITE_ERROR:
            raise
        raise UsageError(
            f"The full-text search does not understand {said!r}: {str(cause).removeprefix('fts5: ')}.",
            advice='Combine words with AND, OR, NOT, NEAR(a b), "a phrase", begin*; for plain words there is --search.',
        ) from error


def _many(database: Database, said: str) -> bool:
    """Whether more envelopes say this than can be looked at one by one."""
    sql = "SELECT count(*) FROM (SELECT 1 FROM texts WHERE texts MATCH ? LIMIT ?)"
    return bool(value(database, sql, (said, narrowing.FEW)) >= narrowing.FEW)


def _arms(database: Database, asked: Sought) -> tuple[list[Condition], int]:
    """The condition that the fewest envelopes meet, in parts that each have an index; and how many meet it.

    An agent is a sender or a recipient, and each type stands by itself: so an index has them in the order of the log.
    """
    leads = [[each] for each in (*equal("e.task", asked.task), *equal("e.root", asked.root))]
    if asked.by_hand:
        leads.append([Condition("e.by_hand", "= 1")])
    if asked.agent is not None:
        leads.append(
            [
                Condition(f"e.{side}", "= ? AND e.type = ?", (asked.agent, type))
                for side in ("sender", "recipient")
                for type in asked.types or MESSAGE_TYPES
            ]
        )
    elif asked.types:
        leads.append([each for type in asked.types for each in equal("e.type", type)])
    counted = [
        (sum(narrowing.count(database, "events AS e", each) for each in lead), at, lead)
        for at, lead in enumerate(leads)
    ]
    if not counted:
        return [Condition("e.n", "> 0")], narrowing.FEW
    count, _, lead = min(counted, key=lambda found: found[:2])
    return lead, count


def _by_arms(
    asked: Sought, arms: Sequence[Condition], span: list[Condition], said: str | None, most: int
) -> tuple[str, list[object]]:
    """Each part of the leading condition by itself, everything else row by row."""
    rest = _rest(asked, arms[0].column) + span
    parts: list[str] = []
    values: list[object] = []
    for arm in arms:
        clause = " AND ".join(
            [arm.sql(leading=True), *(each.sql(leading=True) for each in rest), *([_SAYS] if said else [])]
        )
        parts.append(f"SELECT n FROM (SELECT e.n FROM events AS e WHERE {clause} ORDER BY e.n DESC LIMIT ?)")  # noqa: S608 - our own words
        values += [*arm.values, *narrowing.values(rest), *([said] if said else []), most]
    # An envelope that somebody has sent to itself is found twice.
    return " UNION ".join(parts), values


def _by_text(asked: Sought, span: list[Condition], said: str, most: int) -> tuple[str, list[object]]:
    """The full-text search in the order of the log, everything else row by row."""
    rest = _rest(asked, "")
    joined = "CROSS JOIN events AS e ON e.n = texts.rowid" if rest else ""
    conditions = [*(Condition("texts.rowid", each.asked, each.values) for each in span), *rest]
    clause = "".join(f" AND {each.sql(leading=True)}" for each in conditions)
    sql = (
        f"SELECT texts.rowid AS n FROM texts {joined} WHERE texts MATCH ?{clause} "  # noqa: S608 - the same
        "ORDER BY texts.rowid DESC LIMIT ?"
    )
    return sql, [said, *narrowing.values(conditions), most]


def _rest(asked: Sought, leading: str) -> list[Condition]:
    """The conditions that do not lead, so that no index is used for them."""
    sides = leading in ("e.sender", "e.recipient")
    found = [Condition(f"+{each.column}", each.asked, each.values) for each in equal("e.task", asked.task)]
    found += [Condition(f"+{each.column}", each.asked, each.values) for each in equal("e.root", asked.root)]
    if asked.by_hand:
        found.append(Condition("+e.by_hand", "= 1"))
    if asked.agent is not None and not sides:
        found.append(Condition("?", "IN (e.sender, e.recipient)", (asked.agent,)))
    if asked.types and not sides:
        found.append(Condition("+e.type", f"IN ({marks(asked.types)})", tuple(asked.types)))
    return [each for each in found if each.column != f"+{leading}"]


def _span(database: Database, asked: Sought) -> list[Condition]:
    """From when to when, as numbers of the log."""
    found: list[Condition] = []
    if asked.since is not None:
        found.append(Condition("e.n", ">= ?", (number(database, asked.since),)))
    if asked.until is not None:
        found.append(Condition("e.n", "< ?", (number(database, asked.until, after=True),)))
    return found
