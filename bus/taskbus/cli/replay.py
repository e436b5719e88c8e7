"""`bus replay`: a part of the log once more, to the screen, to a file, or into another namespace."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from datetime import datetime
from typing import TYPE_CHECKING, Final

import anyio
import click

from taskbus.cli.options import exit_code, print_json, run_async, say, settings_options
from taskbus.cli.rendering import visible
from taskbus.cli.selection import Form, Selection, form, selection_options, show
from taskbus.cli.values import SPEED
from taskbus.errors import InvalidEnvelope, TaskbusError, UsageError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from taskbus.client import Bus
    from taskbus.codec import Document
    from taskbus.log import Entry
    from taskbus.position import Position
    from taskbus.settings import Settings

_BATCH: Final = 100
_LISTED: Final = 100
_LAST_SEQUENCE: Final = 2**64 - 1


@click.command()
@click.option("--from", "start", metavar="MOMENT", help="The first: a time, 2h (ago), or a position [default: all]")
@click.option("--to", "end", metavar="MOMENT", help="The last: a time, 2h (ago), or a position [default: now]")
@click.option("--speed", type=SPEED, default="max", help="10x, 1x, 0.5x of what it was, or max [default: max]")
@click.option("--into", metavar="NAMESPACE", help="Publish into this namespace of the same server.")
@selection_options
@settings_options
def replay(
    *,
    start: str | None,
    end: str | None,
    speed: float,
    into: str | None,
    selection: Selection,
    as_xml: bool,
    settings: Settings,
    as_json: bool,
) -> None:
    """Read the log again, to the screen or into another namespace.

    Into another namespace goes what the senders wrote, byte for byte and in order; workers of that namespace
    will act on it. Doing it twice changes nothing.

    \b
    Examples:
      bus replay --from 2h --speed 10x
      bus replay --from 2026-11-20T09:00:00Z --to 2026-11-20T10:00:00Z --json > morning.ndjson
      bus replay --tree 0199f0a2-7c4e-7d31-9b5a-3e6f1c2d4a58 --into rehearsal:
    """
    passage = Passage(_first(start), _last(end), selection, speed)
    if into is None:
        run_async(_to_screen, settings, passage, form(as_json=as_json, as_xml=as_xml))
        return
    from taskbus.settings import checked_namespace

    target = checked_namespace(into, source="--into")
    if target == settings.namespace:
        raise UsageError(f"--into names {target}, which is replayed.", advice="Name another namespace.")
    if as_xml:
        raise UsageError("--xml is for the screen, and --into is not.", advice="Leave one of them out.")
    run_async(_into, settings, passage, target, as_json=as_json)


@dataclass(frozen=True, slots=True)
class Passage:
    """A part of the log, and how fast it is read: `speed` times as fast as it was written."""

    after: Position
    until: Position | None
    selection: Selection
    speed: float

    async def entries(self, bus: Bus) -> AsyncIterator[Entry]:
        """The entries in order, each when its time has come."""
        selection = await self.selection.resolved(bus)
        end = await bus.log.end()
        until = end if self.until is None else min(end, self.until)
        first: tuple[int, float] | None = None
        async for entry in bus.log.read(self.after, until):
            if not selection.takes(entry):
                continue
            if self.speed < math.inf:
                first = first or (entry.position.ms, anyio.current_time())
                # Counted from the first, so that no delay adds up.
                due = first[1] + (entry.position.ms - first[0]) / 1000 / self.speed
                await anyio.sleep_until(due)
            yield entry


def _first(text: str | None) -> Position:
    from taskbus import moment
    from taskbus.position import START

    return START if text is None else moment.before(moment.position(text))


def _last(text: str | None) -> Position | None:
    from taskbus import moment
    from taskbus.position import Position

    if text is None:
        return None
    found = moment.parse(text)
    if isinstance(found, datetime):
        return Position(0, int(found.timestamp() * 1000), _LAST_SEQUENCE)
    return found


async def _to_screen(settings: Settings, passage: Passage, form: Form) -> None:
    from taskbus.client import Bus  # redis is slow to import

    async with Bus.connect(settings=settings) as bus:
        async for entry in passage.entries(bus):
            show(entry, form)


@dataclass(slots=True)
class _Tally:
    """What became of the entries, and the first refusals."""

    appended: int = 0
    repeated: int = 0
    refused: int = 0
    errors: list[tuple[Entry, TaskbusError]] = field(default_factory=list)

    def refuse(self, entry: Entry, error: TaskbusError) -> None:
        self.refused += 1
        if len(self.errors) < _LISTED:
            self.errors.append((entry, error))


async def _into(settings: Settings, passage: Passage, namespace: str, *, as_json: bool) -> None:
    from taskbus.client import Bus  # redis is slow to import

    tally = _Tally()
    async with Bus.connect(settings=settings) as bus:
        target = Bus(bus.connection, namespace)
        batch: list[tuple[Entry, Document]] = []
        async for entry in passage.entries(bus):
            try:
                batch.append((entry, _document(entry)))
            except InvalidEnvelope as error:
                tally.refuse(entry, error)
            if len(batch) >= _BATCH or passage.speed < math.inf:
                await _publish(target, batch, tally)
                batch.clear()
        await _publish(target, batch, tally)
    _tell(tally, namespace, as_json=as_json)
    if tally.errors:
        raise click.exceptions.Exit(exit_code(tally.errors[0][1]))


def _document(entry: Entry) -> Document:
    from taskbus.codec import Document

    return Document(entry.envelope, entry.body, entry.content_type, entry.source, entry.source_type)


async def _publish(target: Bus, batch: list[tuple[Entry, Document]], tally: _Tally) -> None:
    answers = await target.publish_many([document for _, document in batch])
    for (entry, _), answer in zip(batch, answers, strict=True):
        if isinstance(answer, TaskbusError):
            tally.refuse(entry, answer)
        elif answer.repeated:
            tally.repeated += 1
        else:
            tally.appended += 1


def _tell(tally: _Tally, namespace: str, *, as_json: bool) -> None:
    if as_json:
        errors = [{"position": str(entry.position), **error.details()} for entry, error in tally.errors]
        counts = {"appended": tally.appended, "repeated": tally.repeated, "refused": tally.refused}
        print_json({"into": namespace, **counts, "errors": errors})
        return
    for entry, error in tally.errors:
        say(visible(f"{entry.position} {entry.type} of task {entry.task}: {error.message}"))
    if tally.refused > len(tally.errors):
        say(f"… and {tally.refused - len(tally.errors)} more.")
    counts = f"{tally.appended} appended, {tally.repeated} were there already, {tally.refused} refused"
    say(f"Into {namespace} {counts}.")
