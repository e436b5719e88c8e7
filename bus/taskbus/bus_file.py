"""The file bus.toml: found upward from a folder, and read with the line of each setting.

Refuses unknown keys and values of the wrong kind, naming file, line and key; what a setting may hold is judged by
`taskbus.settings`, which calls it. The table [supervision] is checked here, for its fields are times and one name.
"""

from __future__ import annotations

import difflib
import re
import tomllib
from typing import TYPE_CHECKING, Final, TypeAlias, cast

from taskbus import moment
from taskbus.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Callable, Collection
    from pathlib import Path

    Fields: TypeAlias = "dict[str, float | str]"

NAME: Final = "bus.toml"
TIMES: Final = ("acknowledge", "lost", "silent", "stale", "interval")
"""The fields of Supervision that are times."""
PASSED: Final = ("agents", "agent_defaults", "agent_folders")
"""Keys that are let through as they are: what defines agents is read, and checked, by whoever runs agents."""
_LEAD: Final = "lead"
_TABLE: Final = "supervision"
_LONGEST: Final = 366 * 86400
_AGENT = re.compile(r"@?([A-Za-z0-9][A-Za-z0-9._-]{0,63})", re.ASCII)
_TOML_PLACE = re.compile(r"\s*\(at (?:line (?P<line>\d+), column \d+|end of document)\)$")


def find(start: Path) -> Path | None:
    """The file in a folder, or in the nearest one above it that has one."""
    start = start.absolute()
    return next((path for folder in (start, *start.parents) if (path := folder / NAME).is_file()), None)


def read(file: Path, known: Collection[str]) -> tuple[dict[str, tuple[str, int]], Fields]:
    """Each setting of the file with its value and line, and the fields of its supervision, times in seconds.

    `known` are the settings that there are. Raises ConfigurationError.
    """
    text = contents(file)
    document = parsed(file, text, advice='Write each setting as key = "value", in quotes.')
    fields = _fields(file, text, document.pop(_TABLE, {}))
    values: dict[str, tuple[str, int]] = {}
    for key, value in document.items():
        if key in PASSED:
            continue
        line = _line_of(text, key)
        if key not in known:
            raise _unknown(file, line, key, (*known, _TABLE, *PASSED))
        if not isinstance(value, str) or not value.strip():
            kind = "an empty text" if isinstance(value, str) else f"a {type(value).__name__}"
            message = f"{file}, line {line}, key `{key}`: found {kind}, expected a text."
            raise ConfigurationError(message, advice=f'Write {key} = "value", or leave the line out.')
        values[key] = (value.strip(), line)
    return values, fields


def contents(file: Path) -> str:
    """The text of a file of settings. Raises ConfigurationError."""
    try:
        return file.read_text(encoding="utf-8")
    except FileNotFoundError as error:
        raise ConfigurationError(f"There is no file {file}.", advice="Check the path.") from error
    except OSError as error:
        message = f"{file} cannot be read: {error.strerror or error}."
        raise ConfigurationError(message, advice="Make the file readable, or move it away.") from error
    except UnicodeDecodeError as error:
        raise ConfigurationError(f"{file} is not UTF-8 text.", advice="Save the file as UTF-8.") from error


def parsed(file: Path, text: str, *, advice: str, number: Callable[[str], object] = float) -> dict[str, object]:
    """The text as TOML, `number` making what is no whole number. Raises ConfigurationError with line and advice."""
    try:
        return cast("dict[str, object]", tomllib.loads(text, parse_float=number))
    except (ValueError, RecursionError) as error:
        # Besides what tomllib refuses itself: a number with thousands of digits, and arrays nested as deep.
        found = _TOML_PLACE.search(str(error))
        line = int(found["line"]) if found and found["line"] else text.count("\n") + 1
        key = _key_of(text, line)
        message = f"{file}, line {line}{f', key `{key}`' if key else ''}: {_TOML_PLACE.sub('', str(error))}."
        raise ConfigurationError(message, advice=advice) from error


def _fields(file: Path, text: str, table: object) -> Fields:
    first = _line_of(text, _TABLE)
    if not isinstance(table, dict):
        message = f"{file}, line {first}, key `{_TABLE}`: found a {type(table).__name__}, expected a table."
        raise ConfigurationError(message, advice=f'Write [{_TABLE}], and below it lines like silent = "5m".')
    fields: Fields = {}
    for key, value in cast("dict[str, object]", table).items():
        line = _line_of(text, key, after=first)
        if key not in (*TIMES, _LEAD):
            raise _unknown(file, line, f"{_TABLE}.{key}", [f"{_TABLE}.{each}" for each in (*TIMES, _LEAD)])
        found = _name(value) if key == _LEAD else _seconds(value)
        if found is None:
            kind, example = ("agent's name", '"@kilo"') if key == _LEAD else ("time up to a year", '"15m"')
            message = f"{file}, line {line}, key `{_TABLE}.{key}`: {_shown(value)} is no {kind}."
            raise ConfigurationError(message, advice=f"Write {key} = {example}, or leave the line out.")
        fields[key] = found
    return fields


def _name(value: object) -> str | None:
    found = _AGENT.fullmatch(value.strip()) if isinstance(value, str) else None
    return f"@{found[1]}" if found else None


def _seconds(value: object) -> float | None:
    """A time as it may be written, "15m" or a number of seconds; None for what is none, or none to wait for."""
    if isinstance(value, str):
        seconds = moment.duration(value.strip())
    else:
        seconds = value if isinstance(value, int | float) and not isinstance(value, bool) else None
    # Compared before it is a float: an integer of TOML may be greater than any.
    return float(seconds) if seconds is not None and 0.001 <= seconds <= _LONGEST else None


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:60]}…"


def _unknown(file: Path, line: int, key: str, known: Collection[str]) -> ConfigurationError:
    near = difflib.get_close_matches(key, known, n=1)
    hint = f"Did you mean `{near[0]}`? " if near else ""
    message = f"{file}, line {line}: unknown key `{key}`."
    return ConfigurationError(message, advice=f"{hint}Known keys: {', '.join(known)}.")


def _line_of(text: str, key: str, *, after: int = 1) -> int:
    """The line in which a key is given, from a line on; that line where it is not seen."""
    start = sum(len(line) for line in text.splitlines(keepends=True)[: after - 1])
    begins = rf"""^\s*\[*\s*["']?{re.escape(key)}["']?\s*[.=\]]"""
    # In a table that stands on one line, or whose name is before each key, the key does not begin the line.
    within = rf"""^.*?[\s.{{,]["']?{re.escape(key)}["']?\s*="""
    for form in (begins, within):
        if found := re.compile(form, re.MULTILINE).search(text, start):
            return text.count("\n", 0, found.end()) + 1
    return after


def _key_of(text: str, line: int) -> str | None:
    lines = text.splitlines()
    found = re.match(r"\s*([A-Za-z0-9_-]+)\s*=", lines[line - 1]) if 0 < line <= len(lines) else None
    return found[1] if found else None
