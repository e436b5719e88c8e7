"""`bus agents`, `bus gates` and `bus escalations`: who works how well, and what needs people."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import click

from taskbus.cli.options import say
from taskbus_projections.commands.answering import Answering
from taskbus_projections.commands.asking import Asked, heading, painted, prose, query_options
from taskbus_projections.commands.choices import AGENT, LIMIT, MONTH

if TYPE_CHECKING:
    from taskbus_projections.database import Database
    from taskbus_projections.queries.escalations import EscalationGrouping
    from taskbus_projections.queries.gates import GateGrouping

LAYERS = ("input", "hallucination", "boundary", "output", "escalation")
CATEGORIES = ("execution", "validation", "integration", "architectural")


@partial(Answering, "agents")
@click.argument("name", metavar="[@AGENT]", type=AGENT, required=False)
@click.option("--month", type=MONTH, metavar="MONTH", help="Only what happened in this month, such as 2026-11.")
@click.option("--all", "everybody", is_flag=True, help="Also those that no work was given to.")
@query_options
def agents(*, name: str | None, month: str | None, everybody: bool, asked: Asked) -> None:
    r"""Show who works how much, how well, how fast and for how much money.

    Success is the share of what was completed, of all that was completed, failed or escalated; rework the share of
    results that were rejected. p50 and p95 are the times, from being taken on to the completion, within which half
    and 95% were done. With an agent's name: everything about it, with what it did on which model; --csv prints that.

    \b
    Examples:
      bus agents
      bus agents @kilo
      bus agents --month 2026-11 --csv
      bus agents --json | jq -r '.agents[] | select(.success_rate < 0.8) | .agent'
    """

    def ask(database: Database) -> None:
        if name is None:
            _everybody(database, asked, month, everybody=everybody)
        else:
            _somebody(database, asked, name, month)

    asked.answered(ask)


def _everybody(database: Database, asked: Asked, month: str | None, *, everybody: bool) -> None:
    from taskbus_projections import queries, views

    rows = queries.agents(database, month=month, everybody=everybody)
    if not asked.show(database, "agents", rows, views.AGENT_FIELDS, month=month) and rows:
        asked.table(views.agent_columns(asked.now(database)), rows)
    if not rows:
        asked.none(database, "No work was given to anybody; --all shows who said something.")


def _somebody(database: Database, asked: Asked, name: str, month: str | None) -> None:
    from taskbus.lifecycle import OPEN
    from taskbus_projections import queries, views

    found = queries.agent(database, name, month=month)
    models, states = queries.by_model(database, name, month=month), queries.standing(database, name)
    gates = queries.gates(database, "layer", agent=name, month=month)
    work = queries.board(database, queries.Wanted(assignee=name, states=sorted(OPEN)), order="open", limit=10)
    if asked.show(
        database,
        "models",
        models,
        views.MODEL_FIELDS,
        agent=found,
        month=month,
        states=states,
        gates=gates,
        open=work.rows,
    ):
        return
    asked.fields(views.agent_lines(found, states, asked.when), {})
    short = asked.short(database, views.shown_ids(work.rows, "id"))
    parts = (
        ("Models", [row for row in models if row["taken"] or row["calls"]], views.model_columns()),
        ("Quality gates", gates, views.rate_columns("layer")),
        ("Open work", work.rows, views.board_columns(work.rows, short, asked.now(database), painted, "open")),
    )
    for title, rows, columns in parts:
        if rows:
            heading(title)
            asked.table(columns, rows)
    if work.more:
        say(f"The oldest {len(work.rows)} tasks; `bus tasks --open --assignee {name}` shows more.")


@click.command()
@click.option(
    "--by",
    type=click.Choice(["layer", "agent", "model", "month", "day"]),
    default="model",
    help="What to add up by, layer by layer; model is by agent and model [default: model]",
)
@click.option("--agent", type=AGENT, metavar="@AGENT", help="Only what it reports.")
@click.option("--model", metavar="NAME", help="Only this model.")
@click.option("--layer", type=click.Choice(LAYERS), help="Only this layer.")
@click.option("--month", type=MONTH, metavar="MONTH", help="Only this month, such as 2026-11.")
@click.option("--failed", is_flag=True, help="List the gates that failed, the newest first, with what was seen.")
@click.option("-n", "--limit", type=LIMIT, default=50, help="With --failed: at most so many, 0 for all [default: 50]")
@query_options
def gates(
    *,
    by: GateGrouping,
    agent: str | None,
    model: str | None,
    layer: str | None,
    month: str | None,
    failed: bool,
    limit: int,
    asked: Asked,
) -> None:
    r"""Show how often each of the five quality gates passes and fails.

    The share that failed is that of the gates that passed or failed; those that were skipped or not triggered say
    nothing of it.

    \b
    Examples:
      bus gates
      bus gates --by month --agent @kilo
      bus gates --failed --agent @kilo -n 10
      bus gates --layer output --json | jq '.gates[] | select(.failed_share > 0.2)'
    """
    from taskbus.errors import UsageError

    given = {"--model": model, "--layer": layer, "--month": month, "--by": None if by == "model" else by}
    if failed and (other := next((name for name, value in given.items() if value), None)):
        raise UsageError(f"--failed and {other} exclude each other.", advice="--failed goes with --agent and --limit.")

    def ask(database: Database) -> None:
        from taskbus_projections import queries, views

        if not failed:
            rows = queries.gates(database, by, agent=agent, model=model, layer=layer, month=month)
            if not asked.show(database, "gates", rows, views.gate_fields(by), by=by, month=month) and rows:
                asked.table(views.rate_columns(by), rows)
        else:
            page = queries.failed_gates(database, agent=agent, limit=limit or None)
            rows = page.rows
            if not asked.show(database, "gates", rows, views.FAILED_FIELDS) and rows:
                short = asked.short(database, views.shown_ids(rows, "task"))
                asked.table(views.failed_columns(short, asked.when), rows)
            if page.more:
                say(f"The newest {limit} gates that failed; `--limit 0` shows all.")
        if not rows:
            asked.none(database, "No quality gate matches.")

    asked.answered(ask)


@click.command()
@click.option("--open", "open_", is_flag=True, help="Only those that nobody has dealt with.")
@click.option("--human", is_flag=True, help="Only those that reached a human: sent to @human, or of level 4.")
@click.option("--level", type=click.IntRange(1, 4), help="Only this level: 1 specialist to 4 human.")
@click.option("--category", type=click.Choice(CATEGORIES), help="Only this kind of trouble.")
@click.option("--agent", type=AGENT, metavar="@AGENT", help="Only where it had the work.")
@click.option(
    "--by",
    type=click.Choice(["month", "day", "agent", "category"]),
    help="How many there were, how many reached a human and how long they took, added up by this.",
)
@click.option("--month", type=MONTH, metavar="MONTH", help="With --by: only this month, such as 2026-11.")
@click.option("-n", "--limit", type=LIMIT, default=50, help="At most so many, 0 for all [default: 50]")
@query_options
def escalations(
    *,
    open_: bool,
    human: bool,
    level: int | None,
    category: str | None,
    agent: str | None,
    by: EscalationGrouping | None,
    month: str | None,
    limit: int,
    asked: Asked,
) -> None:
    r"""Show what was escalated, to whom, who dealt with it, and how long that took.

    The newest come first. An incident is the first escalation of some trouble, with those that repeat it until
    somebody deals with it. Rates are incidents for each task that was delegated first meanwhile: more than 100% where
    tasks are escalated anew after somebody dealt with it, or were delegated before.

    \b
    Examples:
      bus escalations --open
      bus escalations --by month
      bus escalations --human --agent @kilo
      bus escalations --json | jq '.rates.human_rate'
    """
    from taskbus.errors import UsageError

    listed = {"--open": open_, "--human": human, "--level": level, "--category": category}
    if by is not None and (other := next((name for name, value in listed.items() if value), None)):
        raise UsageError(f"--by and {other} exclude each other.", advice="--by goes with --agent and --month.")
    if by is None and month is not None:
        raise UsageError("--month goes with --by.", advice="Say what to add up by: --by agent.")

    def ask(database: Database) -> None:
        from taskbus_projections import queries, views

        if by is not None:
            rows = queries.escalation_rates(database, by, month=month, agent=agent)
            if not asked.show(database, "rates", rows, (by, *views.RATE_FIELDS), by=by, month=month) and rows:
                asked.table(views.escalation_rate_columns(by), rows)
        else:
            page = queries.escalations(
                database, open_only=open_, human=human, level=level, category=category, agent=agent, limit=limit or None
            )
            rows = page.rows
            (rates,) = queries.escalation_rates(database, agent=agent)
            waiting = queries.open_escalations(database, agent=agent)
            told = {"rates": rates, "open": waiting}
            if not asked.show(database, "escalations", rows, views.ESCALATION_FIELDS, **told) and rows:
                short = asked.short(database, views.shown_ids(rows, "task"))
                asked.table(views.escalation_columns(short, asked.when), rows)
                prose(views.escalations_said(rates, waiting))
            if page.more:
                say(f"The newest {limit} escalations; `--limit 0` shows all.")
        if not rows:
            asked.none(database, "No escalation matches.")

    asked.answered(ask)
