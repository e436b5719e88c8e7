"""What people ask of the read models: the board, one task, the audit trail, the costs, who works how well.

Each question is a function of an open database and its arguments: plain dictionaries by column come back. Money is in
microdollars, and what is unpriced is counted beside it, never as zero. Called by the commands, and by programs that
show the same.
"""

from __future__ import annotations

from taskbus_projections.queries.agents import agent, agents, by_model, standing
from taskbus_projections.queries.answer import Page, Row
from taskbus_projections.queries.board import Order, Wanted, board, task, tree
from taskbus_projections.queries.causes import causes
from taskbus_projections.queries.envelopes import envelope, place_of
from taskbus_projections.queries.escalations import escalation_rates, escalations, open_escalations
from taskbus_projections.queries.gates import failed_gates, gates
from taskbus_projections.queries.history import (
    attempts,
    escalations_of,
    gates_of,
    holds_of,
    parked_of,
    states,
    transitions,
)
from taskbus_projections.queries.names import known_task, root_of, short_ids, task_id
from taskbus_projections.queries.outlook import Forecast, budgets, forecast
from taskbus_projections.queries.spending import GROUPINGS, TOKENS, Grouping, Spent, costs, tiers, total
from taskbus_projections.queries.trail import Sought, audit

__all__ = [
    "GROUPINGS",
    "TOKENS",
    "Forecast",
    "Grouping",
    "Order",
    "Page",
    "Row",
    "Sought",
    "Spent",
    "Wanted",
    "agent",
    "agents",
    "attempts",
    "audit",
    "board",
    "budgets",
    "by_model",
    "causes",
    "costs",
    "envelope",
    "escalation_rates",
    "escalations",
    "escalations_of",
    "failed_gates",
    "forecast",
    "gates",
    "gates_of",
    "holds_of",
    "known_task",
    "open_escalations",
    "parked_of",
    "place_of",
    "root_of",
    "short_ids",
    "standing",
    "states",
    "task",
    "task_id",
    "tiers",
    "total",
    "transitions",
    "tree",
]
