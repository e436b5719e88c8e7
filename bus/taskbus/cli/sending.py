"""Sending: from a draft to the log, and what the sender is told of it.

Owns who speaks (`--as`, BUS_AGENT, @human for what a delegator says, the task's assignee for what an assignee
says), to whom, under which token, and how waiting for an outcome ends. Called by the verbs.
"""

from __future__ import annotations

import os
from contextlib import aclosing
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal, TypeAlias

import anyio
import click
from msgspec import structs

from taskbus import codec
from taskbus.cli.beginnings import task_of
from taskbus.cli.criteria import compared
from taskbus.cli.drafts import drafted
from taskbus.cli.options import print_json, run_async, say
from taskbus.cli.records import record
from taskbus.cli.rendering import entry as rendered
from taskbus.cli.rendering import visible
from taskbus.cli.values import AGENT
from taskbus.codec import Document
from taskbus.envelope import Answer, Delegation, Escalation, Parking, Payload, compose
from taskbus.errors import LifecycleConflict, NotFound, RefusedByBudget, TimedOut, UsageError
from taskbus.lifecycle import BUS, HUMAN, event_of

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from taskbus.append import Appended
    from taskbus.cli.drafts import Draft, Flag, Header, Nested, Source
    from taskbus.client import Bus
    from taskbus.envelope import AnyEnvelope
    from taskbus.lifecycle import State, Task
    from taskbus.log import Entry, Incident
    from taskbus.position import Position
    from taskbus.settings import Settings

Speaker: TypeAlias = Literal["delegator", "assignee"]

_NEXT: Mapping[State, str] = {
    "submitted": "{assignee} is to take it on. To watch it: bus tail --task {id}",
    "working": "{assignee} is at work on it.",
    "input-required": 'The next is an answer: bus answer {id} "…"',
    "completed": '{delegator} is to judge it: bus accept {id}, or bus reject {id} --comment "…"',
    "accepted": "It is done.",
    "failed": '{delegator} may hand it out again: bus delegate @agent "…" --task {id}',
    "rejected": '{delegator} may hand it out again: bus delegate @agent "…" --task {id}',
    "escalated": '{coordinator} is to decide: bus answer {id} "…", or bus delegate @agent "…" --task {id}',
    "canceled": "It is over.",
}
_BEHIND: Mapping[State, str] = {
    "submitted": "{many} parked for {assignee}, and this waits behind. To deliver all of it: bus parked replay {id}",
    "working": "{many} parked for {assignee}, and this waits behind. To deliver all of it: bus parked replay {id}",
    "escalated": "{many} parked for {assignee}: bus parked show {id}, then bus parked replay {id}, "
    'or bus delegate @agent "…" --task {id}',
    "canceled": "It is over. {many} parked for {assignee} still: bus parked drop {id}",
}
"""What is next instead where deliveries of the task are parked for its assignee."""
_RECIPIENTS: Mapping[str, str] = {
    "question": "Leave --to out to ask the delegator, or ask with --to @human.",
    "delegation": "Name the agent that is to do it, as in @kilo.",
}
"""What to do about a refused recipient."""


@dataclass(frozen=True, slots=True)
class Sent:
    """An envelope that stands in the log, and its task as it was found right after.

    `parked` are how many deliveries of the task are parked for its assignee: what is sent to it waits behind them.
    """

    envelope: AnyEnvelope
    appended: Appended
    task: Task
    parked: int = 0


@dataclass(frozen=True, slots=True)
class Ended:
    """The entry that ended somebody's wait; `good` says whether that is what was hoped for.

    `choices` are what can be done where a budget refused the work; None for any other end.
    """

    entry: Entry
    good: bool
    choices: str | None = None


def speak(
    kind: type[Payload],
    flags: Mapping[str, Flag],
    header: Header,
    document: Source | None,
    *,
    settings: Settings,
    speaker: Speaker,
    as_json: bool,
    token: int | None = None,
    nested: Nested | None = None,
) -> None:
    """The whole way of a verb that waits for nothing: draft, append, report; raises what these raise."""
    draft = drafted(kind, flags, header, document, nested or {})
    if speaker == "assignee":
        token = token_for(token, draft.task)
    run_async(_spoken, draft, settings, speaker, token=token, as_json=as_json)


