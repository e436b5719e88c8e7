"""The archive: sealing against the append, reading it against plain decompression, and a replay against a bare scan.

All on the same envelopes, by turns. The replay is the command of the users, as a process of its own; its rate is that
of what it does more for the whole log than for a tenth of it, so that its start does not count.
"""

from __future__ import annotations

import io
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path

import anyio
import msgspec
import zstandard
from appends import prepared
from part import Part, number

from taskbus import codec
from taskbus.append import Appended
from taskbus.archive import Archive
from taskbus.client import Bus
from taskbus.connection import Connection
from taskbus.errors import TaskbusError
from taskbus.position import START

Run = Callable[[], Awaitable[int]]

COUNT, ROUNDS = 200_000, 5
NAMESPACE = "bench-archive:"
CHUNK = 20_000
ROWS = (
    ("seal, of the append", "seal", "append", 1.0),
    ("read, of plain zstd + JSON", "archive", "plain", 0.5),
    ("bus replay, of XRANGE + decoding", "replay", "scan", 0.5),
)
# The kernel's own peak: what getrusage says of a child includes the parent that it was forked from.
MEASURED = """
import sys
from pathlib import Path
from taskbus.cli import main
try:
    main()
except SystemExit as end:
    peak = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
    sys.stderr.write(peak.split()[1])
    raise
"""
FLAT = 1.25
"""So many times the memory of a tenth of the log the whole of it may take."""


async def measure(url: str, count: int, rounds: int) -> Part:
    """Append and seal in turns, chunk by chunk; then read by turns."""
    rates: dict[str, list[float]] = {name: [] for name in ("append", "seal", "plain", "archive", "scan", "replay")}
    async with Connection.open(url) as connection:
        bus = Bus(connection, NAMESPACE)
        with tempfile.TemporaryDirectory(prefix="taskbus-bench-") as folder:
            archive = Archive.open(folder, bus.keys)
            tenth, chunk = START, min(CHUNK, max(1, count // 10))
            for start in range(0, count, chunk):
                rates["append"].append(await appended(bus, min(chunk, count - start)))
                rates["seal"].append(await timed(partial(seal, archive, bus)))
                if start + chunk <= count // 10:
                    tenth = await bus.log.end()
            sizes: list[tuple[int, int]] = []
            for turn in range(rounds):
                runs = [("plain", partial(plain, archive)), ("archive", partial(read, archive))]
                runs += [("scan", partial(scan, bus)), ("replay", partial(both, url, folder, str(tenth), sizes))]
                for name, run in runs if turn % 2 else reversed(runs):
                    rates[name].append(await (run() if name == "replay" else timed(run)))
        return shown(rates, sizes, await bus.log.count())


def shown(rates: dict[str, list[float]], sizes: list[tuple[int, int]], count: int) -> Part:
    """The rates as ratios of neighbours, with the least that each may be, and the memory of the replay."""
    found = {name: statistics.median(each) for name, each in rates.items()}
    lines = [f"{f'archive, {count:,} envelopes':34}{'bare/s':>12}{'bus/s':>10}{'ratio':>8}{'target':>8}"]
    ok = True
    for title, ours, bare, target in ROWS:
        ratio = statistics.median(a / b for a, b in zip(rates[ours], rates[bare], strict=True))
        found[f"{ours}/{bare}"] = ratio
        lines.append(f"{title:34}{number(found[bare]):>12}{number(found[ours]):>10}{ratio:>8.2f}{target:>8}")
        ok = ok and ratio >= target
    tenth, whole = (statistics.median(each) / 1024 for each in zip(*sizes, strict=True))
    title = "replay's memory: a tenth, all"
    lines.append(f"{title:34}{f'{tenth:.0f} MB':>12}{f'{whole:.0f} MB':>10}{whole / tenth:>8.2f}{FLAT:>8}")
    data = {**found, "count": count, "MB of a tenth": tenth, "MB of all": whole}
    return Part(data, lines, ok and whole / tenth <= FLAT)


async def timed(run: Run) -> float:
    """Envelopes per second."""
    began = time.perf_counter()
    return await run() / (time.perf_counter() - began)


async def appended(bus: Bus, count: int) -> float:
    """Append bytes by 100, as fast as the bus does; envelopes per second."""
    documents = [codec.document(envelope) for envelope in await prepared(bus, "status", count)]
    began = time.perf_counter()
    answers: list[Appended | TaskbusError] = await bus.publish_many(documents)
    rate = count / (time.perf_counter() - began)
    assert all(isinstance(answer, Appended) for answer in answers)
    return rate


async def seal(archive: Archive, bus: Bus) -> int:
    """Seal all that there is."""
    return sum(made.count for made in await archive.seal(bus.log, rest=True, settle=0))


async def read(archive: Archive) -> int:
    """Read all that was sealed, as entries."""
    count = 0
    async for page in archive.pages():
        count += len(page)
    return count


async def plain(archive: Archive) -> int:
    """What any program would do: unpack the files, and decode each line."""
    count, decode = 0, msgspec.json.Decoder().decode
    for made in await archive.segments():
        with (
            (Path(archive.url) / made.file).open("rb") as file,
            zstandard.ZstdDecompressor().stream_reader(file, read_across_frames=True) as stream,
        ):
            for line in io.BufferedReader(stream, 1 << 20):
                decode(line)
                count += 1
    return count


async def scan(bus: Bus) -> int:
    """The bare log by 1,000, with each envelope decoded."""
    count, after = 0, "-"
    while found := await bus.connection.range(bus.keys.log, after, "+", 1000):
        for _, fields in found:
            codec.decode(fields[b"body"])
        count += len(found)
        after = f"({found[-1][0]}"
    return count


async def both(url: str, folder: str, tenth: str, sizes: list[tuple[int, int]]) -> float:
    """Replay a tenth and the whole; envelopes per second of the difference. The memory of both goes into `sizes`."""
    few, small, short = await replay(url, folder, "--to", tenth)
    many, large, long = await replay(url, folder)
    sizes.append((small, large))
    return (many - few) / (long - short)


async def replay(url: str, folder: str, *words: str) -> tuple[int, int, float]:
    """`bus replay --json` into a file: its lines, the kilobytes that the process had at most, and its seconds."""
    command = [sys.executable, "-c", MEASURED, "replay", "--json", "--namespace", NAMESPACE, "--home", folder, *words]
    path = Path(folder) / "replayed"
    began = time.perf_counter()
    with path.open("wb") as file:
        done = await anyio.run_process(command, stdout=file, env={**os.environ, "BUS_URL": url})
    seconds = time.perf_counter() - began
    with path.open("rb") as file:
        return sum(1 for _ in file), int(done.stderr), seconds
