"""Supervision: what was not done in time becomes an escalation from the bus, once, however many watch.

Money that is reserved for a run that was lost is given back in the same way.

There is no leader. Whoever watches looks at intervals that all share, and escalates what it finds on condition that
the task still stands as it was found: of several who find the same, the first one's escalation changes the task, and
the others' are refused. Done by every worker, and by `bus supervise`.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, fields
from datetime import UTC, datetime
from typing import TYPE_CHECKING, cast

import anyio
from msgspec import structs

from taskbus.append import Submission, Unit, all_appended, commit, script, task_of
from taskbus.codec import document
from taskbus.envelope import NAME_PATTERN, ErrorDetails, Escalation, compose
from taskbus.errors import Conflict, InvalidEnvelope, NotFound, TimedOut, Unavailable, UsageError
from taskbus.lifecycle import BUS, HUMAN
from taskbus.position import Position

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import NoReturn

    from taskbus.client import Bus
    from taskbus.envelope import AnyEnvelope
    from taskbus.lifecycle import Task

LEVEL = 2
"""To whom the bus escalates first: the coordinator. Level 3 is the lead, level 4 the human."""
HIGHEST = 4
_MOST = 100
_NAME = re.compile(NAME_PATTERN)
SAID = " It said: "
"""What stands before the words of the one who told of trouble first."""
# Nobody expects a worker of a person, or of the bus itself.
_WITHOUT_WORKERS = f"|{HUMAN}|{BUS}|"


@dataclass(frozen=True, slots=True)
class Supervision:
    """What is told of, and after how many seconds.

    `acknowledge`: delegated, and not taken on; or open work that waits behind what is parked. `lost`: a lease that
    lapsed, and nobody took the delivery over. `silent`: work waits for an agent, and no worker of it was seen; told
    once for each agent until one is. `stale`: an escalation that nobody dealt with goes to the next level, where
    `lead` gets level 3 (by default the delegator of the root task) and @human level 4. A deadline is told of when it
    is over. `interval` is the time between two looks of all who watch. Raises UsageError for a time that is none.
    """

    acknowledge: float = 900.0
    lost: float = 120.0
    silent: float = 300.0
    stale: float = 1800.0
    interval: float = 5.0
    lead: str | None = None

    def __post_init__(self) -> None:
        """Check the times."""
        for field in fields(self)[:-1]:
            if not 0 < getattr(self, field.name) < math.inf:
                raise UsageError(
                    f"Supervision cannot work with {field.name} {getattr(self, field.name):g}.",
                    advice="Use more than 0 seconds; what is not to be escalated yet gets a long time.",
                )
        if self.lead is not None and (self.lead == BUS or not _NAME.fullmatch(self.lead)):
            raise UsageError(f"{self.lead!r} cannot be the lead.", advice="Use the name of an agent, such as @lead.")


@dataclass(frozen=True, slots=True)
class Finding:
    """Something that was not done in time: of which `task`, as its `record` stood.

    `kind` is deadline, stale, unacknowledged, behind, lost, silent or hold; `since` is when it began, in milliseconds
    since the epoch; `detail` the worker that was lost, how many deliveries wait, or the line of the hold. `id` is that
    of the escalation, where all who find the same must use the same.
    """

    kind: str
    name: str
    record: str
    agent: str = ""
    since: int = 0
    detail: str = ""
    id: str = ""

    @property
    def task(self) -> Task:
        """The task as it was found."""
        return task_of(self.name, self.record)


async def watch(bus: Bus, supervision: Supervision, told: Callable[[AnyEnvelope], None]) -> NoReturn:
    """Look again and again, until cancelled; `told` hears of each escalation. While the server is away it waits."""
    while True:
        try:
            for envelope in await look(bus, supervision):
                told(envelope)
        except (Unavailable, TimedOut):
            # Whoever watches beside other work says so itself, and the command that only watches asks the server.
            pass
        await anyio.sleep(supervision.interval)


async def look(bus: Bus, supervision: Supervision, *, at_once: bool = False) -> list[AnyEnvelope]:
    """Look once, unless somebody has within the interval; returns what was escalated or given back. Raises Unavailable.

    `at_once` looks in any case, and until there is nothing more to be found.
    """
    keys = bus.keys
    names = [keys.log, keys.index, keys.meta, keys.agents, keys.workers, keys.deadlines, keys.escalations, keys.holds]
    times = (supervision.acknowledge, supervision.lost, supervision.silent, supervision.stale)
    # A little less than the interval: the clocks of those who watch do not tick together.
    interval = 0 if at_once else int(supervision.interval * 900)
    args = [keys.prefix, interval, *(int(seconds * 1000) for seconds in times), _MOST, _WITHOUT_WORKERS]
    escalated: list[AnyEnvelope] = []
    looks, pages, more = 0, 1, True
    while looks == 0 or (at_once and (more or looks <= pages)):
        reply = await bus.connection.run(script("watch"), names, args)
        found, pages = cast("tuple[list[list[bytes]], int]", reply)
        told = await _told(bus, supervision, [_finding(each) for each in found])
        escalated += told
        looks, more = looks + 1, bool(told)
    return escalated


async def _told(bus: Bus, supervision: Supervision, findings: list[Finding]) -> list[AnyEnvelope]:
    """Escalate what was found, as far as nobody else has; returns the escalations."""
    escalated: list[AnyEnvelope] = []
    for finding in findings:
        envelope = _given_back(bus, finding) if finding.kind == "hold" else await _escalation(bus, supervision, finding)
        if envelope is not None:
            # On condition that nothing has changed since the look: somebody may have acted, or told of it first.
            unit = Unit((Submission(document(envelope), known=finding.record),))
            try:
                all_appended((await commit(bus.connection, bus.keys, [unit]))[0])
            except (Conflict, NotFound):
                continue
            escalated.append(envelope)
    return escalated


def _finding(fields: list[bytes]) -> Finding:
    kind, name, record, agent, since, detail, told = [*(each.decode() for each in fields), *("",) * 4][:7]
    return Finding(kind, name, record, agent, int(float(since or 0)), detail, told)


def _given_back(bus: Bus, finding: Finding) -> AnyEnvelope:
    from taskbus.accounts import released  # most buses never have any money reserved
    from taskbus.counters import hold_of

    hold = hold_of(finding.name, finding.detail, bus.keys.shard)
    reason = f"the run of {finding.agent} that it was reserved for, {_at(finding.since)}, was lost or given up"
    return released(hold, sender=BUS, ended="lost", reason=reason)


async def _escalation(bus: Bus, supervision: Supervision, finding: Finding) -> AnyEnvelope | None:
    """What is told of a finding, and whom; None for an escalation that is at the top."""
    task = finding.task
    level, recipient, message = LEVEL, task.coordinator, _MESSAGES.get(finding.kind, _stale)(finding, task)
    if finding.kind == "stale":
        level, message = await _next_level(bus, task, message)
        if task.coordinator == HUMAN:
            # There is nobody above: it stays with the human, and is not looked at again.
            await bus.connection.execute("ZREM", bus.keys.escalations, finding.name)
            return None
        level = min(level, HIGHEST)
        recipient = await _recipient(bus, supervision, task, level)
    details = ErrorDetails(level=level, category="execution", message=message)
    envelope: AnyEnvelope = compose(
        Escalation(error_details=details),
        sender=BUS,
        recipient=HUMAN if recipient == BUS else recipient,
        task=finding.name,
        root=task.root,
    )
    return structs.replace(envelope, id=finding.id) if finding.id else envelope


async def _next_level(bus: Bus, task: Task, message: str) -> tuple[int, str]:
    """One level above that of the escalation that is open, with what that one said."""
    position = await bus.connection.field(bus.keys.index, task.cause) if task.cause else None
    entry = await bus.log.get(Position.parse(position, shard=bus.keys.shard)) if position else None
    try:
        payload = entry.envelope.payload if entry is not None else None
    except InvalidEnvelope:
        # A newer version wrote it, or somebody else: it goes further all the same.
        payload = None
    if not isinstance(payload, Escalation):
        return LEVEL + 1, message
    said = payload.error_details
    # What was said first, not what each level said of the one before.
    return said.level + 1, f"{message}{SAID}{said.message.rpartition(SAID)[2]}"[:4000]


async def _recipient(bus: Bus, supervision: Supervision, task: Task, level: int) -> str:
    if level >= HIGHEST:
        return HUMAN
    if level <= LEVEL:
        return task.delegator
    if supervision.lead is not None:
        return supervision.lead
    root = await bus.connection.field(bus.keys.index, f"task:{task.root}")
    return task_of(task.root, root).delegator if root else task.delegator


def _at(milliseconds: int) -> str:
    return f"{datetime.fromtimestamp(milliseconds / 1000, UTC):%FT%TZ}"


def _stale(_finding: Finding, task: Task) -> str:
    return f"The escalation to {task.coordinator} was not dealt with in time."


_MESSAGES: dict[str, Callable[[Finding, Task], str]] = {
    "deadline": lambda _, task: (
        f"The deadline {_at(task.deadline)} is over, and the task is {task.state}, with "
        f"{task.assignee if task.state != 'input-required' else task.delegator}."
    ),
    "unacknowledged": lambda finding, task: (
        f"{task.assignee} was to take the task on, and has not since {_at(finding.since)}."
    ),
    "behind": lambda finding, task: (
        f"The work waits behind a parked delivery of {task.assignee} since {_at(finding.since)}: "
        f"`bus parked replay {finding.name}` delivers both."
    ),
    "lost": lambda finding, task: (
        f"The worker {finding.detail} of {task.assignee} lost its lease at "
        f"{_at(finding.since)}, and nobody has taken the task over."
    ),
    "silent": lambda finding, task: (
        f"No worker of {task.assignee} is there: this waits since {_at(finding.since)}, "
        f"{finding.detail} deliveries in all."
    ),
}
