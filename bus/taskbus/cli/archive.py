"""`bus archive`: seal old parts of the log into compressed segments, then trim the log as far as nothing needs it.

Owns what a person is told of it: what was sealed and trimmed, what holds the trim back and what to do about that.
"""

from __future__ import annotations

import sys
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import click

from taskbus.cli import rendering
from taskbus.cli.options import Group, archive_option, print_json, run_async, say, settings_options
from taskbus.cli.rendering import visible
from taskbus.cli.values import COUNT, SECONDS
from taskbus.errors import NotFound
from taskbus.lifecycle import HUMAN

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Mapping, Sequence

    from taskbus.archive import Archive, Manifest
    from taskbus.client import Bus
    from taskbus.settings import Settings
    from taskbus.trimming import Holder, Trim

_BAR_FROM: Final = 5_000
_SEGMENT: Final = 50_000
_TITLES: Final = ("segment", "from", "to", "envelopes", "bytes", "unpacked")
_NUMBERS: Final = 3
"""From here on the columns are numbers."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What is to be done, and how: `size` envelopes to a segment, `rest` smaller ones, too."""

    size: int
    rest: bool
    keep: float
    trims: bool


@click.group(cls=Group, invoke_without_command=True)
@click.option("--all", "rest", is_flag=True, help="Seal what is left over, too, as a smaller segment.")
@click.option("--size", type=COUNT, default=_SEGMENT, help="Envelopes of a segment [default: 50000]")
@click.option("--keep", type=SECONDS, default="0s", help="Leave in the log what came within so long: 12h, 7d.")
@click.option("--no-trim", is_flag=True, help="Only seal; the log stays as it is.")
@click.option("-n", "--dry-run", is_flag=True, help="Say what would be done, and do nothing.")
@click.option("--forget", metavar="NAME", help="Keep nothing more for a projection that is not used any more.")
@archive_option
@settings_options
@click.pass_context
def archive(
    ctx: click.Context,
    *,
    rest: bool,
    size: int,
    keep: float,
    no_trim: bool,
    dry_run: bool,
    forget: str | None,
    settings: Settings,
    as_json: bool,
) -> None:
    r"""Seal old parts of the log into compressed segments, and trim them from the server.

    Each segment holds 50,000 envelopes, one per line, and has a manifest beside it. What is sealed goes from the
    server's memory, but for what an inbox, a parked delivery, a projection or an open task needs; replay, rebuild
    and queries read both as one. Stopped anywhere, it loses nothing, and goes on the next time.

    \b
    Examples:
      bus archive
      bus archive --all --keep 7d
      bus archive --dry-run --json | jq '.held[]'
      bus archive ls
      zstd -dc .bus/archive/*/0000000001-*.jsonl.zst | jq -r .body
    """
    if ctx.invoked_subcommand is not None:
        default = click.core.ParameterSource.DEFAULT
        given = [name for name in ctx.params if ctx.get_parameter_source(name) is not default]
        if given:
            raise click.UsageError("The options of a command stand behind its name.", ctx)
        return
    if forget is not None:
        run_async(_forget, settings, forget, as_json=as_json)
    elif dry_run:
        run_async(_look, settings, Plan(size, rest, keep, not no_trim), as_json=as_json)
    else:
        run_async(_archive, settings, Plan(size, rest, keep, not no_trim), as_json=as_json)


@archive.command()
@archive_option
@settings_options
def ls(*, settings: Settings, as_json: bool) -> None:
    r"""List the segments. Needs no server.

    \b
    Examples:
      bus archive ls
      bus archive ls --json | jq -r '.segments[].file'
    """
    run_async(_listed, settings, as_json=as_json)


async def _listed(settings: Settings, *, as_json: bool) -> None:
    from taskbus.archive import Archive
    from taskbus.keys import Keys

    found = Archive.open(settings, Keys(settings.namespace))
    segments = await found.segments()
    if as_json:
        print_json({"archive": found.url, "segments": [_plain(each) for each in segments]})
        return
    if segments:
        click.echo(_table(segments))
    say(f"In {found.url}." if segments else f"Nothing is sealed in {found.url}.")


