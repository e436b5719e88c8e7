"""A whole story through the command line, alone and twice at the same time on one server."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import anyio
import pytest

from taskbus.connection import Connection
from tests.conftest import BusCommand
from tests.servers import bundled_binary, running

if TYPE_CHECKING:
    from pathlib import Path

HANDOFF = {
    "target_agent": "kilo",
    "task_type": "implementation",
    "context": {"goal": "Cache the price list", "constraints": ["No new dependency"]},
    "artifacts": ["src/prices.py"],
    "acceptance_criteria": ["tests pass", "handles a timeout"],
}
AGENT = """
case $(wc -l) in
1) printf '{"sender": "@codex", "recipient": "@human", "type": "question", "context": {"task_id": "%s",
     "timestamp": "2026-11-20T09:30:00Z"}, "payload": {"question": "Which column?"}}' "$BUS_TASK" ;;
*) echo "CREATE INDEX" > a.sql; printf 'Here you are:\\n```json\\n{"status": "success", "outputs": ["a.sql"],
     "usage": [{"provider": "p", "model": "m", "input_tokens": 10}]}\\n```\\n' ;;
esac
"""
TYPES = [
    *("delegation", "acknowledgment", "status", "question", "answer", "completion", "verdict"),
    *("acknowledgment", "completion", "verdict", "delegation", "acknowledgment", "question", "answer"),
    *("completion", "verdict", "delegation", "acknowledgment", "escalation", "delegation", "acknowledgment"),
    *("completion", "delegation", "cancellation"),
]
STATES = {"prices": "accepted", "index": "accepted", "docs": "accepted", "old": "canceled"}


def story(bus: BusCommand, *, cost: str) -> None:
    """Delegate, ask, reject, escalate, hand out again, run a worker, cancel: every step must be accepted."""

    def say(*words: str, ends_with: str | None = None, **more) -> None:
        done = bus(*words, **more)
        assert done.code == 0, (words, done.stderr)
        assert ends_with is None or done.stdout.strip().endswith(ends_with), (words, done.stdout)

    say("delegate", "-", "--task", "prices", input=json.dumps(HANDOFF), ends_with="prices")
    say("ack", "prices", "--model", "qwen3-coder", ends_with="working")
    say("progress", "prices", "tests are written", "--fraction", "40%")
    say("ask", "prices", "Which database?", ends_with="input-required")
    say("answer", "prices", "SQLite", ends_with="working")
    say("complete", "prices", "--status", "success", "--artifact", "src/prices.py", ends_with="completed")
    say("reject", "prices", "--criterion", "handles a timeout=it raises", ends_with="submitted")
    say("ack", "prices")
    usage = ("--provider", "p", "--model", "m", "--input-tokens", "100", "--cost", cost)
    say("complete", "prices", "--status", "success", *usage, ends_with="completed")
    say("accept", "prices", "--criterion", "tests pass=142 passed", ends_with="accepted")

    worker = ("agent", "run", "codex", "--until-idle", "--", "sh", "-c", AGENT)
    say("delegate", "@codex", "Add an index", "--task", "index", "--parent", "prices")
    say(*worker)
    say("answer", "index", "name")
    say(*worker)
    say("accept", "index", ends_with="accepted")

    say("delegate", "@kilo", "Document it", "--task", "docs", "--no-review")
    say("ack", "docs")
    say("escalate", "docs", "No access", "--level", "2", ends_with="escalated")
    say("delegate", "@opencode", "Document it", "--task", "docs", "--no-review", ends_with="docs")
    say("ack", "docs")
    say("complete", "docs", "--status", "partial", ends_with="accepted")

    say("delegate", "@kilo", "Remove the old one", "--task", "old")
    say("cancel", "old", "Somebody did", ends_with="canceled")


def check(bus: BusCommand, *, cost: int) -> None:
    """The log, the read models and the inboxes tell this story, and nothing else."""
    log = bus("tail", "--last", "1000", "--no-follow", "--json").lines()
    assert [record["envelope"]["type"] for record in log] == TYPES
    board = bus("tasks", "--json").json()["tasks"]
    assert {task["id"]: task["state"] for task in board} == STATES
    assert sum(task["envelopes"] for task in board) == len(TYPES)
    total = bus("costs", "--json").json()["total"]
    assert (total["calls"], total["unpriced_calls"], total["cost_microusd"]) == (2, 1, cost)
    trail = bus("audit", "--json").json()["envelopes"]
    assert [envelope["type"] for envelope in trail] == TYPES
    tree = bus("audit", "--tree", "prices", "--json").json()["envelopes"]
    assert {envelope["task"] for envelope in tree} == {"prices", "index"}
    # What still waits for the agents that nobody runs: news, and no work.
    assert not [entry for entry in bus("inbox", "@kilo", "--json").json()["waiting"] if entry.get("needs")]


def test_a_whole_story_through_the_command_line(run_bus):
    """Every verb, a worker with a question, and what the queries say of it at the end."""
    story(run_bus, cost="0.0312")
    check(run_bus, cost=31_200)


@pytest.fixture
def server():
    """A server that nobody else uses."""
    with running(bundled_binary()) as server:
        yield server


async def foreign(url: str) -> None:
    """Write what another project might keep on the same server, under names that are close to ours."""
    async with Connection.open(url) as connection:
        for words in (
            ("SET", "cache", "kept"),
            ("SET", "alpha", "a namespace without its colon"),
            ("HSET", "alph:{0}:index", "task:prices", "submitted"),
            ("XADD", "alphabet:{0}:log", "*", "body", "not an envelope"),
            ("XADD", "log", "*", "body", "{}"),
            ("ZADD", "beta:{0}:leases:@kilo", "1", "normal/1-0"),
            ("RPUSH", "queue:celery", "a", "b"),
        ):
            await connection.execute(*words)


async def dumped(url: str, *prefixes: str) -> dict[str, object]:
    """The serialized value of each key that begins with none of the prefixes."""
    async with Connection.open(url) as connection:
        keys = {key async for key in connection.scan()}
        others = sorted(key for key in keys if not key.startswith(prefixes or ("\0",)))
        return {key: await connection.execute("DUMP", key) for key in others}


def test_two_namespaces_on_one_server_never_see_each_other(server, bus_environment, tmp_path: Path):
    """Two stories with the same task IDs run at the same time; one namespace even begins as the other does.

    Each finds its own envelopes, states and costs, and a third party's keys are byte for byte what they were.
    """
    anyio.run(foreign, server.url)
    before = anyio.run(dumped, server.url)
    costs = {"alpha:": "0.0312", "alpha:beta:": "0.5"}
    commands = {}
    for number, namespace in enumerate(costs):
        folder = tmp_path / str(number)
        folder.mkdir()
        environment = {
            **bus_environment,
            "BUS_URL": server.url,
            "BUS_NAMESPACE": namespace,
            "BUS_HOME": str(folder),
        }
        commands[namespace] = BusCommand(environment, folder)
    with ThreadPoolExecutor(len(costs)) as pool:
        list(pool.map(lambda namespace: story(commands[namespace], cost=costs[namespace]), costs, timeout=120))
    check(commands["alpha:"], cost=31_200)
    check(commands["alpha:beta:"], cost=500_000)
    assert anyio.run(dumped, server.url, *(f"{namespace}{{0}}:" for namespace in costs)) == before
