"""The retry: what a command says of being tried again, and what of that can be meant."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from taskbus.errors import QuotaLimited, Retryable
from taskbus_agents import retry
from taskbus_agents.outcome import Words
from taskbus_agents.runner import Ended

NOW = datetime(2026, 11, 20, 12, tzinfo=UTC)


def ended(code: int = 75, stdout: bytes = b"", stderr: bytes = b"", **more) -> Ended:
    """How a command ended."""
    return Ended(code, stdout, stderr, 1.0, **more)


def failure(words: bytes, **more) -> Retryable | QuotaLimited:
    """What exit code 75 with these words on stdout is raised as."""
    return retry.failure(ended(stdout=words, **more), Words(words, "stdout"), kept=None, now=NOW)


@pytest.mark.parametrize(
    ("end", "wanted"),
    [
        (ended(75), True),
        (ended(-15, cut="silence"), True),
        (ended(0, cut="silence"), True),
        (ended(0), False),
        (ended(74), False),
        (ended(75, cut="timeout"), False),
        (ended(75, cut="output"), False),
    ],
)
def test_who_is_tried_again(end, wanted):
    """Only exit code 75 of its own, and silence: whoever took too long or said too much would do so again."""
    assert retry.is_wanted(end) is wanted


def test_exit_code_75_alone_is_retryable():
    """Its message says what happened, where all of it is, and what the agent printed last."""
    found = retry.failure(ended(stderr=b"first\nno network\n"), Words(b"", "stdout"), kept=Path("/runs/t/1"), now=NOW)
    assert type(found) is Retryable
    assert found.message == (
        "The agent asks to be tried again (exit code 75). What it printed is in /runs/t/1.\nfirst\nno network"
    )


def test_silence_is_retryable():
    """A hanging connection may not hang the next time."""
    found = retry.failure(ended(-15, cut="silence"), Words(b'{"retry_after": 9}', "stdout"), kept=None, now=NOW)
    assert type(found) is Retryable
    assert "timed out without a sign of life" in found.message


@pytest.mark.parametrize(
    ("words", "until"),
    [
        (b'{"retry_after": 60}', NOW + timedelta(minutes=1)),
        (b'{"retry_after": 1.5, "why": "limit"}\n', NOW + timedelta(seconds=1.5)),
        (b'{"retry_at": "2026-11-20T18:00:00Z"}', NOW.replace(hour=18)),
        (b'{"retry_at": "2026-11-20T18:00:00+02:00"}', NOW.replace(hour=16)),
        (b'{\n  "retry_at": "2026-11-20T18:00:00Z"\n}\n', NOW.replace(hour=18)),
        (b'working\n{"step": 1}\nlimit reached\n{"retry_after": 60}\n\n', NOW + timedelta(minutes=1)),
        (b'{"retry_after": 0.001}', NOW + timedelta(seconds=1)),
    ],
)
def test_a_quota_that_is_used_up_says_until_when(words, until):
    """As an object alone or on the last line; never so soon that a command could run in circles."""
    found = failure(words)
    assert type(found) is QuotaLimited
    assert found.until == until
    assert f"until {until:%Y-%m-%d %H:%M:%S} UTC" in found.message


@pytest.mark.parametrize("words", [b"", b"no network", b"[1]", b'{"status": "failure"}', b"\xff\xfe\x00"])
def test_words_of_something_else_are_no_time(words):
    """Whatever a command printed before it gave up, exit code 75 alone decides."""
    found = failure(words)
    assert type(found) is Retryable


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (b'{"retry_after": "60"}', "retry_after is '60', not a number of seconds above 0"),
        (b'{"retry_after": 0}', "retry_after is 0"),
        (b'{"retry_after": -5}', "retry_after is -5"),
        (b'{"retry_after": true}', "retry_after is True"),
        (b'{"retry_after": null}', "retry_after is None"),
        (b'{"retry_after": NaN}', "retry_after is NaN"),
        (b'{"retry_after": 1e999}', "retry_after is 1e999"),
        (b'{"retry_after": 1e12}', "more than 366 days"),
        (b'{"retry_after": ' + b"9" * 500 + b"}", "retry_after is 999"),
        (b'{"retry_at": 1795176000}', "retry_at is 1795176000, not a text"),
        (b'{"retry_at": "soon"}', "retry_at is 'soon', not a time"),
        (b'{"retry_at": "2026-11-20T18:00:00"}', "without an offset from UTC"),
        (b'{"retry_at": "2026-11-20T11:59:59Z"}', "is past: 2026-11-20 11:59:59 UTC"),
        (b'{"retry_at": "2036-11-20T18:00:00Z"}', "more than 366 days"),
        (b'{"retry_at": "9999-12-31T23:59:59-12:00"}', "out of range"),
        (b'{"retry_at": "2026-11-20T18:00:00Z", "retry_after": 5}', "both"),
        (b'{"retry_after": 5, "retry_after": 6}', "retry_after more than once"),
        (b'{"retry_after": 5', "stand in a JSON object"),
        (b'{"retry_after": 5}\nbye', "stand in a JSON object"),
    ],
)
def test_what_cannot_be_meant_is_retryable_and_says_so(words, said):
    """Waiting for a wrong time could mean for ever, or not at all; the attempts are bounded."""
    found = failure(words)
    assert type(found) is Retryable
    assert said in found.message
    assert "(stdout) counts for nothing" in found.message
