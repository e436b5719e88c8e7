"""The benchmark: what the bus costs over the bare server, and how it does beside other buses, as ratios in one run.

Every measurement runs in rounds, by turns, on one embedded server; medians are quoted. Without names of parts all run.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import platform
import sys
import tempfile
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path

import answers
import appends
import archives
import folds
import follows
import memory
import sizes
import wakes
from part import Part

from taskbus.connection import Connection
from taskbus.server import Running, down, up

Measure = Callable[[str, int | None, int | None], Awaitable[Part]]


async def append(url: str, count: int | None, rounds: int | None) -> Part:
    """The append, with and without the bus."""
    return await appends.measure(url, count or appends.COUNT, rounds or appends.ROUNDS)


async def size(_url: str, _count: int | None, _rounds: int | None) -> Part:
    """What an envelope weighs."""
    return sizes.measure()


async def cycle(url: str, count: int | None, rounds: int | None) -> Part:
    """The full cycle, beside other buses."""
    import cycles  # the others are slow to import, and installed for this alone

    return await cycles.measure(url, count or cycles.COUNT, rounds or cycles.ROUNDS)


async def wake(url: str, count: int | None, rounds: int | None) -> Part:
    """The way from an append to an idle worker's handler."""
    return await wakes.measure(url, count or wakes.COUNT, rounds or wakes.ROUNDS)


async def archive(url: str, count: int | None, rounds: int | None) -> Part:
    """Sealing, reading what was sealed, and the replay."""
    return await archives.measure(url, count or archives.COUNT, rounds or archives.ROUNDS)


async def hold(url: str, count: int | None, rounds: int | None) -> Part:
    """The memory of a worker for which much waits."""
    return await memory.measure(url, count or memory.COUNT, rounds or memory.ROUNDS)


async def fold(url: str, count: int | None, rounds: int | None) -> Part:
    """The fold of a log into all read models, and its memory."""
    return await folds.measure(url, count or folds.COUNT, rounds or folds.ROUNDS)


async def follow(url: str, count: int | None, rounds: int | None) -> Part:
    """The way from an append to a row that a reader sees, under a steady load."""
    return await follows.measure(url, count or follows.COUNT, rounds or follows.ROUNDS)


async def query(_url: str, count: int | None, rounds: int | None) -> Part:
    """The questions of the command line, on a database that was folded."""
    return await asyncio.to_thread(answers.measure, count or answers.COUNT, rounds or answers.ROUNDS)


PARTS: dict[str, Measure] = {
    "append": append,
    "sizes": size,
    "cycle": cycle,
    "wake": wake,
    "archive": archive,
    "memory": hold,
    "fold": fold,
    "follow": follow,
    "queries": query,
}


async def measured(
    names: Sequence[str], count: int | None, rounds: int | None, show: Callable[[Running, Part], None]
) -> tuple[str, dict[str, Part]]:
    """Run the parts on an embedded server of their own; each is shown when it is done."""
    found: dict[str, Part] = {}
    with tempfile.TemporaryDirectory(prefix="taskbus-bench-") as folder:
        running = await up(Path(folder), durability="everysec")
        try:
            # A rewrite of the append-only file in the background would fall into some rounds and not into others.
            async with Connection.open(running.url) as connection:
                await connection.execute("CONFIG", "SET", "auto-aof-rewrite-percentage", 0)
            for name in names:
                found[name] = await PARTS[name](running.url, count, rounds)
                show(running, found[name])
            return running.server, found
        finally:
            await down(Path(folder))


def main() -> int:
    """Measure, print, and exit with 1 when a target is missed."""
    parser = argparse.ArgumentParser(prog="bin/bench", description=__doc__)
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"{', '.join(PARTS)} (default: all)")
    parser.add_argument("--count", type=int, help="envelopes, cycles or wakes in a round, or deliveries that wait")
    parser.add_argument("--rounds", type=int, help="rounds of each measurement (default: as each part needs)")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    options = parser.parse_args()
    if any(given is not None and given < 1 for given in (options.count, options.rounds)):
        parser.error("--count and --rounds must be at least 1")
    if unknown := set(options.parts) - set(PARTS):
        parser.error(f"there is no part {', '.join(sorted(unknown))}: choose from {', '.join(PARTS)}")
    names = [name for name in PARTS if name in (options.parts or PARTS)]
    heading = iter([f"Python {platform.python_version()}, medians of rounds by turns"])

    def show(running: Running, part: Part) -> None:
        if not options.json:
            for line in heading:
                print(f"{running.server}, {line}")
            print("", *part.lines, sep="\n", flush=True)

    server, found = asyncio.run(measured(names, options.count, options.rounds, show))
    good = all(part.ok for part in found.values())
    if options.json:
        answer = {"server": server, **{name: part.data for name, part in found.items()}, "ok": good}
        json.dump(answer, sys.stdout, indent=2)
        sys.stdout.write("\n")
    else:
        print("\nall targets are met" if good else "\nA TARGET IS MISSED")
    return 0 if good else 1


if __name__ == "__main__":
    raise SystemExit(main())
