"""Wall clocks that can be set, one per process: builds and uses the shim of `clock.c`.

Without a C compiler there is no shim; then the plan's steps of clocks are left out, and the table says so.
"""

from __future__ import annotations

import ctypes
import os
import shutil
import struct
import subprocess
import sys
import tempfile
from pathlib import Path

SOURCE = Path(__file__).with_name("clock.c")
PRELOAD = "LD_PRELOAD"
FILE = "CHAOS_CLOCK"


def preload() -> None:
    """Start this very command again with the shim; returns where it was, or where there is no compiler."""
    compiler = shutil.which("cc") or shutil.which("gcc")
    if available() or compiler is None or sys.platform != "linux":
        return
    folder = Path(tempfile.mkdtemp(prefix="tbc", dir="/tmp"))
    made = folder / "clock.so"
    command = [compiler, "-O2", "-shared", "-fPIC", "-o", str(made), str(SOURCE)]
    if subprocess.run(command, capture_output=True, check=False).returncode == 0:
        os.execve(sys.executable, sys.orig_argv, {**os.environ, PRELOAD: str(made)})
    shutil.rmtree(folder)


def forget() -> None:
    """Remove the shim, when nobody is to be started with it any more."""
    if (found := library()) is not None:
        shutil.rmtree(found.parent, ignore_errors=True)


def library() -> Path | None:
    """The shim that this process was started with."""
    found = Path(os.environ.get(PRELOAD, ""))
    return found if found.name == "clock.so" else None


def available() -> bool:
    """Whether this process and its children have clocks that can be set."""
    return library() is not None


def take(path: Path) -> None:
    """From now on this process goes by the clock of that file, which is made where there is none."""
    if available():
        make(path)
        shim = ctypes.CDLL(os.environ[PRELOAD])
        if shim.chaos_clock(str(path).encode()) != 0:
            raise OSError(f"{path} cannot be mapped")


def make(path: Path) -> None:
    """A clock that is right, where there is none yet."""
    if not path.exists():
        step(path, 0)


def step(path: Path, seconds: float) -> None:
    """Set the clock of a file so far from the right time."""
    with path.open("r+b" if path.exists() else "wb") as file:
        file.write(struct.pack("q", int(seconds * 1_000_000)))
