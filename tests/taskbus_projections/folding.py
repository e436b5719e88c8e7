"""A projector as a process of its own: the tests end it with SIGKILL, within a transaction or between two.

Arguments: URL, namespace, database, number of the envelope at which it kills itself (0 for never).
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from taskbus.client import Bus
from taskbus.connection import Connection
from taskbus_projections.database import Database
from taskbus_projections.model import ReadModel
from taskbus_projections.projector import Projector
from taskbus_projections.registry import BUILTIN

if TYPE_CHECKING:
    from taskbus_projections.model import Fact


class Deadly(ReadModel):
    """A read model that ends its process at one envelope, when half of the rows of the batch are written."""

    name = "deadly"
    version = 1
    tables: ClassVar[str] = "CREATE TABLE deadly (n INTEGER PRIMARY KEY) STRICT"
    at: ClassVar[int] = 0

    def fold(self, fact: Fact) -> None:
        """Write a row at once, and perhaps no more."""
        self.database.execute("INSERT INTO deadly VALUES (?)", (fact.n,))
        if fact.n == self.at:
            os.kill(os.getpid(), signal.SIGKILL)


MODELS = (*BUILTIN, Deadly)


async def main(url: str, namespace: str, path: str, at: str) -> None:
    """Catch up, and say so."""
    Deadly.at = int(at)
    async with Connection.open(url) as connection:
        with Database.open(Path(path), namespace, MODELS) as database:
            checkpoint = await Projector(Bus(connection, namespace), database, page=20).catch_up()
            print(checkpoint.folded)


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
