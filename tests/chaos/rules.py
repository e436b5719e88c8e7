"""The history checker: what must hold of the evidence of any run, whatever befell it.

Pure. Each rule is a function from the evidence to its breaches, as lines of text; `check` asks all of them. What a
client was told binds the bus; what it was not told, since the answer was lost, may have happened or not, but once.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from dataclasses import replace
from itertools import pairwise
from typing import TYPE_CHECKING, NamedTuple

from taskbus.envelope import Completion, Parking
from taskbus.lifecycle import BUS, ENDED, advance, event_of, message_of, refusal
from taskbus.position import Position
from tests.chaos.plan import GIVEN_UP, kind_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from taskbus.lifecycle import Task
    from taskbus.log import Entry
    from tests.chaos.evidence import Evidence
    from tests.chaos.history import Event

OUTCOMES = frozenset({"completion", "question", "answer", "verdict", "escalation", "delegation"})
"""What comes out of a delivery, at most once, beside what is said on the way."""
UNHURT = frozenset({"Retryable", "Permanent", "ValueError"})
"""What a handler raised, and so used up a try."""


class Breach(NamedTuple):
    """A rule that was broken, and by what."""

    rule: str
    what: str


def check(evidence: Evidence) -> list[Breach]:
    """All breaches of all rules."""
    return list(dict.fromkeys(Breach(rule, what) for rule, found in RULES.items() for what in found(evidence)))


def acknowledged(evidence: Evidence) -> Iterator[str]:
    """Every append that was acknowledged stands in the log, where its sender was told."""
    places = {entry.id: entry.position for entry in evidence.log}
    for told_id, position, event in _told(evidence):
        if told_id not in places:
            yield f"{event['who']} was told that {told_id} stands at {position}, and the log does not hold it"
        elif places[told_id] != position:
            yield f"{event['who']} was told that {told_id} stands at {position}; it stands at {places[told_id]}"


def once(evidence: Evidence) -> Iterator[str]:
    """No envelope stands twice."""
    for found, times in Counter(entry.id for entry in evidence.log).items():
        if times > 1:
            yield f"{found} stands {times} times in the log"


def refused(evidence: Evidence) -> Iterator[str]:
    """What was refused, and never sent with an unknown result, is not in the log."""
    unclear = {event["id"] for event in evidence.events if event["what"] in ("told", "unknown")}
    standing = {entry.id for entry in evidence.log}
    for event in evidence.events:
        if event["what"] == "refused" and event["id"] in standing - unclear:
            yield f"{event['who']} was told that {event['id']} is refused ({event['error']}), and it stands in the log"


def order(evidence: Evidence) -> Iterator[str]:
    """What was sent after another append had been acknowledged stands after it; so does each sender's own sequence."""
    places = {entry.id: entry.position for entry in evidence.log}
    last: tuple[Position, str] | None = None
    sent: set[str] = set()
    of: dict[str, list[str]] = defaultdict(list)
    for event in evidence.events:
        match event["what"]:
            case "send" if event["id"] not in sent:
                sent.add(event["id"])
                of[event["who"]].append(event["id"])
                if last and event["id"] in places and places[event["id"]] <= last[0]:
                    yield f"{event['id']} was sent after {last[1]} had been acknowledged, and stands before it"
            case "told" | "settled":
                for told_id, position, _ in _told_by(event):
                    last = max(last, (position, told_id)) if last else (position, told_id)
            case _:
                pass
    for who, ids in of.items():
        standing = [found for found in ids if found in places] if who.startswith("producer") else []
        for first, second in pairwise(standing):
            if places[first] > places[second]:
                yield f"{who} sent {first} before {second}, and the log has them the other way round"


def lifecycle(evidence: Evidence) -> Iterator[str]:
    """Each envelope was legal where it stands, and the bus knows of each task what the log says."""
    tasks, broken = _replayed(evidence.log)
    yield from broken
    for name, task in tasks.items():
        record = evidence.records.get(name)
        for field in ("state", "attempt", "assignee", "delegator", "coordinator"):
            says, knows = getattr(task, field), getattr(record, field, None)
            if says != knows:
                yield f"{name}: by the log its {field} is {says}, and the bus says {knows}"
    for name in set(evidence.records) - set(tasks):
        yield f"{name}: the bus knows the task, and the log does not"


