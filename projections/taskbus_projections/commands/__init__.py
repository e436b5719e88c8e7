"""The commands on the read models: the queries, the projector and the rebuild.

The modules of this package are the only ones here that import click. Everything else is imported when a
command is called, since `bus --help` loads this package for its one-line helps.
"""

from __future__ import annotations

from taskbus_projections.commands.board import task, tasks
from taskbus_projections.commands.budgeting import budget
from taskbus_projections.commands.differing import diff
from taskbus_projections.commands.folding import project, rebuild
from taskbus_projections.commands.people import agents, escalations, gates
from taskbus_projections.commands.reporting import report
from taskbus_projections.commands.schema import schema
from taskbus_projections.commands.spending import costs
from taskbus_projections.commands.sql import sql
from taskbus_projections.commands.supposing import what_if
from taskbus_projections.commands.trail import audit
from taskbus_projections.commands.verifying import verify

__all__ = [
    "agents",
    "audit",
    "budget",
    "costs",
    "diff",
    "escalations",
    "gates",
    "project",
    "rebuild",
    "report",
    "schema",
    "sql",
    "task",
    "tasks",
    "verify",
    "what_if",
]
