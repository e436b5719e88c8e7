"""A delivery that was taken: whether it asks for work, what is known of its task, and what handlers share about it.

Called by the handlers that run programs.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from typing import TYPE_CHECKING, Final, TypeVar, cast

import anyio

from taskbus.envelope import Delegation, now
from taskbus.errors import NotFound, Permanent, TimedOut, Unavailable
from taskbus.lifecycle import DELIVERED
from taskbus_agents import talk

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from taskbus.client import Bus
    from taskbus.envelope import AnyEnvelope
    from taskbus.lifecycle import Task
    from taskbus.log import Entry
    from taskbus.work import Work
    from taskbus_agents.workspace import Going

WORK: Final = frozenset({"delegation", "answer", "verdict"})
"""The messages that begin or continue an assignee's work; all others only inform, but for an escalation to whoever is
to deal with it.
"""
_LONGEST_LINE: Final = 65_536
_PAUSE: Final = 0.5
_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class Begun:
    """What is known of a task when work on it begins: `entries` are its delegation and what was said since."""

    task: Task
    entries: list[Entry]

    @property
    def said(self) -> list[AnyEnvelope]:
        """The same as envelopes."""
        return [entry.envelope for entry in self.entries]

    @property
    def delegation(self) -> Delegation:
        """What is to be done."""
        return cast("Delegation", self.entries[0].envelope.payload)

    @property
    def deadline(self) -> datetime | None:
        """Until when it must be done, as the bus watches over it; None without a deadline."""
        return datetime.fromtimestamp(self.task.deadline / 1000, UTC) if self.task.deadline else None

    @property
    def is_over(self) -> bool:
        """Whether its deadline is."""
        left = self.left()
        return left is not None and left <= 0

    def left(self, grace: float = 0.0) -> float | None:
        """Seconds until the deadline; None without one. With a grace, so much less that what is cut has ended then."""
        if self.deadline is None:
            return None
        left = (self.deadline - now()).total_seconds()
        return left - min(grace, left / 10)


class Lines:
    """Cuts what comes in pieces into lines."""

    def __init__(self, write: Callable[[str], None]) -> None:
        self._write = write
        self._rest = b""

    def __call__(self, piece: bytes) -> None:
        """Take one piece."""
        *lines, self._rest = (self._rest + piece).split(b"\n")
        for line in lines:
            self._write(line.decode(errors="replace").rstrip("\r"))
        if len(self._rest) > _LONGEST_LINE:
            self.end()

    def end(self) -> None:
        """Write what is left without the end of its line."""
        if self._rest:
            self._write(self._rest.decode(errors="replace"))
            self._rest = b""


def asks_for_work(work: Work) -> bool:
    """Whether this delivery begins or continues the agent's work on an open task, or asks it what is to be done."""
    return work.delivery.is_to_decide or (work.delivery.is_work and work.envelope.type in WORK)


def is_ours(work: Work, known: Task) -> bool:
    """Whether a task, as it is known now, still waits for the outcome of this delivery."""
    if work.delivery.is_to_decide:
        return known.state == "escalated" and known.cause == work.delivery.entry.id
    return known.state in DELIVERED and known.token == work.delivery.token


def place_of(work: Work, known: Task) -> int | str:
    """What the folder of a delivery is called: the attempt that it is, or that it asks for a decision on."""
    return f"escalated-{known.attempt}" if work.delivery.is_to_decide else known.attempt


def going(said: Sequence[AnyEnvelope]) -> Going:
    """How a delivery is begun, by the message that it brings."""
    kind = said[-1].type
    return "on" if kind == "answer" else "back" if kind == "verdict" else "anew"


async def begun(work: Work) -> Begun:
    """What is known of the task. Raises Permanent where the log has lost it."""
    try:
        return Begun(await work.bus.task(work.delivery.task), await talk.talk(work.bus, work.delivery))
    except NotFound as error:
        raise Permanent(error.message, advice=error.advice) from error  # what the log has lost it will not find


async def answered(ask: Callable[[], Awaitable[_T]]) -> _T:
    """Ask the server until it answers: the program is done, and an outage must not cost its result."""
    while True:
        try:
            return await ask()
        except (Unavailable, TimedOut):  # the worker says so
            await anyio.sleep(_PAUSE)


async def stands(bus: Bus, envelope: str) -> bool:
    """Whether an envelope of this ID stands in the log."""
    return await bus.connection.field(bus.keys.index, envelope) is not None


def lines_to(write: Callable[[str, str], None] | None, task: str) -> Lines | None:
    """What hands over each line with its task; None where nobody wants them."""
    return Lines(partial(write, task)) if write is not None else None