async def _spoken(draft: Draft, settings: Settings, speaker: Speaker, *, token: int | None, as_json: bool) -> None:
    from taskbus.client import Bus  # redis is slow to import

    async with Bus.connect(settings=settings) as bus:
        sent = await send(bus, draft, settings, speaker, token=token)
        report(sent, as_json=as_json)
        await compared(bus, sent.envelope)


def name_of(agent: str | None) -> str | None:
    """The name of the agent that the environment or bus.toml says we are."""
    return AGENT.convert(agent, None, None) if agent else None


def token_for(option: int | None, task: str | None) -> int | None:
    """The fencing token: the option's, else the one that a worker gave to its subprocess for this task."""
    if option is not None:
        return option
    given, about = os.environ.get("BUS_TOKEN"), os.environ.get("BUS_TASK")
    if not given or (about and task and about != task):
        return None
    if not given.isdecimal():
        raise UsageError(f"BUS_TOKEN is {given!r}, and a token is a number.", advice="Unset BUS_TOKEN.")
    return int(given)


async def send(bus: Bus, draft: Draft, settings: Settings, speaker: Speaker, *, token: int | None = None) -> Sent:
    """Complete a draft and append it. Raises what `Bus.publish` raises, and NotFound for an unknown task."""
    document, spoken_for = await _document(bus, draft, settings, speaker, token)
    envelope = document.envelope
    try:
        appended = await bus.publish(document, token=token)
    except LifecycleConflict as error:
        if error.reason == "recipient" and envelope.type in _RECIPIENTS:
            error.advice = _RECIPIENTS[envelope.type]
        elif spoken_for == HUMAN and (envelope.type, "delegator") in _permitted(error):
            task = await bus.task(envelope.task)
            if task.delegator != HUMAN:
                error.advice = f"{error.advice or ''} To speak as another: --as {task.delegator}".strip()
        raise
    task = await bus.task(envelope.task)
    return Sent(envelope, appended, task, await _parked(bus, envelope, task))


async def _parked(bus: Bus, envelope: AnyEnvelope, task: Task) -> int:
    from taskbus.parked import count

    concerned = task.state in _BEHIND and (envelope.recipient == task.assignee or task.state == "escalated")
    return await count(bus, task.assignee, envelope.task) if concerned else 0


def _permitted(error: LifecycleConflict) -> set[tuple[str, str]]:
    """What would be accepted, and from whom."""
    return {(kind, role) for kind, roles in error.legal for role in roles}


async def _document(
    bus: Bus, draft: Draft, settings: Settings, speaker: Speaker, token: int | None
) -> tuple[Document, str | None]:
    """The document to publish, and the name that was chosen because nobody said who speaks."""
    if draft.whole is not None:
        return draft.whole, None
    task = None
    if not isinstance(draft.payload, Delegation):
        name = draft.task or os.environ.get("BUS_TASK")
        if name is None:
            advice = "Name the task before the document: bus complete TASK FILE."
            raise UsageError("It is not said which task it is about.", advice=advice)
        name, task = await task_of(bus, name)
        draft = replace(draft, task=name)
    sender, default = draft.sender or name_of(settings.agent), None
    if sender is None:
        sender = default = task.assignee if speaker == "assignee" and task else HUMAN
    envelope = compose(
        draft.payload,
        sender=sender,
        recipient=draft.recipient or _recipient(task, draft.payload, speaker),
        task=draft.task,
        parent=draft.parent,
        priority=draft.priority,
        deadline=draft.deadline,
        by_hand=speaker == "assignee" and default is not None and token is None,
        usage=draft.usage,
    )
    root = task.root if task else await _root(bus, draft.parent) if draft.parent else None
    context = structs.replace(envelope.context, correlation_id=root, causation_id=task.cause if task else None)
    envelope = structs.replace(envelope, context=context)
    source = draft.source
    kept = (source.data, codec.JSON) if source is not None else (None, None)
    return Document(envelope, codec.validated(envelope), codec.JSON, *kept), default


def _recipient(task: Task | None, payload: Payload, speaker: Speaker) -> str:
    if task is None:
        raise UsageError("It is not said to whom.", advice="Name the agent, as in @kilo.")
    if speaker == "delegator":
        return task.assignee
    return task.coordinator if isinstance(payload, Escalation) else task.delegator


async def _root(bus: Bus, task: str) -> str | None:
    """The root of a task's tree, where the bus knows the task."""
    try:
        return (await bus.task(task)).root
    except NotFound:
        return None


