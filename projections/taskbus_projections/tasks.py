"""The read model `tasks`: each task as it stands, folded with the same lifecycle that the server keeps.

It alone advances the lifecycle, and refuses what that has no rule for: what an envelope did to its task is a `Step`,
which the models after it ask for.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Final

from taskbus.envelope import MESSAGE_TYPES
from taskbus.lifecycle import TABLE, State, event_of
from taskbus_projections.instants import instant, milliseconds
from taskbus_projections.model import ReadModel
from taskbus_projections.rows import Rows
from taskbus_projections.steps import Step
from taskbus_projections.sums import Sums

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Callable

    from taskbus.envelope import Acknowledgment, Completion, Delegation, Escalation, Parking, Question, Status, Verdict
    from taskbus.lifecycle import Rule
    from taskbus_projections.model import Fact

FINISHED: frozenset[State] = frozenset({"accepted", "canceled", "failed", "rejected"})
"""The states in which nobody owes anything for a task, unless it is delegated again."""
_STAYS: Final = {
    "submitted": "submitted_ms",
    "working": "working_ms",
    "input-required": "input_required_ms",
    "completed": "completed_ms",
    "failed": "failed_ms",
    "rejected": "rejected_ms",
    "escalated": "escalated_ms",
}
"""Where the time in each state is added up; nothing leads out of the others."""


@dataclass(slots=True)
class _Row:
    """A row of the table; the fields are its columns, in order."""

    id: str
    root: str
    parent: str | None
    depth: int | None
    state: State
    delegator: str
    assignee: str
    coordinator: str
    attempt: int
    review: int
    created: str
    since: str
    goal: str = ""
    task_type: str | None = None
    priority: str = "normal"
    deadline: str | None = None
    progress: str | None = None
    fraction: float | None = None
    provider: str | None = None
    model: str | None = None
    taken: str | None = None
    result: str | None = None
    updated: str = ""
    finished: str | None = None
    elapsed_ms: int | None = None
    envelopes: int = 0
    parts: int = 0
    questions: int = 0
    escalations: int = 0
    rejections: int = 0
    parkings: int = 0
    submitted_ms: int = 0
    working_ms: int = 0
    input_required_ms: int = 0
    completed_ms: int = 0
    failed_ms: int = 0
    rejected_ms: int = 0
    escalated_ms: int = 0
    escalation: int | None = None
    position: str = ""
    n: int = 0


@dataclass(slots=True)
class _Standing:
    """A row of the table `standing`."""

    assignee: str
    state: State
    tasks: int = 0


class Tasks(ReadModel):
    """Every task of the bus, and how it stands."""

    name = "tasks"
    version = 3
    tables: ClassVar[str] = """
        CREATE TABLE tasks ( -- Every task of the bus, and how it stands.
            id TEXT NOT NULL PRIMARY KEY, -- the task
            root TEXT NOT NULL, -- the root of its tree: the task itself where it is a part of no other
            parent TEXT, -- the task that it is a part of
            depth INTEGER, -- how many tasks stand above it in its tree; NULL where its parent was not known then
            state TEXT NOT NULL, -- in the lifecycle: submitted, working, …
            delegator TEXT NOT NULL, -- who delegated it first
            assignee TEXT NOT NULL, -- who is to do it
            coordinator TEXT NOT NULL, -- to whom the newest escalation went; before any, the delegator
            attempt INTEGER NOT NULL, -- the number of the attempt, from 1: so many attempts there were
            review INTEGER NOT NULL, -- 1 where the delegator must accept the result, else 0
            created TEXT NOT NULL, -- when the log got its first delegation; all times are ISO 8601 in UTC
            since TEXT NOT NULL, -- since when it is in its state
            goal TEXT NOT NULL, -- what is to be reached, as the newest delegation says it
            task_type TEXT, -- the kind of work, as the newest delegation says it
            priority TEXT NOT NULL, -- of the newest delegation: critical, high, normal, low
            deadline TEXT, -- of the newest delegation
            progress TEXT, -- what the newest status of this attempt says
            fraction REAL, -- how far that status says the work is, from 0 to 1
            provider TEXT, -- who runs the model of this attempt, as the acknowledgment says it
            model TEXT, -- the model of this attempt, as the acknowledgment says it
            taken TEXT, -- when this attempt was acknowledged; NULL where it was done without that
            result TEXT, -- what the newest completion says: success, partial, failure
            updated TEXT NOT NULL, -- when the log got the newest envelope about it
            finished TEXT, -- since when it is accepted, canceled, failed or rejected; else NULL
            elapsed_ms INTEGER, -- from `created` to `finished`, in milliseconds
            envelopes INTEGER NOT NULL, -- how many envelopes are about it
            parts INTEGER NOT NULL, -- how many tasks are parts of it, those of its parts not counted
            questions INTEGER NOT NULL, -- how many of the envelopes are questions
            escalations INTEGER NOT NULL, -- how many of them are escalations
            rejections INTEGER NOT NULL, -- how many of them are verdicts that reject
            parkings INTEGER NOT NULL, -- how many of them say that deliveries were set aside
            submitted_ms INTEGER NOT NULL, -- for how many milliseconds it waited to be taken on, or done without that
            working_ms INTEGER NOT NULL, -- for how many it was worked on; the stay since `since` is not in it
            input_required_ms INTEGER NOT NULL, -- for how many it waited for an answer to a question
            completed_ms INTEGER NOT NULL, -- for how many it waited for a verdict
            failed_ms INTEGER NOT NULL, -- for how many it had failed, until it was delegated again
            rejected_ms INTEGER NOT NULL, -- for how many it was declined, until it was delegated again
            escalated_ms INTEGER NOT NULL, -- for how many it was escalated
            escalation INTEGER REFERENCES events (n), -- the newest escalation that nobody has dealt with; else NULL
            position TEXT NOT NULL, -- of the newest envelope about it
            n INTEGER NOT NULL REFERENCES events (n) -- the number of that envelope in the log, from 1
        ) STRICT;
        CREATE TABLE standing ( -- How many tasks stand in each state, by assignee.
            assignee TEXT NOT NULL, -- who is to do them
            state TEXT NOT NULL, -- in the lifecycle
            tasks INTEGER NOT NULL, -- how many; 0 where there were some
            PRIMARY KEY (assignee, state)
        ) STRICT, WITHOUT ROWID;
        CREATE VIEW open_work AS -- Tasks for which somebody still owes something, the oldest first.
            SELECT
                id, -- the task
                root, -- the root of its tree
                state, -- in the lifecycle
                CASE
                    WHEN state IN ('submitted', 'working') THEN assignee
                    WHEN state = 'escalated' THEN coordinator
                    ELSE delegator
                END AS holder, -- whose turn it is
                assignee, -- who is to do it
                delegator, -- who delegated it
                priority, -- critical, high, normal, low
                attempt, -- the number of the attempt
                created, -- when it was delegated first: its age counts from then
                since, -- since when it is in its state
                deadline, -- when it must be done
                goal -- what is to be reached
            FROM tasks WHERE finished IS NULL ORDER BY created;
        CREATE VIEW slowest_tasks AS -- Tasks that are finished, the slowest first, and where the time went.
            SELECT
                id, -- the task
                root, -- the root of its tree
                state, -- how it ended
                assignee, -- who did it last
                attempt, -- how many attempts it took
                elapsed_ms, -- milliseconds from the first delegation to the end
                submitted_ms, -- milliseconds for which it waited to be taken on
                working_ms, -- milliseconds of work
                input_required_ms, -- milliseconds for which it waited for an answer
                completed_ms, -- milliseconds for which it waited for a verdict
                escalated_ms, -- milliseconds for which it was escalated
                failed_ms + rejected_ms AS given_up_ms, -- milliseconds until it was delegated again
                goal -- what was to be reached
            FROM tasks WHERE elapsed_ms IS NOT NULL ORDER BY elapsed_ms DESC;
    """
    indexes: ClassVar[str] = """
        CREATE INDEX tasks_by_change ON tasks (n);
        CREATE INDEX tasks_by_root ON tasks (root);
        CREATE INDEX tasks_by_parent ON tasks (parent) WHERE parent IS NOT NULL;
        CREATE INDEX tasks_by_state ON tasks (state, n);
        CREATE INDEX tasks_by_assignee ON tasks (assignee, state, n);
        CREATE INDEX tasks_by_delegator ON tasks (delegator, state, n);
        CREATE INDEX tasks_by_type ON tasks (task_type, n) WHERE task_type IS NOT NULL;
        CREATE INDEX tasks_by_age ON tasks (created, n);
        CREATE INDEX tasks_unfinished ON tasks (created) WHERE finished IS NULL;
        CREATE INDEX tasks_by_time ON tasks (elapsed_ms) WHERE elapsed_ms IS NOT NULL;
    """

    def __init__(self) -> None:
        """Know no task yet."""
        self._rows = Rows("tasks", _Row)
        self._standing = Sums("standing", _Standing, key=2)
        self._row: _Row
        self._says: dict[str, Callable[[Fact, Any], None]] = {
            kind: getattr(self, kind) for kind in MESSAGE_TYPES if kind in vars(Tasks)
        }
        self.step: Step | None = None
        """What the envelope that is folded now did to its task; None where that could not be folded."""

    def begin(self, database: sqlite3.Connection) -> None:
        """Begin a batch: no task is known yet."""
        super().begin(database)
        self._rows.begin(database)
        self._standing.clear()
        self.step = None

    def fold(self, fact: Fact) -> None:
        """Advance the task. Raises KeyError for what the lifecycle has no rule for."""
        self.step = None
        entry, envelope = fact.entry, fact.envelope
        event = event_of(envelope)
        if event == "budget:cap":
            return  # it is about money alone, and the name that it goes by is no task
        row = self._rows.get(entry.task)
        if row is None:
            row = self._add(fact, _after(TABLE[None, event], review=True))
            step = Step(event, None, row.state, row.attempt, row.assignee, row.assignee)
        else:
            rule = TABLE[row.state, event]
            after = _after(rule, review=bool(row.review))
            moved = rule.attempt or after != row.state
            step = Step(
                event,
                row.state,
                after,
                row.attempt + rule.attempt,
                row.assignee,
                entry.recipient if event == "delegation" else row.assignee,
                moved,
                entry.position.ms - milliseconds(row.since) if moved else None,
                row.provider,
                row.model,
                row.taken,
                row.escalation,
            )
            if moved:
                self._move(fact, row, step)
        row.updated, row.position, row.n = fact.time, fact.position, fact.n
        row.envelopes += 1
        self._row, self.step = row, step
        says = self._says.get(envelope.type)
        if says is not None:
            says(fact, envelope.payload)

    def finish(self) -> None:
        """Write the tasks that the batch was about."""
        self._rows.finish()
        self._standing.finish(self.database)

    def delegation(self, fact: Fact, payload: Delegation) -> None:
        """Keep what the newest delegation says."""
        row = self._row
        deadline = fact.envelope.context.deadline
        row.goal, row.task_type, row.priority = payload.goal, payload.task_type, fact.envelope.priority
        row.review = int(payload.review_required)
        row.deadline = instant(deadline) if deadline else None

    def acknowledgment(self, fact: Fact, payload: Acknowledgment) -> None:
        """Keep on which model the work goes on."""
        if payload.accepted:
            row = self._row
            row.provider, row.model, row.taken = payload.provider, payload.model, fact.time

    def status(self, fact: Fact, payload: Status) -> None:
        """Keep what the newest status says."""
        del fact
        self._row.progress, self._row.fraction = payload.progress, payload.fraction

    def question(self, fact: Fact, payload: Question) -> None:
        """Count it."""
        del fact, payload
        self._row.questions += 1

    def completion(self, fact: Fact, payload: Completion) -> None:
        """Keep how it ended."""
        del fact
        self._row.result = payload.result.status

    def verdict(self, fact: Fact, payload: Verdict) -> None:
        """Count a rejection."""
        del fact
        self._row.rejections += payload.decision == "rejected"

    def escalation(self, fact: Fact, payload: Escalation) -> None:
        """Count it; it is open until the task leaves its state."""
        del payload
        self._row.escalations += 1
        self._row.escalation, self._row.coordinator = fact.n, fact.entry.recipient

    def parking(self, fact: Fact, payload: Parking) -> None:
        """Count what was set aside."""
        del fact
        self._row.parkings += payload.parking == "parked"

    def _add(self, fact: Fact, state: State) -> _Row:
        """The row of a new task, which is counted as a part of its parent."""
        entry, parent = fact.entry, fact.envelope.context.parent_task
        above = self._rows.get(parent) if parent is not None else None
        if above is not None:
            above.parts += 1
        row = _Row(
            id=entry.task,
            root=entry.root,
            parent=parent,
            depth=0 if parent is None else None if above is None or above.depth is None else above.depth + 1,
            state=state,
            delegator=entry.sender,
            assignee=entry.recipient,
            coordinator=entry.sender,
            attempt=1,
            review=1,
            created=fact.time,
            since=fact.time,
        )
        self._standing[row.assignee, row.state].tasks += 1
        return self._rows.add(row)

    def _move(self, fact: Fact, row: _Row, step: Step) -> None:
        """Let the task leave its state for the next one."""
        self._standing[row.assignee, row.state].tasks -= 1
        self._standing[step.assignee, step.after].tasks += 1
        stay = _STAYS.get(row.state)
        if stay:
            setattr(row, stay, getattr(row, stay) + step.stayed)
        if step.attempt != row.attempt:
            row.progress = row.fraction = None
        if step.after == "submitted":
            row.provider = row.model = row.taken = None
        if step.after in FINISHED:
            row.finished, row.elapsed_ms = fact.time, fact.entry.position.ms - milliseconds(row.created)
        else:
            row.finished = row.elapsed_ms = None
        row.state, row.since, row.attempt, row.assignee = step.after, fact.time, step.attempt, step.assignee
        row.escalation = None


def _after(rule: Rule, *, review: bool) -> State:
    """The state that a rule leads to."""
    after = rule.unreviewed if rule.unreviewed and not review else rule.to
    if after is None:
        raise KeyError(rule.event)
    return after
