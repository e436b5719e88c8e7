"""`bus agents add|list|show|test|doctor`: the definitions of agents, beside the query that `bus agents` is.

Options in, lines out. Everything else is imported when a command is called.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

import click

from taskbus.cli.options import print_json, run_async, say, settings_options
from taskbus_projections.commands.people import agents
from taskbus_projections.commands.policies import policy_option

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from taskbus.settings import Settings
    from taskbus_agents.definition import Definition
    from taskbus_agents.programs import Program
    from taskbus_agents.registry import Registry
    from taskbus_agents.routing.rungs import Rung
    from taskbus_agents.routing.soundness import Soundness

__all__ = ["agents"]

_TEXTS = ("adapter", "description", "provider", "model", "permission", "workspace", "folder", "key", "coordinator")


@agents.command()
@click.argument("name", metavar="@NAME")
@click.argument("command", nargs=-1, type=click.UNPROCESSED, metavar="[-- COMMAND…]")
@click.option("--adapter", help="Which program it is: claude, codex, gemini, opencode …, or command.")
@click.option("--description", help="What it is good for, in a line.")
@click.option("--provider", help="Who runs the model, as prices and caps name it.")
@click.option("--model", help="The model, as the program takes it, or a short name of the policy.")
@click.option("--tool", "tools", multiple=True, help="A tool that it may use; may be repeated.")
@click.option("--task-type", "task_types", multiple=True, help="A kind of work that it is for; may be repeated.")
@click.option("--permission", help="read, edit [default] or bypass.")
@click.option("--workspace", help="own [default], as-is, copy or worktree.")
@click.option("--folder", help="The folder that it works on, as is, in a copy or in a worktree.")
@click.option("--key", metavar="VARIABLE", help="The environment variable that has its key.")
@click.option("--coordinator", metavar="@NAME", help="Who deals with its trouble.")
@click.option("--set", "more", multiple=True, metavar="FIELD=VALUE", help="Any other field, its value as in TOML.")
@click.option("--replace", is_flag=True, help="Put it in the place of a definition of this name.")
@settings_options
def add(
    *,
    name: str,
    command: tuple[str, ...],
    tools: tuple[str, ...],
    task_types: tuple[str, ...],
    more: tuple[str, ...],
    replace: bool,
    settings: Settings,
    as_json: bool,
    **texts: str | None,
) -> None:
    r"""Define an agent in bus.toml, which is made here where there is none.

    What stands in the file stays as it is, with its comments.

    \b
    Examples:
      bus agents add @reviewer --adapter claude --model claude-opus-4-5 --permission read
      bus agents add @bulk --adapter kilo --model z-ai/glm4.7 --set concurrency=4 --set 'timeout="20m"'
      bus agents add @tester --workspace worktree --folder . -- ./run-tests.sh
    """
    from pathlib import Path

    from taskbus import bus_file
    from taskbus.errors import Conflict, UsageError
    from taskbus_agents import registry
    from taskbus_agents.registry import adding
    from taskbus_agents.registry.fields import agent_name

    found = agent_name(name)
    if found is None:
        raise UsageError(f"{name!r} is no name of an agent.", advice="Names look like @kilo.")
    fields: dict[str, object] = {key: texts[key] for key in _TEXTS if texts.get(key)}
    fields |= {key: list(each) for key, each in (("tools", tools), ("task_types", task_types)) if each}
    file = settings.file or Path.cwd() / bus_file.NAME
    elsewhere = Path.cwd() != file.parent
    if command:
        fields["command"] = [_from(file, command[0]) if elsewhere and "/" in command[0] else command[0], *command[1:]]
    if texts.get("folder") and elsewhere:
        fields["folder"] = _from(file, str(texts["folder"]))
    for key, value in map(_assigned, more):
        if key in fields:
            raise UsageError(f"`{key}` is said twice.", advice="Leave one of them out.")
        fields[key] = value
    if "adapter" not in fields:
        fields = {"adapter": "command" if command else found.removeprefix("@"), **fields}
    known = registry.read(settings).get(found)
    if known is not None and not known.place.startswith(f"{file}, "):
        raise Conflict(f"{found} is defined in {known.place}.", advice="Choose another name, or change it there.")
    adding.add(file, found, fields, replace=replace)
    if as_json:
        print_json({"agent": found, "file": str(file)})
        return
    click.echo(found)
    say(f"Defined in {file}. To try it: bus agents test {found}; to let it work: bus agent run {found}")


def _from(file: Path, path: str) -> str:
    """A path that was given here, as it stands in a file of another folder."""
    import os

    return os.path.relpath(os.path.expanduser(path), file.parent) if not os.path.isabs(path) else path  # noqa: PTH111, PTH117


def _assigned(text: str) -> tuple[str, object]:
    import tomllib

    from taskbus.errors import UsageError

    key, sign, value = text.partition("=")
    if not sign or not key.strip():
        raise UsageError(f"{text!r} is no FIELD=VALUE.", advice="Write --set concurrency=4.")
    try:
        return key.strip(), tomllib.loads(f"value = {value}")["value"]
    except tomllib.TOMLDecodeError:
        # What is no value of TOML is meant as a text; quotes are for shells to take away.
        return key.strip(), value


@agents.command(name="list")
@settings_options
def list_(*, settings: Settings, as_json: bool) -> None:
    r"""List the agents that bus.toml and its folders define; 1 where a definition has mistakes.

    \b
    Examples:
      bus agents list
      bus agents list --json | jq -r '.agents[] | select(.adapter == "claude") | .name'
    """
    from taskbus_agents import registry

    found = registry.read(settings)
    if as_json:
        wrong = [{"file": str(each.file), "line": each.line, "message": each.message} for each in found.mistakes]
        print_json({"agents": [_plain(each) for each in found.values()], "mistakes": wrong})
    else:
        _listed(found, settings)
    if found.mistakes:
        raise click.exceptions.Exit(1)


def _listed(found: Registry, settings: Settings) -> None:
    from taskbus.cli.rendering import columns, visible
    from taskbus_projections.table import Column, table

    if found:
        rows = [{**_plain(each), "description": each.description.partition("\n")[0]} for each in found.values()]
        headings = [Column(key, _text(key)) for key in ("name", "adapter", "model")]
        described = Column("description", _text("description"), flexible=True)
        click.echo(table([*headings, described, Column("place", _text("place"), spare=1)], rows, width=columns()))
    elif not found.mistakes:
        where = f"{settings.file} defines no agents" if settings.file else "There is no bus.toml here or above"
        say(f"{where}. `bus agents add @name --adapter claude` defines one.")
    for mistake in found.mistakes:
        say(f"{click.style('Error:', fg='red', bold=True)} {visible(str(mistake))}")


def _text(key: str) -> Callable[[dict[str, Any]], str]:
    """How a row is written in the column of that name."""

    def text(row: dict[str, Any]) -> str:
        return str(row[key] or "")

    return text


def _plain(definition: Definition) -> dict[str, Any]:
    """A definition as JSON has it: the values of variables are left out, which may be secrets."""
    from dataclasses import fields

    found = {each.name: getattr(definition, each.name) for each in fields(definition)}
    found["environment"] = sorted(definition.environment)
    found["folder"] = str(definition.folder) if definition.folder else None
    return found


@agents.command()
@click.argument("name", metavar="@NAME")
@settings_options
def show(*, name: str, settings: Settings, as_json: bool) -> None:
    r"""Show the definition of one agent, with its instructions.

    \b
    Examples:
      bus agents show @reviewer
      bus agents show @reviewer --json | jq -r .instructions
    """
    from taskbus.cli.rendering import dollars, visible
    from taskbus_agents import registry

    found = _plain(registry.find(settings, name))
    if as_json:
        print_json(found)
        return
    instructions = found.pop("instructions")
    if found["hold"] is not None:
        found["hold"] = dollars(found["hold"])
    width = max(map(len, found))
    for key, value in found.items():
        if value not in (None, "", (), [], False):
            parts = cast("list[object]", [*value] if isinstance(value, tuple | list) else [value])
            said = ", ".join(map(str, parts))
            click.echo(f"{key.ljust(width)}  {visible(said)}")
    if instructions:
        click.echo(f"\n{visible(instructions, lines=True)}")


@agents.command()
@click.argument("name", metavar="@NAME")
@click.option("--timeout", metavar="DURATION", default="3m", show_default=True, help="How long the run may take.")
@settings_options
def test(*, name: str, timeout: str, settings: Settings, as_json: bool) -> None:
    r"""Let an agent do one tiny piece of real work, and say what works; 1 where something does not.

    It is asked to write a file into an empty folder, outside of the bus. What the run costs is yours: no cap holds it,
    nothing is reserved, and `bus costs` does not have it.

    \b
    Examples:
      bus agents test @reviewer
      bus agents test @reviewer --timeout 1m --json | jq '.checks[] | select(.good == false)'
    """
    from taskbus.cli.values import SECONDS
    from taskbus_agents import registry
    from taskbus_agents.routing import RoutingPolicy, soundness
    from taskbus_agents.trial import tried

    definition = registry.find(settings, name)
    policy = RoutingPolicy.load(settings.policy) if settings.policy else None
    found = run_async(tried, definition, timeout=SECONDS.convert(timeout, None, None))
    found = found.priced(soundness.unpriced(definition, policy))
    if as_json:
        checks = [{"name": each.name, "good": each.good, "note": each.note} for each in found.checks]
        print_json({"agent": found.agent, "good": found.good, "seconds": round(found.seconds, 3), "checks": checks})
    else:
        from taskbus.cli.rendering import visible

        for check in found.checks:
            click.echo(f"{_mark(good=check.good)}  {check.name:<8}  {visible(check.note)}")
        say(f"{found.agent} {'works' if found.good else 'does not work'} ({found.seconds:.1f} s).")
    if not found.good:
        raise click.exceptions.Exit(1)


def _mark(*, good: bool | None) -> str:
    words = {True: ("ok", "green"), False: ("failed", "red"), None: ("–", None)}
    word, colour = words[good]
    return click.style(f"{word:<6}", fg=colour)


@agents.command()
@policy_option
@settings_options
def doctor(*, settings: Settings, as_json: bool) -> None:
    r"""Look which programs of agents are installed, in which version, what is missing, and whether the policy is sound.

    Ends with 1 where an agent that is defined here lacks something, be it a price for its model, its definition has
    mistakes, or the policy does.
    Rungs of the policy whose agent is not defined here are named; another machine may have it.

    \b
    Examples:
      bus agents doctor
      bus agents doctor --policy policy.toml
      bus agents doctor --json | jq -r '.programs[] | select(.path == null) | .install'
    """
    from dataclasses import asdict, replace

    from taskbus_agents import registry
    from taskbus_agents.programs import programs
    from taskbus_agents.routing import soundness

    policy = soundness.judged(settings)
    # Without the policy where that is wrong: it only says which models short names mean.
    found = registry.read(settings if policy is None or policy.sound else replace(settings, policy=None))
    seen = {each.adapter: each for each in run_async(programs)}
    lacking = [(each.name, lack) for each in found.values() for lack in _lacks(each, seen)]
    if policy is None or policy.policy is not None:
        terms = policy.policy if policy is not None else None
        unpriced = ((each.name, soundness.unpriced(each, terms)) for each in found.values())
        lacking += [(name, lack.removesuffix(".")) for name, lack in unpriced if lack is not None]
    mistakes = [*map(str, found.mistakes), *(policy.mistakes if policy is not None else ())]
    unserved = policy.unserved(found) if policy is not None else []
    if as_json:
        print_json(
            {
                "programs": [asdict(each) | {"is_tried": each.is_tried} for each in seen.values()],
                "lacking": [{"agent": name, "what": what} for name, what in lacking],
                "mistakes": mistakes,
                "policy": None if policy is None else _judged(policy, unserved),
            }
        )
    else:
        _diagnosed(seen, found, lacking, mistakes)
        if policy is not None and policy.sound:
            _served(policy, unserved)
    if lacking or mistakes:
        raise click.exceptions.Exit(1)


def _judged(policy: Soundness, unserved: list[Rung]) -> dict[str, Any]:
    return {
        "path": str(policy.path),
        "sound": policy.sound,
        "unserved": [{"rung": rung.name, "agent": rung.agent} for rung in unserved],
    }


def _served(policy: Soundness, unserved: list[Rung]) -> None:
    from taskbus.cli.rendering import visible

    say(visible(f"The policy {policy.path} is sound."))
    for rung in unserved:
        say(visible(f"Nobody here can serve its rung {rung.name}: {rung.agent} is not defined."))


def _diagnosed(seen: dict[str, Program], found: Registry, lacking: list[tuple[str, str]], mistakes: list[str]) -> None:
    from taskbus.cli.rendering import visible
    from taskbus_projections.table import Column, table

    rows: list[dict[str, Any]] = []
    for each in seen.values():
        users = [definition.name for definition in found.values() if definition.adapter == each.adapter]
        note = each.access or "no key or login seen" if each.path else f"to install it: {each.install}"
        tried = "" if each.is_tried or not each.path else f", tried with {', '.join(each.tried) or 'none'}"
        rows.append(
            {
                "adapter": each.adapter,
                "version": f"{each.version or 'not told'}{tried}" if each.path else "–",
                "used by": str(len(users)) if users else "",
                "notes": "; ".join((*each.missing[1:], note)),
            }
        )
    names = ("adapter", "version", "used by", "notes")
    click.echo(table([Column(name, _text(name)) for name in names], rows))
    for name, what in lacking:
        say(f"{name}: {visible(what)}.")
    for mistake in mistakes:
        say(visible(mistake, lines=True))
    if found and not lacking and not mistakes:
        all_of_them = f"All {len(found)} agents that are defined have what they need."
        say(all_of_them if len(found) > 1 else "The one agent that is defined has what it needs.")


def _lacks(definition: Definition, seen: dict[str, Program]) -> list[str]:
    """What an agent lacks that is defined here."""
    import os
    import shutil

    lacks = list(seen[definition.adapter].missing) if definition.adapter in seen else []
    if definition.command and shutil.which(definition.command[0]) is None:
        lacks.append(f"{definition.command[0]} cannot be run")
    key = definition.key
    if key is not None and not (definition.environment.get(key) or os.environ.get(key)):
        lacks.append(f"{key} is not set")
    if definition.folder is not None and not definition.folder.is_dir():
        lacks.append(f"there is no folder {definition.folder}")
    return lacks
