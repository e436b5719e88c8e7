"""What options hold beyond plain text: agents, task IDs, deadlines, shares of the work, sums of money.

Each refuses what cannot be meant as a usage error, before anything is sent. Called by the commands that write
and read envelopes.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from decimal import Decimal, InvalidOperation
from typing import Final

import click
import msgspec

from taskbus import moment
from taskbus.envelope import Name, TaskID
from taskbus.errors import UsageError

_YEAR: Final = 366 * 86400
_MOST_COST: Final = Decimal(2**53 - 1) / 1_000_000


class _Agent(click.ParamType[str]):
    """An agent's name, with or without its @."""

    name = "agent"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> str:
        text = str(value)
        try:
            return msgspec.convert(text if text.startswith("@") else f"@{text}", Name)
        except msgspec.ValidationError:
            message = f"{text!r} is no agent's name: @, then at most 64 of A-Z a-z 0-9 . _ -, as in @kilo."
            self.fail(message, param, ctx)


class _Task(click.ParamType[str]):
    """A task ID."""

    name = "task"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> str:
        try:
            return msgspec.convert(str(value), TaskID)
        except msgspec.ValidationError:
            wanted = "at most 128 of A-Z a-z 0-9 . _ : -, beginning with a letter or digit"
            message = f"{value!r} is no task ID: {wanted}."
            self.fail(message, param, ctx)


class _Deadline(click.ParamType[datetime]):
    """A time that is still to come: a duration from now, or a time with its offset from UTC."""

    name = "duration|time"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> datetime:
        if isinstance(value, datetime):
            return value
        text, now = str(value).strip(), datetime.now(UTC)
        try:
            ahead = moment.duration(text)
            at = moment.parse(text, now=now) if ahead is None else now + timedelta(seconds=ahead)
        except UsageError as error:
            self.fail(f"{error.message} {_DEADLINE_ADVICE}", param, ctx)
        except OverflowError:
            self.fail(f"{text!r} is too far away. {_DEADLINE_ADVICE}", param, ctx)
        if not isinstance(at, datetime):
            self.fail(f"{text!r} is a position, not a time. {_DEADLINE_ADVICE}", param, ctx)
        if at <= now:
            self.fail(f"{text!r} is past: it is {now:%Y-%m-%dT%H:%M:%SZ} now. {_DEADLINE_ADVICE}", param, ctx)
        if at.year > 2199:
            self.fail(f"{text!r} is too far away. {_DEADLINE_ADVICE}", param, ctx)
        return at


_DEADLINE_ADVICE: Final = "Write how long from now (30m, 2h, 1d), or a time with its offset (2026-11-20T18:00:00Z)."


class _Fraction(click.ParamType[float]):
    """A share of the whole: 0.4 or 40%."""

    name = "fraction"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> float:
        text = str(value).strip()
        try:
            share = float(text[:-1]) / 100 if text.endswith("%") else float(text)
        except ValueError:
            share = -1.0
        if not 0 <= share <= 1:
            self.fail(f"{value!r} is no share of the work: write 0 to 1, or 0% to 100%.", param, ctx)
        return share


class _Dollars(click.ParamType[int]):
    """US dollars, as microdollars: exact, or refused."""

    name = "usd"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> int:
        if isinstance(value, int):
            return value
        text = str(value).strip().removeprefix("$")
        try:
            amount = Decimal(text)
        except InvalidOperation:
            amount = Decimal("NaN")
        if not amount.is_finite() or not 0 <= amount <= _MOST_COST:
            self.fail(f"{value!r} is no sum of US dollars: write it as 0.0123.", param, ctx)
        micros = amount * 1_000_000
        if micros != micros.to_integral_value():
            self.fail(f"{value!r} is finer than a millionth of a dollar.", param, ctx)
        return int(micros)


class _Speed(click.ParamType[float]):
    """How much faster than it was: 10x, 0.5x, or max for no pauses at all (as infinity)."""

    name = "speed"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> float:
        text = str(value).strip().lower()
        if text in ("max", "inf"):
            return float("inf")
        try:
            speed = float(text.removesuffix("x"))
        except ValueError:
            speed = 0.0
        if not 0 < speed < float("inf"):
            self.fail(f"{value!r} is no speed: write 1x, 10x, 0.5x or max.", param, ctx)
        return speed


class _Seconds(click.ParamType[float]):
    """A duration, in seconds: 30, 90s, 5m, 1h."""

    name = "duration"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> float:
        text = str(value).strip()
        seconds = moment.duration(text if text[-1:].isalpha() else f"{text}s")
        if seconds is None or seconds > _YEAR:
            self.fail(f"{value!r} is no duration up to a year: write 30s, 5m, 2h.", param, ctx)
        return seconds


class _Number(click.ParamType[int]):
    """A whole number from `least` to `most`; what the server cannot count never reaches it."""

    name = "number"

    def __init__(self, least: int, most: int) -> None:
        self.least = least
        self.most = most

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> int:
        text = str(value).strip()
        # Of more digits, Python would not read any number.
        if not text.isdecimal() or len(text) > 20 or not self.least <= int(text) <= self.most:
            self.fail(f"{value!r} is no number from {self.least} to {self.most}.", param, ctx)
        return int(text)


AGENT: Final = _Agent()
COUNT: Final = _Number(1, 10**9)
COUNT_OR_NONE: Final = _Number(0, 10**9)
TOKEN: Final = _Number(1, 2**63 - 1)
TASK: Final = _Task()
DEADLINE: Final = _Deadline()
FRACTION: Final = _Fraction()
DOLLARS: Final = _Dollars()
SPEED: Final = _Speed()
SECONDS: Final = _Seconds()
