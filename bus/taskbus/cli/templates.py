"""`bus template`: the prompt that tells a model how to write a message of one type, with a valid example."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import click

from taskbus.cli.options import errors_shown, print_json
from taskbus.envelope import SPOKEN

if TYPE_CHECKING:
    from taskbus.envelope import MessageType


@click.command()
@click.argument("type", type=click.Choice(SPOKEN), metavar="TYPE")
@click.option(
    "--format",
    "form",
    type=click.Choice(["xml", "json"]),
    default="xml",
    show_default=True,
    help="The form that the model shall write.",
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON: the prompt, and its example by itself.")
def template(*, type: MessageType, form: Literal["xml", "json"], as_json: bool) -> None:
    """Print a prompt that tells a model what to write.

    TYPE is delegation, acknowledgment, status, question, answer, completion, verdict, escalation or
    cancellation. The prompt goes to stdout: put it behind the task. What the model answers, `bus publish
    --lenient` reads, with whatever prose stands around it. There is none for a parking: only the bus records one.

    \b
    Examples:
      bus template completion
      bus template status --format json
      (cat task.md; bus template completion) | some-agent | bus validate --lenient -
    """
    from taskbus.template import example_document
    from taskbus.template import template as prompt

    with errors_shown(as_json=as_json):
        text = prompt(type, form=form)
        if as_json:
            print_json({"type": type, "format": form, "prompt": text, "example": example_document(type, form=form)})
        else:
            click.echo(text, nl=False)
