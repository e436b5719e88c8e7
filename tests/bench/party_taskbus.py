"""taskbus as a party of the benchmark: processes that delegate, and processes whose worker completes what it takes."""

from __future__ import annotations

import asyncio
import resource
import sys
import time
from pathlib import Path

from parties import GAP, Commands, Notes, attend
from samples import completion, delegation

from taskbus.append import Appended
from taskbus.client import Bus
from taskbus.envelope import Completion
from taskbus.work import Work
from taskbus.worker import Worker

CYCLE, WAKE = "bench-cycle:", "bench-wake:"
AT_ONCE = 100
READY = 3 * AT_ONCE
SETTINGS = f"{AT_ONCE} delegations in one step; {AT_ONCE} handlers at once, {READY} more deliveries held ready"


async def produce(url: str) -> None:
    """Delegates on command, a hundred in one step."""
    async with Bus.connect(url, namespace=CYCLE) as bus:

        async def publish(count: int) -> None:
            for start in range(0, count, 10 * AT_ONCE):
                some = range(start, min(start + 10 * AT_ONCE, count))
                for answer in await bus.publish_many([delegation() for _ in some], batch=AT_ONCE):
                    assert isinstance(answer, Appended), answer

        await attend({"publish": publish})


async def work(url: str) -> None:
    """Completes each task."""
    async with Bus.connect(url, namespace=CYCLE) as bus:
        worker = bus.worker("@kilo", complete, concurrency=AT_ONCE, prefetch=READY, on_incident=complain)
        await attend_beside(worker, {})


async def call(url: str) -> None:
    """Delegates on command, each time to a worker that is idle."""
    async with Bus.connect(url, namespace=WAKE) as bus:

        async def append(count: int) -> dict[str, int]:
            called: dict[str, int] = {}
            for _ in range(count):
                await asyncio.sleep(GAP)
                envelope = delegation()
                called[envelope.id] = time.monotonic_ns()
                await bus.publish(envelope)
            return called

        await attend({"call": append})


async def listen(url: str) -> None:
    """Notes when a handler starts, then completes the task."""
    async with Bus.connect(url, namespace=WAKE) as bus:
        notes = Notes()

        async def note(work: Work) -> Completion:
            notes.take(work.envelope.id, time.monotonic_ns())
            return completion()

        worker = bus.worker("@kilo", note, on_incident=complain)
        await attend_beside(worker, {"heard": notes.hand_over})


async def drain(url: str, namespace: str) -> None:
    """Completes on command all that waits; answers with its memory before that, and at its peak, in bytes."""
    async with Bus.connect(url, namespace=namespace) as bus:

        async def settle_all(_count: int) -> dict[str, int]:
            start = memory("VmRSS")
            worker = bus.worker("@kilo", complete, concurrency=10, prefetch=AT_ONCE, on_incident=complain)
            await worker.run(until_idle=True)
            return {"settled": worker.settled, "start": start, "peak": memory("VmHWM")}

        await attend({"drain": settle_all})


async def attend_beside(worker: Worker, commands: Commands) -> None:
    """Do what is asked while the worker works; a worker that fails ends the process."""
    async with asyncio.TaskGroup() as group:
        group.create_task(worker.run())
        await attend(commands)
        worker.stop()


async def complete(work: Work) -> Completion:
    """The handler; it tells the result anew each time, as the other buses' replies are encoded anew."""
    assert work.envelope.payload
    return completion()


def complain(incident: str) -> None:
    """Nothing may go wrong in a benchmark; what does is seen."""
    print(incident, file=sys.stderr)


def memory(what: str) -> int:
    """This process's resident memory now (VmRSS) or at its peak (VmHWM), in bytes; elsewhere than on Linux the peak."""
    status = Path("/proc/self/status")
    if status.exists():
        lines = (line.split() for line in status.read_text(encoding="ascii").splitlines())
        return next(int(words[1]) * 1024 for words in lines if words[0] == f"{what}:")
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


if __name__ == "__main__":
    role, *rest = sys.argv[1:]
    asyncio.run({"produce": produce, "work": work, "call": call, "listen": listen, "drain": drain}[role](*rest))
