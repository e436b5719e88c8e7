"""taskbus: an event-sourced message bus for AI coding agents.

Read the modules in this order: envelope → lifecycle → append (and scripts/append.lua) → log → delivery → worker →
client; then one adapter in `taskbus_agents` and one projection in `taskbus_projections`.

Names are imported when they are first used, so that `import taskbus` costs nothing.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from taskbus.append import Appended
    from taskbus.client import Bus
    from taskbus.codec import Document, decode, encode, read
    from taskbus.delivery import Delivery, Inbox
    from taskbus.envelope import (
        Acknowledgment,
        Answer,
        AnyEnvelope,
        Artifact,
        Budget,
        Cancellation,
        Completion,
        Context,
        Cost,
        CriterionResult,
        Delegation,
        Envelope,
        ErrorDetails,
        Escalation,
        Gate,
        Hold,
        Parking,
        Payload,
        QualityGates,
        Question,
        Result,
        Status,
        Usage,
        Verdict,
        compose,
    )
    from taskbus.errors import Failure, Permanent, QuotaLimited, RefusedByBudget, Retryable, TaskbusError
    from taskbus.lifecycle import Task
    from taskbus.log import Entry, Incident, Log
    from taskbus.position import START, Position
    from taskbus.settings import Settings
    from taskbus.supervision import Supervision
    from taskbus.terms import Terms
    from taskbus.work import Handler, Outcome, Work
    from taskbus.worker import Worker

_HOMES = {
    "append": ("Appended",),
    "client": ("Bus",),
    "codec": ("Document", "decode", "encode", "read"),
    "delivery": ("Delivery", "Inbox"),
    "envelope": (
        "Acknowledgment",
        "Answer",
        "AnyEnvelope",
        "Artifact",
        "Budget",
        "Cancellation",
        "Completion",
        "Context",
        "Cost",
        "CriterionResult",
        "Delegation",
        "Envelope",
        "ErrorDetails",
        "Escalation",
        "Gate",
        "Hold",
        "Parking",
        "Payload",
        "QualityGates",
        "Question",
        "Result",
        "Status",
        "Usage",
        "Verdict",
        "compose",
    ),
    "errors": ("Failure", "Permanent", "QuotaLimited", "RefusedByBudget", "Retryable", "TaskbusError"),
    "lifecycle": ("Task",),
    "log": ("Entry", "Incident", "Log"),
    "position": ("START", "Position"),
    "settings": ("Settings",),
    "supervision": ("Supervision",),
    "terms": ("Terms",),
    "work": ("Handler", "Outcome", "Work"),
    "worker": ("Worker",),
}
_HOME = {name: module for module, names in _HOMES.items() for name in names}

__all__ = [
    "START",
    "Acknowledgment",
    "Answer",
    "AnyEnvelope",
    "Appended",
    "Artifact",
    "Budget",
    "Bus",
    "Cancellation",
    "Completion",
    "Context",
    "Cost",
    "CriterionResult",
    "Delegation",
    "Delivery",
    "Document",
    "Entry",
    "Envelope",
    "ErrorDetails",
    "Escalation",
    "Failure",
    "Gate",
    "Handler",
    "Hold",
    "Inbox",
    "Incident",
    "Log",
    "Outcome",
    "Parking",
    "Payload",
    "Permanent",
    "Position",
    "QualityGates",
    "Question",
    "QuotaLimited",
    "RefusedByBudget",
    "Result",
    "Retryable",
    "Settings",
    "Status",
    "Supervision",
    "Task",
    "TaskbusError",
    "Terms",
    "Usage",
    "Verdict",
    "Work",
    "Worker",
    "compose",
    "decode",
    "encode",
    "read",
]


def __getattr__(name: str) -> object:
    home = _HOME.get(name)
    if home is None:
        raise AttributeError(f"module 'taskbus' has no attribute {name!r}")
    return getattr(import_module(f"taskbus.{home}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
