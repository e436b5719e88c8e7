"""Periods: a part of the log, from one moment to another, as numbers of envelopes.

Owns how `--from`, `--to` and `--month` become one: both ends are included, months are those of UTC. Called by the
commands that say something of a period.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Final

from taskbus import moment
from taskbus.errors import UsageError
from taskbus_projections.instants import appended, instant

if TYPE_CHECKING:
    from taskbus.position import Position
    from taskbus_projections.database import Database

_MONTH: Final = re.compile(r"(20\d\d|21\d\d)-(0[1-9]|1[0-2])", re.ASCII)
_DAYS: Final = 32
"""From the first of a month so many days on it is the next one."""
_ADVICE: Final = "Write a month as 2026-11, or give --from and --to instead."


@dataclass(frozen=True, slots=True)
class Period:
    """Where a part of the log begins and ends, both included; None where nothing was said."""

    start: Position | None = None
    end: Position | None = None

    @classmethod
    def read(cls, start: str | None, end: str | None, month: str | None = None) -> Period:
        """What the options say. Raises UsageError."""
        if month is not None:
            if start is not None or end is not None:
                raise UsageError("--month says both ends of the period; --from and --to do, too.", advice=_ADVICE)
            first = _first_of(month)
            following = moment.at((first + timedelta(days=_DAYS)).replace(day=1))
            return cls(moment.at(first), moment.before(following))
        period = cls(moment.position(start) if start else None, moment.until(end) if end else None)
        if period.start and period.end and period.end < period.start:
            raise UsageError(f"The period ends ({end}) before it begins ({start}).", advice="Swap --from and --to.")
        return period

    def numbers(self, database: Database) -> tuple[int, int]:
        """The numbers of its first and its last envelope in the log; the last is the smaller one where it has none."""
        from taskbus_projections.queries.envelopes import number  # the queries ask for periods, too

        first = number(database, self.start) if self.start else 1
        (newest,) = database.connection.execute("SELECT coalesce(max(n), 0) FROM events").fetchone()
        return first, number(database, self.end, after=True) - 1 if self.end else newest

    @property
    def words(self) -> str:
        """The period as people read it."""
        start = appended(self.start) if self.start else "the beginning"
        return f"from {start} to {appended(self.end) if self.end else 'now'}"


def month_of(time: datetime) -> str:
    """The month of an aware time in UTC, such as `2026-11`."""
    return instant(time)[:7]


def days_of(month: str) -> int:
    """How many days a month has. Raises UsageError."""
    first = _first_of(month)
    return ((first + timedelta(days=_DAYS)).replace(day=1) - first).days


def _first_of(month: str) -> datetime:
    found = _MONTH.fullmatch(month.strip())
    if found is None:
        raise UsageError(f"{month!r} is no month.", advice=_ADVICE)
    return datetime(int(found[1]), int(found[2]), 1, tzinfo=UTC)
