"""Trimming: the log's oldest envelopes go once the archive has sealed them, and nothing on the server needs them.

Owns how far each projection says that it has folded, and what holds a trim back. `scripts/trim.lua` decides, one page
of the log at a time; it refuses whatever does not agree with the archive. Called by `bus archive` and by projectors.
"""

from __future__ import annotations

from hashlib import sha256
from typing import TYPE_CHECKING, Final, Literal, NamedTuple, cast

from anyio import to_thread
from msgspec import Struct

from taskbus import chain, moment
from taskbus.append import script
from taskbus.chain import Head
from taskbus.errors import Damaged, OtherLog
from taskbus.position import Position

if TYPE_CHECKING:
    from collections.abc import Callable

    from taskbus.archive import Archive, Manifest, Name
    from taskbus.client import Bus
    from taskbus.connection import Connection
    from taskbus.keys import Keys

_PAGE: Final = 1000
_READ: Final = 4 << 20
_LAST: Final = 2**64 - 1


class Projection(Struct, frozen=True):
    """A database that folds this log: how far it said that it is, and how many seconds ago."""

    name: str
    position: Position
    age: float


class Holder(Struct, frozen=True):
    """What needs the envelope at `position`, and those behind it.

    `kind` says what `name` is: an agent whose `inbox` or `parked` deliveries it stands in, a `projection` that has not
    folded it, or who is to act on its open `task`, which is in `state`. `age` is that of the envelope, of a projection
    that of its last word, in seconds.
    """

    kind: Literal["inbox", "parked", "projection", "task"]
    name: str
    position: Position
    task: str | None
    state: str | None
    age: float


class Trim(Struct, frozen=True):
    """What a trim did, or would do: `count` envelopes went, up to `head`; `holders` keep more from going."""

    count: int
    head: Head
    holders: tuple[Holder, ...]


class _Answer(NamedTuple):
    """What a step answers. `n` and `position` are what its `kind` has of them."""

    kind: str
    n: int = 0
    position: str = ""
    told: tuple[list[bytes], ...] = ()


async def announce(connection: Connection, keys: Keys, name: str, position: Position) -> None:
    """Say how far the projection `name` has folded: nothing behind `position` is trimmed. Raises Unavailable."""
    await connection.run(script("announce"), [keys.projections], [name, position.entry])


async def forget(connection: Connection, keys: Keys, name: str) -> bool:
    """No longer keep anything for a projection; whether it was known. One that is still used announces itself anew."""
    return await connection.execute("HDEL", keys.projections, name) == 1


async def projections(connection: Connection, keys: Keys) -> list[Projection]:
    """The projections that have announced themselves, the one that is farthest behind first. Raises Unavailable."""
    now = await connection.time()
    found: list[Projection] = []
    for name, said in (await connection.hash(keys.projections)).items():
        position, _, at = said.partition(" ")
        place = Position.parse(position, shard=keys.shard)
        found.append(Projection(name, place, max(0.0, now - int(at) / 1000)))
    return sorted(found, key=lambda each: (each.position, each.name))


async def trim(bus: Bus, archive: Archive, *, keep: float = 0.0, told: Callable[[int], None] | None = None) -> Trim:
    """Trim the log as far as `archive` has sealed it and nothing needs it; what came in the last `keep` seconds stays.

    What goes is read back first, and compared with its manifest. `told` hears now and then how many envelopes are gone.
    Stopped anywhere, it has done a part of it, and the next one goes on; two at once share the work. Raises OtherLog
    where the log is not the one that was sealed, Damaged and other ArchiveFaults, Unavailable.
    """
    head, count, until = await _head(bus), 0, await _limit(bus, keep)
    holders: tuple[Holder, ...] = ()
    sealed = _Sealed(archive)
    goals = await sealed.goals(head, until)
    while goals:
        where, reach = await sealed.place(goals[0]), min(until, sealed.end)
        answer = await _step(bus, "trim", *where, head=head, goal=goals[0], until=reach)
        if answer.kind == "trimmed":
            count += goals[0].n - head.n
            head = goals.pop(0)
            if told is not None:
                told(count)
        elif answer.kind == "held":
            holders = await _holders(bus, answer.told)
            # The goals behind it are out of reach, this one as far as it is not needed.
            needed = Position.parse(answer.position, shard=bus.keys.shard)
            goals = await sealed.goals(head, moment.before(needed))
        elif answer.kind == "moved":
            head = await _head(bus)
            goals = await sealed.goals(head, until)
        elif answer.kind == "other":
            raise OtherLog(
                f"The log {bus.keys.log} holds {answer.n} of the {goals[0].n - head.n} envelopes that {archive.url} "
                f"has up to {goals[0].position}, so nothing more of it is trimmed."
            )
    return Trim(count, head, holders)


