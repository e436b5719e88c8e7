"""The child: one command that runs, as the worker sees it: its pipes, and the line to the keeper that has started it.

Owns the bound on what is kept of its output, and when it was last heard. Called by the runner. Its pipes are read
here and not by asyncio's subprocesses, whose `wait` also waits for everybody who inherited a pipe (Python 3.11.7: a
command that left a `sleep 2` behind "ended" two seconds late).
"""

from __future__ import annotations

import errno
import json
import os
import signal
import socket
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Final, cast

import anyio

from taskbus.errors import Retryable
from taskbus_agents.line import KILL, TERMINATE

if TYPE_CHECKING:
    from collections.abc import Callable

    from taskbus_agents.guard import Launched
    from taskbus_agents.line import Job, Report

STDERR_KEPT: Final = 16_384
"""How many of the last bytes of stderr are kept."""

_SHORTAGES = frozenset({errno.EAGAIN, errno.ENOMEM, errno.EMFILE, errno.ENFILE})
_CHUNK = 65_536
# How long the pipes may stay open after the command has exited: something that it left behind holds them.
_DRAIN = 0.5


class Child:
    """A command on its way from `start` over `talk` to `end`, which is called in any case, and then `close`.

    `code` is its exit code, or the negative number of the signal that killed it; `left` are the processes of it
    that could not be ended. `heard` is when it last wrote something, on the monotonic clock.
    """

    def __init__(self, launched: Launched, limit: int, on_stderr: Callable[[bytes], None] | None = None) -> None:
        self.stdout = bytearray()
        self.stderr = bytearray()
        self.overflow = False
        self.heard = time.monotonic()
        self.keeper = 0
        self.code: int | None = None
        self.left: tuple[int, ...] = ()
        self._launched = launched
        self._limit = limit
        self._on_stderr = on_stderr
        self._is_given = False
        self._group = 0
        self._read = b""
        self._quiet = anyio.Event()
        self._open = {launched.stdin, launched.stdout, launched.stderr}

    async def start(self, job: Job) -> None:
        """Give the keeper its job; returns once the command runs.

        Raises OSError when it cannot be started, and Retryable when it might be at another time.
        """
        rest = memoryview(json.dumps(job).encode() + b"\n")
        line = self._launched.line
        with suppress(ConnectionError):  # the keeper is gone: there will be no report either
            while rest:
                await anyio.wait_writable(line)
                with suppress(BlockingIOError):
                    rest = rest[line.send(rest[:_CHUNK]) :]
            self._is_given = True
        report = await self._report()
        if report is None:
            raise Retryable("The command was not started: its guard has ended.")
        if "errno" in report:
            if report["errno"] in _SHORTAGES:
                raise Retryable(f"The command was not started: {report.get('strerror')}.")
            raise OSError(report["errno"], report.get("strerror"), report.get("filename"))
        self._note(report)

    async def talk(self, stdin: bytes) -> None:
        """Feed stdin, read stdout and stderr, until the command has exited or its output grows over the limit."""
        async with anyio.create_task_group() as group:
            group.start_soon(self._feed, stdin)
            group.start_soon(self._listen, group.cancel_scope)
            while self.code is None and (report := await self._report()):
                self._note(report)
            with anyio.move_on_after(_DRAIN):
                await self._quiet.wait()
            group.cancel_scope.cancel()

    async def end(self) -> None:
        """End whatever is left of it: TERM, the grace of its job, KILL; returns when it is gone."""
        self._order(TERMINATE)
        while report := await self._report():
            self._note(report)
        if self._group and self.code is None:
            # Somebody has killed the keeper: what can be reached without it is its group.
            self.code = -signal.SIGKILL
            with suppress(ProcessLookupError, PermissionError):
                os.killpg(self._group, signal.SIGKILL)
        self._drain()

    def _drain(self) -> None:
        """Take what was printed and not read any more, as whoever cancels it is told of that too."""
        for pipe, kept in ((self._launched.stdout, self.stdout), (self._launched.stderr, self.stderr)):
            with suppress(OSError):  # nothing is left, and somebody still holds the other end
                while len(kept) <= self._limit and (chunk := os.read(pipe, _CHUNK)):
                    kept.extend(chunk)
        del self.stderr[:-STDERR_KEPT]

    def kill(self) -> None:
        """End it without grace; `end` then returns."""
        self._order(KILL)

    def close(self) -> None:
        """Close the line and the pipes."""
        self._launched.line.close()
        for pipe in list(self._open):
            self._close(pipe)

    def _order(self, order: bytes) -> None:
        with suppress(OSError):  # the keeper is gone, as is then what it kept
            if self._is_given:
                self._launched.line.send(order)
            else:
                self._launched.line.shutdown(socket.SHUT_WR)  # half a job is none

    async def _report(self) -> Report | None:
        line = self._launched.line
        while b"\n" not in self._read:
            await anyio.wait_readable(line)
            try:
                piece = line.recv(_CHUNK)
            except BlockingIOError:
                continue
            except ConnectionError:
                piece = b""
            if not piece:
                return None
            self._read += piece
        text, _, self._read = self._read.partition(b"\n")
        return cast("Report", json.loads(text))

    def _note(self, report: Report) -> None:
        self._group = report.get("pid", self._group)
        self.keeper = report.get("keeper", self.keeper)
        self.code = report.get("code", self.code)
        self.left = tuple(report.get("left", self.left))

    async def _feed(self, data: bytes) -> None:
        pipe = self._launched.stdin
        rest = memoryview(data)
        while rest:
            await anyio.wait_writable(pipe)
            try:
                rest = rest[os.write(pipe, rest[:_CHUNK]) :]
            except BlockingIOError:
                continue
            except BrokenPipeError:
                break  # an agent need not read what it is given
        self._close(pipe)

    async def _listen(self, scope: anyio.CancelScope) -> None:
        async with anyio.create_task_group() as group:
            group.start_soon(self._read_stdout, scope)
            group.start_soon(self._read_stderr)
        self._quiet.set()

    async def _read_stdout(self, scope: anyio.CancelScope) -> None:
        while chunk := await self._chunk(self._launched.stdout):
            self.stdout += chunk
            if len(self.stdout) > self._limit:
                self.overflow = True
                scope.cancel()

    async def _read_stderr(self) -> None:
        while chunk := await self._chunk(self._launched.stderr):
            self.stderr += chunk
            del self.stderr[:-STDERR_KEPT]
            if self._on_stderr is not None:
                self._on_stderr(chunk)

    async def _chunk(self, pipe: int) -> bytes:
        while True:
            await anyio.wait_readable(pipe)
            try:
                chunk = os.read(pipe, _CHUNK)
            except BlockingIOError:
                continue
            self.heard = time.monotonic()
            return chunk

    def _close(self, pipe: int) -> None:
        if pipe in self._open:
            self._open.discard(pipe)
            os.close(pipe)
