"""The help: what `bus` can do, found without effort, shown without delay."""

from __future__ import annotations

import subprocess
import sys
import time
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import TYPE_CHECKING

import click
import pytest
from click.testing import CliRunner

from taskbus.cli import SECTIONS, main

OWN = {name: own[1] for section in SECTIONS.values() for name, own in section.items() if own[0]}

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.conftest import BusCommand
    from tests.scenarios.conftest import Console


def commands() -> Iterator[tuple[str, ...]]:
    """The words of every command, those within groups too."""

    def below(group: click.Group, words: tuple[str, ...]) -> Iterator[tuple[str, ...]]:
        context = click.Context(group)
        for name in group.list_commands(context):
            yield (*words, name)
            command = group.get_command(context, name)
            if isinstance(command, click.Group):
                yield from below(command, (*words, name))

    yield from below(main, ())


@pytest.mark.parametrize("words", list(commands()), ids=" ".join)
def test_every_command_has_help_with_an_example(words: tuple[str, ...]) -> None:
    """`bus COMMAND --help` explains itself, and shows a call that can be copied."""
    done = CliRunner().invoke(main, [*words, "--help"], prog_name="bus", env={"COLUMNS": "120"})
    assert done.exit_code == 0
    assert "Example" in done.output
    examples = done.output.partition("Example")[2].splitlines()[1:]
    assert any(f"bus {words[0]}" in line for line in examples)
    assert "\\b" not in done.output


@pytest.mark.parametrize("words", list(commands()), ids=" ".join)
def test_every_command_has_json(words: tuple[str, ...]) -> None:
    """Whatever a command prints, a program can read it."""
    command: click.Command | None = main
    for word in words:
        assert isinstance(command, click.Group)
        command = command.get_command(click.Context(command), word)
    assert command is not None
    if not isinstance(command, click.Group):
        assert any("--json" in option.opts for option in command.params)


@pytest.mark.parametrize(
    ("words", "about"),
    [
        (("tail", "--nonsense", "--json"), "--nonsense"),
        (("--nonsense", "--json"), "--nonsense"),
        (("nonsense", "--json"), "nonsense"),
        (("template", "--json"), "TYPE"),
        (("delegate", "--json", "no name", "goal"), "no name"),
        (("agent", "run", "--json"), "NAME"),
        (("parked", "show", "--json"), "TASK"),
        (("parked", "nonsense", "--json"), "nonsense"),
        (("supervise", "--silent", "soon", "--json"), "soon"),
    ],
)
def test_a_mistake_in_the_arguments_with_json(bus: Console, words: tuple[str, ...], about: str) -> None:
    """Whatever is wrong with a call, a program that asked for JSON gets the one kind of error that there is."""
    done = bus(*words)
    assert (done.code, done.stderr) == (2, "")
    assert done.json()["error"] == "UsageError"
    assert about in done.json()["message"]


def test_json_for_another_program_is_not_ours(bus: Console) -> None:
    """What stands after -- does not say how we show a mistake."""
    done = bus("tail", "--nonsense", "--", "--json")
    assert (done.code, done.stdout) == (2, "")


@pytest.mark.parametrize("words", [("--help",), ("tail", "--help"), ("completion", "bash"), ("template", "status")])
def test_a_full_disk(run_bus: BusCommand, words: tuple[str, ...]) -> None:
    """Output that cannot be written is one message and 1, and no traceback."""
    command = [sys.executable, "-m", "taskbus", *words]
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            command,
            stdout=full,
            stderr=subprocess.PIPE,
            env=dict(run_bus.environment),
            text=True,
            check=False,
            timeout=60,
        )
    assert done.returncode == 1
    assert done.stderr.startswith("Error: The output cannot be written: ")
    assert "Traceback" not in done.stderr


def test_an_interrupt_before_everything_is_imported(tmp_path: Path) -> None:
    """Ctrl-C while the command line itself is still being loaded ends it with 130, too, without a traceback."""
    (tmp_path / "click.py").write_text("raise KeyboardInterrupt\n", encoding="utf-8")
    code = f"import sys; sys.path.insert(0, {str(tmp_path)!r}); from taskbus.cli import main; main()"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=60)
    assert (done.returncode, done.stderr) == (130, "")


