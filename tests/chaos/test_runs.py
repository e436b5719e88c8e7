"""A short, seeded selection of fault injection: whatever befalls the bus, no rule is broken.

`bin/chaos` runs as many as one likes, and prints what it did; here a few kills of everything are enough to see that
neither the bus nor the harness has lost what it can.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.servers import is_alive

ROOT = Path(__file__).parent.parent.parent

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="uses signals of dead parents and peers of sockets")


def command(*arguments):
    """The command of `bin/chaos`, which needs no set-up here."""
    return [sys.executable, "-m", "tests.chaos.run", *map(str, arguments)]


def environment():
    """The tests' own, without the measuring of coverage: processes that are killed cost more with it."""
    found = {name: value for name, value in os.environ.items() if not name.startswith("COV")}
    return {**found, "PYTHONPATH": os.pathsep.join([str(ROOT), found.get("PYTHONPATH", "")]).rstrip(os.pathsep)}


@pytest.mark.parametrize("seed", [1056, 1064, 1072])
def test_no_rule_is_broken(seed):
    """Eight runs with kills of server, workers, producers and projector, and everything else of the table."""
    done = subprocess.run(
        command("--runs", 8, "--seed", seed, "--jobs", 2, "--json"),
        capture_output=True,
        text=True,
        env=environment(),
        timeout=170,
    )
    assert done.stdout, done.stderr
    facts = json.loads(done.stdout)
    assert facts["failing"] == []
    assert done.returncode == 0
    assert (facts["lost"], facts["duplicated"], facts["stranded"]) == (0, 0, 0)
    assert facts["runs_with_kills"] == facts["runs"] == 8
    assert facts["envelopes"] > facts["tasks"] == 8 * 40


def test_every_database_is_the_fold_from_zero():
    """Whoever of projectors, rebuild, archiver and server is killed: rows, full-text search and chain are right."""
    done = subprocess.run(
        command("--projections", "--runs", 4, "--kills", 25, "--seed", 2104, "--jobs", 2, "--json"),
        capture_output=True,
        text=True,
        env=environment(),
        timeout=170,
    )
    assert done.stdout, done.stderr
    facts = json.loads(done.stdout)
    assert facts["failing"] == []
    assert done.returncode == 0
    assert (facts["runs"], facts["kills"]) == (4, 100)
    assert set(facts["by"]) == {"projector", "rebuild", "archiver", "server"}
    assert min(facts["rebuilds"], facts["segments"], facts["trimmed"]) > 0


def test_a_run_that_is_interrupted_leaves_nothing_running():
    """Ctrl-C ends the runs with all their processes, and still prints the table of those that were done."""
    with subprocess.Popen(
        command("--runs", 50, "--seed", 1, "--jobs", 1, "--json"),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment(),
    ) as process:
        deadline = time.monotonic() + 20
        while len(family := descendants(process.pid)) < 10 and time.monotonic() < deadline:
            time.sleep(0.01)
        assert len(family) >= 10
        process.send_signal(signal.SIGINT)
        stdout, _ = process.communicate(timeout=20)
    assert json.loads(stdout)["runs"] == 0
    while (left := [pid for pid in family if is_alive(pid)]) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert left == []


def descendants(pid):
    """The processes below a process."""
    parents = {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            stat = (folder / "stat").read_text(encoding="utf-8", errors="replace")
        except OSError:
            continue  # it has ended meanwhile
        parents[int(folder.name)] = int(stat.rpartition(")")[2].split()[1])
    found, before = {pid}, set()
    while found != before:
        before = set(found)
        found |= {child for child, parent in parents.items() if parent in before}
    return found - {pid}
