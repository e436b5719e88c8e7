"""What `bus swarm up` shows: a board that is drawn again and again on a terminal, else a line for each thing.

Pure text in, text out; called by the command.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import click

from taskbus.cli.rendering import cells, cut, visible
from taskbus_agents.swarm.lines import Broken, Incident, Ready, Settled

if TYPE_CHECKING:
    from collections.abc import Mapping

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
_COUNTS: Final = ("succeeded", "failed", "escalated", "parked")
_FAILED: Final = ("failed", "escalated", "parked")


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
    """The board in at most so many lines: who works stands above who rests, and what has no room is counted."""
    rows = sorted(board.rows.values(), key=_rank)
    room = max(1, height - 3)
    shown = rows if len(rows) <= room else rows[: room - 1]
    names = max([cells(row.agent) for row in shown] + [5])
    head = f"{'AGENT':<{names}}  {'STATE':<10}  {'WAITING':>7}  " + "  ".join(f"{each.upper():>9}" for each in _COUNTS)
    lines = [click.style(cut(head + "  LAST", width), bold=True)]
    lines += [_row(row, waiting.get(row.agent, 0), names, width) for row in shown]
    if len(shown) < len(rows):
        lines.append(cut(f"… and {len(rows) - len(shown)} more", width))
    counts = board.counts
    told = ", ".join(f"{counts[each]} {each}" for each in _COUNTS)
    end = "finishing what is in hand; Ctrl-C once more ends it at once" if stopping else "Ctrl-C ends it"
    return [*lines, click.style(cut(f"{len(rows)} agents: {told}; {end}.", width), dim=True)]


def _rank(row: Row) -> tuple[int, str]:
    order: tuple[State, ...] = ("broken", "restarting", "working", "starting", "idle", "ended")
    return order.index(row.state), row.agent


def _row(row: Row, waiting: int, names: int, width: int) -> str:
    state = f"working {len(row.tasks)}" if len(row.tasks) > 1 else row.state
    counts = "  ".join(f"{row.counts[each] or '·':>9}" for each in _COUNTS)
    plain = f"{row.agent:<{names}}  "
    rest = f"  {waiting or '·':>7}  {counts}  "
    last = cut(visible(row.last), max(8, width - names - 12 - len(rest)))
    return plain + click.style(f"{state:<10}", fg=_COLOURS[row.state]) + rest + last
