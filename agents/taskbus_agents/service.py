"""The service: a worker for one agent as a process, from its first connection to its last signal.

Owns what signals do (the first lets the worker finish, the second ends everything at once) and what is told of each
delivery. Called by `bus agent run`.
"""

from __future__ import annotations

import os
import signal
import time
from collections import Counter
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final, Literal, TypeAlias

import anyio

from taskbus.client import Bus
from taskbus.codec import document
from taskbus.envelope import Completion, Escalation, Question
from taskbus.errors import UsageError
from taskbus_agents.command import CommandAgent, asks_for_work, environment
from taskbus_agents.folders import Folders
from taskbus_agents.runner import Runner

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Mapping, Sequence
    from pathlib import Path

    from taskbus.append import Appended
    from taskbus.codec import Document
    from taskbus.envelope import AnyEnvelope
    from taskbus.settings import Settings
    from taskbus.worker import Handler, Returned, Work, Worker

SHORTEST_LEASE: Final = 0.2
"""Seconds. It is renewed three times before it runs out."""
SIGNALS: Final = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


@dataclass(frozen=True, slots=True)
class Service:
    """What `bus agent run` was told. `lease` and `timeout` are in seconds; `cwd` is one folder for all deliveries,
    `root` the folder under which each gets its own.
    """

    agent: str
    command: tuple[str, ...]
    lease: float = 30.0
    concurrency: int = 1
    timeout: float | None = None
    cwd: Path | None = None
    root: Path | None = None
    until_idle: bool = False
    limit: int | None = None


Result = Literal["succeeded", "failed", "asked", "escalated", "read"]
_RESULTS: Final[Mapping[str, Result]] = {
    "question": "asked",
    "escalation": "escalated",
    "completed": "succeeded",
    "accepted": "succeeded",
    "failed": "failed",
    "rejected": "failed",
    "input-required": "asked",
    "escalated": "escalated",
}


class Tally:
    """Counts what became of deliveries."""

    def __init__(self) -> None:
        self._counts: Counter[Result] = Counter()

    def add(self, settled: Settled) -> None:
        """Count one."""
        self._counts[settled.result] += 1

    @property
    def has_failures(self) -> bool:
        """Whether one failed or was escalated."""
        return bool(self._counts["failed"] or self._counts["escalated"])

    def __str__(self) -> str:
        number = self._counts.total()
        always: tuple[Result, ...] = ("succeeded", "failed")
        more: tuple[Result, ...] = ("asked", "escalated", "read")
        shown = [f"{self._counts[each]} {each}" for each in (*always, *more) if each in always or self._counts[each]]
        return ", ".join([f"{number} {'delivery' if number == 1 else 'deliveries'}", *shown])


@dataclass(frozen=True, slots=True)
class Settled:
    """One delivery that was settled: what was received, with which outcome, after how many seconds.

    `outcome`, `status`, `id` and `appended` are None where the message asked for nothing, or the agent had
    published its outcome itself: then `state` is what it left its task in.
    """

    agent: str
    task: str
    received: str
    position: str
    seconds: float
    outcome: str | None = None
    status: str | None = None
    id: str | None = None
    appended: str | None = None
    message: str | None = None
    state: str | None = None

    @property
    def result(self) -> Result:
        """What became of it, as it is counted."""
        if self.outcome is None:
            return _RESULTS.get(self.state or "", "read")
        if self.outcome == "completion":
            return "failed" if self.status == "failure" else "succeeded"
        return _RESULTS.get(self.outcome, "read")

    def plain(self) -> dict[str, object]:
        """As a JSON object, without what there is nothing to say of."""
        found = {name: getattr(self, name) for name in self.__slots__}
        return {name: value for name, value in found.items() if value is not None}


OnSettled: TypeAlias = "Callable[[Settled], None]"


