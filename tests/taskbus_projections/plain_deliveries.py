"""The plain fold of what became of deliveries: holds, escalations, quality gates and agents."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tests.taskbus_projections.plain_history import taken, total

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from tests.taskbus_projections.plain_history import Told

Row = dict[str, Any]
LAYERS = ("input", "hallucination", "boundary", "output", "escalation")


def budgets(told: Sequence[Told], tasks: dict[str, list[Told]]) -> dict[str, list[Row]]:
    """The holds, their sums by month and provider, the accounts, and what is recorded of caps."""
    holds = [row for of in tasks.values() for row in holds_of(of)]
    months: list[Row] = []
    for month, provider in {(hold["opened"][:7], hold["provider"]) for hold in holds}:
        these = [each for each in holds if (each["opened"][:7], each["provider"]) == (month, provider)]
        still = [each for each in these if each["state"] == "open"]
        months.append(
            {
                "month": month,
                "provider": provider,
                "holds": len(these),
                "open_holds": len(still),
                "reserved_microusd": sum(each["microusd"] for each in these),
                "held_microusd": sum(each["microusd"] for each in still),
                "calls": sum(each["calls"] for each in these),
                "unpriced_calls": sum(each["unpriced_calls"] for each in these),
                "cost_microusd": total(each["cost_microusd"] for each in these),
            }
        )
    return {"holds": holds, "budgets": months, "accounts": accounts(told, holds), **recorded(told)}


def holds_of(of: Sequence[Told]) -> list[Row]:
    """The holds of one task, one at a time: what is told with the next one was used under the one before."""
    rows: list[Row] = []
    for at, each in enumerate(of):
        if reserved(each):
            is_last_word = any((row["ended_n"], row["agent"]) == (each.n, each.entry.sender) for row in rows)
            rows.append(hold_row(each, of[at:], of[at + is_last_word :]))
    return rows


def reserved(each: Told) -> bool:
    """Whether it reserves money."""
    payload: Any = each.envelope.payload
    return each.event in ("acknowledgment:accepted", "budget:reserved") and payload.hold is not None


def ended(each: Told, hold: Any, agent: str) -> bool:
    """Whether it ends a hold of its task: whatever ends the work or begins it anew, and what says so of that hold."""
    payload: Any = each.envelope.payload
    if each.event == "parking:parked":
        return payload.agent == agent
    if each.event in ("budget:settled", "budget:released"):
        of_it = payload.hold is not None and payload.hold.id == hold.id
        return of_it and (each.event == "budget:released" or each.entry.sender == agent)
    kind = each.event.partition(":")[0]
    return each.event == "budget:reserved" or kind in (
        *("delegation", "acknowledgment", "question", "completion", "escalation", "cancellation"),
    )


def accounts(told: Sequence[Told], holds: Sequence[Row]) -> list[Row]:
    """What is spent and held of each provider and agent in each month and day, and of each tree."""
    spent = [
        (used.provider, each.entry.sender, each.entry.root, when(each, holds), used.cost)
        for each in told
        for used in each.envelope.usage
    ]
    rows: dict[tuple[str, str], Row] = {}

    def account(provider: str, agent: str, root: str, time: str) -> list[Row]:
        found = []
        for name, period, span in (
            (f"provider:{provider}", "month", time[:7]),
            (f"provider:{provider}", "day", time[:10]),
            (f"agent:{agent}", "month", time[:7]),
            (f"agent:{agent}", "day", time[:10]),
            (f"task:{root}", "task", "ever"),
        ):
            fresh = {"committed_microusd": 0, "held_microusd": 0, "unpriced_calls": 0}
            found.append(rows.setdefault((name, span), {"account": name, "span": span, "period": period, **fresh}))
        return found

    for *of, cost in spent:
        for row in account(*of):
            row["committed_microusd"] += cost.microusd if cost else 0
            row["unpriced_calls"] += cost is None
    for hold in holds:
        for row in account(hold["provider"], hold["agent"], hold["root"], hold["opened"]):
            row["held_microusd"] += hold["microusd"] if hold["state"] == "open" else 0
    return list(rows.values())


def when(each: Told, holds: Sequence[Row]) -> str:
    """When what it says was used is counted: with the open hold that its sender has for the task, else when told."""
    for hold in holds:
        if (hold["task"], hold["agent"]) == (each.entry.task, each.entry.sender) and (
            hold["n"] < each.n and (hold["ended_n"] is None or each.n <= hold["ended_n"])
        ):
            return hold["opened"]
    return each.time


def recorded(told: Sequence[Told]) -> dict[str, list[Row]]:
    """Caps that were decided on, and warnings."""
    found: dict[str, list[Row]] = {"cap_decisions": [], "budget_warnings": []}
    for each in told:
        payload: Any = each.envelope.payload
        if each.event == "budget:cap":
            row = {"n": each.n, "account": payload.account, "period": payload.period, "microusd": payload.microusd}
            said = {"decided_by": each.entry.sender, "decided": each.time, "reason": payload.reason}
            found["cap_decisions"].append(row | said)
        elif each.event == "budget:warned":
            row = {"n": each.n, "account": payload.account, "span": payload.span, "period": payload.period}
            seen = {"committed_microusd": payload.committed, "held_microusd": payload.held}
            said = {"cap_microusd": payload.microusd, "task": each.entry.task, "warned": each.time}
            found["budget_warnings"].append(row | seen | said)
    return found


def hold_row(ack: Told, onward: Sequence[Told], counted: Sequence[Told]) -> Row:
    """A row of `holds`: the history of its task from the acknowledgment or the record on, and what counts as used."""
    payload: Any = ack.envelope.payload
    agent = ack.entry.sender
    end = next((each for each in onward[1:] if ended(each, payload.hold, agent)), None)
    under = [each for each in counted if end is None or each.n <= end.n]
    calls = [used for each in under if each.entry.sender == agent for used in each.envelope.usage]
    if end is None:
        state = "open"
    elif end.event in ("budget:reserved", "acknowledgment:accepted"):
        state = "replaced"
    else:
        state = "settled" if end.entry.sender == agent else "released"
    return {
        "n": ack.n,
        "hold": payload.hold.id,
        "microusd": payload.hold.microusd,
        "provider": payload.provider or "unknown",
        "model": payload.model,
        "price_table": payload.table if ack.event == "budget:reserved" else None,
        "agent": agent,
        "task": ack.entry.task,
        "root": ack.entry.root,
        "attempt": ack.attempt,
        "state": state,
        "opened": ack.time,
        "ended_n": end.n if end else None,
        "ended": end.time if end else None,
        "ended_by": end.event if end else None,
        "calls": len(calls),
        "unpriced_calls": sum(used.cost is None for used in calls),
        "cost_microusd": total(used.cost.microusd if used.cost else None for used in calls),
    }


def escalations(tasks: dict[str, list[Told]]) -> dict[str, list[Row]]:
    """The escalations, and the incidents of each day."""
    rows: list[Row] = []
    for of in tasks.values():
        incident: list[Row] = []
        for each in of:
            if each.event == "escalation":
                incident.append(escalation_row(each, incident))
                rows.append(incident[-1])
            elif each.moved:
                for row in incident:
                    row["outcome"] = "replay" if each.event == "parking:resumed" else each.event
                    row["answered_n"], row["answered_by"] = each.n, each.entry.sender
                    row["answered"], row["answer_ms"] = each.time, each.ms - row.pop("ms")
                incident = []
    for row in rows:
        row.pop("ms", None)
    days: list[Row] = []
    firsts = {row["n"]: row for row in rows if row["n"] == row["incident"]}
    keys = {(row["time"][:10], row["agent"], row["category"]) for row in firsts.values()}
    for key in keys:
        these = [n for n, row in firsts.items() if (row["time"][:10], row["agent"], row["category"]) == key]
        answered = [firsts[n] for n in these if firsts[n]["outcome"]]
        days.append(
            {
                **dict(zip(("day", "agent", "category"), key, strict=True)),
                "incidents": len(these),
                "repeats": sum(row["incident"] in these and row["n"] not in these for row in rows),
                "human": sum(any(row["human"] for row in rows if row["incident"] == n) for n in these),
                "answered": len(answered),
                "answer_ms": sum(row["answer_ms"] for row in answered),
            }
        )
    return {"escalations": rows, "escalation_days": days}


def escalation_row(each: Told, incident: Sequence[Row]) -> Row:
    """A row of `escalations` that nobody has answered."""
    error: Any = each.envelope.payload.error_details
    return {
        "n": each.n,
        "incident": incident[0]["n"] if incident else each.n,
        "raises": incident[-1]["n"] if incident else None,
        "task": each.entry.task,
        "root": each.entry.root,
        "agent": each.agent,
        "sender": each.entry.sender,
        "recipient": each.entry.recipient,
        "by_bus": int(each.entry.sender == "@bus"),
        "level": error.level,
        "category": error.category,
        "message": error.message,
        "attempted_recovery": error.attempted_recovery,
        "human": int(each.entry.recipient == "@human" or error.level == 4),
        "attempt": each.attempt,
        "from_state": each.before,
        "time": each.time,
        "outcome": None,
        "answered_n": None,
        "answered_by": None,
        "answered": None,
        "answer_ms": None,
        "ms": each.ms,
    }


def model_before(each: Told, tasks: dict[str, list[Told]]) -> str | None:
    """On which model the work went on before an envelope."""
    ack = taken([other for other in tasks.get(each.entry.task, []) if other.n < each.n] or [each])
    return ack.envelope.payload.model if ack and ack is not each else None


def gates(told: Sequence[Told], tasks: dict[str, list[Told]]) -> dict[str, list[Row]]:
    """The outcomes of quality gates, and their counts by day."""
    rows: list[Row] = []
    for each in told:
        for layer in LAYERS:
            gate = getattr(each.envelope.quality_gates, layer, None)
            if gate is not None:
                model = model_before(each, tasks) if each.legal else None
                model = each.envelope.usage[0].model if each.envelope.usage else model
                row = {"n": each.n, "layer": layer, "outcome": gate.outcome, "note": gate.note}
                rows.append(row | {"agent": each.entry.sender, "model": model, "day": each.time[:10]})
    return {
        "gates": [{name: value for name, value in row.items() if name != "day"} for row in rows],
        "gate_days": outcomes(rows, "day", "agent", "model", "layer"),
        "gate_totals": outcomes(rows, "agent", "model", "layer"),
    }


def outcomes(rows: Sequence[Row], *keys: str) -> list[Row]:
    """How many gates ended how, by some of their columns."""
    found: list[Row] = []
    for key in dict.fromkeys(tuple(row[name] or "" for name in keys) for row in rows):
        these = [row["outcome"] for row in rows if tuple(row[name] or "" for name in keys) == key]
        counts = {
            name.replace("-", "_"): these.count(name) for name in ("passed", "failed", "skipped", "not-triggered")
        }
        found.append(dict(zip(keys, key, strict=True)) | counts)
    return found


def agents(told: Sequence[Told], tasks: dict[str, list[Told]]) -> dict[str, list[Row]]:
    """Who was seen, and what became of deliveries."""
    people = [
        {
            "agent": name,
            "first_seen": min(seen, default=None),
            "last_seen": max(seen, default=None),
            "envelopes": sum(each.entry.sender == name for each in told),
            "by_hand": sum(each.entry.sender == name and each.envelope.context.by_hand for each in told),
            "received": sum(each.entry.recipient == name for each in told),
            "delegated": sum(each.entry.sender == name and each.event == "delegation" for each in told),
        }
        for name in {name for each in told for name in (each.entry.sender, each.entry.recipient)}
        for seen in [
            [
                each.time
                for each in told
                if each.entry.sender == name and (name == "@human" or not each.envelope.context.by_hand)
            ]
        ]
    ]
    counted = [count for of in tasks.values() for each in of for count in counts(each, tasks)]
    names = ("assigned", "repeats", "taken", "declined", "completed", "partial", "failed", "questions", "escalated")
    names += ("parked", "canceled", "accepted", "rejected", "wait_ms")
    days: list[Row] = []
    for key in dict.fromkeys((day, agent, model) for day, agent, model, _, _ in counted):
        these = [(what, number) for *of, what, number in counted if tuple(of) == key]
        times = [number for what, number in these if what == "cycle"]
        days.append(
            {
                **dict(zip(("day", "agent", "model"), key, strict=True)),
                **{name: sum(number for what, number in these if what == name) for name in names},
                "cycles": len(times),
                "cycle_ms": sum(times),
                "cycle_min_ms": min(times, default=None),
                "cycle_max_ms": max(times, default=None),
            }
        )
    cycles = [(agent, day[:7], least(number)) for day, agent, _, what, number in counted if what == "cycle"]
    histogram = [
        {"agent": key[0], "month": key[1], "bucket_ms": key[2], "deliveries": cycles.count(key)} for key in set(cycles)
    ]
    return {"agents": people, "agent_days": days, "cycles": histogram}


def counts(each: Told, tasks: dict[str, list[Told]]) -> Iterable[tuple[str, str, str, str, int]]:
    """What one envelope adds to `agent_days`: day, agent, model, what, how many."""
    day, payload = each.time[:10], each.envelope.payload
    model = model_before(each, tasks) or ""
    if each.moved and each.after == "submitted":
        yield day, each.assignee, "", "assigned", 1
        yield day, each.assignee, "", "repeats", int(each.attempt > 1)
    if each.event == "parking:parked":
        whose: Any = payload
        of = model if whose.agent == each.agent else ""
        yield day, whose.agent, of, "parked", len(set(whose.deliveries))
    if each.event == "acknowledgment:accepted" or (each.entry.type == "completion" and each.before == "submitted"):
        on: Any = payload.model if each.entry.type == "acknowledgment" else None
        before = [other for other in tasks[each.entry.task] if other.n < each.n and other.moved]
        yield day, each.agent, on or "", "taken", 1
        yield day, each.agent, on or "", "wait_ms", each.ms - before[-1].ms
    simple = {
        "acknowledgment:declined": "declined",
        "question": "questions",
        "completion:done": "completed",
        "completion:failure": "failed",
        "verdict:accepted": "accepted",
        "verdict:rejected": "rejected",
        "cancellation": "canceled",
    }
    if each.event in simple:
        yield day, each.agent, model, simple[each.event], 1
    if each.event == "escalation" and each.before != "escalated":
        yield day, each.agent, model, "escalated", 1
    if each.entry.type == "completion":
        completion: Any = payload
        yield day, each.agent, model, "partial", int(completion.result.status == "partial")
        yield day, each.agent, model, "accepted", int(each.after == "accepted")
        ack = taken([other for other in tasks[each.entry.task] if other.n < each.n])
        if ack:
            yield day, each.agent, model, "cycle", each.ms - ack.ms


def least(ms: int) -> int:
    """The least time that has the same first five binary digits, and the same length."""
    return int(f"{ms:b}"[:5].ljust(len(f"{ms:b}"), "0"), 2)