def delegated(evidence: Evidence) -> Iterator[str]:
    """There is no completion without a delegation before it, and one at most for each attempt."""
    open_attempts: set[str] = set()
    for entry in evidence.log:
        match entry.envelope.payload:
            case Completion() if entry.task not in open_attempts:
                yield f"the completion at {entry.position} of {entry.task} answers no attempt that is open"
            case Completion():
                open_attempts.discard(entry.task)
            case _ if event_of(entry.envelope) in ("delegation", "verdict:rejected"):
                open_attempts.add(entry.task)
            case _:
                pass


def effect(evidence: Evidence) -> Iterator[str]:
    """A delivery has one outcome, from one call of its handler; nothing stands in the log that nobody has said."""
    begun: dict[str, Event] = {event["nonce"]: event for event in evidence.events if event["what"] == "begin"}
    handled = {(event["agent"], event["id"]) for event in begun.values()}
    said = {event["id"] for event in evidence.events if event["what"] == "send"}
    outcomes: dict[tuple[str, str], list[Entry]] = defaultdict(list)
    for entry in evidence.log:
        cause = entry.envelope.context.causation_id or ""
        if entry.id not in said and entry.sender != BUS:
            if entry.type in OUTCOMES:
                outcomes[entry.sender, cause].append(entry)
            if entry.type not in ("acknowledgment", "parking") and (entry.sender, cause) not in handled:
                yield f"nobody has said the {entry.type} at {entry.position} ({entry.id})"
        if isinstance(payload := entry.envelope.payload, Completion):
            call = begun.get(payload.result.description or "")
            if call is None or (call["id"], call["agent"]) != (cause, entry.sender):
                yield f"the completion at {entry.position} is of the call {payload.result.description}, not of {cause}"
    for (agent, cause), found in outcomes.items():
        if len(found) > 1:
            places = " and ".join(f"{entry.type} at {entry.position}" for entry in found)
            yield f"the delivery of {cause} to {agent} has {len(found)} outcomes: {places}"


def fenced(evidence: Evidence) -> Iterator[str]:
    """Outcomes are published under one token of a delivery, and nobody takes a delivery that is settled.

    A settlement without any outcome may be told to have been done by somebody whose token is old, where somebody else
    has settled the delivery: it changes nothing.
    """
    calls: dict[tuple[str, str], list[Event]] = defaultdict(list)
    settled: dict[tuple[str, str], list[Event]] = defaultdict(list)
    for event in evidence.events:
        if event["what"] == "begin":
            calls[event["agent"], event["id"]].append(event)
        elif event["what"] == "settled" and "parking" not in event["types"]:
            settled[event["agent"], event["id"]].append(event)
    for (agent, found), events in settled.items():
        tokens = {event["token"] for event in events if event["outcomes"]}
        if len(tokens) > 1:
            yield f"the delivery of {found} to {agent} was settled with outcomes under the tokens {sorted(tokens)}"
        newest = max(event["token"] for event in events)
        late = [call["token"] for call in calls[agent, found] if call["token"] > newest]
        if late:
            yield f"the delivery of {found} to {agent} was settled under {newest}, and taken under {late}"


def tries(evidence: Evidence) -> Iterator[str]:
    """A delivery is tried as often as its agent's attempts say: no handler is called more often, nor gives up sooner.

    What is handed back, or waits for a quota, does not count.
    """
    ends = {event["nonce"]: event["how"] for event in evidence.events if event["what"] == "end"}
    counted: Counter[tuple[str, str]] = Counter()
    for event in evidence.events:
        if event["what"] != "begin":
            continue
        if event["tries"] > evidence.attempts:
            yield f"{event['who']} was given {event['id']} at try {event['tries']} of {evidence.attempts}"
        if ends.get(event["nonce"]) in UNHURT:
            counted[event["agent"], event["id"]] += 1
    for (agent, found), times in counted.items():
        if times > evidence.attempts:
            yield f"the delivery of {found} to {agent} failed {times} times, with {evidence.attempts} attempts"
    for entry in evidence.log:
        payload = entry.envelope.payload
        early = isinstance(payload, Parking) and payload.reason in ("retryable", "lost")
        if early and (payload.attempts or 0) < evidence.attempts:
            yield f"{entry.task} was parked at {entry.position} ({payload.reason}) after {payload.attempts} tries"


