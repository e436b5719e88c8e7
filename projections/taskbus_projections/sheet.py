"""The sheet: everything about one task that people want to know, as names and texts.

Owns what is left out for people: what only programs need, counts of nothing, and progress of work that has ended.
Everything here is plain text of one or more lines. Called by the command about one task.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from taskbus.lifecycle import OPEN
from taskbus_projections import views

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping

    from taskbus_projections.queries import Row

_MARKS: Final[Mapping[bool | None, str]] = {True: "✓", False: "✗", None: "·"}
_TIMES: Final = ("deadline", "created", "updated", "finished")
_COUNTS: Final = ("questions", "escalations")


def sheet(row: Row, said: Row, spent: Row, when: Callable[[str], str]) -> list[tuple[str, str]]:
    """One task: its fields, what is asked for, what came of it, what it waits for. What is not known is left out."""
    parts = (*_head(row), *_asked(row, said), *_state(row, when), *_outcome(said), *_waiting(said))
    cost = [("cost", views.money(spent))] if spent["calls"] else []
    return [(name, text) for name, text in (*parts, *cost) if text]


def _head(row: Row) -> Iterator[tuple[str, str]]:
    yield "id", row["id"]
    yield "state", row["state"]
    yield "assignee", row["assignee"]
    yield "delegator", row["delegator"]
    if row["coordinator"] != row["delegator"]:
        yield "coordinator", row["coordinator"]
    if row["root"] != row["id"]:
        yield "root", row["root"]
    yield "parent", row["parent"] or ""


def _asked(row: Row, said: Row) -> Iterator[tuple[str, str]]:
    yield "goal", row["goal"]
    yield "constraints", _items(said["constraints"])
    yield "criteria", "\n".join(_criterion(each) for each in said["criteria"])
    yield "starts from", _items(map(_artifact, said["artifacts"]))
    yield "task type", row["task_type"] or ""
    yield "priority", row["priority"]
    yield "review", "required" if row["review"] else "not required"
    yield "route", _route(said["route"]) if said["route"] else ""
    yield "justification", said["justification"] or ""


def _state(row: Row, when: Callable[[str], str]) -> Iterator[tuple[str, str]]:
    yield "attempt", str(row["attempt"])
    if row["state"] in OPEN:
        share = f"{row['fraction']:.0%} " if row["fraction"] is not None else ""
        yield "progress", f"{share}{row['progress'] or ''}".strip()
    for name in _TIMES:
        yield name, when(row[name]) if row[name] else ""
    for name in _COUNTS:
        yield name, str(row[name]) if row[name] else ""


def _outcome(said: Row) -> Iterator[tuple[str, str]]:
    if result := said["result"]:
        yield "result", _joined(result["status"], result["description"])
        yield "made", _items(map(_artifact, result["artifacts"]))
        yield "checked", result["verification_result"] or ""
        yield "trouble", _trouble(result["error_details"]) if result["error_details"] else ""
        yield "ended by", result["termination_reason"] or ""
        yield "next steps", result["next_steps"] or ""
    if verdict := said["verdict"]:
        yield "verdict", _joined(verdict["decision"], verdict["comment"])
    yield "reason", said["reason"] or ""


def _waiting(said: Row) -> Iterator[tuple[str, str]]:
    if question := said["question"]:
        yield "question", question["question"]
        yield "blocks", _items(question["blocks"])
    yield "escalation", _trouble(said["escalation"]) if said["escalation"] else ""


def _route(route: Row) -> str:
    model = "/".join(filter(None, (route.get("provider"), route.get("model"))))
    by = f"by policy {route['policy']}" if route.get("policy") else ""
    lines = [", ".join(filter(None, (route["rung"], model, route.get("complexity"), by)))]
    for each in route.get("passed", ()):
        note = f": {each['note']}" if each.get("note") else ""
        lines.append(f"- passed over {each['rung']}, {each['reason']}{_hanging(note)}")
    return "\n".join(lines)


def _criterion(criterion: Row) -> str:
    line = f"{_MARKS[criterion['met']]} {_hanging(criterion['criterion'])}"
    return f"{line}\n  {_hanging(criterion['evidence'])}" if criterion["evidence"] else line


def _artifact(artifact: Row) -> str:
    summary = artifact.get("summary")
    return f"{artifact['path']}: {summary}" if summary else artifact["path"]


def _trouble(details: Row) -> str:
    said = f"level {details['level']}, {details['category']}: {details['message']}"
    tried = details.get("attempted_recovery")
    return f"{said}\ntried: {tried}" if tried else said


def _joined(word: str, text: str | None) -> str:
    return f"{word}: {text}" if text else word


def _items(texts: Iterable[str]) -> str:
    return "\n".join(f"- {_hanging(text)}" for text in texts)


def _hanging(text: str) -> str:
    """Further lines below the text, not below its mark."""
    return text.replace("\n", "\n  ")
