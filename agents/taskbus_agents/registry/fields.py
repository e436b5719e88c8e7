"""The fields of a definition: how each is written, what it may be, and what is wrong with one that is not so.

The same fields stand in tables of bus.toml and in front matter. Owns their checks; every mistake of a definition is
told, not only the first. Called by the registry.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, cast

from taskbus import moment
from taskbus.lifecycle import BUS, HUMAN
from taskbus_agents.registry.front_matter import Given, Plain
from taskbus_agents.registry.mistakes import Mistake, nearest, words

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping

_AGENT: Final = re.compile(r"@?([A-Za-z0-9][A-Za-z0-9._-]{0,63})", re.ASCII)
_VARIABLE: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,127}", re.ASCII)
_URL: Final = re.compile(r"https?://[^\s/]+\S*")
_ADAPTER: Final = re.compile(r"[a-z][a-z0-9-]{0,31}")
# No text may carry what would steer a terminal, or end an argument of a program.
_CONTROL: Final = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f\ud800-\udfff]")
_TRUE: Final = ("true", "yes", "on")
_FALSE: Final = ("false", "no", "off")
_LONGEST: Final = 366 * 86_400.0
_RICHEST: Final = 1_000_000
_MILLION: Final = 1_000_000


class _Wrong(Exception):
    """A value is not what the field takes."""

    def __init__(self, expected: str, advice: str = "") -> None:
        super().__init__(expected)
        self.expected, self.advice = expected, advice


@dataclass(frozen=True, slots=True)
class Written:
    """A definition as it stands in a file: its fields by name, and where they are.

    `prefix` is what stands before a field's name where it is told of; `line` where the definition begins.
    """

    file: Path
    line: int
    given: Mapping[str, Given]
    prefix: str = ""
    name: str | None = None


@dataclass(slots=True)
class Reading:
    """What was read of one definition, and every mistake in it."""

    values: dict[str, Any] = field(default_factory=dict[str, Any])
    mistakes: list[Mistake] = field(default_factory=list[Mistake])


def read(written: Written, *, foreign: Collection[str] = ()) -> Reading:
    """Check every field; those in `foreign` are another program's, and passed over."""
    reading = Reading()
    for key, given in written.given.items():
        if key in foreign:
            continue
        if key not in FIELDS:
            known = [f"{written.prefix}{each}" for each in FIELDS]
            hint = nearest(f"{written.prefix}{key}", known) or f"Known fields: {', '.join(FIELDS)}."
            message = f"unknown key `{written.prefix}{key}`."
            reading.mistakes.append(Mistake(written.file, given.line, message, hint, written.name))
            continue
        try:
            reading.values[key] = FIELDS[key](given.value, written.file.parent)
        except _Wrong as wrong:
            # In the place of a variable's name the secret itself may stand.
            found = "something else" if key == "key" else words(given.value)
            message = f"key `{written.prefix}{key}`: found {found}, expected {wrong.expected}."
            reading.mistakes.append(Mistake(written.file, given.line, message, wrong.advice, written.name))
    return reading


def idle_command(written: Written, values: Mapping[str, Any]) -> Mistake | None:
    """The mistake of a definition that says a command which nothing would run: its adapter is a program of its own."""
    if "command" not in written.given or not values.get("command") or runs_command(values.get("adapter")):
        return None
    message = f"`{written.prefix}command` is for another adapter: with `{values['adapter']}` nothing runs it."
    known = " or ".join(f'adapter = "{each}"' for each in _commanded())
    advice = f"Leave it out, or write {known} for a program that it starts."
    return Mistake(written.file, written.given["command"].line, message, advice, written.name or values.get("name"))


