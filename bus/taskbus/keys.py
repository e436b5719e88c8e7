"""The names of all keys of a bus: each begins with the namespace, and one shard's keys share a hash slot.

The layout is a contract: the server-side scripts build the same names from `Keys.prefix`.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

from taskbus.envelope import PRIORITIES


@dataclass(frozen=True)
class Keys:
    """The keys of one shard of a namespace, such as `marketing_tvoje_info:{0}:log`.

    The hash tag holds the shard's number alone, so that it stands after the namespace, and Redis Cluster puts all
    keys of a shard on one node.
    """

    namespace: str
    shard: int = 0

    @cached_property
    def prefix(self) -> str:
        """What each key of the shard begins with."""
        return f"{self.namespace}{{{self.shard}}}:"

    @cached_property
    def log(self) -> str:
        """Stream: every envelope, in order."""
        return self.prefix + "log"

    @cached_property
    def index(self) -> str:
        """Hash: the position of each envelope by its ID, the record of each task by `task:<id>`, everybody's name.

        By `old:<task>` the IDs of a task's envelopes that were trimmed before it ended.
        """
        return self.prefix + "index"

    @cached_property
    def meta(self) -> str:
        """Hash: the newest fencing token, the last take of each worker, how far supervision has looked."""
        return self.prefix + "meta"

    @cached_property
    def agents(self) -> str:
        """Set: everybody who was ever sent anything."""
        return self.prefix + "agents"

    @cached_property
    def workers(self) -> str:
        """Sorted set: when each worker was seen last, in milliseconds since the epoch, by `agent consumer`."""
        return self.prefix + "workers"

    @cached_property
    def deadlines(self) -> str:
        """Sorted set: the deadline of each open task that has one, in milliseconds since the epoch."""
        return self.prefix + "deadlines"

    @cached_property
    def escalations(self) -> str:
        """Sorted set: since when each escalated task is with who has it now, in milliseconds since the epoch."""
        return self.prefix + "escalations"

    @cached_property
    def budget(self) -> str:
        """Hash: what is committed and held of each account, the caps on record, as `scripts/money.lua` says."""
        return self.prefix + "budget"

    @cached_property
    def holds(self) -> str:
        """Hash: the money that is reserved for each task."""
        return self.prefix + "holds"

    @cached_property
    def archive(self) -> str:
        """Hash: up to which number and position the log was trimmed, the link there, and where that can be read."""
        return self.prefix + "archive"

    @cached_property
    def projections(self) -> str:
        """Hash: by its name, how far each database has folded this log, and when it said so, as `position ms`."""
        return self.prefix + "projections"

    @cached_property
    def again(self) -> str:
        """Sorted set: what was put back into an inbox, as `agent delivery position`, by that position's time.

        Other deliveries stand in their stream in the order of the log, these do not. Cleaned by the trim.
        """
        return self.prefix + "again"

    def inbox(self, agent: str, priority: str) -> str:
        """Stream: the deliveries of one priority that an agent has not settled; its group is named as the agent."""
        return f"{self.prefix}inbox:{agent}:{priority}"

    def inboxes(self, agent: str) -> list[str]:
        """The inbox of an agent: one stream for each priority, the most urgent first."""
        return [self.inbox(agent, priority) for priority in PRIORITIES]

    def held(self, agent: str) -> str:
        """Hash: token, consumer, tries and reason of each delivery that was taken, by `priority/entry`.

        The consumer is `-` where nobody has it: it waits to be taken again, for the reason that stands there.
        """
        return f"{self.prefix}held:{agent}"

    def leases(self, agent: str) -> str:
        """Sorted set: by `priority/entry`, the end of the lease in milliseconds since the epoch, or of the wait."""
        return f"{self.prefix}leases:{agent}"

    def parked(self, agent: str) -> str:
        """Hash: by task, the deliveries that are set aside, and those of the task that wait behind them."""
        return f"{self.prefix}parked:{agent}"

    def bell(self, agent: str) -> str:
        """Stream of one entry: wakes idle workers for what is handed back to an inbox without being new in it."""
        return f"{self.prefix}bell:{agent}"
