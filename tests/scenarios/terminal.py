"""A terminal of a given width, and what a command writes to it."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import select
import struct
import subprocess
import sys
import termios
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

    from tests.conftest import BusCommand


def on_terminal(
    bus: BusCommand, *arguments: str, columns: int = 100, both: bool = False, env: Mapping[str, str] | None = None
) -> str:
    """What a command that must succeed writes to a terminal of so many columns; with `both`, stderr as well."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 40, columns, 0, 0))
    environment = {name: value for name, value in bus.environment.items() if name != "NO_COLOR"}
    process = subprocess.Popen(
        [sys.executable, "-m", "taskbus", *arguments],
        stdin=subprocess.DEVNULL,
        stdout=theirs,
        stderr=theirs if both else subprocess.DEVNULL,
        env={**environment, "TERM": "xterm", **(env or {})},
        cwd=bus.folder,
    )
    os.close(theirs)
    written = b""
    while True:
        ready, _, _ = select.select([ours], [], [], 60)
        assert ready, "the command neither wrote nor ended"
        try:
            part = os.read(ours, 65536)
        except OSError:  # Linux reports the end of a terminal so
            part = b""
        if not part:
            break
        written += part
    os.close(ours)
    assert process.wait(60) == 0
    return written.decode().replace("\r\n", "\n")


def uncoloured(text: str) -> str:
    """The text without its colours."""
    return re.sub(r"\x1b\[[0-9;]*m", "", text)
