"""Selection: which entries of the log a command shows, and in which form.

Looks at the header fields of an entry only, so that nothing is decoded to be left out. Called by `bus tail`
and `bus replay`.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, TypeVar

import click

from taskbus.cli import records, rendering
from taskbus.cli.beginnings import task_of
from taskbus.cli.options import say
from taskbus.cli.values import AGENT, TASK
from taskbus.envelope import MESSAGE_TYPES, PRIORITIES
from taskbus.errors import InvalidEnvelope, NotFound, UsageError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from taskbus.client import Bus
    from taskbus.lifecycle import Task
    from taskbus.log import Entry

R = TypeVar("R")
Form: TypeAlias = Literal["pretty", "json", "xml"]


@dataclass(frozen=True, slots=True)
class Selection:
    """What is asked for; what is empty is not asked. `tree` is any task of the tree until `resolved`."""

    agents: frozenset[str] = frozenset()
    types: frozenset[str] = frozenset()
    priorities: frozenset[str] = frozenset()
    task: str | None = None
    tree: str | None = None

    def takes(self, entry: Entry) -> bool:
        """Whether an entry is wanted."""
        if self.task is not None and entry.task != self.task:
            return False
        if self.tree is not None and self.tree not in (entry.root, entry.task):
            return False
        if self.types and entry.type not in self.types:
            return False
        if self.priorities and entry.priority not in self.priorities:
            return False
        return not self.agents or not self.agents.isdisjoint((entry.sender, entry.recipient))

    async def resolved(self, bus: Bus) -> Selection:
        """The same with the whole ID of the task that was asked for, and the root of the tree.

        Tells the user of an unknown task. Raises UsageError where several tasks have an ID that begins so.
        """
        tree, task = await self._known(bus, self.tree), await self._known(bus, self.task)
        root = tree[1].root or tree[0] if tree is not None else self.tree
        return replace(self, tree=root, task=task[0] if task is not None else self.task)

    async def _known(self, bus: Bus, name: str | None) -> tuple[str, Task] | None:
        try:
            return await task_of(bus, name) if name is not None else None
        except NotFound:
            say(f"There is no task {name} on this bus yet.")
            return None


def selection_options(command: Callable[..., R]) -> Callable[..., R]:
    """Give a command the filters, as `selection`, and --xml, as `as_xml`."""

    @click.option("--agent", "agents", type=AGENT, multiple=True, help="Only from or to it; may be repeated.")
    @click.option(
        "--type",
        "types",
        type=click.Choice(MESSAGE_TYPES),
        metavar="TYPE",
        multiple=True,
        help="Only this type of message; may be repeated.",
    )
    @click.option("--task", type=TASK, help="Only this task.")
    @click.option("--tree", type=TASK, help="Only the tree of this task: its root and all parts.")
    @click.option(
        "--priority",
        "priorities",
        type=click.Choice(PRIORITIES),
        metavar="PRIORITY",
        multiple=True,
        help="Only this priority: critical, high, normal or low; may be repeated.",
    )
    @click.option("--xml", "as_xml", is_flag=True, help="Print XML documents.")
    @functools.wraps(command)
    def wrapped(
        *args: Any,
        agents: tuple[str, ...],
        types: tuple[str, ...],
        task: str | None,
        tree: str | None,
        priorities: tuple[str, ...],
        **kwargs: Any,
    ) -> R:
        selection = Selection(frozenset(agents), frozenset(types), frozenset(priorities), task, tree)
        return command(*args, selection=selection, **kwargs)

    return wrapped


def form(*, as_json: bool, as_xml: bool) -> Form:
    """The form that two options ask for. Raises UsageError where both do."""
    if as_json and as_xml:
        raise UsageError("--json and --xml exclude each other.", advice="Leave one of them out.")
    return "json" if as_json else "xml" if as_xml else "pretty"


def show(entry: Entry, form: Form) -> None:
    """Print an entry on stdout."""
    if form == "json":
        click.echo(records.as_json(entry))
    elif form == "pretty":
        click.echo(rendering.entry(entry))
    else:
        try:
            click.echo(records.as_xml(entry))
        except InvalidEnvelope as error:
            say(f"The entry {entry.position} cannot be written as XML: {error.message}")


def show_all(entries: Sequence[Entry], form: Form) -> None:
    """Print a page of entries on stdout; of those in JSON, all at once."""
    if form == "json":
        if entries:
            click.echo(b"\n".join(map(records.as_json, entries)))
        return
    for entry in entries:
        show(entry, form)
