"""What a worker prints, where that cannot be written."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

OK = ("sh", "-c", """echo '{"status": "success"}'""")


@pytest.mark.parametrize("stream", ["stdout", "stderr"])
def test_a_worker_goes_on_though_its_output_cannot_be_written(run_bus, delegate, state, stream):
    """A full disk under its log, or under its records, costs neither the work nor the worker."""
    delegate("t")
    delegate("u")
    words = (sys.executable, "-m", "taskbus", "agent", "run", "@kilo", "--json", "--until-idle", "--", *OK)
    streams = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            words,
            **{**streams, stream: full},
            env=dict(run_bus.environment),
            cwd=run_bus.folder,
            text=True,
            check=False,
            timeout=60,
        )
    assert (state("t"), state("u")) == ("completed", "completed")
    if stream == "stdout":
        assert "The record of t cannot be written: " in done.stderr
        assert (done.returncode, "Traceback" in done.stderr) == (1, False)


def test_a_worker_whose_records_nobody_reads_any_more_ends(worker, delegate):
    """As with `| head -1`: it takes no more, and complains of nothing."""
    with worker("--json", "--", *OK) as process:
        process.stdout.close()
        delegate("t")
        assert process.wait(30) == 0
        assert "Traceback" not in process.stderr.read()
