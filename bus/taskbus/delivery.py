"""Delivery: take from an inbox under a lease, renew it, settle with the outcome.

At-least-once to the handler, exactly once in effect: the outcome and the acknowledgment are one step, fenced by the
token. Whoever holds an older token than the newest delivery is refused.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

from taskbus.append import Appended, Settlement, Submission, append, script, task_of
from taskbus.codec import Document, document
from taskbus.envelope import NAME_PATTERN, PRIORITIES
from taskbus.errors import Skipped, UsageError
from taskbus.lifecycle import DELIVERED
from taskbus.log import Entry

if TYPE_CHECKING:
    from collections.abc import Sequence

    from taskbus.connection import Connection
    from taskbus.envelope import AnyEnvelope
    from taskbus.errors import TaskbusError
    from taskbus.keys import Keys
    from taskbus.lifecycle import State, Task

_NAME = re.compile(NAME_PATTERN)


@dataclass(frozen=True, slots=True)
class Delivery:
    """One envelope in the hands of one worker, until its lease lapses.

    `times` counts how often it was delivered; `known` is what the bus knew of the task at the take, None where it
    does not know it.
    """

    agent: str
    name: str
    token: int
    times: int
    entry: Entry
    known: Task | None

    @property
    def state(self) -> State | None:
        """The task's state at the take."""
        return self.known.state if self.known else None

    @property
    def is_work(self) -> bool:
        """Whether it was the work on an open task that its agent had to do, at the take."""
        known = self.known
        ours = known is not None and known.assignee == self.agent and known.token == self.token
        return ours and known is not None and known.state in DELIVERED

    @property
    def task(self) -> str:
        """The ID of the task."""
        return self.entry.task


@dataclass(frozen=True, slots=True)
class Taken:
    """What a take found.

    `lapse` is the time in seconds until the next lease lapses, None without any. `missing` are positions that stood
    in the inbox and hold nothing that taskbus wrote: the log was trimmed, emptied or written by something else.
    """

    deliveries: list[Delivery]
    lapse: float | None
    missing: tuple[str, ...] = ()


class Inbox:
    """The inbox of one agent, as one worker (`consumer`) sees it. `lease` is in seconds."""

    def __init__(self, connection: Connection, keys: Keys, agent: str, *, consumer: str, lease: float = 30.0) -> None:
        if not _NAME.fullmatch(agent):
            raise UsageError(f"{agent!r} is no agent's name.", advice="Names look like @kilo.")
        if not consumer.isprintable() or " " in consumer or not consumer:
            raise UsageError(f"{consumer!r} cannot name a worker.", advice="Use letters, digits, - and _.")
        if not 0.001 <= lease <= 7 * 86_400:
            raise UsageError(f"A lease of {lease} seconds cannot be kept.", advice="Use 0.001 to 604800 seconds.")
        self.agent = agent
        self.consumer = consumer
        self.lease = lease
        self._connection = connection
        self._keys = keys
        self._streams = keys.inboxes(agent)
        self._last = dict.fromkeys(self._streams, "0-0")

    async def take(self, count: int = 1) -> Taken:
        """Take up to `count` deliveries, those with lapsed leases first, then the most urgent."""
        keys = self._keys
        reply = await self._connection.run(
            script("take"),
            [keys.log, keys.index, keys.meta, keys.held(self.agent), keys.leases(self.agent), *self._streams],
            [keys.prefix, self.agent, self.consumer, count, int(self.lease * 1000), *PRIORITIES],
        )
        last, lapse, found, missing = cast("tuple[list[bytes], int, list[list[object]], list[bytes]]", reply)
        self._last = {stream: at.decode() for stream, at in zip(self._streams, last, strict=True)}
        return Taken(
            [self._delivery(fields) for fields in found],
            lapse / 1000 if lapse >= 0 else None,
            tuple(position.decode() for position in missing),
        )

    async def wait(self, timeout: float) -> None:
        """Wait until something new stands in the inbox, for at most `timeout` seconds; nothing is consumed."""
        await self._connection.wait(self._last, timeout=timeout, count=1)

    async def renew(self, deliveries: Sequence[Delivery]) -> list[Delivery]:
        """Begin the leases of `deliveries` anew. Returns those that are still ours."""
        args: list[str | bytes | int] = [self.consumer, int(self.lease * 1000)]
        for delivery in deliveries:
            args += (delivery.name, delivery.token, delivery.task)
        keys = [self._keys.held(self.agent), self._keys.leases(self.agent), self._keys.index]
        kept = cast("list[int]", await self._connection.run(script("renew"), keys, args))
        return [delivery for delivery, ours in zip(deliveries, kept, strict=True) if ours]

    async def settle(self, delivery: Delivery, outcomes: Sequence[AnyEnvelope | Document] = ()) -> list[Appended]:
        """Publish the outcomes and take the delivery out of the inbox, in one atomic step.

        Repeating it changes nothing. Raises Fenced when the delivery was taken again, another Conflict when an
        outcome is not legal any more, or work is still open after all of them, InvalidEnvelope for one that is not
        valid; then nothing has changed. The token stands for outcomes of the delivery's own task.
        """
        settlement = Settlement(self.agent, delivery.name, delivery.token, self.consumer, delivery.task)
        return all_appended(
            await append(
                self._connection,
                self._keys,
                [self._submission(delivery, outcome) for outcome in outcomes],
                settlements=[settlement],
            )
        )

    async def publish(self, delivery: Delivery, envelope: AnyEnvelope) -> Appended:
        """Publish something about the delivery's task under its token, and keep the delivery."""
        submissions = [self._submission(delivery, envelope)]
        return all_appended(await append(self._connection, self._keys, submissions))[0]

    def _submission(self, delivery: Delivery, outcome: AnyEnvelope | Document) -> Submission:
        ready = document(outcome)
        return Submission(ready, delivery.token if ready.envelope.task == delivery.task else None)

    async def waiting(self, count: int = 1000) -> list[tuple[str, Entry]]:
        """What stands in the inbox, as deliveries' names and entries, the most urgent first; nothing is consumed."""
        found: list[tuple[str, Entry]] = []
        for priority, stream in zip(PRIORITIES, self._streams, strict=True):
            for position, fields in await self._connection.range(stream, "-", "+", count - len(found)):
                at = fields[b"at"].decode()
                for place, entry in await self._connection.range(self._keys.log, at, at, 1):
                    found.append((f"{priority}/{position}", Entry.of(place, entry, shard=self._keys.shard)))
            if len(found) >= count:
                break
        return found

    def _delivery(self, fields: list[object]) -> Delivery:
        name, token, times, position, flat, record = cast(
            "tuple[bytes, bytes, int, bytes, list[bytes], bytes]", tuple(fields)
        )
        entry = Entry.of(position.decode(), dict(zip(flat[::2], flat[1::2], strict=True)), shard=self._keys.shard)
        known = task_of(record.decode()) if record else None
        return Delivery(self.agent, name.decode(), int(token), times, entry, known)


def all_appended(answers: Sequence[Appended | TaskbusError]) -> list[Appended]:
    """The answers of an atomic append. Raises the refusal that refused the whole call."""
    refused = [answer for answer in answers if not isinstance(answer, Appended)]
    if refused:
        raise min(refused, key=lambda error: isinstance(error, Skipped))
    return cast("list[Appended]", list(answers))
