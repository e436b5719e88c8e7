"""Narration: the demo on the screen, as it happens.

Every line about an envelope is made from an entry of the log, after it was appended: nothing is told that did not
happen. Knows widths and colours; called by `play`.
"""

from __future__ import annotations

import textwrap
from typing import TYPE_CHECKING, Final

import click

from taskbus.cli.rendering import visible
from taskbus.envelope import Acknowledgment, Completion, Delegation, ErrorDetails, Escalation, Verdict
from taskbus.gist import gist
from taskbus.lifecycle import event_of

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from taskbus.envelope import AnyEnvelope
    from taskbus.lifecycle import Event
    from taskbus.log import Entry
    from taskbus_agents.demo.boards import Row

NARROW: Final = 72
"""With fewer columns, what is said goes below who says it."""

# Before the first delegation of these tasks, the chapter that begins with it.
CHAPTERS: Final = {
    "scout": "2. What changed? @scout is a process; it calls `bus progress` while it works.",
    "notes": "3. The release notes, delegated in XML: a question, a review, a second try.",
    "pack": "4. The archive: one agent crashes and escalates, another gets the same task.",
}
VERBS: Final[Mapping[Event, tuple[str, str | None]]] = {
    "delegation": ("delegates", "bright_blue"),
    "acknowledgment:accepted": ("takes it on", None),
    "acknowledgment:declined": ("declines", "red"),
    "status": ("reports", None),
    "question": ("asks", "yellow"),
    "answer": ("answers", "yellow"),
    "completion:done": ("completes", "green"),
    "completion:failure": ("fails", "red"),
    "verdict:accepted": ("accepts", "green"),
    "verdict:rejected": ("rejects", "red"),
    "escalation": ("escalates", "red"),
    "cancellation": ("cancels", "magenta"),
    "parking:parked": ("sets aside", "red"),
    "parking:replayed": ("replays", None),
    "parking:resumed": ("resumes", None),
    "parking:dropped": ("drops", "magenta"),
    "budget:cap": ("caps", "yellow"),
    "budget:reserved": ("reserves", None),
    "budget:settled": ("settles", None),
    "budget:released": ("gives back", "magenta"),
    "budget:warned": ("warns", "red"),
}
"""What each event does, and its colour."""
_ROUTE: Final = 24
_VERB: Final = 11
_LINES: Final = 3


class Narrator:
    """Tells the story line by line through `write`; `width` is in columns."""

    def __init__(self, write: Callable[[str], None], width: int) -> None:
        self._write = write
        self.width = max(width, 30)
        self._begun: set[str] = set()

    def title(self, text: str) -> None:
        """Say what comes now."""
        self._write("")
        for line in textwrap.wrap(text, self.width):
            self._write(click.style(line, bold=True))

    def command(self, words: str) -> None:
        """Show a command that is being run, or that may be."""
        self._write(click.style(f"$ {words}", fg="cyan"))

    def board(self, title: str, draw: Callable[[list[Row], int], str], rows: list[Row]) -> None:
        """Show a table."""
        self.title(title)
        for line in draw(rows, self.width - 2).splitlines():
            self._write(f"  {line}")

    def note(self, text: str) -> None:
        """Say something in passing."""
        for line in textwrap.wrap(text, self.width):
            self._write(click.style(line, dim=True))

    def entry(self, entry: Entry) -> None:
        """Tell what an envelope says; before the first one of a chapter, its title."""
        if entry.task in CHAPTERS and entry.task not in self._begun:
            self._begun.add(entry.task)
            self.title(CHAPTERS[entry.task])
        verb, colour = VERBS[event_of(entry.envelope)]
        shown = click.style(verb, fg=colour, dim=colour is None)
        route = f"{entry.sender} → {entry.recipient}"
        if self.width < NARROW:
            head, indent = f"  {route}  {shown}", 6
        else:
            head, indent = f"  {route:<{_ROUTE}}  {shown}", _ROUTE + _VERB + 6
        text = visible(_text(entry.envelope))
        lines = textwrap.wrap(text, self.width - indent, max_lines=_LINES, placeholder=" …")
        if lines and self.width >= NARROW:
            head += " " * (_VERB - len(verb) + 2) + lines.pop(0)
        for line in (head, *(" " * indent + line for line in lines)):
            self._write(line)


def _text(envelope: AnyEnvelope) -> str:
    payload = envelope.payload
    match payload:
        case Acknowledgment(accepted=True):
            return ""
        case Delegation():
            return payload.goal
        case Completion(error_details=ErrorDetails(message=message)):
            return _end_of(message)
        case Completion(result=result):
            return result.description or ""
        case Verdict(decision=decision):
            return _evidence(payload, met=decision == "accepted")
        case Escalation(error_details=error):
            return f"{error.message}. {error.attempted_recovery or ''}"
        case _:
            return gist(envelope)


def _end_of(message: str) -> str:
    """The first line of a failure says how it ended, the last one of stderr why."""
    lines = message.splitlines()
    return lines[0] if len(lines) < 2 else f"{lines[0]} {lines[-1]}"


def _evidence(verdict: Verdict, *, met: bool) -> str:
    return "; ".join(result.evidence or result.criterion for result in verdict.criteria if result.met is met)
