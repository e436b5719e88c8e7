"""The report of a run: what each step came to, in one document, for people and for the plan's own check.

Folded from the run alone, so that it is the same whoever writes it. Pure; called when a run ends, and by
`bus plan show`.
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Final

from taskbus_agents.plans.moves import trouble

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from taskbus.envelope import Artifact
    from taskbus_agents.plans.model import Node
    from taskbus_agents.plans.run import Piece, Run

_MOST: Final = 300_000
_MOST_ARTIFACTS: Final = 100_000
"""In bytes: report and artifacts go into one envelope, however long their agents' words are."""
_LONGEST: Final = 4000
MARKS: Final = {
    "done": "✓",
    "skipped": "~",
    "failed": "✗",
    "open": "▶",
    "asking": "?",
    "checking": "…",
    "waiting": "·",
    "canceled": "–",
}


def state_of(run: Run, node: Node) -> str:
    """Where a node stands, in one of the words of `MARKS`."""
    if node.name in run.settled:
        return run.settled[node.name]
    phase = run.phase(node)
    piece = run.piece_of(node.name)
    if phase in ("again", "failed"):
        # What had failed may have been cancelled when the run ended.
        return "canceled" if piece is not None and piece.task.state == "canceled" and not piece.trouble else "failed"
    words = {"waiting": "waiting", "asking": "asking", "open": "open", "done": "done"}
    return words.get(phase, "checking")


def plain(run: Run) -> dict[str, object]:
    """The report as one JSON object; of a plan that has no run, without the names of what there will be."""
    root = run.root
    document: dict[str, object] = {
        "run": run.id if root is not None else None,
        "plan": run.plan.name,
        "goal": run.plan.goal,
        "document": run.plan.digest,
        "agent": run.agent,
        "state": run.state,
    }
    if root is not None and root.completion is not None:
        document["result"] = root.completion.result.status
    document["done"] = sum(how == "done" for how in run.settled.values())
    document["of"] = len(run.plan.nodes)
    document["steps"] = [_plain_node(run, node) for node in run.plan.nodes.values()]
    document["usage"] = usage(run)
    return document


def _plain_node(run: Run, node: Node) -> dict[str, object]:
    piece = run.piece_of(node.name)
    found: dict[str, object] = {"name": node.name, "title": node.title, "kind": node.kind, "after": list(node.after)}
    found["state"] = state_of(run, node)
    if node.kind != "join" and run.root is not None:
        found["task"] = run.task_of(node.name)
    agent = piece.task.assignee if piece is not None else node.agent
    if agent and node.kind == "step":
        found["agent"] = agent
    if piece is not None:
        found["task_state"] = piece.task.state
        found["attempt"] = piece.task.attempt
        found["begun"] = piece.begun.isoformat()
        found["since"] = piece.since.isoformat()
        if piece.completion is not None:
            found["description"] = piece.completion.result.description
            found["artifacts"] = [_plain_artifact(each) for each in piece.completion.result.artifacts]
            found["verification"] = piece.completion.verification_result
    if found["state"] in ("failed", "skipped", "canceled"):
        found["trouble"] = trouble(run, node.name)
    return {name: value for name, value in found.items() if value not in (None, [])}


def _plain_artifact(artifact: Artifact) -> dict[str, object]:
    found = {"path": artifact.path, "sha256": artifact.sha256, "size": artifact.size, "summary": artifact.summary}
    return {name: value for name, value in found.items() if value is not None}


def usage(run: Run) -> dict[str, object]:
    """What models used in all of it: calls, tokens, cost in microdollars, and how many calls have no price."""
    calls = [call for task, piece in run.pieces.items() if task != run.id for call in piece.usage]
    return {
        "calls": len(calls),
        "input_tokens": sum(call.input_tokens or 0 for call in calls),
        "output_tokens": sum(call.output_tokens or 0 for call in calls),
        "microusd": sum(call.cost.microusd for call in calls if call.cost is not None),
        "unpriced": sum(call.cost is None for call in calls),
    }


def text(run: Run, result: str, why: str = "") -> str:
    """The report for people, in Markdown; of what is long, the beginning."""
    plan = run.plan
    count = Counter(state_of(run, node) for node in plan.steps)
    counted = ", ".join(f"{number} {word}" for word, number in count.items())
    head = [f"# {plan.goal}", "", f"Run {run.id} of the plan {plan.name}: {result}. Steps: {counted}."]
    if why:
        head.append(f"\n{why[:_LONGEST]}")
    used = usage(run)
    if used["calls"]:
        cost = f"{int(str(used['microusd'])) / 1e6:.6f} USD"
        head.append(f"\nModels: {used['calls']} calls, {cost}; {used['unpriced']} of them unpriced.")
    parts = ["\n".join(head)]
    room = _MOST - len(parts[0])
    for node in plan.nodes.values():
        if node.kind == "join":
            continue
        part = _part(run, node, min(_LONGEST, max(0, room)))
        room -= len(part)
        parts.append(part)
    return shortened("\n\n".join(parts), _MOST)


def shortened(text: str, most: int) -> str:
    """The beginning of a text that has at most so many bytes."""
    found = text.encode()
    return text if len(found) <= most else f"{found[: most - 3].decode(errors='ignore')}…"


def fitting(artifacts: Iterable[Artifact], most: int) -> tuple[Artifact, ...]:
    """Artifacts, each path once and the newest of it, as far as they go into an envelope beside other things."""
    newest = {each.path: each for each in artifacts}
    found: list[Artifact] = []
    left = _MOST_ARTIFACTS
    for each in newest.values():
        left -= len(each.path.encode()) + len((each.summary or "").encode()) + 200
        if left < 0 or len(found) == most:
            break
        found.append(each)
    return tuple(found)


def _part(run: Run, node: Node, room: int) -> str:
    piece, state = run.piece_of(node.name), state_of(run, node)
    who = f", {piece.task.assignee}" if piece is not None and node.kind == "step" else ""
    tries = f", attempt {piece.task.attempt}" if piece is not None and piece.task.attempt > 1 else ""
    lines = [f"## {MARKS[state]} {node.title}: {state}{who}{tries}"]
    if state in ("failed", "skipped", "canceled"):
        lines.append(trouble(run, node.name)[:room])
    if piece is not None and piece.completion is not None:
        completion = piece.completion
        lines += [each[:room] for each in (completion.result.description, completion.verification_result) if each]
        lines += [f"- {each.path}" for each in completion.result.artifacts[:50]] if room else []
    return "\n".join(lines)


def steps_before(run: Run, node: Node) -> Iterator[str]:
    """The steps right before a node, seen through the gates that stand between; each once."""
    seen: set[str] = set()
    ahead = list(node.after)[::-1]
    while ahead:
        name = ahead.pop()
        if name in seen:
            continue
        seen.add(name)
        if run.plan.nodes[name].kind == "step":
            yield name
        else:
            ahead += list(run.plan.nodes[name].after)[::-1]


def behind(run: Run, name: str) -> Iterator[Piece]:
    """The tasks that a node stands for: its own, or, of a join, those of what stands before it."""
    piece = run.piece_of(name)
    if piece is not None:
        yield piece
    elif run.plan.nodes[name].kind == "join":
        for each in steps_before(run, run.plan.nodes[name]):
            found = run.piece_of(each)
            if found is not None:
                yield found
