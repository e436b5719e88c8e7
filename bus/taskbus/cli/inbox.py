"""`bus inbox`: what waits for an agent, and what the agent is to do about it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

import click

from taskbus.append import Settlement, append
from taskbus.cli import rendering
from taskbus.cli.options import print_json, run_async, say, settings_options
from taskbus.cli.records import record
from taskbus.cli.rendering import visible
from taskbus.cli.sending import name_of
from taskbus.cli.values import AGENT
from taskbus.errors import Fenced, NotFound
from taskbus.lifecycle import DELIVERED, HUMAN

if TYPE_CHECKING:
    from collections.abc import Mapping

    from taskbus.client import Bus
    from taskbus.lifecycle import Task
    from taskbus.log import Entry
    from taskbus.settings import Settings


@dataclass(frozen=True, slots=True)
class Waiting:
    """What stands in an inbox. `worker` has it under a lease; `needs` is what the agent is to do about it."""

    delivery: str
    entry: Entry
    age: float
    worker: str | None
    needs: str | None

    @property
    def settleable(self) -> bool:
        """Whether it can go: nobody works on it, and nobody waits for the agent because of it."""
        return self.worker is None and self.needs is None


_COMMANDS: Mapping[str, str] = {
    "work": "bus ack {id}",
    "answer": 'bus answer {id} "…"',
    "verdict": 'bus accept {id}, or bus reject {id} --comment "…"',
    "decision": 'bus answer {id} "…", or bus delegate @agent "…" --task {id}',
}


@click.command()
@click.argument("agent", type=AGENT, required=False)
@click.option("-n", "--limit", type=click.IntRange(min=1), default=100, help="At most so many [default: 100]")
@click.option("--settle", is_flag=True, help="Take what was shown and needs nothing more out of the inbox.")
@settings_options
def inbox(*, agent: str | None, limit: int, settle: bool, settings: Settings, as_json: bool) -> None:
    """Show what waits for an agent.

    Without an agent: for BUS_AGENT, else for @human. Reading changes nothing. --settle keeps what a worker
    has under a lease, and what somebody waits for: open work, questions, results to judge, escalations.

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
        settled = {each.delivery for each in found if settle and await _settled(bus, agent, each)}
    if as_json:
        waiting = [
            {
                **record(each.entry),
                "delivery": each.delivery,
                "age": round(each.age, 3),
                "leased_by": each.worker,
                "needs": each.needs,
                "settled": each.delivery in settled,
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
        say(f"{len(settled)} settled, {len(found) - len(settled)} stay.")


def _shown(each: Waiting) -> str:
    marks = [f"{rendering.age(each.age)} old"]
    if each.worker is not None:
        marks.append(f"leased by {visible(each.worker)}")
    shown = rendering.entry(each.entry, marks=marks)
    if each.needs is None or each.worker is not None:
        return shown
    return f"{shown}\n          → {_COMMANDS[each.needs].format(id=each.entry.task)}"


async def _waiting(bus: Bus, agent: str, count: int) -> list[Waiting]:
    entries = await bus.inbox(agent).waiting(count)
    now = await bus.connection.time()
    leases = await _leases(bus, agent, now)
    tasks: dict[str, Task | None] = {}
    found: list[Waiting] = []
    for delivery, entry in entries:
        if entry.task not in tasks:
            tasks[entry.task] = await _task(bus, entry.task)
        age = max(0.0, now - entry.position.ms / 1000)
        needs = _needs(entry, tasks[entry.task], agent)
        found.append(Waiting(delivery, entry, age, leases.get(delivery), needs))
    return found


async def _leases(bus: Bus, agent: str, now: float) -> dict[str, str]:
    """The worker that holds each delivery whose lease has not lapsed."""
    held = await bus.connection.hash(bus.keys.held(agent))
    if not held:
        return {}
    reply = await bus.connection.execute("ZRANGE", bus.keys.leases(agent), 0, -1, "WITHSCORES")
    flat = cast("list[bytes]", reply)
    ends = {name.decode(): float(end) / 1000 for name, end in zip(flat[::2], flat[1::2], strict=True)}
    return {delivery: value.partition(" ")[2] for delivery, value in held.items() if ends.get(delivery, 0.0) > now}


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
        case _:
            return None


async def _settled(bus: Bus, agent: str, each: Waiting) -> bool:
    """Take a delivery out of the inbox, unless a worker has taken it meanwhile."""
    if not each.settleable:
        return False
    try:
        await append(bus.connection, bus.keys, [], settlements=[Settlement(agent, each.delivery, 0)])
    except Fenced:
        # A worker took it after we looked: it is the worker's now.
        return False
    return True
