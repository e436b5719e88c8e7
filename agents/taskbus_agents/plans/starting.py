"""Starting: which run of a plan is meant, and how a new one begins.

Runs of a plan are numbered, and one of them is open at a time: two who begin the same plan at once begin the same
run. Called by the session.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from taskbus import parked
from taskbus.append import task_of
from taskbus.codec import JSON, Document, validated
from taskbus.envelope import compose
from taskbus.errors import Conflict, LifecycleConflict, NotFound, TaskbusError
from taskbus.lifecycle import HUMAN
from taskbus.validation import hashed_id
from taskbus_agents.plans.following import order_of, plan_of
from taskbus_agents.plans.messages import begin

if TYPE_CHECKING:
    from pathlib import Path

    from taskbus.client import Bus
    from taskbus.lifecycle import Task
    from taskbus.log import Entry
    from taskbus_agents.plans.model import Plan

ENDED: Final = frozenset({"accepted", "failed", "canceled", "rejected"})
"""The states in which nobody works on a run, or decides about it."""


@dataclass(frozen=True, slots=True)
class Begun:
    """A run: the delegation that it began with, and whether it had begun before."""

    order: Entry
    joined: bool = False

    @property
    def run(self) -> str:
        """Its task."""
        return self.order.task


async def begun(bus: Bus, plan: Plan, *, file: Path, sender: str) -> Begun:
    """Begin a run of a plan, or join the one that is open. Raises Conflict where that has another document."""
    number, task = await _newest(bus, plan)
    if task is not None and task.state not in ENDED:
        return await _joined(bus, plan, f"{plan.name}.{number}")
    run = f"{plan.name}.{number + 1}"
    envelope = begin(plan, run, file=file, sender=sender)
    try:
        await bus.publish(Document(envelope, validated(envelope), JSON, plan.source, plan.media_type))
    except Conflict:
        return await _joined(bus, plan, run)  # somebody else began the same run at this moment
    return Begun(await order_of(bus, run))


async def newest(bus: Bus, plan: Plan) -> str | None:
    """The newest run of a plan; None where there was none."""
    number, _ = await _newest(bus, plan)
    return f"{plan.name}.{number}" if number else None


async def again(bus: Bus, order: Entry, *, sender: str | None) -> bool:
    """Delegate a failed run anew, to go on with what has failed in it; False where it has not failed.

    `sender` is by default whoever began it. Two who do it at once do it once.
    """
    task = await bus.task(order.task)
    if task.state not in ("failed", "rejected"):
        return False
    delegation = order.envelope
    envelope = compose(
        delegation.payload,
        sender=sender or task.delegator,
        recipient=task.assignee,
        task=order.task,
        cause=delegation,
        by_hand=sender is None,
        id=hashed_id(order.position.ms, f"plan {order.task} again {task.cause} {task.attempt}".encode()),
    )
    try:
        await bus.publish(Document(envelope, validated(envelope), JSON, order.source, order.source_type))
    except Conflict:
        if (await bus.task(order.task)).state in ENDED:
            raise
    return True


async def unparked(bus: Bus, order: Entry) -> bool:
    """Deliver a run again that was set aside, as when somebody else's task was in its way; False where none was."""
    agent = (await bus.task(order.task)).assignee
    if not await parked.count(bus, agent, order.task):
        return False
    await parked.replay(bus, agent, order.task, sender=HUMAN)
    return True


async def _newest(bus: Bus, plan: Plan) -> tuple[int, Task | None]:
    """The number of the newest run, and its task: they are numbered without a gap, so halving finds it."""
    least, most = 0, 1
    found: Task | None = None
    while (task := await _task(bus, plan, most)) is not None:
        least, most, found = most, most * 2, task
    while most - least > 1:
        middle = (least + most) // 2
        if (task := await _task(bus, plan, middle)) is not None:
            least, found = middle, task
        else:
            most = middle
    return least, found


async def _task(bus: Bus, plan: Plan, number: int) -> Task | None:
    name = f"{plan.name}.{number}"
    record = await bus.connection.field(bus.keys.index, f"task:{name}")
    task = task_of(name, record) if record is not None else None
    if task is not None and task.assignee != plan.agent:
        raise LifecycleConflict(
            f"Task {name} is no run of this plan: {task.delegator} gave it to {task.assignee}.",
            reason="recipient",
            state=task.state,
            holder=task.holder,
            task=name,
            advice='Give the plan another name: name = "…" in it, or another file name.',
        )
    return task


async def _joined(bus: Bus, plan: Plan, run: str) -> Begun:
    try:
        order = await order_of(bus, run)
    except NotFound as error:
        raise TaskbusError(
            f"Run {run} is open, and its document is not to be found.", advice=f"End it: bus cancel {run} REASON"
        ) from error
    if plan_of(order).digest != plan.digest:
        raise Conflict(
            f"Run {run} of an earlier version of this plan is open.",
            task=run,
            advice=f'`bus plan resume {run}` goes on with that version; `bus cancel {run} "reason"` ends it.',
        )
    return Begun(order, joined=True)
