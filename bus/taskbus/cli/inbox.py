"""`bus inbox`: what waits for an agent, and what the agent is to do about it."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
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
class Taken:
    """What is known of a delivery that was taken, whether or not its lease has lapsed.

    `consumer` is `-` where it was given back: then `reason` says why, and `until` when it can be taken again, in
    seconds since 1970. Else `until` is the end of the lease. `tries` counts those that failed, and the present one.
    """

    token: int = 0
    consumer: str = "-"
    tries: int = 0
    reason: str | None = None
    until: float = 0.0

    @property
    def is_back(self) -> bool:
        """Whether it was taken, and given back to be taken again."""
        return self.consumer == "-" and self.token > 0


_NEVER = Taken()


@dataclass(frozen=True, slots=True)
class Waiting:
    """What stands in an inbox. `worker` has it under a lease; `needs` is what the agent is to do about it.

    `is_parked`: earlier deliveries of its task are parked for the one who is to do it.
    """

    delivery: str
    entry: Entry
    age: float
    worker: str | None
    needs: str | None
    taken: Taken = _NEVER
    state: State | None = None
    is_parked: bool = False

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
_PARKED = 'bus parked replay {id}, or bus delegate @agent "…" --task {id}'
"""Instead, for what was escalated when its work was parked: an answer would wait behind that."""


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
    from taskbus.parked import count

    async with Bus.connect(settings=settings) as bus:
        now = await bus.connection.time()
        found = await _waiting(bus, agent, limit + 1)
        parked = await count(bus, agent)
        more, found = len(found) > limit, found[:limit]
        stays = {each.delivery: await _settled(bus, agent, each) for each in found} if settle else {}
    if as_json:
        waiting = [
            {
                **record(each.entry),
                "delivery": each.delivery,
                "age": round(each.age, 3),
                "leased_by": each.worker,
                "waits": _waits(each),
                "needs": each.needs,
                "settled": settle and stays[each.delivery] is None,
                **({"stays": stays[each.delivery]} if settle else {}),
            }
            for each in found
        ]
        print_json({"agent": agent, "waiting": waiting, "more": more, "parked": parked})
        return
    for each in found:
        click.echo(_shown(each, now))
    if not found:
        say(f"Nothing waits for {agent}.")
    if more:
        say(f"There is more: --limit {limit * 10} shows it.")
    if parked:
        say(f"{parked} parked: bus parked ls {agent}")
    if settle and found:
        kept = [each for each in found if stays[each.delivery] is not None]
        for each in kept:
            say(visible(f"Stays: the {each.entry.type} of task {each.entry.task}, since {stays[each.delivery]}."))
        say(f"{len(found) - len(kept)} settled, {len(kept)} stay.")


def _shown(each: Waiting, now: float) -> str:
    marks = [f"{rendering.age(each.age)} old"]
    if each.worker is not None:
        marks.append(f"leased by {visible(each.worker)}")
    elif each.taken.is_back:
        marks.append(_given_back(each.taken, now))
    shown = rendering.entry(each.entry, marks=marks)
    if each.needs is None or each.worker is not None or each.state is None:
        return shown
    command = _PARKED if each.is_parked else _COMMANDS[each.state]
    return f"{shown}\n          → {command.format(id=visible(each.entry.task))}"


def _given_back(taken: Taken, now: float) -> str:
    """Why nobody has what was taken before, and when somebody may take it."""
    left = taken.until - now
    if taken.reason == "quota-limited":
        until = rendering.clock(datetime.fromtimestamp(taken.until, UTC))
        return f"waits for its quota until {until}" if left > 0 else "its quota is reset"
    if taken.reason == "refused-by-budget":
        again = f", tried again in {rendering.age(left + 1)}" if left > 0 else ""
        return f"waits for money that other runs hold{again}: bus budget holds"
    if taken.reason == "handed-back":
        return "handed back"
    tries = "1 try" if taken.tries == 1 else f"{taken.tries} tries"
    when = f"tried again in {rendering.age(left + 1)}" if left > 0 else "to be tried again"
    return f"{when} ({tries} so far)"


def _waits(each: Waiting) -> dict[str, object] | None:
    """Why and until when it waits to be taken again, for programs."""
    taken = each.taken
    if not taken.is_back:
        return None
    until = datetime.fromtimestamp(taken.until, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    return {"reason": taken.reason, "until": until, "tries": taken.tries}


async def _waiting(bus: Bus, agent: str, most: int) -> list[Waiting]:
    from taskbus.parked import count

    entries = await bus.inbox(agent).waiting(most)
    now = await bus.connection.time()
    held = await _held(bus, agent)
    tasks: dict[str, Task | None] = {}
    found: list[Waiting] = []
    for delivery, entry in entries:
        if entry.task not in tasks:
            tasks[entry.task] = await _task(bus, entry.task)
        task = tasks[entry.task]
        age = max(0.0, now - entry.position.ms / 1000)
        needs = _needs(entry, task, agent)
        taken = held.get(delivery, _NEVER)
        worker = taken.consumer if taken.consumer != "-" and taken.until > now else None
        state = task.state if task is not None else None
        is_parked = task is not None and needs == "decision" and await count(bus, task.assignee, entry.task) > 0
        found.append(Waiting(delivery, entry, age, worker, needs, taken, state, is_parked))
    return found


async def _held(bus: Bus, agent: str) -> dict[str, Taken]:
    """Each delivery that was taken."""
    held = await bus.connection.hash(bus.keys.held(agent))
    ends = await _leases(bus, agent) if held else {}
    found: dict[str, Taken] = {}
    for delivery, value in held.items():
        token, consumer, tries, reason = [*value.split(" "), "", ""][:4]
        found[delivery] = Taken(int(token), consumer, int(tries or 0), reason or None, ends.get(delivery, 0.0))
    return found


async def _leases(bus: Bus, agent: str) -> dict[str, float]:
    """When the lease of each delivery ends, or its wait, in seconds since 1970."""
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
    from taskbus.append import Settlement, Unit, all_appended, commit

    if each.stays is not None:
        return each.stays
    settlement = Settlement(agent, each.delivery, each.taken.token, each.taken.consumer, each.entry.task)
    try:
        all_appended((await commit(bus.connection, bus.keys, [Unit((), settlement)]))[0])
    except Fenced:
        return "a worker has taken it meanwhile"
    except Conflict as error:
        return f"the bus keeps it: {error.message.rstrip('.')}"
    return None
