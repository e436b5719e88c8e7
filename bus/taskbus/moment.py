"""A moment, as people write it: a time, so long ago, or a position of the log.

Owns that notation, and that of durations, for every option that takes one (`--since`, `--until`, `--from`, `--to`,
`--deadline`, `--timeout`). It refuses what could be meant in two ways: a time without an offset from UTC, a bare
year. Called by the commands that read the log and by the queries.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta

from taskbus.errors import UsageError
from taskbus.position import START, Position

_DURATION = re.compile(r"(?:\d{1,9}(?:\.\d{1,3})?[smhdw])+", re.ASCII)
_PART = re.compile(r"([\d.]+)([smhdw])")
_AGO = re.compile(r"(.+?)(?:\s+ago)?")
_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 604800}
_POSITION = re.compile(r"(?:\d{1,5}/)?(?:0|\d{12,20})(?:-\d{1,20})?", re.ASCII)
_LAST_SEQUENCE = 2**64 - 1
_SHARDS = 1
_END = 253_402_300_800_000
"""In milliseconds since the epoch: the first one after the year 9999."""
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_ADVICE = (
    "Write a time with its offset (2026-11-20T09:30:00Z, 2026-11-20T10:30+01:00), how long ago it was "
    "(90s, 10m, 2h, 3d, 1w, 1h30m), `now`, or a position (1763625600000-0)."
)


def duration(text: str) -> float | None:
    """A duration in seconds, such as that of 90s or 1h30m; None for anything else."""
    if not _DURATION.fullmatch(text):
        return None
    return sum(float(amount) * _SECONDS[unit] for amount, unit in _PART.findall(text))


def parse(text: str, *, now: datetime | None = None) -> Position | datetime:
    """Read a moment: a position as it stands, anything else as a time in UTC.

    `now` is what a duration counts back from; this machine's clock without it. Raises UsageError, also for a
    position in a shard that the namespace does not have.
    """
    word = text.strip()
    if _POSITION.fullmatch(word):
        return _within_shards(Position.parse(word))
    moment = (now or datetime.now(UTC)).astimezone(UTC)
    if word == "now":
        return moment
    if word.startswith("#"):
        raise UsageError(
            f"{text!r} is the number of an envelope, and only queries know it.",
            advice=f"Ask one for the position: bus audit --causes '{word}' --json.",
        )
    ago = _AGO.fullmatch(word)
    if ago and (seconds := duration(ago[1])) is not None:
        # Longer ago than there is time means: from the beginning.
        return _EPOCH if seconds > (moment - _EPOCH).total_seconds() else moment - timedelta(seconds=seconds)
    try:
        time = datetime.fromisoformat(word)
    except ValueError:
        raise UsageError(f"{text!r} is neither a time nor a position.", advice=_ADVICE) from None
    if time.tzinfo is None:
        raise UsageError(f"The time {text!r} has no offset from UTC, so it could be meant anywhere.", advice=_ADVICE)
    try:
        return time.astimezone(UTC)
    except OverflowError:
        raise UsageError(f"The time {text!r} is out of range.", advice=_ADVICE) from None


def _within_shards(place: Position) -> Position:
    if place.shard >= _SHARDS:
        message = f"The position {place} is in shard {place.shard}, which this namespace does not have."
        raise UsageError(message, advice="Leave the shard out, or look the position up: bus tail --json.")
    if place.ms >= _END:
        raise UsageError(f"The position {place} is later than any time that can be written.", advice=_ADVICE)
    return place


def position(text: str, *, now: datetime | None = None) -> Position:
    """The first position at or after a moment, whether or not an envelope stands there. Raises UsageError.

    A time is compared with the server's clock, to the millisecond.
    """
    moment = parse(text, now=now)
    return moment if isinstance(moment, Position) else at(moment)


def at(time: datetime) -> Position:
    """The first position at or after an aware time."""
    micros = (time - _EPOCH) // timedelta(microseconds=1)
    return Position(0, max(0, -(-micros // 1000)), 0)


def until(text: str, *, now: datetime | None = None) -> Position:
    """The last position at or before a moment: of a time, the last of its millisecond. Raises UsageError."""
    moment = parse(text, now=now)
    if isinstance(moment, Position):
        return moment
    return Position(0, max(0, (moment - _EPOCH) // timedelta(milliseconds=1)), _LAST_SEQUENCE)


def before(place: Position) -> Position:
    """The last position before `place`: to read after it is to read from `place` on. START stays itself."""
    if place.sequence:
        return Position(place.shard, place.ms, place.sequence - 1)
    return Position(place.shard, place.ms - 1, _LAST_SEQUENCE) if place.ms else place


def passage(start: str | None, end: str | None) -> tuple[Position, Position | None]:
    """What `--from` and `--to` name, both included: after which position, and up to which; None is no end.

    Without the one it begins with the first envelope there is. Raises UsageError.
    """
    return START if start is None else before(position(start)), None if end is None else until(end)
