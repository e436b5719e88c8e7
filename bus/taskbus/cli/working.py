"""What an assignee says of its work: ack, progress, ask, complete, escalate; one envelope each.

A worker gives its subprocess BUS_TOKEN, under which these are fenced; without it they come by hand, and say
so.
"""

from __future__ import annotations

import os
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Literal

import click

from taskbus.cli.drafts import Draft, Flag, Header, Nested, Words, drafted, sorted_out
from taskbus.cli.options import print_json, run_async, say, settings_options
from taskbus.cli.rendering import entry as rendered
from taskbus.cli.sending import answer, answer_text, ended_summary, report, send, speak, tell, token_for
from taskbus.cli.values import AGENT, DOLLARS, FRACTION, SECONDS, TOKEN
from taskbus.envelope import (
    Acknowledgment,
    Artifact,
    Completion,
    Cost,
    ErrorDetails,
    Escalation,
    Payload,
    Question,
    Result,
    Status,
    Usage,
)
from taskbus.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Callable

    from taskbus.settings import Settings

CATEGORIES = ("execution", "validation", "integration", "architectural")


def _voice(command: Callable[..., Any]) -> Callable[..., Any]:
    command = click.option("--token", type=TOKEN, help="The delivery's fencing token; default BUS_TOKEN.")(command)
    help = "Who speaks; default BUS_AGENT, else the task's assignee, by hand."
    return click.option("--as", "sender", type=AGENT, help=help)(settings_options(command))


@click.command()
@click.argument("words", nargs=-1, metavar="TASK|FILE|-")
@click.option("--decline", metavar="REASON", help="Decline it instead.")
@click.option("--constraint", multiple=True, help="A constraint that will be kept to; may be repeated.")
@click.option("--provider", help="Provider of the model that will run.")
@click.option("--model", help="The model that will run.")
@_voice
def ack(
    *,
    words: tuple[str, ...],
    decline: str | None,
    constraint: tuple[str, ...],
    provider: str | None,
    model: str | None,
    sender: str | None,
    token: int | None,
    settings: Settings,
    as_json: bool,
) -> None:
    """Take a task on, or decline it.

    \b
    Examples:
      bus ack 0199f0a2-7c4e-7d31-9b5a-3e6f1c2d4a58 --model qwen3-coder
      bus ack 0199f0a2-7c4e-7d31-9b5a-3e6f1c2d4a58 --decline "No access to the repository."
    """
    given = sorted_out(words)
    # A document says itself whether it accepts; without one, it is accepted unless declined.
    accepted = None if given.document is not None and decline is None else decline is None
    flags = {
        "accepted": Flag("--decline", accepted),
        "decline_reason": Flag("--decline", decline),
        "constraints_accepted": Flag("--constraint", constraint),
        "provider": Flag("--provider", provider),
        "model": Flag("--model", model),
    }
    _spoken(
        Acknowledgment,
        flags,
        Header(sender=Flag("--as", sender)),
        given,
        token=token,
        settings=settings,
        as_json=as_json,
    )


@click.command()
@click.argument("words", nargs=-1, metavar="TASK TEXT|FILE|-")
@click.option("--fraction", type=FRACTION, help="How far the work is: 0.4 or 40%.")
@_voice
def progress(
    *,
    words: tuple[str, ...],
    fraction: float | None,
    sender: str | None,
    token: int | None,
    settings: Settings,
    as_json: bool,
) -> None:
    """Say how far the work on a task is.

    \b
    Examples:
      bus progress 0199f0a2-7c4e-7d31-9b5a-3e6f1c2d4a58 "Tests are written, 3 of 8 pass" --fraction 40%
    """
    given = sorted_out(words, text="text")
    flags = {"progress": Flag("TEXT", given.text), "fraction": Flag("--fraction", fraction)}
    _spoken(
        Status,
        flags,
        Header(sender=Flag("--as", sender)),
        given,
        token=token,
        settings=settings,
        as_json=as_json,
    )


