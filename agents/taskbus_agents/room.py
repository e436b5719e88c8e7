"""The room: whether there is any left on a disk, and what becomes of a delivery whose files cannot be written.

Full disks are emptied again, so that it is tried again; what somebody must allow first is not. Called by whatever makes
folders and files for a run, and by the shared run of agents, before and after it.
"""

from __future__ import annotations

import errno
import os
import shutil
from typing import TYPE_CHECKING, Final

from taskbus.errors import Permanent, Retryable

if TYPE_CHECKING:
    from pathlib import Path

    from taskbus.errors import Failure

LEAST: Final = 64 << 10
"""Bytes. With less of them left a disk is full: what was written last may be cut off."""
_REFUSALS: Final = frozenset(
    {errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EISDIR, errno.ELOOP, errno.ENAMETOOLONG}
)


def failure(what: str, error: OSError) -> Failure:
    """What a delivery is given up with, for now or for good, where the system refuses a file or folder of it."""
    kind = Permanent if error.errno in _REFUSALS else Retryable
    return kind(f"{what}: {error}.")


def check(folder: Path) -> None:
    """Raise Retryable where there is no room left for what is written in a folder; nothing is said of one that is
    gone.
    """
    try:
        disk = shutil.disk_usage(folder)
    except OSError:  # whoever uses it says so
        return
    if disk.total and disk.free < LEAST:  # some that are no disks say 0 of both
        raise Retryable(f"There is no room left on the disk of {folder}: what is written there may be cut off.")


def check_writable(folder: Path) -> None:
    """Raise Permanent for a folder that nothing can be written in, and Retryable as `check` does."""
    if folder.is_dir() and not os.access(folder, os.W_OK | os.X_OK):
        raise Permanent(f"{folder} cannot be written in by the user of the worker. Allow it, or name another folder.")
    check(folder)
