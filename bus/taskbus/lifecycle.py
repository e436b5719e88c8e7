"""The lifecycle of a task: which message is legal in which state, from whom, and what follows.

One table, without any input or output. The server-side step is generated from it (`taskbus.append`), the projections
fold with it, and the tests compare the two exhaustively. The states carry A2A's names where it has one.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, TypeAlias, cast, get_args

from msgspec import Struct
from msgspec.structs import replace

from taskbus.envelope import Acknowledgment, Budget, Completion, Delegation, Parking, Verdict

if TYPE_CHECKING:
    from taskbus.envelope import AnyEnvelope, MessageType

State: TypeAlias = Literal[
    "submitted",
    "working",
    "input-required",
    "completed",
    "accepted",
    "failed",
    "rejected",
    "escalated",
    "canceled",
]
Role: TypeAlias = Literal["anyone", "delegator", "assignee", "coordinator", "human", "bus"]
Event: TypeAlias = Literal[
    "delegation",
    "acknowledgment:accepted",
    "acknowledgment:declined",
    "status",
    "question",
    "answer",
    "completion:done",
    "completion:failure",
    "verdict:accepted",
    "verdict:rejected",
    "escalation",
    "cancellation",
    "parking:parked",
    "parking:replayed",
    "parking:resumed",
    "parking:dropped",
    "budget:cap",
    "budget:reserved",
    "budget:settled",
    "budget:released",
    "budget:warned",
]
"""A message type, told apart further where what follows depends on what the message says."""

OPEN: frozenset[State] = frozenset({"submitted", "working", "input-required", "escalated"})
"""The states in which a task is not done yet; cancellation is legal in each, and in no other."""
DELIVERED: frozenset[State] = frozenset({"submitted", "working"})
"""The states in which the assignee's delivery stands in its inbox."""
HUMAN = "@human"
BUS = "@bus"
MONEY = "budget"
"""The name that caps are recorded under, which no task can have."""


@dataclass(frozen=True, slots=True)
class Rule:
    """One row: in one of `states`, `event` from one of `roles` leads to `to`.

    `unreviewed` is the state reached instead where the delegation asked for no review; `attempt` says that a new
    attempt begins.
    """

    states: tuple[State | None, ...]
    event: Event
    roles: tuple[Role, ...]
    to: State | None
    unreviewed: State | None = None
    attempt: bool = False


