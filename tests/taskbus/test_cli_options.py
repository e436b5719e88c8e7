"""What every command shares: its options, and how an error is shown."""

from __future__ import annotations

import json

import anyio
import click
import pytest
from click.testing import CliRunner

from taskbus.cli.options import run_async, settings_options
from taskbus.errors import Conflict, InvalidEnvelope, NotFound, Problem


def command(fail=None):
    """A command with the shared options, that fails as told or prints its settings."""

    @click.command()
    @click.option("--durability")
    @settings_options
    def shown(*, settings, as_json, durability):
        """Show something."""
        if fail is not None:
            fail()
        click.echo(f"{settings.url} {settings.namespace} {settings.durability} {as_json}")

    return shown


def invoke(command, *arguments):
    """What the command printed, with its exit code."""
    return CliRunner().invoke(command, arguments, env={"BUS_URL": None, "REDIS_URL": None, "BUS_NAMESPACE": None})


def test_options_reach_the_command():
    """The shared options and the command's own durability are in its settings."""
    done = invoke(command(), "--url", "redis://h", "--namespace", "shop", "--durability", "always", "--json")
    assert done.stdout == "redis://h shop: always True\n"


def test_the_shared_options_stand_last_in_the_help():
    """A command's own options come first, then the shared ones in one order."""
    text = invoke(command(), "--help").stdout
    order = [text.index(option) for option in ("--durability", "--url", "--namespace", "--home", "--json", "--help")]
    assert order == sorted(order)


def raising(error):
    """A function that raises this error."""

    def fail():
        raise error

    return fail


def test_an_error_is_shown_on_stderr_with_its_advice():
    """A person reads what happened and what to do; stdout stays empty."""
    done = invoke(command(raising(NotFound("No such task.", advice="See `bus tasks`."))))
    assert (done.exit_code, done.stdout) == (3, "")
    assert done.stderr == "Error: No such task.\nSee `bus tasks`.\n"


def test_an_error_with_json_is_one_object_on_stdout():
    """A program reads the kind of the error and what it is about."""
    done = invoke(command(raising(Conflict("No.", task="t"))), "--json")
    assert done.exit_code == 4
    assert json.loads(done.stdout) == {"error": "Conflict", "message": "No.", "task": "t"}
    assert done.stderr == ""


def test_an_invalid_envelope_with_json_has_a_message_as_every_error_has():
    """A program that knows no kind of error still has something to show; the problems stand beside it."""
    error = InvalidEnvelope([Problem("sender", "nothing", "a name")], source="x.json")
    done = invoke(command(raising(error)), "--json")
    assert json.loads(done.stdout) == {
        "error": "InvalidEnvelope",
        "message": "x.json: sender: found nothing, expected a name",
        "source": "x.json",
        "problems": [{"place": "sender", "found": "nothing", "expected": "a name"}],
    }


def test_an_error_inside_task_groups_is_shown_alike():
    """However deep in task groups, an error of taskbus ends the command with its code."""

    async def deep():
        async with anyio.create_task_group() as outer:
            outer.start_soon(inner)

    async def inner():
        async with anyio.create_task_group() as group:
            group.start_soon(fail)

    async def fail():
        raise NotFound("No such task.")

    done = invoke(command(lambda: run_async(deep)))
    assert (done.exit_code, done.stderr) == (3, "Error: No such task.\n")


def test_a_group_with_anything_else_is_not_hidden():
    """A fault of the program beside an error of taskbus is not swallowed."""
    done = invoke(command(raising(ExceptionGroup("two", [NotFound("x"), ValueError("y")]))))
    assert isinstance(done.exception, ExceptionGroup)


def test_an_interrupt_is_130():
    """Ctrl-C ends a command as a shell counts it, and says nothing."""
    done = invoke(command(raising(KeyboardInterrupt())))
    assert (done.exit_code, done.stdout, done.stderr) == (130, "", "")


def test_run_async_gives_arguments_and_result():
    """What the function is given and what it returns pass through."""

    async def add(one, *, two):
        return one + two

    assert run_async(add, 1, two=2) == 3


@pytest.mark.parametrize("option", ["--namespace=a b", "--url=nonsense", "--durability=never"])
def test_mistakes_in_options_are_2(option):
    """What settings refuse ends the command before it begins."""
    assert invoke(command(raising(AssertionError("it began"))), option).exit_code == 2


def test_what_an_error_quotes_cannot_steer_the_terminal():
    """A goal or a name in it is somebody else's text; line breaks of its own stay."""
    error = NotFound("Several:\n  \x1b[31mred", advice="Not \u202e\x9b2J.")
    assert invoke(command(raising(error))).stderr == "Error: Several:\n  \\x1b[31mred\nNot \\u202e\\x9b2J.\n"
    problem = InvalidEnvelope([Problem("payload", "b\x1b]0;c", "text")])
    assert "b\\x1b]0;c" in invoke(command(raising(problem))).stderr
