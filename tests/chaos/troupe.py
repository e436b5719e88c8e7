"""The processes of one run: the server, the line before it, and the cast; forked, watched, killed, started again.

Whoever forks has no event loop and no thread, so that a child costs milliseconds and begins with everything
imported. All of them are in one process group and die with the run: none is left, however it ends.
"""

from __future__ import annotations

import ctypes
import math
import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tests import servers
from tests.chaos import clock, meddling, roles
from tests.chaos.history import History, read

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.chaos.plan import Actor, Plan

PR_SET_PDEATHSIG = 1
DURABLE = ("--appendfsync", "always")
"""With `everysec` a server holds its writes back while an fsync is under way, for up to two seconds, and answers all
the same (Redis 7.0, Valkey 9.1): kill -9 may then lose what was acknowledged."""


@dataclass
class Place:
    """Where one of the cast stands: its process, how often it was started, when it is to be started again.

    `thaw` is when it is to go on after it was frozen at a crash point (never, where a blow froze it and will say when);
    `told` is whether it was told to stop.
    """

    actor: Actor
    pid: int = 0
    life: int = 0
    again: float = 0.0
    finished: bool = False
    told: bool = False
    thaw: float = 0.0


class Troupe:
    """Everything that runs in a run. One thread, no event loop; `folder` is the run's own."""

    def __init__(self, plan: Plan, folder: Path, binary: Path) -> None:
        self.plan = plan
        self.folder = folder
        self.history = History(folder, "stage")
        self.places = {actor.who: Place(actor) for actor in plan.cast}
        self.server_again = 0.0
        self._binary = binary
        self._line = 0
        os.environ[clock.FILE] = str(folder / "server.clock")
        clock.make(folder / "server.clock")
        self.server = self._serve()
        self.url = self.server.url
        self._line = spawn(lambda: meddling.main(plan, folder, self.server.socket), folder / "line.err")
        while not any(event["what"] == "ready" for event in read(folder / "line.jsonl")):
            time.sleep(0.005)
        for place in self.places.values():
            self._start(place)

    def _serve(self) -> servers.Server:
        server = servers.start(self._binary, self.folder, *DURABLE)
        (self.folder / "server.pid").write_text(str(server.process.pid))
        self.history.note("served", of=server.process.pid)
        return server

    def _start(self, place: Place) -> None:
        plan, actor, life, folder, url = self.plan, place.actor, place.life, self.folder, self.url
        place.pid = spawn(lambda: roles.main(plan, actor, folder, url, life), folder / f"{actor.who}.err")
        place.told = False
        place.life += 1

    def tend(self, *, pause: float = 0.0) -> None:
        """Note who has ended, and start again whose time has come; `pause` is how long the newly dead stay so."""
        now = time.monotonic()
        for who, place in self.places.items():
            if place.pid:
                self._reap(who, place, now + pause)
            elif not place.finished and now >= place.again:
                self._start(place)
        if self.server.process.poll() is not None:
            if not self.server_again:
                self.history.note("exit", victim="server", of=self.server.process.pid, status=-9, expected=True)
                self.server_again = now + pause
            if now >= self.server_again:
                self.server_again = 0.0
                self.server = self._serve()

    def _reap(self, who: str, place: Place, again: float) -> None:
        if place.thaw and time.monotonic() >= place.thaw:
            place.thaw = 0.0
            os.kill(place.pid, signal.SIGCONT)
        pid, status = os.waitpid(place.pid, os.WNOHANG | os.WUNTRACED)
        if pid == 0:
            return
        if os.WIFSTOPPED(status):
            place.thaw = place.thaw or time.monotonic() + 2 * self.plan.lease
            return
        code = os.waitstatus_to_exitcode(status)
        place.finished = code == 0 and place.actor.role == "producer"
        expected = code == -signal.SIGKILL or place.finished or (code == 0 and place.told)
        self.history.note("exit", victim=who, of=pid, status=code, expected=expected)
        place.pid, place.again, place.thaw = 0, again, 0.0

    def send(self, who: str, number: signal.Signals) -> bool:
        """Send a signal to one of the cast or to the server; whether there was a process to send it to."""
        pid = self.server.process.pid if who == "server" else self.places[who].pid
        if not pid or (who == "server" and self.server.process.poll() is not None):
            return False
        if number == signal.SIGTERM and who != "server":
            if self.places[who].actor.role not in ("worker", "boss") or not self._is_ready(who, pid):
                return False
            self.places[who].told = True
        if who != "server" and number in (signal.SIGSTOP, signal.SIGCONT):
            self.places[who].thaw = math.inf if number == signal.SIGSTOP else 0.0
        os.kill(pid, number)
        return True

    def _is_ready(self, who: str, pid: int) -> bool:
        """Whether a process has come so far that it knows what to do when it is told to stop."""
        events = read(self.folder / f"{who}.jsonl")
        return any(event["what"] == "ready" and event["pid"] == pid for event in events)

    def calm(self) -> None:
        """No noise and no traps any more."""
        os.kill(self._line, signal.SIGUSR1)

    def stop(self, limit: float) -> None:
        """Tell all workers to stop, and wait for them, for at most so many seconds."""
        asked = [who for who, place in self.places.items() if place.pid and place.actor.role in ("worker", "boss")]
        for who in asked:
            while not self._is_ready(who, self.places[who].pid):
                time.sleep(0.005)
            self.send(who, signal.SIGTERM)
        deadline = time.monotonic() + limit
        while any(self.places[who].pid for who in asked) and time.monotonic() < deadline:
            for who in asked:
                if self.places[who].pid:
                    self._reap(who, self.places[who], deadline * 2)
            time.sleep(0.005)
        for who in asked:
            if self.places[who].pid:
                self.history.note("late", victim=who, of=self.places[who].pid, limit=limit)

    def end_cast(self) -> None:
        """End all but the server."""
        for pid in [*(place.pid for place in self.places.values()), self._line]:
            if pid:
                with suppress(ProcessLookupError, ChildProcessError):
                    os.kill(pid, signal.SIGKILL)
                    os.waitpid(pid, 0)
        for place in self.places.values():
            place.pid = 0
        self._line = 0

    def end(self) -> None:
        """End everything."""
        self.end_cast()
        with suppress(ProcessLookupError):
            self.server.process.send_signal(signal.SIGCONT)
        self.server.process.kill()
        with suppress(subprocess.TimeoutExpired):
            self.server.process.wait(5)


def spawn(body: Callable[[], object], errors: Path, *, ending: signal.Signals = signal.SIGKILL) -> int:
    """Fork a process that runs `body` and ends; it is sent `ending` when this one dies before it."""
    pid = os.fork()
    if pid:
        return pid
    code = 70
    try:
        die_with_parent(ending)
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        file = os.open(errors, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        os.dup2(file, 2)
        body()
        code = 0
    finally:
        os._exit(code)


def die_with_parent(ending: signal.Signals) -> None:
    """Have the system send this process a signal when its parent dies (Linux)."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, int(ending), 0, 0, 0)
