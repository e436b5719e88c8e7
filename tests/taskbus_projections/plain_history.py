"""What happened, in plain Python: each envelope of a list of entries, with what it did to its task.

For the plain fold. It shares nothing with the read models, not even the lifecycle, which stands here as a table of its
own.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from hashlib import sha256
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from taskbus.envelope import AnyEnvelope
    from taskbus.log import Entry

NEXT = {
    (None, "delegation"): "submitted",
    ("submitted", "acknowledgment:accepted"): "working",
    ("submitted", "acknowledgment:declined"): "rejected",
    ("submitted", "completion:done"): "completed",
    ("submitted", "completion:failure"): "failed",
    ("submitted", "escalation"): "escalated",
    ("submitted", "cancellation"): "canceled",
    ("working", "status"): "working",
    ("working", "question"): "input-required",
    ("working", "budget:reserved"): "working",
    ("working", "completion:done"): "completed",
    ("working", "completion:failure"): "failed",
    ("working", "escalation"): "escalated",
    ("working", "cancellation"): "canceled",
    ("input-required", "answer"): "working",
    ("input-required", "escalation"): "escalated",
    ("input-required", "cancellation"): "canceled",
    ("completed", "verdict:accepted"): "accepted",
    ("completed", "verdict:rejected"): "submitted",
    ("failed", "delegation"): "submitted",
    ("failed", "escalation"): "escalated",
    ("rejected", "delegation"): "submitted",
    ("rejected", "escalation"): "escalated",
    ("escalated", "delegation"): "submitted",
    ("escalated", "answer"): "working",
    ("escalated", "budget:reserved"): "escalated",
    ("escalated", "escalation"): "escalated",
    ("escalated", "cancellation"): "canceled",
    ("escalated", "parking:resumed"): "submitted",
}
RECORDS = (
    *("parking:parked", "parking:replayed", "parking:dropped"),
    *("budget:settled", "budget:released", "budget:warned"),
)
CAP = "budget:cap"
"""What is about money alone, under the name of no task."""
ANEW = ("delegation", "verdict:rejected")


@dataclass
class Told:
    """One envelope of the history; with `legal`, what it did to its task; `strange` where it may not be there."""

    n: int
    entry: Entry
    envelope: AnyEnvelope
    ms: int
    time: str
    link: bytes
    event: str
    legal: bool = False
    before: str | None = None
    after: str = ""
    attempt: int = 0
    agent: str = ""
    assignee: str = ""

    @property
    def strange(self) -> bool:
        """Whether the lifecycle has no rule for it."""
        return not self.legal and self.event != CAP

    @property
    def moved(self) -> bool:
        """Whether the task has another state than before, or another attempt."""
        return self.legal and (self.before != self.after or self.anew)

    @property
    def anew(self) -> bool:
        """Whether it begins an attempt."""
        return self.legal and self.event in ANEW


def history(prefix: str, entries: Iterable[Entry]) -> Iterable[Told]:
    """Every envelope, with what the lifecycle makes of it."""
    link = sha256(b"taskbus chain 1\0" + prefix.encode()).digest()
    states: dict[str, Told] = {}
    reviewed: dict[str, bool] = {}
    for n, entry in enumerate(entries, start=1):
        link = sha256(link + said(entry)).digest()
        envelope, ms = entry.envelope, entry.position.ms
        each = Told(n, entry, envelope, ms, iso(datetime.fromtimestamp(ms / 1000, UTC)), link, event(envelope))
        last = states.get(entry.task)
        if last is None and each.event == "delegation":
            each.legal, each.before, each.after = True, None, "submitted"
            each.attempt, each.agent, each.assignee = 1, entry.recipient, entry.recipient
        elif last is not None and (each.event in RECORDS or (last.after, each.event) in NEXT):
            each.legal, each.before, each.agent, each.assignee = True, last.after, last.assignee, last.assignee
            each.after = last.after if each.event in RECORDS else NEXT[last.after, each.event]
            each.attempt = last.attempt + (each.event in ANEW)
            if each.event == "delegation":
                each.assignee = entry.recipient
            if each.after == "completed" and each.event == "completion:done" and not reviewed[entry.task]:
                each.after = "accepted"
        if each.legal:
            states[entry.task] = each
            if each.event == "delegation":
                reviewed[entry.task] = envelope.payload.review_required
        yield each


def said(entry: Entry) -> bytes:
    """What the chain runs over."""
    place = f"{entry.position.ms}-{entry.position.sequence}"
    source = -1 if entry.source is None else len(entry.source)
    words = [place, entry.id, entry.type, entry.sender, entry.recipient, entry.task, entry.root, entry.priority]
    words += [entry.content_type, str(len(entry.body)), str(source), entry.source_type or "-"]
    return " ".join(words).encode() + b"\n" + entry.body + (entry.source or b"")


def event(envelope: AnyEnvelope) -> str:
    """The type of an envelope, and how it turned out."""
    payload: Any = envelope.payload
    if envelope.type == "acknowledgment":
        return "acknowledgment:accepted" if payload.accepted else "acknowledgment:declined"
    if envelope.type == "completion":
        return "completion:failure" if payload.result.status == "failure" else "completion:done"
    if envelope.type == "verdict":
        return f"verdict:{payload.decision}"
    if envelope.type == "budget":
        return f"budget:{payload.budget}"
    if envelope.type == "parking":
        return "parking:resumed" if payload.parking == "replayed" and payload.resumes else f"parking:{payload.parking}"
    return envelope.type


def iso(time: datetime) -> str:
    """A time as the columns have it."""
    in_utc = time.astimezone(UTC)
    return f"{in_utc:%Y-%m-%dT%H:%M:%S}.{in_utc.microsecond // 1000:03}Z"


def histories(told: Iterable[Told]) -> dict[str, list[Told]]:
    """What was done to each task, in order."""
    found: dict[str, list[Told]] = {}
    for each in told:
        if each.legal:
            found.setdefault(each.entry.task, []).append(each)
    return found


def last(values: Iterable[Any]) -> Any:
    """The last of some values; None of none."""
    return (list(values) or [None])[-1]


def total(values: Iterable[int | None]) -> int | None:
    """A sum of what was said; None where nothing was."""
    known = [value for value in values if value is not None]
    return sum(known) if known else None


def since_submitted(of: Sequence[Told]) -> Sequence[Told]:
    """What was done to a task since it was submitted last."""
    at = last(at for at, each in enumerate(of) if each.moved and each.after == "submitted")
    return of[at:]


def taken(of: Sequence[Told]) -> Told | None:
    """The acknowledgment by which the newest attempt was taken on."""
    return last(each for each in since_submitted(of) if each.event == "acknowledgment:accepted")
