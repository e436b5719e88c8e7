"""Reading a policy file: TOML, every value with the line that it stands in, and nothing unknown.

Owns how amounts are written (a text or a number, at most six digits behind the point, never a float on the way) and
how each mistake is told: file, line, key, what was found and what is expected; all those of a file in one error.
Called by `taskbus_projections.policy`, which knows what the keys mean.
"""

from __future__ import annotations

import difflib
import hashlib
import re
import tomllib
from decimal import Decimal
from typing import TYPE_CHECKING, Final, NamedTuple, TypeAlias, TypeVar, cast

from taskbus import bus_file, moment
from taskbus.errors import ConfigurationError
from taskbus_projections.patterns import Patterns

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
    from pathlib import Path

Keys: TypeAlias = tuple[str, ...]
T = TypeVar("T")

_ADVICE: Final = "docs/policy.example.toml, in the repository, shows how a policy is written."
_AMOUNT: Final = re.compile(r"\d{1,12}(?:\.\d{1,6})?", re.ASCII)
_AGENT: Final = re.compile(r"@[A-Za-z0-9._*?-]{1,64}", re.ASCII)
_PART: Final = r"""(?:[A-Za-z0-9_-]+|"(?:[^"\\]|\\.)*"|'[^']*')"""
_KEY: Final = rf"{_PART}(?:[ \t]*\.[ \t]*{_PART})*"
_HEADER: Final = re.compile(rf"[ \t]*\[[ \t]*({_KEY})[ \t]*\]")
_ENTRY: Final = re.compile(rf"[ \t]*\[\[[ \t]*({_KEY})[ \t]*\]\]")
_VALUE: Final = re.compile(rf"[ \t]*({_KEY})[ \t]*=")
_SHOWN: Final = 60
_TOLD: Final = 20
_READ: Final = 5 * _TOLD
"""How often a file is read at most: once for each mistake, and for each thing that is wrong because of one."""


class _Wrong(NamedTuple):
    """What was found wrong, and where: a value, or with `unknown` the key itself."""

    keys: Keys
    value: object
    error: ConfigurationError
    unknown: bool = False


