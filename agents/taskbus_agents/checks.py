"""The checks: acceptance criteria that can be run, and what running them shows.

A criterion is one by how it begins: `$ command` or `check: command`, `file: path`, `changed: path`,
`schema: path schema`, `says: words`. Every other one is a text that nobody but a reviewer can judge, and is never
taken for met. Called by handlers, when the agent has ended.
"""

from __future__ import annotations

import json
import re
import shlex
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Final, Literal, NoReturn, TypeAlias, cast

import anyio.to_thread

from taskbus.errors import Retryable
from taskbus.findings import printable
from taskbus_agents.outcome import last_lines

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from taskbus_agents.runner import Ended, Runner
    from taskbus_agents.workspace import Changes

Form: TypeAlias = Literal["command", "file", "changed", "schema", "says", "text"]
Met: TypeAlias = Literal["met", "not-met", "not-run"]

LONGEST: Final = 600.0
"""Seconds that a check command may run."""
ANY: Final = "*"
"""`says: *`: any answer will do, since the answer is what was asked for."""
MOST_OUTPUT: Final = 64 << 20
_SHOWN: Final = 300
_DOCUMENT: Final = 16 << 20
_FORMS: Final[Mapping[str, Form]] = {
    "$": "command",
    "check:": "command",
    "file:": "file",
    "changed:": "changed",
    "schema:": "schema",
    "says:": "says",
}
_INTERPRETERS: Final = re.compile(r"(?:.*/)?(?:(?:ba|da|z|k|a)?sh|python[0-9.]*|node|ruby|perl|deno|bun)")
_OPERATORS: Final = frozenset({"&&", "||", ";", "|", "&", "!", "(", "{", "then", "do", "if", "time", "exec", "env"})


@dataclass(frozen=True, slots=True)
class Checked:
    """One criterion, whether it is met, and what shows it."""

    criterion: str
    met: Met
    evidence: str

    def __str__(self) -> str:
        words = {"met": "met", "not-met": "NOT MET", "not-run": "not checked"}
        return f"{printable(self.criterion, _SHOWN)}: {words[self.met]}. {self.evidence}"


@dataclass(frozen=True, slots=True)
class Seen:
    """What checks look at: the folder, what has changed in it, and the agent's answer."""

    folder: Path
    changes: Changes
    answer: str = ""


@dataclass(frozen=True, slots=True)
class Checks:
    """How criteria are run: with which environment, for how many seconds at most; `commands`: whether at all."""

    runner: Runner
    environment: Mapping[str, str]
    timeout: float = LONGEST
    commands: bool = True

    async def run(self, criteria: Sequence[str], seen: Seen) -> list[Checked]:
        """Run those that can be run, in their order. Raises Retryable where the system has no room for a command."""
        return [await self._checked(each, seen) for each in criteria]

    async def _checked(self, criterion: str, seen: Seen) -> Checked:
        form, words = parsed(criterion)
        if form == "text":
            return Checked(criterion, "not-run", "It is a text, which only a reviewer can judge.")
        if form != "command":
            met, evidence = await anyio.to_thread.run_sync(partial(_LOOKS[form], words, seen))
            return Checked(criterion, "met" if met else "not-met", evidence)
        if not self.commands:
            return Checked(criterion, "not-run", "The policy allows no commands of a delegation.")
        if changed := _changed_program(words, seen):
            return Checked(criterion, "not-met", f"The run has changed the check itself: {printable(changed, _SHOWN)}.")
        return await self._commanded(criterion, words, seen)

    async def _commanded(self, criterion: str, command: str, seen: Seen) -> Checked:
        try:
            ended = await self.runner.run(
                ("sh", "-c", command),
                cwd=seen.folder,
                env=self.environment,
                timeout=self.timeout,
                silence=None,
                output=MOST_OUTPUT,
            )
        except Retryable:
            raise
        except (OSError, ValueError) as error:  # a NUL in the command, or the folder is gone
            return Checked(criterion, "not-met", f"It could not be started: {printable(str(error), _SHOWN)}.")
        return Checked(criterion, "met" if ended.code == 0 and ended.cut is None else "not-met", _told(ended))


def parsed(criterion: str) -> tuple[Form, str]:
    """What kind of criterion it is, and what it is about."""
    text = criterion.strip()
    for sign, form in _FORMS.items():
        # A sign is followed by a space: a price such as $20 is no command.
        if text.startswith(f"{sign} ") or (sign != "$" and text.startswith(sign)):
            words = text[len(sign) :].strip()
            return (form, words) if words else ("text", text)
    return "text", text


def is_runnable(criterion: str) -> bool:
    """Whether a criterion can be run."""
    return parsed(criterion)[0] != "text"


def within(folder: Path, path: str) -> Path | None:
    """The file of this path in a folder; None for one that is elsewhere, whatever links lead to it."""
    try:
        place = (folder / path).resolve()
        return place if place.is_relative_to(folder.resolve()) else None
    except (OSError, ValueError, RuntimeError):  # a loop of links, a NUL
        return None


def relative(folder: Path, path: str) -> str:
    """A path as snapshots name it: from the folder on, without detours."""
    place = Path(path)
    if not place.is_absolute():
        place = folder / place
    for root in (folder, folder.resolve()):
        # Not resolved, since a link is a file of its own here.
        normal = Path(_normal(str(place)))
        if normal.is_relative_to(root):
            return str(normal.relative_to(root))
    return path