async def _forget(settings: Settings, name: str, *, as_json: bool) -> None:
    from taskbus import trimming
    from taskbus.client import Bus  # redis is slow to import

    async with Bus.connect(settings=settings) as bus:
        if not await trimming.forget(bus.connection, bus.keys, name):
            known = await trimming.projections(bus.connection, bus.keys)
            names = "; ".join(f"{each.name} ({rendering.age(each.age)} ago)" for each in known)
            raise NotFound(
                f"No projection {name!r} is known to this bus.",
                advice=f"These announced themselves: {visible(names)}." if known else "None has announced itself.",
            )
    if as_json:
        print_json({"forgotten": name})
    else:
        click.echo(f"Nothing more is kept for {visible(name)}. It announces itself anew when it is used again.")


async def _archive(settings: Settings, plan: Plan, *, as_json: bool) -> None:
    import anyio

    from taskbus import trimming
    from taskbus.archive import Archive
    from taskbus.client import Bus  # redis is slow to import

    async with Bus.connect(settings=settings) as bus:
        store, sealed, trim = Archive.open(settings, bus.keys), [], None
        try:
            left = await _unsealed(bus, store)
            with _bar("Sealing", left if plan.rest else left // plan.size * plan.size) as moved:
                sealed = await store.seal(bus.log, size=plan.size, rest=plan.rest, progress=moved)
            if plan.trims:
                with _bar("Trimming", await bus.log.count() - await _unsealed(bus, store)) as moved:
                    trim = await trimming.trim(bus, store, keep=plan.keep, told=moved)
        except anyio.get_cancelled_exc_class():
            say("Stopped. What was sealed and trimmed so far is complete; the next run goes on behind it.")
            raise
        left = await _unsealed(bus, store)
        state = await _state(bus)
    segments = [_plain(each) for each in sealed]
    if as_json:
        print_json({**_found(store, plan, trim, segments, state), "unsealed": left})
        return
    for each in segments:
        sizes = f"{_bytes(each['bytes'])} of {_bytes(each['raw_bytes'])}"
        click.echo(f"Sealed {each['name']}: {_counted(each['count'])}, {sizes}.")
    if sealed:
        say(f"In {store.url}.")
    _tell(plan, trim, state, left)


async def _look(settings: Settings, plan: Plan, *, as_json: bool) -> None:
    from taskbus import trimming
    from taskbus.archive import Archive
    from taskbus.client import Bus  # redis is slow to import

    async with Bus.connect(settings=settings) as bus:
        store = Archive.open(settings, bus.keys)
        await store.check(bus.log)
        state, left = await _state(bus), await _unsealed(bus, store)
        end = state["trimmed"] + state["live"] - left
        segments: list[dict[str, Any]] = []
        while left >= (1 if plan.rest else plan.size):
            count = min(left, plan.size)
            segments.append({"name": f"{end + 1:010d}-{end + count:010d}", "count": count})
            end, left = end + count, left - count
        trim = None
        if plan.trims:
            with _bar("Looking", end - state["trimmed"]) as moved:
                trim = await trimming.look(bus, most=end - state["trimmed"], keep=plan.keep, told=moved)
    if as_json:
        print_json({**_found(store, plan, trim, segments, state), "dry_run": True, "unsealed": left})
        return
    for each in segments:
        click.echo(f"Would seal {each['name']}: {_counted(each['count'])}.")
    _tell(plan, trim, state, left, dry=True)


async def _state(bus: Bus) -> dict[str, int]:
    """How many envelopes of the log are gone, and how many live."""
    trimmed = await bus.log.trimmed()
    return {"trimmed": trimmed.head.n if trimmed else 0, "live": await bus.log.count()}


async def _unsealed(bus: Bus, store: Archive) -> int:
    """How many envelopes are only in the log."""
    end, state = await store.end(), await _state(bus)
    return max(0, state["trimmed"] + state["live"] - (end.n if end else 0))


def _found(
    store: Archive, plan: Plan, trim: Trim | None, segments: Sequence[Mapping[str, Any]], state: Mapping[str, int]
) -> dict[str, Any]:
    held = [_held(each) for each in _worth_telling(trim.holders)] if trim else []
    counts = {"trimmed": trim.count if trim else 0, "log": {"first": state["trimmed"] + 1, "count": state["live"]}}
    return {"archive": store.url, "dry_run": False, "sealed": segments, **counts, "keep": plan.keep, "held": held}


def _held(holder: Holder) -> dict[str, Any]:
    return {
        "kind": holder.kind,
        "name": holder.name,
        "position": str(holder.position),
        "age": round(holder.age, 3),
        **({"task": holder.task, "state": holder.state} if holder.task else {}),
        "advice": _advice(holder),
    }


def _advice(holder: Holder) -> str:
    """What to do about a holder."""
    match holder.kind:
        case "inbox":
            settle = f"bus inbox {holder.name} --settle"
            return settle if holder.name == HUMAN else f"a worker of {holder.name}, or {settle}"
        case "parked":
            return f"bus parked ls {holder.name}"
        case "projection":
            return f"bus project, where it is; where it is used no more, bus archive --forget {holder.name!r}"
        case "task":
            ends = f"bus cancel {holder.task}"
            if holder.state in ("input-required", "escalated"):
                return f'bus answer {holder.task} "…", or {ends}'
            return f"a worker of {holder.name}, or {ends}"


def _tell(plan: Plan, trim: Trim | None, state: Mapping[str, int], left: int, *, dry: bool = False) -> None:
    """Say what was trimmed, what holds more of it back, and what is not sealed yet."""
    if trim is not None:
        verb = "Would trim" if dry else "Trimmed"
        live = state["live"] - trim.count if dry else state["live"]
        click.echo(f"{verb} {_counted(trim.count)} from the log, which {'would hold' if dry else 'holds'} {live:,}.")
        shown = _worth_telling(trim.holders)
        if shown:
            click.echo(
                f"What comes after {trim.head.position} is kept for:" if trim.head.n else "Everything is kept for:"
            )
        for each in shown:
            click.echo(f"  {_words(each)}\n      → {visible(_advice(each))}")
    if left and not plan.rest:
        young = left >= plan.size and not dry
        why = "the server could still lose the newest" if young else f"a segment takes {plan.size:,}"
        say(f"Not sealed: {_counted(left)}, since {why}. --all seals everything.")


def _counted(count: int) -> str:
    return "1 envelope" if count == 1 else f"{count:,} envelopes"


def _worth_telling(holders: Sequence[Holder]) -> list[Holder]:
    """Without the inboxes in which nothing but the work on an open task stands that is told of."""
    tasks = {(each.name, each.position) for each in holders if each.kind == "task"}
    return [each for each in holders if each.kind != "inbox" or (each.name, each.position) not in tasks]


def _words(holder: Holder) -> str:
    age, name = rendering.age(holder.age), visible(holder.name)
    match holder.kind:
        case "inbox":
            return f"the inbox of {name}, since {holder.position} ({age} old)"
        case "parked":
            return f"what is parked for {name}, since {holder.position} ({age} old)"
        case "projection":
            return f"the projection {name}, which last said {age} ago how far it is: {holder.position}"
        case "task":
            task, where = visible(holder.task or ""), f"{holder.state}, with {name}"
            return f"the open task {task} ({where}), since {holder.position} ({age} old)"


def _plain(segment: Manifest) -> dict[str, Any]:
    names = ("file", "first", "last", "first_position", "last_position", "first_time", "last_time", "count")
    found: dict[str, Any] = {name: getattr(segment, name) for name in names}
    sizes = {"bytes": segment.bytes, "raw_bytes": segment.raw_bytes}
    return {"name": str(segment.name), **found, **sizes, "sha256": segment.sha256, "head": segment.head}


def _table(segments: Sequence[Manifest]) -> str:
    rows = [
        (
            *(str(each.name), rendering.clock(each.begin.time), rendering.clock(each.end.position.time)),
            *(str(each.count), _bytes(each.bytes), _bytes(each.raw_bytes)),
        )
        for each in segments
    ]
    widths = [max(map(len, column)) for column in zip(_TITLES, *rows, strict=True)]
    lines = ["  ".join(_aligned(row, widths)) for row in (_TITLES, *rows)]
    return "\n".join((click.style(lines[0], dim=True), *lines[1:]))


def _aligned(row: Sequence[str], widths: Sequence[int]) -> Generator[str]:
    for at, (word, width) in enumerate(zip(row, widths, strict=True)):
        yield word.rjust(width) if at >= _NUMBERS else word.ljust(width)


def _bytes(size: int) -> str:
    for unit, factor in (("GB", 10**9), ("MB", 10**6), ("kB", 10**3)):
        if size >= factor:
            return f"{size / factor:.1f} {unit}"
    return f"{size} B"


@contextmanager
def _bar(label: str, total: int) -> Generator[Callable[[int], None] | None]:
    """A progress bar on stderr, where that is a terminal and there is enough to do."""
    if not sys.stderr.isatty() or total < _BAR_FROM:
        yield None
        return
    bar: Any
    with click.progressbar(length=total, label=label, file=sys.stderr, show_pos=True) as bar:
        yield lambda done: bar.update(done - bar.pos)