async def look(bus: Bus, *, most: int, keep: float = 0.0, told: Callable[[int], None] | None = None) -> Trim:
    """What a trim would do once the archive has sealed the first `most` envelopes of the live log; changes nothing.

    The link of its head is empty. Raises Unavailable.
    """
    start = await _head(bus)
    until = await _limit(bus, keep)
    goal = Head(start.n + most, until, b"")
    head = Head(start.n, start.position, b"")
    while head.n < goal.n:
        page = Head(min(head.n + _PAGE, goal.n), goal.position, b"")
        answer = await _step(bus, "look", head=head, goal=page, until=until)
        if answer.n == head.n:
            return Trim(head.n - start.n, head, await _holders(bus, answer.told))
        # Fewer than were asked for, where they are large; what is held back is told of when it comes first.
        head = Head(answer.n, Position.parse(answer.position, shard=bus.keys.shard), b"")
        if told is not None:
            told(head.n - start.n)
    return Trim(head.n - start.n, head, ())


class _Sealed:
    """What an archive has of a log, from where that was trimmed on, without a hole and read back."""

    def __init__(self, archive: Archive) -> None:
        self._archive = archive
        self._segments: list[Manifest] = []
        self._intact: set[Name] = set()

    @property
    def end(self) -> Position:
        """Up to where it reaches."""
        return self._segments[-1].end.position

    async def goals(self, head: Head, until: Position) -> list[Head]:
        """Where to trim to, in steps: the ends of frames up to and including a position, and the last one there."""
        self._segments = _unbroken(await self._archive.segments(), head.n)
        if not self._segments:
            return []
        if head.n and await self._archive.head_at(head.position) != head:
            raise OtherLog(
                f"The log was trimmed up to {head.position}, envelope {head.n} with the link {head.link.hex()}: "
                f"{self._archive.url} has another one there."
            )
        until = min(until, self.end)
        goals = await self._archive.heads(head.position, until)
        last = await self._archive.head_at(until)
        if last is not None and last.n > (goals[-1].n if goals else head.n):
            goals.append(last)
        return goals

    async def place(self, goal: Head) -> tuple[str, str]:
        """Where an envelope can be read. Raises Damaged where the segment is not what its manifest says."""
        segment = next(each for each in self._segments if each.last >= goal.n)
        if segment.name not in self._intact:
            await to_thread.run_sync(self._compare, segment)
            self._intact.add(segment.name)
        return self._archive.url, str(segment.name)

    def _compare(self, segment: Manifest) -> None:
        found = sha256()
        for start in range(0, segment.bytes, _READ):
            found.update(self._archive.store.read(segment.file, start, min(start + _READ, segment.bytes)) or b"")
        if found.hexdigest() != segment.sha256:
            message = f"Segment {segment.name} in {self._archive.url} is not what its manifest says: it is not trimmed."
            url, name = self._archive.url, str(segment.name)
            raise Damaged(message, store=url, segment=name, n=segment.first, position=segment.first_position)


def _unbroken(segments: list[Manifest], n: int) -> list[Manifest]:
    """The segments that go on after envelope `n` without a hole; of those that overlap, what reaches farthest."""
    found: list[Manifest] = []
    while fitting := [each for each in segments if each.first <= n + 1 and each.last > n]:
        found.append(max(fitting, key=lambda each: each.last))
        n = found[-1].last
    return found


async def _head(bus: Bus) -> Head:
    """Up to where the log was trimmed."""
    trimmed = await bus.log.trimmed()
    return trimmed.head if trimmed is not None else chain.start(bus.keys.prefix, bus.keys.shard)


async def _limit(bus: Bus, keep: float) -> Position:
    """The last position that is `keep` seconds old."""
    if not keep:
        return Position(bus.keys.shard, _LAST, _LAST)
    return Position(bus.keys.shard, max(0, int((await bus.connection.time() - keep) * 1000)), _LAST)


async def _step(bus: Bus, *words: str | int, head: Head, goal: Head, until: Position) -> _Answer:
    keys = bus.keys
    names = [keys.log, keys.index, keys.meta, keys.agents, keys.archive, keys.projections, keys.again]
    till, told = ("+" if each.ms == _LAST else each.entry for each in (goal.position, until))
    mode, *where = words
    args = [keys.prefix, mode, head.n, head.position.entry, goal.n, till, told, goal.link.hex(), *where]
    reply = cast("list[bytes | int | list[list[bytes]]]", await bus.connection.run(script("trim"), names, args))
    return _read(reply)


def _read(reply: list[bytes | int | list[list[bytes]]]) -> _Answer:
    kind = cast("bytes", reply[0]).decode()
    if kind == "held":
        return _Answer(kind, 0, cast("bytes", reply[1]).decode(), tuple(cast("list[list[bytes]]", reply[2])))
    if kind == "looked":
        _, n, position, told = cast("tuple[bytes, bytes, bytes, list[list[bytes]]]", tuple(reply))
        return _Answer(kind, int(n), position.decode(), tuple(told))
    return _Answer(kind, cast("int", reply[1]) if kind == "other" else 0)


async def _holders(bus: Bus, told: tuple[list[bytes], ...]) -> tuple[Holder, ...]:
    now = await bus.connection.time()
    spoken = {each.name: each.age for each in await projections(bus.connection, bus.keys)}
    found: list[Holder] = []
    for fields in told:
        kind, name, position, task, state = (field.decode() for field in fields)
        place = Position.parse(position, shard=bus.keys.shard)
        age = spoken.get(name, 0.0) if kind == "projection" else max(0.0, now - place.ms / 1000)
        found.append(Holder(cast("Literal['inbox']", kind), name, place, task or None, state or None, age))
    return tuple(found)
