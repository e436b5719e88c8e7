"""`bus inbox`: what waits for an agent, and what the agent is to do about it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

import click

from taskbus.cli import rendering
from taskbus.cli.options import print_json, run_async, say, settings_options
from taskbus.cli.records import record
from taskbus.cli.rendering import visible
from taskbus.cli.sending import name_of
from taskbus.cli.values import AGENT, COUNT
from taskbus.errors import Conflict, Fenced, NotFound
from taskbus.lifecycle import DELIVERED, HUMAN

if TYPE_CHECKING:
    from collections.abc import Mapping

    from taskbus.client import Bus
    from taskbus.lifecycle import State, Task
    from taskbus.log import Entry
    from taskbus.settings import Settings


@dataclass(frozen=True, slots=True)
class Waiting:
    """What stands in an inbox. `worker` has it under a lease; `needs` is what the agent is to do about it.

    `token` and `consumer` are those under which it was taken last, 0 and empty for what was never taken.
    """

    delivery: str
    entry: Entry
    age: float
    worker: str | None
    needs: str | None
    token: int = 0
    consumer: str = ""
    state: State | None = None

    @property
    def stays(self) -> str | None:
        """Why it cannot be settled; None where nobody works on it, and nobody waits for the agent because of it."""
        if self.worker is not None:
            return f"the worker {self.worker} has it under a lease"
        return _REASONS[self.needs] if self.needs is not None else None


_REASONS: Mapping[str, str] = {
    "work": "it is open work",
    "answer": "the question has no answer yet",
    "verdict": "the result has no verdict yet",
    "decision": "the escalation is not decided yet",
    "delegation": "the failed task is not handed out again yet",
}
_COMMANDS: Mapping[State, str] = {
    "submitted": "bus ack {id}",
    "working": 'bus complete {id} --status success; before that bus progress {id} "…", bus ask {id} "…"',
    "input-required": 'bus answer {id} "…"',
    "completed": 'bus accept {id}, or bus reject {id} --comment "…"',
    "escalated": 'bus answer {id} "…", or bus delegate @agent "…" --task {id}',
    "failed": 'bus delegate @agent "…" --task {id}',
    "rejected": 'bus delegate @agent "…" --task {id}',
}
"""What the agent says next, by the state that the task is in, where anything is needed of it."""


@click.command()
@click.argument("agent", type=AGENT, required=False)
@click.option("-n", "--limit", type=COUNT, default=100, help="At most so many [default: 100]")
@click.option("--settle", is_flag=True, help="Take what was shown and needs nothing more out of the inbox.")
@settings_options
def inbox(*, agent: str | None, limit: int, settle: bool, settings: Settings, as_json: bool) -> None:
    """Show what waits for an agent.

    Without an agent: for BUS_AGENT, else for @human. Reading changes nothing. --settle keeps what a worker
    has under a lease, and what somebody waits for: open work, questions, results to judge, escalations, failures.

    \b
    Examples:
      bus inbox @kilo
      bus inbox @human --settle
      bus inbox --json | jq -r '.waiting[] | select(.needs == "answer") | .task'
    """
    name = agent or name_of(settings.agent) or HUMAN
    run_async(_inbox, settings, name, limit, settle=settle, as_json=as_json)


async def _inbox(settings: Settings, agent: str, limit: int, *, settle: bool, as_json: bool) -> None:
    from taskbus.client import Bus  # redis is slow to import

    async with Bus.connect(settings=settings) as bus:
        found = await _waiting(bus, agent, limit + 1)
        more, found = len(found) > limit, found[:limit]
        stays = {each.delivery: await _settled(bus, agent, each) for each in found} if settle else {}
    if as_json:
        waiting = [
            {
                **record(each.entry),
                "delivery": each.delivery,
                "age": round(each.age, 3),
                "leased_by": each.worker,
                "needs": each.needs,
                "settled": settle and stays[each.delivery] is None,
                **({"stays": stays[each.delivery]} if settle else {}),
            }
            for each in found
        ]
        print_json({"agent": agent, "waiting": waiting, "more": more})
        return
    for each in found:
        click.echo(_shown(each))
    if not found:
        say(f"Nothing waits for {agent}.")
    if more:
        say(f"There is more: --limit {limit * 10} shows it.")
    if settle and found:
        kept = [each for each in found if stays[each.delivery] is not None]
        for each in kept:
            say(visible(f"Stays: the {each.entry.type} of task {each.entry.task}, since {stays[each.delivery]}."))
        say(f"{len(found) - len(kept)} settled, {len(kept)} stay.")


def _shown(each: Waiting) -> str:
    marks = [f"{rendering.age(each.age)} old"]
    if each.worker is not None:
        marks.append(f"leased by {visible(each.worker)}")
    shown = rendering.entry(each.entry, marks=marks)
    if each.needs is None or each.worker is not None or each.state is None:
        return shown
    return f"{shown}\n          → {_COMMANDS[each.state].format(id=visible(each.entry.task))}"


async def _waiting(bus: Bus, agent: str, count: int) -> list[Waiting]:
    entries = await bus.inbox(agent).waiting(count)
    now = await bus.connection.time()
    held = await _held(bus, agent)
    leases = await _leases(bus, agent) if held else {}
    tasks: dict[str, Task | None] = {}
    found: list[Waiting] = []
    for delivery, entry in entries:
        if entry.task not in tasks:
            tasks[entry.task] = await _task(bus, entry.task)
        task = tasks[entry.task]
        age = max(0.0, now - entry.position.ms / 1000)
        needs = _needs(entry, task, agent)
        token, consumer = held.get(delivery, (0, ""))
        worker = consumer if leases.get(delivery, 0.0) > now else None
        state = task.state if task is not None else None
        found.append(Waiting(delivery, entry, age, worker, needs, token, consumer, state))
    return found


async def _held(bus: Bus, agent: str) -> dict[str, tuple[int, str]]:
    """Token and worker of each delivery that was taken, whether or not its lease has lapsed."""
    held = await bus.connection.hash(bus.keys.held(agent))
    parts = {delivery: value.partition(" ") for delivery, value in held.items()}
    return {delivery: (int(token), consumer) for delivery, (token, _, consumer) in parts.items()}


async def _leases(bus: Bus, agent: str) -> dict[str, float]:
    """When the lease of each delivery ends, in seconds since 1970."""
    reply = await bus.connection.execute("ZRANGE", bus.keys.leases(agent), 0, -1, "WITHSCORES")
    flat = cast("list[bytes]", reply)
    return {name.decode(): float(end) / 1000 for name, end in zip(flat[::2], flat[1::2], strict=True)}


async def _task(bus: Bus, name: str) -> Task | None:
    try:
        return await bus.task(name)
    except NotFound:
        return None


def _needs(entry: Entry, task: Task | None, agent: str) -> str | None:
    """What the agent is to do about an entry, as long as nobody has done it."""
    if task is None:
        return None
    match entry.type:
        case "delegation" | "answer" | "verdict" if task.state in DELIVERED and task.assignee == agent:
            return "work"
        case "question" if task.state == "input-required":
            return "answer"
        case "completion" if task.state == "completed" and task.delegator == agent:
            return "verdict"
        case "escalation" if task.state == "escalated" and task.coordinator == agent:
            return "decision"
        case "completion" | "acknowledgment" if task.state in ("failed", "rejected") and task.delegator == agent:
            return "delegation" if task.cause in (None, entry.id) else None
        case _:
            return None


async def _settled(bus: Bus, agent: str, each: Waiting) -> str | None:
    """Take a delivery out of the inbox; returns why it stays, None where it does not."""
    from taskbus.append import Settlement, append

    if each.stays is not None:
        return each.stays
    settlement = Settlement(agent, each.delivery, each.token, each.consumer, each.entry.task)
    try:
        await append(bus.connection, bus.keys, [], settlements=[settlement])
    except Fenced:
        return "a worker has taken it meanwhile"
    except Conflict as error:
        return f"the bus keeps it: {error.message.rstrip('.')}"
    return None
