"""The graph of a plan: whether it can be carried out at all, and in which order it is read and drawn.

Refuses names that stand for nothing, and circles, each with its line. Pure; called by the readers and the drawing.
"""

from __future__ import annotations

import difflib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

    from taskbus_agents.plans.model import Mistakes, Node

_SHOWN = 8


def check(nodes: Mapping[str, Node], mistakes: Mistakes) -> None:
    """Note what cannot be: a node after one that is not there, after itself, or in a circle."""
    for node in nodes.values():
        for name in node.after:
            if name == node.name:
                mistakes.add(node.line, f"{node.name} stands after itself.")
            elif name not in nodes:
                near = difflib.get_close_matches(name, nodes, n=1) if len(nodes) < 500 else []
                hint = f" Did you mean {near[0]!r}?" if near else ""
                mistakes.add(node.line, f"{node.name} stands after {name!r}, which is no step and no gate.{hint}")
    if mistakes.found:
        return
    if circle := _circle(nodes):
        names = [*circle, circle[0]]
        shown = " → ".join(names if len(names) <= _SHOWN else [*names[: _SHOWN - 1], "…", names[-1]])
        mistakes.add(nodes[circle[0]].line, f"These wait for each other, so that none can begin: {shown}.")


def levels(nodes: Mapping[str, Node]) -> dict[str, int]:
    """How many nodes stand one after the other before each, at most; in an order in which they can be done.

    Nodes in a circle are left out.
    """
    missing = {name: len(set(node.after)) for name, node in nodes.items()}
    followers: dict[str, list[str]] = {name: [] for name in nodes}
    for node in nodes.values():
        for name in set(node.after):
            followers[name].append(node.name)
    found = {name: 0 for name, count in missing.items() if count == 0}
    level = list(found)
    depth = 0
    while level:
        depth += 1
        following: list[str] = []
        for name in level:
            for each in followers[name]:
                missing[each] -= 1
                if missing[each] == 0:
                    found[each] = depth
                    following.append(each)
        level = following
    return found


def _circle(nodes: Mapping[str, Node]) -> list[str]:
    """The names of one circle, each before the one that waits for it; empty without any."""
    left = set(nodes) - set(levels(nodes))
    if not left:
        return []
    # Each that is left waits for another that is: going back from one to the next comes round sooner or later.
    name, way = next(each for each in nodes if each in left), list[str]()
    seen: dict[str, int] = {}
    while name not in seen:
        seen[name] = len(way)
        way.append(name)
        name = next(each for each in nodes[name].after if each in left)
    circle = way[seen[name] :][::-1]
    first = min(range(len(circle)), key=lambda at: nodes[circle[at]].line)
    return circle[first:] + circle[:first]
