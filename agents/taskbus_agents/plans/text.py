"""The text form of a plan, as people write it: ASSESS, SPLIT, ASSIGN, and perhaps VALIDATE.

What stands in one line of SPLIT and is joined by + goes side by side; each line begins when those before it are done;
[GATE] may also ask for a person's approval, or for a command. Collects every mistake with its line. Called by
`document`.
"""

from __future__ import annotations

import difflib
import re
import unicodedata
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Final

from taskbus.envelope import NAME_PATTERN
from taskbus_agents.plans import kinds
from taskbus_agents.plans.model import PLAN_NAME, Check, Node, Plan

if TYPE_CHECKING:
    from taskbus_agents.plans.model import Mistakes

_SECTIONS: Final = ("ASSESS", "SPLIT", "ASSIGN", "VALIDATE")
_HEADING: Final = re.compile(r"\s*([A-Z]{4,20}|[A-Z][a-z]{3,20}):\s*(.*?)\s*", re.DOTALL)
_TAG: Final = re.compile(r"\s*(?:[-*]\s+)?\[([A-Za-z]+)(?:\s*:\s*([^\]]*?))?\s*\]\s*(.*?)\s*", re.DOTALL)
_ARROW: Final = re.compile(r"\s*(?:→|->|⇒|=>)\s*")
_PLUS: Final = re.compile(r"\s+\+\s+")
_TIGHT: Final = re.compile(r"(?<!\+)\+(?!\+)")
"""A plus that does not stand alone: part of a word, or a mistake."""
_ASSIGNED: Final = re.compile(r"\s*(?:[-*]\s+)?([^:]+?)\s*:\s*([^()]*?)\s*(?:\(([^()]*)\))?\s*")
_AT: Final = re.compile(r"@[A-Za-z0-9][A-Za-z0-9._-]*")
_COMMAND: Final = re.compile(r"(?:\$|check:?)\s+(.+)", re.DOTALL)
_AGENT: Final = re.compile(NAME_PATTERN)
_PARALLEL: Final = frozenset({"parallel"})
_ORDER: Final = frozenset({"sequence", "sequential", "serial", "order"})
_COSTS: Final = frozenset({"free", "paid"})
_APPROVALS: Final = frozenset({"human", "approval", "approve"})


@dataclass(slots=True)
class _Assigned:
    """One line of ASSIGN."""

    line: int
    key: str
    agent: str
    use: str
    model: str | None
    is_free: bool
    needed: bool = False


@dataclass(slots=True)
class _Read:
    """What was read so far. `before` are the nodes that the next stage waits for."""

    goal: str = ""
    complexity: str | None = None
    nodes: dict[str, Node] = field(default_factory=dict[str, Node])
    before: tuple[str, ...] = ()
    gates: int = 0
    assigned: list[_Assigned] = field(default_factory=list[_Assigned])
    notes: list[str] = field(default_factory=list[str])
    check: Check | None = None