def lacking(written: Written, values: Mapping[str, Any]) -> Mistake | None:
    """The mistake of a definition that does not say what its adapter, or its workspace, cannot do without."""
    adapter, workspace = values["adapter"], values.get("workspace", "own")
    if adapter in _commanded() and not values.get("command"):
        example = ["./agent.sh"] if adapter == "command" else ["gemini", "--acp"]
        key, why = "command", f"the program that {values['name']} runs"
        option, line = f"Put it at the end: -- {' '.join(example)}", f"command = {json.dumps(example)}"
    elif workspace != "own" and values.get("folder") is None:
        key, why = "folder", f"what {values['name']} works on, as its workspace is `{workspace}`"
        option, line = "Add --folder .", 'folder = "."'
    else:
        return None
    advice = f"Write {line}." if written.line else option  # what is not written yet is said on a command line
    return Mistake(written.file, written.line, f"`{written.prefix}{key}` is missing: {why}.", advice, values["name"])


def runs_command(adapter: object) -> bool:
    """Whether an adapter runs the definition's command; so does whatever none that is named will be."""
    return adapter is None or adapter in _commanded()


def _commanded() -> tuple[str, ...]:
    from taskbus_agents.adapters import COMMAND

    return (COMMAND, "acp")


def agent_name(value: object) -> str | None:
    """The name of an agent, with its sign; None for what is none."""
    found = _AGENT.fullmatch(value.strip()) if isinstance(value, str) else None
    return f"@{found[1]}" if found else None


def _name(value: object, _here: Path) -> str:
    found = agent_name(value)
    if found is None:
        raise _Wrong("the name of an agent, such as docs-writer")
    if found in (HUMAN, BUS):
        raise _Wrong("another name: people and the bus itself have this one")
    return found


def _somebody(value: object, _here: Path) -> str:
    found = agent_name(value)
    if found is None or found == BUS:
        raise _Wrong("the name of an agent, or @human")
    return found


def _line_of_text(value: object, _here: Path) -> str:
    if not isinstance(value, str) or not value.strip() or _CONTROL.search(value) or "\n" in value.strip():
        raise _Wrong("a text in one line")
    return str(value).strip()


def _text(value: object, _here: Path) -> str:
    # A field without a value is an empty text in YAML, and says nothing.
    if not isinstance(value, str) or _CONTROL.search(value):
        raise _Wrong("a text without control characters")
    return str(value).strip()


def _texts(value: object, here: Path) -> tuple[str, ...]:
    if isinstance(value, Plain | str) and not value.strip():
        return ()
    items = value.split(",") if isinstance(value, str) else value
    if not isinstance(items, list):
        raise _Wrong("a list of texts")
    return tuple(_item(each, here, "a list of texts") for each in cast("list[object]", items))


def _item(value: object, here: Path, expected: str) -> str:
    try:
        return _line_of_text(value, here)
    except _Wrong:
        raise _Wrong(expected) from None


def _command(value: object, here: Path) -> tuple[str, ...]:
    if not isinstance(value, list) or not value:
        raise _Wrong("a list of words", 'Write command = ["program", "its first argument"].')
    for each in cast("list[object]", value):
        if not isinstance(each, str) or "\0" in each:
            raise _Wrong("a list of words")
    program, *rest = (str(each).replace("{here}", str(here)) for each in cast("list[str]", value))
    if not program:
        raise _Wrong("a program first")
    if "/" in program and not Path(program).is_absolute():
        program = str(here / program)
    return (program, *rest)


def _task_types(value: object, here: Path) -> tuple[str, ...]:
    return tuple(dict.fromkeys(each.casefold() for each in _texts(value, here)))


def _choice(*known: str) -> Callable[[object, Path], str]:
    def choose(value: object, _here: Path) -> str:
        if not isinstance(value, str) or value not in known:
            raise _Wrong(f"one of {', '.join(known)}", nearest(str(value), known) if isinstance(value, str) else "")
        return str(value)

    return choose


def _folder(value: object, here: Path) -> Path:
    text = _line_of_text(value, here)
    try:
        return Path(here / Path(text).expanduser())
    except (RuntimeError, ValueError) as error:
        raise _Wrong("a folder") from error


def _environment(value: object, _here: Path) -> dict[str, str]:
    if not isinstance(value, dict):
        raise _Wrong("names of variables with their texts")
    found: dict[str, str] = {}
    for name, given in cast("dict[str, object]", value).items():
        text = given.value if isinstance(given, Given) else given
        if not _VARIABLE.fullmatch(name) or not isinstance(text, str) or "\0" in text:
            raise _Wrong("names of variables with their texts", f"`{name[:60]}` is none, or its value is no text.")
        found[name] = str(text)
    return found


