"""Fixtures of the projections: a bus on the shared server, and databases folded from it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from taskbus.client import Bus
from taskbus_projections.database import Database, place
from taskbus_projections.projector import Projector
from taskbus_projections.registry import BUILTIN

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from taskbus.connection import Connection


@pytest.fixture
def bus(connection: Connection, namespace: str) -> Bus:
    """The bus of the test's own namespace."""
    return Bus(connection, namespace)


@pytest.fixture
def path(tmp_path: Path, namespace: str) -> Path:
    """Where its database belongs."""
    return place(tmp_path, namespace)


@pytest.fixture
def database(path: Path, namespace: str) -> Iterator[Database]:
    """Its database, open for folding."""
    with Database.open(path, namespace, BUILTIN) as database:
        yield database


@pytest.fixture
def projector(bus: Bus, database: Database) -> Projector:
    """A projector that folds the one into the other."""
    return Projector(bus, database)
