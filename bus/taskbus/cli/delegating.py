"""What a delegator says: delegate, answer, accept, reject, cancel; one envelope each."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import click

from taskbus.cli.drafts import Draft, Flag, Header, Words, drafted, is_document, opened, sorted_out
from taskbus.cli.names import doubt
from taskbus.cli.options import EXIT_CODES, print_json, run_async, say, settings_options
from taskbus.cli.rendering import visible
from taskbus.cli.routing import Choosing, routed, routing_options
from taskbus.cli.sending import ended_summary, name_of, outcome, send, speak, summary, tell
from taskbus.cli.values import AGENT, DEADLINE, SECONDS, TASK
from taskbus.envelope import (
    PRIORITIES,
    Answer,
    Artifact,
    Cancellation,
    CriterionResult,
    Delegation,
    Payload,
    Priority,
    Verdict,
)
from taskbus.errors import LifecycleConflict, RefusedByBudget, UsageError
from taskbus.lifecycle import HUMAN

if TYPE_CHECKING:
    from collections.abc import Callable
    from datetime import datetime

    from taskbus.settings import Settings

as_option = click.option("--as", "sender", type=AGENT, help="Who speaks; default BUS_AGENT, else @human.")


@click.command()
@click.argument("words", nargs=-1, metavar="[@AGENT] GOAL|FILE|-")
@click.option("--goal-file", metavar="PATH|-", help="Take the goal from a file of plain text, or from stdin.")
@click.option("--constraint", multiple=True, help="What must be kept to; may be repeated.")
@click.option("--artifact", multiple=True, metavar="PATH", help="What the work starts from; may be repeated.")
@click.option("--criterion", multiple=True, help="By what the result is judged; may be repeated.")
@click.option("--type", "task_type", help="The kind of work, for routing: implementation, review …")
@click.option("--task-type", "task_type", hidden=True)
@click.option("--priority", type=click.Choice(PRIORITIES), help="Which of several goes first; default normal.")
@click.option("--deadline", type=DEADLINE, help="When it must be done: 2h, or 2026-11-20T18:00:00Z.")
@click.option("--parent", type=TASK, help="The task that this one is a part of.")
@click.option("--no-review", is_flag=True, help="The result needs no verdict: a completion is accepted.")
@click.option("--justification", help="Why a paid model is needed, and which free ones were tried.")
@routing_options
@click.option("--task", type=TASK, help="The task's ID: one of your own, or that of a task handed out again.")
@click.option("--wait", is_flag=True, help="Wait for the end: 0 it was completed, 1 it was not, 7 for a budget.")
@click.option("--timeout", type=SECONDS, help="With --wait: how long, as in 90s or 10m; then 6.")
@as_option
@settings_options
def delegate(
    *,
    words: tuple[str, ...],
    goal_file: str | None,
    constraint: tuple[str, ...],
    artifact: tuple[str, ...],
    criterion: tuple[str, ...],
    task_type: str | None,
    priority: Priority | None,
    deadline: datetime | None,
    parent: str | None,
    no_review: bool,
    justification: str | None,
    choosing: Choosing | None,
    task: str | None,
    wait: bool,
    timeout: float | None,
    sender: str | None,
    settings: Settings,
    as_json: bool,
) -> None:
    """Delegate a task to an agent.

    Prints the task's ID. Instead of a goal it takes a document, from a file (something.json, something.xml;
    where no agent is named, also any path with a slash) or from stdin (-): a whole envelope, or the handoff
    shorthand; options fill what it lacks. --goal-file takes a goal that is written down as plain text.

    \b
    Examples:
      bus delegate @kilo "Add a cache in front of the price list" --criterion "tests pass"
      bus delegate delegation.json --deadline 2h
      bus delegate @opencode --goal-file goal.md
      bus delegate @opencode "Try it again, without the ORM" --task 0199f0a2-7c4e-7d31-9b5a-3e6f1c2d4a58
      bus delegate @kilo "Fix the build" --wait --timeout 10m && git push
      bus delegate --route "Why is the checkout slow?" --type research
    """
    if timeout is not None and not wait:
        raise UsageError("--timeout is for --wait.", advice="Add --wait, or leave --timeout out.")
    agent, given = _given(words, goal_file, route=choosing is not None)
    flags = {
        "goal": Flag("GOAL", given.text),
        "task_type": Flag("--type", task_type),
        "constraints": Flag("--constraint", constraint),
        "artifacts": Flag("--artifact", tuple(Artifact(path=path) for path in artifact)),
        "acceptance_criteria": Flag("--criterion", criterion),
        "review_required": Flag("--no-review", False if no_review else None),
        "paid_model_justification": Flag("--justification", justification),
    }
    header = Header(
        sender=Flag("--as", sender),
        recipient=Flag("@AGENT", agent),
        task=Flag("--task", task),
        parent=Flag("--parent", parent),
        priority=Flag("--priority", priority),
        deadline=Flag("--deadline", deadline),
    )
    draft = drafted(Delegation, flags, header, given.document)
    run_async(_delegated, draft, settings, choosing, as_json=as_json, wait=wait, timeout=timeout)


def _given(words: tuple[str, ...], goal_file: str | None, *, route: bool) -> tuple[str | None, Words]:
    return _whom(words, route=route) if goal_file is None else _with_goal(words, goal_file, route=route)


def _whom(words: tuple[str, ...], *, route: bool) -> tuple[str | None, Words]:
    match words:
        case (only,) if not only.startswith("@") and is_document(only):
            return None, Words(document=opened(only))
        case (goal,) if route and not goal.startswith("@"):
            return None, Words(text=goal)
        case (agent, what) if what == "-" or (what.lower().endswith((".json", ".xml")) and is_document(what)):
            return AGENT.convert(agent, None, None), Words(document=opened(what))
        case (agent, name) if os.path.isfile(name):  # noqa: PTH113 - a goal may be no path at all, or too long for one
            advice = "--goal-file takes its text as the goal; a document ends in .json or .xml, or comes on stdin: -."
            raise UsageError(f"{visible(name)} is a file, and its name is no goal.", advice=advice)
        case (agent, goal):
            return AGENT.convert(agent, None, None), Words(text=goal)
        case (_, _, extra, *_):
            advice = 'Put the goal into quotes: bus delegate @agent "…".'
            raise UsageError(f"There is one argument too many: {extra!r}.", advice=advice)
        case _:
            advice = 'Write bus delegate @agent "goal", or give a document: a file, or - for stdin.'
            if route:
                advice = 'Write bus delegate --route "goal".'
            raise UsageError("The agent, the goal or the document is missing.", advice=advice)


def _with_goal(words: tuple[str, ...], path: str, *, route: bool) -> tuple[str | None, Words]:
    """The agent, and the goal from a file of plain text."""
    if len(words) != 1 and (words or not route):
        advice = "Write bus delegate @agent --goal-file PATH."
        raise UsageError("With --goal-file, only the agent is named.", advice=advice)
    source = opened(path)
    try:
        text = source.data.decode("utf-8-sig").strip()
    except UnicodeDecodeError as error:
        raise UsageError(f"{source.name} is no text in UTF-8.", advice="Name a file of plain text.") from error
    if not text:
        raise UsageError(f"{source.name} is empty.", advice="Write into it what is to be reached.")
    return AGENT.convert(words[0], None, None) if words else None, Words(text=text)


async def _delegated(
    draft: Draft, settings: Settings, choosing: Choosing | None, *, as_json: bool, wait: bool, timeout: float | None
) -> None:
    from taskbus.client import Bus  # redis is slow to import

    async with Bus.connect(settings=settings) as bus:
        if choosing is not None:
            draft = await routed(bus, draft, settings, choosing, show=not as_json)
        doubted = await doubt(bus, settings, draft.whole.envelope.recipient if draft.whole else draft.recipient)
        sent = await send(bus, draft, settings, "delegator")
        if not as_json:
            click.echo(sent.envelope.task)
            tell(sent)
        elif not wait:
            print_json(summary(sent))
        if doubted is not None:
            say(visible(f'{doubted} To take it back: bus cancel {sent.envelope.task} "a wrong name"'))
        if not wait:
            return
        task, after = sent.envelope.task, sent.appended.position
        ended = await outcome(bus, task, after, timeout=timeout, show=not as_json)
        if as_json:
            print_json(await ended_summary(bus, sent, ended))
        elif ended.choices:
            say(visible(ended.choices, lines=True))
    if not ended.good:
        raise click.exceptions.Exit(1 if ended.choices is None else EXIT_CODES[RefusedByBudget])


def _spoken(
    kind: type[Payload],
    flags: dict[str, Flag],
    words: Words,
    sender: str | None,
    settings: Settings,
    *,
    as_json: bool,
) -> None:
    header = Header(sender=Flag("--as", sender), task=Flag("TASK", words.task))
    speak(kind, flags, header, words.document, settings=settings, speaker="delegator", as_json=as_json)


@click.command()
@click.argument("words", nargs=-1, metavar="TASK TEXT|FILE|-")
@as_option
@settings_options
def answer(*, words: tuple[str, ...], sender: str | None, settings: Settings, as_json: bool) -> None:
    """Answer a question or an escalation; the work goes on.

    \b
    Examples:
      bus answer 0199f0a2-7c4e-7d31-9b5a-3e6f1c2d4a58 "Version 7, and keep the old endpoint."
      bus answer answer.xml
    """
    given = sorted_out(words, text="answer")
    flags = {"answer": Flag("TEXT", given.text)}
    draft = drafted(Answer, flags, Header(sender=Flag("--as", sender)), given.document)
    _check_human(draft.whole.envelope.sender if draft.whole is not None else draft.sender, settings)
    _spoken(Answer, flags, given, sender, settings, as_json=as_json)


def _check_human(sender: str | None, settings: Settings) -> None:
    """Refuse what an agent says as @human: its hooks say who it is, and an answer may be an approval."""
    agent = name_of(settings.agent) or HUMAN
    if sender == HUMAN != agent:
        raise LifecycleConflict(
            f"Only a human answers as {HUMAN}, and BUS_AGENT says that you are {agent}.",
            reason="lifecycle",
            state="",
            holder=HUMAN,
            advice="Ask your human; or answer in your own name, without --as.",
        )


def _criteria(values: tuple[str, ...], *, met: bool) -> tuple[CriterionResult, ...]:
    split = (value.partition("=") for value in values)
    return tuple(
        CriterionResult(criterion=text.strip(), met=met, evidence=evidence.strip() or None)
        for text, _, evidence in split
    )


def _verdict_options(command: Callable[..., Any]) -> Callable[..., Any]:
    command = click.option("--comment", help="What the assignee should know.")(command)
    return as_option(settings_options(command))


@click.command()
@click.argument("words", nargs=-1, metavar="TASK|FILE|-")
@click.option("--criterion", multiple=True, metavar="TEXT=EVIDENCE", help="A criterion that was met; may be repeated.")
@_verdict_options
def accept(
    *,
    words: tuple[str, ...],
    criterion: tuple[str, ...],
    comment: str | None,
    sender: str | None,
    settings: Settings,
    as_json: bool,
) -> None:
    """Accept the result of a task.

    \b
    Examples:
      bus accept 0199f0a2-7c4e-7d31-9b5a-3e6f1c2d4a58
      bus accept 0199f0a2-7c4e-7d31-9b5a-3e6f1c2d4a58 --criterion "tests pass=142 passed"
    """
    given = sorted_out(words)
    flags = {
        "decision": Flag("accept", "accepted"),
        "criteria": Flag("--criterion", _criteria(criterion, met=True)),
        "comment": Flag("--comment", comment),
    }
    _spoken(Verdict, flags, given, sender, settings, as_json=as_json)


@click.command()
@click.argument("words", nargs=-1, metavar="TASK|FILE|-")
@click.option(
    "--criterion",
    multiple=True,
    metavar="TEXT=EVIDENCE",
    help="A criterion that was missed; may be repeated.",
)
@click.option("--met", multiple=True, metavar="TEXT=EVIDENCE", help="A criterion that was met; may be repeated.")
@_verdict_options
def reject(
    *,
    words: tuple[str, ...],
    criterion: tuple[str, ...],
    met: tuple[str, ...],
    comment: str | None,
    sender: str | None,
    settings: Settings,
    as_json: bool,
) -> None:
    """Reject the result of a task; the assignee tries again.

    It needs a reason: --comment, or a --criterion that was missed.

    \b
    Examples:
      bus reject 0199f0a2-7c4e-7d31-9b5a-3e6f1c2d4a58 --comment "The timeout is not handled."
      bus reject 0199f0a2-7c4e-7d31-9b5a-3e6f1c2d4a58 --criterion "tests pass=3 failed" --met "lint is clean"
    """
    given = sorted_out(words)
    if given.document is None and not comment and not criterion:
        advice = "Give --comment, or --criterion with what was missed."
        raise UsageError("A rejection needs a reason, for the assignee tries again with it.", advice=advice)
    flags = {
        "decision": Flag("reject", "rejected"),
        "criteria": Flag("--criterion", (*_criteria(met, met=True), *_criteria(criterion, met=False))),
        "comment": Flag("--comment", comment),
    }
    _spoken(Verdict, flags, given, sender, settings, as_json=as_json)


@click.command()
@click.argument("words", nargs=-1, metavar="TASK REASON|FILE|-")
@as_option
@settings_options
def cancel(*, words: tuple[str, ...], sender: str | None, settings: Settings, as_json: bool) -> None:
    """End a task that is no longer wanted.

    \b
    Examples:
      bus cancel 0199f0a2-7c4e-7d31-9b5a-3e6f1c2d4a58 "Done by hand meanwhile."
    """
    given = sorted_out(words, text="reason")
    _spoken(Cancellation, {"reason": Flag("REASON", given.text)}, given, sender, settings, as_json=as_json)
