"""What a part of the benchmark has found: data for programs, lines for people, and whether its targets are met."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass
class Part:
    """`data` is printed with `--json`, `lines` without; a part without targets is `ok`."""

    data: object
    lines: list[str] = field(default_factory=list)
    ok: bool = True


def number(value: float) -> str:
    """A rate or a count, as people read it."""
    return f"{value:,.0f}"
