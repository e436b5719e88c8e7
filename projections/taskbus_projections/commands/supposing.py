"""Supposing: the command that prices the log with other prices, models or tiers."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from taskbus_projections.commands.asking import Asked, heading, query_options
from taskbus_projections.commands.policies import policy_option

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from taskbus_projections.database import Database
    from taskbus_projections.period import Period
    from taskbus_projections.policy import Policy
    from taskbus_projections.what_if import Grouping, Outcome


@click.command()
@click.option("--from", "start", metavar="MOMENT", help="Only calls from then on: 2h, a time, a position, or '#42'.")
@click.option("--to", "end", metavar="MOMENT", help="Only calls up to then: 2h, a time, a position, or '#42'.")
@click.option("--month", metavar="YYYY-MM", help="Only calls of this month, in UTC.")
@click.option(
    "--by",
    type=click.Choice(["tier", "agent", "model", "provider", "month"]),
    help="What to add up by [default: tier; model where the policy has none]",
)
@policy_option
@query_options
def what_if(*, start: str | None, end: str | None, month: str | None, by: Grouping | None, asked: Asked) -> None:
    r"""Show what the work would have cost with other prices, models or tiers.

    Each call of the log is priced as the policy says. Where the policy names one model for all as its baseline, the
    reduction against it is told apart by cause: routing, less context, fewer tokens. All that is assumed is printed,
    and what cannot be known is counted, never guessed.

    \b
    Examples:
      bus what-if --policy policy.toml
      bus what-if --policy policy.toml --month 2026-11 --by agent --csv > agents.csv
      bus what-if --policy policy.toml --json | jq '.total.saved_microusd / 1e6'
    """
    from taskbus_projections.period import Period
    from taskbus_projections.policy import Policy

    begin, until = (asked.placed(text) if text else None for text in (start, end))
    policy, period = Policy.needed(asked.settings), Period.read(begin, until, month)
    grouping: Grouping = by or ("tier" if policy.tiers else "model")

    def ask(database: Database) -> None:
        from taskbus_projections import what_if_view as view
        from taskbus_projections.what_if import suppose

        outcome = suppose(database, policy, period, grouping)
        rows = view.rows(outcome, grouping, policy)
        if asked.show(database, "groups", rows, (grouping, *view.FIELDS), **_more(outcome, policy, period, grouping)):
            pass
        elif rows:
            _print(asked, outcome, policy, period, grouping)
        if not rows:
            asked.none(database, "No envelope of this period reports a call of a model.")

    asked.answered(ask)


def _more(outcome: Outcome, policy: Policy, period: Period, by: Grouping) -> dict[str, object]:
    from taskbus_projections import what_if_view as view

    supposed = policy.supposition
    return {
        "by": by,
        "from": str(period.start) if period.start else None,
        "to": str(period.end) if period.end else None,
        "policy": {"file": str(policy.path), "version": policy.version},
        "baseline": "/".join(supposed.baseline) if supposed.baseline else None,
        "order": supposed.order,
        "measures": {cause: view.measure_row(measure) for cause, measure in outcome.measures.items()},
        "total": view.row(outcome.total),
        "assumptions": list(view.assumptions(outcome, policy)),
        "unknown": view.counted(outcome.unknown),
        "not_compared": view.counted(outcome.incomparable),
    }


def _print(asked: Asked, outcome: Outcome, policy: Policy, period: Period, by: Grouping) -> None:
    from taskbus.cli.rendering import visible
    from taskbus_projections import what_if_view as view
    from taskbus_projections.amounts import plural

    total, supposed = outcome.total, policy.supposition
    click.echo(f"{plural(total.calls, 'call')} {period.words}, priced with {visible(policy.path.name)}.\n")
    asked.table(view.columns(by, compared=supposed.baseline is not None), view.rows(outcome, by, policy))
    if total.both_calls:
        heading(f"In the log and with the policy, {total.both_calls:,} of {plural(total.calls, 'call')}")
        _sums(view.differences(total))
    if supposed.baseline is not None:
        name = visible("/".join(supposed.baseline))
        heading(f"Against {name} for all, {total.compared_calls:,} of {plural(total.calls, 'call')}")
        if total.compared_calls:
            _sums(view.reductions(total, policy, outcome.measures))
    _list("Assumed", view.assumptions(outcome, policy), asked)
    _list("Not known", view.unknown(outcome), asked)


def _sums(lines: Sequence[tuple[str, str, str]]) -> None:
    widths = [max(len(line[at]) for line in lines) for at in range(3)]
    for name, amount, note in lines:
        click.echo(f"  {name:<{widths[0]}}  {amount:>{widths[1]}}  {note}".rstrip())


def _list(title: str, sentences: Iterable[str], asked: Asked) -> None:
    lines = list(sentences)
    if lines:
        heading(title)
        asked.fields([("", f"- {line}") for line in lines], {})
