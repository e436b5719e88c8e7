"""The roles of a run: producers, workers, the delegator's workers, a projector, a tail. Each is a process.

They use the bus as anybody would, and note in their histories what they do and what they are told. What a task is
to go through stands in its ID, so that a process that was killed and started again knows as much as before.
"""

from __future__ import annotations

import asyncio
import random
import signal
import traceback
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from taskbus.append import Appended
from taskbus.client import Bus
from taskbus.codec import Document, decode, encode
from taskbus.connection import Connection
from taskbus.envelope import Delegation, compose, now
from taskbus.errors import TaskbusError, TimedOut, Unavailable
from taskbus.position import START, Position
from taskbus.supervision import Supervision
from taskbus_projections.database import Database
from taskbus_projections.projector import Projector
from tests.chaos import clock
from tests.chaos.handling import Assignee, Delegator, Doom
from tests.chaos.history import History, read
from tests.chaos.meddling import socket_of
from tests.chaos.models import Doomed, models
from tests.proxy import url_through

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence
    from pathlib import Path

    from taskbus.delivery import Delivery
    from taskbus.envelope import AnyEnvelope
    from tests.chaos.plan import Actor, Errand, Plan

NAMESPACE = "chaos:"
DATABASE = "projection.db"


def main(plan: Plan, actor: Actor, folder: Path, server_url: str, life: int) -> None:
    """Play a role until killed, or told to stop; ends the process."""
    random.seed(f"{plan.seed} {actor.who} {life}")
    clock.take(folder / f"{actor.who}.clock")
    history = History(folder, actor.who)
    history.note("start", life=life)
    url = url_through(socket_of(folder, actor.who), server_url)
    stage = Stage(plan, actor, folder, url, history, Doom(plan, actor.who if life == 0 else "", history))
    parts = {"producer": produce, "worker": work, "boss": work, "projector": project, "tail": tail}
    try:
        asyncio.run(parts[actor.role](stage))
    except BaseException:
        history.note("died", why=traceback.format_exc())
        raise


@dataclass(frozen=True)
class Stage:
    """What every role has."""

    plan: Plan
    actor: Actor
    folder: Path
    url: str
    history: History
    doom: Doom

    @asynccontextmanager
    async def bus(self) -> AsyncIterator[Bus]:
        """The bus, when its server answers."""
        while True:
            opening = Connection.open(self.url, timeout=self.plan.timeout)
            try:
                connection = await opening.__aenter__()
                break
            except (Unavailable, TimedOut) as error:
                self.history.note("incident", text=f"not connected: {error.message}")
                await asyncio.sleep(0.05)
        try:
            yield Bus(connection, NAMESPACE)
        finally:
            await opening.__aexit__(None, None, None)


async def produce(stage: Stage) -> None:
    """Delegate what the plan says, one after the other, and go on after whatever is known to stand in the log.

    What was sent and not answered, also by a process that was killed, is sent again as it was.
    """
    errands = list(stage.plan.errands[stage.actor.who])
    kept: dict[str, AnyEnvelope] = {}
    done: set[str] = set()
    for event in read(stage.folder / f"{stage.actor.who}.jsonl"):
        match event["what"]:
            case "send":
                kept[event["task"]] = decode(event["body"].encode(), "application/json")
            case "told" | "refused":
                done.add(event["task"])
            case _:
                pass
    async with stage.bus() as bus:
        while left := [errand for errand in errands if errand.task not in done]:
            batch = left[: left[0].batch]
            envelopes = [kept.setdefault(errand.task, delegation(stage.actor.who, errand)) for errand in batch]
            done.update(await send(stage.history, bus, envelopes))
            await asyncio.sleep(sum(errand.pause for errand in batch))
    stage.history.note("finished")


def delegation(who: str, errand: Errand) -> AnyEnvelope:
    """The envelope that begins an errand."""
    return compose(
        Delegation(goal=f"{errand.kind}, as {who} wants it", review_required=errand.review),
        sender="@boss",
        recipient=errand.agent,
        task=errand.task,
        deadline=now() + timedelta(seconds=errand.deadline) if errand.deadline else None,
        priority=errand.priority,  # type: ignore[arg-type] # drawn from the words that there are
    )


