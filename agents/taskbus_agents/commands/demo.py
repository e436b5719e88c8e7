"""The command `bus demo`: the whole story, told on a terminal."""

from __future__ import annotations

import os
import shutil
import sys
from typing import TYPE_CHECKING

import click

from taskbus.cli.options import errors_shown, print_json, run_async, say

if TYPE_CHECKING:
    from taskbus_agents.demo.narration import Narrator
    from taskbus_agents.demo.play import Summary


@click.command()
@click.option("--keep", is_flag=True, help="Leave the server and the files there, to look further.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object on stdout; the story to stderr.")
def demo(*, keep: bool, as_json: bool) -> None:
    """Watch agents hand work to each other, over a real server, in under a minute.

    A person delegates a release; six agents, five of them processes, do it: with a question, a rejected result, a
    crash, an escalation, and costs (sample figures: no model runs). It uses a server and a folder of its own, takes
    nothing from your configuration, and leaves nothing behind without --keep.

    \b
    Examples:
      bus demo
      bus demo --keep
      bus demo --json 2> story.txt | jq .costs
    """
    from taskbus_agents.demo.narration import Narrator
    from taskbus_agents.demo.play import play

    def write(line: str) -> None:
        try:
            click.echo(line, err=as_json)
        except BrokenPipeError:
            # Whoever read it has had enough (`bus demo | head`). The story goes on to its end, and cleans up.
            stream = sys.stderr if as_json else sys.stdout
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())

    narrator = Narrator(write, shutil.get_terminal_size((80, 24)).columns)
    with errors_shown(as_json=as_json):
        _tell_end(narrator, run_async(play, narrator, keep=keep), as_json=as_json)


def _tell_end(narrator: Narrator, played: Summary | int, *, as_json: bool) -> None:
    from taskbus_agents.demo.play import farewell

    if isinstance(played, int):
        say("Ended: server, workers and files are gone.")
        raise click.exceptions.Exit(128 + played)
    farewell(narrator, played)
    if as_json:
        print_json(played.plain())