def _normal(path: str) -> str:
    from os.path import normpath

    return normpath(path)


def _told(ended: Ended) -> str:
    if ended.cut == "timeout":
        said = f"It was not done after {ended.seconds:.0f} s, and was ended."
    elif ended.cut is not None:
        said = f"It printed more than {MOST_OUTPUT >> 20} MiB, and was ended."
    elif ended.code < 0:
        said = f"It was killed by signal {-ended.code}."
    else:
        said = f"Exit code {ended.code} after {ended.seconds:.1f} s."
    printed = last_lines(ended.stdout[-4096:]) or last_lines(ended.stderr)
    return f"{said} {printable(printed.replace(chr(10), ' / '), _SHOWN)}" if printed else said


def _changed_program(command: str, seen: Seen) -> str | None:
    """The program or script of a command, where it stood there before and the run has changed it.

    What it is run on (tests, for example) may well be what was to be changed.
    """
    try:
        words = shlex.split(command, comments=True)
    except ValueError:
        words = command.split()
    begins = True
    for word in words:
        bare = word.rstrip(";")
        if begins and not word.startswith("-") and "=" not in word and word not in _OPERATORS:
            change = seen.changes.of(relative(seen.folder, bare))
            if change is not None and change.kind == "changed":
                return bare
            begins = _INTERPRETERS.fullmatch(bare) is not None
        begins = begins or word in _OPERATORS or word.endswith(";")
    return None


def _file(path: str, seen: Seen) -> tuple[bool, str]:
    place = within(seen.folder, path)
    if place is None:
        return False, "It is not in the working folder."
    if not place.is_file():
        return False, "There is no such file." if not place.exists() else "It is no file."
    size = place.stat().st_size
    if not size:
        return False, "It is empty."
    change = seen.changes.of(relative(seen.folder, path))
    digest = f", SHA-256 {change.sha256}" if change is not None and change.sha256 else ""
    return True, f"{size} bytes{digest}; {change.kind if change is not None else 'as it was'} by this run."


def _changed(path: str, seen: Seen) -> tuple[bool, str]:
    name = relative(seen.folder, path)
    found = [
        each for each in seen.changes.shown if each.path == name or each.path.startswith(f"{name}/") or name == "."
    ]
    if not found:
        return False, "This run has changed nothing there."
    more = f", and {len(found) - 1} more" if len(found) > 1 else ""
    return True, f"{printable(found[0].path, _SHOWN)}: {found[0]}{more}."


def _schema(words: str, seen: Seen) -> tuple[bool, str]:
    path, _, schema = words.partition(" ")
    document = _read(seen, path)
    if isinstance(document, str):
        return False, f"{printable(path, _SHOWN)}: {document}"
    schema = schema.strip()
    if not schema:
        return False, "The criterion names no schema."
    if schema.startswith("{"):
        try:
            wanted: object = json.loads(schema)
        except (ValueError, RecursionError) as error:
            return False, f"The schema is no JSON: {printable(str(error), _SHOWN)}."
    else:
        if seen.changes.of(relative(seen.folder, schema)) is not None:
            return False, f"The run has changed the schema itself: {printable(schema, _SHOWN)}."
        found = _read(seen, schema)
        if isinstance(found, str):
            return False, f"The schema {printable(schema, _SHOWN)}: {found}"
        (wanted,) = found
    return _validated(document[0], wanted)


def _validated(document: object, schema: object) -> tuple[bool, str]:
    import jsonschema_rs  # for this criterion alone

    try:
        # Nothing is fetched: a schema that refers to another one has to bring it along.
        validator = jsonschema_rs.validator_for(cast("dict[str, object]", schema), retriever=_never)
        errors = [
            f"{'/'.join(map(str, each.instance_path)) or '.'}: {each.message}"
            for each in validator.iter_errors(document)
        ]
    except (ValueError, jsonschema_rs.ValidationError, jsonschema_rs.ReferencingError) as error:
        return False, f"The schema cannot be used: {printable(str(error), _SHOWN)}."
    if errors:
        more = f" ({len(errors)} mistakes)" if len(errors) > 1 else ""
        return False, f"{printable(errors[0], _SHOWN)}{more}."
    return True, "It fits the schema."


def _never(uri: str) -> NoReturn:
    raise ValueError(f"a schema is not fetched: {uri}")


def _read(seen: Seen, path: str) -> tuple[object] | str:
    """The JSON document in a file; else why there is none."""
    place = within(seen.folder, path)
    if place is None or not place.is_file():
        return "there is no such file in the working folder."
    if place.stat().st_size > _DOCUMENT:
        return f"it is larger than {_DOCUMENT >> 20} MiB."
    try:
        return (json.loads(place.read_bytes()),)
    except (OSError, ValueError, RecursionError) as error:
        return f"it is no JSON that can be read: {printable(str(error), _SHOWN)}."


def _says(words: str, seen: Seen) -> tuple[bool, str]:
    # Words and no regular expression: a hostile one would never come to an end.
    answer, wanted = (" ".join(text.casefold().split()) for text in (seen.answer, words))
    if not answer:
        return False, "The agent has said nothing."
    if wanted != ANY and wanted not in answer:
        return False, "The answer does not say so."
    return True, f"Its answer has {len(seen.answer)} characters."


_LOOKS: Final = {"file": _file, "changed": _changed, "schema": _schema, "says": _says}
