"""The read model `tasks`: each task as it stands, folded with the same lifecycle that the server keeps."""

from __future__ import annotations

from dataclasses import dataclass, fields
from operator import attrgetter
from typing import TYPE_CHECKING, ClassVar

from taskbus.lifecycle import State, Task, advance, message_of
from taskbus_projections.instants import instant
from taskbus_projections.model import ReadModel

if TYPE_CHECKING:
    import sqlite3

    from taskbus.envelope import Delegation, Escalation, Question, Status
    from taskbus_projections.model import Fact

FINISHED: frozenset[State] = frozenset({"accepted", "canceled", "failed", "rejected"})
"""The states in which nobody owes anything for a task, unless it is delegated again."""


@dataclass(slots=True)
class _Row:
    """A row of the table; the fields are its columns, in order."""

    id: str
    root: str
    parent: str | None
    state: State
    delegator: str
    assignee: str
    coordinator: str
    attempt: int
    review: int
    created: str
    goal: str = ""
    task_type: str | None = None
    priority: str = "normal"
    deadline: str | None = None
    progress: str | None = None
    fraction: float | None = None
    updated: str = ""
    finished: str | None = None
    envelopes: int = 0
    questions: int = 0
    escalations: int = 0
    position: str = ""
    n: int = 0


_COLUMNS = [field.name for field in fields(_Row)]
_values = attrgetter(*_COLUMNS)
_LOAD = f"SELECT {', '.join(_COLUMNS)} FROM tasks WHERE id = ?"  # noqa: S608 - names of our own fields
_STORE = (
    f"INSERT INTO tasks ({', '.join(_COLUMNS)}) VALUES ({', '.join('?' * len(_COLUMNS))}) "  # noqa: S608 - the same
    f"ON CONFLICT (id) DO UPDATE SET {', '.join(f'{name} = excluded.{name}' for name in _COLUMNS[3:])}"
)


class Tasks(ReadModel):
    """Every task of the bus, and how it stands."""

    name = "tasks"
    version = 1
    tables: ClassVar[str] = """
        CREATE TABLE tasks (
            id TEXT NOT NULL PRIMARY KEY, -- the task
            root TEXT NOT NULL, -- the root of its tree: the task itself where it is a part of no other
            parent TEXT, -- the task that it is a part of
            state TEXT NOT NULL, -- in the lifecycle: submitted, working, …
            delegator TEXT NOT NULL, -- who delegated it first
            assignee TEXT NOT NULL, -- who is to do it
            coordinator TEXT NOT NULL, -- to whom the newest escalation went; before any, the delegator
            attempt INTEGER NOT NULL, -- the number of the attempt, from 1
            review INTEGER NOT NULL, -- 1 where the delegator must accept the result, else 0
            created TEXT NOT NULL, -- when the log got its first delegation; all times are ISO 8601 in UTC
            goal TEXT NOT NULL, -- what is to be reached, as the newest delegation says it
            task_type TEXT, -- the kind of work, as the newest delegation says it
            priority TEXT NOT NULL, -- of the newest delegation: critical, high, normal, low
            deadline TEXT, -- of the newest delegation
            progress TEXT, -- what the newest status of this attempt says
            fraction REAL, -- how far that status says the work is, from 0 to 1
            updated TEXT NOT NULL, -- when the log got the newest envelope about it
            finished TEXT, -- since when it is accepted, canceled, failed or rejected; else NULL
            envelopes INTEGER NOT NULL, -- how many envelopes are about it
            questions INTEGER NOT NULL, -- how many of them are questions
            escalations INTEGER NOT NULL, -- how many of them are escalations
            position TEXT NOT NULL, -- of the newest envelope about it
            n INTEGER NOT NULL -- the number of that envelope in the log, from 1
        ) STRICT;
        CREATE INDEX tasks_by_root ON tasks (root);
        CREATE INDEX tasks_by_change ON tasks (n);
    """

    def begin(self, database: sqlite3.Connection) -> None:
        """Begin a batch: no task is known yet."""
        super().begin(database)
        self._rows: dict[str, _Row] = {}
        self._tasks: dict[str, Task] = {}

    def fold(self, fact: Fact) -> None:
        """Advance the task. Raises KeyError for what the lifecycle has no rule for."""
        name = fact.entry.task
        before = self._tasks.get(name) or self._load(name)
        after = self._tasks[name] = advance(before, message_of(fact.envelope))
        if before is None:
            self._rows[name] = _created(fact, after)
        row = self._rows[name]
        if after.attempt != row.attempt:
            row.progress = row.fraction = None
        row.state, row.assignee, row.coordinator = after.state, after.assignee, after.coordinator
        row.attempt, row.review = after.attempt, int(after.review)
        row.updated, row.position, row.n = fact.time, str(fact.entry.position), fact.n
        row.finished = (row.finished or fact.time) if after.state in FINISHED else None
        row.envelopes += 1
        super().fold(fact)

    def delegation(self, fact: Fact, payload: Delegation) -> None:
        """Keep what the newest delegation says."""
        row = self._rows[fact.task]
        deadline = fact.envelope.context.deadline
        row.goal, row.task_type, row.priority = payload.goal, payload.task_type, fact.envelope.priority
        row.deadline = instant(deadline) if deadline else None

    def status(self, fact: Fact, payload: Status) -> None:
        """Keep what the newest status says."""
        row = self._rows[fact.task]
        row.progress, row.fraction = payload.progress, payload.fraction

    def question(self, fact: Fact, payload: Question) -> None:
        """Count it."""
        del payload
        self._rows[fact.task].questions += 1

    def escalation(self, fact: Fact, payload: Escalation) -> None:
        """Count it."""
        del payload
        self._rows[fact.task].escalations += 1

    def finish(self) -> None:
        """Write the tasks that the batch was about."""
        self.database.executemany(_STORE, [_values(row) for row in self._rows.values()])

    def _load(self, task: str) -> Task | None:
        found = self.database.execute(_LOAD, (task,)).fetchone()
        if found is None:
            return None
        row = self._rows[task] = _Row(*found)
        return Task(row.state, row.delegator, row.assignee, row.coordinator, row.attempt, bool(row.review))


def _created(fact: Fact, task: Task) -> _Row:
    return _Row(
        id=fact.entry.task,
        root=fact.entry.root,
        parent=fact.envelope.context.parent_task,
        state=task.state,
        delegator=task.delegator,
        assignee=task.assignee,
        coordinator=task.coordinator,
        attempt=task.attempt,
        review=int(task.review),
        created=fact.time,
    )