def report(sent: Sent, *, as_json: bool) -> None:
    """Print the task's state on stdout and what is next on stderr; or one JSON object."""
    if as_json:
        print_json(summary(sent))
        return
    click.echo(sent.task.state)
    tell(sent)


def tell(sent: Sent) -> None:
    """Say on stderr whose turn it is, and how to go on."""
    task = sent.task
    names = {"assignee": task.assignee, "delegator": task.delegator, "coordinator": task.coordinator}
    if sent.appended.repeated:
        say("That stood in the log already.")
    said = _NEXT[task.state]
    if sent.parked:
        many = "1 delivery of it is" if sent.parked == 1 else f"{sent.parked} deliveries of it are"
        said = _BEHIND.get(task.state, said).replace("{many}", many)
    say(said.format(id=sent.envelope.task, **names))


def summary(sent: Sent) -> dict[str, object]:
    """What `--json` prints of an envelope that was sent."""
    return {
        "id": sent.envelope.id,
        "type": sent.envelope.type,
        "task": sent.envelope.task,
        "position": str(sent.appended.position),
        "state": sent.task.state,
        "repeated": sent.appended.repeated,
        **({"parked": sent.parked} if sent.parked else {}),
    }


_ENDS: Mapping[str, bool] = {
    "completion:done": True,
    "completion:failure": False,
    "acknowledgment:declined": False,
    "escalation": False,
    "cancellation": False,
}
"""The events that end a wait for a task, and whether it went well."""


async def outcome(bus: Bus, task: str, after: Position, *, timeout: float | None, show: bool) -> Ended:
    """Wait for the end of a task's attempt that began at `after`; with `show`, what happens goes to stderr.

    Raises TimedOut after `timeout` seconds; the task goes on.
    """

    def ended(entry: Entry) -> bool | None:
        return _ENDS.get(event_of(entry.envelope))

    found = await _watch(bus, task, after, ended, timeout=timeout, show=show)
    return replace(found, choices=await _choices(bus, found.entry))


async def _choices(bus: Bus, end: Entry) -> str | None:
    """What an escalation says can be done, where a budget is why: the parking, told in the same step, says so."""
    payload = end.envelope.payload
    if not isinstance(payload, Escalation) or end.sender != BUS:
        return None
    async with aclosing(bus.history.read(end.position)) as entries:
        async for entry in entries:
            if entry.task != end.task:
                continue
            told = entry.envelope
            together = told.context.causation_id == end.envelope.context.causation_id
            if together and isinstance(told.payload, Parking) and told.payload.reason == RefusedByBudget.reason:
                return payload.error_details.attempted_recovery or ""
            break
    return None


async def answer(bus: Bus, question: AnyEnvelope, after: Position, *, timeout: float | None) -> Ended:
    """Wait for the answer to a question. Raises TimedOut after `timeout` seconds."""

    def ended(entry: Entry) -> bool | None:
        if entry.type == "answer" and entry.recipient == question.sender:
            return True
        return False if entry.type in ("cancellation", "escalation", "delegation") else None

    return await _watch(bus, question.task, after, ended, timeout=timeout, show=False)


async def _watch(
    bus: Bus,
    task: str,
    after: Position,
    ended: Callable[[Entry], bool | None],
    *,
    timeout: float | None,
    show: bool,
) -> Ended:
    with anyio.move_on_after(timeout):
        async for entry in bus.history.follow(after, on_incident=incident):
            if entry.task != task:
                continue
            if show:
                say(rendered(entry))
            good = ended(entry)
            if good is not None:
                return Ended(entry, good)
    raise TimedOut(
        f"Nothing came of task {task} within {timeout:g} s.",
        task=task,
        advice=f"It goes on; watch it with: bus tail --task {task}",
    )


def incident(found: Incident) -> None:
    """Tell the user of an incident while following the log."""
    say(visible(found.what))


async def ended_summary(bus: Bus, sent: Sent, ended: Ended) -> dict[str, object]:
    """What `--json` prints of an envelope that was sent, with the one that ended the wait for it."""
    state = (await bus.task(sent.envelope.task)).state
    return {**summary(sent), "state": state, "outcome": record(ended.entry)}


def answer_text(ended: Ended) -> str:
    """The text of an answer, safe to print."""
    payload = ended.entry.envelope.payload
    return visible(payload.answer, lines=True) if isinstance(payload, Answer) else ""
