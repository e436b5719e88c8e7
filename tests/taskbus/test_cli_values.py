"""What options hold: what each takes, and what it refuses."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import click
import pytest

from taskbus.cli import values


@pytest.mark.parametrize(
    ("kind", "text", "value"),
    [
        (values.AGENT, "kilo", "@kilo"),
        (values.AGENT, "@kilo", "@kilo"),
        (values.TASK, "0199f0a2-7c4e-7d31-9b5a-3e6f1c2d4a58", "0199f0a2-7c4e-7d31-9b5a-3e6f1c2d4a58"),
        (values.FRACTION, "0.4", 0.4),
        (values.FRACTION, "40%", 0.4),
        (values.DOLLARS, "0.031207", 31207),
        (values.DOLLARS, "$12", 12_000_000),
        (values.DOLLARS, "1e-3", 1000),
        (values.SPEED, "10x", 10.0),
        (values.SPEED, "0.5", 0.5),
        (values.SPEED, "max", float("inf")),
        (values.SECONDS, "90", 90.0),
        (values.SECONDS, "0.1s", 0.1),
        (values.SECONDS, "1h30m", 5400.0),
        (values.COUNT, "7", 7),
        (values.COUNT_OR_NONE, "0", 0),
    ],
)
def test_what_is_taken(kind: click.ParamType[Any], text: str, value: object) -> None:
    """Each notation means what a person means by it."""
    assert kind.convert(text, None, None) == value


@pytest.mark.parametrize(
    ("kind", "text"),
    [
        (values.AGENT, ""),
        (values.AGENT, "@@kilo"),
        (values.AGENT, "@kilo\n"),
        (values.AGENT, "k" * 65),
        (values.TASK, ""),
        (values.TASK, "a b"),
        (values.TASK, "-x"),
        (values.FRACTION, "1.01"),
        (values.FRACTION, "nan"),
        (values.FRACTION, "half"),
        (values.DOLLARS, "-1"),
        (values.DOLLARS, "nan"),
        (values.DOLLARS, "cheap"),
        (values.DOLLARS, "0.0000001"),
        (values.DOLLARS, "99999999999"),
        (values.SPEED, "0"),
        (values.SPEED, "-2x"),
        (values.SPEED, "nan"),
        (values.SPEED, "fast"),
        (values.SECONDS, "soon"),
        (values.SECONDS, "-1s"),
        (values.SECONDS, "999w"),
        (values.SECONDS, "5y"),
        (values.COUNT, "0"),
        (values.COUNT, "99999999999999999999"),
        (values.COUNT, "9" * 5000),
        (values.COUNT, "1.5"),
        (values.TOKEN, "0"),
        (values.TOKEN, "-1"),
        (values.DEADLINE, "yesterday"),
        (values.DEADLINE, "0s"),
        (values.DEADLINE, "2h ago"),
        (values.DEADLINE, "1763625600000-0"),
        (values.DEADLINE, "2020-01-01T00:00:00Z"),
        (values.DEADLINE, "2100-01-01T00:00:00"),
        (values.DEADLINE, "2300-01-01T00:00:00Z"),
        (values.DEADLINE, "99999w"),
        (values.DEADLINE, "999999999w"),
    ],
)
def test_what_is_refused(kind: click.ParamType[Any], text: str) -> None:
    """What cannot be meant, or could be meant in two ways, is a usage error that shows what was given."""
    with pytest.raises(click.BadParameter) as refused:
        kind.convert(text, None, None)
    assert refused.value.exit_code == 2
    assert repr(text)[1:-1][:20] in refused.value.message


def test_deadlines() -> None:
    """A duration counts from now, a time is taken as it is, in UTC."""
    before = datetime.now(UTC)
    ahead = values.DEADLINE.convert("1h30m", None, None)
    assert timedelta() <= ahead - before - timedelta(minutes=90) < timedelta(minutes=1)
    assert values.DEADLINE.convert("2198-06-01T10:00:00+02:00", None, None) == datetime(2198, 6, 1, 8, tzinfo=UTC)


@pytest.mark.parametrize(("kind", "value"), [(values.DEADLINE, datetime(2030, 1, 1, tzinfo=UTC)), (values.DOLLARS, 7)])
def test_what_was_read_already(kind: click.ParamType[Any], value: object) -> None:
    """A value that click gives back to its type, such as a default, stays as it is."""
    assert kind.convert(value, None, None) == value
