"""`bus costs`: what models cost, what is left of the caps, and what a month will have cost."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from taskbus.cli.options import say
from taskbus_projections.commands.asking import Asked, heading, prose, query_options
from taskbus_projections.commands.choices import AGENT, LIMIT, MONTH, TASK
from taskbus_projections.commands.policies import policy_option

if TYPE_CHECKING:
    from datetime import datetime

    from taskbus_projections.database import Database
    from taskbus_projections.policy import Policy
    from taskbus_projections.queries import Forecast, Grouping, Row, Spent


@click.command()
@click.option(
    "--by",
    type=click.Choice(["provider", "model", "agent", "tier", "task", "tree", "month", "day"]),
    default="model",
    help="What to add up by [default: model]",
)
@click.option("--month", type=MONTH, metavar="MONTH", help="Only this month, such as 2026-11, with what is left of it.")
@click.option("--agent", type=AGENT, metavar="@AGENT", help="Only what it has used.")
@click.option("--provider", metavar="NAME", help="Only models of this provider.")
@click.option("--tree", "root", type=TASK, metavar="TASK", help="Only the tree of this task: its root and all parts.")
@click.option("-n", "--limit", type=LIMIT, default=100, help="At most so many lines, 0 for all [default: 100]")
@policy_option
@query_options
def costs(
    *,
    by: Grouping,
    month: str | None,
    agent: str | None,
    provider: str | None,
    root: str | None,
    limit: int,
    asked: Asked,
) -> None:
    r"""Show what models cost, and how much they used.

    A call without a price is unpriced: it is counted beside the sum, and never as zero. Months and days are those of
    UTC. With a policy file, tiers are known (--by tier). What is left of the month's caps is shown, of those on record
    and of the policy's; --month names another one. The running month has a forecast, which says how it is reckoned.

    \b
    Examples:
      bus costs
      bus costs --month 2026-11 --policy policy.toml
      bus costs --by tier --policy policy.toml
      bus costs --by month --csv > costs.csv
      bus costs --by tree --json | jq '.total.cost_microusd / 1e6'
    """
    from taskbus_projections.policy import Policy

    policy = Policy.needed(asked.settings) if by == "tier" else Policy.of(asked.settings)

    def ask(database: Database) -> None:
        from taskbus_projections import queries, views
        from taskbus_projections.amounts import plural
        from taskbus_projections.period import month_of

        now = asked.now(database)
        top = queries.root_of(database, root) if root else None
        spent = queries.Spent(root=top, agent=agent, provider=provider, month=month)
        rows, more = _grouped(database, by, spent, policy, limit)
        total = queries.total(database, spent)
        looked = None if agent or provider or top else month or month_of(now)
        caps, forecast = _outlook(database, looked, policy, now) if looked else ([], None)
        told: Row = {
            "by": by,
            "month": month,
            "total": total,
            "budgets": {"month": looked, "rows": caps},
            "forecast": forecast and {"month": looked, **_plain(forecast)},
        }
        shown = asked.show(database, "costs", rows, (*views.group_fields(by), *views.COST_FIELDS), **told)
        if not shown and rows:
            short = asked.short(database, views.shown_ids(rows, "task", "root"))
            asked.table(views.cost_columns(by, rows, short), rows)
            prose(f"Total: {views.money(total)}, for {plural(total['calls'], 'call')}.")
        if not shown:
            _told(asked, looked or "", caps, forecast)
        if not rows:
            asked.none(database, "No envelope that matches reports a call of a model.")
        elif more:
            say(f"The first {limit} lines; `--limit 0` shows all.")

    asked.answered(ask)


def _grouped(
    database: Database, by: Grouping, spent: Spent, policy: Policy | None, limit: int
) -> tuple[list[Row], bool]:
    from taskbus_projections import queries

    if by == "tier" and policy is not None:
        rows = queries.tiers(database, policy.tier, spent)
        return rows[: limit or None], len(rows) > limit > 0
    page = queries.costs(database, by, spent, limit=limit or None)
    return page.rows, page.more


def _outlook(database: Database, month: str, policy: Policy | None, now: datetime) -> tuple[list[Row], Forecast | None]:
    """What is left of the caps of a month, of providers and then of agents, and its forecast."""
    from taskbus_projections import queries

    found: list[Row] = []
    providers = queries.budgets(database, "provider", policy.cap if policy else _uncapped, month, now)
    agents = queries.budgets(database, "agent", policy.agent_cap if policy else _uncapped, month, now)
    for row in (*providers, *agents):
        if row["cap_microusd"] is not None:
            of = "provider" if "provider" in row else "agent"
            found.append({"of": of, "name": row.pop(of), **row})
    return found, queries.forecast(database, month, now)


def _uncapped(name: str) -> None:
    del name


def _told(asked: Asked, month: str, caps: list[Row], forecast: Forecast | None) -> None:
    from taskbus_projections import views

    if caps:
        heading(f"Caps of {month}")
        asked.table(views.budget_columns(), caps)
    if forecast is not None:
        prose(views.outlook(month, forecast))


def _plain(forecast: Forecast) -> Row:
    return {
        "expected_microusd": forecast.microusd,
        "daily_microusd": round(forecast.daily),
        "days": round(forecast.days, 3),
        "days_left": round(forecast.left, 3),
        "method": forecast.method,
    }
