"""`bus publish`: envelopes of any type, from files or from a stream, onto the log.

Each document is answered in order, with its position or with what is wrong with it, as soon as it stands in
the log; a bad one does not stop the others. What has come in already is published in one step.
"""

from __future__ import annotations

import os
import sys
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

import click

from taskbus import codec
from taskbus.cli.drafts import in_short
from taskbus.cli.feeding import Feed
from taskbus.cli.options import exit_code, print_json, run_async, say, settings_options
from taskbus.cli.rendering import visible
from taskbus.cli.sending import name_of, token_for
from taskbus.cli.values import TOKEN
from taskbus.codec import Document
from taskbus.documents import LINES
from taskbus.envelope import MAX_BYTES, now
from taskbus.errors import InvalidEnvelope, NotFound, Problem, Skipped, TaskbusError, UsageError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

    from taskbus.append import Appended, Submission
    from taskbus.client import Bus
    from taskbus.documents import Part
    from taskbus.settings import Settings

_MOST: Final = 1000
_MOST_BYTES: Final = 64 << 20
"""What one atomic step may hold: it keeps the server busy, and everybody else waits."""


@dataclass(frozen=True, slots=True)
class Manner:
    """How to publish, as the options say it."""

    token: int | None
    atomic: bool
    lenient: bool
    lines: bool
    as_json: bool
    agent: str | None


@dataclass(frozen=True, slots=True)
class Incoming:
    """One document, or what is wrong with it; `line` where it is one of many."""

    name: str
    line: int | None
    found: Document | InvalidEnvelope

    @property
    def place(self) -> str:
        """Where it came from, in words."""
        return self.name if self.line is None else f"{self.name}:{self.line}"


@click.command()
@click.argument("files", nargs=-1, metavar="[FILE|-]...")
@click.option("--atomic", is_flag=True, help="All or nothing, in one step.")
@click.option("--lenient", is_flag=True, help="Find the envelope in what a model wrote around it.")
@click.option("--lines", is_flag=True, help="One document per line, whatever the first lines look like.")
@click.option("--token", type=TOKEN, help="The delivery's fencing token; default BUS_TOKEN.")
@settings_options
def publish(
    *,
    files: tuple[str, ...],
    atomic: bool,
    lenient: bool,
    lines: bool,
    token: int | None,
    settings: Settings,
    as_json: bool,
) -> None:
    """Publish envelopes from files or stdin.

    A file, or stdin (-), holds one document, XML or JSON, or one per line. Each is answered in order with its
    position, or with its error; the exit code is that of the first error. The bytes are kept as they are, with
    --lenient the whole text. Publishing a document twice changes nothing.

    \b
    Examples:
      bus publish agent-message.xml
      my-agent | bus publish --json
      bus publish --atomic plan.ndjson
      gemini -p "$(bus template completion)" | bus publish --lenient
    """
    if lenient and lines:
        raise UsageError("--lenient and --lines exclude each other.", advice="Leave one of them out.")
    if not files and sys.stdin.isatty():
        say("Reading an envelope from the terminal; end it with Ctrl-D.")
    agent = name_of(settings.agent)
    manner = Manner(token, atomic, lenient, lines, as_json, agent)
    names = files or ("-",)
    for name in names:
        if name != "-" and not os.access(name, os.R_OK):
            raise NotFound(
                f"{visible(name)} cannot be read, or is not there.", advice="Check the path; nothing was published."
            )
        if Path(name).is_dir():
            raise UsageError(f"{visible(name)} is a folder.", advice="Name its files; nothing was published.")
    code = run_async(_publish_all if atomic else _publish, settings, names, manner)
    if code:
        raise click.exceptions.Exit(code)


async def _publish(settings: Settings, names: Sequence[str], manner: Manner) -> int:
    from taskbus.client import Bus  # redis is slow to import

    answered, invalid, first = 0, 0, 0
    async with Bus.connect(settings=settings) as bus:
        try:
            async for batch in _batches(names, manner):
                submissions = [_submission(each, manner.token) for each in batch]
                answers = await _appended(bus, submissions, atomic=False)
                if len(names) == 1 and batch[0].line is None and isinstance(answers[0], TaskbusError):
                    raise answers[0]
                for incoming, answer in zip(batch, answers, strict=True):
                    _answer(incoming, answer, manner)
                    if isinstance(answer, TaskbusError):
                        first = first or exit_code(answer)
                    invalid += isinstance(answer, InvalidEnvelope)
                answered += len(batch)
        except TaskbusError:
            if answered:
                say(f"Answered before: {answered}. Publishing all of them again repeats none.")
            raise
    if invalid == answered > 1:
        say("There is no envelope in it; --lenient finds one in a model's free text.")
    return first


