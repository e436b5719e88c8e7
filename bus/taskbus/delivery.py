"""Delivery: take from an inbox under a lease, renew it, settle with the outcome, park it or give it back.

At-least-once to the handler, exactly once in effect: the outcome and the acknowledgment are one step, fenced by the
token. Whoever holds an older token than the newest delivery is refused.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

from msgspec import Struct
from msgspec.structs import replace

from taskbus.append import Appended, Settlement, Submission, Unit, all_appended, commit, script, task_of
from taskbus.codec import JSON, Document, document
from taskbus.envelope import NAME_PATTERN, PRIORITIES, new_id
from taskbus.errors import ForeignEntry, UsageError
from taskbus.lifecycle import BUS, DELIVERED
from taskbus.log import Entry
from taskbus.payload import ID_PATTERN, TASK_PATTERN
from taskbus.position import Position
from taskbus.validation import hashed_id

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from typing import Any

    from taskbus.connection import Connection
    from taskbus.envelope import AnyEnvelope
    from taskbus.keys import Keys
    from taskbus.lifecycle import State, Task
    from taskbus.payload import FailureReason

_NAME = re.compile(NAME_PATTERN)
# What is said of a delivery is said in words and with its IDs, so one that somebody else wrote must have such ones.
_HEADER = re.compile(" ".join(pattern[1:-2] for pattern in (ID_PATTERN, NAME_PATTERN, TASK_PATTERN, TASK_PATTERN)))


class Delivery(Struct, frozen=True, gc=False):
    """One envelope in the hands of one worker, until its lease lapses.

    `tries` counts how often it was taken, this time included, without those that were handed back or waited for a
    quota; `known` is what the bus knew of the task at the take, None where it does not know it, and `record` the same
    as the server writes it.
    """

    agent: str
    name: str
    token: int
    tries: int
    entry: Entry
    known: Task | None
    record: str = ""

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
    def is_to_decide(self) -> bool:
        """Whether it was the open escalation of its task, which its agent had to deal with, at the take."""
        known = self.known
        ours = known is not None and known.coordinator == self.agent and known.cause == self.entry.id
        return ours and known is not None and known.state == "escalated"

    @property
    def task(self) -> str:
        """The ID of the task."""
        return self.entry.task

    def outcome_id(self, number: int | str) -> str:
        """The ID of an outcome of this delivery, by its number or name among them.

        It is the same whoever works on the delivery, and however often it is taken: the outcome of one attempt that
        was published cannot be published by another one.
        """
        said = f"{self.agent} {self.name} {self.entry.id} {number}"
        return hashed_id(self.entry.position.ms, said.encode())


@dataclass(frozen=True, slots=True)
class Taken:
    """What a take found.

    `lapse` is the time in seconds until the next lease lapses, or a wait is over; None without any. `missing` are
    positions that stood in the inbox and hold nothing that taskbus wrote: the log was trimmed, emptied or written by
    something else. `newest` is the newest fencing token, `before` what it was before this take: when that is older
    than what an earlier take brought, or `born` is another time, the server has lost what it knew. `remade` are
    priorities whose stream or group somebody deleted; they are named again until `taskbus.mending` has put back what
    is missing.
    """

    deliveries: list[Delivery]
    lapse: float | None
    missing: tuple[str, ...] = ()
    newest: int = 0
    before: int = 0
    born: int = 0
    remade: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Release:
    """A delivery that is given back, to be taken again after `wait` seconds.

    `counts` says whether it counts as a try; `reason` is kept beside it.
    """

    delivery: Delivery
    wait: float = 0.0
    counts: bool = False
    reason: str = "handed-back"


class Inbox:
    """The inbox of one agent, as one worker (`consumer`) sees it. `lease` is in seconds.

    `is_uncertain` says that nobody knows whether the take before was carried out: it was cancelled or lost.
    """

    def __init__(self, connection: Connection, keys: Keys, agent: str, *, consumer: str, lease: float = 30.0) -> None:
        if not _NAME.fullmatch(agent):
            raise UsageError(f"{agent!r} is no agent's name.", advice="Names look like @kilo.")
        if agent == BUS:
            raise UsageError("Nothing is delivered to @bus.", advice="What it is told stands in the log alone.")
        if not consumer.isprintable() or " " in consumer or not consumer:
            raise UsageError(f"{consumer!r} cannot name a worker.", advice="Use letters, digits, - and _.")
        if not 0.001 <= lease <= 7 * 86_400:
            raise UsageError(f"A lease of {lease:g} seconds cannot be kept.", advice="Use 1 ms to 7 days.")
        self.agent = agent
        self.consumer = consumer
        self.lease = lease
        self._connection = connection
        self._keys = keys
        self._streams = keys.inboxes(agent)
        self._watched = [keys.bell(agent), *self._streams]
        self._last = dict.fromkeys(self._watched, "0-0")
        self._last_renewed = self._last
        # Every take has a name of its own, until its reply is here: repeated under the same name it gives the same.
        self._name, self._taken = new_id()[-12:], 1
        self.is_uncertain = False

    async def take(self, count: int = 1, wait: float = 0.0, *, in_hand: Iterable[int] = ()) -> Taken:
        """Take up to `count` deliveries (1000 at most), the most urgent first; each has its lease from now on.

        With `wait`, first wait for so many seconds at most until something new stands in the inbox: something that
        came since the last take that found less than it was to take. What has a token of those `in_hand` is not given
        again, even where its lease has lapsed. A take that was cancelled, or whose reply was lost, may have been
        carried out: the next one gives what it took. With a count of 0 it gives nothing else.
        """
        keys, agent = self._keys, self.agent
        names = [
            *(keys.log, keys.index, keys.meta, keys.held(agent), keys.leases(agent), keys.parked(agent)),
            *(keys.workers, *self._watched),
        ]
        args = [
            *(keys.prefix, agent, self.consumer, min(count, 1000), int(self.lease * 1000)),
            *(f"{self._name}-{self._taken}", " ".join(map(str, in_hand)), *PRIORITIES),
        ]
        self.is_uncertain = True
        if wait > 0:
            reply = await self._connection.wait_and_run(self._last, script("take"), names, args, timeout=wait)
        else:
            reply = await self._connection.run(script("take"), names, args)
        last, lapse, found, missing, newest, before, born, remade = cast(
            "tuple[list[bytes], int, list[Any], list[bytes], bytes, bytes, bytes, list[bytes]]", reply
        )
        deliveries: list[Delivery] = []
        foreign: list[tuple[Unit, bytes]] = []
        for what, record, body in zip(found[::3], found[1::3], found[2::3], strict=True):
            try:
                deliveries.append(self._delivery(what, record, body))
            except ForeignEntry:
                foreign.append(self._taking_out(what))
        if foreign:
            await commit(self._connection, self._keys, [unit for unit, _ in foreign])
        self.is_uncertain = False
        self._taken += 1
        if last:
            self._last = {stream: at.decode() for stream, at in zip(self._watched, last, strict=True)}
        return Taken(
            deliveries,
            lapse / 1000 if lapse >= 0 else None,
            tuple(position.decode() for position in [*missing, *(position for _, position in foreign)]),
            int(newest),
            int(before),
            int(born),
            tuple(priority.decode() for priority in remade),
        )

    async def wait(self, timeout: float, *, renewed: bool = False) -> None:
        """Wait until something new stands in the inbox, for at most `timeout` seconds; nothing is consumed.

        New is what came since the last take that found less than it was to take; `renewed`: since the last renewal.
        """
        await self._connection.wait(self._last_renewed if renewed else self._last, timeout=timeout, count=1)

    async def renew(self, deliveries: Sequence[Delivery]) -> list[Delivery]:
        """Begin the leases of `deliveries` anew. Returns those that are still ours.

        What comes into the inbox after that ends the next `wait(renewed=True)`: it may be a cancellation.
        """
        args: list[str | bytes | int] = [self.agent, self.consumer, int(self.lease * 1000)]
        for delivery in deliveries:
            args += (delivery.name, delivery.token, delivery.task)
        keys = self._keys
        names = [keys.held(self.agent), keys.leases(self.agent), keys.index, keys.workers, *self._watched]
        reply = await self._connection.run(script("renew"), names, args)
        kept, last = cast("tuple[list[int], list[bytes]]", reply)
        self._last_renewed = {stream: at.decode() for stream, at in zip(self._watched, last, strict=True)}
        return [delivery for delivery, ours in zip(deliveries, kept, strict=True) if ours]

    async def release(self, releases: Sequence[Release]) -> list[Delivery]:
        """Give deliveries back, to be taken again by whoever comes first. Returns those that were still ours.

        Who waits for the inbox is woken for what can be taken at once.
        """
        args: list[str | bytes | int] = [self.consumer]
        for each in releases:
            delivery, wait = each.delivery, int(max(each.wait, 0.0) * 1000)
            args += (delivery.name, delivery.token, delivery.task, wait, int(each.counts), each.reason)
        keys = self._keys
        names = [keys.held(self.agent), keys.leases(self.agent), keys.index, keys.bell(self.agent)]
        kept = cast("list[int]", await self._connection.run(script("release"), names, args))
        return [each.delivery for each, ours in zip(releases, kept, strict=True) if ours]

    async def settle(self, delivery: Delivery, outcomes: Sequence[AnyEnvelope | Document] = ()) -> list[Appended]:
        """Publish the outcomes and take the delivery out of the inbox, in one atomic step.

        Repeating it changes nothing. Raises Fenced when the delivery was taken again, another Conflict when an
        outcome is not legal any more, or work is still open after all of them, InvalidEnvelope for one that is not
        valid; then nothing has changed. The token stands for outcomes of the delivery's own task.
        """
        answers = await commit(self._connection, self._keys, [self.settlement(delivery, outcomes)])
        return all_appended(answers[0])

    async def park(
        self, delivery: Delivery, reason: FailureReason, records: Sequence[AnyEnvelope | Document]
    ) -> list[Appended]:
        """Set the delivery aside, and publish what tells of it, in one atomic step.

        Later messages of its task to this agent wait behind it. Raises as `settle` does.
        """
        answers = await commit(self._connection, self._keys, [self.settlement(delivery, records, reason)])
        return all_appended(answers[0])

    def settlement(
        self,
        delivery: Delivery,
        outcomes: Sequence[AnyEnvelope | Document] = (),
        reason: FailureReason | None = None,
    ) -> Unit:
        """What settles a delivery, or parks it for a `reason`, as one unit of an append."""
        move = Settlement(self.agent, delivery.name, delivery.token, self.consumer, delivery.entry.task, reason)
        submissions = [self._submission(delivery, outcome) for outcome in outcomes]
        if delivery.is_to_decide and submissions and submissions[0].document.envelope.task == delivery.task:
            # What is decided holds for the task as it was found; the one who was asked may be another one by now.
            submissions[0] = replace(submissions[0], known=delivery.record)
        return Unit(tuple(submissions), move)

    def publication(self, delivery: Delivery, envelope: AnyEnvelope | Document) -> Unit:
        """Something about the delivery's task under its token, that leaves the delivery as it is, as one unit."""
        return Unit((self._submission(delivery, envelope),))

    async def leave(self) -> None:
        """Say that this worker has ended; while it still holds something, it stays known until its leases lapse."""
        keys = [self._keys.held(self.agent), self._keys.workers, self._keys.meta]
        await self._connection.run(script("leave"), keys, [self.agent, self.consumer])

    def _submission(self, delivery: Delivery, outcome: AnyEnvelope | Document) -> Submission:
        ready = document(outcome)
        ours = ready.envelope.context.task_id == delivery.entry.task and ready.envelope.sender == self.agent
        # Whoever decides on an escalation holds no token of the task's work.
        ours = ours and delivery.entry.type != "escalation"
        return Submission(ready, delivery.token if ours else None)

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

    def _delivery(self, what: bytes, record: bytes, body: bytes | list[bytes]) -> Delivery:
        """A delivery, as `scripts/take.lua` gives it. Raises ForeignEntry for what taskbus did not write."""
        shard = self._keys.shard
        if isinstance(body, bytes):
            try:
                name, token, tries, position, task, id, kind, sender, recipient = what.decode().split(" ")
            except ValueError as error:
                raise ForeignEntry("A log entry was not written by taskbus.") from error
            ms, _, sequence = position.partition("-")
            at = Position(shard, int(ms), int(sequence))  # as the server writes it, with no need for the rules
            entry = Entry(at, id, kind, sender, recipient, task, task, "normal", JSON, body)
        else:
            name, token, tries, position = what.decode().split(" ")
            entry = Entry.of(position, dict(zip(body[::2], body[1::2], strict=True)), shard=shard)
        if not _HEADER.fullmatch(f"{entry.id} {entry.sender} {entry.task} {entry.root}"):
            raise ForeignEntry(f"The log's entry {entry.position} was not written by taskbus.")
        line = record.decode()
        known = task_of(entry.task, line) if line else None
        return Delivery(self.agent, name, int(token), int(tries), entry, known, line)

    def _taking_out(self, what: bytes) -> tuple[Unit, bytes]:
        """What takes a delivery out of the inbox that cannot be one, with the position that it stands for."""
        name, token, _, position = what.split(b" ", 4)[:4]
        return Unit((), Settlement(self.agent, name.decode(), int(token), self.consumer, "-")), position
