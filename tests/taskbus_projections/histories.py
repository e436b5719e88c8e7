"""Histories: any sequence of envelopes as a log may hold it, legal or not, made without a server for hypothesis.

A history is drawn as plain numbers, so that a failing one shrinks to a few: each `Move` says which task it is about,
which of the possible events it is, who says it and how much later. What it means is made of them here.
"""

from __future__ import annotations

import random
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, NamedTuple

from hypothesis import strategies as st

from taskbus import chain
from taskbus.codec import XML, document, encode
from taskbus.envelope import (
    Acknowledgment,
    Answer,
    Budget,
    Cancellation,
    Completion,
    Context,
    Cost,
    Delegation,
    Envelope,
    ErrorDetails,
    Escalation,
    Gate,
    Hold,
    Parking,
    QualityGates,
    Question,
    Result,
    Status,
    Usage,
    Verdict,
)
from taskbus.log import Entry
from taskbus.position import Position
from taskbus_projections.batch import Batch
from taskbus_projections.database import Checkpoint, Database
from taskbus_projections.model import Fact
from taskbus_projections.pages import Page
from taskbus_projections.registry import BUILTIN
from tests.taskbus_projections.plain_history import CAP, NEXT, RECORDS

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from taskbus.envelope import Payload

PREFIX = "histories:"
NAMES = ("@boss", "@kilo", "@cline", "@human", "@bus", "@lead")
EVENTS = (*sorted({event for _, event in NEXT}), *RECORDS, CAP)
TEXTS = ("Reset the cache; reset it twice", "Zkontroluj to, prosím", "no disk", "100% of prices_list", "a\nb\tc")
LATER = (0, 0, 1, 40, 999, 61_000, 3_600_000, 9 * 86_400_000, 40 * 86_400_000)
_TASKS = 12
_START = 1_763_625_600_000


class Move(NamedTuple):
    """One envelope, in numbers."""

    task: int
    event: int
    sender: int
    recipient: int
    later: int
    detail: int
    usage: int
    gates: int
    by_hand: bool


moves = st.builds(
    Move,
    st.integers(0, 3),
    st.integers(0, 59),
    st.integers(0, len(NAMES) - 1),
    st.integers(0, len(NAMES) - 1),
    st.integers(0, len(LATER) - 1),
    st.integers(0, 255),
    st.integers(0, 40),
    st.integers(0, 9),
    st.booleans(),
)
"""Any of them."""


def seeded(seed: int) -> list[Move]:
    """A long history, the same for the same seed."""
    rng = random.Random(seed)
    tops = (_TASKS - 1, 59, len(NAMES) - 1, len(NAMES) - 1, len(LATER) - 1, 255, 40, 9)
    return [
        Move(*(rng.randint(0, top) for top in tops), by_hand=rng.random() < 0.3) for _ in range(rng.randint(20, 160))
    ]


stories = (
    st.lists(moves, min_size=1, max_size=40) | st.integers(0, 10**9).map(seeded) | st.integers(0, 10**9).map(seeded)
)
"""Short ones, which shrink to what matters, and long ones, in which much has happened."""


def written(moves: Sequence[Move], *, legal: bool) -> list[Entry]:
    """The log that they make; where it is `legal`, each is one of those that its task allows."""
    entries: list[Entry] = []
    states: dict[int, str] = {}
    reviewed: dict[int, bool] = {}
    ms, sequence = _START, 0
    for number, drawn in enumerate(moves):
        move = drawn
        event = EVENTS[move.event % len(EVENTS)]
        if legal:
            while move.event < 50 and states.get(move.task) in ("accepted", "canceled"):
                move = move._replace(task=move.task + _TASKS)  # much more happens to tasks that have not ended
            event = _allowed(states.get(move.task), move)
        state = states.get(move.task)
        ms += LATER[move.later]
        sequence = 0 if LATER[move.later] else sequence + 1
        entry = _entry(number, move, event, Position(0, ms, sequence))
        entries.append(entry)
        if (state, event) in NEXT:
            said: Any = entry.envelope.payload
            if event == "delegation":
                reviewed[move.task] = said.review_required
            after = NEXT[state, event]
            states[move.task] = "accepted" if after == "completed" and not reviewed[move.task] else after
    return entries