def test_an_early_interrupt(bus: Console, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ctrl-C while the command is still being loaded is 130 as well, without a word."""

    def interrupted(_name: str) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("taskbus.cli.import_module", interrupted)
    done = bus("tail")
    assert (done.code, done.stdout, done.stderr) == (130, "", "")


@pytest.mark.parametrize("name", OWN)
def test_the_list_says_what_the_command_says(name: str) -> None:
    """The one-line help of the list, which loads no command, is the command's own."""
    command = main.get_command(click.Context(main), name)
    assert command is not None
    assert command.get_short_help_str(limit=200) == OWN[name]


def test_the_list_has_every_command_once_in_its_section() -> None:
    """`bus --help` lists our own commands and those of other packages, by section, none of them broken."""
    done = CliRunner().invoke(main, ["--help"], prog_name="bus", env={"COLUMNS": "120"})
    lines = done.output.splitlines()
    for title, section in SECTIONS.items():
        assert f"{title}:" in lines
        for name in section:
            assert sum(line.split()[:1] == [name] for line in lines) == 1, name
    assert "cannot be loaded" not in done.output


def test_the_commands_of_the_design_are_there() -> None:
    """Nothing that the README and the design name is missing."""
    expected = {
        "demo", "up", "down", "doctor", "env", "init", "delegate", "ack", "progress", "ask", "answer", "complete",
        "escalate", "accept", "reject", "cancel", "publish", "validate", "convert", "template", "inbox", "parked",
        "tail", "replay", "tasks", "task", "audit", "costs", "agents", "gates", "escalations", "sql", "project",
        "rebuild", "agent", "supervise",
    }  # fmt: skip
    assert expected <= set(main.list_commands(click.Context(main)))


def run(code: str) -> float:
    """The seconds that a fresh Python takes for some code."""
    started = time.perf_counter()
    subprocess.run([sys.executable, "-c", code], check=True, stdout=subprocess.DEVNULL, timeout=60)
    return time.perf_counter() - started


def test_help_is_fast() -> None:
    """`bus --help` takes less than three times what Python and click take; the best of several runs each."""
    bare = min(run("import click") for _ in range(5))
    whole = min(run("import sys; sys.argv[1:] = ['--help']; from taskbus.cli import main; main()") for _ in range(5))
    assert whole < 3 * bare


HEAVY = ("redis", "hiredis", "sqlite_utils", "lxml", "anyio", "asyncio", "msgspec", "jsonschema_rs")


@pytest.mark.parametrize("arguments", [["--help"], ["--version"], ["up", "--help"]])
def test_help_imports_nothing_heavy(arguments: list[str]) -> None:
    """Whatever is slow to import is imported by the command that needs it, when it is called."""
    code = (
        "import sys, click; before = set(sys.modules)\n"
        "from taskbus.cli import main\n"
        f"try: main({arguments!r})\n"
        "except SystemExit: pass\n"
        f"print(sorted(set({HEAVY!r}) & set(sys.modules) - before), file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert done.stderr.strip() == "[]"


def test_a_command_that_does_not_exist(bus: Console) -> None:
    """A mistyped command is a usage error that names the nearest ones."""
    done = bus("delegat", "@kilo", "g")
    assert done.code == 2
    assert "delegate" in done.stderr.partition("Did you mean")[2]


def test_nothing_at_all(bus: Console) -> None:
    """`bus` alone shows the help."""
    done = bus()
    assert "Delegating:" in done.stdout + done.stderr


def test_the_version(bus: Console) -> None:
    """--version prints that of the distribution."""
    from importlib.metadata import version

    assert bus.ok("--version") == f"bus, version {version('taskbus')}"


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_scripts(bus: Console, shell: str) -> None:
    """`bus completion SHELL` prints a script that asks `bus` for the words."""
    script = bus.ok("completion", shell)
    assert "_BUS_COMPLETE" in script
    assert bus("completion", shell, "--json").json()["script"].strip() == script


def test_completion_knows_the_commands(bus: Console) -> None:
    """What the script asks is answered with the commands that begin so."""
    asked = {"_BUS_COMPLETE": "bash_complete", "COMP_WORDS": "bus de", "COMP_CWORD": "1"}
    printed = CliRunner().invoke(main, [], prog_name="bus", env=asked, complete_var="_BUS_COMPLETE").output
    assert printed.split() == ["plain,demo", "plain,delegate"]


class Broken(EntryPoint):
    """An entry point whose package is damaged."""

    def load(self) -> object:
        """Fail."""
        raise ImportError("no such module")


@pytest.mark.parametrize(
    "broken",
    [
        Broken("broken", "somewhere:command", "taskbus.commands"),
        EntryPoint("broken", "json:dumps", "taskbus.commands"),
        EntryPoint("broken", "json:nothing", "taskbus.commands"),
    ],
)
def test_a_broken_extension_breaks_nothing_else(
    bus: Console, monkeypatch: pytest.MonkeyPatch, broken: EntryPoint
) -> None:
    """A command of another package that cannot be loaded is named as such; everything else goes on."""
    monkeypatch.setattr("taskbus.cli._extensions", lambda: {"broken": broken})
    listed = bus("--help")
    assert listed.code == 0
    assert "More:" in listed.stdout
    assert "delegate" in listed.stdout
    called = bus("broken")
    assert called.code == 1
    assert "broken" in called.stderr
    assert "Traceback" not in called.stderr
