"""Money on paper: spans of time, the accounts that something counts in, and the words that the server is told."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import structs

from taskbus import counters, money
from taskbus.accounts import Account, warning
from taskbus.envelope import Acknowledgment, Budget, Cost, Hold, Status, Usage, compose
from taskbus.money import Ledger, OpenHold, Sums
from taskbus.position import Position
from tests.taskbus.strategies import words


def milliseconds(*when):
    """A time in UTC, in milliseconds since the epoch."""
    return int(datetime(*when, tzinfo=UTC).timestamp() * 1000)


@given(st.datetimes(datetime(1970, 1, 1), datetime(2199, 12, 31), timezones=st.just(UTC)))  # noqa: DTZ001
def test_spans_are_those_of_the_calendar_in_utc(when):
    """Month and day of a time are what the calendar says, and end where the next ones begin."""
    ms = int(when.timestamp() * 1000)
    assert money.span_of("month", ms) == f"{when:%Y-%m}"
    assert money.span_of("day", ms) == f"{when:%Y-%m-%d}"
    for period in ("month", "day"):
        turn = money.resets(period, money.span_of(period, ms))
        turn_ms = int(turn.timestamp() * 1000)
        assert turn > when
        assert money.span_of(period, turn_ms - 1) == money.span_of(period, ms) != money.span_of(period, turn_ms)


def test_a_tasks_account_has_one_span():
    """It counts for ever, and is never counted anew."""
    assert money.span_of("task", 5) == money.EVER
    assert money.resets("task", money.EVER) is None
    assert [money.period_of(span) for span in (money.EVER, "2026-11", "2026-11-20")] == ["task", "month", "day"]


def test_something_counts_in_five_accounts():
    """The provider's and the agent's by month and by day, and the tree's; who is not named is unknown."""
    found = money.accounts_of(None, "@kilo", "root", milliseconds(2028, 2, 29, 23, 59, 59))
    assert found == (
        ("provider:unknown", "month", "2028-02"),
        ("provider:unknown", "day", "2028-02-29"),
        ("agent:@kilo", "month", "2028-02"),
        ("agent:@kilo", "day", "2028-02-29"),
        ("task:root", "task", "ever"),
    )


@given(words)
def test_any_name_is_one_word_on_the_server(name):
    """Quoted, it has no white space in it, and comes back as it was."""
    word = money.quoted(name)
    assert word.split() == [word]
    assert word.isascii()
    assert money.unquoted(word) == name


@given(words, words)
def test_a_hold_is_read_as_it_was_written(provider, model):
    """The line of an open hold, with whatever names."""
    hold = OpenHold("h1", "t", "r", "@kilo", 5, provider, None if model == "-" else model, Position(0, 7, 8), 3)
    assert counters.hold_of("t", counters.line_of(hold), 0) == hold
    assert counters.hold_of("t", counters.line_of(hold, plain=True), 0).token is None


def test_what_an_envelope_announces():
    """Reservation and caps first, then what was spent; an envelope without money announces nothing."""
    said = Acknowledgment(accepted=True, provider="a b", model="m", hold=Hold(id="h1", microusd=5))
    usage = (
        Usage(provider="x", model="m", cost=Cost(source="reported", microusd=3)),
        Usage(provider="y", model="m"),
    )
    envelope = compose(said, sender="@kilo", recipient="@boss", usage=usage)
    lines = ["r h1 5 a%20b m", "c agent:@kilo day 9", "s x 3", "u y"]
    assert money.announced(envelope, {("agent:@kilo", "day"): 9}) == "\n".join(lines)
    declined = Acknowledgment(accepted=False, hold=Hold(id="h1", microusd=5))
    assert money.announced(compose(declined, sender="@kilo", recipient="@boss"), None) == ""
    assert money.announced(compose(Status(progress="x"), sender="@kilo", recipient="@boss"), None) == ""


@pytest.mark.parametrize(
    ("payload", "line"),
    [
        (Budget(budget="cap", account="agent:@a", period="day", microusd=5), "k agent:@a day 5"),
        (Budget(budget="cap", account="agent:@a", period="day"), "k agent:@a day -"),
        (Budget(budget="cap", period="day"), ""),
        (Budget(budget="warned", account="agent:@a", span="2026-11", microusd=5), "w agent:@a 2026-11 5"),
        (Budget(budget="settled", hold=Hold(id="h1", microusd=5)), "e h1"),
        (Budget(budget="settled"), ""),
    ],
)
def test_records_of_money_are_announced(payload, line):
    """Decisions, warnings and ends, and nothing of a record that says too little."""
    assert money.announced(compose(payload, sender="@a", recipient="@bus"), None) == line


def test_differences_are_named():
    """Each account, hold, cap and warning that the server has otherwise than the log, and what both say."""
    server, log = Ledger(), Ledger()
    server.accounts["agent:@a", "2026-11"] = Sums(5, 0, 0)
    log.accounts["agent:@a", "2026-11"] = Sums(6, 0, 1)
    log.caps["agent:@a", "day"] = None
    server.warned.add(("agent:@a", "2026-11", 7))
    log.accounts["agent:@b", "2026-11"] = Sums()
    counted = counters.Counted(Position(0, 1, 0), server, is_there=True, was_counted=True, open=1)
    found = {(each.what, each.name, each.server, each.log) for each in counters.differences(counted, log)}
    assert found == {
        ("account", "agent:@a 2026-11", "5 0 0", "6 0 1"),
        ("cap", "agent:@a by day", "none", "no cap"),
        ("warning", "agent:@a 2026-11 7", "told", "none"),
        ("holds", "open", "1", "0"),
    }


def test_whoever_finds_a_cap_used_up_writes_the_same_warning():
    """By its ID: of many who warn at once, whatever each of them holds, one is heard; another cap is other news."""
    account = Account("agent:@a", "day", "2026-11-20", 7, 1, 0, 9, recorded=False)
    one, other = (OpenHold(id, id, id, "@a", 1, "x", "m", Position(0, 7, 8)) for id in ("h1", "h2"))
    assert warning(one, account, "a:").id == warning(other, account, "a:").id
    assert warning(one, account, "a:").id != warning(one, structs.replace(account, cap=10), "a:").id
    assert warning(one, account, "a:").id != warning(one, structs.replace(account, span="2026-11-21"), "a:").id
