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
        """Hash: the position of each envelope by its ID, the record of each task by `task:<id>`."""
        return self.prefix + "index"

    @cached_property
    def meta(self) -> str:
        """Hash: `token`, the newest fencing token."""
        return self.prefix + "meta"

    def inbox(self, agent: str, priority: str) -> str:
        """Stream: the deliveries of one priority that an agent has not settled; its group is named as the agent."""
        return f"{self.prefix}inbox:{agent}:{priority}"

    def inboxes(self, agent: str) -> list[str]:
        """The inbox of an agent: one stream for each priority, the most urgent first."""
        return [self.inbox(agent, priority) for priority in PRIORITIES]

    def held(self, agent: str) -> str:
        """Hash: token and consumer of each delivery that is leased, by `priority/entry`."""
        return f"{self.prefix}held:{agent}"

    def leases(self, agent: str) -> str:
        """Sorted set: the end of each lease in milliseconds since the epoch, by `priority/entry`."""
        return f"{self.prefix}leases:{agent}"