class TextReader:
    """Reads one document; what is wrong goes into `mistakes`."""

    def __init__(self, source: bytes, text: str, mistakes: Mistakes) -> None:
        self._source = source
        self._text = text
        self._mistakes = mistakes
        self._read = _Read()

    def read(self, stem: str) -> Plan:
        """The plan, not yet checked as a graph, with the name `stem`."""
        section = None
        if not PLAN_NAME.fullmatch(stem):
            self._mistakes.add(1, f"{stem[:60]!r} cannot name a plan: at most 40 letters, digits, - and _.")
        for number, line in enumerate(self._text.splitlines(), start=1):
            if not line.strip() or line.strip().startswith(("#", "```")):
                continue
            heading = _heading(line)
            # An agent may be assigned to something in capitals: there, only a known word ends the section.
            if heading and (heading[0] in _SECTIONS or section != "ASSIGN"):
                section = self._section(number, heading[0])
                line = heading[1]  # noqa: PLW2901 - what stands behind the heading is the first line of its section
                if not line:
                    continue
            if section is None:
                self._mistakes.add(number, "Nothing may stand before ASSESS: or SPLIT:.")
            elif section != "?":
                getattr(self, f"_{section.lower()}")(number, line)
        read = self._read
        notes = self._assign_all()
        return Plan(
            name=stem,
            goal=read.goal or stem,
            nodes=read.nodes,
            source=self._source,
            form="text",
            complexity=read.complexity,
            check=read.check,
            notes=notes,
        )

    def _section(self, number: int, name: str) -> str:
        if name in _SECTIONS:
            return name
        near = difflib.get_close_matches(name, _SECTIONS, n=1)
        hint = f" Did you mean {near[0]}?" if near else ""
        self._mistakes.add(number, f"{name} is no section of a plan.{hint} There are {', '.join(_SECTIONS)}.")
        return "?"

    def _assess(self, _number: int, line: str) -> None:
        goal, *rest = _ARROW.split(line.strip())
        self._read.goal = f"{self._read.goal} {goal}".strip()
        if rest:
            self._read.complexity = rest[-1].strip().casefold() or None

    def _split(self, number: int, line: str) -> None:
        tagged = _TAG.fullmatch(line)
        tag, said, rest = (tagged[1].casefold(), tagged[2], tagged[3]) if tagged else ("", None, line.strip())
        rest = _ARROW.sub("", rest, count=1) if _ARROW.match(rest) else rest.removeprefix("- ")
        if tag == "gate":
            self._gate(number, said)
        elif tag and tag not in _PARALLEL | _ORDER:
            known = "[PARALLEL], [SEQUENCE], [GATE], [GATE: human] and [GATE: $ command]"
            self._mistakes.add(number, f"[{tagged[1] if tagged else ''}] is not known here. There are {known}.")
            return
        if not rest:
            if tag != "gate":
                self._mistakes.add(number, "No step stands in this line.")
            return
        for stage in _ARROW.split(rest):
            self._stage(number, [each.strip() for each in _PLUS.split(stage)])

    def _stage(self, number: int, titles: list[str]) -> None:
        names: list[str] = []
        for title in titles:
            name = _slug(title) or (f"step-{number}-{len(names) + 1}" if any(map(str.isalnum, title)) else "")
            if _TIGHT.search(title):
                self._read.notes.append(f"line {number}: {title[:60]!r} is one step: several have ` + ` between them")
            if not name or not title.isprintable():
                self._mistakes.add(number, f"{title[:60]!r} names no step: it has no letters or digits of a name.")
            elif name in self._read.nodes:
                line = self._read.nodes[name].line
                self._mistakes.add(number, f"There are two steps {name!r}: the other one stands in line {line}.")
            else:
                self._read.nodes[name] = Node(
                    name=name,
                    title=title,
                    kind="step",
                    line=number,
                    after=self._read.before,
                    goal=title,
                    task_type=kinds.kind(title),
                )
                names.append(name)
        self._read.before = tuple(names) or self._read.before

    def _gate(self, number: int, said: str | None) -> None:
        read = self._read
        read.gates += 1
        name = f"gate-{read.gates}"
        node = Node(name=name, title="all done", kind="join", line=number, after=read.before)
        words = (said or "").strip()
        command = _COMMAND.fullmatch(words)
        if command:
            node = replace(node, kind="check", title=f"$ {command[1]}", command=command[1])
        elif words:
            first, _, question = words.partition(" ")
            if first.casefold().rstrip(",;") in _APPROVALS:
                done = f"Everything up to here is done: {', '.join(read.before)}. Go on?"
                question = question.strip() or (done if read.before else "Shall it begin?")
                node = replace(node, kind="approval", title="approval", question=question)
            elif words.casefold() not in ("all", "all done"):
                self._mistakes.add(number, f"[GATE: {words[:60]}] is not known: use human, or $ and a command.")
        if node.kind == "join" and not read.before:
            self._mistakes.add(number, "This gate stands after nothing: put steps before it, or say [GATE: human].")
        if name in read.nodes:
            self._mistakes.add(number, f"{name!r} names this gate and the step in line {read.nodes[name].line}.")
        read.nodes[name] = node
        read.before = (name,)

    def _assign(self, number: int, line: str) -> None:
        found = _ASSIGNED.fullmatch(line)
        words = found[2] if found else ""
        at = _AT.search(words)
        agent = at[0] if at else f"@{_slug(words.split()[0]) if words.split() else ''}"
        if found is None or not _AGENT.match(agent) or agent == "@bus":
            self._mistakes.add(number, "An assignment looks like this: tests: OpenCode @coder (model, free).")
            return
        use = f"Use {words}" + (f" ({found[3].strip()})" if found[3] else "")
        if any(each.key.casefold() == found[1].casefold() for each in self._read.assigned):
            self._mistakes.add(number, f"{found[1]!r} is assigned twice.")
        said = [each.strip() for each in (found[3] or "").split(",") if each.strip()]
        model = next((each for each in said if each.casefold() not in _COSTS), None)
        is_free = any(each.casefold() == "free" for each in said)
        self._read.assigned.append(_Assigned(number, found[1], agent, use, model, is_free))

    def _validate(self, number: int, line: str) -> None:
        check = self._read.check or Check()
        words = line.strip().removeprefix("- ")
        command = _COMMAND.fullmatch(words)
        what, _, path = words.partition(":")
        if command and check.command is None:
            check = replace(check, command=command[1])
        elif what.strip() == "file" and path.strip():
            check = replace(check, files=(*check.files, path.strip()))
        elif what.strip() == "schema" and path.strip() and check.schema is None:
            check = replace(check, schema=path.strip())
        else:
            self._mistakes.add(number, "VALIDATE takes one `$ command`, one `schema: FILE`, and any `file: PATH`.")
        self._read.check = check

    def _assign_all(self) -> tuple[str, ...]:
        """Give each step the agent of the assignment that means it: by its name, by a word of it, by its kind."""
        read = self._read
        for name, node in read.nodes.items():
            if node.kind == "step" and (chosen := _chosen(node, read.assigned)) is not None:
                chosen.needed = True
                read.nodes[name] = replace(
                    node, agent=chosen.agent, use=chosen.use, model=chosen.model, is_free=chosen.is_free
                )
        unneeded = (f"line {each.line}: {each.key!r} names no step" for each in read.assigned if not each.needed)
        return (*read.notes, *unneeded)


def _chosen(node: Node, assigned: list[_Assigned]) -> _Assigned | None:
    title = node.title.casefold()
    if exact := next((each for each in assigned if _slug(each.key) == node.name or each.key.casefold() == title), None):
        return exact
    # The word that comes first in the title says most of what is done: "review tests" is a review.
    places = [(place, each) for each in assigned if (place := kinds.place(each.key, node.title)) is not None]
    if places:
        return min(places, key=lambda found: found[0])[1]
    return next((each for each in assigned if node.task_type and kinds.kind(each.key) == node.task_type), None)


def _heading(line: str) -> tuple[str, str] | None:
    """A heading in capitals, and what stands behind it; a known one also with only its first letter a capital."""
    found = _HEADING.fullmatch(line)
    if found is None or (not found[1].isupper() and found[1].upper() not in _SECTIONS):
        return None
    return found[1].upper(), found[2]


def _slug(title: str) -> str:
    """A title as a name: small letters without their accents, digits and hyphens."""
    plain = unicodedata.normalize("NFKD", title.casefold())
    plain = "".join(each for each in plain if not unicodedata.combining(each))
    return re.sub(r"[^a-z0-9_]+", "-", plain).strip("-_")[:60].rstrip("-_")
