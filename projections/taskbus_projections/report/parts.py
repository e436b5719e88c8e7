"""Parts: what a report is made of, whatever it is written as. All texts are plain, and may be hostile."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal, NamedTuple


class Head(NamedTuple):
    """The heading of a column; those of numbers stand on the right."""

    text: str
    number: bool = False


@dataclass(frozen=True, slots=True)
class Grid:
    """A table. `more` is how many rows were left out of it; `title` stands above it."""

    heads: tuple[Head, ...]
    rows: list[tuple[str, ...]]
    title: str = ""
    more: int = 0


@dataclass(frozen=True, slots=True)
class Plot:
    """Numbers over days, each series with a name; amounts are in dollars."""

    name: str
    title: str
    labels: list[str]
    series: list[tuple[str, list[float]]]
    unit: Literal["count", "dollars"] = "count"


@dataclass(frozen=True, slots=True)
class Section:
    """A heading, and what stands below it, in this order: sentences, plots, tables."""

    title: str
    lines: list[str] = field(default_factory=list[str])
    plots: list[Plot] = field(default_factory=list[Plot])
    grids: list[Grid] = field(default_factory=list[Grid])


@dataclass(frozen=True, slots=True)
class Document:
    """A whole report."""

    title: str
    subtitle: str
    sections: list[Section]


def grid(heads: str, rows: list[tuple[str, ...]], *, title: str = "", most: int | None = None) -> list[Grid]:
    """A table, or none without a row. `heads` are parted by bars; one of a number begins with `#`."""
    if not rows:
        return []
    found = tuple(Head(head.lstrip("#"), head.startswith("#")) for head in heads.split("|"))
    shown = rows if most is None else rows[:most]
    return [Grid(found, shown, title, len(rows) - len(shown))]
