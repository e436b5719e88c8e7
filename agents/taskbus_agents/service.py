"""The service: a worker for one agent as a process, from its first connection to its last signal.

Owns what signals do (the first lets the worker finish within its grace, the second ends everything at once).
Called by `bus agent run`.
"""

from __future__ import annotations

import signal
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

import anyio

from taskbus.client import Bus
from taskbus.errors import UsageError
from taskbus_agents.adapters import COMMAND
from taskbus_agents.definition import Definition
from taskbus_agents.handlers import handler
from taskbus_agents.runner import Runner
from taskbus_agents.tally import Timed

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from pathlib import Path

    from taskbus.settings import Settings
    from taskbus.terms import GivenTerms
    from taskbus.work import Work
    from taskbus.worker import Worker
    from taskbus_agents.tally import OnSettled

SHORTEST_LEASE: Final = 0.2
"""Seconds. It is renewed three times before it runs out."""
SHORTEST_SILENCE: Final = 1.0
"""Seconds. CPU time is counted in hundredths of a second, and looked at four times in this."""
SIGNALS: Final = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


@dataclass(frozen=True, slots=True)
class Service:
    """What `bus agent run` was told, on the worker's terms where it is called as they are.

    The agent is a `command`, or what `definition` says. All times are in seconds. `timeout` and `silence` are the
    limits of the runner; `cwd` is one folder for all deliveries, `root` the folder under which each gets its own.
    """

    agent: str
    command: tuple[str, ...] = ()
    definition: Definition | None = None
    lease: float = 30.0
    concurrency: int = 1
    prefetch: int = 0
    attempts: int = 3
    backoff: float = 1.0
    hard_limit: float | None = None
    grace: float = 30.0
    timeout: float | None = None
    silence: float | None = None
    cwd: Path | None = None
    root: Path | None = None
    until_idle: bool = False
    limit: int | None = None

    @property
    def defined(self) -> Definition:
        """The agent's definition: the one that was given, or that of a command in these folders."""
        found = self.definition or Definition(name=self.agent, adapter=COMMAND, command=self.command)
        if self.cwd is not None:
            found = replace(found, workspace="as-is", folder=self.cwd)
        return replace(found, timeout=self.timeout)


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
    if service.silence is not None and service.silence < SHORTEST_SILENCE:
        raise UsageError(
            f"In {service.silence:g} s without a sign of life nobody can be told from one who thinks.",
            advice=f"Use at least {SHORTEST_SILENCE:g} s; what waits for a model needs minutes.",
        )
    if service.defined.workspace == "as-is" and service.concurrency > 1:
        raise UsageError(
            "One folder for several deliveries at a time would mix their completions up.",
            advice="Leave --concurrency at 1, or use --workdir-root or another kind of workspace.",
        )
    runner = Runner(timeout=service.timeout, silence=service.silence)
    obedience = _Obedience(runner, service.grace, on_incident)
    # Signals first of all, so that whoever reads that it is ready can rely on what they do.
    with anyio.open_signal_receiver(*SIGNALS) as signals:
        async with anyio.create_task_group() as group:
            group.start_soon(obedience.watch, signals, group.cancel_scope)
            async with Bus.connect(settings=settings) as bus, runner:
                agent = replace(
                    handler(service.defined, bus=bus, runner=runner, settings=settings, root=service.root),
                    on_start=on_start,
                    on_incident=on_incident,
                    on_stderr=on_stderr,
                )
                timed = Timed(agent, on_settled)
                obedience.worker = bus.worker(
                    service.agent,
                    timed,
                    on_incident=on_incident,
                    on_settled=timed.settled,
                    **_terms(service, settings),
                )
                if settings.url is None:
                    obedience.worker.advice = "`bus up` starts it."
                on_ready(bus)
                await obedience.worker.run(until_idle=service.until_idle, limit=service.limit)
            group.cancel_scope.cancel()
    return obedience.code


def _terms(service: Service, settings: Settings) -> GivenTerms:
    return {
        "lease": service.lease,
        "concurrency": service.concurrency,
        "prefetch": service.prefetch,
        "attempts": service.attempts,
        "backoff": service.backoff,
        "hard_limit": service.hard_limit,
        "grace": service.grace,
        "supervision": settings.supervision,
    }


class _Obedience:
    """What signals do: the first lets the worker finish within its grace, the second ends all that it runs."""

    def __init__(self, runner: Runner, grace: float, on_incident: Callable[[str], None]) -> None:
        self.worker: Worker | None = None
        self.code = 0
        self._runner = runner
        self._grace = grace
        self._report = on_incident

    async def watch(self, signals: AsyncIterator[signal.Signals], scope: anyio.CancelScope) -> None:
        """Obey signals until cancelled; whatever is in the scope is cancelled where it must end at once."""
        number = await anext(signals)
        if self.worker is not None:
            self.worker.stop()
            if self._runner.running:
                left = f"{self._runner.running} still at work, for {self._grace:g} s at most"
                self._report(f"{number.name}: taking no more; {left}. Once more ends them at once.")
            number = await anext(signals)
            if self._runner.running:
                self._report("Ending at once. What was under way is handed back to the inbox, if the server answers.")
        self.code = 128 + number
        self._runner.kill()
        scope.cancel()
