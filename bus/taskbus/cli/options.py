"""What all commands share: the options that say which bus is meant, exit codes, errors, running async code.

Owns the one table from errors to exit codes, and how an error is shown: message and advice on stderr, or with
`--json` one object on stdout. Called by every command, also those of other packages.
"""

from __future__ import annotations

import errno
import functools
import json
import os
import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final, ParamSpec, TypeVar, cast

import click

from taskbus.errors import (
    BudgetLost,
    Conflict,
    InvalidEnvelope,
    NotFound,
    OverBudget,
    RefusedByBudget,
    TaskbusError,
    TimedOut,
    Unavailable,
    UsageError,
)

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Generator, Mapping

P = ParamSpec("P")
R = TypeVar("R")

# The most specific class that an error belongs to decides. What is not listed ends with 1.
EXIT_CODES: Final[Mapping[type[BaseException], int]] = {
    UsageError: 2,
    NotFound: 3,
    Conflict: 4,
    Unavailable: 5,
    TimedOut: 6,
    OverBudget: 7,
    BudgetLost: 7,
    RefusedByBudget: 7,
    InvalidEnvelope: 8,
}

# As shells count a process that SIGINT or SIGPIPE has ended.
INTERRUPTED: Final = 130
PIPE_CLOSED: Final = 141

# Letters of a first sentence, at most, in a list of commands.
_SENTENCE: Final = 200

# A device or a quota is full, or the device is broken.
_FULL: Final = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO})

_SHARED: Final = (
    click.Option(["--url"], metavar="URL", help="Server [default: BUS_URL, REDIS_URL, an embedded one]"),
    click.Option(["--namespace"], metavar="NAME:", help="Key prefix [default: BUS_NAMESPACE, taskbus:]"),
    click.Option(
        ["--home"], metavar="FOLDER", help="Database, embedded server [default: BUS_HOME, .bus here or above]"
    ),
    click.Option(["--json", "as_json"], is_flag=True, help="Print JSON on stdout, an error as well."),
)


def settings_options(command: Callable[..., R]) -> Callable[..., R]:
    """Give a command --url, --namespace, --home and --json; it is called with `settings` and `as_json`.

    They stand last in the command's help. An option `durability` of the command's own counts for the
    settings, too; `policy` and `archive` only for them. Errors of taskbus end the command with their exit code.
    """

    @functools.wraps(command)
    def wrapped(
        *args: Any, url: str | None, namespace: str | None, home: str | None, as_json: bool, **kwargs: Any
    ) -> R:
        from taskbus.settings import Settings

        with errors_shown(as_json=as_json):
            durability = kwargs.get("durability")
            policy, archive = kwargs.pop("policy", None), kwargs.pop("archive", None)
            settings = Settings.load(
                url=url,
                namespace=namespace,
                home=home,
                durability=durability,
                policy=policy,
                archive=archive,
                announce=say,
            )
            return command(*args, settings=settings, as_json=as_json, **kwargs)

    # Click's mark of a paragraph that keeps its lines; a docstring with a backslash is written raw, as two characters.
    wrapped.__doc__ = (command.__doc__ or "").replace(r"\b", "\b")
    # As click's own decorator keeps them: from the innermost, so what stands first here is shown last.
    own: list[click.Parameter] = getattr(command, "__click_params__", [])
    wrapped.__click_params__ = [*reversed(_SHARED), *own]  # type: ignore[attr-defined]
    return wrapped


def archive_option(command: Callable[..., R]) -> Callable[..., R]:
    """Give a command --archive, for the settings alone; it stands above `settings_options`."""
    option = click.option(
        "--archive", metavar="WHERE", help="Archive: a folder or URL [default: BUS_ARCHIVE, archive in the home]"
    )
    return option(command)


