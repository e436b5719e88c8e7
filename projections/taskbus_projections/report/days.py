"""Days: the period of a report, from one day in UTC to another, both included.

A report reads what the read models add up by day, so that it takes as long for a million envelopes as for a hundred.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Final

from taskbus import moment
from taskbus.errors import UsageError
from taskbus.position import Position
from taskbus_projections.period import Period, days_of, month_of

_DAY: Final = re.compile(r"\d{4}-\d\d-\d\d", re.ASCII)
_ONE: Final = timedelta(days=1)
_FIRST, _LAST = 1970, 9999
"""Positions begin with the first of these years; the second one has a day without another behind it."""


@dataclass(frozen=True, slots=True)
class Days:
    """The first and the last day, such as `2026-11-01`."""

    first: str
    last: str

    @classmethod
    def read(cls, start: str | None, end: str | None, month: str | None, now: datetime) -> Days:
        """What the options say: a day, or a moment, which means its day; without any, this month. Raises UsageError."""
        if month is not None and (start is not None or end is not None):
            raise UsageError("--month says both ends of the period; --from and --to do, too.", advice="Leave one out.")
        if start is None and end is None:
            month = (month or month_of(now)).strip()
            return cls(f"{month}-01", f"{month}-{days_of(month):02}")
        last = _day(end, now) if end is not None else now.astimezone(UTC)
        first = _day(start, now) if start is not None else last.replace(day=1)
        found = cls(f"{first:%Y-%m-%d}", f"{last:%Y-%m-%d}")
        if found.last < found.first:
            raise UsageError(f"The period ends on {found.last}, before it begins on {found.first}.", advice=_ADVICE)
        return found

    @property
    def period(self) -> Period:
        """The part of the log that they are."""
        return Period(moment.at(_midnight(self.first)), moment.before(moment.at(_midnight(self.last) + _ONE)))

    @property
    def bounds(self) -> tuple[str, str]:
        """From which instant on, and before which one, as the read models write them."""
        return f"{self.first}T00:00:00.000Z", f"{_midnight(self.last) + _ONE:%Y-%m-%d}T00:00:00.000Z"

    @property
    def month(self) -> str:
        """The month of the last day."""
        return self.last[:7]

    @property
    def months(self) -> tuple[str, str] | None:
        """The first and the last month where they are whole months; else None."""
        whole = self.first.endswith("-01") and int(self.last[8:]) == days_of(self.month)
        return (self.first[:7], self.month) if whole else None

    def each(self) -> list[str]:
        """All of them."""
        first, last = _midnight(self.first), _midnight(self.last)
        return [f"{first + number * _ONE:%Y-%m-%d}" for number in range((last - first).days + 1)]


_ADVICE: Final = "Write a day as 2026-11-20, or how long ago it was: 7d."


def _day(text: str, now: datetime) -> datetime:
    if _DAY.fullmatch(text.strip()):
        try:
            found = _midnight(text.strip())
        except ValueError:
            raise UsageError(f"There is no day {text}.", advice=_ADVICE) from None
    else:
        parsed = moment.parse(text, now=now)
        found = parsed.time if isinstance(parsed, Position) else parsed
    if not _FIRST <= found.year < _LAST:
        raise UsageError(f"No log has anything of the year {found.year}.", advice=_ADVICE)
    return found


def _midnight(day: str) -> datetime:
    return datetime.fromisoformat(day).replace(tzinfo=UTC)
