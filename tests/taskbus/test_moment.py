"""Moments: times, durations and positions, as people write them for `--since` and `--until`."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from taskbus import moment
from taskbus.errors import UsageError
from taskbus.position import START, Position

NOW = datetime(2026, 11, 20, 9, 30, tzinfo=UTC)
AT = Position(0, 1795167000000, 0)


@pytest.mark.parametrize(
    ("text", "ago"),
    [
        ("now", timedelta()),
        ("90s", timedelta(seconds=90)),
        ("10m", timedelta(minutes=10)),
        ("2h", timedelta(hours=2)),
        ("3d", timedelta(days=3)),
        ("1w ago", timedelta(weeks=1)),
        (" 1h30m ", timedelta(minutes=90)),
        ("0.5h", timedelta(minutes=30)),
        ("0s", timedelta()),
    ],
)
def test_a_duration_counts_back_from_now(text, ago):
    """A duration is so long before now; several units add up."""
    assert moment.parse(text, now=NOW) == NOW - ago


@pytest.mark.parametrize(
    "text",
    ["2026-11-20T09:30:00Z", "2026-11-20 09:30Z", "2026-11-20T10:30:00+01:00", "2026-11-20T04:00:00.000-05:30"],
)
def test_a_time_is_the_same_moment_in_every_offset(text):
    """Times with an offset are compared in UTC."""
    assert moment.parse(text, now=NOW) == NOW
    assert moment.position(text) == AT


@pytest.mark.parametrize(
    ("text", "position"),
    [
        ("1795167000000-3", Position(0, 1795167000000, 3)),
        ("1795167000000", AT),
        ("0/1795167000000-1", Position(0, 1795167000000, 1)),
        ("1795167000000-18446744073709551615", Position(0, 1795167000000, 2**64 - 1)),
        ("0", START),
        ("0-0", START),
    ],
)
def test_a_position_stands_for_itself(text, position):
    """Positions are taken as they are."""
    assert moment.position(text) == position


@pytest.mark.parametrize(
    "text",
    ["", "yesterday", "10x", "10 m", "-5m", "2026", "2026-11", "1e3s", "10m ago ago", "1234-5", "0x10"],
)
def test_what_is_no_moment_is_refused(text):
    """A bare year is not taken for a position near the beginning of time, nor a date for a stream ID."""
    with pytest.raises(UsageError, match="neither a time nor a position"):
        moment.position(text)


@pytest.mark.parametrize(
    "text", ["99999999999999999999-0", "18446744073709551616", "1795167000000-18446744073709551616"]
)
def test_a_position_that_no_server_has_is_refused(text):
    """A number of more than 64 bits never reaches the server, which would be blamed for it."""
    with pytest.raises(UsageError, match="later than any position can be"):
        moment.position(text)


def test_a_position_in_another_shard_is_refused():
    """A namespace has one shard: a position in another one is not taken for one in this."""
    with pytest.raises(UsageError, match="shard 3"):
        moment.position("3/1795167000000-0")


@pytest.mark.parametrize("text", ["2026-11-20", "20261120", "2026-11-20T09:30:00"])
def test_a_time_without_an_offset_is_refused(text):
    """It could be meant anywhere, so the message says what is missing."""
    with pytest.raises(UsageError, match="no offset from UTC"):
        moment.position(text)


def test_an_impossible_time_is_refused():
    """The last hour of the year 9999 does not exist in UTC everywhere."""
    with pytest.raises(UsageError, match="out of range"):
        moment.position("9999-12-31T23:30:00-23:00")


@pytest.mark.parametrize("text", ["999999999d", "99999w", "1969-12-31T00:00:00Z"])
def test_before_all_time_is_the_beginning(text):
    """Longer ago than any log means from its beginning."""
    assert moment.position(text, now=NOW) == START


def test_a_fraction_of_a_millisecond_is_rounded_up():
    """The first position at or after a time does not lie before it."""
    assert moment.at(NOW + timedelta(microseconds=1)) == Position(0, AT.ms + 1, 0)
    assert moment.at(NOW) == AT


def test_a_time_s_last_position_is_the_last_of_its_millisecond():
    """What a record says of its own time, given as the end, takes in that record; a position stands for itself."""
    for ms in range(AT.ms, AT.ms + 1000):
        time = Position(0, ms, 0).time.isoformat(timespec="milliseconds")
        assert moment.until(time) == Position(0, ms, 2**64 - 1)
    assert moment.until("1795167000000-3") == Position(0, AT.ms, 3)
    assert moment.until("999999999d", now=NOW) == Position(0, 0, 2**64 - 1)


@pytest.mark.parametrize(("text", "seconds"), [("90s", 90.0), ("1h30m", 5400.0), ("0.5h", 1800.0), ("0s", 0.0)])
def test_a_duration_in_seconds(text, seconds):
    """The parts of a duration add up."""
    assert moment.duration(text) == seconds


@pytest.mark.parametrize("text", ["", "90", "5 m", "1h ago", "-5m", "h", "1y"])
def test_what_is_no_duration(text):
    """Anything else is none, and whoever asked says what to write instead."""
    assert moment.duration(text) is None


def test_to_read_after_the_position_before_is_to_read_from_it():
    """`before` steps over sequence and millisecond, and leaves the start where it is."""
    assert moment.before(Position(3, 7, 5)) == Position(3, 7, 4)
    assert moment.before(Position(3, 7, 0)) == Position(3, 6, 2**64 - 1)
    assert moment.before(START) == START


def test_without_a_clock_this_machines_is_taken():
    """`now` lies between two readings of the clock."""
    before = datetime.now(UTC)
    found = moment.parse("now")
    assert isinstance(found, datetime)
    assert before <= found <= datetime.now(UTC)


@pytest.mark.parametrize("text", ["253402300800000-0", "18446744073709551615"])
def test_a_position_behind_all_time_is_refused(text):
    """Its time could not be told; the last one of the year 9999 can."""
    with pytest.raises(UsageError, match="later than any time"):
        moment.parse(text)
    assert moment.parse("253402300799999-0").time.year == 9999
