"""The queries: the board, one task, the audit trail, the costs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from taskbus.cli.options import say
from taskbus_projections.commands.asking import (
    Asked,
    Late,
    Listing,
    agent_type,
    message_type,
    query_options,
    state_type,
)

if TYPE_CHECKING:
    from taskbus_projections.database import Database
    from taskbus_projections.queries import Grouping


@click.command()
@click.option(
    "--state",
    "states",
    cls=Listing,
    type=Late("state", state_type),
    metavar="STATE",
    multiple=True,
    help="Only in this state; may be repeated. One of: ",
)
@click.option(
    "--assignee",
    type=Late("agent", agent_type),
    metavar="@AGENT",
    help="Only those that this agent is to do.",
)
@click.option("--tree", "root", metavar="TASK", help="Only the tree of this task: its root and all parts.")
@click.option(
    "-n", "--limit", type=click.IntRange(0, 10**9), default=50, help="At most so many, 0 for all [default: 50]"
)
@query_options
def tasks(*, states: tuple[str, ...], assignee: str | None, root: str | None, limit: int, asked: Asked) -> None:
    r"""Show the task board: every task, and how it stands.

    Those that changed last come first. On a terminal, IDs are cut to what tells them apart; all commands of
    this section take them so.

    \b
    Examples:
      bus tasks
      bus tasks --state escalated --state input-required
      bus tasks --json | jq -r '.tasks[] | select(.attempt > 1) | .id'
    """

    def ask(database: Database) -> None:
        from taskbus.envelope import now
        from taskbus_projections import queries, views

        top = queries.root_of(database, root) if root else None
        page = queries.board(database, states=states, assignee=assignee, root=top, limit=limit or None)
        if asked.show(database, "tasks", page.rows, views.TASK_FIELDS, total=page.total):
            pass
        elif page.rows:
            short = asked.short(database, views.shown_ids(page.rows, "id"))
            asked.table(views.board_columns(page.rows, short, now(), _painted), page.rows)
        if not page.rows:
            asked.none(database, "No task matches.")
        elif page.more:
            say(f"{len(page.rows)} of {page.total} tasks; `--limit 0` shows all.")

    asked.answered(ask)


@click.command()
@click.argument("task_id", metavar="TASK")
@query_options
def task(*, task_id: str, asked: Asked) -> None:
    r"""Show one task: what is asked for, what came of it, its tree, its timeline and its costs.

    Acceptance criteria have their evidence once a verdict has judged them. The beginning of an ID is enough where
    only one task has it. --csv prints the timeline.

    \b
    Examples:
      bus task 01a1f81e
      bus task 01a1f81e --json | jq -r '.timeline[] | .time + " " + .summary'
    """

    def ask(database: Database) -> None:
        from taskbus_projections import queries, views
        from taskbus_projections.brief import brief
        from taskbus_projections.sheet import sheet

        id = queries.task_id(database, task_id)
        found = queries.task(database, id)
        said = brief(database, found)
        tree = queries.tree(database, found["root"])
        timeline = queries.audit(database, task=id).rows
        costs = queries.costs(database, "model", task=id)
        spent, whole = queries.total(database, task=id), queries.total(database, root=found["root"])
        more = {"task": found | said, "tree": tree, "costs": costs, "total": spent, "tree_total": whole}
        if asked.show(database, "timeline", timeline, views.EVENT_FIELDS, **more):
            return
        asked.fields(sheet(found, said, spent, asked.when), {"state": _painted})
        short = asked.short(database, views.shown_ids(tree, "id"))
        if len(tree) > 1:
            _heading(f"Tree, {views.money(whole)} in all" if whole["calls"] else "Tree")
            asked.table(views.tree_columns(short, id, _painted), tree)
        _heading("Timeline")
        asked.table(views.event_columns(None, asked.when), timeline)
        if costs:
            _heading("Costs")
            asked.table(views.cost_columns("model", costs, short), costs)

    asked.answered(ask)


@click.command()
@click.option("--task", "task_id", metavar="TASK", help="Only this task.")
@click.option("--tree", "root", metavar="TASK", help="Only the tree of this task: its root and all parts.")
@click.option("--agent", type=Late("agent", agent_type), metavar="@AGENT", help="Only from or to it.")
@click.option(
    "--type",
    "types",
    cls=Listing,
    type=Late("type", message_type),
    metavar="TYPE",
    multiple=True,
    help="Only this type of message; may be repeated. One of: ",
)
@click.option("--since", metavar="MOMENT", help="Only from then on: 2h, a time, or a position.")
@click.option("--until", metavar="MOMENT", help="Only up to then: 2h, a time, or a position.")
@click.option("--search", metavar="TEXT", help="Only where this stands in what was sent.")
@click.option("--bodies", is_flag=True, help="With --json: what was sent, byte for byte.")
@click.option(
    "-n",
    "--limit",
    type=click.IntRange(0, 10**9),
    default=100,
    help="The newest so many, 0 for all [default: 100]",
)
@query_options
def audit(
    *,
    task_id: str | None,
    root: str | None,
    since: str | None,
    until: str | None,
    bodies: bool,
    limit: int,
    asked: Asked,
    **filters: Any,
) -> None:
    r"""Show the audit trail: who said what to whom, when, and why.

    `why` names the envelope that caused this one by its type and its number (#) in the log.

    \b
    Examples:
      bus audit --since 1h
      bus audit --tree 01a1f81e --type escalation
      bus audit --search redis --json --bodies | jq -r '.envelopes[].body'
    """
    from taskbus.errors import UsageError

    if bodies and not asked.as_json:
        raise UsageError("--bodies goes with --json.", advice="Add --json, or leave --bodies out.")

    def ask(database: Database) -> None:
        from taskbus import moment
        from taskbus_projections import queries, views

        page = queries.audit(
            database,
            task=queries.task_id(database, task_id) if task_id else None,
            root=queries.root_of(database, root) if root else None,
            since=moment.position(since) if since else None,
            until=moment.position(until) if until else None,
            bodies=bodies,
            limit=limit or None,
            **filters,
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

    asked.answered(ask)


@click.command()
@click.option(
    "--by",
    type=click.Choice(["provider", "model", "agent", "task", "tree", "month", "day"]),
    default="model",
    help="What to add up by [default: model]",
)
@query_options
def costs(*, by: Grouping, asked: Asked) -> None:
    r"""Show what models cost, and how much they used.

    A call without a price is unpriced: it is counted beside the sum, and never as zero. Months and days are
    those of UTC.

    \b
    Examples:
      bus costs
      bus costs --by month --csv > costs.csv
      bus costs --by tree --json | jq '.total.cost_microusd / 1e6'
    """

    def ask(database: Database) -> None:
        from taskbus_projections import queries, views

        rows, total = queries.costs(database, by), queries.total(database)
        fields = (*views.group_fields(by), *views.COST_FIELDS)
        if asked.show(database, "costs", rows, fields, by=by, total=total):
            pass
        elif rows:
            short = asked.short(database, views.shown_ids(rows, "task", "root"))
            asked.table(views.cost_columns(by, rows, short), rows)
            count = f"{total['calls']:,} call{'s' if total['calls'] != 1 else ''}"
            click.echo(f"\nTotal: {views.money(total)}, for {count}.")
        if not rows:
            asked.none(database, "No envelope reports a call of a model.")

    asked.answered(ask)


def _painted(state: str) -> str:
    from taskbus_projections.views import STATE_COLOURS

    return click.style(state, fg=STATE_COLOURS.get(state))


def _heading(text: str) -> None:
    click.echo(f"\n{click.style(text, bold=True)}")
