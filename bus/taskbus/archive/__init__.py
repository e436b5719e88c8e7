"""The archive: sealed parts of the log, as compressed files that any tool can read, with a chain running through all.

Reading order: manifest → lines → writing → reading → catalog → stores → sealing → archive. Sealing copies, and never
changes the log; `taskbus.trimming` trims what was sealed; `taskbus.history` reads archive and log as one.
"""

from __future__ import annotations

from taskbus.archive.archive import Archive
from taskbus.archive.lines import Sealed
from taskbus.archive.manifest import Frame, Manifest, Name

__all__ = ["Archive", "Frame", "Manifest", "Name", "Sealed"]
