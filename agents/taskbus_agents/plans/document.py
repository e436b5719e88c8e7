"""The document of a plan: which form it has, and from there to a plan that can be carried out.

Owns the limits of a document, and that everything wrong with it is told at once. Called by the commands with a file,
and by whoever carries out a run with the bytes that travelled in its delegation.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

from taskbus.envelope import MAX_BYTES
from taskbus.errors import ConfigurationError
from taskbus_agents.plans import graph
from taskbus_agents.plans.model import MOST, Form, Mistakes, Plan

if TYPE_CHECKING:
    from pathlib import Path

_TEXT: Final = re.compile(r"^\s*(ASSESS|SPLIT|ASSIGN|VALIDATE|Assess|Split|Assign|Validate):", re.MULTILINE)


def load(file: Path) -> Plan:
    """Read a plan from a file. Raises ConfigurationError, with each mistake's line."""
    try:
        with file.open("rb") as opened:
            source = opened.read(MAX_BYTES + 1)
    except FileNotFoundError as error:
        raise ConfigurationError(f"There is no file {file}.", advice="Check the path.") from error
    except OSError as error:
        raise ConfigurationError(f"{file} cannot be read: {error.strerror or error}.") from error
    return parse(source, form=form_of(file.name, source), stem=stem_of(file.name), place=file)


def parse(source: bytes, *, form: Form, stem: str, place: Path | str) -> Plan:
    """Read a plan from its bytes; `stem` names it where it does not name itself, `place` is how errors call it.

    Raises ConfigurationError, with each mistake's line.
    """
    mistakes = Mistakes(place)
    if len(source) > MAX_BYTES:
        mistakes.add(1, f"it is longer than {MAX_BYTES} bytes, which is what one envelope holds: make several plans.")
        raise mistakes.error()
    try:
        text = source.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        mistakes.add(source.count(b"\n", 0, error.start) + 1, "this is no text in UTF-8.")
        raise mistakes.error() from error
    if form == "toml":
        from taskbus_agents.plans.table import TableReader

        plan = TableReader(source, text, mistakes).read(stem)
    else:
        from taskbus_agents.plans.text import TextReader

        plan = TextReader(source, text, mistakes).read(stem)
    if plan is not None:
        _check(plan, mistakes)
    mistakes.check()
    if plan is None:
        raise mistakes.error()
    return plan


def form_of(name: str, source: bytes) -> Form:
    """Which form a document has: by its name, else by its headings."""
    if name.endswith(".toml"):
        return "toml"
    return "text" if _TEXT.search(source.decode("utf-8", errors="replace")) else "toml"


def stem_of(name: str) -> str:
    """What a plan is called that has no other name than its file's."""
    stem = name.partition(".")[0] or name
    return re.sub(r"[^A-Za-z0-9_-]+", "-", stem).strip("-_")[:40] or "plan"


def _check(plan: Plan, mistakes: Mistakes) -> None:
    if not plan.steps and not mistakes.found:
        mistakes.add(1, "The plan has no step.")
    if len(plan.nodes) > MOST:
        line = list(plan.nodes.values())[MOST].line
        mistakes.add(line, f"The plan has {len(plan.nodes)} steps and gates, and {MOST} are the most: make several.")
        return
    graph.check(plan.nodes, mistakes)
    if mistakes.found:
        return
    for node in plan.nodes.values():
        if node.kind in ("check", "approval") and not node.after and not plan.followers[node.name]:
            mistakes.add(
                node.line,
                f"The gate {node.name} stands after nothing and before nothing: say what it waits for in its own "
                f"`after`, or put {node.name} into the `after` of what waits for it.",
            )
