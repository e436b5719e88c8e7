"""Tables: rows of an answer as people read them on a terminal, or as CSV.

On a terminal the widest texts are cut so that a row fits into a line; elsewhere nothing is cut. Nothing that
an envelope says reaches the terminal as a command. Called by the commands of the queries.
"""

from __future__ import annotations

import csv
import io
from typing import TYPE_CHECKING, Any, Final, NamedTuple, TypeAlias

from taskbus.cli.rendering import cells, cut, visible

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

Text: TypeAlias = "Callable[[dict[str, Any]], str]"
"""How a row is written in a column."""

_GAP: Final = "  "
_LEAST: Final = 12
_TIGHT: Final = 6
"""How narrow a text may become when there is no column left that could be left out."""


class Column(NamedTuple):
    """A column: its heading, and the text that a row has in it.

    `flexible` ones give way where a line is too long; then `spare` ones are left out, the highest first.
    `number`s stand on the right; `paint` colours a text that has been cut already. A `kept` one is shown also where no
    row has a text in it.
    """

    heading: str
    text: Text
    flexible: bool = False
    number: bool = False
    paint: Callable[[str], str] | None = None
    spare: int = 0
    kept: bool = False


def table(columns: Sequence[Column], rows: Sequence[dict[str, Any]], *, width: int | None = None) -> str:
    """The rows below their headings; a column without any text is left out, if it is not to be kept.

    With `width` no line is longer, as far as that can be.
    """
    texts = [[visible(column.text(row)) for column in columns] for row in rows]
    shown = [at for at, column in enumerate(columns) if column.kept or not rows or any(line[at] for line in texts)]
    columns, texts = _chosen(columns, texts, shown)
    limits = [max(cells(column.heading), *(cells(line[at]) for line in texts), 0) for at, column in enumerate(columns)]
    if width is not None:
        shown, limits = _fitted(columns, limits, width)
        columns, texts = _chosen(columns, texts, shown)
    headings = [column.heading for column in columns]
    return "\n".join(
        (
            _line(columns, limits, headings),
            _GAP.join("-" * limit for limit in limits),
            *(_line(columns, limits, line, painted=True) for line in texts),
        )
    )


def fits(columns: Sequence[Column], rows: Sequence[dict[str, Any]], width: int) -> bool:
    """Whether the rows can be read as a table: no flexible column has to become narrower than `_LEAST`."""
    wanted = [
        max(cells(column.heading), *(cells(visible(column.text(row))) for row in rows), 0)
        for column in columns
        if not column.spare
    ]
    flexible = [column.flexible for column in columns if not column.spare]
    return (
        _length([min(want, _LEAST) if gives else want for want, gives in zip(wanted, flexible, strict=True)]) <= width
    )


def as_csv(names: Sequence[str], rows: Iterable[dict[str, Any]]) -> str:
    """The rows as CSV, below a line of names; what is not known stays empty, true and false are 1 and 0."""
    written = io.StringIO()
    writer = csv.writer(written, lineterminator="\n")
    writer.writerow(names)
    for row in rows:
        writer.writerow([int(value) if isinstance(value := row[name], bool) else value for name in names])
    return written.getvalue()


def _chosen(
    columns: Sequence[Column], texts: Sequence[Sequence[str]], shown: Sequence[int]
) -> tuple[list[Column], list[list[str]]]:
    return [columns[at] for at in shown], [[line[at] for at in shown] for line in texts]


def _fitted(columns: Sequence[Column], limits: Sequence[int], width: int) -> tuple[list[int], list[int]]:
    """Which columns are shown, and how wide each may be, so that a line fits."""
    shown = list(range(len(columns)))
    while True:
        fitted = _narrowed(columns, limits, shown, width, _LEAST)
        if _length(fitted) <= width:
            return shown, fitted
        dropped = max(shown, key=lambda at: columns[at].spare)
        if not columns[dropped].spare:
            return shown, _narrowed(columns, limits, shown, width, _TIGHT)
        shown.remove(dropped)


def _narrowed(
    columns: Sequence[Column], limits: Sequence[int], shown: Sequence[int], width: int, least: int
) -> list[int]:
    """How wide each column that is shown may be: the widest of the flexible ones gives way, until a line fits."""
    fitted = [min(limits[at], max(width, least)) for at in shown]
    flexible = [place for place, at in enumerate(shown) if columns[at].flexible]
    while _length(fitted) > width:
        widest = max(flexible, key=fitted.__getitem__, default=None)
        if widest is None or fitted[widest] <= least:
            break
        fitted[widest] -= 1
    return fitted


def _length(limits: Sequence[int]) -> int:
    return sum(limits) + len(_GAP) * (len(limits) - 1)


def _line(columns: Sequence[Column], limits: Sequence[int], texts: Sequence[str], *, painted: bool = False) -> str:
    written: list[str] = []
    for column, limit, whole in zip(columns, limits, texts, strict=True):
        text = cut(whole, limit)
        # Not str.ljust: wide characters take two columns, and colours none.
        space = " " * (limit - cells(text))
        shown = column.paint(text) if painted and column.paint else text
        written.append(space + shown if column.number else shown + space)
    return _GAP.join(written).rstrip()
