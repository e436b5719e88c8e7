"""`bin/chaos`: runs with kills, cuts and stopped clocks, each from a seed; prints a table of what befell and held.

With `--projections` it is projectors, rebuilds, archivers and the server that are killed, and what was folded must be
the fold from zero. Each run has a server and processes of its own. Exit codes: 0 all rules held, 1 some rule was
broken, 2 usage.
"""

from __future__ import annotations

import argparse
import contextlib
import gc
import os
import pickle
import shutil
import signal
import sys
import tempfile
import time
import traceback
from dataclasses import dataclass
from pathlib import Path

from tests.chaos import clock, projections, report
from tests.chaos.measures import Measured
from tests.chaos.meddling import scripts
from tests.chaos.plan import draw
from tests.chaos.rules import Breach
from tests.chaos.trial import Result, run
from tests.chaos.troupe import die_with_parent
from tests.servers import bundled_binary, redis7_binary

LIMIT = 60.0
"""Seconds after which a run is ended by force; it counts as a breach."""
MEMORY = "/dev/shm"
"""Where an fsync costs nothing. What is killed here are processes, and the kernel keeps what they have written."""


@dataclass
class Job:
    """A run under way: its process, which leads a group of its own, its folder and when it began."""

    seed: int
    pid: int
    folder: Path
    began: float


def main() -> int:
    """Run them, print the table."""
    options = _options()
    if options.projections:
        binary = _binary(options)
        return projections.main(options, binary) if binary else 2
    clock.preload()
    try:
        return _main(options)
    finally:
        clock.forget()


def _binary(options: argparse.Namespace) -> Path | None:
    binary = redis7_binary() if options.server == "redis" else bundled_binary()
    if binary is None:
        print("There is no redis-server of version 7 or newer on the PATH.", file=sys.stderr)
    return binary


def _main(options: argparse.Namespace) -> int:
    binary = _binary(options)
    if binary is None:
        return 2
    began = time.monotonic()
    results: list[Result] = []
    try:
        for result in _results(options, binary):
            results.append(result)
            report.progress(result, len(results), options.runs)
    except KeyboardInterrupt:
        print("interrupted: the table is of the runs that were done", file=sys.stderr)
    found = report.Report(results, time.monotonic() - began, options.seed, options.server, clocks=clock.available())
    print(found.json() if options.json else found.text())
    return 1 if found.breaches else 0


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="bin/chaos", description=__doc__)
    parser.add_argument("--runs", type=int, default=20, help="how many runs (20)")
    parser.add_argument("--seed", type=int, default=int(time.time()), help="seed of the first; each next has one more")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="runs at a time (one for each processor)")
    parser.add_argument("--tasks", type=int, default=40, help="tasks of each run (40)")
    parser.add_argument("--projections", action="store_true", help="runs of projectors, rebuilds and archivers instead")
    parser.add_argument("--kills", type=int, default=25, help="with --projections: kills of each run (25)")
    parser.add_argument("--server", choices=("valkey", "redis"), default="valkey", help="bundled, or from the PATH")
    parser.add_argument("--keep", type=Path, help="keep the histories of failing runs below this folder")
    parser.add_argument("--keep-all", action="store_true", help="with --keep: those of all runs")
    parser.add_argument("--json", action="store_true", help="one JSON object instead of the table")
    options = parser.parse_args()
    if min(options.runs, options.jobs, options.kills) < 1 or options.tasks < 2:
        parser.error("--runs, --jobs and --kills take 1 or more, --tasks 2 or more")
    return options


def _results(options: argparse.Namespace, binary: Path):
    scripts()
    gc.collect()
    gc.freeze()  # children share these pages as long as nobody writes to them
    seeds = iter(range(options.seed, options.seed + options.runs))
    jobs: list[Job] = []
    try:
        while True:
            while len(jobs) < options.jobs and (seed := next(seeds, None)) is not None:
                jobs.append(_begin(seed, options, binary))
            if not jobs:
                return
            for job in [job for job in jobs if _is_over(job)]:
                jobs.remove(job)
                yield _end(job, options)
            time.sleep(0.01)
    finally:
        for job in jobs:
            _kill_group(job)
            shutil.rmtree(job.folder, ignore_errors=True)


def _begin(seed: int, options: argparse.Namespace, binary: Path) -> Job:
    folder = Path(tempfile.mkdtemp(prefix="tbr", dir=MEMORY if os.access(MEMORY, os.W_OK) else "/tmp"))
    plan = draw(seed, tasks=options.tasks, clocks=clock.available())
    pid = os.fork()
    if pid == 0:
        code = 70
        try:
            os.setpgid(0, 0)
            die_with_parent(signal.SIGTERM)
            signal.signal(signal.SIGTERM, lambda *_: _die())
            signal.signal(signal.SIGINT, signal.SIG_IGN)
            sys.stderr = (folder / "run.err").open("w", encoding="utf-8")
            result = run(plan, folder, binary)
            (folder / "result").write_bytes(pickle.dumps(result))
            code = 0
        finally:
            if code:
                traceback.print_exc()
            sys.stderr.flush()
            os._exit(code)
    with contextlib.suppress(OSError):
        os.setpgid(pid, pid)  # both do it, so that it is done whoever comes first
    return Job(seed, pid, folder, time.monotonic())


def _die() -> None:
    os.killpg(0, signal.SIGKILL)


def _is_over(job: Job) -> bool:
    if time.monotonic() - job.began > LIMIT:
        _kill_group(job)
        return True
    found, _ = os.waitpid(job.pid, os.WNOHANG)
    return found != 0


def _kill_group(job: Job) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(job.pid, signal.SIGKILL)
    with contextlib.suppress(ChildProcessError):
        os.waitpid(job.pid, 0)


def _end(job: Job, options: argparse.Namespace) -> Result:
    _kill_group(job)  # nothing should be left of it
    file = job.folder / "result"
    if file.exists():
        result: Result = pickle.loads(file.read_bytes())
    else:
        errors = job.folder / "run.err"
        why = errors.read_text(encoding="utf-8").strip() if errors.exists() else ""
        seconds = time.monotonic() - job.began
        what = why.splitlines()[-1] if why else f"it was ended after {seconds:.0f} s"
        result = Result(job.seed, seconds, [Breach("harness", what)], Measured())
    if options.keep and (result.breaches or options.keep_all):
        options.keep.mkdir(parents=True, exist_ok=True)
        shutil.copytree(job.folder, options.keep / str(job.seed), dirs_exist_ok=True, ignore=_sockets)
    shutil.rmtree(job.folder, ignore_errors=True)
    return result


def _sockets(folder: str, names: list[str]) -> list[str]:
    return [name for name in names if (Path(folder) / name).is_socket()]


if __name__ == "__main__":
    sys.exit(main())