def _amount(value: object, _here: Path) -> int:
    expected = f"an amount in dollars, up to {_RICHEST}, with at most six digits behind the point"
    try:
        if isinstance(value, bool) or not isinstance(value, str | int | Decimal) or len(str(value)) > 32:
            raise _Wrong(expected)
        dollars = Decimal(str(value).strip())
        micros = dollars * _MILLION
        if not dollars.is_finite() or not 0 <= dollars <= _RICHEST or micros != int(micros):
            raise _Wrong(expected)
    except (ArithmeticError, ValueError) as error:
        raise _Wrong(expected) from error
    return int(micros)


def _flag(value: object, _here: Path) -> bool:
    if isinstance(value, bool):
        return value
    word = value.casefold() if isinstance(value, Plain) else None
    if word not in (*_TRUE, *_FALSE):
        raise _Wrong("true or false")
    return word in _TRUE


def _number(least: int, most: int) -> Callable[[object, Path], int]:
    def count(value: object, _here: Path) -> int:
        given = value
        if isinstance(given, Plain) and re.fullmatch(r"\d{1,9}", given, re.ASCII):
            given = int(given)
        if isinstance(given, bool) or not isinstance(given, int) or not least <= given <= most:
            raise _Wrong(f"a whole number from {least} to {most}")
        return given

    return count


def _seconds(least: float) -> Callable[[object, Path], float]:
    def measure(value: object, _here: Path) -> float:
        expected = f'a time from {least:g}s to a year, such as "30s" or "10m"'
        seconds: object = value
        if isinstance(value, str):
            seconds = moment.duration(value.strip())
            if seconds is None and isinstance(value, Plain) and re.fullmatch(r"\d{1,9}(?:\.\d{1,3})?", value, re.ASCII):
                seconds = float(value)
        if isinstance(seconds, bool) or not isinstance(seconds, int | float | Decimal):
            raise _Wrong(expected)
        # Compared before it is a float: an integer of TOML may be greater than any.
        if not least <= seconds <= _LONGEST:
            raise _Wrong(expected)
        return float(seconds)

    return measure


def _key(value: object, here: Path) -> str:
    name = _line_of_text(value, here)
    if not _VARIABLE.fullmatch(name):
        raise _Wrong("the name of an environment variable", "The key itself belongs into that variable, not here.")
    return name


def _base_url(value: object, here: Path) -> str:
    url = _line_of_text(value, here)
    if not _URL.fullmatch(url):
        raise _Wrong("a URL that begins with http:// or https://")
    return url


def _adapter(value: object, here: Path) -> str:
    name = _line_of_text(value, here)
    known = adapters()
    if name not in known or not _ADAPTER.fullmatch(name):
        raise _Wrong(f"one of {', '.join(known)}", nearest(name, known))
    return name


def adapters() -> tuple[str, ...]:
    """The words of all adapters that there are."""
    from taskbus_agents.adapters import ADAPTERS, COMMAND

    return (*ADAPTERS, COMMAND)


FIELDS: Final[Mapping[str, Callable[[object, Path], object]]] = {
    "name": _name,
    "adapter": _adapter,
    "description": _text,
    "instructions": _text,
    "provider": _line_of_text,
    "model": _line_of_text,
    "tools": _texts,
    "task_types": _task_types,
    "command": _command,
    "permission": _choice("read", "edit", "bypass"),
    "workspace": _choice("own", "as-is", "copy", "worktree"),
    "folder": _folder,
    "base_url": _base_url,
    "key": _key,
    "home": _choice("user", "private"),
    "environment": _environment,
    "hold": _amount,
    "unpriced": _flag,
    "coordinator": _somebody,
    "concurrency": _number(1, 64),
    "attempts": _number(1, 1000),
    "lease": _seconds(0.2),
    "timeout": _seconds(0.001),
    "silence": _seconds(1.0),
    "hard_limit": _seconds(0.001),
}
"""Each field with what reads it: from what was written, and the folder of its file."""
