"""Views: how money, causes, progress and bytes are written for people."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from taskbus_projections import views
from taskbus_projections.table import table

NOW = datetime(2026, 11, 20, 9, 30, tzinfo=UTC)


@pytest.mark.parametrize(
    ("calls", "unpriced", "microusd", "shown"),
    [
        (0, 0, None, "-"),
        (1, 0, 0, "$0.00"),
        (2, 0, 12_340_000, "$12.34"),
        (5, 3, 12_340_000, "$12.34 + 3 unpriced calls"),
        (2, 1, 42, "$0.000042 + 1 unpriced call"),
        (1, 1, None, "1 unpriced call"),
    ],
)
def test_unpriced_calls_are_counted_beside_the_sum(calls, unpriced, microusd, shown):
    """What has no price is never shown as zero, and what costs nothing is."""
    assert views.money({"calls": calls, "unpriced_calls": unpriced, "cost_microusd": microusd}) == shown


@pytest.mark.parametrize(
    ("row", "shown"),
    [
        ({"cause_n": 3, "cause_type": "question", "causation": "id", "by_hand": False}, "question #3"),
        ({"cause_n": 3, "cause_type": "question", "causation": "id", "by_hand": True}, "question #3, by hand"),
        ({"cause_n": None, "cause_type": None, "causation": None, "by_hand": True}, "by hand"),
        ({"cause_n": None, "cause_type": None, "causation": None, "by_hand": False}, ""),
        (
            {"cause_n": None, "cause_type": None, "causation": "0199f0a2-7c4e-7d31", "by_hand": False},
            "0199f0a2-7c4e…, not in this log",
        ),
    ],
)
def test_why_names_the_cause(row, shown):
    """By type and number where the log holds it, by its ID where not."""
    event = {"n": 1, "time": "t", "sender": "@a", "recipient": "@b", "type": "status", "summary": "s", **row}
    (why,) = (column for column in views.event_columns(None, str) if column.heading == "why")
    assert why.text(event) == shown


def board(**more):
    """The board with one task, as text."""
    row = {
        "id": "task-1",
        "state": "working",
        "assignee": "@kilo",
        "attempt": 2,
        "priority": "normal",
        "updated": "2026-11-20T09:26:40.000Z",
        "progress": None,
        "fraction": None,
        "goal": "Make it",
        **more,
    }
    return table(views.board_columns([row], {"task-1": "task"}, NOW, str.upper), [row])


def test_the_board_shows_how_a_task_stands():
    """The ID as it is shown, the state painted, the age, the goal."""
    assert board().splitlines()[2].split("  ")[0] == "task"
    assert "WORKING" in board()
    assert "3m 20s ago" in board()


def test_progress_is_shown_while_the_work_goes_on():
    """A share, a text, or both; not of work that has ended."""
    assert "50% half" in board(progress="half", fraction=0.5)
    assert "  half  " in board(progress="half")
    assert "half" not in board(progress="half", state="accepted")


def test_priorities_are_shown_where_they_differ():
    """A column that says `normal` in every line says nothing."""
    assert "priority" not in board()
    assert "critical" in board(priority="critical")


def test_tokens_that_nobody_reported_take_no_column():
    """One that somebody reported is shown, and empty where it is unknown."""
    none = dict.fromkeys(("output_tokens", "cache_read_tokens", "cache_write_tokens", "reasoning_tokens"))
    row = {"root": "a", "calls": 1, "unpriced_calls": 1, "cost_microusd": None, **none}
    rows = [row | {"input_tokens": 1234567}, row | {"input_tokens": None}]
    assert table(views.cost_columns("tree", rows, {"a": "A"}), rows).splitlines() == [
        "tree  calls      input             cost",
        "----  -----  ---------  ---------------",
        "A         1  1,234,567  1 unpriced call",
        "A         1             1 unpriced call",
    ]


def test_bytes_are_text_where_they_can_be():
    """What is no UTF-8 is given in base64, under a name that says so."""
    row = {"n": 1, "body": "{…}".encode(), "source": b"\xff\xfe<\x00"}
    assert views.readable(row) == {"n": 1, "body": "{…}", "source_base64": "//48AA=="}


def test_ids_of_rows_are_listed_once():
    """Whatever columns of the rows hold them."""
    assert views.shown_ids([{"task": "a", "root": "b"}, {"task": "b"}], "task", "root") == ["a", "b"]


def test_a_time_is_shown_as_it_is_here(monkeypatch):
    """With the date where it is not today."""
    assert views.local("2001-02-03T04:05:06.000Z").startswith("2001-02-0")


@pytest.mark.parametrize(
    ("value", "shown"),
    [(None, ""), (0, "0%"), (0.0004, "0.0%"), (0.021, "2.1%"), (0.5, "50%"), (0.996, "99.6%"), (1, "100%")],
)
def test_shares_near_the_ends_have_a_digit_more(value, shown):
    """Two in a thousand are not nothing, and not all but two are not all."""
    assert views.percent(value) == shown


@pytest.mark.parametrize(
    ("milliseconds", "shown"), [(None, ""), (0, "0.0s"), (340, "0.3s"), (12_345, "12s"), (3_720_000, "1h 2m")]
)
def test_durations_in_two_units(milliseconds, shown):
    """Short ones with a digit after the point."""
    assert views.duration(milliseconds) == shown


@pytest.mark.parametrize(
    ("microusd", "shown"),
    [
        (0, "$0.00"),
        (12_345_678, "$12.35"),
        (4_999, "$0.005"),
        (21, "$0.000021"),
        (0.213, "$0.00000021"),
        (1_234_567_890, "$1,234.57"),
    ],
)
def test_a_sum_that_was_reckoned_is_not_more_exact_than_it_is(microusd, shown):
    """To the cent, below one to two digits."""
    assert views.about(microusd) == shown


def test_escalations_in_a_sentence():
    """Rates are left out where they are of nothing."""
    none = {
        "incidents": 0,
        "tasks": 0,
        "rate": None,
        "human": 0,
        "human_rate": None,
        "answered": 0,
        "mean_answer_ms": None,
    }
    assert views.escalations_said(none, 0) == "0 incidents; none reached a human. Open: 0."
    some = {
        "incidents": 1, "tasks": 50, "rate": 0.02, "human": 1, "human_rate": 0.02, "answered": 1,
        "mean_answer_ms": 60_000,
    }  # fmt: skip
    assert views.escalations_said(some, 1) == (
        "1 incident in 50 tasks (2.0%); 1 reached a human (2.0% of the tasks), dealt with after 1m on average. Open: 1."
    )
