"""Definitions by name: put together from every place, checked against each other, and found.

A definition in bus.toml is a table `[agents."@name"]`; `agent_folders` names folders of Markdown files, and
`[agent_defaults]` has the fields of whoever does not say. Called through the package.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, cast

from taskbus.errors import NotFound
from taskbus_agents.definition import Definition
from taskbus_agents.registry import markdown
from taskbus_agents.registry.fields import Written, adapters, agent_name, idle_command, lacking, runs_command
from taskbus_agents.registry.fields import read as read_fields
from taskbus_agents.registry.front_matter import Given
from taskbus_agents.registry.mistakes import Mistake, nearest, raised, words
from taskbus_agents.registry.models import Models
from taskbus_projections.policy_file import PolicyFile

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from taskbus.settings import Settings

TABLE: Final = "agents"
DEFAULTS: Final = "agent_defaults"
FOLDERS: Final = "agent_folders"
USUAL: Final = "claude"
"""The adapter of a Markdown file that names none: such files come from there."""


class Registry(Mapping[str, Definition]):
    """The definitions by name, with the sign, in order of their names; `mistakes` is what could not be used, `common`
    those of them that spoil every definition: what is said for all is wrong.
    """

    def __init__(
        self, found: Mapping[str, Definition], mistakes: Sequence[Mistake] = (), common: Sequence[Mistake] = ()
    ) -> None:
        self._found = dict(sorted(found.items()))
        self.mistakes = tuple(mistakes)
        self.common = tuple(common)

    def __getitem__(self, name: str) -> Definition:
        """The definition of a name that is written with its sign."""
        return self._found[name]

    def __iter__(self) -> Iterator[str]:
        """The names, in order."""
        return iter(self._found)

    def __len__(self) -> int:
        """How many there are."""
        return len(self._found)

    def find(self, name: str) -> Definition:
        """The definition of an agent, named with or without the sign.

        Raises ConfigurationError where it, or what is said for all, has mistakes; NotFound where there is none.
        """
        if self.common:
            raise raised(self.common)
        wanted = agent_name(name) or name
        if wanted in self._found:
            return self._found[wanted]
        spoiled = [mistake for mistake in self.mistakes if mistake.name == wanted]
        if spoiled:
            raise raised(spoiled)
        hint = nearest(wanted, tuple(self._found)) or "`bus agents list` shows those that are."
        unread = f" {len(self.mistakes)} definitions have mistakes: `bus agents list`." if self.mistakes else ""
        advice = f"{hint} `bus agents add {wanted}` defines it.{unread}"
        raise NotFound(f"There is no definition of {wanted}.", advice=advice)


def find(settings: Settings, name: str) -> Definition:
    """One definition; mistakes in those of others do not matter. Raises as `Registry.find`."""
    return read(settings).find(name)


def read(settings: Settings) -> Registry:
    """The definitions that are good, and every mistake in the others.

    Raises ConfigurationError where bus.toml or the policy itself cannot be read.
    """
    models = Models.load(settings.policy)
    found: dict[str, Definition] = {}
    places: dict[str, Written] = {}
    if settings.file is None:
        return Registry(found)
    toml = PolicyFile(settings.file)
    defaults, common = _defaults(toml)
    mistakes = [*common]
    for written in _all(toml, mistakes):
        reading = read_fields(written, foreign=() if written.prefix else markdown.FOREIGN)
        mistakes += reading.mistakes
        name = written.name or reading.values.get("name")
        if name is None:
            continue
        if (first := places.setdefault(name, written)) is not written:
            message = f"{name} is defined twice, first in {first.file}, line {first.line}."
            mistakes.append(Mistake(written.file, written.line, message, "Give one of them another name.", name))
            found.pop(name, None)
            continue
        made = whole(written, {**defaults, **reading.values, "name": name}, models)
        if isinstance(made, Mistake):
            mistakes.append(made)
        elif not reading.mistakes:
            found[name] = made
    return Registry(found, mistakes, common)


def _defaults(toml: PolicyFile) -> tuple[dict[str, Any], list[Mistake]]:
    """What is said for all, and every mistake in it."""
    given = _fields(toml, DEFAULTS)
    own = {key: given.pop(key) for key in ("name", "instructions") if key in given}
    mistakes = [
        Mistake(toml.path, each.line, f"`{DEFAULTS}.{key}` cannot be the same for all.") for key, each in own.items()
    ]
    written = Written(toml.path, toml.line((DEFAULTS,)), given, f"{DEFAULTS}.")
    reading = read_fields(written)
    mistakes += reading.mistakes
    if (idle := idle_command(written, reading.values)) is not None:
        mistakes.append(idle)
    return reading.values, mistakes


def _all(toml: PolicyFile, mistakes: list[Mistake]) -> Iterator[Written]:
    """Every definition as it is written."""
    yield from _tables(toml, mistakes)
    for each in markdown.definitions(_folders(toml, mistakes)):
        if isinstance(each, Mistake):
            mistakes.append(each)
        else:
            yield each


def _tables(toml: PolicyFile, mistakes: list[Mistake]) -> Iterator[Written]:
    for key, table in toml.table(TABLE).items():
        line, name = toml.line((TABLE, key)), agent_name(key)
        prefix = f'{TABLE}."{key}".' if key.startswith("@") else f"{TABLE}.{key}."
        if not isinstance(table, dict):
            message = f"`{prefix[:-1]}`: found {words(table)}, expected a table."
            mistakes.append(Mistake(toml.path, line, message, f'Write [{TABLE}."@kilo"], and its fields below.', name))
        elif name is None:
            message = f"{words(key)} is no name of an agent."
            mistakes.append(Mistake(toml.path, line, message, "Use letters, digits, and . _ - within."))
        else:
            yield Written(toml.path, line, _fields(toml, TABLE, key), prefix, name)


def _fields(toml: PolicyFile, *keys: str) -> dict[str, Given]:
    return {key: Given(value, toml.line((*keys, key))) for key, value in toml.table(*keys).items()}


def _folders(toml: PolicyFile, mistakes: list[Mistake]) -> Iterator[tuple[Path, Mistake]]:
    value = toml.document.get(FOLDERS, cast("list[object]", []))
    line = toml.line((FOLDERS,))
    listed: list[object] = cast("list[object]", value) if isinstance(value, list) else [None]
    if not all(isinstance(each, str) and each for each in listed):
        message = f"key `{FOLDERS}`: found {words(cast('object', value))}, expected a list of folders."
        mistakes.append(Mistake(toml.path, line, message, f'Write {FOLDERS} = ["agents"].'))
        return
    for each in cast("list[str]", listed):
        folder = toml.path.parent / Path(each).expanduser()
        missing = f"key `{FOLDERS}`: there is no folder {folder}."
        yield folder, Mistake(toml.path, line, missing, "Make it, or leave it out.")


def whole(written: Written, values: dict[str, Any], models: Models) -> Definition | Mistake:
    """A whole definition of checked fields, or what it lacks."""
    name = str(values["name"])
    if "adapter" not in values:
        values["adapter"] = _usual(written, values)
    if values["adapter"] is None:
        message = f"`{written.prefix}adapter` is missing: it is not said which program {name} is."
        return Mistake(written.file, written.line, message, f"One of {', '.join(adapters())}.", name)
    if (mistake := lacking(written, values) or idle_command(written, values)) is not None:
        return mistake
    if not runs_command(values["adapter"]):
        values.pop("command", None)  # that of the defaults is for those that run one
    if model := values.pop("model", None):
        provider, values["model"] = models.meant(model)
        if provider is not None and "provider" not in written.given:
            values["provider"] = provider
    for key in ("provider", "coordinator"):
        values[key] = values.get(key) or None
    return Definition(**values, place=f"{written.file}, line {written.line}")


def _usual(written: Written, values: Mapping[str, Any]) -> str | None:
    """The adapter of a definition that names none, where it can be meant."""
    if values.get("command"):
        return "command"
    short = str(values["name"]).removeprefix("@")
    if short in adapters():
        return short
    # Where it is wrong, that is told already.
    return None if written.prefix and "adapter" not in written.given else USUAL
