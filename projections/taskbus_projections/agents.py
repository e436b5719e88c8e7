"""The read model `agents`: what each agent took on, how that ended, and how long it took.

A delivery is credited to whoever was to do the work at that moment, on the model that its acknowledgment named. Work
with a completion alone was taken on with that, and how long it took is not known. When an agent was seen is told by
what it said itself: what somebody sent by hand in its name is no sign of life.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Final

from taskbus.envelope import Acknowledgment, Completion, Parking
from taskbus.lifecycle import HUMAN
from taskbus_projections.instants import milliseconds
from taskbus_projections.steps import Follower
from taskbus_projections.sums import Sums

if TYPE_CHECKING:
    import sqlite3

    from taskbus.lifecycle import Event
    from taskbus_projections.model import Fact
    from taskbus_projections.steps import Step

_FINE: Final = 5
"""Times are told apart to so many binary digits: a bucket is at most a sixteenth of its time wide."""
_COUNTERS: Final[dict[Event, str]] = {
    "acknowledgment:accepted": "taken",
    "acknowledgment:declined": "declined",
    "question": "questions",
    "completion:done": "completed",
    "completion:failure": "failed",
    "verdict:accepted": "accepted",
    "verdict:rejected": "rejected",
    "escalation": "escalated",
    "cancellation": "canceled",
}
"""What is counted of each event, for whoever was to do the work."""


@dataclass(slots=True)
class _Agent:
    """A row of `agents`."""

    agent: str
    first_seen: str | None = None
    last_seen: str | None = None
    envelopes: int = 0
    by_hand: int = 0
    received: int = 0
    delegated: int = 0


@dataclass(slots=True)
class _Day:
    """A row of `agent_days`."""

    day: str
    agent: str
    model: str
    assigned: int = 0
    repeats: int = 0
    taken: int = 0
    declined: int = 0
    completed: int = 0
    partial: int = 0
    failed: int = 0
    questions: int = 0
    escalated: int = 0
    parked: int = 0
    canceled: int = 0
    accepted: int = 0
    rejected: int = 0
    wait_ms: int = 0
    cycles: int = 0
    cycle_ms: int = 0
    cycle_min_ms: int | None = None
    cycle_max_ms: int | None = None


@dataclass(slots=True)
class _Cycle:
    """A row of `cycles`."""

    agent: str
    month: str
    bucket_ms: int
    deliveries: int = 0


def bucket(ms: int) -> int:
    """The least time of the bucket of the histogram that a time is counted in, both in milliseconds."""
    shift = max(0, ms.bit_length() - _FINE)
    return ms >> shift << shift


class Agents(Follower):
    """What every agent did, by day and model; and how its times are distributed."""

    name = "agents"
    version = 2
    tables: ClassVar[str] = """
        CREATE TABLE agents ( -- Everybody who said something or was told something, and when they were seen.
            agent TEXT NOT NULL PRIMARY KEY, -- the name
            first_seen TEXT, -- when it first said something itself; NULL where it never did
            last_seen TEXT, -- when it last said something itself, ISO 8601 in UTC
            envelopes INTEGER NOT NULL, -- how many envelopes are from it, those by hand included
            by_hand INTEGER NOT NULL, -- how many of them somebody sent by hand in its name
            received INTEGER NOT NULL, -- how many envelopes were addressed to it
            delegated INTEGER NOT NULL -- how many delegations are from it
        ) STRICT, WITHOUT ROWID;
        CREATE TABLE agent_days ( -- What became of deliveries on a day, by agent and model.
            day TEXT NOT NULL, -- when it happened, in UTC: 2026-11-20
            agent TEXT NOT NULL, -- who was to do the work
            model TEXT NOT NULL, -- on which model, by its acknowledgment; empty where nobody said it, or not yet
            assigned INTEGER NOT NULL, -- how many were given to it: delegated, rejected by a verdict, or replayed
            repeats INTEGER NOT NULL, -- how many of those are no first attempt
            taken INTEGER NOT NULL, -- how many it took on: by an acknowledgment, or by a completion without one
            declined INTEGER NOT NULL, -- how many it declined
            completed INTEGER NOT NULL, -- how many it completed, in whole or in part
            partial INTEGER NOT NULL, -- how many of those in part
            failed INTEGER NOT NULL, -- how many it completed as a failure
            questions INTEGER NOT NULL, -- how many questions it asked
            escalated INTEGER NOT NULL, -- how many were escalated, by itself or by the bus
            parked INTEGER NOT NULL, -- how many were set aside
            canceled INTEGER NOT NULL, -- how many were canceled while it was to do them
            accepted INTEGER NOT NULL, -- how many results were accepted, by a verdict or since none was asked for
            rejected INTEGER NOT NULL, -- how many results were rejected by a verdict
            wait_ms INTEGER NOT NULL, -- how long those it took on had waited up to that in all, in milliseconds
            cycles INTEGER NOT NULL, -- for how many of the completed and failed ones it is known when they began
            cycle_ms INTEGER NOT NULL, -- how long those took in all, in milliseconds
            cycle_min_ms INTEGER, -- how long the fastest of them took
            cycle_max_ms INTEGER, -- how long the slowest of them took
            PRIMARY KEY (agent, day, model)
        ) STRICT, WITHOUT ROWID;
        CREATE TABLE cycles ( -- How long deliveries took from their acknowledgment to their completion: a histogram.
            agent TEXT NOT NULL, -- who did the work
            month TEXT NOT NULL, -- of the completion, in UTC: 2026-11
            bucket_ms INTEGER NOT NULL, -- the least time that is counted here; the greatest is less than 1/16 more
            deliveries INTEGER NOT NULL, -- how many took so long
            PRIMARY KEY (agent, month, bucket_ms)
        ) STRICT, WITHOUT ROWID;
        CREATE VIEW agent_totals AS -- What became of the deliveries of each agent, and at which rates.
            SELECT
                agent, -- who was to do the work
                sum(assigned) AS assigned, -- how many deliveries were given to it
                sum(repeats) AS repeats, -- how many of those are no first attempt
                sum(taken) AS taken, -- how many it took on, by an acknowledgment or a completion without one
                sum(declined) AS declined, -- how many it declined
                sum(completed) AS completed, -- how many it completed, in whole or in part
                sum(failed) AS failed, -- how many it completed as a failure
                sum(escalated) AS escalated, -- how many were escalated
                sum(parked) AS parked, -- how many were set aside
                sum(accepted) AS accepted, -- how many results were accepted
                sum(rejected) AS rejected, -- how many results were rejected
                round(1.0 * sum(completed) / nullif(sum(completed) + sum(failed) + sum(escalated), 0), 4)
                    AS success_rate, -- completed, of what was completed, failed or escalated; from 0 to 1
                round(1.0 * sum(rejected) / nullif(sum(accepted) + sum(rejected), 0), 4)
                    AS rework_rate, -- rejected, of the results that were judged; from 0 to 1
                round(1.0 * sum(escalated) / nullif(sum(assigned), 0), 4)
                    AS escalation_rate, -- escalated, of what was given to it; from 0 to 1
                sum(cycle_ms) / nullif(sum(cycles), 0) AS mean_cycle_ms, -- from being taken on to the completion
                min(cycle_min_ms) AS cycle_min_ms, -- the fastest
                max(cycle_max_ms) AS cycle_max_ms, -- the slowest
                sum(wait_ms) / nullif(sum(taken), 0) AS mean_wait_ms -- from being given to it to being taken on
            FROM agent_days GROUP BY agent;
        CREATE VIEW work_by_month AS -- What became of all deliveries in each month, and at which rates.
            SELECT
                month, -- in UTC: 2026-11
                sum(assigned) AS assigned, -- how many deliveries were given to somebody
                sum(repeats) AS repeats, -- how many of those are no first attempt
                sum(completed) AS completed, -- how many were completed, in whole or in part
                sum(failed) AS failed, -- how many were completed as a failure
                sum(accepted) AS accepted, -- how many results were accepted
                sum(rejected) AS rejected, -- how many results were rejected
                sum(incidents) AS incidents, -- how many were escalated
                sum(human) AS human, -- how many of those reached a human
                round(1.0 * sum(repeats) / nullif(sum(assigned), 0), 4) AS repeat_rate, -- from 0 to 1
                round(1.0 * sum(rejected) / nullif(sum(accepted) + sum(rejected), 0), 4)
                    AS rework_rate, -- rejected, of the results that were judged; from 0 to 1
                round(1.0 * sum(incidents) / nullif(sum(assigned), 0), 4) AS escalation_rate, -- from 0 to 1
                round(1.0 * sum(human) / nullif(sum(incidents), 0), 4)
                    AS human_share -- of what was escalated, what reached a human; from 0 to 1
            FROM (
                SELECT
                    substr(day, 1, 7) AS month, assigned, repeats, completed, failed, accepted, rejected,
                    0 AS incidents, 0 AS human
                FROM agent_days
                UNION ALL
                SELECT substr(day, 1, 7), 0, 0, 0, 0, 0, 0, incidents, human FROM escalation_days
            ) GROUP BY month;
        CREATE VIEW cycle_times AS -- The time within which half and 95% of an agent's deliveries were completed.
            SELECT
                agent, -- who did the work
                max(total) AS deliveries, -- how many
                min(CASE WHEN 2 * upto >= total THEN bucket_ms END) AS p50_ms, -- half took less, to 1/16
                min(CASE WHEN 100 * upto >= 95 * total THEN bucket_ms END) AS p95_ms -- 95% took less, to 1/16
            FROM (
                SELECT
                    agent,
                    bucket_ms,
                    sum(sum(deliveries)) OVER (PARTITION BY agent) AS total,
                    sum(sum(deliveries)) OVER (PARTITION BY agent ORDER BY bucket_ms) AS upto
                FROM cycles GROUP BY agent, bucket_ms
            ) GROUP BY agent;
        CREATE VIEW cost_of_acceptance AS -- What an accepted result costs, by month, agent and model.
            SELECT
                month, -- in UTC: 2026-11
                agent, -- who did the work
                model, -- on which model; empty where nobody said it
                sum(accepted) AS accepted, -- how many results were accepted
                sum(cost_microusd) AS cost_microusd, -- what its calls with a price cost, also of failures
                sum(unpriced_calls) AS unpriced_calls, -- how many calls have no price
                sum(cost_microusd) / nullif(sum(accepted), 0) AS microusd_per_accepted -- NULL where none was accepted
            FROM (
                SELECT substr(day, 1, 7) AS month, agent, model, accepted, NULL AS cost_microusd, 0 AS unpriced_calls
                FROM agent_days
                UNION ALL
                SELECT substr(day, 1, 7), agent, model, 0, cost_microusd, unpriced_calls FROM spending
            ) GROUP BY month, agent, model;
    """
    indexes: ClassVar[str] = """
        CREATE INDEX agent_days_by_day ON agent_days (day);
    """

    def __init__(self) -> None:
        """Know nobody yet."""
        self._agents = Sums("agents", _Agent, key=1, least=["first_seen"], greatest=["last_seen"])
        self._days = Sums("agent_days", _Day, key=3, least=["cycle_min_ms"], greatest=["cycle_max_ms"])
        self._cycles = Sums("cycles", _Cycle, key=3)

    def begin(self, database: sqlite3.Connection) -> None:
        """Begin a batch."""
        super().begin(database)
        for sums in (self._agents, self._days, self._cycles):
            sums.clear()

    def fold(self, fact: Fact) -> None:
        """Note who was seen; then what became of the delivery."""
        entry, by_hand = fact.entry, fact.envelope.context.by_hand
        sender = self._agents[(entry.sender,)]
        sender.envelopes += 1
        sender.by_hand += by_hand
        sender.delegated += entry.type == "delegation"
        if not by_hand or entry.sender == HUMAN:
            sender.first_seen = sender.first_seen or fact.time
            sender.last_seen = fact.time
        self._agents[(entry.recipient,)].received += 1
        step = self._tasks.step
        if step is not None:
            self._follow(fact, step)

    def _follow(self, fact: Fact, step: Step) -> None:
        """Count what became of the delivery."""
        payload = fact.envelope.payload
        if step.moved and step.after == "submitted":
            given = self._day(fact, step.assignee, None)
            given.assigned += 1
            given.repeats += step.attempt > 1
        counter = _COUNTERS.get(step.event)
        if isinstance(payload, Parking):
            if payload.parking == "parked":
                model = step.model if payload.agent == step.agent else None
                self._day(fact, payload.agent, model).parked += len(set(payload.deliveries))
        elif counter is not None and not (counter == "escalated" and step.escalation is not None):
            accepted = payload if isinstance(payload, Acknowledgment) and payload.accepted else None
            day = self._day(fact, step.agent, accepted.model if accepted else step.model)
            setattr(day, counter, getattr(day, counter) + 1)
            is_first = isinstance(payload, Completion) and step.before == "submitted"
            if accepted or is_first:
                day.taken += is_first
                day.wait_ms += step.stayed or 0
            if isinstance(payload, Completion):
                day.partial += payload.result.status == "partial"
                day.accepted += step.after == "accepted"
                self._time(fact, step, day)

    def finish(self) -> None:
        """Write the rows that the batch was about."""
        for sums in (self._agents, self._days, self._cycles):
            sums.finish(self.database)

    def _time(self, fact: Fact, step: Step, day: _Day) -> None:
        """How long a delivery took, where it is known when it was taken on."""
        if step.taken is None:
            return
        ms = fact.entry.position.ms - milliseconds(step.taken)
        day.cycles += 1
        day.cycle_ms += ms
        day.cycle_min_ms = ms if day.cycle_min_ms is None else min(day.cycle_min_ms, ms)
        day.cycle_max_ms = ms if day.cycle_max_ms is None else max(day.cycle_max_ms, ms)
        self._cycles[step.agent, fact.time[:7], bucket(ms)].deliveries += 1

    def _day(self, fact: Fact, agent: str, model: str | None) -> _Day:
        return self._days[fact.time[:10], agent, model or ""]
