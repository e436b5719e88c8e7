"""The retry: what a command says of being tried again, by its exit code and in a JSON object beside it.

Turns that into the failure that the worker goes by, and what cannot be meant into one that says so. Pure; called by
the adapters.
"""

from __future__ import annotations

import math
import os
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Final, cast

from taskbus import json
from taskbus.errors import InvalidEnvelope, QuotaLimited, Retryable
from taskbus.findings import Misread, Repeated, printable
from taskbus_agents.outcome import last_lines

if TYPE_CHECKING:
    from pathlib import Path

    from taskbus_agents.outcome import Words
    from taskbus_agents.runner import Ended

TRY_AGAIN: Final = os.EX_TEMPFAIL
"""75, the exit code for "try again later" of sysexits.h."""
AT: Final = "retry_at"
AFTER: Final = "retry_after"

LONGEST: Final = timedelta(days=366)
"""A quota that is reset later than this from now is a mistake in writing."""
SHORTEST: Final = timedelta(seconds=1)
"""What waits for its quota waits at least so long, since it may do so any number of times."""

_SHOWN: Final = 60
_TOLD: Final = 4000


def is_wanted(ended: Ended) -> bool:
    """Whether a command is to be tried again: it ended with TRY_AGAIN, or was ended for its silence."""
    return ended.cut == "silence" or (ended.cut is None and ended.code == TRY_AGAIN)


def failure(ended: Ended, words: Words, *, kept: Path | None, now: datetime | None = None) -> Retryable | QuotaLimited:
    """What such an end is to be raised as.

    With TRY_AGAIN, one of AT (a time with its offset from UTC) and AFTER (seconds) in its words says when its quota
    is reset. `kept` is the folder with what it printed, `now` another time than the clock's.
    """
    if ended.cut == "silence":
        return Retryable(
            _told(
                f"The agent timed out without a sign of life, and was ended after {ended.seconds:.1f} s.", ended, kept
            )
        )
    said = f"The agent asks to be tried again (exit code {TRY_AGAIN})"
    try:
        until = reset(words.text, now or datetime.now(UTC))
    except ValueError as error:
        return Retryable(
            _told(f"{said}; what it wrote of when ({words.origin}) counts for nothing: {error}.", ended, kept)
        )
    if until is None:
        return Retryable(_told(f"{said}.", ended, kept))
    return QuotaLimited(
        _told(f"The agent's quota is used up until {until:%Y-%m-%d %H:%M:%S} UTC.", ended, kept), until=until
    )


def reset(words: bytes, now: datetime) -> datetime | None:
    """When a quota is reset: by the JSON object that these words are, or that is their last line; None without one.

    Raises ValueError, which says what is wrong.
    """
    found = _object(words)
    if found is None:
        if any(name.encode() in words for name in (AT, AFTER)):
            raise ValueError(f"{AT} and {AFTER} stand in a JSON object, alone or on the last line")
        return None
    if AT in found and AFTER in found:
        raise ValueError(f"it says both {AT} and {AFTER}")
    if AT in found:
        until = _time(found[AT])
    elif AFTER in found:
        until = now + _duration(found[AFTER])
    else:
        return None
    if until < now:
        raise ValueError(f"{AT} is past: {until:%Y-%m-%d %H:%M:%S} UTC")
    if until > now + LONGEST:
        raise ValueError(f"it is more than {LONGEST.days} days from now")
    return max(until, now + SHORTEST)


def _object(words: bytes) -> dict[str, object] | None:
    lines = words.strip().splitlines()
    for text in (words, lines[-1] if lines else b""):
        try:
            plain = json.parse(text)
        except InvalidEnvelope:
            continue
        if isinstance(plain, Repeated):
            raise ValueError(f"it says {', '.join(plain.names)} more than once")  # noqa: TRY004
        if isinstance(plain, dict):
            return cast("dict[str, object]", plain)
    return None


def _time(value: object) -> datetime:
    if not isinstance(value, str):
        raise ValueError(f"{AT} is {_shown(value)}, not a text such as 2026-11-20T18:00:00Z")  # noqa: TRY004
    try:
        time = datetime.fromisoformat(value)
    except ValueError:
        raise ValueError(f"{AT} is {_shown(value)}, not a time such as 2026-11-20T18:00:00Z") from None
    if time.tzinfo is None:
        raise ValueError(f"{AT} is {_shown(value)}, without an offset from UTC")
    try:
        return time.astimezone(UTC)
    except OverflowError:
        raise ValueError(f"{AT} is {_shown(value)}, which is out of range") from None


def _duration(value: object) -> timedelta:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < math.inf:
        raise ValueError(f"{AFTER} is {_shown(value)}, not a number of seconds above 0")
    return timedelta(seconds=min(value, 10**9))


def _shown(value: object) -> str:
    return printable(value.text if isinstance(value, Misread) else repr(value), _SHOWN)


def _told(said: str, ended: Ended, kept: Path | None) -> str:
    if kept is not None:
        said = f"{said} What it printed is in {printable(str(kept), 400)}."
    printed = last_lines(ended.stderr) or last_lines(ended.stdout)
    return f"{said}\n{printed}"[:_TOLD] if printed else said
