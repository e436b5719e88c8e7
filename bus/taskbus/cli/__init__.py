"""The command line: the group `bus`, which knows every command by name and imports none before it is called.

Owns the list of commands with their sections and one-line helps, and finds the commands of other packages
through the entry points of the group `taskbus.commands`. `bus --help` imports neither redis, sqlite-utils nor
lxml. Called by the console script `bus` and by `python -m taskbus`.
"""

from __future__ import annotations

import sys

try:
    import os
    from importlib import import_module
    from pathlib import Path
    from typing import TYPE_CHECKING, Any, Final

    import click

    from taskbus.cli.options import mistakes_shown
except KeyboardInterrupt:
    # Ctrl-C before there is a command that could say so; the number is that of `taskbus.cli.options`.
    sys.exit(130)

if TYPE_CHECKING:
    from collections.abc import Mapping
    from importlib.metadata import EntryPoint

ENTRY_POINTS: Final = "taskbus.commands"
_AS_JSON: Final = "taskbus.as_json"

# Section → command → (module of taskbus.cli, one-line help). Commands without a module come through entry
# points, and stand here for their place only. A test compares each help with what the command says of itself.
SECTIONS: Final[Mapping[str, Mapping[str, tuple[str, str]]]] = {
    "Setting up": {
        "demo": ("", ""),
        "init": ("server", "Write a commented bus.toml."),
        "up": ("server", "Start the embedded server, or find it running."),
        "down": ("server", "End the embedded server; its data stays."),
        "doctor": ("server", "Check the server, the namespace and the configuration."),
        "env": ("server", "Print shell exports for hooks of agent CLIs."),
        "completion": ("completion", "Print the completion script of a shell."),
    },
    "Delegating": {
        "delegate": ("delegating", "Delegate a task to an agent."),
        "answer": ("delegating", "Answer a question or an escalation; the work goes on."),
        "accept": ("delegating", "Accept the result of a task."),
        "reject": ("delegating", "Reject the result of a task; the assignee tries again."),
        "cancel": ("delegating", "End a task that is no longer wanted."),
    },
    "Working": {
        "ack": ("working", "Take a task on, or decline it."),
        "progress": ("working", "Say how far the work on a task is."),
        "ask": ("working", "Ask something without which the work cannot go on."),
        "complete": ("working", "End the work on a task with its result."),
        "escalate": ("working", "Hand trouble with a task to somebody who can deal with it."),
    },
    "Envelopes": {
        "publish": ("publish", "Publish envelopes from files or stdin."),
        "validate": ("documents", "Check documents, and list everything that is wrong with them."),
        "convert": ("documents", "Convert envelopes between JSON and XML."),
        "template": ("templates", "Print a prompt that tells a model what to write."),
    },
    "Reading": {
        "inbox": ("inbox", "Show what waits for an agent."),
        "parked": ("parked", "Show what was set aside, deliver it again, or drop it."),
        "tail": ("tail", "Show envelopes as they arrive."),
        "replay": ("replay", "Read the log again, to the screen, into another namespace or a database."),
    },
    "Asking": {
        "tasks": ("", ""),
        "task": ("", ""),
        "audit": ("", ""),
        "costs": ("", ""),
        "agents": ("", ""),
        "gates": ("", ""),
        "escalations": ("", ""),
        "diff": ("", ""),
        "report": ("", ""),
        "what-if": ("", ""),
        "sql": ("", ""),
        "schema": ("", ""),
    },
    "Keeping": {
        "project": ("", ""),
        "rebuild": ("", ""),
        "archive": ("archive", "Seal old parts of the log into compressed segments, and trim them from the server."),
        "verify": ("", ""),
    },
    "Agents": {
        "agent": ("", ""),
        "budget": ("", ""),
        "plan": ("", ""),
        "route": ("", ""),
        "supervise": ("supervise", "Escalate what is not done in time."),
        "swarm": ("", ""),
    },
}
_OTHERS: Final = "More"
_OWN: Final[Mapping[str, tuple[str, str]]] = {
    name: listed for commands in SECTIONS.values() for name, listed in commands.items() if listed[0]
}


