"""One process of a swarm: the workers of some agents, all in one event loop.

`python -m taskbus_agents.swarm.crew` reads its order from stdin, and works until that ends or a signal comes: the
first lets every worker finish within the grace, the second ends everything at once. It tells what happens on stdout,
as `taskbus_agents.swarm.lines` has it. Where the bus is stands in its environment, as for every command.
"""

from __future__ import annotations

import os
import queue
import signal
import sys
import threading
import traceback
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Final

import anyio
import msgspec
from anyio import to_thread

from taskbus.client import Bus
from taskbus.errors import ConfigurationError, NotFound, TaskbusError, Unavailable
from taskbus.settings import Settings
from taskbus_agents import registry
from taskbus_agents.guard import Guard
from taskbus_agents.handlers import absent, handler
from taskbus_agents.runner import Runner
from taskbus_agents.swarm.lines import USAGE, Broken, Incident, Line, Order, Ready, Settled, Started
from taskbus_agents.tally import Timed

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping

    from taskbus.work import Work
    from taskbus.worker import Worker
    from taskbus_agents import tally
    from taskbus_agents.definition import Definition

SIGNALS: Final = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
_AWAY: Final = 5
_LAST_WORDS: Final = 2.0
"""Seconds for what is still to be told at the end."""


@dataclass(frozen=True, slots=True)
class Mate:
    """One agent of the crew: its worker, and what runs its programs."""

    worker: Worker
    runner: Runner


class Teller(threading.Thread):
    """Prints lines, in a thread of its own: work goes on while nobody reads them. Beyond so many they are lost."""

    def __init__(self, most: int = 10_000) -> None:
        super().__init__(daemon=True)
        self._lines: queue.Queue[Line | None] = queue.Queue(most)

    def tell(self, line: Line | None) -> None:
        """Print a line soon; None is the end."""
        with suppress(queue.Full):
            self._lines.put_nowait(line)

    def run(self) -> None:
        """Print until the end. That nobody will ever read any more is told by the end of stdin."""
        while (line := self._lines.get()) is not None:
            rest = memoryview(msgspec.json.encode(line) + b"\n")
            with suppress(BrokenPipeError):
                while rest:
                    rest = rest[os.write(1, rest) :]


_teller = Teller()
tell = _teller.tell


async def work(order: Order, settings: Settings) -> int:
    """Work for the agents of an order until the end of stdin or a signal; the exit code.

    Raises Unavailable when the server cannot be used at the start.
    """
    known = registry.read(settings)
    mates: dict[str, Mate] = {}
    with anyio.open_signal_receiver(*SIGNALS) as signals:
        async with AsyncExitStack() as stack, anyio.create_task_group() as group:
            guard = Guard()  # one process for all of them
            stack.callback(guard.close)
            bus = await stack.enter_async_context(Bus.connect(settings=settings))
            for name in order.agents:
                try:
                    definition = known.find(name)
                    mates[name] = await _mate(definition, bus, settings, order, stack=stack, known=known, guard=guard)
                except (ConfigurationError, NotFound) as error:
                    tell(Broken(agent=name, text=error.message))
            if mates:
                group.start_soon(_obey, signals, list(mates.values()), group.cancel_scope)
                group.start_soon(_listen, list(mates.values()))
                tell(Ready(agents=tuple(mates)))
                async with anyio.create_task_group() as working:
                    for mate in mates.values():
                        working.start_soon(mate.worker.run)
            group.cancel_scope.cancel()
    return 0 if mates else USAGE


async def _mate(
    definition: Definition,
    bus: Bus,
    settings: Settings,
    order: Order,
    *,
    stack: AsyncExitStack,
    known: Mapping[str, Definition],
    guard: Guard,
) -> Mate:
    name = definition.name
    runner = await stack.enter_async_context(
        Runner(timeout=definition.timeout, silence=definition.silence, guard=guard)
    )

    def incident(text: str) -> None:
        tell(Incident(agent=name, text=text))

    def started(work: Work) -> None:
        tell(Started(agent=name, task=work.delivery.task, type=work.envelope.type))

    agent = handler(definition, bus=bus, runner=runner, settings=settings, known=known)
    if (said := absent(definition)) is not None:
        raise ConfigurationError(said)
    timed = Timed(replace(agent, on_start=started, on_incident=incident), _settled)
    worker = bus.worker(
        name,
        timed,
        on_incident=incident,
        on_settled=timed.settled,
        lease=definition.lease,
        concurrency=definition.concurrency,
        attempts=definition.attempts,
        hard_limit=definition.hard_limit,
        grace=order.grace,
        supervision=settings.supervision,
    )
    return Mate(worker, runner)


def _settled(settled: tally.Settled) -> None:
    tell(
        Settled(
            agent=settled.agent,
            task=settled.task,
            received=settled.received,
            result=settled.result,
            outcome=settled.outcome,
            seconds=settled.seconds,
            message=settled.message,
        )
    )


async def _obey(signals: AsyncIterator[signal.Signals], mates: list[Mate], scope: anyio.CancelScope) -> None:
    await anext(signals)
    _stop(mates)
    await anext(signals)
    for mate in mates:
        mate.runner.kill()
    scope.cancel()


async def _listen(mates: list[Mate]) -> None:
    """Stop at the end of stdin: the swarm is gone."""
    await to_thread.run_sync(partial(_end_of, sys.stdin.fileno()), abandon_on_cancel=True)
    _stop(mates)


def _end_of(stream: int) -> None:
    while os.read(stream, 4096):
        pass


def _stop(mates: list[Mate]) -> None:
    for mate in mates:
        mate.worker.stop()


def _order() -> Order:
    """The first line of stdin, read byte by byte, so that nothing behind it is lost in a buffer."""
    read = b""
    while not read.endswith(b"\n"):
        piece = os.read(sys.stdin.fileno(), 1)
        if not piece:
            sys.exit(0)  # whoever wanted a crew is gone
        read += piece
    return msgspec.json.decode(read, type=Order)


def main() -> None:
    """Read the order, and carry it out."""
    order = _order()
    _teller.start()
    try:
        code = anyio.run(work, order, Settings.load())
    except* TaskbusError as errors:
        first = errors.exceptions[0]
        while isinstance(first, BaseExceptionGroup):
            first = first.exceptions[0]
        tell(Incident(text=str(first)))
        code = _AWAY if isinstance(first, Unavailable) else USAGE
    except* Exception:  # noqa: BLE001 - ends the process as it would without this, but for the thread that reads stdin
        traceback.print_exc()
        code = 1
    tell(None)
    _teller.join(_LAST_WORDS)
    # Without waiting for the thread that reads stdin.
    os._exit(code)


if __name__ == "__main__":
    main()
