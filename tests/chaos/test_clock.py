"""The clocks that can be set: wall clocks jump, monotonic ones do not, and each process has its own."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys

import pytest

from tests.chaos import clock

compiler = shutil.which("cc") or shutil.which("gcc")
pytestmark = pytest.mark.skipif(sys.platform != "linux" or compiler is None, reason="needs Linux and a C compiler")

ASKS = """
import datetime, os, sys, time
from pathlib import Path
from tests.chaos import clock
def look():
    return time.time(), datetime.datetime.now().timestamp(), time.monotonic()
before = look()
clock.step(Path(os.environ["CHAOS_CLOCK"]), float(sys.argv[1]))
after = look()
clock.take(Path(sys.argv[2]))
own = look()
print(*(round((b - a) / 100) for a, b in zip(before, after)), *(round((c - a) / 100) for a, c in zip(before, own)))
"""


@pytest.mark.parametrize("step", [3600, -3600])
def test_a_step_moves_the_wall_clock_alone(tmp_path, step):
    """Whoever asks for the time sees the step at once, and who takes another clock sees it no longer."""
    shim = tmp_path / "clock.so"
    subprocess.run([compiler, "-shared", "-fPIC", "-Wall", "-Werror", "-o", shim, clock.SOURCE], check=True)
    clock.make(tmp_path / "one")
    done = subprocess.run(
        [sys.executable, "-c", ASKS, str(step), tmp_path / "other"],
        capture_output=True,
        text=True,
        env={
            **{name: value for name, value in os.environ.items() if not name.startswith("COV")},
            "LD_PRELOAD": str(shim),
            "CHAOS_CLOCK": str(tmp_path / "one"),
            "PYTHONPATH": os.pathsep.join(path for path in sys.path if path),
        },
    )
    assert done.stderr == ""
    assert done.stdout.split() == [*[str(step // 100)] * 2, *["0"] * 4]