@click.command()
@click.argument("words", nargs=-1, metavar="TASK TEXT|FILE|-")
@click.option("--blocks", multiple=True, help="What cannot go on without an answer; may be repeated.")
@click.option("--to", "recipient", type=AGENT, help="Whom to ask: the delegator (the default), or @human.")
@click.option("--wait", is_flag=True, help="Wait for the answer, and print it; not inside a worker.")
@click.option("--timeout", type=SECONDS, help="With --wait: how long, as in 90s or 10m; then 6.")
@_voice
def ask(
    *,
    words: tuple[str, ...],
    blocks: tuple[str, ...],
    recipient: str | None,
    wait: bool,
    timeout: float | None,
    sender: str | None,
    token: int | None,
    settings: Settings,
    as_json: bool,
) -> None:
    """Ask something without which the work cannot go on.

    Only the task's delegator and @human may answer, so only they can be asked.

    \b
    Examples:
      bus ask 0199f0a2-7c4e-7d31-9b5a-3e6f1c2d4a58 "Which database version?" --blocks "the migration"
      version=$(bus ask 0199f0a2-7c4e-7d31-9b5a-3e6f1c2d4a58 "Which version?" --wait --timeout 1h)
    """
    if timeout is not None and not wait:
        raise UsageError("--timeout is for --wait.", advice="Add --wait, or leave --timeout out.")
    given = sorted_out(words, text="question")
    flags = {"question": Flag("TEXT", given.text), "blocks": Flag("--blocks", blocks)}
    header = Header(sender=Flag("--as", sender), recipient=Flag("--to", recipient), task=Flag("TASK", given.task))
    draft = drafted(Question, flags, header, given.document)
    token = token_for(token, draft.task)
    if wait and token is not None:
        raise UsageError(
            "Under a worker, a question ends the delivery, so there is nothing to wait for.",
            advice="End after asking: the answer comes as a delivery of its own.",
        )
    run_async(_asked, draft, settings, token, as_json=as_json, wait=wait, timeout=timeout)


async def _asked(
    draft: Draft, settings: Settings, token: int | None, *, as_json: bool, wait: bool, timeout: float | None
) -> None:
    from taskbus.client import Bus  # redis is slow to import

    async with Bus.connect(settings=settings) as bus:
        sent = await send(bus, draft, settings, "assignee", token=token)
        if not wait:
            report(sent, as_json=as_json)
            return
        if not as_json:
            tell(sent)
        ended = await answer(bus, sent.envelope, sent.appended.position, timeout=timeout)
        if as_json:
            print_json(await ended_summary(bus, sent, ended))
        elif ended.good:
            click.echo(answer_text(ended))
        else:
            say(rendered(ended.entry))
    if not ended.good:
        raise click.exceptions.Exit(1)


@click.command()
@click.argument("words", nargs=-1, metavar="TASK [FILE|-]")
@click.option("--status", type=click.Choice(["success", "partial", "failure"]), help="Whether the goal was reached.")
@click.option("--description", help="The result, for people to read.")
@click.option("--artifact", multiple=True, metavar="PATH", help="What was made or changed; may be repeated.")
@click.option("--verification", help="How the result was checked.")
@click.option("--next-steps", help="What should be done next.")
@click.option("--reason", help="Why the work ended, where it was not simply done: turn-limit, timeout …")
@click.option("--provider", help="Who ran the model.")
@click.option("--model", help="The model that was used.")
@click.option("--input-tokens", type=click.IntRange(min=0), help="Input tokens, with those of the cache.")
@click.option("--output-tokens", type=click.IntRange(min=0), help="Output tokens, with those of reasoning.")
@click.option("--cost", type=DOLLARS, help="What it cost in US dollars, as the provider reported it; else unpriced.")
@_voice
def complete(
    *,
    words: tuple[str, ...],
    status: Literal["success", "partial", "failure"] | None,
    description: str | None,
    artifact: tuple[str, ...],
    verification: str | None,
    next_steps: str | None,
    reason: str | None,
    provider: str | None,
    model: str | None,
    input_tokens: int | None,
    output_tokens: int | None,
    cost: int | None,
    sender: str | None,
    token: int | None,
    settings: Settings,
    as_json: bool,
) -> None:
    """End the work on a task with its result.

    A document may give it, from a file or from stdin (-): a whole envelope, or, after the task, the handoff
    shorthand; options fill what it lacks.

    \b
    Examples:
      bus complete 0199f0a2-7c4e-7d31-9b5a-3e6f1c2d4a58 --status success --artifact src/cache.py
      bus complete 0199f0a2-7c4e-7d31-9b5a-3e6f1c2d4a58 completion.json --cost 0.0312 \\
          --provider openrouter --model qwen3-coder --input-tokens 18000 --output-tokens 2100
      bus complete agent-message.xml
    """
    given = sorted_out(words, document_last=True)
    flags = {
        "verification_result": Flag("--verification", verification),
        "next_steps": Flag("--next-steps", next_steps),
        "termination_reason": Flag("--reason", reason),
    }
    result = {
        "status": Flag("--status", status),
        "description": Flag("--description", description),
        "artifacts": Flag("--artifact", tuple(Artifact(path=path) for path in artifact)),
    }
    usage = _usage(provider, model, input_tokens, output_tokens, cost)
    header = Header(sender=Flag("--as", sender), usage=Flag("--provider", usage))
    nested: Nested = {"result": (Result, result)}
    _spoken(Completion, flags, header, given, token=token, settings=settings, as_json=as_json, nested=nested)


