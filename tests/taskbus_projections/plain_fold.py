"""The read models once more, in plain Python: a list of entries in, the rows of every table out.

Written to be obvious and not to be fast, from the documentation of the columns: each table looks at the whole history
again. It shares nothing with the read models.
"""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING, Any

from tests.taskbus_projections.plain_deliveries import agents, budgets, escalations, gates
from tests.taskbus_projections.plain_history import histories, history, iso, last, taken, total

if TYPE_CHECKING:
    from collections.abc import Sequence

    from taskbus.log import Entry
    from tests.taskbus_projections.plain_history import Told

Row = dict[str, Any]
TOKENS = ("input_tokens", "output_tokens", "cache_read_tokens", "cache_write_tokens", "reasoning_tokens")


def plain_fold(prefix: str, entries: Sequence[Entry]) -> dict[str, list[Row]]:
    """The rows of every table, by its name; what the lifecycle has no rule for did nothing to its task."""
    told = list(history(prefix, entries))
    tasks = histories(told)
    return {
        "events": [event_row(each) for each in told],
        "tasks": [task_row(of, tasks) for of in tasks.values()],
        "standing": standing(tasks),
        "transitions": [row for of in tasks.values() for row in transition_rows(of)],
        **usage(told),
        **budgets(told, tasks),
        **escalations(tasks),
        **gates(told, tasks),
        **agents(told, tasks),
        "parked": parked(told),
    }


def event_row(each: Told) -> Row:
    """A row of `events`, without the summary, which has tests of its own."""
    entry, context = each.entry, each.envelope.context
    return {
        "n": each.n,
        "position": f"{entry.position.ms}-{entry.position.sequence}",
        "id": entry.id,
        "type": entry.type,
        "sender": entry.sender,
        "recipient": entry.recipient,
        "task": entry.task,
        "root": entry.root,
        "time": each.time,
        "sent": iso(context.timestamp),
        "priority": entry.priority,
        "causation": context.causation_id,
        "correlation": context.correlation_id,
        "by_hand": 1 if context.by_hand else 0,
        "content_type": entry.content_type,
        "body": entry.body,
        "source": entry.source,
        "source_type": entry.source_type,
        "link": each.link,
    }


def task_row(of: Sequence[Told], tasks: dict[str, list[Told]]) -> Row:
    """A row of `tasks`."""
    first, end = of[0], of[-1]
    delegation: Any = last(each for each in of if each.event == "delegation")
    moves = [each for each in of if each.moved]
    since, ack = moves[-1], taken(of)
    attempt = of[last(at for at, each in enumerate(of) if each.anew) :]
    status: Any = last(each.envelope.payload for each in attempt if each.event == "status")
    escalated = last(each for each in of if each.event == "escalation")
    completion: Any = last(each.envelope.payload for each in of if each.entry.type == "completion")
    finished = since if since.after in ("accepted", "canceled", "failed", "rejected") else None
    stays: dict[str, int] = {}
    for one, two in pairwise(moves):
        stays[one.after] = stays.get(one.after, 0) + two.ms - one.ms
    return {
        "id": first.entry.task,
        "root": first.entry.root,
        "parent": first.envelope.context.parent_task,
        "depth": depth(first, tasks),
        "state": end.after,
        "delegator": first.entry.sender,
        "assignee": end.assignee,
        "coordinator": escalated.entry.recipient if escalated else first.entry.sender,
        "attempt": end.attempt,
        "review": int(delegation.envelope.payload.review_required),
        "created": first.time,
        "since": since.time,
        "goal": delegation.envelope.payload.goal,
        "task_type": delegation.envelope.payload.task_type,
        "priority": delegation.envelope.priority,
        "deadline": iso(delegation.envelope.context.deadline) if delegation.envelope.context.deadline else None,
        "progress": status.progress if status else None,
        "fraction": status.fraction if status else None,
        "provider": ack.envelope.payload.provider if ack else None,
        "model": ack.envelope.payload.model if ack else None,
        "taken": ack.time if ack else None,
        "result": completion.result.status if completion else None,
        "updated": end.time,
        "finished": finished.time if finished else None,
        "elapsed_ms": finished.ms - first.ms if finished else None,
        "envelopes": len(of),
        "parts": sum(
            other[0].envelope.context.parent_task == first.entry.task and other[0].n > first.n
            for other in tasks.values()
        ),
        "questions": sum(each.event == "question" for each in of),
        "escalations": sum(each.event == "escalation" for each in of),
        "rejections": sum(each.event == "verdict:rejected" for each in of),
        "parkings": sum(each.event == "parking:parked" for each in of),
        "submitted_ms": stays.get("submitted", 0),
        "working_ms": stays.get("working", 0),
        "input_required_ms": stays.get("input-required", 0),
        "completed_ms": stays.get("completed", 0),
        "failed_ms": stays.get("failed", 0),
        "rejected_ms": stays.get("rejected", 0),
        "escalated_ms": stays.get("escalated", 0),
        "escalation": escalated.n if escalated and end.after == "escalated" else None,
        "position": f"{end.entry.position.ms}-{end.entry.position.sequence}",
        "n": end.n,
    }


