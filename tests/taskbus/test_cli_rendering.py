"""Rendering: what a person reads, and that nothing of it steers the terminal."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import click
import pytest
from hypothesis import given
from hypothesis import strategies as st

from taskbus import codec
from taskbus.cli import records, rendering
from taskbus.envelope import Completion, Cost, Delegation, Parking, Result, Status, Usage, compose
from taskbus.log import Entry
from taskbus.position import Position


def entry(body: bytes | None = None, goal: str = "g", **options: str) -> Entry:
    """An entry of the log, appended now."""
    envelope = compose(Delegation(goal=goal), sender="@lead", recipient="@kilo", task="T", **options)  # type: ignore[arg-type]
    now = int(datetime.now(UTC).timestamp() * 1000)
    return Entry(
        position=Position(0, now, 0),
        id=envelope.id,
        type="delegation",
        sender="@lead",
        recipient="@kilo",
        task="T",
        root="T",
        priority=envelope.priority,
        content_type=codec.JSON,
        body=codec.encode(envelope) if body is None else body,
    )


@given(st.text())
def test_whatever_it_is_it_is_printable(text: str) -> None:
    """One line, no control character, no direction mark, no lone surrogate: of any text there is."""
    shown = rendering.visible(text)
    assert all(each.isprintable() or each in "\u200c\u200d" for each in shown)
    shown.encode()


@given(st.text())
def test_lines_stay_lines(text: str) -> None:
    """With `lines` only line breaks and tabs are left of what does not print."""
    shown = rendering.visible(text, lines=True)
    assert all(each.isprintable() or each in "\n\t\u200c\u200d" for each in shown)


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain ✓ 日本語", "plain ✓ 日本語"),
        ("two\nlines\tand a tab", "two lines and a tab"),
        ("\x1b[31m", "\\x1b[31m"),
        ("\x9b31m", "\\x9b31m"),
        ("a\u202eb", "a\\u202eb"),
        ("\U000e0041", "\\U000e0041"),
        ("\ud800", "\\ud800"),
        ("👩\u200d🔬", "👩\u200d🔬"),
    ],
)
def test_what_does_not_print_is_shown(text: str, shown: str) -> None:
    """An escape names the character; what merely joins letters stays."""
    assert rendering.visible(text) == shown


@pytest.mark.parametrize(("text", "width"), [("abc", 3), ("日本", 4), ("e\u0301", 1), ("", 0)])
def test_columns_of_a_text(text: str, width: int) -> None:
    """Wide characters take two columns, combining ones none."""
    assert rendering.cells(text) == width


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [(0, "0s"), (59.9, "59s"), (60, "1m"), (200, "3m 20s"), (7500, "2h 5m"), (273600, "3d 4h"), (-5, "0s")],
)
def test_ages(seconds: float, shown: str) -> None:
    """A span has its two largest units."""
    assert rendering.age(seconds) == shown


@pytest.mark.parametrize(
    ("microusd", "shown"),
    [(0, "$0.00"), (1, "$0.000001"), (31207, "$0.031207"), (2_500_000, "$2.50"), (1_212_000_000, "$1,212.00")],
)
def test_money(microusd: int, shown: str) -> None:
    """No digit is rounded away."""
    assert rendering.dollars(microusd) == shown


def test_the_clock_has_a_date_where_it_is_not_today() -> None:
    """Today needs no date."""
    now = datetime.now(UTC)
    assert len(rendering.clock(now)) == len("09:30:00")
    assert rendering.clock(now - timedelta(days=2)).startswith(f"{(now - timedelta(days=2)).astimezone():%Y-%m-%d}")


def test_an_entry_in_two_lines() -> None:
    """When, what, from whom to whom, how urgent, which task; then what it says."""
    head, text = click.unstyle(rendering.entry(entry(priority="high"))).splitlines()
    assert head.split()[1:] == ["delegation", "@lead", "→", "@kilo", "high", "T"]
    assert text.strip() == "g"


def test_the_marks_of_an_entry() -> None:
    """By hand, the deadline, what it cost, and what the caller adds stand in the first line."""
    usage = (Usage(provider="p", model="m", cost=Cost(source="reported", microusd=1_500_000)),)
    deadline = datetime(2030, 1, 2, 3, 4, 5, tzinfo=UTC)
    payload = Delegation(goal="g", task_type="review")
    envelope = compose(payload, sender="@a", recipient="@b", task="T", deadline=deadline, by_hand=True, usage=usage)
    head, text = click.unstyle(rendering.entry(entry(body=codec.encode(envelope)), marks=["3s old"])).splitlines()
    for mark in ("3s old", "by hand", "due 2030-01-0", "p/m $1.50"):
        assert mark in head
    assert text.strip() == "[review] g"


@pytest.mark.parametrize(
    ("text", "width", "shown"), [("abc", 3, "abc"), ("abcd", 3, "ab…"), ("日本語", 4, "日…"), ("", 0, "")]
)
def test_cutting_to_columns(text: str, width: int, shown: str) -> None:
    """What does not fit ends with an ellipsis, and never takes more columns than there are."""
    assert rendering.cut(text, width) == shown
    assert rendering.cells(shown) <= width


def test_a_long_text_is_cut() -> None:
    """A long text is wrapped to the width, and ends with how much is left out."""
    lines = click.unstyle(rendering.entry(entry(goal="word " * 400), width=60)).splitlines()
    assert all(len(line) <= 60 for line in lines[1:-1])
    assert "more lines" in lines[-1]
    assert len(lines) < 10


def test_a_body_that_cannot_be_read() -> None:
    """What this version cannot read is said, for people and for programs; it ends nothing."""
    broken = entry(body=b'{"type": "delegation", "future": "\\u001b"}')
    assert "cannot read it" in rendering.entry(broken)
    record = records.record(broken)
    assert record["envelope"] is None
    assert record["body"] == broken.body.decode()
    assert record["problems"]


def test_usage_in_words() -> None:
    """What a call cost is said, and unpriced is not zero."""
    usage = Usage(provider="p", model="m", input_tokens=5)
    assert rendering.spent(usage) == "p/m 5+0 tokens unpriced"
    priced = Usage(provider="p", model="m", cost=Cost(source="reported", microusd=0))
    assert rendering.spent(priced) == "p/m $0.00"


@pytest.mark.parametrize(
    ("payload", "colour"),
    [
        (Status(progress="p"), "cyan"),
        (Completion(result=Result(status="success")), "bright_green"),
        (Completion(result=Result(status="failure")), "red"),
        (Parking(parking="parked", agent="@kilo"), "red"),
        (Parking(parking="replayed", agent="@kilo"), "cyan"),
        (Parking(parking="replayed", agent="@kilo", resumes=True), "cyan"),
        (Parking(parking="dropped", agent="@kilo"), "magenta"),
    ],
)
def test_bad_news_is_red(payload: Status | Completion | Parking, colour: str) -> None:
    """The colour tells a failed completion from a good one, and what was parked from what goes on."""
    envelope = compose(payload, sender="@kilo", recipient="@lead", task="T")
    found = entry(body=codec.encode(envelope))
    found = Entry(**{**{name: getattr(found, name) for name in _FIELDS}, "type": envelope.type})
    assert click.style(f"{envelope.type:<14}", fg=colour, bold=True) in rendering.entry(found)


_FIELDS = (
    "position", "id", "type", "sender", "recipient", "task", "root", "priority", "content_type", "body"
)  # fmt: skip