class BusGroup(click.Group):
    """The group `bus`: lists its commands by section, and loads the one that is called."""

    def main(self, *args: Any, **extra: Any) -> Any:
        """Run the command line, with an empty stream for each standard one that whoever started us has closed."""
        for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
            # Opened anew it also takes the free number, which would otherwise go to a connection.
            if getattr(sys, name) is None:
                setattr(sys, name, Path(os.devnull).open(mode, encoding="utf-8"))  # noqa: SIM115 - open to the end
        return super().main(*args, **extra)

    def make_context(
        self, info_name: str | None, args: list[str], parent: click.Context | None = None, **extra: Any
    ) -> click.Context:
        """Read the arguments before the command's name."""
        as_json = "--json" in (args[: args.index("--")] if "--" in args else args)
        if extra.get("resilient_parsing"):
            return super().make_context(info_name, args, parent, **extra)
        with mistakes_shown(as_json=as_json):
            context = super().make_context(info_name, args, parent, **extra)
        context.meta[_AS_JSON] = as_json
        return context

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Every command, in the order of the help."""
        del ctx
        return [name for names in _sections(_extensions()).values() for name in names]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Load a command; None where there is no command of this name."""
        del ctx
        if cmd_name in _OWN:
            module = import_module(f"taskbus.cli.{_OWN[cmd_name][0]}")
            return _checked(getattr(module, cmd_name), cmd_name)
        found = _extensions().get(cmd_name)
        return _loaded(found) if found else None

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Find the command that the arguments name. Raises NoSuchCommand with the nearest names."""
        name = args[0]
        if not ctx.resilient_parsing and not name.startswith("-") and self.get_command(ctx, name) is None:
            raise click.exceptions.NoSuchCommand(name, possibilities=self.list_commands(ctx), ctx=ctx)
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the commands by section; our own ones are not loaded for it."""
        del ctx
        extensions = _extensions()
        sections = _sections(extensions)
        width = max(len(name) for names in sections.values() for name in names)
        for title, names in sections.items():
            rows = [(name.ljust(width), _brief(name, extensions)) for name in names]
            with formatter.section(title):
                formatter.write_dl(rows)

    def invoke(self, ctx: click.Context) -> object:
        """Call the command, without colours where NO_COLOR is set."""
        if os.environ.get("NO_COLOR"):
            ctx.color = False
        with mistakes_shown(as_json=ctx.meta.get(_AS_JSON, False)):
            return super().invoke(ctx)


def _extensions() -> dict[str, EntryPoint]:
    # Imported here: it costs a third of what click does, and most commands are our own.
    from importlib.metadata import entry_points

    return {found.name: found for found in entry_points(group=ENTRY_POINTS) if found.name not in _OWN}


def _sections(extensions: Mapping[str, EntryPoint]) -> dict[str, list[str]]:
    placed = {
        title: [name for name, (module, _) in commands.items() if module or name in extensions]
        for title, commands in SECTIONS.items()
    }
    known = {name for names in placed.values() for name in names}
    placed[_OTHERS] = sorted(set(extensions) - known)
    return {title: names for title, names in placed.items() if names}


def _loaded(extension: EntryPoint) -> click.Command:
    try:
        return _checked(extension.load(), extension.name)
    except (ImportError, AttributeError) as error:
        message = f"The command `{extension.name}` cannot be loaded from {extension.value}: {error}."
        raise click.ClickException(f"{message} Install the package anew, or remove it.") from error


def _checked(found: object, name: str) -> click.Command:
    if not isinstance(found, click.Command):
        raise click.ClickException(f"`{name}` is not a command but a {type(found).__name__}.")
    return found


def _brief(name: str, extensions: Mapping[str, EntryPoint]) -> str:
    if name in _OWN:
        return _OWN[name][1]
    try:
        return _loaded(extensions[name]).get_short_help_str(limit=80)
    except click.ClickException as error:
        # A broken extension must not take the help of everything else with it.
        return f"({error.message})"


def _print_version(ctx: click.Context, _param: click.Parameter, wanted: bool) -> None:
    if wanted and not ctx.resilient_parsing:
        from importlib.metadata import version

        click.echo(f"bus, version {version('taskbus')}")
        ctx.exit()


@click.command(
    cls=BusGroup,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
    epilog="`bus COMMAND --help` tells more of each command, with examples.",
)
@click.option(
    "--version",
    is_flag=True,
    expose_value=False,
    is_eager=True,
    callback=_print_version,
    help="Print the version, and end.",
)
def main() -> None:
    """Hand work from one AI coding agent to another, and know what became of it.

    A new bus begins with `bus demo`, or with `bus delegate @agent "goal"`: without a URL, an embedded
    server starts by itself.
    """
