"""`bus completion`: the script with which a shell completes commands and options."""

from __future__ import annotations

import click
from click.shell_completion import get_completion_class

from taskbus.cli.options import print_json


@click.command()
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
@click.option("--json", "as_json", is_flag=True, help="Print JSON on stdout, an error as well.")
@click.pass_context
def completion(ctx: click.Context, *, shell: str, as_json: bool) -> None:
    """Print the completion script of a shell.

    \b
    Examples:
      bus completion bash >> ~/.bashrc
      bus completion zsh > ~/.zfunc/_bus
      bus completion fish > ~/.config/fish/completions/bus.fish
    """
    known = get_completion_class(shell)
    if known is None:
        return
    script = known(ctx.find_root().command, {}, "bus", "_BUS_COMPLETE").source()
    if as_json:
        print_json({"script": script})
    else:
        click.echo(script)