class PolicyFile:
    """One file that was parsed. Everything that it is asked for is checked; all raise ConfigurationError."""

    def __init__(self, path: Path) -> None:
        self.path = path
        text = bus_file.contents(path)
        self.document = bus_file.parsed(path, text, advice=_ADVICE, number=Decimal)
        self.digest = hashlib.sha256(text.encode()).hexdigest()[:12]
        """What tells this text from any other, for the log."""
        self._lines = _lines_of(text)
        self._wrong: _Wrong | None = None

    @classmethod
    def whole(cls, path: Path, read: Callable[[PolicyFile], T]) -> T:
        """What `read` makes of a file. Raises ConfigurationError with every mistake that it meets, 20 at most.

        It is read again without each value that was wrong. What is then wrong for want of that value is not told, as
        far as its keys or its name show it: of a whole table that is gone, they do not.
        """
        file, told, gone = cls(path), list[_Wrong](), list[_Wrong]()
        for _ in range(_READ):
            try:
                made = read(file)
            except ConfigurationError as error:
                wrong = file._wrong
                if wrong is None or wrong.error is not error:
                    raise
                if not _follows(wrong, gone):
                    told.append(wrong)
                gone.append(wrong)
                if len(told) == _TOLD or not file._leave_out(wrong.keys):
                    break
            else:
                if not told:
                    return made
                break
        raise file._all(told)

    def table(self, *keys: str, known: Collection[str] | None = None) -> Mapping[str, object]:
        """A table, empty where it is missing; with `known`, no other key may stand in it."""
        found: object = self.document
        for depth, key in enumerate(keys, start=1):
            found = cast("Mapping[str, object]", found).get(key, {})
            if not isinstance(found, dict):
                raise self.wrong(keys[:depth], found, "a table")
        table = cast("Mapping[str, object]", found)
        for key in table if known is not None else ():
            if key not in (known or ()):
                raise self._unknown((*keys, key), known or ())
        return table

    def tables(self, key: str, known: Collection[str]) -> Iterator[tuple[Keys, Mapping[str, object]]]:
        """The tables of a list, `[[key]]`, in their order, each with its keys; no key but those known may stand there.

        What is asked about one of them goes by these keys, and is told as `key[1].name`.
        """
        found = self.document.get(key, [])
        if not isinstance(found, list):
            raise self.wrong((key,), found, f"a list of tables: [[{key}]]")
        for number, each in enumerate(cast("list[object]", found), start=1):
            if each is None:  # which no TOML holds: it was left out
                continue
            keys = (key, f"[{number}]")
            if not isinstance(each, dict):
                raise self.wrong(keys, each, f"a table: [[{key}]]")
            table = cast("Mapping[str, object]", each)
            for name in table:
                if name not in known:
                    raise self._unknown((*keys, name), known)
            yield keys, table

    def flag(self, keys: Keys, value: object) -> bool:
        """Yes or no."""
        if not isinstance(value, bool):
            raise self.wrong(keys, value, "true or false")
        return value

    def seconds(self, keys: Keys, value: object, *, most: float = 366 * 86_400.0) -> float:
        """A time, as a text such as "15m", in seconds."""
        found = moment.duration(value.strip()) if isinstance(value, str) else None
        if found is None or not 0 < found <= most:
            raise self.wrong(keys, value, 'a time, such as "90s" or "15m"')
        return found

    def amount(self, keys: Keys, value: object, *, least: int = 0, most: int) -> int:
        """An amount in millionths, from `least` to `most` whole ones."""
        expected = f"an amount from {least} to {most}, with at most six digits behind the point"
        if not isinstance(value, str | int | Decimal):
            raise self.wrong(keys, value, expected)
        written = value.strip() if isinstance(value, str) else _written(value)
        if not _AMOUNT.fullmatch(written):
            raise self.wrong(keys, value, expected)
        millionths = int(Decimal(written).scaleb(6))
        if not least * 1_000_000 <= millionths <= most * 1_000_000:
            raise self.wrong(keys, value, expected)
        return millionths

    def text(self, keys: Keys, value: object, expected: str = "a text") -> str:
        """A text that is not empty, in one line."""
        if not isinstance(value, str) or not value.strip() or not value.isprintable():
            raise self.wrong(keys, value, expected)
        return value.strip()

    def texts(self, keys: Keys, value: object) -> tuple[str, ...]:
        """A list of texts, none of them twice."""
        expected = "a list of texts"
        if not isinstance(value, list):
            raise self.wrong(keys, value, expected)
        found = tuple(self.text(keys, each, expected) for each in cast("list[object]", value))
        twice = next((each for at, each in enumerate(found) if each in found[:at]), None)
        if twice is not None:
            raise self.wrong(keys, twice, "each text once")
        return found

    def agent(self, keys: Keys, value: str) -> str:
        """The name of an agent, or a pattern of names; with the sign that it begins with."""
        found = value if value.startswith("@") else f"@{value}"
        if not _AGENT.fullmatch(found):
            raise self.wrong(keys, value, "the name of an agent, such as @kilo or @docs-*")
        return found

    def number(self, keys: Keys, value: object, *, least: int, most: int) -> int:
        """A whole number."""
        if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
            raise self.wrong(keys, value, f"a whole number from {least} to {most}")
        return value

    def wrong(self, keys: Keys, value: object, expected: str, *, advice: str = _ADVICE) -> ConfigurationError:
        """The error about a value."""
        message = f"{self._where(keys)}, key `{_joined(keys)}`: found {_words(value)}, expected {expected}."
        self._wrong = _Wrong(keys, value, ConfigurationError(message, advice=advice))
        return self._wrong.error

    def line(self, keys: Keys) -> int:
        """The line in which a key stands; where it is not seen, that of the table around it."""
        while keys and keys not in self._lines:
            keys = keys[:-1]
        return self._lines.get(keys, 1)

    def _where(self, keys: Keys) -> str:
        return f"{self.path}, line {self.line(keys)}"

    def _unknown(self, keys: Keys, known: Collection[str]) -> ConfigurationError:
        near = difflib.get_close_matches(keys[-1], known, n=1)
        hint = f"Did you mean `{_joined((*keys[:-1], near[0]))}`? " if near else ""
        message = f"{self._where(keys)}: unknown key `{_joined(keys)}`."
        error = ConfigurationError(message, advice=f"{hint}Known keys here: {', '.join(known)}.")
        self._wrong = _Wrong(keys, None, error, unknown=True)
        return error

    def _leave_out(self, keys: Keys) -> bool:
        """Go on without what stands at these keys, or above them where nothing does; whether there was anything."""
        for depth in range(len(keys), 0, -1):
            holder: object = self.document
            for key in keys[: depth - 1]:
                holder = _within(holder, key)
            last = keys[depth - 1]
            if _within(holder, last) is None:
                continue
            if isinstance(holder, dict):
                del cast("dict[str, object]", holder)[last]
            else:
                cast("list[object]", holder)[_place(last)] = None
            return True
        return False

    def _all(self, told: Sequence[_Wrong]) -> ConfigurationError:
        """All of them as one error, in the order of their lines."""
        if len(told) == 1:
            return told[0].error
        lines = [
            f"  {each.error.message}{f' {each.error.advice}' if each.error.advice not in (None, _ADVICE) else ''}"
            for each in sorted(told, key=lambda each: self.line(each.keys))
        ]
        more = ["  … and perhaps more."] if len(told) == _TOLD else []
        message = "\n".join((f"{len(told)} things are wrong in {self.path}:", *lines, *more))
        return ConfigurationError(message, advice=_ADVICE)


