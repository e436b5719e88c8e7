"""Rendering: an entry of the log as a person reads it, on a terminal or in a file.

Whatever an envelope says is shown, and none of it reaches the terminal as a command: control characters,
escape sequences and marks that turn the direction of writing are made visible (`visible`). Called by every
command that prints what somebody else wrote.
"""

from __future__ import annotations

import re
import shutil
import sys
import textwrap
import unicodedata
from datetime import datetime
from typing import TYPE_CHECKING, Final

import click

from taskbus.amount import dollars
from taskbus.errors import InvalidEnvelope
from taskbus.gist import gist
from taskbus.lifecycle import event_of

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from taskbus.envelope import AnyEnvelope, Usage
    from taskbus.log import Entry

_KEPT: Final = frozenset("\n\t\u200c\u200d")
"""They count as not printing; the last two hold emoji and the letters of several scripts together."""
_SPACE: Final = re.compile(r"[ \t\r\n]+")
_INDENT: Final = 10
_TYPE: Final = len("acknowledgment")
_LINES: Final = 6
"""How many lines of an envelope's text are shown."""
_COLOURS: Final = {
    "delegation": "bright_blue",
    "acknowledgment": "cyan",
    "status": "cyan",
    "question": "bright_yellow",
    "answer": "yellow",
    "completion": "bright_green",
    "verdict": "green",
    "escalation": "bright_red",
    "cancellation": "magenta",
    "parking": "magenta",
    "budget": "magenta",
    "acknowledgment:declined": "red",
    "completion:failure": "red",
    "verdict:rejected": "red",
    "parking:parked": "red",
    "parking:replayed": "cyan",
    "parking:resumed": "cyan",
    "budget:reserved": "cyan",
    "budget:settled": "cyan",
    "budget:warned": "bright_yellow",
}
"""By type, and by event where that is other news: bad ones, most of all."""


def visible(text: str, *, lines: bool = False) -> str:
    r"""Return `text` with every character that does not print as its escape (`\x1b`, `\u202e`).

    With `lines`, line breaks and tabs stay; without, they become spaces, so that it stays one line.
    """
    if text.isprintable():
        return text
    text = text.replace("\r\n", "\n") if lines else _SPACE.sub(" ", text).strip(" ")
    return "".join(each if each.isprintable() or each in _KEPT else _escaped(each) for each in text)


def _escaped(character: str) -> str:
    number = ord(character)
    if number < 0x100:
        return f"\\x{number:02x}"
    return f"\\u{number:04x}" if number < 0x10000 else f"\\U{number:08x}"


def cells(text: str) -> int:
    """How many columns of a terminal `text` takes."""
    return sum(0 if unicodedata.combining(c) else 1 + (unicodedata.east_asian_width(c) in "WF") for c in text)


def cut(text: str, width: int) -> str:
    """The beginning of `text` that fits into `width` columns."""
    if cells(text) <= width:
        return text
    kept = text[: width - 1]
    while kept and cells(kept) > width - 1:
        kept = kept[:-1]
    return f"{kept}…"


def columns() -> int:
    """The width to write for: the terminal's, else 100."""
    return shutil.get_terminal_size((100, 24)).columns if sys.stdout.isatty() else 100


def clock(time: datetime) -> str:
    """A time of day here, with its date where it is not today."""
    local = time.astimezone()
    today = datetime.now(local.tzinfo).date() == local.date()
    return f"{local:%H:%M:%S}" if today else f"{local:%Y-%m-%d %H:%M:%S}"


def age(seconds: float) -> str:
    """A span of time in its two largest units: 45s, 3m 20s, 2h 5m, 3d 4h."""
    whole = max(0, int(seconds))
    for size, unit, small, smaller in ((86400, "d", 3600, "h"), (3600, "h", 60, "m"), (60, "m", 1, "s")):
        if whole >= size:
            rest = whole % size // small
            return f"{whole // size}{unit} {rest}{smaller}" if rest else f"{whole // size}{unit}"
    return f"{whole}s"


def entry(found: Entry, *, marks: Sequence[str] = (), width: int | None = None) -> str:
    """An entry in two lines and more: when, who, what, `marks`, which task; then what it says, indented.

    It may be printed as it stands: nothing of the envelope can steer the terminal.
    """
    width = width or columns()
    marks = list(marks)
    colour = _COLOURS.get(found.type)
    try:
        envelope = found.envelope
        text = gist(envelope)
        colour = _COLOURS.get(event_of(envelope), colour)
        marks += _marks(envelope)
    except InvalidEnvelope as error:
        text = f"This version cannot read it: {error.message}"
    kind = click.style(f"{visible(found.type):<{_TYPE}}", fg=colour, bold=True)
    route = f"{visible(found.sender)} → {visible(found.recipient)}"
    if found.priority != "normal":
        urgent = found.priority in ("critical", "high")
        marks.insert(0, click.style(visible(found.priority), fg="red" if urgent else None, bold=urgent))
    head = (
        f"{clock(found.position.time):<{_INDENT}}{kind}  {route}",
        *marks,
        click.style(visible(found.task), dim=True),
    )
    return "\n".join(("  ".join(head), *_indented(text, width, found.task)))


def _indented(text: str, width: int, task: str) -> Iterator[str]:
    room = max(20, width - _INDENT)
    shown = [
        part
        for line in visible(text, lines=True).expandtabs(4).splitlines()
        for part in textwrap.wrap(line, room) or [""]
    ]
    yield from (" " * _INDENT + line for line in shown[:_LINES])
    if len(shown) > _LINES:
        more = f"… {len(shown) - _LINES} more lines; to see all: bus task {visible(task)}"
        yield " " * _INDENT + click.style(more, dim=True)


def _marks(envelope: AnyEnvelope) -> Iterator[str]:
    if envelope.context.by_hand:
        yield "by hand"
    if envelope.context.deadline is not None:
        yield f"due {clock(envelope.context.deadline)}"
    for call in envelope.usage:
        yield visible(spent(call))


def spent(call: Usage) -> str:
    """What calls of a model used, in a few words."""
    words = [f"{call.provider}/{call.model}"]
    if call.input_tokens is not None or call.output_tokens is not None:
        words.append(f"{call.input_tokens or 0}+{call.output_tokens or 0} tokens")
    words.append("unpriced" if call.cost is None else dollars(call.cost.microusd))
    return " ".join(words)
