"""Stopping: how a command that goes on until it is stopped ends, quietly and with 0.

The event loop hears SIGINT and SIGTERM while it waits. While it is stuck in a write, since whoever reads our output
has stalled, nothing but an exception out of that write ends it. Called by the commands that follow the log.
"""

from __future__ import annotations

import asyncio
import signal
from contextlib import contextmanager
from typing import TYPE_CHECKING

import anyio

from taskbus.cli.options import discard_output

if TYPE_CHECKING:
    from collections.abc import Generator

_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class _Stopped(BaseException):
    """A signal came while output was being written, or before; no kind of Exception, so that nobody takes it."""


class Stop:
    """Whether the command was told to stop, in the block of `quiet_stop`."""

    def __init__(self) -> None:
        self._told = False
        self._writing = False

    @contextmanager
    def writing(self) -> Generator[None]:
        """Leave this block, and that of `quiet_stop`, at once when told to stop, even out of a write that is stuck."""
        self._writing = True
        try:
            if self._told:
                raise _Stopped
            yield
        finally:
            self._writing = False

    def hear(self, _number: int, _frame: object) -> None:
        """What a signal does that comes while the event loop is not waiting."""
        self._told = True
        if self._writing:
            raise _Stopped


@contextmanager
def quiet_stop() -> Generator[Stop]:
    """Leave the block at SIGINT and SIGTERM, as if it had come to its end; what nobody reads any more is dropped."""
    loop = asyncio.get_running_loop()
    stop = Stop()
    with anyio.CancelScope() as scope:
        for number in _SIGNALS:
            loop.add_signal_handler(number, scope.cancel)
            # The loop has its own way to hear of signals, and lets a write begin again after them; this one does not.
            signal.signal(number, stop.hear)
        try:
            yield stop
        except _Stopped:
            discard_output()
        finally:
            for number in _SIGNALS:
                loop.remove_signal_handler(number)
