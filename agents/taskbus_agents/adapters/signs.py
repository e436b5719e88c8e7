"""Signs: what programs have in common in how they tell of themselves: lines of JSON, HTTP statuses, reset times.

Reads any bytes without raising; whatever has another shape than expected counts as not there. Called by adapters.
"""

from __future__ import annotations

import json
import re
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Final, cast

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from taskbus_agents.adapter import Trouble
    from taskbus_agents.runner import Ended

Plain = dict[str, object]

_STATUS: Final = re.compile(r"(?<![\d.:/])(4\d\d|5\d\d)(?![\d.:/])")
_RECORD: Final = re.compile(rb"^[ \t]*\{[^\r\n]*", re.MULTILINE)
_EPOCH: Final = re.compile(r"\|(1\d{9})(?!\d)")
_MOMENT: Final = re.compile(r"(?<!\d)(\d{4}-\d\d-\d\d[T ]\d\d:\d\d(?::\d\d(?:\.\d+)?)?(?:Z|[+-]\d\d:?\d\d))")
_HEADER: Final = re.compile(
    r"retry[-_ ]?after(?:[-_ ]?(ms))?[\"']?\s*[:=]\s*[\"']?(\d+(?:\.\d+)?)(?![\d.:-])", re.IGNORECASE
)
_SPAN: Final = re.compile(
    r"(?:try again|retry|resets?|reset) (?:in|after) ((?:\d+(?:\.\d+)? ?[a-z]+,? ?(?:and )?)+)", re.IGNORECASE
)
_PART: Final = re.compile(
    r"(\d+(?:\.\d+)?) ?(ms|milliseconds?|s|secs?|seconds?|m|mins?|minutes?|h|hrs?|hours?|d|days?)\b"
)
_UNITS: Final[Mapping[str, float]] = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86_400.0}
_LONGEST: Final = timedelta(days=366)
_BY_SIGNAL: Final = frozenset({129, 130, 137, 143})
_QUOTA: Final = re.compile(r"quota|rate.?limit|usage limit|too many requests|resource.?exhausted", re.IGNORECASE)
_KEY: Final = re.compile(
    r"unauthori[sz]ed|api.?key|authenticat|not logged in|log ?in|credential|permission denied.*token|forbidden",
    re.IGNORECASE,
)


def records(printed: bytes) -> Iterator[Plain]:
    """The JSON objects among these lines; everything else is passed over."""
    # Sought, not split: of what prints without end there are millions of lines.
    for line in _RECORD.finditer(printed):
        if (found := plain(line[0])) is not None:
            yield found


def documents(printed: bytes) -> list[Plain]:
    """The objects of a JSON array, or one object over several lines, where that is all there is; else `records`."""
    try:
        found: object = json.loads(printed)
    except (ValueError, RecursionError):
        return list(records(printed))
    several = cast("list[object]", found) if isinstance(found, list) else [found]
    return [cast("Plain", each) for each in several if isinstance(each, dict)]


def plain(text: bytes | str) -> Plain | None:
    """A text as a JSON object, None where it is none."""
    try:
        found: object = json.loads(text)
    except (ValueError, RecursionError):
        return None
    return cast("Plain", found) if isinstance(found, dict) else None


def part(record: object, *names: str) -> Plain:
    """The object at the end of these names; an empty one where there is none."""
    for name in names:
        record = cast("Plain", record).get(name) if isinstance(record, dict) else None
    return cast("Plain", record) if isinstance(record, dict) else {}


def items(record: object, name: str) -> list[Plain]:
    """The objects of a list."""
    found = cast("Plain", record).get(name) if isinstance(record, dict) else None
    return (
        [cast("Plain", each) for each in cast("list[object]", found) if isinstance(each, dict)]
        if isinstance(found, list)
        else []
    )


def text(record: Mapping[str, object], *names: str) -> str:
    """The first of these that is a text with something in it; without one an empty text."""
    return next((each for name in names if isinstance(each := record.get(name), str) and each), "")


