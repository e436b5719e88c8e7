"""The handlers of a run: what assignees and the delegator do with each kind of task, and where they are killed.

Each call of a handler has a name of its own, the nonce, which stands in the completion that comes of it.
"""

from __future__ import annotations

import asyncio
import os
import random
import signal
from abc import ABC, abstractmethod
from datetime import timedelta
from itertools import count
from typing import TYPE_CHECKING, TypeAlias

from taskbus import Outcome
from taskbus.codec import encode
from taskbus.envelope import (
    Answer,
    Cancellation,
    Completion,
    Delegation,
    ErrorDetails,
    Escalation,
    Payload,
    Question,
    Result,
    Status,
    Verdict,
    now,
)
from taskbus.errors import Conflict, NotFound, Permanent, QuotaLimited, Retryable, TaskbusError, TimedOut, Unavailable
from taskbus.parked import drop, replay
from tests.chaos.plan import AGENTS, GIVEN_UP, kind_of

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from pathlib import Path

    from taskbus import Work
    from taskbus.envelope import AnyEnvelope
    from tests.chaos.history import History
    from tests.chaos.plan import Plan, Point

Said: TypeAlias = "Outcome | None"


class Doom:
    """The crash points of one process: coming to one of them for the n-th time ends it at once, or freezes it."""

    def __init__(self, plan: Plan, who: str, history: History) -> None:
        self._traps = [trap for trap in plan.traps if trap.who == who and trap.point]
        self._counts: dict[Point, int] = {}
        self._history = history

    def reached(self, point: Point) -> None:
        """This is the crash point of that name."""
        self._counts[point] = found = self._counts.get(point, 0) + 1
        for trap in self._traps:
            if (trap.point, trap.nth) == (point, found):
                kind = "freeze" if trap.freezes else "trap"
                self._history.note("fault", kind=kind, name=trap.name, victim=trap.who, of=os.getpid())
                os.kill(os.getpid(), signal.SIGSTOP if trap.freezes else signal.SIGKILL)


class Handling(ABC):
    """What both handlers have in common: the notes that they leave, and the crash points."""

    def __init__(self, history: History, doom: Doom, folder: Path, lease: float) -> None:
        self._history = history
        self._doom = doom
        self._folder = folder
        self._lease = lease
        self._numbers = count(1)

    async def handle(self, work: Work) -> Said:
        """Called by the worker for each delivery."""
        nonce = f"{os.getpid()}-{next(self._numbers)}"
        delivery = work.delivery
        self._history.note(
            "begin",
            nonce=nonce,
            id=work.envelope.id,
            task=delivery.task,
            type=work.envelope.type,
            agent=delivery.agent,
            token=delivery.token,
            tries=delivery.tries,
            position=str(delivery.entry.position),
        )
        self._doom.reached("handler-start")
        try:
            said = await self.act(work, nonce)
        except BaseException as error:
            self._history.note("end", nonce=nonce, how=type(error).__name__)
            raise
        self._history.note("end", nonce=nonce, how=said.payload.TYPE if said else "nothing")
        self._doom.reached("handler-end")
        return said

    @abstractmethod
    async def act(self, work: Work, nonce: str) -> Said:
        """What is done."""

    async def pause(self, leases: float) -> None:
        """Work for so many leases."""
        await asyncio.sleep(self._lease * leases / 2)
        self._doom.reached("in-handler")
        await asyncio.sleep(self._lease * leases / 2)

    def is_first(self, what: str) -> bool:
        """Whether nobody, in any process, has asked this before."""
        try:
            os.close(os.open(self._folder / f"once.{what}", os.O_CREAT | os.O_EXCL))
        except FileExistsError:
            return False
        return True

    async def publish(self, work: Work, envelope: AnyEnvelope, *, token: int | None = None) -> None:
        """Publish on the way; what is refused is no trouble of the handler's, what is not answered is."""
        self._history.note("send", id=envelope.id, task=envelope.task, body=encode(envelope).decode())
        try:
            answer = await work.bus.publish(envelope, token=token)
        except (Unavailable, TimedOut) as error:
            self._history.note("unknown", id=envelope.id, task=envelope.task, error=error.message)
            raise
        except TaskbusError as error:
            self._history.note("refused", id=envelope.id, task=envelope.task, error=repr(error))
        else:
            self._history.note("told", id=envelope.id, task=envelope.task, position=str(answer.position))


