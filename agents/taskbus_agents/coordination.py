"""The coordination: what becomes of an escalation that an agent's program was asked to deal with.

Trouble goes from the specialist to its coordinator, on to the tech lead, and to a person at last. Owns which decisions
are taken (hand the task out again, answer, escalate further), and the bounds that keep them from going in a circle;
whatever is none of them goes one level up, with the reason. Called by the handlers that run programs.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, cast

from msgspec import structs

from taskbus import codec, parked
from taskbus.envelope import Answer, Delegation, ErrorDetails, Escalation
from taskbus.errors import InvalidEnvelope, Moved, NotFound
from taskbus.findings import printable
from taskbus.lifecycle import BUS, HUMAN
from taskbus.supervision import HIGHEST, SAID
from taskbus.work import Outcome
from taskbus_agents import decision
from taskbus_agents.decision import LONGEST, Decision, came
from taskbus_agents.outcome import sourced

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from taskbus.codec import Document
    from taskbus.envelope import AnyEnvelope, Usage
    from taskbus.work import Work
    from taskbus_agents.taken import Begun

AGAIN, ATTEMPTS = 3, 9
_NO_NAMES: Final[Mapping[str, str]] = {}


@dataclass(frozen=True, slots=True)
class Bounds:
    """What keeps decisions from going in a circle: after how many attempts in all the agent that failed does not get
    its task `again`, and after how many `attempts` nobody does. Then it goes up.
    """

    again: int = AGAIN
    attempts: int = ATTEMPTS


@dataclass(frozen=True, slots=True)
class Office:
    """The place of an agent among those that coordinate: `coordinator` is whom it turns to, None for @human; `team`
    are those who turn to it, by name, with what each can do; `known` are all agents that are defined here.
    """

    agent: str
    coordinator: str | None = None
    team: Mapping[str, str] = field(default_factory=lambda: _NO_NAMES)
    known: frozenset[str] = frozenset()
    bounds: Bounds = field(default_factory=Bounds)


async def settling(work: Work, task: Begun, office: Office, said: bytes, usage: Sequence[Usage] = ()) -> Document:
    """What settles an escalation: the decision that a program wrote, or an escalation one level up that says why that
    is none. `said` stays with it. What is parked of the task for whom it goes to is given up, since it would wait
    behind that.
    """
    made = decided(work, task, office, said, usage)
    envelope = made.envelope
    if not isinstance(envelope.payload, Escalation) and await parked.count(work.bus, envelope.recipient, envelope.task):
        with suppress(NotFound, Moved):  # somebody else has just seen to it
            await parked.drop(work.bus, envelope.recipient, envelope.task, sender=office.agent)
    return made


def decided(work: Work, task: Begun, office: Office, said: bytes, usage: Sequence[Usage] = ()) -> Document:
    """The same without anything that is done for it. Pure."""
    used = tuple(usage)
    why = found = decision.read(work, task, said)
    if isinstance(found, Decision):
        used += found.usage
        match found.payload:
            case Delegation():
                made = _handed_out(work, task, office, found, used)
            case Answer():
                made = _answered(work, task, office, found, used)
            case Escalation():
                made = _escalated(work, task, office, found, used)
        try:
            if not isinstance(made, str):
                return sourced(codec.document(made), said)
            why = made
        except InvalidEnvelope as error:
            why = decision.refused(error)
    return further(work, task, office, str(why), said=said, usage=used)


def further(
    work: Work, task: Begun, office: Office, reason: str, *, said: bytes = b"", usage: Sequence[Usage] = ()
) -> Document:
    """The same trouble one level up, since this agent has not dealt with it."""
    about = came(work)
    message = f"{office.agent} did not decide: {printable(reason, LONGEST // 2)}"
    details = ErrorDetails(
        level=about.level,
        category=about.category,
        message=f"{message.rstrip('.')}.{SAID}{about.message.rpartition(SAID)[2]}"[:LONGEST],
        attempted_recovery=about.attempted_recovery,
    )
    found = Decision(Escalation(error_details=details))
    return sourced(codec.document(_escalated(work, task, office, found, tuple(usage))), said)


def _handed_out(
    work: Work, task: Begun, office: Office, found: Decision, usage: tuple[Usage, ...]
) -> AnyEnvelope | str:
    """The same task for another agent, or once more for the same."""
    recipient = found.recipient or ""
    if recipient in (HUMAN, BUS):
        return f"it handed the task to {recipient}, which only an escalation does"
    if office.known and recipient not in office.known and recipient != task.task.assignee:
        return f"it handed the task to {recipient}, and there is no such agent"
    attempt, bounds = task.task.attempt, office.bounds
    if recipient == task.task.assignee and attempt >= bounds.again:
        return f"it handed the task to {recipient} once more, after {attempt} attempts"
    if attempt >= bounds.attempts:
        return f"it handed the task out once more, after {attempt} attempts"
    made = work.reply(Outcome(found.payload, usage, recipient), number=1)
    # What is handed out without a deadline has none any more; one that is over was told of, and is none to keep.
    for deadline in (found.deadline, task.deadline):
        if deadline is not None and deadline > made.context.timestamp:
            return structs.replace(made, context=structs.replace(made.context, deadline=deadline))
    return made


def _answered(work: Work, task: Begun, office: Office, found: Decision, usage: tuple[Usage, ...]) -> AnyEnvelope | str:
    if task.task.delegator != office.agent:
        return f"it answered, and only {task.task.delegator}, who delegated the task, may do that"
    return work.reply(Outcome(found.payload, usage, task.task.assignee), number=1)


def _escalated(work: Work, task: Begun, office: Office, found: Decision, usage: tuple[Usage, ...]) -> AnyEnvelope:
    """One level up at least, and never back to whoever had it before."""
    payload = cast("Escalation", found.payload)
    details = payload.error_details
    level = min(max(details.level, came(work).level + 1), HIGHEST)
    wanted = found.recipient or office.coordinator or HUMAN
    if level >= HIGHEST or wanted in _asked(task, office.agent):
        wanted = HUMAN
    if office.known and wanted not in office.known:
        wanted = HUMAN
    raised = structs.replace(payload, error_details=structs.replace(details, level=level))
    return work.reply(Outcome(raised, usage, wanted), number=1)


def _asked(task: Begun, agent: str) -> frozenset[str]:
    """Who had this trouble already: whoever told of it, and whoever was asked, since the task was handed out."""
    told = [each for each in task.said if isinstance(each.payload, Escalation)]
    return frozenset({agent, task.task.assignee, BUS, *(e.sender for e in told), *(e.recipient for e in told)})
