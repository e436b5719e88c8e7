"""`bus replay`: a part of archive and log once more, to the screen, to a file, or into another namespace."""

from __future__ import annotations

import gc
import math
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

import anyio
import click

from taskbus.cli.into_database import SUFFIX, fold_into
from taskbus.cli.options import archive_option, exit_code, print_json, run_async, say, settings_options
from taskbus.cli.rendering import visible
from taskbus.cli.selection import Form, Selection, form, selection_options, show_all
from taskbus.cli.values import SPEED
from taskbus.envelope import MAX_BYTES
from taskbus.errors import InvalidEnvelope, Problem, Skipped, TaskbusError, UsageError

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from taskbus.append import Appended
    from taskbus.client import Bus
    from taskbus.codec import Document
    from taskbus.log import Entry
    from taskbus.position import Position
    from taskbus.settings import Settings

_BATCH: Final = 100
_BATCH_BYTES: Final = 4 << 20
_LISTED: Final = 100
_COLLECTED: Final = 50_000


@click.command()
@click.option("--from", "start", metavar="MOMENT", help="The first: a time, 2h (ago), or a position [default: all]")
@click.option("--to", "end", metavar="MOMENT", help="The last: a time, 2h (ago), or a position [default: now]")
@click.option("--speed", type=SPEED, default="max", help="10x, 1x, 0.5x of what it was, or max [default: max]")
@click.option("--into", metavar="TARGET", help="Publish into this NAMESPACE: here, or fold into this new FILE.db")
@selection_options
@archive_option
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
    """Read the log again, to the screen, into another namespace or a database.

    What was trimmed from the log comes from the archive. Into another namespace goes what the senders wrote, byte for
    byte and in order; workers of that namespace will act on it. Where it refuses an envelope, the rest of that task is
    left out, so that doing it twice changes nothing. Into a file whose name ends with .db the read models are folded.

    \b
    Examples:
      bus replay --from 2h --speed 10x
      bus replay --from 2026-11-20T09:00:00Z --to 2026-11-20T10:00:00Z --json > morning.ndjson
      bus replay --tree 0199f0a2-7c4e-7d31-9b5a-3e6f1c2d4a58 --into rehearsal:
      bus replay --to 2026-11-20T09:00:00Z --into morning.db
    """
    if into is not None and into.endswith(SUFFIX):
        if as_xml or speed < math.inf or selection != Selection():
            raise UsageError(
                "A database is folded from all envelopes, as fast as can be.",
                advice="With --into FILE.db leave --xml, --speed and what selects envelopes out.",
            )
        fold_into(into, start=start, end=end, settings=settings, as_json=as_json)
        return
    from taskbus import moment

    passage = Passage(*moment.passage(start, end), selection, speed)
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

    async def pages(self, bus: Bus) -> AsyncGenerator[list[Entry]]:
        """The entries in order, one by one when its time has come; page by page where none is waited for."""
        selection = await self.selection.resolved(bus)
        end = await bus.log.end()
        until = end if self.until is None else min(end, self.until)
        first: tuple[int, float] | None = None
        async with aclosing(bus.history.pages(self.after, until)) as pages:
            async for page in pages:
                wanted = page if selection == Selection() else [entry for entry in page if selection.takes(entry)]
                if self.speed == math.inf:
                    yield wanted
                    continue
                for entry in wanted:
                    first = first or (entry.position.ms, anyio.current_time())
                    # Counted from the first, so that no delay adds up.
                    due = first[1] + (entry.position.ms - first[0]) / 1000 / self.speed
                    await anyio.sleep_until(due)
                    yield [entry]


async def _to_screen(settings: Settings, passage: Passage, form: Form) -> None:
    from taskbus.client import Bus  # redis is slow to import

    # Entries leave no cycles behind; to look for some among each 700 of them takes a tenth of the time.
    gc.set_threshold(_COLLECTED)
    async with Bus.connect(settings=settings) as bus, aclosing(passage.pages(bus)) as pages:
        async for page in pages:
            show_all(page, form)