async def send(history: History, bus: Bus, envelopes: list[AnyEnvelope]) -> list[str]:
    """Publish, alone or as a batch; returns the tasks whose envelopes have been answered."""
    for envelope in envelopes:
        history.note("send", id=envelope.id, task=envelope.task, body=encode(envelope).decode())
    try:
        if len(envelopes) == 1:
            answers: list[Appended | TaskbusError] = [await bus.publish(envelopes[0])]
        else:
            answers = await bus.publish_many(envelopes)
    except (Unavailable, TimedOut) as error:
        for envelope in envelopes:
            history.note("unknown", id=envelope.id, task=envelope.task, error=error.message)
        return []
    except TaskbusError as error:
        answers = [error]
    for envelope, answer in zip(envelopes, answers, strict=True):
        if isinstance(answer, Appended):
            history.note("told", id=envelope.id, task=envelope.task, position=str(answer.position))
        else:
            history.note("refused", id=envelope.id, task=envelope.task, error=repr(answer))
    return [envelope.task for envelope in envelopes]


async def work(stage: Stage) -> None:
    """Work for an agent, or for the delegator."""
    plan, actor, history = stage.plan, stage.actor, stage.history
    terms: dict[str, Any] = {
        "lease": plan.lease,
        "concurrency": actor.slots,
        "prefetch": actor.prefetch,
        "attempts": plan.attempts,
        "backoff": plan.backoff,
        "longest_backoff": 4 * plan.backoff,
        "grace": plan.grace,
        "hard_limit": plan.hard_limit,
        "supervision": Supervision(
            acknowledge=2 * plan.patience, lost=plan.patience, silent=plan.patience, stale=600.0, interval=0.25
        ),
    }
    handling = (Assignee if actor.role == "worker" else Delegator)(history, stage.doom, stage.folder, plan.lease)

    def settled(delivery: Delivery, outcomes: Sequence[AnyEnvelope | Document], appended: Sequence[Appended]) -> None:
        said = [each.envelope if isinstance(each, Document) else each for each in outcomes]
        history.note(
            "settled",
            id=delivery.entry.id,
            task=delivery.task,
            agent=actor.agent,
            token=delivery.token,
            outcomes=[each.id for each in said],
            types=[each.type for each in said],
            positions=[str(each.position) for each in appended],
        )
        stage.doom.reached("settled")

    def incident(text: str) -> None:
        history.note("incident", text=text)

    async with stage.bus() as bus:
        worker = bus.worker(actor.agent, handling.handle, on_incident=incident, on_settled=settled, **terms)
        stopping = False

        def stop() -> None:
            nonlocal stopping
            worker.stop(0.0 if stopping else None)
            stopping = True

        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop)
        history.note("ready")
        await worker.run()
    history.note("finished")


async def project(stage: Stage) -> None:
    """Fold the log into a database, for ever."""
    Doomed.doom = stage.doom

    def committed(_progress: object) -> None:
        stage.doom.reached("after-commit")

    def incident(found: Any) -> None:
        stage.history.note("incident", text=found.what)

    async with stage.bus() as bus:
        with Database.open(stage.folder / DATABASE, NAMESPACE, models()) as database:
            stage.history.note("ready")
            await Projector(bus, database).follow(on_commit=committed, on_incident=incident)


async def tail(stage: Stage) -> None:
    """Follow the log from its start, or from where the process before this one was killed."""
    seen = [event["position"] for event in read(stage.folder / f"{stage.actor.who}.jsonl") if event["what"] == "seen"]
    after = Position.parse(seen[-1]) if seen else START

    def incident(found: Any) -> None:
        stage.history.note("incident", text=found.what)

    async with stage.bus() as bus:
        stage.history.note("ready")
        async for entry in bus.log.follow(after, on_incident=incident):
            stage.history.note("seen", id=entry.id, position=str(entry.position))