_RECORDS: dict[Event, tuple[Role, ...]] = {
    "parking:parked": ("bus",),
    "parking:replayed": ("anyone",),
    "parking:dropped": ("anyone",),
    "budget:settled": ("anyone",),
    "budget:released": ("bus", "human"),
    "budget:warned": ("bus",),
}
"""What is recorded of deliveries and money in any state, and changes none. What a run has used counts whoever tells of
it, and however late."""
RULES: tuple[Rule, ...] = (
    Rule((None,), "delegation", ("anyone",), "submitted", attempt=True),
    Rule(("submitted",), "acknowledgment:accepted", ("assignee",), "working"),
    Rule(("submitted",), "acknowledgment:declined", ("assignee",), "rejected"),
    Rule(("working",), "status", ("assignee",), "working"),
    Rule(("working",), "question", ("assignee",), "input-required"),
    Rule(("input-required",), "answer", ("delegator", "human"), "working"),
    Rule(("submitted", "working"), "completion:done", ("assignee",), "completed", unreviewed="accepted"),
    Rule(("submitted", "working"), "completion:failure", ("assignee",), "failed"),
    Rule(("completed",), "verdict:accepted", ("delegator",), "accepted"),
    Rule(("completed",), "verdict:rejected", ("delegator",), "submitted", attempt=True),
    Rule(("submitted", "working", "input-required"), "escalation", ("assignee", "bus"), "escalated"),
    Rule(
        ("escalated", "failed", "rejected"),
        "delegation",
        ("delegator", "coordinator", "bus"),
        "submitted",
        attempt=True,
    ),
    Rule(("escalated",), "answer", ("delegator", "human"), "working"),
    Rule(("submitted", "working", "input-required", "escalated"), "cancellation", ("delegator",), "canceled"),
    Rule(("escalated",), "escalation", ("coordinator", "bus"), "escalated"),
    Rule(("failed", "rejected"), "escalation", ("bus",), "escalated"),
    Rule(("escalated",), "parking:resumed", ("anyone",), "submitted"),
    Rule((None,), "budget:cap", ("human",), None),
    Rule(("working",), "budget:reserved", ("assignee",), "working"),
    Rule(("escalated",), "budget:reserved", ("coordinator",), "escalated"),
    *(
        Rule((state,), event, roles, state)
        for event, roles in _RECORDS.items()
        for state in cast("tuple[State, ...]", get_args(State))
    ),
)
TABLE: dict[tuple[State | None, Event], Rule] = {(state, rule.event): rule for rule in RULES for state in rule.states}
ENDED: frozenset[State] = frozenset(
    state
    for state in cast("tuple[State, ...]", get_args(State))
    if all(rule.to == state for (of, _), rule in TABLE.items() if of == state)
)
"""The states that nothing leads out of."""
WORK: frozenset[Event] = frozenset(
    {
        "acknowledgment:accepted",
        "acknowledgment:declined",
        "status",
        "question",
        "completion:done",
        "completion:failure",
        "escalation",
        "budget:reserved",
    }
)
"""What an assignee says of its work: these are fenced."""
TO_ASSIGNEE: frozenset[Event] = frozenset({"answer", "verdict:accepted", "verdict:rejected", "cancellation"})
"""What must be addressed to the task's assignee: it goes on with the work, or ends it. A question goes to the
delegator or to the human, for only they may answer; and nothing is delegated to the bus itself."""


class Task(Struct, frozen=True, gc=False):
    """What the bus knows of a task.

    `lease` is the end of its lease, `deadline` that of its time, both in milliseconds since the epoch, and 0 without
    one. `consumer` is the worker that has it; `root` and `parent` are tasks; `cause` is the ID of the
    envelope that brought it into its state.
    """

    state: State
    delegator: str
    assignee: str
    coordinator: str
    attempt: int = 1
    review: bool = True
    token: int = 0
    lease: int = 0
    root: str = ""
    parent: str | None = None
    consumer: str | None = None
    deadline: int = 0
    cause: str | None = None

    @property
    def holder(self) -> str:
        """Whose turn it is."""
        if self.state in DELIVERED:
            return self.assignee
        return self.coordinator if self.state == "escalated" else self.delegator


_PLAIN: dict[MessageType, Event] = {
    "delegation": "delegation",
    "status": "status",
    "question": "question",
    "answer": "answer",
    "escalation": "escalation",
    "cancellation": "cancellation",
}
"""The types that are one event each."""


@dataclass(frozen=True, slots=True)
class Message:
    """What the lifecycle looks at in an envelope; `token` is None for what is sent without a delivery.

    `moves` says that a delivery is parked, replayed or dropped in the same step: nothing else may tell of that.
    `caps` says that it is recorded under the name of the caps.
    """

    event: Event
    sender: str
    recipient: str
    token: int | None = None
    review: bool = True
    moves: bool = False
    caps: bool = False


Refusal: TypeAlias = Literal["lifecycle", "fenced", "held", "recipient", "unknown", "reserved"]


def event_of(envelope: AnyEnvelope) -> Event:
    """The event that an envelope is."""
    if (plain := _PLAIN.get(envelope.type)) is not None:
        return plain
    payload = envelope.payload
    if isinstance(payload, Completion):
        return "completion:failure" if payload.result.status == "failure" else "completion:done"
    if isinstance(payload, Acknowledgment):
        return "acknowledgment:accepted" if payload.accepted else "acknowledgment:declined"
    if isinstance(payload, Verdict):
        return "verdict:accepted" if payload.decision == "accepted" else "verdict:rejected"
    if isinstance(payload, Budget):
        return cast("Event", f"budget:{payload.budget}")
    parking = cast("Parking", payload)
    resumes = parking.resumes and parking.parking == "replayed"
    return cast("Event", f"parking:{'resumed' if resumes else parking.parking}")


