"""`bus audit`: who said what to whom, when, and why."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from taskbus.cli.options import say
from taskbus_projections.commands.asking import Asked, query_options
from taskbus_projections.commands.choices import AGENT, LIMIT, MESSAGE_TYPE, TASK, Listing

if TYPE_CHECKING:
    from taskbus_projections.database import Database
    from taskbus_projections.queries.causes import Direction


@click.command()
@click.option("--task", "task_id", type=TASK, metavar="TASK", help="Only this task.")
@click.option("--tree", "root", type=TASK, metavar="TASK", help="Only the tree of this task: its root and all parts.")
@click.option("--agent", type=AGENT, metavar="@AGENT", help="Only from or to it.")
@click.option(
    "--type",
    "types",
    cls=Listing,
    type=MESSAGE_TYPE,
    metavar="TYPE",
    multiple=True,
    help="Only this type of message; may be repeated. One of: ",
)
@click.option("--since", metavar="MOMENT", help="Only from then on: 2h, a time, a position, or '#42'.")
@click.option("--until", metavar="MOMENT", help="Only up to then: 2h, a time, a position, or '#42'.")
@click.option("--by-hand", is_flag=True, help="Only what somebody sent by hand in the sender's name.")
@click.option("--search", metavar="WORDS", help="Only where all of these words stand: redis cach*.")
@click.option("--match", metavar="EXPRESSION", help='The same as an FTS5 expression: redis NOT "price list".')
@click.option("--causes", metavar="ENVELOPE", help="What led to an envelope and what came of it, as a tree.")
@click.option(
    "--direction", type=click.Choice(["up", "down", "both"]), help="With --causes: only what led to it, or came of it."
)
@click.option("--bodies", is_flag=True, help="With --json: what was sent, byte for byte.")
@click.option("-n", "--limit", type=LIMIT, default=100, help="The newest so many, 0 for all [default: 100]")
@query_options
def audit(
    *,
    causes: str | None,
    direction: Direction | None,
    bodies: bool,
    limit: int,
    asked: Asked,
    **filters: Any,
) -> None:
    r"""Show the audit trail: who said what to whom, when, and why.

    `why` names the envelope that caused this one by its type and its number (#) in the log. --causes takes such a
    number, a position, or the beginning of an envelope's ID.

    \b
    Examples:
      bus audit --since 1h
      bus audit --tree 01a1f81e --type escalation
      bus audit --search "redis cach*"
      bus audit --causes '#42' --direction up
      bus audit --search redis --json --bodies | jq -r '.envelopes[].body'
    """
    from taskbus.errors import UsageError

    if bodies and not asked.as_json:
        raise UsageError("--bodies goes with --json.", advice="Add --json, or leave --bodies out.")
    if filters["search"] is not None and filters["match"] is not None:
        raise UsageError("--search and --match exclude each other.", advice="Leave one of them out.")
    if causes is None and direction is not None:
        raise UsageError("--direction goes with --causes.", advice="Name an envelope: --causes '#42'.")
    if causes is not None:
        if given := [name for name, value in filters.items() if value not in (None, False, ())]:
            option = {"task_id": "task", "root": "tree", "types": "type"}.get(given[0], given[0]).replace("_", "-")
            raise UsageError(f"--causes and --{option} exclude each other.", advice="Leave one of them out.")
        asked.answered(
            lambda database: _causes(database, causes, direction or "both", asked, bodies=bodies, limit=limit)
        )
    else:
        asked.answered(lambda database: _listed(database, filters, bodies, limit, asked))


def _listed(database: Database, filters: dict[str, Any], bodies: bool, limit: int, asked: Asked) -> None:
    from taskbus import moment
    from taskbus_projections import queries, views

    given = dict(filters)
    for name, place in (("since", moment.position), ("until", moment.until)):
        given[name] = place(asked.placed(filters[name]), now=asked.now(database)) if filters[name] else None
    task_id, root = given.pop("task_id"), given.pop("root")
    page = queries.audit(
        database,
        queries.Sought(
            task=queries.task_id(database, task_id) if task_id else None,
            root=queries.root_of(database, root) if root else None,
            **given,
        ),
        bodies=bodies,
        limit=limit or None,
    )
    if asked.show(database, "envelopes", [views.readable(row) for row in page.rows], views.EVENT_FIELDS):
        pass
    elif page.rows:
        short = asked.short(database, views.shown_ids(page.rows, "task"))
        asked.table(views.event_columns(short, asked.when), page.rows)
    if not page.rows:
        asked.none(database, "No envelope matches.")
    elif page.more:
        say(f"The newest {limit} envelopes; `--limit 0` shows all.")


def _causes(database: Database, text: str, direction: Direction, asked: Asked, *, bodies: bool, limit: int) -> None:
    from taskbus_projections import queries, views

    page = queries.causes(database, queries.envelope(database, text), direction, bodies=bodies, limit=limit or None)
    if not asked.show(database, "envelopes", [views.readable(row) for row in page.rows], views.CAUSE_FIELDS):
        short = asked.short(database, views.shown_ids(page.rows, "task"))
        asked.table(views.cause_columns(page.rows, short, asked.when), page.rows)
    if page.more:
        say(f"The nearest {len(page.rows)} envelopes; `--limit 0` shows all.")
    first = page.rows[0]
    if first["causation"] and not first["cause_n"] and direction != "down":
        say(f"What caused #{first['n']} ({first['causation']}) is not in this log.")
