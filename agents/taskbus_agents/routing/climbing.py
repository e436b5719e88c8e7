"""Climbing: a task that one rung could not do goes to the next, as an envelope of the bus.

What went wrong says whether it climbs, by the policy. The new delegation is derived from the envelope that says what
went wrong: of several who see it, one climbs. Where no rung is left, the bus escalates to the coordinator. Called by
the climber, and by `bus route --climb`.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final, Literal, TypeAlias

from msgspec import structs

from taskbus.append import Submission, Unit, Unparking, all_appended, commit, task_of
from taskbus.codec import document
from taskbus.envelope import Acknowledgment, Completion, ErrorDetails, Escalation, Parking, compose, now
from taskbus.errors import Conflict, NotFound
from taskbus.lifecycle import BUS, HUMAN
from taskbus.parked import parked
from taskbus.validation import hashed_id
from taskbus_agents.plans.model import AGENTS as PLANS
from taskbus_agents.routing import trail
from taskbus_agents.routing.candidates import Need, candidates
from taskbus_agents.routing.decision import decide
from taskbus_agents.routing.facts import QUOTA, observe

if TYPE_CHECKING:
    from collections.abc import Mapping

    from taskbus.client import Bus
    from taskbus.envelope import AnyEnvelope
    from taskbus.lifecycle import State, Task
    from taskbus.payload import Delegation
    from taskbus_agents.definition import Definition
    from taskbus_agents.routing.decision import Decision
    from taskbus_agents.routing.policy import RoutingPolicy
    from taskbus_agents.routing.terms import Trigger

Kind: TypeAlias = Literal["climbed", "exhausted", "left", "already"]
"""The next rung has it; no rung was left, and it is escalated; the policy leaves it to people, or it was never routed;
somebody else has acted on it."""
CLIMBABLE: Final[frozenset[State]] = frozenset({"escalated", "failed", "rejected"})
"""The states out of which a task can be delegated again."""
_LEVEL: Final = 2
_LONGEST: Final = 4_000
_OVER: Final = "refused-by-budget"
BUDGET: Final = "budget"
"""The termination reason of what failed since a cap was reached."""


@dataclass(frozen=True, slots=True)
class Climbed:
    """What became of a task that could climb; `envelope` is what was published, if anything; `why` is for people."""

    kind: Kind
    task: str
    why: str
    agent: str | None = None
    envelope: AnyEnvelope | None = None
    decision: Decision | None = None


def trigger_of(envelope: AnyEnvelope) -> Trigger | None:
    """What an envelope says went wrong; None for one that says nothing of the kind."""
    payload = envelope.payload
    if isinstance(payload, Completion) and payload.result.status == "failure":
        reason = payload.termination_reason
        return "quota" if reason == QUOTA else "budget" if reason == BUDGET else "failure"
    if isinstance(payload, Acknowledgment) and not payload.accepted:
        return "refusal"
    if isinstance(payload, Parking) and payload.parking == "parked":
        return "budget" if payload.reason == _OVER else "quota" if payload.reason == "quota-limited" else "failure"
    return None


@dataclass(frozen=True, slots=True)
class _Case:
    """A task as it was found, what went wrong, and the delegation that it went wrong with."""

    name: str
    record: str
    task: Task
    why: AnyEnvelope
    last: AnyEnvelope
    payload: Delegation

    def id(self, name: str) -> str:
        """An ID that all who act on this case use."""
        ms = int(self.why.context.timestamp.timestamp() * 1000)
        return hashed_id(ms, f"{self.why.id} {name}".encode())


async def climb(
    bus: Bus,
    policy: RoutingPolicy,
    registry: Mapping[str, Definition],
    name: str,
    *,
    cause: AnyEnvelope | None = None,
    by_hand: bool = False,
) -> Climbed:
    """Let a task climb, where the policy says so, or somebody by hand.

    `cause` is the envelope that says what went wrong; without it, whatever brought the task into its state. Repeating
    it changes nothing. Raises NotFound for a task that there is none of, Unavailable.
    """
    record = await bus.connection.field(bus.keys.index, f"task:{name}")
    if record is None:
        raise NotFound(f"There is no task {name} on this bus.", task=name, advice="`bus tasks` lists them.")
    task = task_of(name, record)
    if task.state not in CLIMBABLE:
        return Climbed("already", name, f"it is {task.state}")
    brought = await trail.envelope(bus, task.cause)
    # One and the same envelope for all who see it, whichever of those of one step they saw.
    why = brought or cause
    if why is None or (cause is not None and not _still(cause, brought)):
        return Climbed("already", name, "it has gone on since")
    last = await trail.delegation(bus, name, why)
    if last is None:
        return Climbed("left", name, "its delegation is not in the log any more")
    envelope, payload = last
    if not by_hand and (reason := await _why_not(bus, policy, (name, task, payload), cause or why)) is not None:
        return Climbed("left", name, reason)
    case = _Case(name, record, task, why, envelope, payload)
    need = _need(policy, registry, case)
    facts = await observe(bus, policy, registry, need)
    decision = decide(policy, registry, need, facts)
    deadline = envelope.context.deadline
    if deadline is not None and deadline <= max(facts.now, now()):
        over = "its deadline is over"
    elif need.climbs > policy.terms.fallback.most:
        over = f"it has climbed {need.climbs - 1} times, as often as it may"
    else:
        over = None if decision.chosen else "no rung is left"
    return await (_hand_on(bus, case, decision) if over is None else _give_up(bus, case, decision, over))


async def _why_not(
    bus: Bus, policy: RoutingPolicy, what: tuple[str, Task, Delegation], cause: AnyEnvelope
) -> str | None:
    """Why a task does not climb by itself; None where it does."""
    name, task, payload = what
    if payload.route is None:
        return "nobody routed it"
    if task.delegator.startswith(PLANS):
        return f"{task.delegator} decides about it"
    return await policy_forbids(bus, policy, (name, task), cause)


async def policy_forbids(bus: Bus, policy: RoutingPolicy, what: tuple[str, Task], cause: AnyEnvelope) -> str | None:
    """Why a policy does not let a routed task climb after what went wrong; None where it does."""
    name, task = what
    trigger = trigger_of(cause) or await _set_aside(bus, task, name)
    if trigger is None:
        return "somebody was asked for help with it"
    climbs = policy.terms.fallback.on[trigger] == "climb"
    return None if climbs else f"the policy does not climb on {trigger}"


def _still(cause: AnyEnvelope, brought: AnyEnvelope | None) -> bool:
    """Whether a task is still as an envelope left it: that brought it there, or told of it in the same step."""
    if brought is None or brought.id == cause.id:
        return True
    told_together = isinstance(cause.payload, Parking) and brought.sender == BUS
    return told_together and brought.context.causation_id == cause.context.causation_id


async def _set_aside(bus: Bus, task: Task, name: str) -> Trigger | None:
    """What went wrong with the work on an escalated task, where that is parked."""
    if task.state != "escalated":
        return None
    reasons = [each.reason for each in await parked(bus, task.assignee, name) if each.is_work]
    return ("budget" if reasons[0] == _OVER else "failure") if reasons else None


def _need(policy: RoutingPolicy, registry: Mapping[str, Definition], case: _Case) -> Need:
    """What the next rung is wanted for: what the last delegation says, and which rungs it has failed on."""
    payload, route, task = case.payload, case.payload.route, case.task
    need = Need(
        task_type=payload.task_type,
        complexity=route.complexity if route and route.complexity in policy.terms.complexity else None,
        goal=payload.goal,
        justification=payload.paid_model_justification,
        climbs=(route.climbs or 0) + 1 if route else 1,
        root=task.root or case.name,
        root_type=payload.task_type if task.root in ("", case.name) else None,
    )
    if route is not None:
        failed = {route.rung, *(each.rung for each in route.passed if each.reason == "failed-before")}
    else:
        failed = {rung.name for rung in candidates(policy, registry, need) if rung.agent == case.last.recipient}
    return replace(need, failed=frozenset(failed))


async def _hand_on(bus: Bus, case: _Case, decision: Decision) -> Climbed:
    """Delegate the task to the rung that was chosen; what of it is parked for the one before is given up with that."""
    choice, last = decision.chosen[0], case.last
    envelope = compose(
        structs.replace(case.payload, route=decision.route, review_required=case.task.review or decision.review),
        sender=BUS,
        recipient=choice.agent,
        task=case.name,
        parent=last.context.parent_task,
        root=case.task.root or None,
        priority=last.priority,
        cause=case.why,
        deadline=last.context.deadline,
        id=case.id("climb"),
    )
    submission = Submission(document(envelope), known=case.record)
    aside = await parked(bus, case.task.assignee, case.name)
    unit = Unit((submission,))
    if aside:
        ids = tuple(each.entry.id for each in aside if each.entry is not None)
        dropped = Parking(
            parking="dropped", agent=case.task.assignee, deliveries=ids, message=f"The task goes to {choice.agent}."
        )
        told = compose(dropped, sender=BUS, recipient=BUS, task=case.name, root=case.task.root or None, cause=envelope)
        positions = tuple(each.position.entry for each in aside)
        unit = Unit(
            (submission, Submission(document(told))),
            Unparking(case.task.assignee, case.name, positions, replayed=False),
        )
    why = f"{choice.rung} has it now" + (f", with {choice.model}" if choice.model else "")
    return await _published(bus, case, unit, Climbed("climbed", case.name, why, choice.agent, envelope, decision))


async def _give_up(bus: Bus, case: _Case, decision: Decision, why: str) -> Climbed:
    """Escalate to the coordinator."""
    task = case.task
    passed = "; ".join(f"{each.rung}: {each.reason}{f', {each.note}' if each.note else ''}" for each in decision.passed)
    details = ErrorDetails(
        level=_LEVEL,
        category="execution",
        message=f"It climbs no further: {why}. {passed}".strip()[:_LONGEST],
        attempted_recovery=f"`bus delegate @agent GOAL --task {case.name}` hands it to anybody; "
        "a justification, a raised cap or a later time may open a rung: "
        f"`bus route --climb {case.name}`.",
    )
    recipient = HUMAN if task.coordinator == BUS else task.coordinator
    envelope = compose(
        Escalation(error_details=details),
        sender=BUS,
        recipient=recipient,
        task=case.name,
        root=task.root or None,
        priority=case.last.priority,
        cause=case.why,
        id=case.id("exhausted"),
    )
    unit = Unit((Submission(document(envelope), known=case.record),))
    return await _published(bus, case, unit, Climbed("exhausted", case.name, why, recipient, envelope, decision))


async def _published(bus: Bus, case: _Case, unit: Unit, done: Climbed) -> Climbed:
    """Append it, unless somebody else has acted on the same case, or the task has changed."""
    try:
        all_appended((await commit(bus.connection, bus.keys, [unit]))[0])
    except Conflict as error:
        return Climbed("already", case.name, error.message.rstrip("."))
    return done
