"""The commands on the read models: the queries, the projector and the rebuild.

The modules of this package are the only ones here that import click. Everything else is imported when a
command is called, since `bus --help` loads this package for its one-line helps.
"""

from __future__ import annotations

from taskbus_projections.commands.folding import project, rebuild
from taskbus_projections.commands.questions import audit, costs, task, tasks

__all__ = ["audit", "costs", "project", "rebuild", "task", "tasks"]