def escalated(evidence: Evidence) -> Iterator[str]:
    """The bus escalates each trouble once, however many watch: nobody is told again while nothing has changed."""
    tasks: dict[str, Task] = {}
    for entry in evidence.log:
        message, before = replace(message_of(entry.envelope), moves=True), tasks.get(entry.task)
        if refusal(before, message, now=0):
            continue
        if before and before.state == "escalated" and message.event == "escalation":
            yield f"{entry.task} was escalated once more at {entry.position}, and nothing had changed"
        tasks[entry.task] = advance(before, message)


def finished(evidence: Evidence) -> Iterator[str]:
    """Every task has come to its end, or is parked or escalated, and somebody has been told."""
    tasks, _ = _replayed(evidence.log)
    parked = _parked(evidence.log)
    for name, task in tasks.items():
        given_up = task.attempt >= GIVEN_UP or (kind_of(name) == "broken" and task.state == "escalated")
        done = task.state in ("accepted", "canceled", "rejected")
        waits = task.state in ("failed", "escalated") and given_up
        if not (done or waits or any(of == name for _, of in parked)):
            yield f"{name} is {task.state} in attempt {task.attempt}, and nobody works on it"
    for agent, name in parked:
        if name not in evidence.parked.get(agent, frozenset()):
            yield f"{name}: the log says that it is parked with {agent}, and the bus does not hold it"
    for agent, names in evidence.parked.items():
        for name in names:
            if (agent, name) not in parked:
                yield f"{name} is parked with {agent}, and the log does not say so"


def drained(evidence: Evidence) -> Iterator[str]:
    """With healthy workers nothing is left in an inbox, in anybody's hands, or under a lease."""
    for agent in evidence.served:
        keys = evidence.keys
        for key in (*keys.inboxes(agent), keys.held(agent), keys.leases(agent)):
            if left := evidence.sizes.get(key, 0):
                yield f"{key} still has {left}"
    for event in evidence.events:
        if event["what"] == "stuck":
            yield "the work was not done in time after all had healed"


def projected(evidence: Evidence) -> Iterator[str]:
    """The projection is the fold of the log from zero."""
    followed, fresh = evidence.projection
    if followed != fresh:
        yield f"the projection is {followed}, and a fold from zero {fresh}"


def followed(evidence: Evidence) -> Iterator[str]:
    """Who follows the log sees all of it, in order; at most what it was about to note twice, after a kill."""
    lives: dict[int, list[str]] = {}
    for event in evidence.events:
        if event["what"] == "seen":
            lives.setdefault(event["pid"], []).append(event["position"])
        elif event["what"] == "behind":
            yield f"{event['victim']} has not come to the end of the log in time"
    seen: list[str] = [position for positions in lives.values() for position in positions]
    log = [str(entry.position) for entry in evidence.log]
    if seen != log and lives:
        at = next((n for n, (a, b) in enumerate(zip(seen, log, strict=False)) if a != b), min(len(seen), len(log)))
        yield f"the tail and the log part at entry {at}: {seen[at : at + 1]} is not {log[at : at + 1]}"


def clean(evidence: Evidence) -> Iterator[str]:
    """The bus leaves the keys that it documents, and in its index what the log holds."""
    keys = evidence.keys
    recipients = {entry.recipient for entry in evidence.log}
    known = {keys.log, keys.index, keys.meta, keys.agents, keys.workers, keys.deadlines, keys.escalations}
    known |= {keys.again, keys.archive, keys.projections}
    for agent in recipients | set(evidence.served):
        known |= {*keys.inboxes(agent), keys.held(agent), keys.leases(agent), keys.parked(agent), keys.bell(agent)}
        if evidence.sizes.get(keys.bell(agent), 0) > 1:
            yield f"{keys.bell(agent)} has {evidence.sizes[keys.bell(agent)]} entries"
    for key in set(evidence.sizes) - known:
        yield f"{key} is no key of the bus"
    index = evidence.names.get(keys.index, frozenset())
    expected = {entry.id for entry in evidence.log} | {f"task:{entry.task}" for entry in evidence.log}
    for field in index - expected - recipients:
        yield f"the index has {field}, which the log does not hold"
    for field in expected - index:
        yield f"the index does not have {field}, which the log holds"
    yield from _outlived(evidence)