def count(record: Mapping[str, object], *names: str) -> int | None:
    """The first of these that is a count; None without one."""
    for name in names:
        found = record.get(name)
        if isinstance(found, int | float) and not isinstance(found, bool) and 0 <= found < 2**53:
            return int(found)
    return None


def name(*told: object, otherwise: str = "unknown") -> str:
    """The first of these that is a name which an envelope can carry."""
    for each in told:
        if isinstance(each, str) and (plain := " ".join("".join(c if c.isprintable() else " " for c in each).split())):
            return plain[:200]
    return otherwise


def microusd(dollars: object) -> int | None:
    """An amount of US dollars in microdollars, half ones rounded up; None for what is no amount."""
    if isinstance(dollars, bool) or not isinstance(dollars, int | float) or not 0 <= dollars < 1_000_000_000:
        return None
    return int(dollars * 1_000_000 + 0.5)


def trouble(status: int | None, message: str = "") -> Trouble:
    """What an error of the model's server is, by its HTTP status, else by what the message says."""
    if status is None:
        found = _STATUS.search(message)
        status = int(found[1]) if found else None
    if status in (401, 403):
        return "authentication"
    if status in (402, 429):
        return "quota"
    if status is None and _QUOTA.search(message):
        return "quota"
    if status is None and _KEY.search(message):
        return "authentication"
    return "model-error"


def reset(message: str, now: datetime | None = None) -> datetime | None:
    """When a quota is reset, if a message says so: a time with its offset from UTC, seconds since the epoch behind a
    bar, a header with seconds, or a span of time. The time of a wall clock alone would be a guess: None.
    """
    moment = now or datetime.now(UTC)
    until: datetime | None = None
    try:
        if found := _EPOCH.search(message):
            until = datetime.fromtimestamp(int(found[1]), UTC)
        elif found := _MOMENT.search(message):
            until = datetime.fromisoformat(found[1]).astimezone(UTC)
        elif found := _HEADER.search(message):
            until = moment + timedelta(seconds=float(found[2]) * (0.001 if found[1] else 1.0))
        elif found := _SPAN.search(message):
            parts = _PART.findall(found[1].lower())
            until = moment + timedelta(seconds=sum(float(number) * _seconds(unit) for number, unit in parts))
    except (ValueError, OverflowError):  # no day of any calendar, or no time of ours
        return None
    return until if until is not None and moment < until < moment + _LONGEST else None


def stopped(ended: Ended) -> tuple[Trouble, str] | None:
    """What ended a run from outside, the runner or a signal; None where the program ended by itself.

    For a run without a terminal record. Some programs turn a signal into an exit code, as shells do.
    """
    if ended.cut == "output":
        return "garbage", "The agent printed more than is read of it, and was ended."
    if ended.cut is not None:
        why = "its time was up" if ended.cut == "timeout" else "it showed no sign of life"
        return "timeout", f"The agent was ended after {ended.seconds:.1f} s: {why}."
    if ended.code < 0 or ended.code in _BY_SIGNAL:
        return "killed", f"The agent was ended by signal {abs(ended.code) % 128}."
    return None


def several(count: int) -> tuple[Trouble, str] | None:
    """What is to be said of a program that ends with one result, and printed more: one of them is not its own."""
    return ("garbage", f"The agent printed {count} results, of which one at most is its own.") if count > 1 else None


def unread(ended: Ended) -> tuple[Trouble, str]:
    """What is to be said of a run that ended by itself, without a terminal record that is understood."""
    printed = (ended.stderr.strip() or ended.stdout.strip())[-2000:].decode(errors="replace")
    message = f"The agent's output tells of no result (exit code {ended.code})."
    return "garbage", f"{message}\n{printed}" if printed else message


def _seconds(unit: str) -> float:
    return _UNITS["ms"] if unit.startswith(("ms", "mil")) else _UNITS[unit[0]]
