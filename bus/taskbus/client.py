"""The client: one connection to the bus of one namespace, and everything that is done with it.

`Bus.connect` is the way in. It starts the embedded server where no URL is given, and closes what it opened.
"""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from functools import cached_property
from typing import TYPE_CHECKING

from taskbus.append import Appended, Submission, all_appended, append, skipped, task_of
from taskbus.codec import Document, document
from taskbus.connection import Connection
from taskbus.delivery import Inbox
from taskbus.envelope import new_id
from taskbus.errors import InvalidEnvelope, NotFound, TaskbusError, UsageError
from taskbus.keys import Keys
from taskbus.log import Log
from taskbus.settings import Settings
from taskbus.terms import Terms
from taskbus.worker import Worker

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Iterable
    from typing import Unpack

    from taskbus.budget import Budgets
    from taskbus.envelope import AnyEnvelope
    from taskbus.history import History
    from taskbus.lifecycle import Task
    from taskbus.terms import GivenTerms
    from taskbus.work import Handler, Settled

BATCH = 100


class Bus:
    """The bus of one namespace. Safe to use from many tasks at once; uses its connection and never closes it.

    `settings` say where its archive is; without them its history is what is live.
    """

    def __init__(self, connection: Connection, namespace: str, *, settings: Settings | None = None) -> None:
        self.connection = connection
        self.namespace = namespace
        self.keys = Keys(namespace)
        self.log = Log(connection, self.keys)
        self._settings = settings

    @classmethod
    @asynccontextmanager
    async def connect(
        cls, url: str | None = None, *, namespace: str | None = None, settings: Settings | None = None
    ) -> AsyncGenerator[Bus]:
        """Connect as the options, the environment and `bus.toml` say; closed at the end of the block.

        Raises ConfigurationError for settings that cannot be meant, Unavailable when the server cannot be used.
        """
        from taskbus.server import resolve

        chosen = settings or Settings.load(url=url, namespace=namespace)
        async with Connection.open(await resolve(chosen)) as connection:
            yield cls(connection, chosen.namespace, settings=chosen)

    async def publish(self, envelope: AnyEnvelope | Document, *, token: int | None = None) -> Appended:
        """Append one envelope. `token` is the fencing token of the delivery that it is about.

        Returns where it stands; repeating it returns the same position. Raises InvalidEnvelope, a Conflict or
        NotFound when it is refused: then nothing has changed.
        """
        submission = Submission(document(envelope), token)
        return all_appended(await append(self.connection, self.keys, [submission]))[0]

    async def publish_many(
        self, envelopes: Iterable[AnyEnvelope | Document], *, atomic: bool = False, batch: int = BATCH
    ) -> list[Appended | TaskbusError]:
        """Append envelopes in order; one answer for each: its position, or why it was refused.

        `batch` of them are one step on the server, and each stands for itself; with `atomic` all of them are one
        step, and a refusal of one refuses all. Raises Unavailable when the server cannot be used: then a beginning
        of them may have been appended, and repeating the call appends the rest.
        """
        if batch < 1:
            raise UsageError(f"A batch of {batch} envelopes is none.", advice="Use 1 or more; 100 is the default.")
        given = list(envelopes)
        if atomic:
            return await self._step([_submission(each) for each in given], atomic=True)
        answers: list[Appended | TaskbusError] = []
        # While the server works on one batch, the next one is checked and encoded.
        ahead = [_submission(each) for each in given[:batch]]
        for start in range(batch, len(given) + batch, batch):
            step = asyncio.ensure_future(self._step(ahead, atomic=False))
            try:
                await asyncio.sleep(0)
                ahead = [_submission(each) for each in given[start : start + batch]]
                answers += await step
            finally:
                step.cancel()
        return answers

    async def _step(
        self, submissions: list[Submission | InvalidEnvelope], *, atomic: bool
    ) -> list[Appended | TaskbusError]:
        """One step on the server for what is valid; what is not answers for itself, or refuses all."""
        valid = [each for each in submissions if isinstance(each, Submission)]
        if len(valid) < len(submissions) and atomic:
            return [each if isinstance(each, InvalidEnvelope) else skipped(each) for each in submissions]
        appended = iter(await append(self.connection, self.keys, valid, atomic=atomic)) if valid else iter(())
        return [each if isinstance(each, InvalidEnvelope) else next(appended) for each in submissions]

    @cached_property
    def history(self) -> History:
        """The whole log: what is live, and what was trimmed, from the archive of the settings."""
        from taskbus.archive import Archive  # many a process never looks back that far
        from taskbus.history import History

        return History(self.log, Archive.open(self._settings, self.keys) if self._settings else None)

    @cached_property
    def budget(self) -> Budgets:
        """The money of this bus: reserved, settled, capped, and checked against the log."""
        from taskbus.budget import Budgets  # many a process never has any

        return Budgets(self)

    async def task(self, task: str) -> Task:
        """What the bus knows of a task. Raises NotFound."""
        record = await self.connection.field(self.keys.index, f"task:{task}")
        if record is None:
            raise NotFound(
                f"There is no task {task} on this bus.",
                task=task,
                advice="`bus tasks` lists them; check the namespace with `bus doctor`.",
            )
        return task_of(task, record)

    def inbox(self, agent: str, *, consumer: str | None = None, lease: float = 30.0) -> Inbox:
        """The inbox of an agent, as one consumer of its group sees it; `lease` is in seconds."""
        return Inbox(self.connection, self.keys, agent, consumer=consumer or f"client-{new_id()[-12:]}", lease=lease)

    def worker(
        self,
        agent: str,
        handler: Handler,
        *,
        on_incident: Callable[[str], None] | None = None,
        on_settled: Settled | None = None,
        **terms: Unpack[GivenTerms],
    ) -> Worker:
        """A worker for one agent; `await worker.run()` works until it is stopped. `terms` are the fields of Terms."""
        return Worker(self, agent, handler, Terms(**terms), on_incident=on_incident, on_settled=on_settled)


def _submission(envelope: AnyEnvelope | Document) -> Submission | InvalidEnvelope:
    try:
        return Submission(document(envelope))
    except InvalidEnvelope as error:
        return error
