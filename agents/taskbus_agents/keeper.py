"""The keeper: the parent of one command, from its start until nothing that it started is left.

Runs in a process of its own, which the guard forks for each command. On Linux whoever loses its parent becomes a
child of the keeper, also in a session of its own, so that nothing escapes; elsewhere it is sought in the command's
process group and among its descendants. It ends all of it when it is told to, and when the worker is gone.
"""

from __future__ import annotations

import ctypes
import errno
import json
import math
import os
import select
import signal
import socket
import subprocess
import sys
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Final, cast

import psutil

from taskbus_agents.line import KILL, TERMINATE

if TYPE_CHECKING:
    from collections.abc import Sequence
    from types import FrameType

    from taskbus_agents.line import Job, Report

LOST_AFTER: Final = 5.0
"""Seconds after KILL in which what still runs is given up: it may not be killed, or waits for a broken device."""

_POLL = 0.02
_CHUNK = 65_536
_PR_SET_CHILD_SUBREAPER = 36


def keep(line: socket.socket, pipes: Sequence[int]) -> None:
    """Read a job from the line, run it on these stdin, stdout and stderr, and see to its end."""
    read = b""
    while b"\n" not in read:
        piece = line.recv(_CHUNK)
        if not piece:
            return  # the worker died, or does not want it any more, before it had said all
        read += piece
    text, _, orders = read.partition(b"\n")
    job = cast("Job", json.loads(text))
    if not orders and _is_cut(line):
        return
    _Keeper(line, job["grace"]).run(job, pipes, orders)


def unmoved(_number: int, _frame: FrameType | None) -> None:
    """Handle a signal by doing nothing. What is ignored instead would be ignored by the command as well."""


class _Keeper:
    def __init__(self, line: socket.socket, grace: float) -> None:
        self._line = line
        self._grace = grace
        self._adopts = _adopt_orphans()
        self._self = psutil.Process()
        self._group = 0
        self._is_over = False
        # The descendants that have been told to end: where none are adopted, they cannot be found a second time.
        self._told: list[psutil.Process] = []
        self._kill_at = math.inf

    def run(self, job: Job, pipes: Sequence[int], orders: bytes) -> None:
        awake, wake = os.pipe()
        for end in (awake, wake):
            os.set_blocking(end, False)
        signal.set_wakeup_fd(wake, warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, unmoved)
        stdin, stdout, stderr = pipes
        try:
            process = subprocess.Popen(
                job["command"],
                stdin=stdin,
                stdout=stdout,
                stderr=stderr,
                cwd=job["cwd"],
                env=job["env"],
                start_new_session=True,
            )
        except OSError as error:
            filename = os.fsdecode(error.filename) if isinstance(error.filename, str | bytes) else None
            self._report({"errno": error.errno or 0, "strerror": error.strerror or str(error), "filename": filename})
            return
        except ValueError as error:  # a NUL in a word, for example
            self._report({"errno": errno.EINVAL, "strerror": str(error), "filename": None})
            return
        finally:
            for pipe in pipes:
                os.close(pipe)
        self._group = process.pid
        self._report({"pid": process.pid, "keeper": os.getpid()})
        if orders:
            self._obey(orders)
        self._see_through(awake)
        process.returncode = 0  # reaped here, and not by Popen

    def _see_through(self, awake: int) -> None:
        """Until nothing is left, or what is left cannot be ended."""
        listening = True
        while self._reap():
            sources = [awake, *([self._line] if listening else [])]
            ready, _, _ = select.select(sources, [], [], self._pause())
            if awake in ready:
                with suppress(BlockingIOError):
                    os.read(awake, _CHUNK)
            if self._line in ready:
                orders = self._orders()
                listening = bool(orders)
                self._obey(orders or TERMINATE)
            if time.monotonic() >= self._kill_at + LOST_AFTER:
                self._report({"left": [each.pid for each in self._descendants()]})
                return
            if time.monotonic() >= self._kill_at:
                self._signal(signal.SIGKILL)

    def _pause(self) -> float | None:
        if self._kill_at == math.inf:
            # Where orphans are not adopted nothing tells of their end.
            return None if self._adopts or not self._is_over else _POLL
        ahead = self._kill_at - time.monotonic()
        return _POLL if ahead <= 0 or not self._adopts else ahead

    def _orders(self) -> bytes:
        try:
            return self._line.recv(_CHUNK)
        except ConnectionError:
            return b""

    def _obey(self, orders: bytes) -> None:
        if KILL in orders:
            self._kill_at = min(self._kill_at, time.monotonic())
        elif self._kill_at == math.inf:
            self._kill_at = time.monotonic() + self._grace
            # Once only: whoever cleans up after it may start something for that.
            self._signal(signal.SIGTERM)

    def _reap(self) -> bool:
        """Reap whoever has ended, and tell of the command itself; whether anything is left."""
        try:
            while True:
                pid, status = os.waitpid(-1, os.WNOHANG)
                if pid == 0:
                    return True
                if pid == self._group:
                    self._is_over = True
                    self._report({"code": os.waitstatus_to_exitcode(status)})
        except ChildProcessError:
            return not self._adopts and (_signaled(self._group, 0) or any(map(_runs, self._told)))

    def _signal(self, number: signal.Signals) -> None:
        found = self._descendants()
        # The group at once: of those that are named one by one, one may be starting another at this moment. Never
        # a group of which nobody is left, whose number may be another's by now.
        in_group = not self._is_over or not self._adopts or any(_group_of(each) == self._group for each in found)
        if in_group:
            _signaled(self._group, number)
        for each in found:
            if number == signal.SIGKILL or _group_of(each) != self._group:
                with suppress(psutil.Error):
                    each.send_signal(number)
        self._told = found

    def _descendants(self) -> list[psutil.Process]:
        found = self._self.children(recursive=True)
        return found if self._adopts else list({*found, *filter(_runs, self._told)})

    def _report(self, report: Report) -> None:
        # The worker may be gone, which is when it matters most that this one goes on.
        with suppress(ConnectionError):
            self._line.sendall(json.dumps(report).encode() + b"\n")


def _is_cut(line: socket.socket) -> bool:
    """Whether the other end is gone, so that nobody waits for what would be begun."""
    ready, _, _ = select.select([line], [], [], 0)
    return bool(ready) and not line.recv(1, socket.MSG_PEEK)


def _adopt_orphans() -> bool:
    """Become the parent of every descendant that loses its own; whether this system can do that.

    prctl(2), PR_SET_CHILD_SUBREAPER, since Linux 3.4. Children do not inherit it.
    """
    if sys.platform != "linux":
        return False
    zero = ctypes.c_ulong(0)
    done: int = ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, ctypes.c_ulong(1), zero, zero, zero)
    return done == 0


def _signaled(group: int, number: int) -> bool:
    """Send a signal to a process group; False when there is nobody left in it."""
    try:
        os.killpg(group, number)
    except (ProcessLookupError, PermissionError):
        # Permission is what macOS answers for a group of which only a dead, unreaped process is left.
        return False
    return True


def _group_of(process: psutil.Process) -> int:
    try:
        return os.getpgid(process.pid)
    except ProcessLookupError:
        return 0


def _runs(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.Error:
        return False
