"""The budget as people see it, and as programs read it: accounts, what is reserved, and where counters differ."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from taskbus.cli.rendering import age
from taskbus_projections.amounts import dollars
from taskbus_projections.table import Column
from taskbus_projections.views import words

if TYPE_CHECKING:
    from datetime import datetime

    from taskbus.budget import Account
    from taskbus.counters import Difference
    from taskbus.money import OpenHold

_KINDS: Final = ("provider", "agent", "task")


def place(account: Account) -> tuple[int, str, bool, str]:
    """Providers first, then agents, then tasks; of one account the month before its days."""
    kind = account.account.partition(":")[0]
    # An envelope may name an account that no rule counts in: it stands last.
    at = _KINDS.index(kind) if kind in _KINDS else len(_KINDS)
    return at, account.account, account.period == "day", account.span


def account_row(account: Account) -> dict[str, Any]:
    """An account as a row. What is left is below zero where more was spent than the cap, which came later."""
    left = None if account.cap is None else account.cap - account.committed - account.held
    return {
        "account": account.account,
        "period": account.period,
        "span": account.span,
        "committed_microusd": account.committed,
        "held_microusd": account.held,
        "unpriced_calls": account.unpriced,
        "cap_microusd": account.cap,
        "cap_by": "human" if account.recorded else None if account.cap is None else "policy",
        "left_microusd": left,
        "used": None if account.used is None else round(account.used, 6),
        "resets": _time(account.resets),
    }


def account_columns() -> list[Column]:
    """What is spent, reserved and left."""
    return [
        Column("account", words.text("account"), flexible=True),
        Column("in", words.text("span")),
        Column("spent", words.dollars("committed_microusd"), number=True),
        Column("reserved", words.dollars("held_microusd"), number=True),
        Column("cap", _cap, number=True),
        Column("by", words.text("cap_by"), spare=2),
        Column("left", words.dollars("left_microusd"), number=True),
        Column("used", words.share("used"), number=True),
        Column("unpriced calls", words.some("unpriced_calls"), number=True, spare=1),
        Column("resets", words.text("resets"), spare=3),
    ]


def _cap(row: dict[str, Any]) -> str:
    if row["cap_microusd"] is not None:
        return dollars(row["cap_microusd"])
    return "none" if row["cap_by"] else ""


def hold_row(hold: OpenHold, now: float) -> dict[str, Any]:
    """What is reserved for a task, as a row; `now` is the server's time in seconds."""
    return {
        "task": hold.task,
        "root": hold.root,
        "agent": hold.agent,
        "microusd": hold.microusd,
        "provider": hold.provider,
        "model": hold.model,
        "hold": hold.id,
        "since": _time(hold.since),
        "age_seconds": round(max(0.0, now - hold.since.timestamp()), 3),
        "position": str(hold.position),
    }


def hold_columns() -> list[Column]:
    """What is reserved, for whom, and for how long."""
    return [
        Column("task", words.text("task"), flexible=True),
        Column("agent", words.text("agent")),
        Column("reserved", words.dollars("microusd"), number=True),
        Column("model", _model, flexible=True),
        Column("for", _age, number=True),
    ]


def _model(row: dict[str, Any]) -> str:
    return f"{row['provider']}/{row['model']}" if row["model"] else row["provider"]


def _age(row: dict[str, Any]) -> str:
    return age(row["age_seconds"])


def difference_row(found: Difference) -> dict[str, Any]:
    """A difference between the counters and the log, as a row."""
    return {"what": found.what, "name": found.name, "server": found.server, "log": found.log}


def difference_columns() -> list[Column]:
    """What the server says, and what the log."""
    return [
        Column(name, words.text(name), flexible=name in ("server", "log")) for name in ("what", "name", "server", "log")
    ]


def _time(time: datetime | None) -> str | None:
    return None if time is None else f"{time:%Y-%m-%dT%H:%M:%SZ}"
