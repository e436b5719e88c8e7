"""A group that answers by itself: what goes to the query, and what to a command that was added to it."""

from __future__ import annotations

import click
import pytest
from click.shell_completion import ShellComplete
from click.testing import CliRunner

from taskbus_projections.commands.answering import Answering


@pytest.fixture
def group():
    """A query that says what it was given, in a group with one command, below a program."""

    def query(*, name, loud):
        """Tell of things."""
        click.echo(f"query {name} {loud}")

    query = click.option("--loud", is_flag=True)(query)
    query = click.argument("name", required=False, type=click.Choice(["kilo", "cline"]))(query)
    things = Answering("things", query)

    @things.command()
    @click.argument("name")
    def add(name):
        """Add a thing."""
        click.echo(f"add {name}")

    program = click.Group("bus")
    program.add_command(things)
    return program


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "query None False"),
        (["--loud"], "query None True"),
        (["kilo"], "query kilo False"),
        (["kilo", "--loud"], "query kilo True"),
        (["--loud", "--", "kilo"], "query kilo True"),
        (["add", "x"], "add x"),
        (["add", "add"], "add add"),
    ],
)
def test_only_the_name_of_a_command_is_one(group, arguments, said):
    """Everything else are arguments of the query."""
    done = CliRunner().invoke(group, ["things", *arguments])
    assert (done.exit_code, done.output.strip()) == (0, said)


def test_the_help_is_that_of_the_query_with_the_commands(group):
    """One help for both; the commands have their own."""
    shown = CliRunner().invoke(group, ["things", "--help"]).output
    assert shown.startswith("Usage: bus things [OPTIONS] [kilo|cline]")
    for text in ("Tell of things.", "--loud", "Commands:", "Add a thing."):
        assert text in shown
    assert (
        CliRunner().invoke(group, ["things", "add", "--help"]).output.startswith("Usage: bus things add [OPTIONS] NAME")
    )
    assert "Tell of things." in CliRunner().invoke(group, ["--help"]).output


@pytest.mark.parametrize("arguments", [["opencode"], ["--quiet"], ["kilo", "cline"], [""]])
def test_mistakes_name_the_group(group, arguments):
    """As what it was called by, without a name that nobody typed."""
    done = CliRunner().invoke(group, ["things", *arguments])
    assert done.exit_code == 2
    assert "Usage: bus things [OPTIONS]" in done.output


@pytest.mark.parametrize(
    ("words", "offered"),
    [(["things", ""], ["add", "kilo", "cline"]), (["things", "k"], ["kilo"]), (["things", "--l"], ["--loud"])],
)
def test_a_shell_completes_both(group, words, offered):
    """Commands, and what the query takes."""
    *before, incomplete = words
    found = ShellComplete(group, {}, "bus", "_BUS_COMPLETE").get_completions(before, incomplete)
    assert [item.value for item in found] == offered