async def serve(
    settings: Settings,
    service: Service,
    *,
    on_settled: OnSettled,
    on_incident: Callable[[str], None],
    on_ready: Callable[[Bus], None] = lambda _: None,
    on_start: Callable[[Work], None] = lambda _: None,
    on_stderr: Callable[[str, str], None] | None = None,
) -> int:
    """Work for the agent until a signal, the limit, or an empty inbox; returns the exit code.

    `on_start` is told when the command begins with a delivery, `on_stderr` each line that it writes to stderr.

    Raises UsageError for what cannot be meant; in an exception group, Unavailable when the server cannot be used at
    the start.
    """
    if service.lease < SHORTEST_LEASE:
        raise UsageError(
            f"A lease of {service.lease:g} s cannot be renewed in time.",
            advice=f"Use at least {SHORTEST_LEASE:g} s; 30 s suits most agents.",
        )
    if service.cwd is not None and service.concurrency > 1:
        raise UsageError(
            "One folder for several deliveries at a time would mix their completions up.",
            advice="Leave --concurrency at 1, or use --workdir-root.",
        )
    runner = Runner(timeout=service.timeout)
    obedience = _Obedience(runner, on_incident)
    # Signals first of all, so that whoever reads that it is ready can rely on what they do.
    with anyio.open_signal_receiver(*SIGNALS) as signals:
        async with anyio.create_task_group() as group:
            group.start_soon(obedience.watch, signals, group.cancel_scope)
            async with Bus.connect(settings=settings) as bus, runner:
                agent = replace(
                    _agent(bus, runner, settings, service),
                    on_start=on_start,
                    on_incident=on_incident,
                    on_stderr=on_stderr,
                )
                timed = _Timed(agent, on_settled)
                obedience.worker = bus.worker(
                    service.agent,
                    timed.handle,
                    lease=service.lease,
                    concurrency=service.concurrency,
                    on_incident=on_incident,
                    on_settled=timed.settled,
                )
                if settings.url is None:
                    obedience.worker.advice = "`bus up` starts it."
                on_ready(bus)
                await obedience.worker.run(until_idle=service.until_idle, limit=service.limit)
            group.cancel_scope.cancel()
    return obedience.code


def _agent(bus: Bus, runner: Runner, settings: Settings, service: Service) -> CommandAgent:
    address = bus.connection.address
    return CommandAgent(
        service.command,
        runner,
        Folders(service.root or settings.home / "runs", service.cwd),
        environment(
            os.environ,
            agent=service.agent,
            url=address.url() if address is not None else "",
            namespace=bus.namespace,
            home=settings.home,
        ),
    )


class _Obedience:
    """What signals do: the first lets the worker finish, the second ends it with all its subprocesses."""

    def __init__(self, runner: Runner, on_incident: Callable[[str], None]) -> None:
        self.worker: Worker | None = None
        self.code = 0
        self._runner = runner
        self._report = on_incident

    async def watch(self, signals: AsyncIterator[signal.Signals], scope: anyio.CancelScope) -> None:
        """Obey signals until cancelled; whatever is in the scope is cancelled where it must end at once."""
        number = await anext(signals)
        if self.worker is not None:
            self.worker.stop()
            if self._runner.running:
                left = f"{self._runner.running} still at work"
                self._report(f"{number.name}: taking no more; {left}. Once more ends them at once.")
            number = await anext(signals)
            if self._runner.running:
                self._report("Ended at once. What was under way is taken again when its lease has run out.")
        self.code = 128 + number
        self._runner.kill()
        scope.cancel()


class _Timed:
    """The handler with a clock, and what is told once its outcome stands in the log."""

    def __init__(self, handler: Handler, on_settled: OnSettled) -> None:
        self._handler = handler
        self._on_settled = on_settled
        self._began: dict[int, float] = {}
        self._left: dict[int, str] = {}

    async def handle(self, work: Work) -> Returned:
        """Call the handler, and note when."""
        self._began[work.delivery.token] = time.perf_counter()
        returned = await self._handler(work)
        if returned is None and asks_for_work(work):
            self._left[work.delivery.token] = (await work.bus.task(work.delivery.task)).state
        return returned

    def settled(self, work: Work, outcomes: Sequence[AnyEnvelope | Document], appended: Sequence[Appended]) -> None:
        """Tell of a settled delivery."""
        entry = work.delivery.entry
        began = self._began.pop(work.delivery.token)
        told = Settled(
            agent=work.delivery.agent,
            task=entry.task,
            received=entry.type,
            position=str(entry.position),
            seconds=round(time.perf_counter() - began, 3),
            state=self._left.pop(work.delivery.token, None),
        )
        if outcomes:
            envelope = document(outcomes[0]).envelope
            payload = envelope.payload
            completion = payload if isinstance(payload, Completion) else None
            error = payload.error_details if isinstance(payload, Completion | Escalation) else None
            asked = payload.question if isinstance(payload, Question) else None
            told = replace(
                told,
                outcome=envelope.type,
                status=completion.result.status if completion is not None else None,
                id=envelope.id,
                appended=str(appended[0].position),
                message=error.message if error is not None else asked,
            )
        self._on_settled(told)