def _allowed(state: str | None, move: Move) -> str:
    """One of the events that a state allows; records, cancellations and caps are rare."""
    allowed = [each for before, each in NEXT if before == state and (each != "cancellation" or move.event > 45)]
    if move.event > 57:
        return CAP
    if state is not None and (not allowed or move.event > 50):
        allowed = list(RECORDS)
    return allowed[move.event % len(allowed)]


def _entry(number: int, move: Move, event: str, position: Position) -> Entry:
    task, payload = "budget" if event == CAP else f"task-{move.task}", _payload(event, move)
    # Some name a parent that comes later, or themselves, or one that never comes.
    parents = (None, "task-0", "never", *(f"task-{each}" for each in (move.task + 1, move.task, move.task // 2)))
    parent = None if move.task == 0 or event == CAP else parents[move.detail % len(parents)]
    envelope: Any = Envelope(
        id=_id(number),
        sender=NAMES[move.sender],
        recipient=NAMES[move.recipient],
        type=payload.TYPE,
        priority=("normal", "critical", "low", "high")[move.detail % 4],
        context=Context(
            task_id=task,
            parent_task=parent,
            timestamp=datetime(2026, 11, 20, tzinfo=UTC) + timedelta(microseconds=number * 1_000_001),
            correlation_id="task-0" if move.detail & 2 else None,
            causation_id=_id(number - 1) if number and move.detail & 4 else None,
            deadline=datetime(2027, 1, 1, tzinfo=UTC) if move.detail & 8 else None,
            by_hand=move.by_hand,
        ),
        payload=payload,
        quality_gates=_gates(move),
        usage=_usage(move),
    )
    in_xml = move.detail % 11 == 0
    body = encode(envelope, XML) if in_xml else document(envelope).body
    kind = XML if in_xml else document(envelope).content_type
    source = (b"\xff what a model said", "text/plain") if move.detail % 13 == 0 else (None, None)
    heads = (envelope.id, envelope.type, envelope.sender, envelope.recipient)
    root = "budget" if event == CAP else f"task-{move.task % 3}"
    return Entry(position, *heads, task, root, envelope.priority, kind, body, *source)


def _id(number: int) -> str:
    return f"{number:08x}-0000-7000-8000-{number:012x}"


def _payload(event: str, move: Move) -> Payload:
    detail, text = move.detail, TEXTS[move.detail % len(TEXTS)]
    error = ErrorDetails(
        level=1 + detail % 4,
        category=("execution", "validation")[detail >> 2 & 1],
        message=text,
        attempted_recovery=text if detail & 16 else None,
    )
    model = ("qwen3", "opus", None)[detail % 3]
    kind, _, how = event.partition(":")
    status: Any = "failure" if how == "failure" else ("success", "partial")[detail & 1]
    made: dict[str, Any] = {
        "delegation": lambda: Delegation(
            goal=text, task_type="review" if detail & 1 else None, review_required=bool(detail & 2)
        ),
        "acknowledgment": lambda: Acknowledgment(
            accepted=how == "accepted",
            provider="openrouter" if detail & 4 else None,
            model=model,
            hold=Hold(id=f"hold-{detail % 5}", microusd=detail * 1000) if detail & 1 else None,
        ),
        "status": lambda: Status(progress=text, fraction=detail / 255 if detail & 1 else None),
        "question": lambda: Question(question=text),
        "answer": lambda: Answer(answer=text),
        "completion": lambda: Completion(
            result=Result(status=status, description=text), error_details=error if how == "failure" else None
        ),
        "verdict": lambda: Verdict(decision="accepted" if how == "accepted" else "rejected", comment=text),
        "escalation": lambda: Escalation(error_details=error),
        "cancellation": lambda: Cancellation(reason=text),
        "parking": lambda: Parking(
            parking="replayed" if how == "resumed" else how,  # pyright: ignore[reportArgumentType]
            agent=NAMES[1 + detail % 2],
            deliveries=tuple(_id(each % 7) for each in range(detail % 5)) + (_id(1),) * (detail & 1),
            resumes=how == "resumed",
            reason="lost" if detail & 2 else None,
            attempts=detail if detail & 4 else None,
            message=text if detail & 8 else None,
        ),
        "budget": lambda: Budget(
            budget=how,  # pyright: ignore[reportArgumentType]
            account=("provider:openrouter", "agent:@kilo", "task:task-0")[detail % 3],
            period=("month", "day", "task")[detail % 3],
            span=("2025-11", "2025-11-20", "ever")[detail % 3],
            microusd=None if how == "cap" and detail & 16 else detail * 1000,
            hold=Hold(id=f"hold-{detail % 5}", microusd=detail * 1000) if how != "cap" and detail & 3 else None,
            provider="openrouter" if detail & 4 else None,
            model=model,
            table="2026-11" if detail & 8 else None,
            committed=detail if detail & 32 else None,
            reason=text.partition("\n")[0] if detail & 64 else None,
        ),
    }
    return made[kind]()


def _usage(move: Move) -> tuple[Usage, ...]:
    """None for most; else one call or two, priced, reported, free or unpriced, some beyond what adds up to 64 bits."""
    if move.usage < 20:
        return ()
    costs = (
        None,
        Cost(source="priced", microusd=move.usage, table="2026-11"),
        Cost(source="reported", microusd=0),
        Cost(source="reported", microusd=2**53 - 1),
    )
    calls = [
        Usage(
            provider=("openrouter", "local")[each & 1],
            model=("qwen3", "opus")[each >> 1 & 1],
            input_tokens=each * 10 if each & 1 else None,
            output_tokens=2**53 - 1 if each % 7 == 0 else each,
            cache_read_tokens=each if each & 4 else None,
            cache_write_hour_tokens=each if each & 8 else None,
            cost=costs[each % 4],
        )
        for each in (move.usage, move.usage + 3)
    ]
    return tuple(calls[: 1 + move.usage % 2])


def _gates(move: Move) -> QualityGates | None:
    if move.gates < 6:
        return None
    outcomes: Any = ("passed", "failed", "skipped", "not-triggered")
    first = Gate(outcome=outcomes[move.gates % 4], note="seen" if move.detail & 1 else None)
    second = Gate(outcome=outcomes[move.detail % 4])
    return QualityGates(input=first, output=second if move.gates & 1 else None, escalation=second)


def pages(entries: Sequence[Entry], cuts: Sequence[int] = ()) -> list[Page]:
    """The facts of a log, numbered and linked, cut into pages behind some of them."""
    found: list[Page] = []
    facts: list[Fact] = []
    head = chain.beginning(PREFIX)
    before = Checkpoint()
    for n, entry in enumerate(entries, start=1):
        head = chain.link(head, entry)
        facts.append(Fact.of(n, entry, head))
        if n in cuts or n == len(entries):
            after = Checkpoint(entry.position, entry.id, n, head)
            found.append(Page(before, after, facts, []))
            before, facts = after, []
    return found


def fold(database: Database, entries: Sequence[Entry], cuts: Sequence[int] = (), *, set_aside: bool = False) -> None:
    """Fold a log into a database, as the engine does."""
    batch = Batch(database, 0, set_aside=set_aside)
    for page in pages(entries, cuts):
        batch.fold(page)


def open_database(path: Path, *, new: bool = False) -> Any:
    """A database for these histories."""
    return Database.open(path, PREFIX, BUILTIN, new=new)
