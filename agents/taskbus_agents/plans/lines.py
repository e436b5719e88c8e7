"""The lines of a TOML document: in which one a table or a key stands, for errors that name it.

Enough for tables and keys that begin a line, as nearly all do; others get the line of what is around them. Pure;
called by the reader of the TOML form.
"""

from __future__ import annotations

import re
import tomllib
from typing import Final, TypeAlias, cast

Keys: TypeAlias = tuple[str, ...]

_PART: Final = r"""(?:[A-Za-z0-9_-]+|"(?:[^"\\]|\\.)*"|'[^']*')"""
_KEY: Final = rf"{_PART}(?:[ \t]*\.[ \t]*{_PART})*"
_HEADER: Final = re.compile(rf"[ \t]*\[[ \t]*({_KEY})[ \t]*\]")
_VALUE: Final = re.compile(rf"[ \t]*({_KEY})[ \t]*=")
_BARE: Final = re.compile(r"[A-Za-z0-9_.-]+")


class Lines:
    """Where each key of a text stands."""

    def __init__(self, text: str) -> None:
        self._found: dict[Keys, int] = {}
        within: Keys = ()
        for number, line in enumerate(text.splitlines(), start=1):
            if header := _HEADER.match(line):
                within = _keys(header[1])
                self._found.setdefault(within, number)
            elif value := _VALUE.match(line):
                keys = (*within, *_keys(value[1]))
                for depth in range(1, len(keys) + 1):
                    self._found.setdefault(keys[:depth], number)

    def of(self, *keys: str) -> int:
        """The line of a key, or of what is around it."""
        while keys and keys not in self._found:
            keys = keys[:-1]
        return self._found.get(keys, 1)


def _keys(written: str) -> Keys:
    if _BARE.fullmatch(written):
        return tuple(written.split("."))
    try:
        table: object = tomllib.loads(f"{written} = 0")
    except tomllib.TOMLDecodeError:
        # Within a text of several lines anything may look like a key.
        return ()
    found: list[str] = []
    while isinstance(table, dict):
        ((key, table),) = cast("dict[str, object]", table).items()
        found.append(key)
    return tuple(found)
