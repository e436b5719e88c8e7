"""The processes of a swarm: started, started again when they die, and ended together.

A crew that dies takes no work with it: its leases lapse, and whoever takes them next goes on. It comes back after a
pause that doubles with each death in a row. It ends when its line does, so that it never outlives the swarm, and runs
in a group of its own, so that Ctrl-C reaches it through the swarm alone. Called by `bus swarm up`.
"""

from __future__ import annotations

import math
import os
import random
import signal
import subprocess
import sys
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, cast

import anyio
import msgspec
from anyio.streams.buffered import BufferedByteReceiveStream
from anyio.streams.text import TextReceiveStream

from taskbus_agents.swarm.lines import USAGE, Incident, Line, Order, Ready

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from anyio.abc import ByteReceiveStream, ByteSendStream, Process

SHORTEST: Final = 1.0
"""Seconds before a crew that died is started again for the first time."""
LONGEST: Final = 60.0
"""The same at most, however often it died. One that ran for so long starts counting anew."""
_LONGEST_LINE: Final = 1 << 20
_TOLD: Final = 2000


@dataclass(slots=True)
class Crew:
    """One process and its agents. `deaths` are those in a row; `again` is when it is started next, by anyio's clock;
    `has_worked` says that it was ready once.
    """

    agents: tuple[str, ...]
    pid: int | None = None
    deaths: int = 0
    again: float | None = None
    has_worked: bool = False
    is_over: bool = False


def shared_out(agents: Sequence[str], processes: int) -> list[tuple[str, ...]]:
    """The agents in as many equal shares as there are processes, none empty."""
    count = max(1, min(processes, len(agents)))
    return [tuple(agents[start::count]) for start in range(count)] if agents else []


class Swarm:
    """Keeps crews running until it is stopped; `on_line` is told all that they tell, with their crew.

    `environment` is what the crews find besides the swarm's own: where the bus is. `grace` is in seconds.
    """

    def __init__(
        self,
        shares: Sequence[tuple[str, ...]],
        environment: Mapping[str, str],
        *,
        grace: float,
        on_line: Callable[[Crew, Line], None],
        on_change: Callable[[Crew], None] = lambda _crew: None,
    ) -> None:
        self.crews = [Crew(share) for share in shares]
        self._environment = {**os.environ, **environment}
        self._grace = grace
        self._on_line = on_line
        self._on_change = on_change
        self._stopping = anyio.Event()

    async def run(self) -> None:
        """Run all crews; returns when the last has ended: after `stop`, or because none can do what it was told."""
        async with anyio.create_task_group() as group:
            for crew in self.crews:
                group.start_soon(self._keep, crew)

    @property
    def is_stopping(self) -> bool:
        """Whether it was told to stop."""
        return self._stopping.is_set()

    def stop(self) -> None:
        """Have every crew finish what it has in hand, within its grace. Repeating it changes nothing."""
        if not self.is_stopping:
            self._stopping.set()
            self._signal()

    def end(self) -> None:
        """End every crew at once; what it has in hand goes back to its inbox."""
        self.stop()
        self._signal()

    def _signal(self) -> None:
        """Crews finish at the first signal, and end at the second."""
        for crew in self.crews:
            if crew.pid is not None:
                with suppress(ProcessLookupError):
                    os.kill(crew.pid, signal.SIGTERM)

    async def _keep(self, crew: Crew) -> None:
        while not self.is_stopping:
            began = anyio.current_time()
            code = await self._once(crew)
            if self.is_stopping or code == 0:
                break
            # One that has worked before comes back when its files are mended: somebody may be at work on them.
            if code == USAGE and not crew.has_worked:
                self._on_line(crew, Incident(text="It cannot be run as it is configured, and is not started again."))
                break
            crew.deaths = 1 if anyio.current_time() - began > LONGEST else crew.deaths + 1
            await self._rest(crew, code)
        crew.is_over = True
        self._on_change(crew)

    async def _once(self, crew: Crew) -> int:
        """One life of a crew; its exit code. The process ends with this, however this ends."""
        order = msgspec.json.encode(Order(agents=crew.agents, grace=self._grace)) + b"\n"
        async with await anyio.open_process(
            [sys.executable, "-m", "taskbus_agents.swarm.crew"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=self._environment,
            start_new_session=True,
        ) as process:
            crew.pid = process.pid
            self._on_change(crew)
            try:
                return await self._heard_out(crew, process, order)
            finally:
                crew.pid = None

    async def _heard_out(self, crew: Crew, process: Process, order: bytes) -> int:
        async with anyio.create_task_group() as group:
            group.start_soon(self._read, crew, cast("ByteReceiveStream", process.stdout))
            group.start_soon(self._read_errors, crew, cast("ByteReceiveStream", process.stderr))
            with suppress(anyio.BrokenResourceError, anyio.ClosedResourceError):
                await cast("ByteSendStream", process.stdin).send(order)
            if self.is_stopping:  # told so before it had a number to be told by
                process.terminate()
            await process.wait()
        return cast("int", process.returncode)

    async def _read(self, crew: Crew, stdout: ByteReceiveStream) -> None:
        lines = BufferedByteReceiveStream(stdout)
        with suppress(anyio.EndOfStream, anyio.IncompleteRead, anyio.ClosedResourceError):
            while True:
                try:
                    text = await lines.receive_until(b"\n", _LONGEST_LINE)
                except anyio.DelimiterNotFound:
                    text = lines.buffer  # no line of ours: told in part, and let go of
                    await lines.receive_exactly(len(text))
                try:
                    line: Line = msgspec.json.decode(text, type=Line)
                except (msgspec.MsgspecError, UnicodeDecodeError):
                    line = Incident(text=text[:_TOLD].decode(errors="replace"))
                if isinstance(line, Ready):
                    crew.again, crew.has_worked = None, True
                self._on_line(crew, line)

    async def _read_errors(self, crew: Crew, stderr: ByteReceiveStream) -> None:
        """What a crew prints beside its lines is odd enough to be shown."""
        with suppress(anyio.ClosedResourceError):
            async for text in TextReceiveStream(stderr, errors="replace"):
                for line in text.splitlines():
                    self._on_line(crew, Incident(text=line[:_TOLD]))

    async def _rest(self, crew: Crew, code: int) -> None:
        pause = min(LONGEST, SHORTEST * 2 ** min(crew.deaths - 1, 10)) * random.uniform(0.75, 1.0)  # noqa: S311 - spreads restarts, and hides nothing
        crew.again = anyio.current_time() + pause
        how = f"by {signal.Signals(-code).name}" if code < 0 else f"with exit code {code}"
        self._on_line(crew, Incident(text=f"Its process ended {how}; it is started again in {math.ceil(pause)} s."))
        self._on_change(crew)
        with anyio.move_on_after(pause):
            await self._stopping.wait()
