"""Waiting for what other processes do."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, TypeVar

import anyio
import anyio.to_thread

from tests.servers import is_alive

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

T = TypeVar("T")


def eventually(holds: Callable[[], T], *, within: float = 30) -> T:
    """Wait until `holds` is true; returns what it came to. Fails after `within` seconds."""
    end = time.monotonic() + within
    while not (found := holds()):
        assert time.monotonic() < end, "it never came to that"
        time.sleep(0.01)
    return found


def line_of(file: Path) -> str:
    """The line that a command writes into `file`, once it stands there."""
    eventually(lambda: file.exists() and file.read_text().endswith("\n"))
    return file.read_text().strip()


def gone(*pids: int) -> None:
    """Wait until none of these processes runs any more."""
    eventually(lambda: not any(is_alive(pid) for pid in pids))


async def written(file: Path) -> str:
    """The same as `line_of`, in an async test."""
    return await anyio.to_thread.run_sync(line_of, file)


async def all_gone(*pids: int) -> None:
    """The same as `gone`, in an async test."""
    await anyio.to_thread.run_sync(gone, *pids)
