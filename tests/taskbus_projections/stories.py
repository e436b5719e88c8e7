"""Random stories: envelopes of several tasks in an order that the lifecycle allows, the same for the same seed."""

from __future__ import annotations

import random
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from taskbus.codec import XML, Document, document, encode
from taskbus.envelope import (
    Acknowledgment,
    Answer,
    Budget,
    Cancellation,
    Completion,
    Cost,
    Delegation,
    ErrorDetails,
    Escalation,
    Hold,
    Question,
    Result,
    Status,
    Usage,
    Verdict,
    compose,
)
from taskbus.lifecycle import BUS, ENDED, HUMAN, TABLE, TO_ASSIGNEE, advance, message_of

if TYPE_CHECKING:
    from collections.abc import Iterator

    from taskbus.envelope import AnyEnvelope, Payload
    from taskbus.lifecycle import Task

_ELSEWHERE = frozenset(
    {
        *("parking:parked", "parking:replayed", "parking:resumed", "parking:dropped"),
        *("budget:released", "budget:warned"),
    }
)
"""What stands in the log only where a delivery was moved, or where a hold is open: those have tests of their own."""
AGENTS = ("@kilo", "@cline", "@gemini", "@opencode")


def payload(event: str, rng: random.Random) -> Payload:
    """Some payload of an event."""
    error = ErrorDetails(level=rng.randint(1, 4), category="execution", message="stuck\nat it")
    status = "failure" if event == "completion:failure" else rng.choice(["success", "partial"])
    payloads: dict[str, Any] = {
        "delegation": lambda: Delegation(
            goal=rng.choice(["Implement it", "Review it", "Zkontroluj to, prosím 🐘"]),
            task_type=rng.choice([None, "review"]),
            review_required=rng.random() < 0.6,
        ),
        "acknowledgment:accepted": lambda: Acknowledgment(accepted=True, model=rng.choice([None, "qwen3"])),
        "acknowledgment:declined": lambda: Acknowledgment(accepted=False, decline_reason="busy"),
        "status": lambda: Status(progress="under way", fraction=rng.choice([None, 0.25, 0.5])),
        "question": lambda: Question(question="Which one?"),
        "answer": lambda: Answer(answer="That one."),
        "completion:done": lambda: Completion(result=Result(status=status, description="done")),
        "completion:failure": lambda: Completion(result=Result(status=status), error_details=error),
        "verdict:accepted": lambda: Verdict(decision="accepted"),
        "verdict:rejected": lambda: Verdict(decision="rejected", comment="not yet"),
        "escalation": lambda: Escalation(error_details=error),
        "cancellation": lambda: Cancellation(reason="not needed"),
        "budget:reserved": lambda: Budget(budget="reserved", hold=_hold(rng), provider="openrouter", model="qwen3"),
        "budget:settled": lambda: Budget(budget="settled", hold=_hold(rng)),
    }
    made: Payload = payloads[event]()
    return made


def _hold(rng: random.Random) -> Hold:
    return Hold(id=f"hold-{rng.randrange(4)}", microusd=rng.randrange(1_000_000))


def usage(rng: random.Random) -> tuple[Usage, ...]:
    """Some calls: reported, priced and unpriced ones."""
    costs = (
        None,
        Cost(source="reported", microusd=rng.randrange(5_000_000)),
        Cost(source="priced", microusd=rng.randrange(1000), table="2026-11"),
    )
    return tuple(
        Usage(provider=rng.choice(["openrouter", "local"]), model="m", input_tokens=rng.choice([None, 10]), cost=cost)
        for cost in rng.sample(costs, rng.randrange(3))
    )


def story(seed: int, length: int) -> Iterator[AnyEnvelope | Document]:
    """So many envelopes; every seventh is written in XML, and some tasks are parts of others."""
    rng = random.Random(seed)
    tasks: dict[str, Task] = {}
    last: dict[str, AnyEnvelope] = {}
    for number in range(length):
        open_tasks = [name for name, task in tasks.items() if task.state not in ENDED]
        if len(open_tasks) < 8:
            name, before = f"task-{seed}-{len(tasks)}", None
            event, sender = "delegation", rng.choice((*AGENTS, HUMAN))
            parent = rng.choice([None, *tasks])
        else:
            name, parent = rng.choice(open_tasks), None
            before = tasks[name]
            events = [event for state, event in TABLE if state == before.state and event not in _ELSEWHERE]
            rare = ("cancellation", "budget:reserved", "budget:settled")
            event = rng.choice([event for event in events if event not in rare or rng.random() < 0.1])
            sender = _role(rng.choice(TABLE[(before.state, event)].roles), before)
        recipient = rng.choice(AGENTS)
        if before and event in TO_ASSIGNEE:
            recipient = before.assignee
        elif before and event == "question":
            recipient = rng.choice([before.delegator, HUMAN])
        envelope = compose(
            payload(event, rng),
            sender=sender,
            recipient=recipient,
            task=name,
            parent=parent,
            priority=rng.choice(["critical", "high", "normal", "normal", "low"]),
            cause=last.get(name),
            deadline=datetime(2027, 1, 1, tzinfo=UTC) + timedelta(seconds=number) if rng.random() < 0.3 else None,
            usage=usage(rng),
        )
        tasks[name] = advance(before, message_of(envelope))
        last[name] = envelope
        yield document(envelope) if number % 7 else Document(envelope, encode(envelope, XML), XML)


def _role(role: str, task: Task) -> str:
    names = {
        "delegator": task.delegator,
        "assignee": task.assignee,
        "coordinator": task.coordinator,
        "human": HUMAN,
        "bus": BUS,
        "anyone": task.assignee,
    }
    return names[role]
