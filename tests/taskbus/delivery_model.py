"""A plain Python model of a bus's deliveries: where each one is, who holds it, and what an append makes of it.

A delivery goes by the ID of its envelope: each envelope has one recipient, and is in that one's inbox, in somebody's
hand, set aside, or gone. The tasks' states are those of the lifecycle module; the rest stands here in so many words.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Literal

from msgspec import structs

from taskbus.lifecycle import DELIVERED, WORK, advance, event_of, message_of, refusal

if TYPE_CHECKING:
    from collections.abc import Sequence

    from taskbus.delivery import Delivery, Inbox
    from taskbus.envelope import AnyEnvelope
    from taskbus.lifecycle import Task

AHEAD = 10**15
"""The end of a lease that lasts, in milliseconds since the epoch."""
_MOVED = {
    "parking:parked": "park",
    "parking:replayed": "replay",
    "parking:resumed": "replay",
    "parking:dropped": "drop",
}


@dataclass
class Copy:
    """An envelope on its way to its recipient. `due`: what is held or paused may be taken again."""

    id: str
    agent: str
    task: str
    priority: str
    number: int
    place: Literal["waiting", "held", "paused", "parked", "gone"] = "waiting"
    round: int = 0
    token: int = 0
    consumer: str = ""
    tries: int = 0
    reason: str = ""
    due: bool = False
    is_work: bool = False

    def view(self) -> tuple[object, ...]:
        """What the server should know of it."""
        if self.place == "waiting":
            return ("waiting", self.agent, self.priority, self.round > 0)
        if self.place == "held":
            return ("held", self.agent, self.priority, self.token, self.consumer, self.tries)
        if self.place == "paused":
            return ("paused", self.agent, self.priority, self.tries, self.reason)
        return ("parked", self.agent, self.task, self.priority, self.tries, self.reason, self.is_work)


@dataclass(frozen=True, eq=False)
class Hand:
    """A delivery as somebody took it, and may still believe to have it."""

    delivery: Delivery
    inbox: Inbox
    round: int

    @property
    def id(self) -> str:
        """Its envelope."""
        return self.delivery.entry.id


@dataclass(frozen=True)
class Move:
    """What becomes of a delivery with some envelopes: `settle` or `park` what is in a hand, `replay` or `drop`."""

    kind: Literal["settle", "park", "replay", "drop"]
    hand: Hand | None = None
    reason: str = ""
    chosen: tuple[str, ...] = ()


@dataclass
class Model:
    """All that the server should know. `excused` are tasks that go on without a delivery: by hand, or by a drop.

    `forgotten` are envelopes of tasks that have ended, and that the server does not recognise any more.
    """

    tasks: dict[str, Task] = field(default_factory=dict)
    work: dict[str, str | None] = field(default_factory=dict)
    copies: dict[str, Copy] = field(default_factory=dict)
    log: list[str] = field(default_factory=list)
    excused: set[str] = field(default_factory=set)
    forgotten: set[str] = field(default_factory=set)
    newest: int = 0
    count: int = 0

    def commit(
        self, said: Sequence[tuple[AnyEnvelope, int | None]], move: Move | None = None
    ) -> list[str | None] | str:
        """Append a unit; the answers, None for what was appended, or the refusal of the whole."""
        hand = move.hand if move else None
        if hand is not None and self.is_elsewhere(hand):
            return "fenced"
        gone = move is not None and not (self.has(hand) if hand else self.all_parked(move.chosen))
        before = copy.deepcopy(self.__dict__)
        was_work = hand is not None and self.is_work(hand)
        answers = [self._say(envelope, token, move) for envelope, token in said]
        is_whole, new = set(answers) <= {None, "repeated"}, answers.count(None)
        problem = None
        if gone and (new or not is_whole):
            problem = "fenced" if hand else "moved"
        elif hand is not None and is_whole and self.is_work(hand):
            problem = "open"
        if problem or not is_whole:
            self.__dict__.update(before)
            return problem or ["skipped" if each is None else each for each in answers]
        if move is not None and not gone and (move.kind == "settle" or new):
            resumes = any(event_of(envelope) == "parking:resumed" for envelope, _ in said)
            self._move(move, was_work=was_work, resumes=resumes)
        return answers

    def has(self, hand: Hand) -> bool:
        """Whether it is still that one's delivery."""
        held = self.copies[hand.id]
        return held.place == "held" and (held.token, held.round) == (hand.delivery.token, hand.round)

    def is_elsewhere(self, hand: Hand) -> bool:
        """Whether it was taken again, or was given back."""
        held = self.copies[hand.id]
        return held.round == hand.round and held.place in ("held", "paused") and not self.has(hand)

    def is_work(self, hand: Hand) -> bool:
        """Whether the work of its task is what it is."""
        return self.work[hand.delivery.task] == hand.id and self.copies[hand.id].round == hand.round

    def all_parked(self, ids: Sequence[str]) -> bool:
        """Whether all of them are set aside."""
        return all(self.copies[each].place == "parked" for each in ids)

    def parked(self, agent: str, task: str) -> list[Copy]:
        """What is set aside of a task for an agent, in the order of the log."""
        found = [
            each for each in self.copies.values() if (each.agent, each.task, each.place) == (agent, task, "parked")
        ]
        return sorted(found, key=lambda each: self.log.index(each.id))

    def takeable(self, agent: str) -> tuple[list[Copy], list[Copy]]:
        """What a take may bring, and what goes behind a parked delivery of its task instead, in order."""
        free = [each for each in self.copies.values() if each.agent == agent and (each.place == "waiting" or each.due)]
        free.sort(key=lambda each: (not each.due, each.number))
        behind = [each for each in free if each.round == 0 and self.parked(agent, each.task)]
        return [each for each in free if each not in behind], behind

    def take(self, id: str, consumer: str, token: int) -> None:
        """Somebody took it."""
        taken = self.copies[id]
        self.newest = token
        taken.place, taken.due, taken.consumer, taken.token = "held", False, consumer, token
        taken.tries += 1
        if self.work[taken.task] == id:
            self.tasks[taken.task] = structs.replace(self.tasks[taken.task], token=token, lease=AHEAD)

    def set_aside(self, id: str) -> None:
        """It waits behind a parked one of its task."""
        late = self.copies[id]
        late.place, late.due, late.reason, late.is_work = "parked", False, "behind", self.work[late.task] == id

    def renew(self, hand: Hand) -> bool:
        """Somebody says that it goes on; whether it is still that one's."""
        if not self.has(hand):
            return False
        self.copies[hand.id].due = False
        self._lease(hand, AHEAD)
        return True

    def expire(self, id: str) -> None:
        """Its lease runs out, or its wait is over."""
        late = self.copies[id]
        late.due = True
        if self.work[late.task] == id:
            self.tasks[late.task] = structs.replace(self.tasks[late.task], lease=min(self.tasks[late.task].lease, 1))

    def release(self, hand: Hand, *, wait: float, counts: bool, reason: str) -> bool:
        """Somebody gives it back; whether it was still that one's."""
        if not self.has(hand):
            return False
        back = self.copies[hand.id]
        back.place, back.reason, back.due = "paused", reason, wait <= 0
        back.tries -= not counts
        self._lease(hand, 0)
        return True

    def _lease(self, hand: Hand, end: int) -> None:
        task = self.tasks[hand.delivery.task]
        if self.is_work(hand) and task.token == hand.delivery.token:
            self.tasks[hand.delivery.task] = structs.replace(task, lease=end)

    def _say(self, envelope: AnyEnvelope, token: int | None, move: Move | None) -> str | None:
        if envelope.id in self.log and envelope.id not in self.forgotten:
            return "repeated"
        name, task, event = envelope.task, self.tasks.get(envelope.task), event_of(envelope)
        message = replace(message_of(envelope, token), moves=move is not None and move.kind == _MOVED.get(event))
        refused = refusal(task, message, now=AHEAD - 1)
        if refused is not None:
            return refused
        self.log.append(envelope.id)
        self.tasks[name] = after = advance(task, message)
        works = event in WORK and envelope.sender != "@bus"
        records = event.startswith(("parking", "budget")) and event != "parking:resumed"
        by_hand = works and token is None and event != "status"
        delivers = after.state in DELIVERED and not works and not records
        had_work = self.work.setdefault(name, None) is not None
        if not records and (by_hand or delivers or after.state not in DELIVERED):
            self._end_work(name)
            if by_hand:
                self.excused.add(name)
        if task is not None and (delivers or (by_hand and had_work)):
            self.tasks[name] = structs.replace(self.tasks[name], token=0)
        if envelope.recipient != "@bus":
            self.count += 1
            self.copies[envelope.id] = Copy(envelope.id, envelope.recipient, name, envelope.priority, self.count)
            if delivers and not message.moves:
                self.work[name] = envelope.id
        if delivers:
            self.excused.discard(name)
        return None

    def _end_work(self, name: str) -> None:
        """The delivery that was the task's work goes out of the inbox; what is set aside stays where it is."""
        work = self.copies.get(self.work[name] or "")
        if work is not None and work.place != "parked":
            work.place, work.due = "gone", False
        self.work[name] = None

    def _move(self, move: Move, *, was_work: bool, resumes: bool) -> None:
        if move.hand is not None:
            moved = self.copies[move.hand.id]
            moved.place, moved.due, moved.reason = "gone", False, move.reason
            if move.kind == "park":
                moved.place, moved.is_work = "parked", was_work
            return
        work = None
        for each in move.chosen:
            moved = self.copies[each]
            was_it = self.work[moved.task] == each
            if move.kind == "drop":
                moved.place = "gone"
                self.excused |= {moved.task} if was_it else set()
                continue
            self.count += 1
            moved.place, moved.round, moved.number, moved.tries = "waiting", moved.round + 1, self.count, 0
            work = each if moved.is_work else work
            if resumes or was_it:
                # A task that goes on does so with the newest of its deliveries; else the work stays what it was.
                self.work[moved.task] = work if resumes else each
