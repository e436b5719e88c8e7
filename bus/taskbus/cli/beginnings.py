"""Beginnings: the task that is meant where only the beginning of its ID was given, as boards show it.

Asks the server, where every task is known at once, and gives up before that takes long. Called by the verbs, and by
the commands that read the log.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final, cast

from taskbus.errors import NotFound, UsageError

if TYPE_CHECKING:
    from taskbus.client import Bus
    from taskbus.lifecycle import Task

_LEAST: Final = 4
"""Of fewer characters, a slip of the hand could name somebody else's task."""
_STEP: Final = 2000
_STEPS: Final = 500
_SHOWN: Final = 10
_PATTERN: Final = re.compile(r"([\\*?\[\]^])")


async def task_of(bus: Bus, text: str) -> tuple[str, Task]:
    """The ID and the record of the task that is called `text`, or the only one whose ID begins so.

    Raises NotFound, and UsageError where several begin so.
    """
    try:
        return text, await bus.task(text)
    except NotFound:
        name = await _only(bus, text)
        if name is None:
            raise
    return name, await bus.task(name)


async def _only(bus: Bus, text: str) -> str | None:
    """The only task whose ID begins so; None without one, and where there is too much to look through."""
    if len(text) < _LEAST:
        return None
    pattern = "task:" + _PATTERN.sub(r"\\\1", text) + "*"
    found: set[str] = set()
    cursor = b"0"
    for _ in range(_STEPS):
        reply = await bus.connection.execute("HSCAN", bus.keys.index, cursor, "MATCH", pattern, "COUNT", _STEP)
        cursor, fields = cast("tuple[bytes, list[bytes]]", reply)
        found.update(name.decode().removeprefix("task:") for name in fields[::2])
        if cursor == b"0" or len(found) > _SHOWN:
            break
    else:
        return None
    if len(found) > 1:
        rest = ", and more" if len(found) > _SHOWN else ""
        names = ", ".join(sorted(found)[:_SHOWN])
        raise UsageError(f"Several tasks have an ID that begins with {text}: {names}{rest}.", advice="Give more of it.")
    return found.pop() if found else None
