"""`bus completion`: the script with which a shell completes commands and options."""

from __future__ import annotations

import click
from click.shell_completion import get_completion_class


@click.command()
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
@click.pass_context
def completion(ctx: click.Context, shell: str) -> None:
    """Print the completion script of a shell.

    \b
    Examples:
      bus completion bash >> ~/.bashrc
      bus completion zsh > ~/.zfunc/_bus
      bus completion fish > ~/.config/fish/completions/bus.fish
    """
    script = get_completion_class(shell)
    root = ctx.find_root().command
    if script is not None:
        click.echo(script(root, {}, "bus", "_BUS_COMPLETE").source())