async def _publish_all(settings: Settings, names: Sequence[str], manner: Manner) -> int:
    from taskbus.append import skipped
    from taskbus.client import Bus  # redis is slow to import

    incoming: list[Incoming] = []
    size = 0
    async for batch in _batches(names, manner):
        incoming += batch
        size += sum(len(each.found.body) for each in batch if not isinstance(each.found, InvalidEnvelope))
        if len(incoming) > _MOST or size > _MOST_BYTES:
            message = f"One step takes at most {_MOST} envelopes, and {_MOST_BYTES >> 20} MiB of them."
            raise UsageError(message, advice="Split the input; nothing was published.")
    bad = [each.found for each in incoming if isinstance(each.found, InvalidEnvelope)]
    if bad and len(incoming) == 1:
        raise bad[0]
    submissions = [_submission(each, manner.token) for each in incoming]
    answers: Sequence[Appended | TaskbusError]
    if bad:
        answers = [each if isinstance(each, InvalidEnvelope) else skipped(each) for each in submissions]
    else:
        async with Bus.connect(settings=settings) as bus:
            answers = await _appended(bus, submissions, atomic=True)
    for each, answer in zip(incoming, answers, strict=True):
        _answer(each, answer, manner)
    # The error of the one that kept the others out is what counts.
    reasons = [answer for answer in answers if isinstance(answer, TaskbusError) and not isinstance(answer, Skipped)]
    return exit_code(reasons[0]) if reasons else 0


async def _batches(names: Sequence[str], manner: Manner) -> AsyncIterator[list[Incoming]]:
    """The documents in order; as many at once as can be had without waiting."""
    for name in names:
        shown = "<stdin>" if name == "-" else visible(name)
        lines = manner.lines or Path(name).suffix.lower() in LINES
        with closing(Feed.of(name, lines=lines, whole=MAX_BYTES if manner.lenient else None)) as feed:
            while parts := await feed.parts():
                yield [_read(part, shown, manner) for part in parts]


def _read(part: Part, name: str, manner: Manner) -> Incoming:
    place = name if part.line is None else f"{name}:{part.line}"
    try:
        found = _found(part.data, manner) if manner.lenient else codec.read(part.data, source=place)
    except InvalidEnvelope as error:
        return Incoming(name, part.line, in_short(part.data, place) or InvalidEnvelope(error.problems, source=place))
    return Incoming(name, part.line, found)


def _found(text: bytes, manner: Manner) -> Document:
    """The envelope in a model's free text; what was mended is told. Raises InvalidEnvelope without one."""
    from taskbus import lenient

    if len(text) > MAX_BYTES:
        wanted = f"at most {MAX_BYTES}, since the log keeps the whole text: publish the envelope without the rest"
        raise InvalidEnvelope([Problem("text", f"more than {MAX_BYTES} bytes", wanted)])
    known = {"sender": manner.agent, "task_id": os.environ.get("BUS_TASK"), "timestamp": now()}
    found = lenient.find(text.decode(errors="surrogateescape"), defaults=known)
    for repair in found.repairs:
        say(visible(f"Mended: {repair}"))
    return Document(found.envelope, found.document, found.content_type, text, "text/plain")


def _submission(incoming: Incoming, token: int | None) -> Submission | InvalidEnvelope:
    from taskbus.append import Submission

    found = incoming.found
    return found if isinstance(found, InvalidEnvelope) else Submission(found, token_for(token, found.envelope.task))


async def _appended(
    bus: Bus, submissions: Sequence[Submission | InvalidEnvelope], *, atomic: bool
) -> list[Appended | TaskbusError]:
    """An answer for each: its place in the log, the bus's refusal, or what is wrong with the document."""
    from taskbus.append import append

    valid = [each for each in submissions if not isinstance(each, InvalidEnvelope)]
    answers = iter(await append(bus.connection, bus.keys, valid, atomic=atomic) if valid else ())
    return [each if isinstance(each, InvalidEnvelope) else next(answers) for each in submissions]


def _answer(incoming: Incoming, answer: Appended | TaskbusError, manner: Manner) -> None:
    place: dict[str, object] = {"source": incoming.name}
    if incoming.line is not None:
        place["line"] = incoming.line
    if isinstance(answer, TaskbusError):
        if manner.as_json:
            print_json({**place, **answer.details(), **place})
        else:
            at = "" if isinstance(answer, InvalidEnvelope) else f"{incoming.place}: "
            click.echo(visible(f"error  {at}{answer.message}"))
            if answer.advice:
                click.echo(visible(f"       {answer.advice}"))
    elif not isinstance(incoming.found, InvalidEnvelope):
        envelope = incoming.found.envelope
        if manner.as_json:
            what = {"id": envelope.id, "type": envelope.type, "task": envelope.task}
            print_json({**place, "position": str(answer.position), **what, "repeated": answer.repeated})
        else:
            again = "  (stood there already)" if answer.repeated else ""
            click.echo(f"{answer.position}  {envelope.type}  {envelope.task}{again}")
