"""Reporting: the command that says on one page what became of a period."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from taskbus.cli.options import print_json, say
from taskbus_projections.commands.asking import Asked, query_options
from taskbus_projections.commands.policies import policy_option

if TYPE_CHECKING:
    from taskbus_projections.database import Database


@click.command()
@click.option("--from", "start", metavar="DAY", help="From this day on: 2026-11-01, or 7d [default: of this month]")
@click.option("--to", "end", metavar="DAY", help="Up to this day, which is included [default: today]")
@click.option("--month", metavar="YYYY-MM", help="This month [default: the one that it is now]")
@click.option("--html", "page", metavar="FILE", help="Write a page with plots; - is stdout.")
@policy_option
@query_options
def report(*, start: str | None, end: str | None, month: str | None, page: str | None, asked: Asked) -> None:
    r"""Report on a period: work, failures, escalations, gates, costs, open work.

    Markdown on stdout, or with --html one file that needs nothing else. Days are those of UTC. A policy adds its
    tiers, and what is left of its caps. --csv prints a line for each day.

    \b
    Examples:
      bus report
      bus report --month 2026-11 --html november.html
      bus report --from 7d --policy policy.toml > week.md
    """
    from taskbus.envelope import now as clock
    from taskbus.errors import UsageError
    from taskbus_projections.policy import Policy
    from taskbus_projections.report.days import Days

    if page is not None and (asked.as_json or asked.as_csv):
        raise UsageError("--html excludes --json and --csv.", advice="Leave one of them out.")
    # Before anything is asked, so that a mistake needs no server to be seen.
    present = asked.moment.time if asked.moment else clock()
    policy, days = Policy.of(asked.settings), Days.read(start, end, month, present)

    def ask(database: Database) -> None:
        from taskbus_projections.report import facts, markdown, sections

        found = facts.gather(database, days, policy, present)
        if asked.as_json:
            print_json({**asked.head(database), **found})
            return
        if asked.as_csv:
            asked.csv(facts.DAILY, facts.daily(found))
            return
        document = sections.document(found, database.namespace, policy.path.name if policy else None)
        if page is None:
            click.echo(markdown.written(document), nl=False)
            return
        from taskbus_projections.report.page import written

        _write(page, written(document, present))

    asked.answered(ask)


def _write(file: str, text: str) -> None:
    from taskbus.errors import UsageError

    if file == "-":
        click.echo(text, nl=False)
        return
    path = Path(file)
    try:
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        message = f"{path} cannot be written: {error.strerror or error}."
        raise UsageError(message, advice="Name a file in a folder that is there, and that you may write to.") from error
    say(f"Written to {path}.")