class Assignee(Handling):
    """Does what a task's kind says."""

    async def act(self, work: Work, nonce: str) -> Said:
        """Work on it, where it is work."""
        if not work.delivery.is_work:
            return None
        await self.pause(random.uniform(0.02, 0.5))
        kind, known = kind_of(work.delivery.task), work.delivery.known
        if known is None or known.attempt == 1:
            self._fail(kind, work)
            if work.envelope.type == "delegation" and (other := _other(kind, nonce)):
                return other
        leases = {"long": 3.0, "cancel": 4.0}
        if known is None or known.attempt == 1:
            leases |= {"late": 4.0, "endless": 100.0}
        if kind in leases:
            await self.pause(leases[kind])
        elif kind == "talks":
            await self._talk(work)
        return Outcome(Completion(result=Result(status="success", description=nonce)))

    def _fail(self, kind: str, work: Work) -> None:
        task, tries = work.delivery.task, work.delivery.tries
        match kind:
            case "flaky1" | "flaky2" if tries <= int(kind[-1]):
                raise Retryable(f"try {tries} of {kind}")
            case "broken":
                raise ValueError("it never works")
            case "permanent" | "dropped":
                raise Permanent("not like this")
            case "shelved" if self.is_first(f"shelved.{task}"):
                raise Permanent("not before somebody has looked at it")
            case "quota" if self.is_first(f"quota.{task}"):
                raise QuotaLimited("come back later", until=now() + timedelta(seconds=self._lease))
            case _:
                pass

    async def _talk(self, work: Work) -> None:
        for fraction in (0.3, 0.6):
            status = work.reply(Outcome(Status(progress="under way", fraction=fraction)))
            await self.publish(work, status, token=work.delivery.token)
            await self.pause(0.2)


class Delegator(Handling):
    """Answers, judges, delegates anew, gives up."""

    async def act(self, work: Work, nonce: str) -> Said:
        """Whatever the state of the task asks for, if it is still that state."""
        reactions: dict[tuple[str, str], Callable[[Work], Awaitable[Said]]] = {
            ("acknowledgment", "working"): self._acknowledged,
            ("question", "input-required"): self._answer,
            ("completion", "completed"): self._judge,
            ("completion", "failed"): self._delegate,
            ("escalation", "escalated"): self._escalated,
        }
        react = reactions.get((work.envelope.type, work.delivery.state or ""))
        return await react(work) if react else None

    async def _acknowledged(self, work: Work) -> None:
        if kind_of(work.delivery.task) == "cancel":
            cancellation = work.reply(Outcome(Cancellation(reason="not wanted"), recipient=work.envelope.sender))
            await self.publish(work, cancellation)

    async def _answer(self, work: Work) -> Said:
        return Outcome(Answer(answer="that one"), recipient=_assignee(work))

    async def _judge(self, work: Work) -> Said:
        known = work.delivery.known
        again = kind_of(work.delivery.task) == "redo" and known is not None and known.attempt == 1
        return Outcome(Verdict(decision="rejected" if again else "accepted"), recipient=_assignee(work))

    async def _escalated(self, work: Work) -> Said:
        kind, by_bus = kind_of(work.delivery.task), work.envelope.sender == "@bus"
        if kind == "escalates" and not by_bus:
            return await self._answer(work)
        if kind == "shelved":
            if await self._unpark(work, replay):
                return None
            return await self._delegate(work)
        if kind not in {"permanent", "broken"}:
            await self._unpark(work, drop)
        if kind == "dropped":
            cancellation = work.reply(Outcome(Cancellation(reason="not wanted"), recipient=_assignee(work)))
            await self.publish(work, cancellation)
        return None if kind in ("broken", "dropped") else await self._delegate(work)

    async def _unpark(self, work: Work, how: Callable[..., Awaitable[object]]) -> bool:
        """Replay, or drop, what is parked of the task; whether there was anything."""
        try:
            await how(work.bus, _assignee(work), work.delivery.task, sender="@boss")
        except (Conflict, NotFound) as error:
            self._history.note("incident", text=f"{how.__name__} of {work.delivery.task}: {error!r}")
            return False
        self._history.note("unparked", how=how.__name__, task=work.delivery.task, agent=_assignee(work))
        return True

    async def _delegate(self, work: Work) -> Said:
        known = work.delivery.known
        now_is = await work.bus.task(work.delivery.task)
        if known is None or now_is.state != known.state or known.attempt >= GIVEN_UP:
            return None
        other = next(agent for agent in AGENTS if agent != known.assignee)
        again: Payload = Delegation(goal="once more", review_required=known.review)
        return Outcome(again, recipient=other)


def _other(kind: str, nonce: str) -> Said:
    """What is said of a delegation instead of a completion that is done."""
    match kind:
        case "ask":
            return Outcome(Question(question=f"which one? ({nonce})"))
        case "unlucky":
            return Outcome(Completion(result=Result(status="failure", description=nonce)))
        case "escalates":
            trouble = ErrorDetails(level=2, category="execution", message=f"what now? ({nonce})")
            return Outcome(Escalation(error_details=trouble))
        case _:
            return None


def _assignee(work: Work) -> str:
    known = work.delivery.known
    return known.assignee if known else work.envelope.sender
