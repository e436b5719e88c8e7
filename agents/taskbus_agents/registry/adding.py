"""Adding a definition to bus.toml: what stands there stays as it is, comments and order included.

The new text is read before it is written, and put in the place of the old one in one step; of several that add at
once, each sees what the one before has written. Called by `bus agents add`.
"""

from __future__ import annotations

import fcntl
import os
import tempfile
import tomllib
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from taskbus import bus_file
from taskbus.errors import ConfigurationError, Conflict
from taskbus_agents.registry.fields import Written, idle_command
from taskbus_agents.registry.fields import read as read_fields
from taskbus_agents.registry.front_matter import Given
from taskbus_agents.registry.mistakes import Mistake, raised
from taskbus_agents.registry.models import Models
from taskbus_agents.registry.registry import DEFAULTS, TABLE, whole

if TYPE_CHECKING:
    from collections.abc import Generator, Mapping


def add(file: Path, name: str, fields: Mapping[str, object], *, replace: bool = False) -> None:
    """Write a definition into a bus.toml, which is made where there is none. `fields` are as they are to stand there.

    Raises Conflict where the name has a table already, unless it is to be replaced; ConfigurationError with every
    mistake in the fields, or where the file cannot be read or written; then it is as it was.
    """
    import tomlkit  # only this command needs it

    path = Path(os.path.realpath(file))
    definition = _written(path, fields, name)
    reading = read_fields(definition)
    idle = idle_command(definition, reading.values)
    if mistakes := [*reading.mistakes, *([idle] if idle is not None else [])]:
        raise raised(mistakes)
    try:
        with _alone(path):
            text = bus_file.contents(path) and path.read_bytes().decode() if path.exists() else ""
            before = bus_file.parsed(path, text, advice="Mend it first.")
            made = whole(definition, {**_defaults(path, before), **reading.values, "name": name}, Models())
            if isinstance(made, Mistake):
                raise raised([made])
            agents = before.get(TABLE, {})
            if not isinstance(agents, dict):
                raise ConfigurationError(f"{path}: `{TABLE}` is no table.", advice=f'Write [{TABLE}."{name}"].')
            keys = [key for key in cast("dict[str, object]", agents) if key.removeprefix("@") == name.removeprefix("@")]
            if keys and not replace:
                raise Conflict(f"{path} defines {name} already.", advice="--replace puts the new one in its place.")
            document = cast("Any", tomlkit.parse(text))
            _put(document, keys[0] if keys else name, fields)
            written = tomlkit.dumps(document)
            _check(path, written, before, keys[0] if keys else name)
            _write(path, written)
    except OSError as error:
        raise ConfigurationError(f"{path} cannot be written: {error.strerror or error}.", advice="Check it.") from error


def _written(path: Path, fields: Mapping[str, object], name: str | None = None) -> Written:
    return Written(path, 0, {key: Given(value, 0) for key, value in fields.items()}, name=name)


def _defaults(path: Path, before: Mapping[str, object]) -> dict[str, Any]:
    """What the file says for all, as far as it is right."""
    table = before.get(DEFAULTS)
    return read_fields(_written(path, cast("dict[str, object]", table))).values if isinstance(table, dict) else {}


def _put(document: Any, key: str, fields: Mapping[str, object]) -> None:
    import tomlkit

    table = tomlkit.table()
    for name, value in fields.items():
        table.add(name, value)
    if TABLE not in document:
        agents = tomlkit.table(is_super_table=True)
        agents.add(key, table)
        document.add(TABLE, agents)
    else:
        document[TABLE][key] = table


def _check(path: Path, written: str, before: Mapping[str, object], key: str) -> None:
    """Whether nothing but this definition is other than it was: the file is the user's."""
    after = tomllib.loads(written)
    agents = cast("dict[str, object]", after.get(TABLE, {}))
    others = {name: table for name, table in agents.items() if name != key}
    known = cast("dict[str, object]", before.get(TABLE, {}))
    same = others == {name: table for name, table in known.items() if name != key}
    if not same or {**after, TABLE: None} != {**before, TABLE: None} or key not in agents:
        raise ConfigurationError(f"{path} is written in a way that cannot be added to.", advice="Add it by hand.")


@contextmanager
def _alone(path: Path) -> Generator[None]:
    """Nobody else adds to the file meanwhile."""
    path.parent.mkdir(parents=True, exist_ok=True)
    # Its folder, not the file itself: that is replaced, and who waits for it would wait for the old one.
    lock = os.open(path.parent, os.O_RDONLY | os.O_CLOEXEC)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
    finally:
        os.close(lock)


def _write(path: Path, text: str) -> None:
    mode = path.stat().st_mode & 0o777 if path.exists() else 0o644
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=".bus.toml.")
    try:
        with os.fdopen(handle, "w", encoding="utf-8", newline="") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        Path(name).chmod(mode)
        Path(name).replace(path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise
