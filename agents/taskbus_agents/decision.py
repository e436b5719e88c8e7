"""The decision: what a program has written that was asked to deal with an escalation, as the payload that it is.

In short, as an envelope, or either of them in a text; the last one counts. Reads what stands there, and says why that
is none; whether the agent may decide so is for `coordination`. Pure.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Literal, TypeAlias, cast

import msgspec
from msgspec import structs

from taskbus import lenient, shorthand
from taskbus.envelope import NAME_PATTERN, Answer, Delegation, ErrorDetails, Escalation, Usage, now
from taskbus.errors import InvalidEnvelope
from taskbus.findings import printable
from taskbus.lifecycle import HUMAN
from taskbus.shorthand import ShortDelegation
from taskbus.supervision import HIGHEST, LEVEL

if TYPE_CHECKING:
    from collections.abc import Collection
    from datetime import datetime

    from taskbus.work import Work
    from taskbus_agents.taken import Begun

KEYS: Final = ("target_agent", "answer", "escalation")
"""By what a decision in short is known."""
LONGEST: Final = 4000
"""Characters of an escalation's message."""
_SHOWN: Final = 400
_SEARCHED: Final = 65_536
_NAME: Final = re.compile(NAME_PATTERN)
_Plain: TypeAlias = "dict[str, object]"


@dataclass(frozen=True, slots=True)
class Decision:
    """What a program has decided, and for whom, where it said so; with the deadline of what it hands out."""

    payload: Delegation | Answer | Escalation
    recipient: str | None = None
    usage: tuple[Usage, ...] = ()
    deadline: datetime | None = None


class _Passed(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """An escalation in short."""

    escalation: str
    recipient: str | None = None
    level: int | None = None
    category: Literal["execution", "validation", "integration", "architectural"] | None = None
    recovery: str | None = None
    usage: tuple[Usage, ...] = ()


class _Answered(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """An answer in short."""

    answer: str
    usage: tuple[Usage, ...] = ()


def came(work: Work) -> ErrorDetails:
    """What the escalation says that is to be decided on."""
    payload = work.envelope.payload
    if isinstance(payload, Escalation):
        return payload.error_details
    return ErrorDetails(level=LEVEL, category="execution", message="")


def read(work: Work, task: Begun, said: bytes) -> Decision | str:
    """What a program has written; where that is no decision, why not."""
    text = said.decode(errors="replace")
    if not text.strip():
        return "it wrote nothing"
    short = in_short(text)
    try:
        if short is not None:
            return _of_short(work, task, short)
        return _of_envelope(work, text)
    except InvalidEnvelope as error:
        return refused(error)
    except msgspec.ValidationError as error:
        return f"what it wrote is no decision: {printable(str(error), _SHOWN)}"


def refused(error: InvalidEnvelope) -> str:
    """Why something is no decision that is no valid message."""
    return f"what it wrote is no decision: {'; '.join(printable(str(each), _SHOWN) for each in error.problems[:5])}"


def in_short(text: str, keys: Collection[str] = KEYS) -> _Plain | None:
    """The last object in a text that is something in short, known by just one of these keys."""
    searched = text[-_SEARCHED:]
    decoder, found, at = json.JSONDecoder(), None, searched.find("{")
    while at >= 0:
        try:
            plain, end = cast("tuple[object, int]", decoder.raw_decode(searched, at))
        except (ValueError, RecursionError):
            end = at + 1
        else:
            names = cast("_Plain", plain).keys() if isinstance(plain, dict) else ()
            if sum(name in keys for name in names) == 1 and "status" not in names:
                found = cast("_Plain", plain)
            elif "status" in names or "question" in names:
                found = None  # something else was said last
        at = searched.find("{", end)
    return found


def _of_short(work: Work, task: Begun, short: _Plain) -> Decision:
    if "answer" in short:
        said = msgspec.convert(short, _Answered)
        return Decision(Answer(answer=said.answer), None, said.usage)
    return escalation(short, came(work)) if "escalation" in short else _of_handoff(task, short)


def escalation(short: _Plain, about: ErrorDetails | None = None) -> Decision:
    """An escalation in short; what it leaves out is as it was said before. Raises msgspec.ValidationError."""
    said = msgspec.convert(short, _Passed)
    about = about or ErrorDetails(level=LEVEL, category=said.category or "execution", message=said.escalation)
    details = ErrorDetails(
        level=max(1, min(said.level or about.level, HIGHEST)),
        category=said.category or about.category,
        message=said.escalation[:LONGEST],
        attempted_recovery=said.recovery or about.attempted_recovery,
    )
    return Decision(Escalation(error_details=details), _named(said.recipient), said.usage)


def _of_handoff(task: Begun, short: _Plain) -> Decision:
    """A delegation in short: what it leaves out is as it was delegated before."""
    usage = msgspec.convert(short.pop("usage", ()), tuple[Usage, ...])
    before = shorthand.write_delegation(ShortDelegation(task.task.assignee, task.delegation))
    known = cast("_Plain", msgspec.json.decode(before))
    context = {**cast("_Plain", known["context"]), **_object(short.get("context"))}
    merged = shorthand.read_delegation(msgspec.json.encode({**known, **short, "context": context}))
    return Decision(merged.payload, merged.recipient, usage, merged.deadline)


def _object(value: object) -> _Plain:
    return cast("_Plain", value) if isinstance(value, dict) else {}


def _named(name: str | None) -> str | None:
    if name is None:
        return None
    found = name if name.startswith("@") else f"@{name}"
    # Whoever that was meant to be where it is no name, it is nobody who could be asked.
    return found if _NAME.fullmatch(found) else HUMAN


def _of_envelope(work: Work, text: str) -> Decision | str:
    """A whole envelope, in JSON or XML, or one in a text around it."""
    agent, task = work.delivery.agent, work.delivery.task
    known: dict[str, object] = {"sender": agent, "task_id": task, "timestamp": now()}
    recipient: str | None
    try:
        envelope = lenient.find(text, defaults=known).envelope
        recipient = envelope.recipient
    except InvalidEnvelope:
        envelope = lenient.find(text, defaults={**known, "recipient": HUMAN}).envelope
        recipient = None
    if envelope.sender != agent or envelope.task != task:
        return f"it wrote an envelope of {envelope.sender} about task {envelope.task}"
    payload = envelope.payload
    if not isinstance(payload, Delegation | Answer | Escalation) or (
        recipient is None and not isinstance(payload, Escalation)
    ):
        return f"it wrote a {envelope.type}, and not whom it hands the task to, an answer, or an escalation"
    if isinstance(payload, Delegation):
        payload = structs.replace(payload, route=None)  # why a model runs is said by whoever routes
    return Decision(payload, recipient, envelope.usage, envelope.context.deadline)
