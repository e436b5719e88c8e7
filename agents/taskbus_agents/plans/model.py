"""The plan: its steps and gates, as either form of a document says them.

Owns the words of the model and the rules for names, which become parts of task IDs. Pure; made by the readers, asked
by everything else about plans.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from functools import cached_property
from hashlib import sha256
from typing import TYPE_CHECKING, Final, Literal, TypeAlias

from taskbus.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from taskbus.envelope import Priority

Kind: TypeAlias = Literal["step", "check", "approval", "join"]
"""A step is somebody's work; a check is a command that must end with 0; an approval is a person's yes; a join only
waits for what stands before it."""
OnFailure: TypeAlias = Literal["stop", "skip", "escalate"]
"""What becomes of the run when a step or gate has failed for good: nothing new begins; the rest goes on without it;
somebody decides, once nothing else can go on."""
Form: TypeAlias = Literal["toml", "text"]

MOST: Final = 2000
"""How many steps and gates a plan may have: its document and its report are one envelope each."""
MOST_PARALLEL: Final = 60
PARALLEL: Final = 16
CHECK_TIME: Final = 600.0
"""Seconds that a command of the plan may take, of a gate, of a step or of the plan itself, where it has no timeout."""
NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,59}", re.ASCII)
PLAN_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,39}", re.ASCII)
RUN: Final = re.compile(rf"({PLAN_NAME.pattern})\.([1-9][0-9]{{0,8}})", re.ASCII)
"""A run is the task NAME.NUMBER; what belongs to it is NAME.NUMBER.STEP, and NAME.NUMBER.STEP:check-1."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Node:
    """A step or a gate. `name` is unique in its plan, `title` is how the document says it; times are in seconds.

    `after` are the names of what must be done before it begins; `line` is where it stands in its document. `retries`
    is how often it is tried again, `timeout` how long one try may take. Of a step: `goal` and what else its
    delegation says; `agent` is None where the router chooses; `use` is what the plan says of program and model,
    which its agent is told, `model` the model in it, `is_free` whether it says that it costs nothing; `check` a command
    that judges the result, `review` whether a person does. Of a gate: `command`, or `question`.
    """

    name: str
    title: str
    kind: Kind
    line: int
    after: tuple[str, ...] = ()
    on_failure: OnFailure = "stop"
    retries: int = 0
    timeout: float | None = None
    goal: str = ""
    agent: str | None = None
    use: str | None = None
    model: str | None = None
    is_free: bool = False
    task_type: str | None = None
    justification: str | None = None
    priority: Priority = "normal"
    constraints: tuple[str, ...] = ()
    artifacts: tuple[str, ...] = ()
    criteria: tuple[str, ...] = ()
    check: str | None = None
    review: bool = False
    command: str = ""
    question: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """What the finished run is judged by: the report fits a schema (a file), files exist, a command ends with 0."""

    command: str | None = None
    schema: str | None = None
    files: tuple[str, ...] = ()
    timeout: float = CHECK_TIME


@dataclass(frozen=True)
class Plan:
    """A plan that was read and checked. `source` is its document, byte for byte; `folder` is where its commands run,
    seen from the document's own folder; `deadline` is for a whole run, in seconds. `notes` are what a reader should
    know that is no mistake, such as an assignment that nothing needed.
    """

    name: str
    goal: str
    nodes: Mapping[str, Node]
    source: bytes
    form: Form
    complexity: str | None = None
    folder: str = "."
    parallel: int = PARALLEL
    deadline: float | None = None
    check: Check | None = None
    notes: tuple[str, ...] = ()

    @cached_property
    def digest(self) -> str:
        """The SHA-256 of the document, in hexadecimal digits."""
        return sha256(self.source).hexdigest()

    @cached_property
    def followers(self) -> Mapping[str, tuple[str, ...]]:
        """What waits for each node."""
        found: dict[str, list[str]] = {name: [] for name in self.nodes}
        for node in self.nodes.values():
            for name in node.after:
                found[name].append(node.name)
        return {name: tuple(names) for name, names in found.items()}

    @property
    def steps(self) -> tuple[Node, ...]:
        """The steps, in the order of the document."""
        return tuple(node for node in self.nodes.values() if node.kind == "step")

    @property
    def agent(self) -> str:
        """In whose name runs of this plan are carried out."""
        return agent_of(self.name)

    @property
    def media_type(self) -> str:
        """The media type of the document."""
        return "application/toml" if self.form == "toml" else "text/plain"


AGENTS: Final = "@plan."
"""What the names of the agents begin with that carry out plans; each decides alone what becomes of its steps."""


def agent_of(plan: str) -> str:
    """The agent that runs of a plan are delegated to: an inbox for each plan, so that nobody goes on with another's."""
    return f"{AGENTS}{plan}"


@dataclass(frozen=True, slots=True)
class Mistake:
    """Something that is wrong with a plan's document, and where."""

    line: int
    message: str


@dataclass(slots=True)
class Mistakes:
    """Everything that is wrong with one document; `file` is how its place is called."""

    file: Path | str
    found: list[Mistake] = field(default_factory=list[Mistake])

    def add(self, line: int, message: str) -> None:
        """Note one, unless the same was noted."""
        mistake = Mistake(line, message)
        if mistake not in self.found[-1:]:
            self.found.append(mistake)

    def error(self) -> ConfigurationError:
        """All of them as one error, a line each."""
        found = sorted(self.found, key=lambda each: each.line)
        lines = [f"{self.file}, line {each.line}: {each.message}" for each in found[:_SHOWN]]
        if more := len(found) - _SHOWN if len(found) > _SHOWN else 0:
            lines.append(f"… and {more} more")
        return ConfigurationError("\n".join(lines), advice="docs/plans.md shows how a plan is written.")

    def check(self) -> None:
        """Raise ConfigurationError if there are any."""
        if self.found:
            raise self.error()


_SHOWN = 50
