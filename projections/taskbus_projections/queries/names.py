"""Names: the task that somebody means, and how short an ID may be written.

Owns what the beginning of an ID stands for. Called by every command that takes a task, also those that ask nothing
else of the database.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from taskbus.errors import NotFound, UsageError
from taskbus_projections.database import Database, Outdated, explained, place
from taskbus_projections.registry import installed

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

_SHOWN: Final = 10
"""How many candidates an error about an ambiguous beginning names."""
_WHOLE: Final = 12


def task_id(database: Database, text: str) -> str:
    """The task whose ID is `text`, else the only one whose ID begins with it. Raises NotFound, UsageError."""
    found = _beginning(database, text)
    if not found:
        raise NotFound(
            f"There is no task {text} on this bus, and none whose ID begins so.",
            task=text,
            advice="`bus tasks` lists them; check the namespace with `bus doctor`.",
        )
    return _told_apart(text, found)


def known_task(home: Path, namespace: str, text: str) -> str | None:
    """What `task_id` finds in what was folded before, without a server, in a few milliseconds.

    None where nothing begins so, or nothing was folded: a task that is newer than the last query is not known here.
    Raises UsageError where several tasks begin so, and ProjectionStopped for a file that cannot be read.
    """
    try:
        with Database.read(place(home, namespace), namespace, installed()) as database:
            found = _beginning(database, text)
    except (NotFound, Outdated):
        # Nothing was folded, or by an older version: then nothing is known, which is the answer.
        return None
    return _told_apart(text, found) if found else None


def root_of(database: Database, text: str) -> str:
    """The root of the tree that a task is in. Raises NotFound, UsageError."""
    id = task_id(database, text)
    with explained(database.path):
        (root,) = database.connection.execute("SELECT root FROM tasks WHERE id = ?", (id,)).fetchone()
    found: str = root
    return found


def short_ids(database: Database, ids: Sequence[str], *, least: int = 8) -> dict[str, str]:
    """Each ID cut to where no other task's ID begins alike, at `least` characters.

    A name that is no longer than `_WHOLE` characters is not cut: there is little to save.
    """
    found: dict[str, str] = {}
    for id in ids:
        near = database.connection.execute(
            "SELECT (SELECT max(id) FROM tasks WHERE id < :id), (SELECT min(id) FROM tasks WHERE id > :id)",
            {"id": id},
        ).fetchone()
        length = max(least, *(_common(id, other) + 1 for other in near if other is not None), 0)
        found[id] = id if len(id) <= _WHOLE else id[:length]
    return found


def beginning(database: Database, table: str, column: str, text: str, *, limit: int = 50) -> list[str]:
    """The values of an indexed column that begin so, for a shell that completes them."""
    found: list[str] = []
    least = f"{column} >= ?"
    while len(found) < limit:
        # From one value to the next, however many rows have it.
        row = database.connection.execute(
            f"SELECT min({column}) FROM {table} WHERE {least} AND {column} < ?",  # noqa: S608 - names of our own
            (found[-1] if found else text, text + "\U0010ffff"),
        ).fetchone()
        if row[0] is None:
            break
        found.append(row[0])
        least = f"{column} > ?"
    return found


def _beginning(database: Database, text: str) -> list[tuple[str, str, str]]:
    with explained(database.path):
        return database.connection.execute(
            "SELECT id, state, goal FROM tasks WHERE id >= ? AND id < ? ORDER BY id LIMIT ?",
            (text, text + "\U0010ffff", _SHOWN + 1),
        ).fetchall()


def _told_apart(text: str, found: Sequence[tuple[str, str, str]]) -> str:
    if len(found) == 1 or found[0][0] == text:
        return found[0][0]
    lines = [f"\n  {id} ({state}: {' '.join(goal.split())[:40]})" for id, state, goal in found[:_SHOWN]]
    rest = "\n  and more" if len(found) > _SHOWN else ""
    raise UsageError(
        f"Several tasks have an ID that begins with {text}:{''.join(lines)}{rest}",
        advice="Give more of the ID.",
    )


def _common(one: str, other: str) -> int:
    return next((at for at, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other)))
