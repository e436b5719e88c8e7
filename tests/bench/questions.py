"""Every question that the command line asks of the read models, with the arguments that people give it.

For the benchmark, which times them, and for the test that looks at how SQLite answers each of them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, TypeAlias

from taskbus.position import Position
from taskbus_projections import brief, queries
from taskbus_projections.database import Database
from taskbus_projections.queries import Sought, Spent, Wanted, envelopes, names

Ask: TypeAlias = Callable[[Database, "Sample"], object]


@dataclass(frozen=True)
class Sample:
    """Something of everything that there is in a database, to ask about."""

    task: str
    root: str
    agent: str
    delegator: str
    n: int
    early: Position
    middle: Position
    late: Position
    month: str
    now: datetime

    @classmethod
    def of(cls, database: Database) -> Sample:
        """Take it from the middle of the log."""
        (folded,) = database.connection.execute("SELECT max(n) FROM events").fetchone()
        places = [
            Position.parse(row[0])
            for row in database.connection.execute(
                "SELECT position FROM events WHERE n IN (?, ?, ?) ORDER BY n",
                (folded // 10 + 1, folded // 2, folded - folded // 50),
            )
        ]
        n, task, root = database.connection.execute(
            "SELECT n, task, root FROM events WHERE n >= ? AND type = 'completion' ORDER BY n LIMIT 1", (folded // 2,)
        ).fetchone()
        agent, delegator, created = database.connection.execute(
            "SELECT assignee, delegator, updated FROM tasks WHERE id = ?", (task,)
        ).fetchone()
        return cls(
            task, root, agent, delegator, n, *places, created[:7], datetime.fromisoformat(created).astimezone(UTC)
        )


def task(database: Database, it: Sample) -> None:
    """All that `bus task` asks."""
    found = queries.task(database, queries.task_id(database, it.task))
    brief.brief(database, found)
    queries.tree(database, found["root"])
    changes = queries.transitions(database, it.task)
    queries.attempts(database, it.task, changes)
    for of in (queries.gates_of, queries.escalations_of, queries.parked_of, queries.holds_of):
        of(database, it.task)
    queries.audit(database, Sought(task=it.task), limit=100)
    queries.costs(database, "model", Spent(task=it.task))
    queries.total(database, Spent(task=it.task))
    queries.total(database, Spent(root=found["root"]))


def _no_cap(_: str) -> int | None:
    return 20_000_000


def _tier(agent: str, provider: str, model: str) -> str | None:
    return model if provider else agent


QUESTIONS: Mapping[str, Ask] = {
    "tasks": lambda db, it: queries.board(db, limit=50),
    "tasks --state": lambda db, it: queries.board(db, Wanted(states=("escalated", "input-required")), limit=50),
    "tasks --assignee": lambda db, it: queries.board(db, Wanted(assignee=it.agent), limit=50),
    "tasks --assignee --state": lambda db, it: queries.board(
        db, Wanted(assignee=it.agent, states=("canceled", "working", "accepted")), limit=50
    ),
    "tasks --delegator": lambda db, it: queries.board(db, Wanted(delegator=it.delegator), limit=50),
    "tasks --delegator --type": lambda db, it: queries.board(
        db, Wanted(delegator=it.delegator, task_type="nothing"), limit=50
    ),
    "tasks --type": lambda db, it: queries.board(db, Wanted(task_type="implementation"), limit=50),
    "tasks --type --assignee --state": lambda db, it: queries.board(
        db, Wanted(task_type="implementation", assignee=it.agent, states=("failed", "accepted")), limit=50
    ),
    "tasks --tree": lambda db, it: queries.board(db, Wanted(root=it.root), limit=50),
    "tasks --older": lambda db, it: queries.board(db, Wanted(created_until=it.now.isoformat()), limit=50),
    "tasks --older --state": lambda db, it: queries.board(
        db, Wanted(created_until=it.now.isoformat(), states=("accepted", "canceled")), limit=50
    ),
    "tasks --newer": lambda db, it: queries.board(db, Wanted(created_since=it.now.isoformat()), limit=50),
    "tasks --open": lambda db, it: queries.board(db, order="open", limit=50),
    "tasks --open --assignee": lambda db, it: queries.board(db, Wanted(assignee=it.agent), order="open", limit=50),
    "tasks --open --state": lambda db, it: queries.board(db, Wanted(states=("canceled",)), order="open", limit=50),
    "tasks --slow": lambda db, it: queries.board(db, order="slow", limit=50),
    "tasks --slow --assignee": lambda db, it: queries.board(db, Wanted(assignee=it.agent), order="slow", limit=50),
    "tasks --slow --type": lambda db, it: queries.board(db, Wanted(task_type="implementation"), order="slow", limit=50),
    "task": task,
    "audit": lambda db, it: queries.audit(db, limit=100),
    "audit --task": lambda db, it: queries.audit(db, Sought(task=it.task), limit=100),
    "audit --tree": lambda db, it: queries.audit(db, Sought(root=it.root), limit=100),
    "audit --tree --agent --type": lambda db, it: queries.audit(
        db, Sought(root=it.root, agent=it.agent, types=("status",)), limit=100
    ),
    "audit --agent": lambda db, it: queries.audit(db, Sought(agent=it.agent), limit=100),
    "audit --agent, who has most": lambda db, it: queries.audit(db, Sought(agent=it.delegator), limit=100),
    "audit --agent --type": lambda db, it: queries.audit(
        db, Sought(agent=it.delegator, types=("escalation", "cancellation")), limit=100
    ),
    "audit --type": lambda db, it: queries.audit(db, Sought(types=("escalation", "question")), limit=100),
    "audit --by-hand": lambda db, it: queries.audit(db, Sought(by_hand=True), limit=100),
    "audit --by-hand --agent": lambda db, it: queries.audit(db, Sought(by_hand=True, agent=it.delegator), limit=100),
    "audit --since --until": lambda db, it: queries.audit(db, Sought(since=it.early, until=it.middle), limit=100),
    "audit --agent --until": lambda db, it: queries.audit(db, Sought(agent=it.agent, until=it.middle), limit=100),
    "audit --search, a word in most": lambda db, it: queries.audit(db, Sought(search="server"), limit=100),
    "audit --search, a word in few": lambda db, it: queries.audit(db, Sought(search="refuses prefix"), limit=100),
    "audit --search, in none": lambda db, it: queries.audit(db, Sought(search="zebra"), limit=100),
    "audit --search --since": lambda db, it: queries.audit(db, Sought(search="server", since=it.late), limit=100),
    "audit --search --task": lambda db, it: queries.audit(db, Sought(search="prefix", task=it.task), limit=100),
    "audit --search --agent": lambda db, it: queries.audit(db, Sought(search="prefix", agent=it.agent), limit=100),
    "audit --search --agent --type": lambda db, it: queries.audit(
        db, Sought(search="caches", agent=it.agent, types=("escalation",)), limit=100
    ),
    "audit --match": lambda db, it: queries.audit(db, Sought(match='schem* NOT "old pages"'), limit=100),
    "audit --bodies": lambda db, it: queries.audit(db, Sought(agent=it.agent), bodies=True, limit=100),
    "audit --causes": lambda db, it: queries.causes(db, queries.envelope(db, f"#{it.n}"), limit=100),
    "audit --causes POSITION --direction up": lambda db, it: queries.causes(
        db, queries.envelope(db, str(it.middle)), "up", limit=100
    ),
    "tasks --at '#12'": lambda db, it: queries.place_of(db, f"#{it.n}"),
    "audit --causes ID": lambda db, it: queries.envelope(
        db, db.connection.execute("SELECT id FROM events WHERE n = ?", (it.n,)).fetchone()[0][:34]
    ),
    "a position as a number": lambda db, it: envelopes.number(db, it.middle),
    "costs --by provider": lambda db, it: queries.costs(db, "provider"),
    "costs --by model": lambda db, it: queries.costs(db, "model"),
    "costs --by agent": lambda db, it: queries.costs(db, "agent"),
    "costs --by tier": lambda db, it: queries.tiers(db, _tier),
    "costs --by task": lambda db, it: queries.costs(db, "task", limit=50),
    "costs --by tree": lambda db, it: queries.costs(db, "tree", limit=50),
    "costs --by month": lambda db, it: queries.costs(db, "month"),
    "costs --by day": lambda db, it: queries.costs(db, "day"),
    "costs, the total": lambda db, it: queries.total(db),
    "costs --month": lambda db, it: queries.costs(db, "model", Spent(month=it.month)),
    "costs --tree": lambda db, it: queries.costs(db, "model", Spent(root=it.root)),
    "costs --by tree --month": lambda db, it: queries.costs(db, "tree", Spent(month=it.month), limit=50),
    "costs --by task --month --agent": lambda db, it: queries.costs(
        db, "task", Spent(month=it.month, agent=it.agent), limit=50
    ),
    "costs --tree --month": lambda db, it: queries.costs(db, "day", Spent(root=it.root, month=it.month)),
    "costs --agent --provider": lambda db, it: queries.costs(db, "day", Spent(agent=it.agent, provider="anthropic")),
    "costs --month, caps": lambda db, it: queries.budgets(db, "provider", _no_cap, it.month, it.now),
    "costs --month, an agent's caps": lambda db, it: queries.budgets(db, "agent", _no_cap, it.month, it.now),
    "costs --month, forecast": lambda db, it: queries.forecast(db, it.month, it.now),
    "agents": lambda db, it: queries.agents(db),
    "agents --month": lambda db, it: queries.agents(db, month=it.month, everybody=True),
    "agents NAME": lambda db, it: queries.agent(db, it.agent),
    "agents NAME, its models": lambda db, it: queries.by_model(db, it.agent),
    "agents NAME, its states": lambda db, it: queries.standing(db, it.agent),
    "gates": lambda db, it: queries.gates(db),
    "gates --by layer": lambda db, it: queries.gates(db, "layer"),
    "gates --by day --agent --month": lambda db, it: queries.gates(db, "day", agent=it.agent, month=it.month),
    "gates --by month --model": lambda db, it: queries.gates(db, "month", model="qwen"),
    "gates --failed": lambda db, it: queries.failed_gates(db, limit=50),
    "gates --failed --agent": lambda db, it: queries.failed_gates(db, agent=it.agent, limit=50),
    "escalations": lambda db, it: queries.escalations(db, limit=50),
    "escalations --open": lambda db, it: queries.escalations(db, open_only=True, limit=50),
    "escalations --human --level": lambda db, it: queries.escalations(db, human=True, level=4, limit=50),
    "escalations --agent --category": lambda db, it: queries.escalations(
        db, agent=it.agent, category="integration", limit=50
    ),
    "escalations --category": lambda db, it: queries.escalations(db, category="nothing", limit=50),
    "escalations, rates": lambda db, it: (queries.escalation_rates(db), queries.open_escalations(db)),
    "escalations --by month": lambda db, it: queries.escalation_rates(db, "month", month=it.month),
    "escalations --by category": lambda db, it: queries.escalation_rates(db, "category"),
    "escalations --by agent": lambda db, it: queries.escalation_rates(db, "agent", agent=it.agent),
    "the beginning of a task's ID": lambda db, it: queries.root_of(db, it.task[:34]),
    "the shortest IDs": lambda db, it: queries.short_ids(db, [it.task, it.root]),
    "completion of a task's ID": lambda db, it: names.beginning(db, "tasks", "id", it.task[:4]),
    "completion of an agent": lambda db, it: names.beginning(db, "agents", "agent", "@"),
}


def statements(database: Database, ask: Ask, sample: Sample) -> list[str]:
    """The statements that a question puts to SQLite."""
    found: list[str] = []
    database.connection.set_trace_callback(found.append)
    try:
        ask(database, sample)
    finally:
        database.connection.set_trace_callback(None)
    # What the full-text index asks by itself begins with dashes.
    return [each for each in found if not each.startswith("--")]


def plan(database: Database, statement: str) -> list[str]:
    """How SQLite answers a statement, step by step."""
    rows: list[Any] = database.connection.execute(f"EXPLAIN QUERY PLAN {statement}").fetchall()
    return [row[3] for row in rows]
