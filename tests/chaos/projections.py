"""`bin/chaos --projections`: many runs of `tests.chaos.folding`, some at a time, and the table of what came of them."""

from __future__ import annotations

import json
import os
import pickle
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from tests.chaos.folding import LIMIT, Result, run
from tests.chaos.troupe import spawn

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterator

MEMORY = "/dev/shm"
"""Where an fsync costs nothing: what is killed here are processes, and the kernel keeps what they have written."""


@dataclass
class Job:
    """A run under way."""

    seed: int
    pid: int
    folder: Path
    began: float


def main(options: argparse.Namespace, binary: Path) -> int:
    """Run them, print the table; 1 where anything went wrong."""
    began = time.monotonic()
    results: list[Result] = []
    try:
        for result in _results(options, binary):
            results.append(result)
            if result.wrong:
                print(f"seed {result.seed}: {result.wrong[0]}", file=sys.stderr)
            if len(results) % 20 == 0:
                print(f"{len(results)} of {options.runs} runs", file=sys.stderr)
    except KeyboardInterrupt:
        print("interrupted: the table is of the runs that were done", file=sys.stderr)
    print(_json(results) if options.json else _table(results, time.monotonic() - began))
    return 1 if any(result.wrong for result in results) else 0


def _json(results: list[Result]) -> str:
    kills = sum((result.kills for result in results), Counter[str]())
    counts = {
        name: sum(getattr(result, name) for result in results)
        for name in ("envelopes", "rebuilds", "resumed", "segments", "trimmed")
    }
    # Not asdict, which makes pairs of what a Counter counts.
    failing = [
        {"seed": result.seed, "kills": result.kills, "wrong": result.wrong} for result in results if result.wrong
    ]
    return json.dumps({"runs": len(results), "kills": kills.total(), "by": kills, **counts, "failing": failing})


def _table(results: list[Result], seconds: float) -> str:
    facts = json.loads(_json(results))
    by = ", ".join(f"{count} of the {name}" for name, count in sorted(facts["by"].items()))
    lines = [
        f"{facts['runs']} runs in {seconds:.0f} s, {facts['kills']} times kill -9: {by}",
        f"{facts['envelopes']} envelopes, {facts['segments']} segments sealed, {facts['trimmed']} envelopes trimmed",
        f"{facts['rebuilds']} rebuilds came to their end, {facts['resumed']} of them resumed",
    ]
    for result in facts["failing"]:
        lines += [f"seed {result['seed']}: {why}" for why in result["wrong"]]
    failing = len(facts["failing"])
    return "\n".join([*lines, f"{failing} runs FAILED" if failing else "every database is the fold from zero"])


def _results(options: argparse.Namespace, binary: Path) -> Iterator[Result]:
    seeds = iter(range(options.seed, options.seed + options.runs))
    jobs: list[Job] = []
    try:
        while True:
            while len(jobs) < options.jobs and (seed := next(seeds, None)) is not None:
                jobs.append(_begin(seed, options.kills, binary))
            if not jobs:
                return
            for job in [job for job in jobs if _is_over(job)]:
                jobs.remove(job)
                yield _end(job, options.keep)
            time.sleep(0.01)
    finally:
        for job in jobs:
            _kill(job)
            os.waitpid(job.pid, 0)
            shutil.rmtree(job.folder, ignore_errors=True)


def _begin(seed: int, kills: int, binary: Path) -> Job:
    folder = Path(tempfile.mkdtemp(prefix="tbf", dir=MEMORY if os.access(MEMORY, os.W_OK) else "/tmp"))

    def body() -> None:
        os.setpgid(0, 0)
        signal.signal(signal.SIGTERM, lambda *_: os.killpg(0, signal.SIGKILL))
        (folder / "result").write_bytes(pickle.dumps(run(seed, kills, folder, binary)))

    pid = spawn(body, folder / "run.err", ending=signal.SIGTERM)
    with suppress(OSError):
        os.setpgid(pid, pid)  # both do it, so that it is done whoever comes first
    return Job(seed, pid, folder, time.monotonic())


def _kill(job: Job) -> None:
    """End a run with all its processes, which are in one group."""
    with suppress(ProcessLookupError):
        os.killpg(job.pid, signal.SIGKILL)


def _is_over(job: Job) -> bool:
    if time.monotonic() - job.began > 2 * LIMIT:
        _kill(job)
    return os.waitpid(job.pid, os.WNOHANG)[0] != 0


def _end(job: Job, keep: Path | None) -> Result:
    file = job.folder / "result"
    if file.exists():
        result: Result = pickle.loads(file.read_bytes())
    else:
        why = (job.folder / "run.err").read_text(encoding="utf-8").strip()
        result = Result(job.seed, wrong=[why.splitlines()[-1] if why else "it did not come to its end"])
    if result.wrong and keep:
        keep.mkdir(parents=True, exist_ok=True)
        ignored = shutil.ignore_patterns("*.sock")
        shutil.copytree(job.folder, keep / f"folding-{job.seed}", dirs_exist_ok=True, ignore=ignored)
    shutil.rmtree(job.folder, ignore_errors=True)
    return result
