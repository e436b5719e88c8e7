"""Views: which columns an answer has, and how each value is written for people.

Called by the commands, which know about terminals; everything here is plain text.
"""

from __future__ import annotations

from taskbus_projections.views.board import (
    STATE_COLOURS,
    TASK_FIELDS,
    attempt_columns,
    board_columns,
    hold_columns,
    parked_columns,
    tree_columns,
)
from taskbus_projections.views.people import (
    AGENT_FIELDS,
    ESCALATION_FIELDS,
    FAILED_FIELDS,
    MODEL_FIELDS,
    RATE_FIELDS,
    agent_columns,
    agent_lines,
    escalation_columns,
    escalation_rate_columns,
    escalations_said,
    failed_columns,
    gate_columns,
    gate_fields,
    model_columns,
    rate_columns,
)
from taskbus_projections.views.spending import COST_FIELDS, budget_columns, cost_columns, group_fields, outlook
from taskbus_projections.views.statement import json_rows, plain_rows, sql_columns
from taskbus_projections.views.trail import CAUSE_FIELDS, EVENT_FIELDS, cause_columns, event_columns
from taskbus_projections.views.words import about, duration, local, money, percent, readable, shown_ids

__all__ = [
    "AGENT_FIELDS",
    "CAUSE_FIELDS",
    "COST_FIELDS",
    "ESCALATION_FIELDS",
    "EVENT_FIELDS",
    "FAILED_FIELDS",
    "MODEL_FIELDS",
    "RATE_FIELDS",
    "STATE_COLOURS",
    "TASK_FIELDS",
    "about",
    "agent_columns",
    "agent_lines",
    "attempt_columns",
    "board_columns",
    "budget_columns",
    "cause_columns",
    "cost_columns",
    "duration",
    "escalation_columns",
    "escalation_rate_columns",
    "escalations_said",
    "event_columns",
    "failed_columns",
    "gate_columns",
    "gate_fields",
    "group_fields",
    "hold_columns",
    "json_rows",
    "local",
    "model_columns",
    "money",
    "outlook",
    "parked_columns",
    "percent",
    "plain_rows",
    "rate_columns",
    "readable",
    "shown_ids",
    "sql_columns",
    "tree_columns",
]