def message_of(envelope: AnyEnvelope, token: int | None = None) -> Message:
    """What the lifecycle looks at in `envelope`."""
    payload = envelope.payload
    review = payload.review_required if isinstance(payload, Delegation) else True
    caps = envelope.task == MONEY
    return Message(event_of(envelope), envelope.sender, envelope.recipient, token, review, caps=caps)


def roles(task: Task | None, sender: str) -> frozenset[Role]:
    """The roles that `sender` has in a task."""
    found: set[Role] = {"anyone"}
    if sender == HUMAN:
        found.add("human")
    if sender == BUS:
        found.add("bus")
    if task is not None:
        if sender == task.delegator:
            found.add("delegator")
        if sender == task.assignee:
            found.add("assignee")
        if sender == task.coordinator:
            found.add("coordinator")
    return frozenset(found)


def refusal(task: Task | None, message: Message, *, now: int) -> Refusal | None:
    """Why a message is refused; None when it is legal. `now` is in milliseconds since the epoch.

    A token that is not the newest is refused first: whoever holds it works for an attempt that is over. Work that
    comes without a token, by hand, is refused while a worker's lease lasts.
    """
    if task is None and message.event != ("budget:cap" if message.caps else "delegation"):
        return "reserved" if message.event == "delegation" else "unknown"
    works = message.event in WORK and message.sender != BUS
    if task is not None and works and message.token is not None and message.token not in _current(task):
        return "fenced"
    rule = TABLE.get((task.state if task else None, message.event))
    if message.event.startswith("parking") and not message.moves:
        return "lifecycle"
    if rule is None or not roles(task, message.sender).intersection(rule.roles):
        return "lifecycle"
    if not _addressed(task, message):
        return "recipient"
    if task is not None and works and message.token is None and task.lease > now:
        return "held"
    return None


def _current(task: Task) -> tuple[int, ...]:
    return (task.token,) if task.token else ()


def _addressed(task: Task | None, message: Message) -> bool:
    if message.event == "delegation":
        return message.recipient != BUS
    if task is not None and message.event == "question":
        return message.recipient in (task.delegator, HUMAN)
    return task is None or message.event not in TO_ASSIGNEE or message.recipient == task.assignee


def advance(task: Task | None, message: Message) -> Task | None:
    """The task after a legal message; None where it is about no task.

    Raises KeyError for a message that its state has no rule for.
    """
    rule = TABLE[(task.state if task else None, message.event)]
    if rule.to is None:
        return None
    if task is None:
        return Task(rule.to, message.sender, message.recipient, message.sender, review=message.review)
    if message.event in ("status", "budget:reserved") or message.event in _RECORDS:
        return task
    state = rule.unreviewed if rule.unreviewed and not task.review else rule.to
    by_hand = message.token is None
    delegated, keeps = message.event == "delegation", state in DELIVERED and message.event in WORK and not by_hand
    return replace(
        task,
        state=state,
        attempt=task.attempt + rule.attempt,
        assignee=message.recipient if delegated else task.assignee,
        review=message.review if delegated else task.review,
        coordinator=message.recipient if message.event == "escalation" else task.coordinator,
        lease=task.lease if keeps else 0,
    )


def legal(state: State | None) -> tuple[tuple[MessageType, tuple[Role, ...]], ...]:
    """What may be sent in a state: message types with the roles that may send them."""
    found: dict[MessageType, tuple[Role, ...]] = {}
    for (of, event), rule in TABLE.items():
        if of == state and not event.startswith(("parking", "budget")):
            found[cast("MessageType", event.partition(":")[0])] = rule.roles
    return tuple(found.items())
