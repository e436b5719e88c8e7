"""What `bus swarm up` shows: a board that is drawn over itself on a terminal, else a line for each thing.

Owns the screen, and that work goes on whoever looks: output that nobody reads any more raises nothing, but is told
once. The rest is text in, text out. Called by the command.
"""

from __future__ import annotations

import errno
import os
import re
import shutil
import sys
from typing import TYPE_CHECKING, Final

import click

from taskbus.cli.options import discard_output, print_json, say
from taskbus.cli.rendering import cut, visible
from taskbus_agents.swarm.lines import Broken, Incident, Ready, Settled

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from taskbus_agents.swarm.board import Board, Row, State
    from taskbus_agents.swarm.lines import Line
    from taskbus_agents.swarm.swarm import Crew

_COLOURS: Final[Mapping[State, str | None]] = {
    "starting": "cyan",
    "idle": None,
    "working": "green",
    "restarting": "yellow",
    "broken": "red",
    "ended": None,
}
_FULL: Final = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
_STATE: Final = 10
_COUNTS: Final = ("succeeded", "failed", "escalated", "parked")
_FAILED: Final = ("failed", "escalated", "parked")


class Screen:
    """Where a swarm is shown; `draws` says whether that is a terminal that can be drawn on. `on_gone` is called once,
    when stdout is read by nobody any more: its pipe, or its terminal, was closed. What a full disk does not take is
    not shown.
    """

    def __init__(self, *, as_json: bool, on_gone: Callable[[], None]) -> None:
        self.draws = not as_json and sys.stdout.isatty() and os.environ.get("TERM") not in (None, "dumb")
        self._on_gone = on_gone
        self._is_gone = False
        self._drawn: tuple[str, ...] = ()
        self._size = os.terminal_size((0, 0))

    def record(self, record: object) -> None:
        """Print an object as JSON."""
        self._print(lambda: print_json(record))

    def line(self, text: str) -> None:
        """Print a line."""
        self._print(lambda: click.echo(text))

    def say(self, text: str) -> None:
        """Tell the person at the terminal, on stderr; a board goes on below that."""
        if self._drawn:
            self._write(_erased(self._drawn))
            self._drawn = ()
        try:
            say(text)
        except OSError:
            return  # nobody is there to be told

    def draw(self, board: Board, waiting: Mapping[str, int], *, stopping: bool) -> None:
        """Draw the board over itself, where it has changed."""
        size = shutil.get_terminal_size((100, 24))
        lines = tuple(drawn(board, waiting, size.columns, size.lines, stopping=stopping))
        if size != self._size and self._drawn:
            self._write("\x1b[H\x1b[2J")  # what was drawn stands elsewhere now
            self._drawn = ()
        self._size = size
        if lines != self._drawn:
            self._write(_erased(self._drawn) + "".join(f"{each}\n" for each in lines))
            self._drawn = lines

    def _write(self, text: str) -> None:
        if os.environ.get("NO_COLOR"):
            text = _uncoloured(text)
        # Click would take the movements of the cursor away with the colours.
        self._print(lambda: click.echo(text, nl=False, color=True))

    def _print(self, put: Callable[[], None]) -> None:
        if self._is_gone:
            return
        try:
            put()
        except OSError as error:
            if error.errno in _FULL:
                return  # the agents work all the same
            self._is_gone = True
            discard_output()
            self._on_gone()


def _erased(lines: Sequence[str]) -> str:
    return f"\x1b[{len(lines)}F\x1b[J" if lines else ""


def _uncoloured(text: str) -> str:
    return re.sub(r"\x1b\[[0-9;]*m", "", text)


def line(crew: Crew, told: Line) -> str | None:
    """What a crew told, as one line; None for what need not be told, such as that work begins."""
    match told:
        case Ready(agents=agents):
            return f"{', '.join(agents)}: ready"
        case Settled(agent=agent, task=task, result=result):
            if result == "read":
                return None
            words = f"{agent}  {visible(task)}  " + click.style(result, fg="red" if result in _FAILED else "green")
            words += f"  {told.seconds:.1f} s" if told.seconds is not None else ""
            return words + (f"  {visible(told.message.partition(chr(10))[0])}" if told.message else "")
        case Broken(agent=agent, text=text):
            return click.style(f"{agent} cannot be run: ", fg="red") + visible(text)
        case Incident(text=text, agent=agent):
            return f"{agent or ', '.join(crew.agents)}: {visible(text.partition(chr(10))[0])}"
        case _:
            return None


def drawn(board: Board, waiting: Mapping[str, int], width: int, height: int, *, stopping: bool) -> list[str]:
    """The board in fewer lines than `height`, each of at most `width` columns: who works stands above who rests, and
    what has no room is counted.
    """
    rows = sorted(board.rows.values(), key=_rank)
    room = max(1, height - 3)
    shown = rows if len(rows) <= room else rows[: room - 1]
    names = min(max([len(row.agent) for row in shown] + [5]), max(12, width - 60))
    head = f"{'AGENT':<{names}}  {'STATE':<{_STATE}}  {'WAITING':>7}  "
    head += "  ".join(f"{each.upper():>9}" for each in _COUNTS)
    lines = [click.style(cut(f"{head}  LAST", width), bold=True)]
    lines += [_row(row, waiting.get(row.agent, 0), names, width) for row in shown]
    if len(shown) < len(rows):
        lines.append(cut(f"… and {len(rows) - len(shown)} more", width))
    counts = board.counts
    told = ", ".join(f"{counts[each]} {each}" for each in _COUNTS)
    agents = "1 agent" if len(rows) == 1 else f"{len(rows)} agents"
    end = "finishing what is in hand; Ctrl-C once more ends it at once" if stopping else "Ctrl-C ends it"
    lines.append(click.style(cut(f"{agents}: {told}; {end}.", width), dim=True))
    return lines[-max(1, height - 1) :]


def _rank(row: Row) -> tuple[int, str]:
    order: tuple[State, ...] = ("broken", "restarting", "working", "starting", "idle", "ended")
    return order.index(row.state), row.agent


def _row(row: Row, waiting: int, names: int, width: int) -> str:
    state = f"working {len(row.tasks)}" if len(row.tasks) > 1 else row.state
    counts = "  ".join(f"{row.counts[each] or '·':>9}" for each in _COUNTS)
    text = f"{cut(row.agent, names):<{names}}  {state:<{_STATE}}  {waiting or '·':>7}  {counts}  {visible(row.last)}"
    text, at = cut(text.rstrip(), width), names + 2
    return text[:at] + click.style(text[at : at + _STATE], fg=_COLOURS[row.state]) + text[at + _STATE :]
