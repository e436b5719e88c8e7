"""Markdown: a report as text that any renderer shows as it was meant, whatever an envelope said.

Every text is made one line, without a character that does not print, and each sign that Markdown or HTML knows is
escaped, so that no goal becomes a table, a link, an image or markup. Called by `bus report`.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

from taskbus.cli.rendering import visible

if TYPE_CHECKING:
    from collections.abc import Iterator

    from taskbus_projections.report.parts import Document, Grid

_SIGNS: Final = re.compile(r"[\\`*_\[\]<>|~&]")
# Addresses become links by themselves: with a sign escaped in them they do not.
_ADDRESS: Final = re.compile(r"(?i)\b(https?|ftp)(:)(?=//)|\b(www)(\.)")
_AGENT: Final = re.compile(r"@[A-Za-z0-9][A-Za-z0-9._-]{0,63}", re.ASCII)


def written(document: Document) -> str:
    """The report, with a line break at its end."""
    return "\n".join(_lines(document)) + "\n"


def escaped(text: str) -> str:
    """A text that stands in a line of Markdown as it is."""
    line = " ".join(visible(text).split())
    if _AGENT.fullmatch(line):
        # A name in plain text would call upon a user of that name where the report is posted.
        return f"`{line}`"
    return _ADDRESS.sub(r"\1\3\\\2\4", _SIGNS.sub(r"\\\g<0>", line))


def _lines(document: Document) -> Iterator[str]:
    yield f"# {escaped(document.title)}"
    yield ""
    yield escaped(document.subtitle)
    for section in document.sections:
        yield ""
        yield f"## {escaped(section.title)}"
        if section.lines:
            yield ""
            # After a mark of our own, nothing that a line begins with is one.
            yield from (f"- {escaped(line)}" for line in section.lines)
        for grid in section.grids:
            yield ""
            yield from _table(grid)


def _table(grid: Grid) -> Iterator[str]:
    if grid.title:
        yield f"**{escaped(grid.title)}**"
        yield ""
    yield _row(head.text for head in grid.heads)
    yield "|" + "|".join(" ---: " if head.number else " --- " for head in grid.heads) + "|"
    yield from (_row(iter(row)) for row in grid.rows)
    if grid.more:
        yield ""
        yield f"… and {grid.more:,} more."


def _row(texts: Iterator[str]) -> str:
    return f"| {' | '.join(escaped(text) for text in texts)} |"
