"""The claim: the right to work in a folder that several deliveries would work in, of any agents and workers.

One works there at a time, since nobody could tell whose changes are whose; those who only look may look together. A
claim ends with the process that has it, however that ends. Called by the shared run of agents.
"""

from __future__ import annotations

import fcntl
import os
from typing import TYPE_CHECKING, Final

import anyio

from taskbus.errors import Permanent

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

_PAUSE: Final = 0.25


class Claim:
    """A claim on a folder; None for one that nobody else works in. `shared`: one of those who only look."""

    def __init__(self, folder: Path | None, *, shared: bool) -> None:
        self.folder = folder
        self._how = fcntl.LOCK_SH if shared else fcntl.LOCK_EX
        self._open: int | None = None

    def take(self) -> bool:
        """Take it; whether it could be had. Raises Permanent where the folder cannot be opened."""
        if self.folder is None or self._open is not None:
            return True
        try:
            # The folder itself: a file in it would be one more that has changed.
            place = os.open(self.folder, os.O_RDONLY | os.O_CLOEXEC)
        except OSError as error:
            message = f"{self.folder} cannot be opened: {error.strerror}. Name another one with `folder`."
            raise Permanent(message) from error
        try:
            fcntl.flock(place, self._how | fcntl.LOCK_NB)
        except OSError:
            os.close(place)
            return False
        self._open = place
        return True

    async def taken(self, until: Callable[[], bool], on_wait: Callable[[], None]) -> bool:
        """Wait for it, until `until` holds; whether it could be had. `on_wait` is told that it waits."""
        waits = False
        while not self.take():
            if not waits:
                on_wait()
                waits = True
            if until():
                return False
            await anyio.sleep(_PAUSE)
        return True

    def leave(self) -> None:
        """Give it back."""
        if self._open is not None:
            os.close(self._open)
            self._open = None