@contextmanager
def errors_shown(*, as_json: bool) -> Generator[None]:
    """Show an error of taskbus and end the command with its exit code; so with Ctrl-C and output that goes nowhere."""
    try:
        yield
        sys.stdout.flush()
    except (TaskbusError, BaseExceptionGroup) as raised:
        error = _the_one(raised)
        if error is None:
            raise
        _show(error, as_json=as_json)
        raise click.exceptions.Exit(exit_code(error)) from raised
    except KeyboardInterrupt as error:
        raise click.exceptions.Exit(INTERRUPTED) from error
    except BrokenPipeError as error:
        # Whoever read our output has had enough.
        discard_output()
        raise click.exceptions.Exit(PIPE_CLOSED) from error
    except OSError as error:
        if error.errno not in _FULL:
            raise
        discard_output()
        say(f"{click.style('Error:', fg='red', bold=True)} The output cannot be written: {error.strerror}.")
        say("Make room, or write it elsewhere; what was sent to the bus before stays there.")
        raise click.exceptions.Exit(1) from error


@contextmanager
def mistakes_shown(*, as_json: bool) -> Generator[None]:
    """Show a mistake in the arguments with `--json` as every other error; all else is as in `errors_shown`."""
    with errors_shown(as_json=as_json):
        try:
            yield
        except click.exceptions.NoArgsIsHelpError:
            raise
        except click.UsageError as mistake:
            if not as_json:
                raise
            path = mistake.ctx.command_path if mistake.ctx is not None else "bus"
            raise UsageError(mistake.format_message(), advice=f"See `{path} --help`.") from mistake


def exit_code(error: BaseException) -> int:
    """The exit code for an error."""
    return next((EXIT_CODES[kind] for kind in type(error).__mro__ if kind in EXIT_CODES), 1)


def discard_output() -> None:
    """Say nothing more on stdout, not even what is still to be written at the end: nobody reads it any more."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def run_async(function: Callable[P, Awaitable[R]], *args: P.args, **kwargs: P.kwargs) -> R:
    """Run an async function to its end, and return what it returns."""
    import anyio

    return anyio.run(functools.partial(function, *args, **kwargs))


def print_json(document: object) -> None:
    """Print one JSON document on one line of stdout."""
    click.echo(json.dumps(document, ensure_ascii=False, default=str))


class Group(click.Group):
    """A group whose help says of each of its commands all that its first sentence does."""

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the commands, in lines as they are needed."""
        commands = [(name, command) for name in self.list_commands(ctx) if (command := self.get_command(ctx, name))]
        if commands:
            with formatter.section("Commands"):
                formatter.write_dl([(name, command.get_short_help_str(limit=_SENTENCE)) for name, command in commands])


def say(text: str) -> None:
    """Tell the person at the terminal, on stderr."""
    click.echo(text, err=True)


def unreadable(error: OSError | ValueError) -> str:
    """What to do about a document that cannot be opened."""
    if isinstance(error, IsADirectoryError):
        return "Name a file in it."
    if isinstance(error, PermissionError):
        return "Let yourself read it, or give the document on stdin: -."
    return "Check the path, seen from the current folder; - is stdin."


def _the_one(raised: BaseException) -> TaskbusError | None:
    """The error of taskbus in it, however deep in task groups; None where anything else is in it, too."""
    if isinstance(raised, TaskbusError):
        return raised
    if isinstance(raised, BaseExceptionGroup):
        parts = cast("tuple[BaseException, ...]", raised.exceptions)
        found = [_the_one(each) for each in parts]
        return found[0] if all(found) else None
    return None


def _show(error: TaskbusError, *, as_json: bool) -> None:
    if as_json:
        print_json(error.details())
        return
    from taskbus.cli.rendering import visible  # what an error quotes, somebody else may have written

    label = click.style("Error:", fg="red", bold=True)
    if isinstance(error, InvalidEnvelope):
        say(f"{label} {error.source or 'The document'} is not valid:")
        for problem in error.problems:
            say(f"  {visible(str(problem), lines=True)}")
    else:
        say(f"{label} {visible(error.message, lines=True)}")
    if error.advice:
        say(visible(error.advice, lines=True))