@dataclass(slots=True)
class _Tally:
    """What became of the entries, and the first refusals; `stopped` are the tasks of which one was refused."""

    appended: int = 0
    repeated: int = 0
    refused: int = 0
    skipped: int = 0
    errors: list[tuple[Entry, TaskbusError]] = field(default_factory=list)
    stopped: set[str] = field(default_factory=set)

    def refuse(self, entry: Entry, error: TaskbusError) -> None:
        self.refused += 1
        self.stopped.add(entry.task)
        if len(self.errors) < _LISTED:
            self.errors.append((entry, error))


class _Copy:
    """Publishes entries into another namespace, in order and in batches.

    A refusal stops its task: what stands behind it was written in a state that the task does not have there, and a
    second replay would append what the first one refused.
    """

    def __init__(self, target: Bus) -> None:
        self.tally = _Tally()
        self._target = target
        self._batch: list[tuple[Entry, Document]] = []
        self._size = 0

    async def add(self, entry: Entry) -> None:
        """Take an entry; when a batch is full, it is published."""
        try:
            document = _document(entry)
        except InvalidEnvelope as error:
            # First what stands before it: that goes in, even of the same task.
            await self.flush()
            self._judge(entry, error)
            return
        self._batch.append((entry, document))
        self._size += len(document.body) + len(document.source or b"")
        if len(self._batch) >= _BATCH or self._size >= _BATCH_BYTES:
            await self.flush()

    async def flush(self) -> None:
        """Publish what was taken: all that is legal in one step, without anything that stands behind a refusal."""
        batch, self._batch, self._size = self._batch, [], 0
        batch = [(entry, document) for entry, document in batch if self._judge(entry, None)]
        while batch:
            answers = await self._target.publish_many([document for _, document in batch], atomic=True)
            # All or nothing, so that nothing behind a refusal gets in before it is known.
            kept = [each for each, answer in zip(batch, answers, strict=True) if self._judge(each[0], answer)]
            if len(kept) == len(batch):
                repeated = sum(not isinstance(answer, TaskbusError) and answer.repeated for answer in answers)
                self.tally.repeated += repeated
                self.tally.appended += len(batch) - repeated
                return
            batch = kept

    def _judge(self, entry: Entry, answer: Appended | TaskbusError | None) -> bool:
        """Whether an entry may still go in, for all that is known by now; one that may not is counted."""
        if entry.task in self.tally.stopped:
            self.tally.skipped += 1
            return False
        if isinstance(answer, TaskbusError) and not isinstance(answer, Skipped):
            self.tally.refuse(entry, answer)
            return False
        return True


async def _into(settings: Settings, passage: Passage, namespace: str, *, as_json: bool) -> None:
    from taskbus.client import Bus  # redis is slow to import

    async with Bus.connect(settings=settings) as bus:
        copy = _Copy(Bus(bus.connection, namespace))
        async with aclosing(passage.pages(bus)) as pages:
            async for page in pages:
                for entry in page:
                    await copy.add(entry)
                if passage.speed < math.inf:
                    await copy.flush()
        await copy.flush()
    _tell(copy.tally, namespace, as_json=as_json)
    if copy.tally.errors:
        raise click.exceptions.Exit(exit_code(copy.tally.errors[0][1]))


def _document(entry: Entry) -> Document:
    """The document as it was published. Raises InvalidEnvelope for one that could not be published any more."""
    from taskbus.codec import Document

    size = len(entry.source or b"")
    if size > MAX_BYTES:
        raise InvalidEnvelope([Problem("source", f"{size} bytes", f"at most {MAX_BYTES} bytes")])
    return Document(entry.envelope, entry.body, entry.content_type, entry.source, entry.source_type)


def _tell(tally: _Tally, namespace: str, *, as_json: bool) -> None:
    if as_json:
        errors = [{"position": str(entry.position), **error.details()} for entry, error in tally.errors]
        counts = {"appended": tally.appended, "repeated": tally.repeated, "refused": tally.refused}
        print_json({"into": namespace, **counts, "skipped": tally.skipped, "errors": errors})
        return
    for entry, error in tally.errors:
        say(visible(f"{entry.position} {entry.type} of task {entry.task}: {error.message}"))
    if tally.refused > len(tally.errors):
        say(f"… and {tally.refused - len(tally.errors)} more.")
    counts = f"{tally.appended} appended, {tally.repeated} were there already, {tally.refused} refused"
    if tally.skipped:
        counts += f", {tally.skipped} left out, because an earlier one of their task was refused"
    say(f"Into {namespace} {counts}.")
