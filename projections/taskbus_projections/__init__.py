"""Read models folded from the log into SQLite.

What a package with read models of its own needs is here; reading order: model → tasks → database → projector
→ queries. Imported on first use, since `bus --help` loads this package for the names of its commands.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from taskbus_projections.database import Checkpoint, Database, place
    from taskbus_projections.model import Fact, ReadModel
    from taskbus_projections.projector import Progress, Projector
    from taskbus_projections.rebuilding import rebuild, up_to_date
    from taskbus_projections.registry import BUILTIN, installed
    from taskbus_projections.rows import Rows

__all__ = [
    "BUILTIN",
    "Checkpoint",
    "Database",
    "Fact",
    "Progress",
    "Projector",
    "ReadModel",
    "Rows",
    "installed",
    "place",
    "rebuild",
    "up_to_date",
]

_MODULES = {
    "BUILTIN": "registry",
    "Checkpoint": "database",
    "Database": "database",
    "Fact": "model",
    "Progress": "projector",
    "Projector": "projector",
    "ReadModel": "model",
    "Rows": "rows",
    "installed": "registry",
    "place": "database",
    "rebuild": "rebuilding",
    "up_to_date": "rebuilding",
}


def __getattr__(name: str) -> object:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)
