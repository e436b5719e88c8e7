"""Answering: a group of commands that is a query itself.

`bus agents` lists, `bus agents @kilo` tells of one, and `bus agents COMMAND` is whatever command is added to the group:
only a name that no command has goes to the query.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from taskbus.cli.options import Group

if TYPE_CHECKING:
    from collections.abc import Callable

    from click.shell_completion import CompletionItem


class _Unnamed(click.Context):
    """The context of a command that is called by the name of its group."""

    @property
    def command_path(self) -> str:
        """The words before its arguments: those of the group."""
        return self.parent.command_path if self.parent else super().command_path


class _Answer(click.Command):
    """The query; its help lists the commands of the group as well."""

    context_class = _Unnamed

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the options, then the commands."""
        super().format_options(ctx, formatter)
        if ctx.parent and isinstance(ctx.parent.command, click.Group):
            ctx.parent.command.format_commands(ctx.parent, formatter)


class Answering(Group):
    """A group for which `query` is called where none of its commands is named."""

    def __init__(self, name: str, query: Callable[..., Any], **attributes: Any) -> None:
        self.query: click.Command = click.command(name, cls=_Answer)(query)
        super().__init__(name, help=self.query.help, **attributes)

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Hand everything but the name of a command to the query, which has no name."""
        asked = args[:1] and args[0] not in self.commands
        if asked or not (args or ctx.resilient_parsing):
            args = ["", *args]
        return super().parse_args(ctx, args)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """A command of the group, or the query."""
        return super().get_command(ctx, cmd_name) if cmd_name else self.query

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem]:
        """Offer the commands, and what the query takes."""
        found = super().shell_complete(ctx, incomplete)
        if incomplete.startswith("-"):
            return self.query.shell_complete(ctx, incomplete)
        for parameter in self.query.params:
            if isinstance(parameter, click.Argument):
                found += parameter.shell_complete(ctx, incomplete)
        return found
