"""The JSON form of envelopes: the canonical one.

The reader is for documents from outside: it refuses what JSON leaves open (keys given twice, NaN, other
encodings, endless nesting) and lists every problem with its path. Bodies from the log go through
`taskbus.codec.decode`.
"""

from __future__ import annotations

import json
import math
import re
from collections import Counter
from functools import lru_cache
from typing import TYPE_CHECKING, cast

import msgspec

from taskbus.errors import InvalidEnvelope, Problem
from taskbus.findings import Misread, Repeated, printable
from taskbus.shape import Field
from taskbus.validation import bounded, envelope_from

if TYPE_CHECKING:
    from taskbus.envelope import AnyEnvelope
    from taskbus.findings import Path

_BOM = b"\xef\xbb\xbf"
_TOKENS = re.compile(r'"(?:[^"\\]|\\.)*"|[\[\]{},:\n]|[^\s\[\]{},:"]+')
_ENCODER = msgspec.json.Encoder()


def read(document: bytes, *, source: str | None = None) -> AnyEnvelope:
    """Read one envelope strictly. Raises InvalidEnvelope with every problem of the document; `source` names
    it there.

    A byte order mark is ignored. Without an `id`, the envelope gets one derived from its timestamp and these
    bytes.
    """
    plain = parse(document, source=source)
    return envelope_from(
        plain, form="json", document=document, source=source, line=lambda path: line_of(path, document)
    )


def parse(document: bytes, *, source: str | None = None) -> object:
    """Parse JSON into plain values. Raises InvalidEnvelope for what is not JSON in UTF-8.

    Keys given twice and numbers that no field can hold stand in the result as what they are (`Repeated`,
    `Misread`), so that validation finds them in their places.
    """
    text = _text(bounded(document, source), source)
    try:
        return json.loads(
            text,
            object_pairs_hook=_object,
            parse_int=_integer,
            parse_float=_number,
            parse_constant=Misread,
        )
    except json.JSONDecodeError as error:
        raise InvalidEnvelope([_syntax(error)], source=source) from error
    except RecursionError as error:
        problem = Problem("document", "too many brackets within brackets", "the few levels of an envelope")
        raise InvalidEnvelope([problem], source=source) from error


def line_of(path: Path, document: bytes) -> int | None:
    """The line on which a value stands, or what it would stand in; None in a document of one line."""
    lines = _lines(document)
    if lines is None:
        return None
    names = tuple(step.name if isinstance(step, Field) else step for step in path)
    while names not in lines:
        names = names[:-1]
    return lines[names]


def write(envelope: AnyEnvelope, *, pretty: bool = False) -> bytes:
    """Write an envelope as JSON, on one line unless `pretty`; what has its default value is left out.

    The envelope is taken as valid; `taskbus.codec.validated` is for one that was built in Python.
    """
    document = _ENCODER.encode(envelope)
    return msgspec.json.format(document, indent=2) + b"\n" if pretty else document


def _text(document: bytes, source: str | None) -> str:
    try:
        return document.removeprefix(_BOM).decode()
    except UnicodeDecodeError as error:
        wide = document.startswith((b"\xff\xfe", b"\xfe\xff"))
        found = "UTF-16" if wide else f"the byte 0x{document[error.start]:02x}"
        line = document.count(b"\n", 0, error.start) + 1
        problem = Problem(f"line {line}, byte {error.start} of the document", found, "UTF-8")
        raise InvalidEnvelope([problem], source=source) from error


def _syntax(error: json.JSONDecodeError) -> Problem:
    rest = error.doc[error.pos : error.pos + 1]
    found = f'"{printable(rest)}"' if rest else "the end of the document"
    match error.msg.split(" ", 1):
        case ["Expecting", wanted]:
            expected = {"value": "a value", "property name enclosed in double quotes": 'a "key"'}.get(wanted, wanted)
        case ["Extra", _]:
            expected = "the end of the document, since one document holds one envelope"
        case _:
            found, expected = error.msg.removesuffix(" at").rstrip(": ").lower(), "JSON"
    return Problem(f"line {error.lineno}, column {error.colno}", found, expected)


def _object(pairs: list[tuple[str, object]]) -> dict[str, object] | Repeated:
    plain = dict(pairs)
    if len(plain) == len(pairs):
        return plain
    times = Counter(name for name, _ in pairs)
    return Repeated(plain, tuple(name for name in plain if times[name] > 1))


def _integer(text: str) -> int | Misread:
    # Python refuses to convert more than 4300 digits, and no field holds more than 16.
    return int(text) if len(text) < 100 else Misread(text)


def _number(text: str) -> float | Misread:
    """JSON has one kind of number: 1.0 is the integer 1, as JSON Schema has it too."""
    number = float(text)
    if not math.isfinite(number):
        return Misread(text)
    return cast("float", int(number)) if number.is_integer() and abs(number) < 2**63 else number


@lru_cache(maxsize=1)
def _lines(document: bytes) -> dict[tuple[str | int, ...], int] | None:
    """The line of each value by its path, in a document that has been parsed already."""
    if b"\n" not in document.strip():
        return None
    lines: dict[tuple[str | int, ...], int] = {}
    line = 1
    path: list[str | int] = []
    # The open brackets; in an object the last step of the path is the key, once it has been read.
    open_brackets: list[str] = []
    keys = False
    for part in _TOKENS.findall(document.decode(errors="replace")):
        if part == "\n":
            line += 1
        elif part in "{[":
            lines.setdefault(tuple(path), line)
            open_brackets.append(part)
            keys = part == "{"
            path.append("" if keys else 0)
        elif part in "}]":
            open_brackets.pop()
            path.pop()
        elif part == ",":
            keys = open_brackets[-1] == "{"
            if not keys:
                path[-1] = cast("int", path[-1]) + 1
        elif keys:
            path[-1] = cast("str", json.loads(part))
            keys = False
        elif part != ":":
            lines.setdefault(tuple(path), line)
    return lines
