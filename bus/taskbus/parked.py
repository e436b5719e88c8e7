"""Parked deliveries: what was set aside, and what waits behind it; delivered again or given up, and both recorded.

The first of a task's lines is what was parked; those after it are later messages of the task to the same agent, in the
order of the log. Whatever moves them appends a `parking` envelope in the same step.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Literal, cast

from taskbus.append import Submission, Unit, Unparking, all_appended, commit
from taskbus.codec import document
from taskbus.delivery import Delivery
from taskbus.envelope import Parking, compose
from taskbus.errors import LifecycleConflict, Moved, NotFound
from taskbus.lifecycle import BUS
from taskbus.position import Position

if TYPE_CHECKING:
    from collections.abc import Sequence

    from taskbus.append import Appended
    from taskbus.client import Bus
    from taskbus.log import Entry
    from taskbus.payload import FailureReason

BEHIND = "behind"
_PATIENCE = 5


@dataclass(frozen=True, slots=True)
class Parked:
    """A delivery that is set aside. `reason` is why, or `behind` where it only waits behind another one of its task.

    `tries` counts how often it was tried, `since` is when it was set aside, `entry` the envelope that was delivered,
    None where the log does not hold it any more. `is_work`: it was the work on an open task. `name` is what the
    delivery was called in its inbox.
    """

    agent: str
    task: str
    position: Position
    priority: str
    tries: int
    reason: FailureReason | Literal["behind"]
    since: datetime
    is_work: bool
    entry: Entry | None
    name: str


async def agents(bus: Bus) -> list[str]:
    """Everybody who was ever sent anything, by name."""
    found = cast("list[bytes]", await bus.connection.execute("SMEMBERS", bus.keys.agents))
    return sorted(agent.decode() for agent in found)


async def parked(bus: Bus, agent: str, task: str | None = None) -> list[Parked]:
    """What is set aside for an agent, of one task or of all, in the order of the log."""
    key = bus.keys.parked(agent)
    if task is None:
        lines = await bus.connection.hash(key)
    else:
        found = await bus.connection.field(key, task)
        lines = {task: found} if found else {}
    listed = [await _read(bus, agent, name, line) for name, text in lines.items() for line in text.splitlines()]
    return sorted(listed, key=lambda each: each.position)


async def count(bus: Bus, agent: str, task: str | None = None) -> int:
    """How many deliveries are set aside for an agent, of one task or of all."""
    key = bus.keys.parked(agent)
    texts = list((await bus.connection.hash(key)).values()) if task is None else [await bus.connection.field(key, task)]
    return sum(len(text.splitlines()) for text in texts if text)


async def record_of(bus: Bus, parked: Parked) -> Entry | None:
    """The envelope that told of a parking, with what went wrong; None where there is none, or no more."""
    if parked.entry is None or parked.reason == BEHIND:
        return None
    told = Delivery(parked.agent, parked.name, 0, parked.tries, parked.entry, None).outcome_id("parked")
    position = await bus.connection.field(bus.keys.index, told)
    return await bus.log.get(Position.parse(position, shard=bus.keys.shard)) if position else None


async def replay(bus: Bus, agent: str, task: str, *, sender: str, stop_at: int | None = None) -> list[Parked]:
    """Deliver again what is set aside of a task, in its order, `stop_at` of them at most; returns which.

    Work on a task that is still escalated goes on with it. `sender` is who decided it. Raises NotFound where nothing
    is parked, Moved when it keeps changing meanwhile.
    """
    return await _unpark(bus, agent, task, sender, stop_at, replayed=True)


async def drop(bus: Bus, agent: str, task: str, *, sender: str) -> list[Parked]:
    """Give up what is set aside of a task; returns what. Its task stays as it is. Raises as `replay` does."""
    return await _unpark(bus, agent, task, sender, None, replayed=False)


async def _unpark(bus: Bus, agent: str, task: str, sender: str, count: int | None, *, replayed: bool) -> list[Parked]:
    resumes = replayed
    for attempt in range(_PATIENCE):
        chosen = (await parked(bus, agent, task))[:count]
        if not chosen:
            raise NotFound(
                f"Nothing of task {task} is parked for {agent}.", task=task, advice="`bus parked ls` lists what is."
            )
        resumes = resumes and any(each.is_work for each in chosen)
        try:
            await _move(bus, chosen, sender, replayed=replayed, resumes=resumes)
        except LifecycleConflict:
            if not resumes:
                raise
            resumes = False  # the task is not escalated any more: it goes on without this delivery, or has ended
        except Moved:
            if attempt == _PATIENCE - 1:
                raise
        else:
            return chosen
    raise Moved(task=task)


async def _move(bus: Bus, chosen: Sequence[Parked], sender: str, *, replayed: bool, resumes: bool) -> list[Appended]:
    first = chosen[0]
    payload = Parking(
        parking="replayed" if replayed else "dropped",
        agent=first.agent,
        deliveries=tuple(each.entry.id for each in chosen if each.entry is not None),
        resumes=resumes,
    )
    root = first.entry.root if first.entry is not None else None
    record = compose(payload, sender=sender, recipient=BUS, task=first.task, root=root, by_hand=True)
    positions = tuple(each.position.entry for each in chosen)
    unit = Unit((Submission(document(record)),), Unparking(first.agent, first.task, positions, replayed))
    return all_appended((await commit(bus.connection, bus.keys, [unit]))[0])


async def _read(bus: Bus, agent: str, task: str, line: str) -> Parked:
    position, priority, tries, reason, since, work, name = line.split(" ")
    at = Position.parse(position, shard=bus.keys.shard)
    return Parked(
        agent=agent,
        task=task,
        position=at,
        priority=priority,
        tries=int(tries),
        reason=cast("FailureReason", reason),
        since=datetime.fromtimestamp(int(since) / 1000, UTC),
        is_work=work == "1",
        entry=await bus.log.get(at),
        name=name,
    )
