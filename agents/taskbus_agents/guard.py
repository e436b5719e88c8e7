"""The guard: a process beside each worker that starts its commands, so that they end also when the worker cannot
end them.

A worker that was killed would leave its agents running, and the next worker to take their deliveries would run them
a second time in the same files. So no command is the worker's own child: the guard forks a keeper for each
(`taskbus_agents.keeper`), which sees by the end of its line that the worker is gone. Owned by `taskbus_agents.runner`.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from contextlib import ExitStack, closing
from dataclasses import dataclass

_LAST = 5.0


@dataclass(frozen=True, slots=True)
class Launched:
    """The worker's ends of a new keeper's line and of its command's pipes; whoever has them closes them."""

    line: socket.socket
    stdin: int
    stdout: int
    stderr: int


class Guard:
    """The worker's end. `launch` starts the process, unless it runs; `close` ends it, and no keeper."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[bytes] | None = None
        self._channel: socket.socket | None = None

    def launch(self) -> Launched:
        """Have a keeper made, which waits for its job. Raises OSError when the system has no room for it."""
        with ExitStack() as theirs, ExitStack() as ours:
            line, far_line = socket.socketpair()
            ours.enter_context(line)
            theirs.enter_context(far_line)
            near: list[int] = []
            far = [far_line.fileno()]
            for number in range(3):
                reading, writing = os.pipe()
                mine, its = (writing, reading) if number == 0 else (reading, writing)
                ours.callback(os.close, mine)
                theirs.callback(os.close, its)
                near.append(mine)
                far.append(its)
            for end in (line.fileno(), *near):
                os.set_blocking(end, False)
            self._pass(far)
            ours.pop_all()
        return Launched(line, *near)

    def close(self) -> None:
        """End the guard. Keepers go on for as long as anything of their commands is there."""
        if self._channel is not None and self._process is not None:
            self._channel.close()
            try:
                self._process.wait(_LAST)
            except subprocess.TimeoutExpired:  # somebody has stopped it
                self._process.kill()
                self._process.wait()
            self._channel = self._process = None

    def _pass(self, ends: list[int]) -> None:
        if self._process is not None and self._process.poll() is not None:
            self.close()  # somebody has killed it
        try:
            socket.send_fds(self._started(), [b"+"], ends)
        except ConnectionError:
            self.close()
            socket.send_fds(self._started(), [b"+"], ends)

    def _started(self) -> socket.socket:
        if self._channel is None:
            channel, far = socket.socketpair()
            with far:
                self._process = subprocess.Popen(
                    # Without -P it would import whatever has the name of a library in the worker's folder.
                    [sys.executable, "-P", "-m", __name__],
                    stdin=far.fileno(),
                    stdout=subprocess.DEVNULL,
                    stderr=subprocess.DEVNULL,
                    start_new_session=True,
                )
            self._channel = channel
        return self._channel


def main() -> None:
    """Fork a keeper for whatever comes with four file descriptors: its line, and a command's three pipes."""
    # Before the first fork, so that no keeper has to import anything.
    from taskbus_agents.keeper import keep, unmoved

    os.chdir("/")
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, unmoved)
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # keepers are reaped by the system
    with socket.socket(fileno=0) as channel:
        while True:
            _, ends, _, _ = socket.recv_fds(channel, 1, 4)
            if not ends:
                return
            if os.fork() == 0:
                code = 1
                try:
                    channel.close()
                    with closing(socket.socket(fileno=ends[0])) as line:
                        keep(line, ends[1:])
                    code = 0
                finally:
                    # Not by the interpreter's own way out, which took five times as long as all else here (10 ms).
                    os._exit(code)
            for end in ends:
                os.close(end)


if __name__ == "__main__":
    main()
