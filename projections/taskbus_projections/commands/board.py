"""`bus tasks` and `bus task`: the board, and one task from every side."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from taskbus.cli.options import say
from taskbus_projections.commands.asking import Asked, heading, painted, query_options
from taskbus_projections.commands.choices import AGENT, LIMIT, STATE, TASK, TASK_TYPE, Listing

if TYPE_CHECKING:
    from datetime import datetime

    from taskbus_projections.database import Database
    from taskbus_projections.queries import Order, Row
    from taskbus_projections.table import Column


@click.command()
@click.option(
    "--state",
    "states",
    cls=Listing,
    type=STATE,
    metavar="STATE",
    multiple=True,
    help="Only in this state; may be repeated. One of: ",
)
@click.option("--assignee", type=AGENT, metavar="@AGENT", help="Only those that this agent is to do.")
@click.option("--delegator", type=AGENT, metavar="@AGENT", help="Only those that it has delegated.")
@click.option("--tree", "root", type=TASK, metavar="TASK", help="Only the tree of this task: its root and all parts.")
@click.option("--type", "task_type", type=TASK_TYPE, metavar="TYPE", help="Only this kind of work, as delegated.")
@click.option("--older", metavar="AGE", help="Only those delegated so long ago or longer: 2h, 3d, or a time.")
@click.option("--newer", metavar="AGE", help="Only those delegated since then: 2h, 3d, or a time.")
@click.option("--open", "open_", is_flag=True, help="Only those for which somebody owes something, the oldest first.")
@click.option("--slow", is_flag=True, help="Only those that are finished, the slowest first, and where the time went.")
@click.option("-n", "--limit", type=LIMIT, default=50, help="At most so many, 0 for all [default: 50]")
@query_options
def tasks(*, open_: bool, slow: bool, limit: int, asked: Asked, **filters: Any) -> None:
    r"""Show the task board: every task, and how it stands.

    Those that changed last come first. On a terminal, IDs are cut to what tells them apart; all commands of
    this section take them so.

    \b
    Examples:
      bus tasks
      bus tasks --open --older 1d
      bus tasks --slow --assignee @kilo -n 10
      bus tasks --state escalated --state input-required
      bus tasks --json | jq -r '.tasks[] | select(.attempt > 1) | .id'
    """
    from taskbus.errors import UsageError

    if open_ and slow:
        raise UsageError(
            "--open and --slow exclude each other.", advice="Work that is open has no end yet: --open shows the oldest."
        )
    order: Order = "open" if open_ else "slow" if slow else "changed"
    asked.answered(lambda database: _listed(database, asked, filters, order, limit))


def _listed(database: Database, asked: Asked, filters: dict[str, Any], order: Order, limit: int) -> None:
    from taskbus_projections import queries, views

    now, given = asked.now(database), dict(filters)
    root, older, newer = (given.pop(name) for name in ("root", "older", "newer"))
    wanted = queries.Wanted(
        root=queries.root_of(database, root) if root else None,
        created_until=_time(older, now),
        created_since=_time(newer, now),
        **given,
    )
    page = queries.board(database, wanted, order=order, limit=limit or None)
    if asked.show(database, "tasks", page.rows, views.TASK_FIELDS, total=page.total):
        pass
    elif page.rows:
        short = asked.short(database, views.shown_ids(page.rows, "id"))
        asked.table(views.board_columns(page.rows, short, now, painted, order), page.rows)
    if not page.rows:
        asked.none(database, "No task matches.")
    elif page.more:
        count = f"The first {len(page.rows)}" if page.total is None else f"{len(page.rows):,} of {page.total:,}"
        say(f"{count} tasks; `--limit 0` shows all.")


def _time(text: str | None, now: datetime) -> str | None:
    """A moment that an option names, as the read models keep it."""
    from taskbus import moment
    from taskbus.position import Position
    from taskbus_projections.instants import appended, instant

    if text is None:
        return None
    found = moment.parse(text, now=now)
    return appended(found) if isinstance(found, Position) else instant(found)


@click.command()
@click.argument("task_id", metavar="TASK", type=TASK)
@click.option("-n", "--limit", type=LIMIT, default=200, help="The newest envelopes, 0 for all [default: 200]")
@query_options
def task(*, task_id: str, limit: int, asked: Asked) -> None:
    r"""Show one task from every side.

    What is asked for and what came of it, its tree, its states with the time in each, its attempts, quality gates,
    escalations, what was set aside, its timeline and its costs. Acceptance criteria have their evidence once a
    verdict has judged them. The beginning of an ID is enough where only one task has it. --csv prints the timeline.

    \b
    Examples:
      bus task 01a1f81e
      bus task 01a1f81e --json | jq -r '.timeline[] | .time + " " + .summary'
      bus task 01a1f81e --json | jq .states
    """

    def ask(database: Database) -> None:
        from taskbus_projections import queries, views
        from taskbus_projections.brief import brief

        id = queries.task_id(database, task_id)
        found = queries.task(database, id)
        changes = queries.transitions(database, id)
        page = queries.audit(database, queries.Sought(task=id), limit=limit or None)
        told: Row = {
            "task": found | brief(database, found),
            "tree": queries.tree(database, found["root"]),
            "states": queries.states(found, asked.now(database)),
            "transitions": changes,
            "attempts": queries.attempts(database, id, changes),
            "gates": queries.gates_of(database, id),
            "escalations": queries.escalations_of(database, id),
            "parked": queries.parked_of(database, id),
            "holds": queries.holds_of(database, id),
            "costs": queries.costs(database, "model", queries.Spent(task=id)).rows,
            "total": queries.total(database, queries.Spent(task=id)),
            "tree_total": queries.total(database, queries.Spent(root=found["root"])),
        }
        if not asked.show(database, "timeline", page.rows, views.EVENT_FIELDS, **told):
            _shown(database, asked, told, page.rows)
        if page.more:
            say(f"The newest {limit} envelopes; `--limit 0` shows all.")

    asked.answered(ask)


def _shown(database: Database, asked: Asked, told: Row, timeline: list[Row]) -> None:
    from taskbus_projections import views
    from taskbus_projections.sheet import sheet

    found, tree, whole = told["task"], told["tree"], told["tree_total"]
    asked.fields(sheet(found, found, told["total"], asked.when), {"state": painted})
    short = asked.short(database, views.shown_ids(tree, "id"))
    if len(tree) > 1:
        heading(f"Tree, {views.money(whole)} in all" if whole["calls"] else "Tree")
        asked.table(views.tree_columns(tree, short, found["id"], painted), tree)
    if told["states"]:
        heading("Time in each state")
        asked.fields([(state, views.duration(time)) for state, time in told["states"].items()], {})
    parts: tuple[tuple[str, list[Row], list[Column]], ...] = (
        ("Attempts", told["attempts"] if len(told["attempts"]) > 1 else [], views.attempt_columns(asked.when, painted)),
        ("Quality gates", told["gates"], views.gate_columns()),
        ("Escalations", told["escalations"], views.escalation_columns(None, asked.when)),
        ("Set aside", told["parked"], views.parked_columns(asked.when)),
        ("Money reserved", told["holds"], views.hold_columns(asked.when)),
        ("Timeline", timeline, views.event_columns(None, asked.when)),
        ("Costs", told["costs"], views.cost_columns("model", told["costs"], short)),
    )
    for title, rows, columns in parts:
        if rows:
            heading(title)
            asked.table(columns, rows)
