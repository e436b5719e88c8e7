"""The fleet: from 47 Markdown files to a running swarm that does 2,000 tasks, with its escalations and its costs."""

from __future__ import annotations

import json
import threading
import time
from collections import Counter, defaultdict
from pathlib import Path
from typing import TYPE_CHECKING

import anyio

from taskbus.client import Bus
from taskbus.envelope import Delegation, compose
from taskbus.errors import TaskbusError
from tests.scenarios.fleet import TIERS, Fleet

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.scenarios.conftest import Console

TASKS = 2000
SIZES = {"opus": 13, "sonnet": 21, "haiku": 13}
POLICY = Path(__file__).parents[2] / "docs" / "policy.first-users.example.toml"
LONGEST = 600.0
"""Seconds after which something hangs; how long it takes is printed."""


async def delegated(bus: Bus, tasks: dict[str, str]) -> None:
    """Delegate all tasks, each as its type of work."""
    envelopes = [
        compose(
            Delegation(goal=f"Do part {number} of it.", task_type="bulk coding", review_required=False),
            sender="@intake",
            recipient=f"@{name}",
            task=task,
        )
        for number, (task, name) in enumerate(tasks.items())
    ]
    assert not [answer for answer in await bus.publish_many(envelopes) if isinstance(answer, TaskbusError)]


async def all_over(bus: Bus, tasks: dict[str, str], is_running: Callable[[], bool]) -> None:
    """Wait until each task is done, or with a human; for as long as the swarm runs."""
    left = set(tasks)

    async def watch(scope: anyio.CancelScope) -> None:
        while is_running():  # noqa: ASYNC110 - another process sets no event here
            await anyio.sleep(0.5)
        scope.cancel()

    with anyio.fail_after(LONGEST):
        async with anyio.create_task_group() as group:
            group.start_soon(watch, group.cancel_scope)
            await _over(bus, left)
            group.cancel_scope.cancel()
    assert left == set()


async def _over(bus: Bus, left: set[str]) -> None:
    if left:
        async for entry in bus.log.follow():
            if entry.type == "completion" or (entry.type == "escalation" and entry.recipient == "@human"):
                left.discard(entry.task)
            if not left:
                return


def test_a_fleet_of_47_does_2000_tasks(bus: Console, capsys) -> None:
    """All is done or with a human, less than one in fifty; escalations follow the coordinators, and costs add up."""
    folder, fleet = bus.command.folder, Fleet()
    fleet.write(folder)
    policy = folder / "policy.toml"
    policy.write_text(POLICY.read_text() + "\n[swarm]\nprocesses = 2\n")
    names = fleet.specialists
    tasks = {f"task-{number:04}": names[number % len(names)] for number in range(TASKS)}
    wanted = fleet.reckon(tasks)
    listed = json.loads(bus.ok("agents", "list", "--json", env={"BUS_POLICY": str(policy)}))["agents"]
    assert Counter(each["model"] for each in listed) == {f"claude-{m}-4-5": n for m, n in SIZES.items()}
    bus.on_bus(lambda it: delegated(it, tasks))
    began = time.monotonic()
    swarm = bus.command.start("swarm", "up", policy, "--json")
    told: list[dict] = []
    try:
        thread = threading.Thread(target=lambda: told.extend(map(json.loads, swarm.stdout)), daemon=True)
        thread.start()
        bus.on_bus(lambda it: all_over(it, tasks, lambda: swarm.poll() is None))
        seconds = time.monotonic() - began
        swarm.terminate()
        assert swarm.wait(60) == 0, swarm.stderr.read()
        thread.join(30)
    finally:
        swarm.kill()
        swarm.communicate()
    assert [line for line in told if line["event"] in ("incident", "broken")] == []
    check(bus, tasks, wanted)
    report = bus.ok("report", "--policy", policy)
    (folder / "fleet-report.md").write_text(report)
    for tier in TIERS.values():
        assert tier in report
    runs = sum(wanted.calls.values())
    with capsys.disabled():
        human = len(wanted.human) / TASKS
        cost = ", ".join(f"{tier} ${wanted.cost[tier] / 1e6:.2f}" for tier in TIERS.values())
        print(f"\n{TASKS} tasks, {runs} runs in {seconds:.1f} s ({TASKS / seconds:.1f} tasks/s)")
        print(f"{len(wanted.escalations)} escalations, {human:.2%} of tasks with a human; {cost}")
        print(f"report: {folder / 'fleet-report.md'}")


def check(bus: Console, tasks: dict[str, str], wanted) -> None:
    """What the projections say is what was reckoned."""
    rows = json.loads(bus.ok("tasks", "--limit", "0", "--json"))["tasks"]
    states = {row["id"]: row["state"] for row in rows}
    assert states.keys() == tasks.keys()
    assert {task for task, state in states.items() if state == "accepted"} == wanted.done
    assert {task for task, state in states.items() if state == "escalated"} == wanted.human
    assert 0 < len(wanted.human) < TASKS / 50

    found = json.loads(bus.ok("escalations", "--limit", "0", "--json", "--no-sync"))
    came = defaultdict(list)
    for entry in bus.log():
        if entry.type == "escalation":
            details = entry.envelope.payload.error_details
            came[entry.task].append((entry.sender, entry.recipient, details.level))
    expected = defaultdict(list)
    for task, *row in wanted.escalations:
        expected[task].append(tuple(row))
    assert came == expected
    assert found["rates"]["human_rate"] < 0.02

    policy = bus.command.folder / "policy.toml"
    costs = json.loads(bus.ok("costs", "--by", "tier", "--policy", policy, "--json", "--no-sync"))
    by_tier = {row["tier"]: row for row in costs["costs"]}
    assert {tier: row["cost_microusd"] for tier, row in by_tier.items()} == dict(wanted.cost)
    assert {tier: row["calls"] for tier, row in by_tier.items()} == dict(wanted.calls)
    bus.ok("budget", "rebuild", "--check")
    # Each run had its reservation, and none of them is left.
    (held,) = json.loads(bus.ok("sql", "SELECT count(*) AS runs, sum(state = 'open') AS open FROM holds", "--json"))[
        "rows"
    ]
    assert held == {"runs": sum(wanted.calls.values()), "open": 0}
    accounts = json.loads(bus.ok("budget", "show", "anthropic", "--json", "--policy", policy))["accounts"]
    assert {each["committed_microusd"] for each in accounts} == {sum(wanted.cost.values())}
