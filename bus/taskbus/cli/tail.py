"""`bus tail`: envelopes as they arrive, with filters, until it is stopped."""

from __future__ import annotations

from contextlib import aclosing
from typing import TYPE_CHECKING

import click

from taskbus import moment
from taskbus.cli.options import archive_option, run_async, say, settings_options
from taskbus.cli.selection import Form, Selection, form, selection_options, show
from taskbus.cli.sending import incident
from taskbus.cli.stopping import quiet_stop
from taskbus.cli.values import COUNT_OR_NONE
from taskbus.errors import Gap, TimedOut
from taskbus.log import Entry

if TYPE_CHECKING:
    from taskbus.client import Bus
    from taskbus.position import Position
    from taskbus.settings import Settings

_LAST = 10
_PAGE = 500


@click.command()
@click.option("-n", "--last", type=COUNT_OR_NONE, help="Begin with so many older ones [default: 10]")
@click.option("--since", metavar="MOMENT", help="Begin with all since then: 10m, a time, or a position.")
@click.option("--no-follow", is_flag=True, help="End after what is there already.")
@selection_options
@archive_option
@settings_options
def tail(
    *,
    last: int | None,
    since: str | None,
    no_follow: bool,
    selection: Selection,
    as_xml: bool,
    settings: Settings,
    as_json: bool,
) -> None:
    """Show envelopes as they arrive.

    Goes on until Ctrl-C, also over a restart of the server. With --json each line is one record: position and
    header fields, and the envelope.

    \b
    Examples:
      bus tail
      bus tail --agent @kilo --type question --type escalation
      bus tail --since 1h --no-follow --json | jq -r .envelope.payload.goal
    """
    run_async(_tail, settings, selection, form(as_json=as_json, as_xml=as_xml), last, since, follow=not no_follow)


async def _tail(
    settings: Settings, selection: Selection, form: Form, last: int | None, since: str | None, *, follow: bool
) -> None:
    from taskbus.client import Bus  # redis is slow to import
    from taskbus.position import START

    after = moment.before(moment.position(since)) if since is not None else START
    with quiet_stop() as stop:

        def shown(entry: Entry) -> None:
            with stop.writing():
                show(entry, form)

        async with Bus.connect(settings=settings) as bus:
            selection = await selection.resolved(bus)
            end = await bus.log.end()
            if since is not None and last is None:
                async for entry in bus.history.read(after, end):
                    if selection.takes(entry):
                        shown(entry)
            else:
                # Nobody asked for the past: what is archived is not searched for the few that are shown unasked.
                count, is_asked = (_LAST, False) if last is None else (last, True)
                for entry in await _latest(bus, selection, after, end, count, archived=is_asked):
                    shown(entry)
            if not follow:
                return
            if form == "pretty" and end == START:
                say(f"The log of {bus.namespace} is empty; waiting for the first envelope.")
            async for entry in bus.history.follow(end, on_incident=incident):
                if entry.position > after and selection.takes(entry):
                    shown(entry)


async def _latest(
    bus: Bus, selection: Selection, after: Position, end: Position, count: int, *, archived: bool
) -> list[Entry]:
    """The last `count` selected entries after `after` and up to `end`, the oldest of them first."""
    found: list[Entry] = []
    page = min(count, _PAGE) if selection == Selection() else _PAGE
    until, oldest = end.entry, end
    while len(found) < count:
        try:
            entries = await bus.connection.revrange(bus.keys.log, until, f"({after.entry}", page)
        except TimedOut:
            if page == 1:
                raise
            # They are large, and so many of them take too long.
            page = max(1, page // 8)
            continue
        for position, fields in entries:
            entry = Entry.of(position, fields)
            until, oldest = f"({position}", moment.before(entry.position)
            if selection.takes(entry):
                found.append(entry)
        if len(entries) < page:
            break
    if archived and len(found) < count:
        try:
            async with aclosing(bus.history.backwards(oldest, after)) as pages:
                async for older in pages:
                    found += filter(selection.takes, reversed(older))
                    if len(found) >= count:
                        break
        except Gap as gap:
            say(f"{gap.message} {gap.advice}")
    return found[:count][::-1]
