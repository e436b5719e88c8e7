"""`bus diff`: what has changed between two moments."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import asdict
from typing import TYPE_CHECKING

import click

from taskbus.cli.options import print_json, say
from taskbus_projections.commands.asking import Asked, Moment, heading, item, painted, query_options
from taskbus_projections.commands.choices import LIMIT

if TYPE_CHECKING:
    from collections.abc import Sequence

    from taskbus_projections.database import Database
    from taskbus_projections.queries import Row
    from taskbus_projections.queries.differences import Differences


@click.command()
@click.option("--from", "start", required=True, metavar="MOMENT", help="From then: 2h, a time, a position, or '#42'.")
@click.option("--to", "end", metavar="MOMENT", help="Up to then [default: now]")
@click.option("-n", "--limit", type=LIMIT, default=50, help="At most so many tasks, 0 for all [default: 50]")
@query_options
def diff(*, start: str, end: str | None, limit: int, asked: Asked) -> None:
    r"""Show what has changed between two moments.

    Tasks that were begun, moved on or ended, escalations, deliveries that were parked, and what was spent. Both
    moments are folded from the audit trail, so that the answer is the same whenever it is asked.

    \b
    Examples:
      bus diff --from 2h
      bus diff --from 2026-11-19T18:00:00Z --to 2026-11-20T09:00:00Z
      bus diff --from 1d --json | jq '.tasks[] | select(.state == "failed")'
    """
    from taskbus.errors import UsageError

    if asked.moment is not None:
        raise UsageError("--at names one moment, and two are compared.", advice="Use --from and --to.")
    since = Moment.of(asked.placed(start))
    if end is not None:
        asked.moment = Moment.of(asked.placed(end))
    if asked.moment is not None and asked.moment.position < since.position:
        raise UsageError(f"--to {end} is before --from {start}.", advice="Name the earlier one with --from.")

    with ExitStack() as stack:
        present = stack.enter_context(asked.opened())
        # The earlier one first: the later one is folded on from it.
        older = stack.enter_context(since.seen(present))
        newer = stack.enter_context(asked.moment.seen(present)) if asked.moment else present
        from taskbus_projections.queries.differences import differences

        _show(asked, older, newer, differences(older, newer), limit)


def _show(asked: Asked, older: Database, newer: Database, found: Differences, limit: int) -> None:
    from taskbus_projections.views import differences as views

    shown = found.tasks[-limit:] if limit else found.tasks
    if asked.as_json:
        began = {"from": str(older.checkpoint().position), "to": str(newer.checkpoint().position)}
        counts = {"total": len(found.tasks)}
        print_json({"namespace": newer.namespace, **began, **counts, **asdict(found), "tasks": shown})
        return
    if asked.as_csv:
        asked.csv(views.CHANGE_FIELDS, [views.flat(task) for task in shown])
    elif found.are_none:
        asked.none(newer, "Nothing has changed between the two.")
        return
    else:
        _print(asked, newer, found, shown)
    if len(shown) < len(found.tasks):
        say(f"The newest {len(shown)} of {len(found.tasks):,} that changed; `--limit 0` shows all.")


def _print(asked: Asked, newer: Database, found: Differences, shown: Sequence[Row]) -> None:
    from taskbus_projections.amounts import plural
    from taskbus_projections.views import differences as views

    counts = ", ".join(f"{row['envelopes']:,} {row['type']}" for row in found.envelopes)
    item(f"{plural(sum(row['envelopes'] for row in found.envelopes), 'envelope')}. By type: {counts}.")
    short = asked.short(newer, [task["id"] for task in shown])
    heading("Tasks")
    asked.table(views.change_columns(short, painted), shown)
    heading("Standing")
    asked.table(views.standing_columns(), found.standing)
    _events(asked, found)


def _events(asked: Asked, found: Differences) -> None:
    from taskbus_projections.amounts import plural
    from taskbus_projections.views import differences as views
    from taskbus_projections.views import money

    if found.escalations:
        heading("Escalations")
        for each in found.escalations:
            for line in views.event_lines(each, asked.when):
                item(line)
    if found.parked:
        heading("Parked")
        for each in found.parked:
            item(views.parked_line(each, asked.when))
    if found.spending:
        heading("Spent")
        for row in found.spending:
            item(f"{row['provider']} {row['model']}: {money(row)}, for {plural(row['calls'], 'call')}")
