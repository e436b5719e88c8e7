"""What programs have in common in how they tell of themselves, read from whatever they print."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from taskbus_agents.adapters import signs
from taskbus_agents.runner import Ended

NOW = datetime(2026, 11, 20, 18, 0, tzinfo=UTC)


@pytest.mark.parametrize(
    ("said", "seconds"),
    [
        ("Claude AI usage limit reached|1795201200", 3600),
        ("Please try again in 20s.", 20),
        ("Rate limit reached. Try again in 1 h 5 min", 3900),
        ("try again in 2 days, 3 hours and 4 minutes", 2 * 86_400 + 3 * 3600 + 240),
        ("Your quota resets in 1.5 hours", 5400),
        ("retry after 750ms", 0.75),
        ("retry-after: 30", 30),
        ('{"retry_after": 12}', 12),
        ("retry-after-ms=1500", 1.5),
        ("The limit is reset at 2026-11-20T19:00:00Z", 3600),
        ("reset at 2026-11-20 20:00:00+01:00.", 3600),
    ],
)
def test_reset_time_is_read(said, seconds):
    """A span, a moment with its offset and the seconds of the epoch say when a quota is reset."""
    assert signs.reset(said, NOW) == NOW + timedelta(seconds=seconds)


@pytest.mark.parametrize(
    "said",
    [
        "",
        "You've hit your limit · resets 3pm (Europe/Berlin)",
        "try again at 3:04 PM",
        "try again later",
        "The limit was reset at 2026-11-20T17:00:00Z",
        "usage limit reached|1000000000",
        "usage limit reached|1999999999",
        "retry after 99999999999999999999 hours",
        "try again in 0s",
        "reset at 2026-13-45T99:99:99Z",
        "retried 5 times (total retry wait time: 58.26 seconds)",
    ],
)
def test_reset_time_is_not_guessed(said):
    """A wall clock's time, a time that is past or a year away, and one that is no time count as not said."""
    assert signs.reset(said, NOW) is None


@pytest.mark.parametrize(
    ("status", "said", "trouble"),
    [
        (401, "", "authentication"),
        (403, "", "authentication"),
        (402, "", "quota"),
        (429, "", "quota"),
        (400, "quota", "model-error"),
        (529, "", "model-error"),
        (None, "unexpected status 401 Unauthorized", "authentication"),
        (None, "[API Error: 429 stub error 429]", "quota"),
        (None, "You've hit your usage limit.", "quota"),
        (None, "Not logged in. Please run /login", "authentication"),
        (None, "We're currently experiencing high demand", "model-error"),
        (None, "", "model-error"),
    ],
)
def test_trouble_of_an_error(status, said, trouble):
    """A status says what an error is, else the words beside it."""
    assert signs.trouble(status, said) == trouble


@pytest.mark.parametrize("dollars", [None, True, "1", -0.1, float("nan"), float("inf"), 1e12, []])
def test_no_amount_is_no_money(dollars):
    """What is no amount of dollars is no money, not 0."""
    assert signs.microusd(dollars) is None


def test_amount_is_rounded_to_whole_microdollars():
    """Half a microdollar counts as one."""
    assert signs.microusd(0.0045415) == 4542
    assert signs.microusd(0) == 0


def test_name_can_stand_in_an_envelope():
    """A model's name is whatever the program says, without what no envelope carries."""
    assert signs.name(None, " \x00a\nb\x1b[0m ", "c") == "a b [0m"
    assert signs.name("", 7, "\n") == "unknown"
    assert len(signs.name("x" * 10_000)) == 200


@pytest.mark.parametrize(
    ("code", "cut", "trouble"),
    [
        (0, None, None),
        (1, None, None),
        (145, None, None),
        (-15, None, "killed"),
        (-9, None, "killed"),
        (143, None, "killed"),
        (137, None, "killed"),
        (0, "timeout", "timeout"),
        (-15, "silence", "timeout"),
        (-9, "output", "garbage"),
    ],
)
def test_end_from_outside(code, cut, trouble):
    """A signal and the runner are told from a program's own end; an exit code of 145 is no signal."""
    found = signs.stopped(Ended(code, b"", b"", 1.0, cut))
    assert (found and found[0]) == trouble


def test_records_are_sought_among_whatever_else_is_printed():
    """One stands in a line of its own, however that ends; what has one within it is none."""
    printed = b"y\n" * 1000 + b'  {"a": 1}\r\nno {"b": 2}\n[3]\n{"c": 3}'
    assert list(signs.records(printed)) == [{"a": 1}, {"c": 3}]
