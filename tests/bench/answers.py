"""The queries: how long SQLite takes for each question of the command line, on a database of so many envelopes.

Every question is asked of a connection of its own, as a command does. What is measured is more than SQLite's time: the
rows as Python has them, too.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from pathlib import Path
from typing import TypedDict

from part import Part, number
from questions import QUESTIONS, Sample
from synthetic import fold
from traffic import traffic

from taskbus_projections.database import Database
from taskbus_projections.registry import BUILTIN

COUNT, ROUNDS = 100_000, 5
TARGET = 100.0
NAMESPACE = "bench-queries:"
SHOWN = 12


class Found(TypedDict):
    """Milliseconds of each question, medians; `folding` is envelopes per second, `size` the megabytes of the file."""

    count: int
    size: float
    folding: float
    target: float
    slowest: float
    questions: dict[str, float]


def measure(count: int, rounds: int) -> Part:
    """Fold envelopes into a new file, then ask everything by turns."""
    with tempfile.TemporaryDirectory(prefix="taskbus-queries-") as folder:
        path = Path(folder) / "queries.db"
        began = time.perf_counter()
        with Database.open(path, NAMESPACE, BUILTIN) as database:
            fold(database, traffic(count))
        folding = count / (time.perf_counter() - began)
        with Database.read(path, NAMESPACE, BUILTIN) as database:
            sample = Sample.of(database)
        times: dict[str, list[float]] = {name: [] for name in QUESTIONS}
        for _ in range(rounds):
            for name in QUESTIONS:
                times[name].append(asked(path, name, sample))
        size = path.stat().st_size / 1e6
    medians = {name: statistics.median(each) for name, each in times.items()}
    slowest = sorted(medians, key=medians.__getitem__, reverse=True)
    found: Found = {
        "count": count,
        "size": size,
        "folding": folding,
        "target": TARGET,
        "slowest": medians[slowest[0]],
        "questions": medians,
    }
    title = f"queries at {number(count)} envelopes, ms"
    lines = [f"{title:48}{'median':>10}{'at most':>10}"]
    lines += [f"{name:48}{medians[name]:>10.2f}{TARGET:>10.0f}" for name in slowest[:SHOWN]]
    rest = f"the other {len(slowest) - SHOWN}, together"
    lines += [f"{rest:48}{sum(medians[name] for name in slowest[SHOWN:]):>10.2f}"]
    return Part(found, lines, found["slowest"] <= TARGET)


def asked(path: Path, name: str, sample: Sample) -> float:
    """The milliseconds of one question, asked as a command asks it: in a snapshot of a connection of its own."""
    with Database.read(path, NAMESPACE, BUILTIN) as database, database.snapshot():
        began = time.perf_counter()
        QUESTIONS[name](database, sample)
        return (time.perf_counter() - began) * 1000
