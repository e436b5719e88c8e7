"""Drawing: the lines that show how the rows of a tree hang together.

Called by the views of task trees and of chains of causation.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence


def branches(depths: Sequence[int], *, deepest: int | None = None) -> list[str]:
    """What stands before each row of a tree, given how deep each is, parents before their parts.

    With `deepest`, levels beyond it are drawn as that one, so that long chains leave room for what they say.
    """
    shown = [depth if deepest is None else min(depth, deepest) for depth in depths]
    below: set[int] = set()
    """The depths at which another row follows before the tree goes up again."""
    found: list[str] = []
    for depth in reversed(shown):
        lines = "".join("│   " if level in below else "    " for level in range(1, depth))
        corner = ("├── " if depth in below else "└── ") if depth else ""
        found.append(lines + corner)
        below = {level for level in below if level < depth} | {depth}
    return found[::-1]
