"""Folders of Markdown files, one agent each: front matter with its fields, and its instructions below.

Finds the files, however deep they lie, without following links to folders; reads what is a file of a sane size in
UTF-8, and tells every mistake of every file. Called by the registry.
"""

from __future__ import annotations

import os
import re
import stat
from pathlib import Path
from typing import TYPE_CHECKING, Final

from taskbus_agents.registry.fields import Written, agent_name
from taskbus_agents.registry.front_matter import Given, Malformed, read
from taskbus_agents.registry.mistakes import Mistake

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

LARGEST: Final = 1_048_576
"""The most bytes of a file."""
MOST: Final = 5_000
"""The most files of a folder."""
FOREIGN: Final = frozenset(
    {
        *("color", "permissionMode", "disallowedTools", "maxTurns", "skills", "mcpServers", "hooks", "memory"),
        *("background", "effort", "isolation", "initialPrompt"),
    }
)
"""Fields that such files have for the agents' own programs."""
_NAME: Final = re.compile(r"^name:[ \t]*[\"']?([^\s\"'#]+)", re.MULTILINE)


def definitions(folders: Iterable[tuple[Path, Mistake]]) -> Iterator[Written | Mistake]:
    """What stands in the files of some folders, each file once; `Mistake` is what to say where there is no folder."""
    seen: set[Path] = set()
    for folder, missing in folders:
        if not folder.is_dir():
            yield missing
            continue
        files = _files(folder)
        if len(files) > MOST:
            yield Mistake(missing.file, missing.line, f"{folder} holds more than {MOST} Markdown files.")
            continue
        for file in files:
            real = Path(os.path.realpath(file))
            if real not in seen:
                seen.add(real)
                found = _definition(file)
                if found is not None:
                    yield found


def _files(folder: Path) -> list[Path]:
    """The Markdown files below a folder, in order of their paths."""
    found: list[Path] = []
    for place, folders, names in os.walk(folder):
        folders[:] = sorted(each for each in folders if not each.startswith("."))
        found += [Path(place, name) for name in names if name.lower().endswith(".md") and not name.startswith(".")]
        if len(found) > MOST:
            break
    return sorted(found)


def _definition(file: Path) -> Written | Mistake | None:
    """What stands in a file; None for a README, which tells of the folder."""
    text = ""
    try:
        text = _text(file)
        fields, instructions = read(text)
    except Malformed as error:
        if file.stem.casefold() == "readme" and error.message.startswith("there is no front matter"):
            return None
        return Mistake(file, error.line, error.message, error.advice, _meant(file, text))
    line = fields["name"].line if "name" in fields else 1
    name = agent_name(fields["name"].value) if "name" in fields else None
    if name is None and "name" not in fields:
        known = "Add a line name: docs-writer to the front matter."
        return Mistake(file, 1, "the field `name` is missing.", known, _meant(file))
    if instructions and "instructions" not in fields:
        below = text.count("\n", 0, max(text.rfind(instructions.partition("\n")[0]), 0)) + 1
        fields["instructions"] = Given(instructions, below)
    return Written(file, line, fields, name=name)


def _meant(file: Path, text: str = "") -> str | None:
    """Whose definition a file would be that cannot be read: by a line with a name, else by its own name."""
    found = _NAME.search(text)
    return agent_name(found[1] if found is not None else file.stem)


def _text(file: Path) -> str:
    """What stands in a file. Raises Malformed."""
    try:
        mode = file.stat()
        if not stat.S_ISREG(mode.st_mode):
            raise Malformed(1, "this is no file.", "Move it out of the folder of definitions.")
        if mode.st_size > LARGEST:
            raise Malformed(1, f"it has {mode.st_size} bytes, more than {LARGEST}.", "Instructions are shorter.")
        data = file.read_bytes()
    except OSError as error:
        why = error.strerror or str(error)
        raise Malformed(1, f"it cannot be read: {why}.", "Make it readable, or move it away.") from error
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise Malformed(line, "it is not UTF-8 text.", "Save the file as UTF-8.") from error
