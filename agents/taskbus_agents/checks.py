"""The checks: acceptance criteria that can be run, and what running them shows.

A criterion is one by how it begins: `$ command` or `check: command`, `file: path`, `changed: path`,
`schema: path schema`, `says: words`. Every other one is a text that nobody but a reviewer can judge, and is never
taken for met. Called by handlers, when the agent has ended.
"""

from __future__ import annotations

import json
import re
import shlex
import sys
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Final, Literal, TypeAlias

import anyio.to_thread

from taskbus.errors import Retryable
from taskbus.findings import printable
from taskbus_agents import fitting
from taskbus_agents.masking import Mask
from taskbus_agents.outcome import last_lines

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

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
_INTERPRETERS: Final = re.compile(
    r"(?:.*/)?(?:(?:ba|da|z|k|a)?sh|python[0-9.]*|node|ruby|perl|deno|bun|\.|source|timeout|nice|nohup|sudo|command)"
)
_OPERATORS: Final = frozenset({"!", "{", "}", "then", "do", "if", "else", "while", "time", "exec", "env"})


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
    """How criteria are run: with which environment, each for how many seconds at most; `commands`: whether at all.

    `until` is when all of them must be done, on anyio's clock. `mask` is laid over what they show.
    """

    runner: Runner
    environment: Mapping[str, str]
    timeout: float = LONGEST
    commands: bool = True
    until: float | None = None
    mask: Mask = field(default_factory=Mask)

    async def run(self, criteria: Sequence[str], seen: Seen) -> list[Checked]:
        """Run those that can be run, in their order. Raises Retryable where the system has no room for a command."""
        found = [await self._checked(each, seen) for each in criteria]
        return [replace(each, evidence=self.mask.text(each.evidence)) for each in found]

    async def _checked(self, criterion: str, seen: Seen) -> Checked:
        form, words = parsed(criterion)
        if form == "text":
            return Checked(criterion, "not-run", "It is a text, which only a reviewer can judge.")
        if form == "schema":
            return await self._fitted(criterion, words, seen)
        if form != "command":
            met, evidence = await anyio.to_thread.run_sync(partial(_LOOKS[form], words, seen))
            return Checked(criterion, "met" if met else "not-met", evidence)
        if not self.commands:
            return Checked(criterion, "not-run", "The policy allows no commands of a delegation.")
        if changed := _changed_program(words, seen):
            return Checked(criterion, "not-met", f"The run has changed the check itself: {printable(changed, _SHOWN)}.")
        ended = await self._ran(("sh", "-c", words), seen)
        if isinstance(ended, str):
            return Checked(criterion, "not-met", ended)
        told = _told(self.mask.ended(ended))  # before it is cut to a line: half a key is one too
        return Checked(criterion, "met" if ended.code == 0 and ended.cut is None else "not-met", told)

    async def _fitted(self, criterion: str, words: str, seen: Seen) -> Checked:
        order = await anyio.to_thread.run_sync(_to_fit, words, seen)
        if isinstance(order, str):
            return Checked(criterion, "not-met", order)
        # Without -P it would import whatever has the name of a library in the folder.
        program = (sys.executable, "-P", "-m", fitting.__name__)
        ended = await self._ran(program, seen, stdin=order, most=fitting.LONGEST)
        if isinstance(ended, str) or ended.code != 0 or ended.cut is not None:
            return Checked(criterion, "not-met", ended if isinstance(ended, str) else _told(ended))
        met, evidence = fitting.fitted(ended.stdout)
        return Checked(criterion, "met" if met else "not-met", evidence)

    async def _ran(
        self, command: tuple[str, ...], seen: Seen, *, stdin: bytes = b"", most: float = LONGEST
    ) -> Ended | str:
        """How a command ended; else why it did not begin."""
        seconds = min(self.timeout, most)
        if self.until is not None:
            seconds = min(seconds, self.until - anyio.current_time())
        if seconds <= 0:
            return "There was no time left to run it."
        try:
            return await self.runner.run(
                command,
                stdin=stdin,
                cwd=seen.folder,
                env=self.environment,
                timeout=seconds,
                silence=None,
                output=MOST_OUTPUT,
            )
        except Retryable:
            raise
        except (OSError, ValueError) as error:  # a NUL in the command, or the folder is gone
            return f"It could not be started: {printable(str(error), _SHOWN)}."


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
    here, begins, goes = "", True, False
    for word in _words(command):
        if word in _OPERATORS or not word.strip(";&|()"):
            begins, goes = True, False
        elif goes:
            here, goes = f"{here}{word}/", False
        elif begins and not word.startswith("-") and "=" not in word and not word[0].isdigit():
            path = word if word.startswith("/") else f"{here}{word}"
            if _is_other(path, seen):
                return path
            goes = word == "cd"
            begins = _INTERPRETERS.fullmatch(word) is not None
    return None


def _words(command: str) -> Iterator[str]:
    for line in command.splitlines():
        split = shlex.shlex(line, posix=True, punctuation_chars=True)
        split.whitespace_split = True
        try:
            yield from split
        except ValueError:  # a quotation that does not end in its line
            yield from line.split()
        yield ";"


def _is_other(path: str, seen: Seen) -> bool:
    """Whether a file stood there before and was changed, be it what a link leads to."""
    place = within(seen.folder, path)
    real = relative(seen.folder.resolve(), str(place)) if place is not None else path
    found = (seen.changes.of(name) for name in {relative(seen.folder, path), real})
    return any(each is not None and each.kind == "changed" for each in found)


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


def _to_fit(words: str, seen: Seen) -> bytes | str:
    """What is compared for a criterion with a schema; else why nothing can be."""
    path, _, schema = words.partition(" ")
    document = _read(seen, path)
    if isinstance(document, str):
        return f"{printable(path, _SHOWN)}: {document}"
    schema = schema.strip()
    if not schema:
        return "The criterion names no schema."
    text: bytes | str = schema
    if not schema.startswith("{"):
        if seen.changes.of(relative(seen.folder, schema)) is not None:
            return f"The run has changed the schema itself: {printable(schema, _SHOWN)}."
        text = _read(seen, schema)
        if isinstance(text, str):
            return f"The schema {printable(schema, _SHOWN)}: {text}"
    try:
        return fitting.order(json.loads(text), document)
    except (ValueError, RecursionError) as error:
        return f"The schema is no JSON: {printable(str(error), _SHOWN)}."


def _read(seen: Seen, path: str) -> bytes | str:
    """The bytes of a file; else why there are none."""
    place = within(seen.folder, path)
    if place is None or not place.is_file():
        return "there is no such file in the working folder."
    try:
        if place.stat().st_size > _DOCUMENT:
            return f"it is larger than {_DOCUMENT >> 20} MiB."
        return place.read_bytes()
    except OSError as error:
        return f"it cannot be read: {printable(str(error), _SHOWN)}."


def _says(words: str, seen: Seen) -> tuple[bool, str]:
    # Words and no regular expression: a hostile one would never come to an end.
    answer, wanted = (" ".join(text.casefold().split()) for text in (seen.answer, words))
    if not answer:
        return False, "The agent has said nothing."
    if wanted != ANY and wanted not in answer:
        return False, "The answer does not say so."
    return True, f"Its answer has {len(seen.answer)} characters."


_LOOKS: Final = {"file": _file, "changed": _changed, "says": _says}
