"""The drawing: a plan as a graph, with how far each part of a run is; for a terminal, or as Mermaid or DOT.

Pure; called by `bus plan show` and by the live view.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from taskbus.cli.rendering import age, cells, cut, visible
from taskbus.envelope import now
from taskbus_agents.plans import graph, report
from taskbus_agents.plans.moves import trouble

if TYPE_CHECKING:
    from collections.abc import Iterator
    from datetime import datetime

    from taskbus_agents.plans.model import Node
    from taskbus_agents.plans.run import Run

_GATES: Final = {"check": "gate: a check", "approval": "gate: a person's approval", "join": "gate: all done"}


def head(run: Run) -> str:
    """How far the run is, in one line; of a plan that has no run, that it has none."""
    root = run.root
    if root is None:
        return f"{visible(run.plan.name)}  not run yet, {len(run.plan.nodes)} to do"
    result = root.completion.result.status if root.completion is not None else ""
    states = {"accepted": result or "done", "input-required": "asks", "submitted": "waits for its runner"}
    state = states.get(run.state, run.state)
    return f"{visible(run.plan.name)}  {visible(run.id)}  {state}, {len(run.settled)} of {len(run.plan.nodes)}"


def lines(run: Run, width: int, *, at: datetime | None = None) -> list[tuple[str, str]]:
    """The plan in an order in which it can be done: a line for each part, indented by what stands before it, with its
    state; the first one is about the run, and has none.
    """
    moment = at or now()
    found = [("", cut(head(run), width))]
    levels = graph.levels(run.plan.nodes)
    names = max((cells(visible(node.title)) for node in run.plan.nodes.values()), default=0)
    room = min(names, 44) + 2 * min(max(levels.values(), default=0), 6)
    for name in sorted(levels, key=levels.__getitem__):
        node = run.plan.nodes[name]
        state = report.state_of(run, node)
        indent = "  " * min(levels[name], 6)
        title = f"{indent}{cut(visible(node.title), 44)}"
        title += " " * (room - cells(title))
        text = f"{report.MARKS[state]} {title}  {' '.join(_words(run, node, state, moment))}"
        found.append((state, cut(text.rstrip(), width)))
    return found


def _words(run: Run, node: Node, state: str, at: datetime) -> Iterator[str]:
    piece = run.piece_of(node.name)
    if node.kind == "step":
        yield visible(piece.task.assignee if piece is not None else node.agent or "by the policy")
    else:
        yield _GATES[node.kind]
    if piece is not None and piece.task.attempt > 1:
        yield f"attempt {piece.task.attempt}"
    if piece is None:
        if state in ("failed", "skipped"):
            yield visible(trouble(run, node.name))
        return
    if state == "open":
        yield piece.task.state if piece.task.state == "working" else "not taken on"
        yield age((at - piece.since).total_seconds())
        if piece.progress:
            yield visible(piece.progress)
    elif state == "asking":
        yield f"asks: {visible(piece.question.question if piece.question is not None else '')}"
    elif state in ("failed", "skipped", "canceled"):
        yield visible(trouble(run, node.name))
    elif state == "done":
        yield age((piece.since - piece.begun).total_seconds())


def mermaid(run: Run) -> str:
    """The graph as a Mermaid flowchart."""
    ids = {name: f"n{at}" for at, name in enumerate(run.plan.nodes)}
    found = ["flowchart TD"]
    for name, node in run.plan.nodes.items():
        state = report.state_of(run, node)
        label = f"{report.MARKS[state]} {_safe(node.title)}"
        shape = f'["{label}"]' if node.kind == "step" else f'{{"{label}"}}'
        found.append(f"  {ids[name]}{shape}:::{state}")
    found += [f"  {ids[before]} --> {ids[name]}" for name, node in run.plan.nodes.items() for before in node.after]
    fills = {"done": "#cfe8cf", "failed": "#f3c6c6", "open": "#cfdcf3", "asking": "#f6e9b8", "skipped": "#eee0c8"}
    found += [f"  classDef {state} fill:{fill}" for state, fill in fills.items()]
    return "\n".join(found)


def dot(run: Run) -> str:
    """The graph in the language of Graphviz."""
    ids = {name: f"n{at}" for at, name in enumerate(run.plan.nodes)}
    found = ["digraph plan {", "  rankdir=TB;"]
    for name, node in run.plan.nodes.items():
        state = report.state_of(run, node)
        shape = "box" if node.kind == "step" else "diamond"
        found.append(f'  {ids[name]} [shape={shape}, label="{report.MARKS[state]} {_safe(node.title)}"];')
    found += [f"  {ids[before]} -> {ids[name]};" for name, node in run.plan.nodes.items() for before in node.after]
    return "\n".join([*found, "}"])


def _safe(title: str) -> str:
    """A title that ends no label: what would is written as something that looks like it."""
    text = visible(title).translate({ord('"'): "”", ord("\\"): "⧵", ord("<"): "‹", ord(">"): "›", ord("`"): "'"})
    return text if len(text) <= 80 else f"{text[:79]}…"
