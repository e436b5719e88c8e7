"""The live view: what happens in a run, as it happens, for the person at the terminal.

On a terminal the drawing stands still and changes; elsewhere each event is one line. Writes to stderr alone, since
stdout is for the report. Called by `bus plan run` and `bus plan resume`.
"""

from __future__ import annotations

import os
import shutil
import sys
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Final

import anyio
import click

from taskbus.cli.rendering import clock, cut, visible
from taskbus.envelope import Completion, Question
from taskbus_agents.plans import drawing
from taskbus_agents.plans.moves import trouble

if TYPE_CHECKING:
    from taskbus.log import Entry
    from taskbus_agents.plans.run import Run

_COLOURS: Final = {
    "done": "green",
    "skipped": "yellow",
    "failed": "red",
    "open": "bright_blue",
    "asking": "bright_yellow",
    "checking": "cyan",
    "canceled": "magenta",
}
_EVERY: Final = 0.2
_OLD: Final = 5.0
_TELLING: Final = frozenset({"delegation", "question", "completion", "escalation", "verdict", "cancellation"})


class Live:
    """Shows a run on stderr. `entry` and `incident` are what a session tells; `keep_up` goes on meanwhile, and `end`
    is called last.
    """

    def __init__(self, *, draws: bool | None = None) -> None:
        is_terminal = sys.stderr.isatty() and os.environ.get("TERM") not in (None, "dumb")
        self._draws = is_terminal and not os.environ.get("NO_COLOR") if draws is None else draws
        self._drawn = 0
        self._last = 0.0
        self._is_behind = False
        self._run: Run | None = None

    def entry(self, run: Run, entry: Entry) -> None:
        """Show what an envelope has changed."""
        self._run = run
        line = self._line(run, entry)
        if self._draws:
            if line is not None and (entry.type in ("question", "escalation") or entry.task == run.id):
                self._above(line)
            self._draw()
        elif line is not None:
            _put(line)

    def incident(self, text: str) -> None:
        """Show what is odd."""
        line = visible(text.partition("\n")[0])
        if self._draws:
            self._above(line)
            self._draw(at_once=True)
        else:
            _put(line)

    async def keep_up(self) -> None:
        """Draw what came too soon after the drawing before it, and how long all of it takes; until cancelled."""
        while self._draws:
            await anyio.sleep(_EVERY)
            if self._is_behind or time.monotonic() - self._last > _OLD:
                self._draw(at_once=True)

    def end(self) -> None:
        """Show how it stands at the end."""
        if self._draws:
            self._draw(at_once=True)

    def _line(self, run: Run, entry: Entry) -> str | None:
        if entry.type not in _TELLING:
            return None
        name = entry.task[len(run.id) + 1 :] or run.id
        said = _said(run, entry)
        return f"{clock(entry.position.time)}  {visible(name)}: {said}" if said else None

    def _above(self, line: str) -> None:
        self._erase()
        _put(line)

    def _draw(self, *, at_once: bool = False) -> None:
        self._is_behind = self._run is not None and not at_once and time.monotonic() - self._last < _EVERY
        if self._run is None or self._is_behind:
            return
        self._last = time.monotonic()
        columns, rows = shutil.get_terminal_size((100, 24))
        self._run.refresh()
        lines = drawn(self._run, columns - 1)
        room = max(1, rows - 2)
        if len(lines) > room + 1:
            more = cut(f"… {len(lines) - room} more: bus plan show {self._run.id}", columns - 1)
            lines = [*_most_telling(lines, room), more]
        self._erase()
        _put("\n".join(lines), color=True)
        self._drawn = len(lines)

    def _erase(self) -> None:
        if self._drawn:
            _put(f"\x1b[{self._drawn}A\x1b[J", nl=False, color=True)
            self._drawn = 0


def _put(text: str, *, nl: bool = True, color: bool | None = None) -> None:
    """Write to stderr. The run goes on though nobody reads it any more."""
    with suppress(OSError):
        click.echo(text, err=True, nl=nl, color=color)


def drawn(run: Run, width: int) -> list[str]:
    """The drawing, in colours."""
    found = drawing.lines(run, width)
    return [click.style(text, fg=_COLOURS.get(state), bold=not state or None) for state, text in found]


def _most_telling(lines: list[str], room: int) -> list[str]:
    """The head, and of the rest what is at work or in trouble before what waits or is done."""
    calm = ("✓", "·")
    ranked = sorted(range(1, len(lines)), key=lambda at: (click.unstyle(lines[at]).lstrip()[:1] in calm, at))
    return [lines[0], *(lines[at] for at in sorted(ranked[: room - 1]))]


def _said(run: Run, entry: Entry) -> str:
    envelope = entry.envelope
    payload = envelope.payload
    is_ours = entry.task == run.id
    match payload:
        case Completion():
            status = payload.result.status
            text = "done" if status == "success" else status
            error = payload.error_details
            why = error.message if error is not None else payload.result.description
            if status == "failure" and why:
                text += f": {visible(why)[:300]}"
            return click.style(text, fg="red" if status == "failure" else "green")
        case Question():
            if envelope.recipient != "@human":
                return f"asks: {visible(payload.question)[:300]}"
            node = run.plan.nodes.get(entry.task[len(run.id) + 1 :])
            word = "yes" if node is not None and node.kind == "approval" else '"…"'
            how = f"bus answer {visible(entry.task)} {word}"
            asked = f"{visible(payload.question)[:300]}\n          Answer with: {how}"
            return click.style(asked, fg="bright_yellow")
        case _ if entry.type == "delegation":
            piece = run.pieces.get(entry.task)
            again = f", attempt {piece.task.attempt}" if piece is not None and piece.task.attempt > 1 else ""
            return f"begun{again}" if is_ours else f"→ {visible(envelope.recipient)}{again}"
        case _ if entry.type == "escalation":
            name = entry.task[len(run.id) + 1 :]
            piece = run.pieces.get(entry.task)
            text = piece.trouble if piece is not None else trouble(run, name)
            if is_ours and envelope.sender != run.agent:
                text += f'\n          Go on with: bus answer {run.id} "go on" (or "stop")'
            told = visible(text, lines=True)[:800]
            return click.style(f"escalated to {visible(envelope.recipient)}: {told}", fg="red")
        case _ if entry.type == "verdict":
            return "result accepted" if getattr(payload, "decision", "") == "accepted" else "result rejected"
        case _:
            return "cancelled"
