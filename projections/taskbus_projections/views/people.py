"""Agents, quality gates and escalations as people see them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from taskbus_projections.amounts import plural
from taskbus_projections.table import Column
from taskbus_projections.views import words

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from datetime import datetime

    from taskbus_projections.queries.answer import Row
    from taskbus_projections.queries.escalations import EscalationGrouping
    from taskbus_projections.queries.gates import GateGrouping

_RATES: Final = ("success_rate", "rework_rate", "escalation_rate")
_COSTS: Final = ("calls", "unpriced_calls", "cost_microusd", "microusd_per_accepted")
_COUNTS: Final = (
    *("assigned", "repeats", "taken", "declined", "completed", "partial", "failed", "questions", "escalated", "parked"),
    *("canceled", "accepted", "rejected"),
)
AGENT_FIELDS: Final = (
    *("agent", "first_seen", "last_seen", "envelopes", "by_hand", "received", "delegated", *_COUNTS, *_RATES),
    *("cycle_p50_ms", "cycle_p95_ms", *_COSTS, "open"),
)
MODEL_FIELDS: Final = ("model", *_COUNTS, *_RATES, *_COSTS)
FAILED_FIELDS: Final = ("n", "time", "position", "layer", "agent", "model", "task", "type", "note")
ESCALATION_FIELDS: Final = (
    *("n", "time", "task", "root", "level", "category", "agent", "sender", "recipient", "by_bus", "human", "attempt"),
    *("incident", "raises", "outcome", "answered_n", "answered_by", "answered", "answer_ms"),
    *("message", "attempted_recovery"),
)
RATE_FIELDS: Final = (
    *("tasks", "incidents", "rate", "repeats", "human", "human_share", "human_rate", "answered", "mean_answer_ms"),
)


def gate_fields(by: GateGrouping) -> tuple[str, ...]:
    """The columns of gates in CSV."""
    groups = {"layer": (), "model": ("agent", "model")}.get(by, (by,))
    return (*groups, "layer", "passed", "failed", "skipped", "not_triggered", "failed_share")


def agent_columns(now: datetime) -> list[Column]:
    """Agents, each in a line."""
    return [
        Column("agent", words.text("agent")),
        Column("open", words.some("open"), number=True, spare=2),
        *_work(),
        Column("p50", words.span("cycle_p50_ms"), number=True, spare=4),
        Column("p95", words.span("cycle_p95_ms"), number=True, spare=3),
        *_spent(),
        Column("last seen", words.ago("last_seen", now), spare=1),
    ]


def model_columns() -> list[Column]:
    """What one agent did on each model."""
    return [Column("model", _model, flexible=True), *_work("taken"), *_spent()]


def agent_lines(row: Row, states: Mapping[str, int], when: Callable[[str], str]) -> list[tuple[str, str]]:
    """All about one agent, as names and texts; what is nothing is left out."""
    return [(name, text) for name, text in _about(row, states, when) if text]


def _about(row: Row, states: Mapping[str, int], when: Callable[[str], str]) -> Iterator[tuple[str, str]]:
    yield "agent", row["agent"]
    yield "first seen", when(row["first_seen"]) if row["first_seen"] else ""
    yield "last seen", when(row["last_seen"]) if row["last_seen"] else "never said anything itself"
    yield "envelopes", _listed(row, {"envelopes": "sent", "by_hand": "by hand", "received": "received"})
    yield "has delegated", words.some("delegated")(row)
    again = {"assigned": "given to it", "repeats": "again", "taken": "taken on", "declined": "declined"}
    yield "deliveries", _listed(row, {**again, "canceled": "canceled", "parked": "set aside"})
    yield "results", _listed(row, {"completed": "completed", "partial": "in part", "failed": "failed"})
    yield "judged", _listed(row, {"accepted": "accepted", "rejected": "rejected"})
    yield (
        "asked",
        ", ".join(
            text
            for text in (
                plural(row["questions"], "question") if row["questions"] else "",
                plural(row["escalated"], "escalation") if row["escalated"] else "",
            )
            if text
        ),
    )
    yield "success", _rate(row["success_rate"], "of what was completed, failed or escalated")
    yield "rework", _rate(row["rework_rate"], "of the results that were judged")
    if row["cycle_p50_ms"] is not None:
        half, most = words.duration(row["cycle_p50_ms"]), words.duration(row["cycle_p95_ms"])
        yield "cycle", f"half within {half}, 95% within {most} (or up to 1/16 more)"
    yield "cost", words.money(row) if row["calls"] else ""
    if row["microusd_per_accepted"] is not None:
        yield "each accepted", words.about(row["microusd_per_accepted"])
    yield "tasks", ", ".join(f"{count:,} {state}" for state, count in states.items())


def gate_columns() -> list[Column]:
    """The outcomes of gates, envelope by envelope."""
    return [
        Column("#", words.text("n"), number=True),
        Column("layer", words.text("layer")),
        Column("outcome", words.text("outcome")),
        Column("agent", words.text("agent"), spare=2),
        Column("model", words.text("model"), spare=1),
        Column("note", words.text("note"), flexible=True),
    ]


def rate_columns(by: GateGrouping) -> list[Column]:
    """How often each layer passes and fails."""
    groups = [name for name in gate_fields(by) if name in ("agent", "model", "month", "day")]
    return [
        *(Column(name, words.text(name)) for name in groups),
        Column("layer", words.text("layer")),
        Column("passed", words.some("passed"), number=True),
        Column("failed", words.some("failed"), number=True),
        Column("failed share", words.share("failed_share"), number=True),
        Column("skipped", words.some("skipped"), number=True, spare=2),
        Column("not triggered", words.some("not_triggered"), number=True, spare=3),
    ]


def failed_columns(short: Mapping[str, str], when: Callable[[str], str]) -> list[Column]:
    """The gates that failed."""
    return [
        Column("#", words.text("n"), number=True, spare=3),
        Column("when", words.moment("time", when)),
        Column("layer", words.text("layer")),
        Column("agent", words.text("agent")),
        Column("model", words.text("model"), spare=2),
        Column("task", words.named("task", short), spare=1),
        Column("note", words.text("note"), flexible=True),
    ]


def escalation_columns(short: Mapping[str, str] | None, when: Callable[[str], str]) -> list[Column]:
    """Escalations: what, to whom, and how it was dealt with; without `short` of one task."""
    task = [Column("task", words.named("task", short))] if short is not None else []
    return [
        Column("#", words.text("n"), number=True, spare=5),
        Column("when", words.moment("time", when), spare=1),
        *task,
        Column("level", words.text("level"), number=True),
        Column("category", words.text("category"), spare=3),
        Column("from", words.text("sender"), spare=4),
        Column("to", words.text("recipient")),
        Column("human", _human, spare=6),
        Column("dealt with", _outcome, flexible=True),
        Column("what happened", words.text("message"), flexible=True),
    ]


def escalation_rate_columns(by: EscalationGrouping) -> list[Column]:
    """Incidents by one grouping."""
    return [
        Column(by, words.text(by)),
        Column("tasks", words.count("tasks"), number=True),
        Column("incidents", words.count("incidents"), number=True),
        Column("rate", words.share("rate"), number=True),
        Column("repeated", words.some("repeats"), number=True, spare=3),
        Column("to a human", words.some("human"), number=True),
        Column("of tasks", words.share("human_rate"), number=True, spare=1),
        Column("dealt with", words.some("answered"), number=True, spare=2),
        Column("within, mean", words.span("mean_answer_ms"), number=True),
    ]


def escalations_said(row: Row, open_ones: int) -> str:
    """All incidents in a sentence or two."""
    of = f" in {plural(row['tasks'], 'task')} ({words.percent(row['rate'])})" if row["tasks"] else ""
    human = f" ({words.percent(row['human_rate'])} of the tasks)" if row["human"] and row["tasks"] else ""
    dealt = f", dealt with after {words.duration(row['mean_answer_ms'])} on average" if row["answered"] else ""
    reached = f"{row['human']:,} reached a human{human}" if row["human"] else "none reached a human"
    return f"{plural(row['incidents'], 'incident')}{of}; {reached}{dealt}. Open: {open_ones:,}."


def _model(row: Row) -> str:
    return row["model"] or "not said"


def _human(row: Row) -> str:
    return "yes" if row["human"] else ""


def _outcome(row: Row) -> str:
    if row["outcome"] is None:
        return "open"
    by = f" by {row['answered_by']}" if row["answered_by"] else ""
    after = f" after {words.duration(row['answer_ms'])}" if row["answer_ms"] is not None else ""
    return f"{row['outcome']}{by}{after}"


def _work(given: str = "assigned") -> Sequence[Column]:
    return (
        Column("deliveries", words.count(given), number=True),
        Column("completed", words.some("completed"), number=True, spare=7),
        Column("failed", words.some("failed"), number=True, spare=7),
        Column("escalated", words.some("escalated"), number=True, spare=7),
        Column("success", words.share("success_rate"), number=True),
        Column("rework", words.share("rework_rate"), number=True, spare=5),
    )


def _spent() -> Sequence[Column]:
    return (
        Column("cost", _cost, number=True, spare=6),
        Column("each accepted", _each, number=True),
    )


def _cost(row: Row) -> str:
    return words.money(row) if row["calls"] else ""


def _each(row: Row) -> str:
    return "" if row["microusd_per_accepted"] is None else words.about(row["microusd_per_accepted"])


def _listed(row: Row, names: Mapping[str, str]) -> str:
    return ", ".join(f"{row[name]:,} {word}" for name, word in names.items() if row[name])


def _rate(value: float | None, of: str) -> str:
    return "" if value is None else f"{words.percent(value)} {of}"