def _usage(
    provider: str | None,
    model: str | None,
    input_tokens: int | None,
    output_tokens: int | None,
    cost: int | None,
) -> tuple[Usage, ...]:
    if provider is None and model is None and input_tokens is None and output_tokens is None and cost is None:
        return ()
    if not provider or not model:
        advice = "Give --provider and --model with --input-tokens, --output-tokens and --cost."
        raise UsageError("A usage belongs to a model, and that is not named.", advice=advice)
    return (
        Usage(
            provider=provider,
            model=model,
            input_tokens=input_tokens,
            output_tokens=output_tokens,
            cost=None if cost is None else Cost(source="reported", microusd=cost),
        ),
    )


@click.command()
@click.argument("words", nargs=-1, metavar="TASK MESSAGE|FILE|-")
@click.option(
    "--level",
    type=click.IntRange(1, 4),
    help="Who should deal with it: 1 specialist, 2 coordinator, 3 tech lead, 4 human; default 2.",
)
@click.option("--category", type=click.Choice(CATEGORIES), help="What kind of trouble it is; default execution.")
@click.option("--recovery", help="What was tried against it.")
@click.option("--to", "recipient", type=AGENT, help="To whom; default $BUS_COORDINATOR, else the task's coordinator.")
@_voice
def escalate(
    *,
    words: tuple[str, ...],
    level: int | None,
    category: str | None,
    recovery: str | None,
    recipient: str | None,
    sender: str | None,
    token: int | None,
    settings: Settings,
    as_json: bool,
) -> None:
    """Hand trouble with a task to somebody who can deal with it.

    \b
    Examples:
      bus escalate 0199f0a2-7c4e-7d31-9b5a-3e6f1c2d4a58 "The schema contradicts the API" \\
          --level 3 --category architectural --recovery "Asked twice, tried both readings"
    """
    given = sorted_out(words, text="message")
    alone = given.document is None
    details = {
        "level": Flag("--level", level if level is not None or not alone else 2),
        "category": Flag("--category", category or ("execution" if alone else None)),
        "message": Flag("MESSAGE", given.text),
        "attempted_recovery": Flag("--recovery", recovery),
    }
    if recipient is None and alone:
        recipient = os.environ.get("BUS_COORDINATOR") or None  # a worker's agent has one of its own
    header = Header(sender=Flag("--as", sender), recipient=Flag("--to", recipient))
    nested: Nested = {"error_details": (ErrorDetails, details)}
    _spoken(Escalation, {}, header, given, token=token, settings=settings, as_json=as_json, nested=nested)


def _spoken(
    kind: type[Payload],
    flags: dict[str, Flag],
    header: Header,
    words: Words,
    *,
    token: int | None,
    settings: Settings,
    as_json: bool,
    nested: Nested | None = None,
) -> None:
    speak(
        kind,
        flags,
        replace(header, task=Flag("TASK", words.task)),
        words.document,
        settings=settings,
        speaker="assignee",
        as_json=as_json,
        token=token,
        nested=nested,
    )
