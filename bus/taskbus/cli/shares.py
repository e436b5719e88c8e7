"""Shares: parked deliveries by agent and task; which of them are meant, and how they are shown.

Knows the order in which they go, and which of them nobody wants any more. Called by `bus parked`.
"""

from __future__ import annotations

import sys
import textwrap
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

import click

from taskbus.cli import rendering
from taskbus.cli.beginnings import task_of
from taskbus.cli.rendering import cells, visible
from taskbus.envelope import Parking
from taskbus.errors import InvalidEnvelope, NotFound
from taskbus.lifecycle import OPEN

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from taskbus.client import Bus
    from taskbus.lifecycle import Task
    from taskbus.log import Entry
    from taskbus.parked import Parked

_BEHIND: Final = "behind"
_SHORT: Final = 13
"""So much of an ID is its time to the millisecond; less of it would often not tell tasks apart."""
_TITLES: Final[tuple[str, ...]] = ("agent", "task", "what", "reason", "tries", "age", "behind")
_INDENT: Final = 10


@dataclass(frozen=True, slots=True)
class Share:
    """Deliveries of one task to one agent, in the order of the log, and the task as the bus knows it."""

    agent: str
    task: str
    lines: list[Parked]
    known: Task | None

    @property
    def is_needless(self) -> bool:
        """Whether it is work that nobody wants of this agent any more."""
        if self.known is None or not any(line.is_work for line in self.lines):
            return False
        return self.known.state not in OPEN or self.known.assignee != self.agent

    @property
    def ids(self) -> list[str]:
        """The IDs of what was delivered, as far as the log holds it."""
        return [line.entry.id for line in self.lines if line.entry is not None]


async def shares(bus: Bus, tasks: Sequence[str] = (), agent: str | None = None) -> list[Share]:
    """What is parked, of the given tasks or of all, for one agent or for all; the oldest first.

    Raises NotFound for a task of which nothing is parked.
    """
    from taskbus import parked as parking

    names = [agent] if agent is not None else await parking.agents(bus)
    wanted: list[str | None] = [*dict.fromkeys([(await task_of(bus, task))[0] for task in tasks])] or [None]
    lines: list[Parked] = []
    for task in wanted:
        found = [line for name in names for line in await parking.parked(bus, name, task)]
        if task is not None and not found:
            whom = f" for {agent}" if agent else ""
            advice = "`bus parked ls` lists what is."
            raise NotFound(f"Nothing of task {task} is parked{whom}.", task=task, advice=advice)
        lines += found
    grouped: dict[tuple[str, str], list[Parked]] = {}
    for line in sorted(lines, key=lambda each: each.position):
        grouped.setdefault((line.agent, line.task), []).append(line)
    return [Share(name, task, each, await _task(bus, task)) for (name, task), each in grouped.items()]


async def _task(bus: Bus, name: str) -> Task | None:
    try:
        return await bus.task(name)
    except NotFound:
        return None


def first(found: Sequence[Share], count: int | None) -> list[Share]:
    """The first `count` deliveries of them, in the order of the log."""
    lines = sorted((line for share in found for line in share.lines), key=lambda each: each.position)[:count]
    chosen = {(line.agent, line.position) for line in lines}
    cut = [
        replace(share, lines=[line for line in share.lines if (line.agent, line.position) in chosen]) for share in found
    ]
    return [share for share in cut if share.lines]


def plain(line: Parked, now: float) -> dict[str, object]:
    """A parked delivery as `--json` prints it; `now` is the server's time."""
    return {
        "agent": line.agent,
        "task": line.task,
        "type": line.entry.type if line.entry else None,
        "reason": line.reason,
        "tries": _tries(line),
        "since": line.since.isoformat(timespec="milliseconds").replace("+00:00", "Z"),
        "age": round(_age(line, now), 3),
    }


def _age(line: Parked, now: float) -> float:
    return max(0.0, now - line.since.timestamp())


def _tries(line: Parked) -> int:
    # Whoever finds that the last attempt was lost makes none of its own.
    return line.tries - (line.reason == "lost")


def table(found: Sequence[Share], now: float) -> str:
    """The list for people. On a terminal that is too narrow for them, IDs are cut to what tells them apart."""
    rows: list[list[str]] = [list(_TITLES)]
    for share in found:
        line, behind = share.lines[0], len(share.lines) - 1
        what = line.entry.type if line.entry else "?"
        age = rendering.age(_age(line, now))
        texts = (share.agent, share.task, what, line.reason, str(_tries(line)), age, str(behind or ""))
        rows.append([visible(text) for text in texts])
    if sys.stdout.isatty() and sum(_widths(rows)) + 2 * len(_TITLES) > rendering.columns():
        short = _shortened({row[1] for row in rows[1:]})
        for row in rows[1:]:
            row[1] = short[row[1]]
    widths = _widths(rows)
    rows.insert(1, ["-" * width for width in widths])
    return "\n".join(
        "  ".join(text + " " * (width - cells(text)) for text, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    )


def _widths(rows: Sequence[Sequence[str]]) -> list[int]:
    return [max(cells(row[at]) for row in rows) for at in range(len(_TITLES))]


def _shortened(ids: set[str]) -> dict[str, str]:
    length = _SHORT
    while len({each[:length] for each in ids}) < len(ids):
        length += 1
    return {each: each[:length] for each in ids}


def error(told: Entry | None) -> str | None:
    """What went wrong, as the record of a parking has it."""
    try:
        payload = told.envelope.payload if told is not None else None
    except InvalidEnvelope:
        # A newer version wrote it; what was parked is shown all the same.
        return None
    return payload.message if isinstance(payload, Parking) else None


def pretty(line: Parked, said: str | None, now: float) -> str:
    """A parked delivery for people: the envelope, then why it is parked. It may be printed as it stands."""
    age = rendering.age(_age(line, now))
    if line.reason == _BEHIND:
        mark = f"waits behind that for {line.agent}, since {age}"
    else:
        tries = _tries(line)
        after = f" after {tries} {'try' if tries == 1 else 'tries'}" if tries else ""
        mark = f"parked for {line.agent}{after}, {age} ago"
    if line.entry is None:
        shown = f"{visible(line.task)}  {mark}\n{'':{_INDENT}}The log does not hold {line.position} any more."
    else:
        shown = rendering.entry(line.entry, marks=[mark])
    if line.reason == _BEHIND:
        return shown
    return "\n".join((shown, *_block(f"{line.reason}: {said}" if said else line.reason)))


def _block(text: str) -> Iterator[str]:
    room = max(20, rendering.columns() - _INDENT)
    for line in visible(text, lines=True).expandtabs(4).splitlines():
        for part in textwrap.wrap(line, room) or [""]:
            yield " " * _INDENT + click.style(part, fg="red")
