"""The home: the folder that holds a bus's database, archive and embedded server, `.bus` where nobody says otherwise.

Owns how it is found upward from a folder, and how it is made, so that no commit picks it up. Writes nothing into
a folder that was there before. Called by the settings, the launcher and the projections.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

NAME: Final = ".bus"

SERVER: Final = "server"
PROJECTIONS: Final = "projections"
ARCHIVE: Final = "archive"


def find(start: Path) -> Path | None:
    """The nearest `.bus` in `start` or above it that is a home of this user; None where there is none.

    The search ends behind the user's home directory, and at the root of the file system. A folder of that name that
    belongs to somebody else, or holds nothing of a bus, is passed over: whoever may write to /tmp must not choose
    the bus of everybody who works below it.
    """
    start, last = start.absolute(), Path("~").expanduser()
    for folder in (start, *start.parents):
        if _is_home(folder / NAME):
            return folder / NAME
        if folder == last:
            break
    return None


def make(home: Path) -> None:
    """Make the folder where there is none, with a `.gitignore` that keeps it out of commits. Raises OSError."""
    if not home.exists():
        home.mkdir(parents=True, exist_ok=True)
        (home / ".gitignore").write_text("*\n", encoding="utf-8")


def _is_home(folder: Path) -> bool:
    try:
        if not folder.is_dir() or folder.stat().st_uid != os.getuid():
            return False
        return any((folder / name).is_dir() for name in (SERVER, PROJECTIONS, ARCHIVE))
    except OSError:
        # Not to be looked into, so not ours; what is wrong with the folder that is used is said when it is used.
        return False
