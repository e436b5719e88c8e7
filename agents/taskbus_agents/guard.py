"""The guard: a process beside each worker that ends the worker's process groups when the worker cannot do it itself.

A worker that was killed leaves its agents running, and the next worker to take their deliveries would run them a
second time in the same files. The guard reads from a pipe which groups run; its end means that the worker is gone.
It uses the standard library only, and is run as a module by `Guard`, which `taskbus_agents.runner` owns.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from typing import IO, cast

POLL = 0.02
"""Seconds between two looks at whether a group is empty."""


class Guard:
    """The worker's end of the pipe. `start` starts the process, unless it runs; `close` ends it."""

    def __init__(self, grace: float) -> None:
        self._grace = grace
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start the process. Before the first group is, so that a worker killed a moment later has its guard."""
        if self._process is None:
            self._process = subprocess.Popen(
                [sys.executable, "-m", __name__, str(self._grace)],
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                cwd="/",
                start_new_session=True,
            )

    def watch(self, group: int) -> None:
        """From now on, end this process group if the worker dies."""
        self._tell(f"+{group}\n")

    def forget(self, group: int) -> None:
        """The group has ended."""
        self._tell(f"-{group}\n")

    def close(self) -> None:
        """End the guard, and with it whatever group it was not told to forget."""
        if self._process is not None:
            self._pipe.close()
            self._process.wait()
            self._process = None

    def _tell(self, line: str) -> None:
        # Somebody may have killed the guard: the worker still ends its groups itself, unless it is killed as well.
        with contextlib.suppress(BrokenPipeError):
            os.write(self._pipe.fileno(), line.encode())

    @property
    def _pipe(self) -> IO[bytes]:
        return cast("IO[bytes]", cast("subprocess.Popen[bytes]", self._process).stdin)


def signaled(group: int, number: int) -> bool:
    """Send a signal to a process group; False when there is nobody left in it."""
    try:
        os.killpg(group, number)
    except (ProcessLookupError, PermissionError):
        # Permission is what macOS answers for a group of which only a dead, unreaped process is left.
        return False
    return True


def main() -> None:
    """Read which groups run until the pipe ends, then end those that are left: TERM, grace, KILL."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    groups: set[int] = set()
    for line in sys.stdin:
        (groups.add if line[0] == "+" else groups.discard)(int(line[1:]))
    left = {group for group in groups if signaled(group, signal.SIGTERM)}
    deadline = time.monotonic() + float(sys.argv[1])
    while left and time.monotonic() < deadline:
        time.sleep(POLL)
        left = {group for group in left if signaled(group, 0)}
    for group in left:
        signaled(group, signal.SIGKILL)


if __name__ == "__main__":
    main()