def _follows(wrong: _Wrong, gone: Sequence[_Wrong]) -> bool:
    """Whether something is wrong only for what was left out before: it is missed, or named elsewhere."""
    if any(each.keys[: len(wrong.keys)] == wrong.keys for each in gone):
        return True
    if wrong.value is None and not wrong.unknown:
        # The key that was unknown may have been this one, misspelt.
        return any(each.unknown and each.keys[:-1] == wrong.keys[:-1] for each in gone)
    names = Patterns((each.keys[1], True) for each in gone if len(each.keys) > 1)
    return isinstance(wrong.value, str) and bool(names.find(wrong.value))


def _within(holder: object, key: str) -> object:
    """What a table has at a key, or a list of tables at a place; None for nothing."""
    if isinstance(holder, dict):
        return cast("dict[str, object]", holder).get(key)
    return cast("list[object]", holder)[_place(key)] if isinstance(holder, list) else None


def _place(key: str) -> int:
    """Where in a list of tables the one stands that is called `[1]`."""
    return int(key[1:-1]) - 1


def _written(value: int | Decimal) -> str:
    """All digits of a number; nothing of one that is far beyond any amount, whose digits could fill the memory."""
    if isinstance(value, int):
        return str(value) if abs(value) < 10**13 else ""
    return format(value, "f") if value.is_finite() and -12 <= value.adjusted() <= 12 else ""


def _lines_of(text: str) -> dict[Keys, int]:
    """Where each key stands: enough for tables and keys that begin a line, as nearly all do."""
    found: dict[Keys, int] = {}
    within: Keys = ()
    entries: dict[Keys, int] = {}
    for number, line in enumerate(text.splitlines(), start=1):
        if entry := _ENTRY.match(line):
            keys = _keys(entry[1])
            entries[keys] = entries.get(keys, 0) + 1
            within = (*keys, f"[{entries[keys]}]")
            found.setdefault(keys, number)
            found.setdefault(within, number)
        elif header := _HEADER.match(line):
            within = _keys(header[1])
            found.setdefault(within, number)
        elif value := _VALUE.match(line):
            for keys in _beginnings((*within, *_keys(value[1]))):
                found.setdefault(keys, number)
    return found


def _keys(written: str) -> Keys:
    """The parts of a key as TOML reads them."""
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


def _beginnings(keys: Keys) -> Iterator[Keys]:
    for depth in range(1, len(keys) + 1):
        yield keys[:depth]


def _joined(keys: Keys) -> str:
    parts = (key if re.fullmatch(r"[A-Za-z0-9_-]+|\[\d+\]", key) else f'"{key}"' for key in keys)
    return ".".join(parts).replace(".[", "[")


def _words(value: object) -> str:
    if isinstance(value, dict | list):
        return f"a {'table' if isinstance(value, dict) else 'list'}"
    if isinstance(value, int) and abs(value) >= 10**_SHOWN:
        return "a number with very many digits"
    found = repr(value) if isinstance(value, str) else str(value)
    return found if len(found) <= _SHOWN else f"{found[:_SHOWN]}…"