def depth(first: Told, tasks: dict[str, list[Told]]) -> int | None:
    """How many tasks stand above one, as far as they were there before it."""
    parent = first.envelope.context.parent_task
    if parent is None:
        return 0
    if parent not in tasks or tasks[parent][0].n >= first.n:
        return None
    above = depth(tasks[parent][0], tasks)
    return None if above is None else above + 1


def standing(tasks: dict[str, list[Told]]) -> list[Row]:
    """The rows of `standing`: also of where tasks were, and are no more."""
    keys = {(each.assignee, each.after) for of in tasks.values() for each in of}
    now = [(of[-1].assignee, of[-1].after) for of in tasks.values()]
    return [{"assignee": key[0], "state": key[1], "tasks": now.count(key)} for key in keys]


def transition_rows(of: Sequence[Told]) -> list[Row]:
    """The rows of `transitions` of a task."""
    moves = [each for each in of if each.moved]
    return [
        {
            "n": each.n,
            "task": each.entry.task,
            "from_state": each.before,
            "to_state": each.after,
            "event": each.event,
            "sender": each.entry.sender,
            "assignee": each.assignee,
            "attempt": each.attempt,
            "time": each.time,
            "after_ms": each.ms - earlier.ms if earlier else None,
        }
        for earlier, each in zip([None, *moves], moves, strict=False)
    ]


def usage(told: Sequence[Told]) -> dict[str, list[Row]]:
    """The ledger and its sums."""
    ledger = [
        {
            "n": each.n,
            "call": call,
            "position": f"{each.entry.position.ms}-{each.entry.position.sequence}",
            "task": each.entry.task,
            "root": each.entry.root,
            "agent": each.entry.sender,
            "time": each.time,
            "provider": used.provider,
            "model": used.model,
            **{name: getattr(used, name) for name in (*TOKENS, "cache_write_hour_tokens")},
            "cost_microusd": used.cost.microusd if used.cost else None,
            "cost_source": used.cost.source if used.cost else "unpriced",
            "price_table": used.cost.table if used.cost else None,
        }
        for each in told
        for call, used in enumerate(each.envelope.usage, start=1)
    ]
    days = [row | {"day": row["time"][:10]} for row in ledger]
    return {
        "usage": ledger,
        "spending": summed(days, "day", "provider", "model", "agent"),
        "task_spending": summed(ledger, "task", "root"),
        "tree_spending": summed(ledger, "root"),
    }


def summed(ledger: Sequence[Row], *keys: str) -> list[Row]:
    """The calls, tokens and costs of a ledger, by some of its columns."""
    found: list[Row] = []
    for key in dict.fromkeys(tuple(row[name] for name in keys) for row in ledger):
        rows = [row for row in ledger if tuple(row[name] for name in keys) == key]
        sums = {name: total(row[name] for row in rows) for name in ("cost_microusd", *TOKENS)}
        unpriced = sum(row["cost_microusd"] is None for row in rows)
        found.append(dict(zip(keys, key, strict=True)) | {"calls": len(rows), "unpriced_calls": unpriced} | sums)
    return found


def parked(told: Sequence[Told]) -> list[Row]:
    """What was set aside, and what became of it."""
    rows: dict[tuple[str, str], Row] = {}
    for each in told:
        if each.entry.type != "parking":
            continue
        payload: Any = each.envelope.payload
        for envelope in payload.deliveries:
            key = (payload.agent, envelope)
            fresh = {"reason": "behind", "attempts": None, "message": None, "times": 0, "parked_n": None}
            row = rows.setdefault(key, {**fresh, "parked": None, "task": each.entry.task, "said": set()})
            row["state"] = payload.parking
            ended = payload.parking != "parked"
            row["ended_n"], row["ended"] = (each.n, each.time) if ended else (None, None)
            row["ended_by"] = each.entry.sender if ended else None
            row["resumed"] = int(payload.parking == "replayed" and payload.resumes)
            if not ended:
                row |= {"reason": payload.reason, "attempts": payload.attempts, "message": payload.message}
                row["said"].add(each.n)
                row |= {"times": len(row["said"]), "parked_n": each.n, "parked": each.time}
    return [
        {"agent": agent, "envelope": envelope} | {name: value for name, value in row.items() if name != "said"}
        for (agent, envelope), row in rows.items()
    ]