def _outlived(evidence: Evidence) -> Iterator[str]:
    """What is kept for open tasks or living workers, and is of neither."""
    keys, names = evidence.keys, evidence.names
    for name in names.get(keys.deadlines, ()):
        if name not in evidence.records or evidence.records[name].state in ENDED:
            yield f"{keys.deadlines} has {name}, which has ended"
    for name in names.get(keys.escalations, ()):
        if name not in evidence.records or evidence.records[name].state != "escalated":
            yield f"{keys.escalations} has {name}, which is not escalated"
    consumers = {member.rpartition(" ")[2] for member in names.get(keys.workers, ())}
    starts = sum(event["what"] == "start" for event in evidence.events)
    if len(consumers) > starts:
        yield f"{keys.workers} has {len(consumers)} workers, and {starts} processes were started"
    for field in names.get(keys.meta, ()):
        _, of, consumer = field.partition(":")
        if of and consumer.startswith(("worker-", "client-")) and consumer not in consumers:
            yield f"{keys.meta} has {field}, of a worker that is forgotten"


def alive(evidence: Evidence) -> Iterator[str]:
    """No process of the bus's ends by itself, and all end in time when they are told to."""
    whys = {event["pid"]: event["why"].strip() for event in evidence.events if event["what"] == "died"}
    for event in evidence.events:
        if event["what"] == "exit" and not event["expected"]:
            why = _reason(whys.get(event["of"], "it said nothing"))
            yield f"{event['victim']} ended by itself with {event['status']}: {why}"
        elif event["what"] == "late":
            yield f"{event['victim']} was told to stop, and had not after {event['limit']} s"


RULES: dict[str, Callable[[Evidence], Iterator[str]]] = {
    rule.__name__: rule
    for rule in (
        acknowledged,
        once,
        refused,
        order,
        lifecycle,
        delegated,
        effect,
        fenced,
        tries,
        escalated,
        finished,
        drained,
        projected,
        followed,
        clean,
        alive,
    )
}


def _reason(why: str) -> str:
    """The last line of a traceback that names an error; in that of a group, it is that of one of its errors."""
    lines = [line.strip(" |+-") for line in why.splitlines()]
    named = [line for line in lines if re.match(r"[\w.]+(Error|Exception|Exit|Interrupt|Unavailable|TimedOut)\b", line)]
    return (named or lines or ["it said nothing"])[-1]


def _told(evidence: Evidence) -> Iterator[tuple[str, Position, Event]]:
    for event in evidence.events:
        yield from _told_by(event)


def _told_by(event: Event) -> Iterator[tuple[str, Position, Event]]:
    if event["what"] == "told":
        yield event["id"], Position.parse(event["position"]), event
    elif event["what"] == "settled":
        for outcome, position in zip(event["outcomes"], event["positions"], strict=True):
            yield outcome, Position.parse(position), event


def _replayed(log: list[Entry]) -> tuple[dict[str, Task], list[str]]:
    """The tasks as the log makes them, and what in it was not legal."""
    tasks: dict[str, Task] = {}
    broken: list[str] = []
    for entry in log:
        # The log does not tell whether a delivery moved with the record that says so; the rule of parking does.
        message, before = replace(message_of(entry.envelope), moves=True), tasks.get(entry.task)
        why = refusal(before, message, now=0)
        if why:
            state = before.state if before else "not begun"
            broken.append(f"{entry.task} was {state}: {message.event} from {entry.sender} at {entry.position}: {why}")
        else:
            tasks[entry.task] = advance(before, message)
    return tasks, broken


def _parked(log: list[Entry]) -> set[tuple[str, str]]:
    """Agents and tasks whose last record of parking says that something is set aside."""
    found: set[tuple[str, str]] = set()
    for entry in log:
        if isinstance(payload := entry.envelope.payload, Parking):
            if payload.parking == "parked":
                found.add((payload.agent, entry.task))
            else:
                found.discard((payload.agent, entry.task))
    return found
