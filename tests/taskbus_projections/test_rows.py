"""Rows that change: loaded once, changed in memory, written together."""

from __future__ import annotations

import sqlite3
from dataclasses import dataclass

import pytest

from taskbus_projections.rows import Rows


@dataclass(slots=True)
class Day:
    """A row with a key of two columns."""

    agent: str
    day: str
    calls: int = 0


@dataclass(slots=True)
class Agent:
    """A row with a key of one column."""

    name: str
    calls: int = 0


@pytest.fixture
def database():
    """A database with their tables, and a note of what it was asked."""
    connection = sqlite3.connect(":memory:", isolation_level=None)
    connection.execute("CREATE TABLE days (agent TEXT, day TEXT, calls INTEGER, PRIMARY KEY (agent, day)) STRICT")
    connection.execute("CREATE TABLE agents (name TEXT PRIMARY KEY, calls INTEGER) STRICT")
    connection.execute("INSERT INTO days VALUES ('@a', 'mon', 7)")
    yield connection
    connection.close()


def test_rows_are_loaded_once_and_written_at_the_end(database):
    """What is there is changed, what is not is added, and nobody else's row is touched."""
    said = []
    days = Rows("days", Day, key=2)
    days.begin(database)
    database.set_trace_callback(said.append)
    for agent, day in (("@a", "mon"), ("@a", "tue"), ("@a", "mon")):
        row = days.get(agent, day) or days.add(Day(agent, day))
        row.calls += 1
    assert len(said) == 2
    database.set_trace_callback(None)
    days.finish()
    assert database.execute("SELECT * FROM days ORDER BY day").fetchall() == [("@a", "mon", 9), ("@a", "tue", 1)]


def test_a_new_batch_knows_nothing_of_the_one_before(database):
    """What was changed and never written is not there."""
    days = Rows("days", Day, key=2)
    days.begin(database)
    days.get("@a", "mon").calls = 100
    days.add(Day("@b", "mon", 1))
    days.begin(database)
    assert days.get("@a", "mon").calls == 7
    assert days.get("@b", "mon") is None


def test_a_key_of_one_column_and_the_order_of_first_touch(database):
    """Rows are written in the order in which they were first asked for."""
    agents = Rows("agents", Agent)
    agents.begin(database)
    for name in ("@c", "@a", "@b", "@a"):
        (agents.get(name) or agents.add(Agent(name))).calls += 1
    agents.finish()
    assert database.execute("SELECT * FROM agents ORDER BY rowid").fetchall() == [("@c", 1), ("@a", 2), ("@b", 1)]
