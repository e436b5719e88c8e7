"""Tampering: one random change to one copy of the log, and which envelopes it is about.

Each is made by somebody who knows the formats: lines are packed again and the manifest is adjusted, entries of the
stream are written anew at their old positions, rows are changed past the foreign keys.
"""

from __future__ import annotations

import json
import shutil
import sqlite3
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import zstandard

from tests.entries import id_of, with_id

if TYPE_CHECKING:
    import random
    from pathlib import Path

    from taskbus.client import Bus

Raw = tuple[str, dict[bytes, bytes]]

REWRITE = """
redis.call("DEL", KEYS[1])
local at = 1
while at <= #ARGV do
  local count = tonumber(ARGV[at + 1])
  redis.call("XADD", KEYS[1], ARGV[at], unpack(ARGV, at + 2, at + 1 + count))
  at = at + 2 + count
end
"""
"""Writes a stream from its position, count of words and words; each by itself would take most of the time."""


@dataclass
class Tampering:
    """What was done: where, and by number, position or ID, which envelopes may be named for it."""

    copy: str
    what: str
    numbers: set[int] = field(default_factory=set)
    positions: set[str] = field(default_factory=set)
    ids: set[str] = field(default_factory=set)


def flipped(data: bytes, at: int, rng: random.Random) -> bytes:
    """The same with another byte in one place."""
    return data[:at] + bytes([data[at] ^ rng.randrange(1, 256)]) + data[at + 1 :]


def with_a_byte_more_or_less(data: bytes, at: int, rng: random.Random) -> bytes:
    """The same with a byte too many or too few."""
    return data[:at] + data[at + 1 :] if rng.random() < 0.5 else data[:at] + rng.randbytes(1) + data[at:]


# --- the archive ---


def in_a_file(folder: Path, rng: random.Random) -> Tampering:
    """A byte of a compressed file, without anything to hide it."""
    path = rng.choice(sorted(folder.glob("*.zst")))
    first, last = (int(number) for number in path.name.removesuffix(".jsonl.zst").split("-"))
    data = path.read_bytes()
    at = rng.randrange(len(data))
    changed = rng.choice([flipped, with_a_byte_more_or_less])(data, at, rng)
    if changed == data:
        changed = data[:-1]
    path.write_bytes(changed)
    return Tampering("archive", f"byte {at} of {len(data)} in {path.name}", set(range(first, last + 1)))


def in_lines(folder: Path, rng: random.Random) -> Tampering:
    """A byte, or whole lines, with the file packed again."""
    path = rng.choice(sorted(folder.glob("*.zst")))
    first = int(path.name.split("-")[0])
    raw = zstandard.ZstdDecompressor().decompress(path.read_bytes())
    lines = raw.splitlines(keepends=True)
    i, j = rng.sample(range(len(lines)), 2)
    match rng.choice(["byte", "byte", "cut", "delete", "insert", "swap", "forge"]):
        case "byte" | "cut" as kind:
            at = rng.randrange(len(raw))
            raw = (flipped if kind == "byte" else with_a_byte_more_or_less)(raw, at, rng)
            number = first + raw[:at].count(b"\n")
            done = Tampering("archive", f"byte {at} in the lines of {path.name}", {number, number + 1, number - 1})
            if raw == b"".join(lines):
                raw = raw[:-1]
                done.numbers = {first + len(lines) - 1}
            if raw[at : at + 1] != b"\n" and b"".join(lines)[at : at + 1] != b"\n":
                done.numbers = {number}
        case "delete":
            raw = b"".join(lines[:i] + lines[i + 1 :])
            done = Tampering("archive", f"line {i} gone from {path.name}", {first + i})
        case "insert":
            raw = b"".join([*lines[:i], lines[j], *lines[i:]])
            done = Tampering("archive", f"line {j} once more, before {i} in {path.name}", {first + j})
        case "forge":
            line = json.loads(lines[i])
            line["id"] = line["id"][:-4] + "ffff"
            raw = b"".join([*lines[:i], json.dumps(line, separators=(",", ":")).encode() + b"\n", *lines[i:]])
            done = Tampering("archive", f"a forged line before {i} in {path.name}", {first + i}, ids={line["id"]})
        case _:
            lines[i], lines[j] = lines[j], lines[i]
            raw = b"".join(lines)
            done = Tampering("archive", f"lines {i} and {j} swapped in {path.name}", {first + i, first + j})
    packed = zstandard.ZstdCompressor(level=3, write_checksum=True, write_content_size=True).compress(raw)
    path.write_bytes(packed)
    manifest = path.with_name(path.name.replace(".jsonl.zst", ".json"))
    content = json.loads(manifest.read_bytes())
    content["frames"][0] |= {"bytes": len(packed), "raw_bytes": len(raw)}
    manifest.write_text(json.dumps(content))
    return done


def with_segments(folder: Path, rng: random.Random) -> Tampering:
    """A segment that is gone, with its manifest or without."""
    path = rng.choice(sorted(folder.glob("*.zst")))
    first, last = (int(number) for number in path.name.removesuffix(".jsonl.zst").split("-"))
    path.unlink()
    manifest = path.with_name(path.name.replace(".jsonl.zst", ".json"))
    if rng.random() < 0.5 and last != max(int(each.name[11:21]) for each in folder.glob("*.json")):
        manifest.unlink()
    return Tampering("archive", f"{path.name} gone", {first})


# --- the log ---


async def in_the_log(bus: Bus, entries: list[Raw], numbers: dict[str, int], rng: random.Random) -> Tampering:
    """A field, or whole entries; the stream is written anew."""
    changed = [(position, dict(fields)) for position, fields in entries]
    i, j = rng.sample(range(len(entries)), 2)
    position, fields = changed[i]
    number = numbers[position]
    done = Tampering("log", "", {number}, {position})
    match rng.choice(["byte", "byte", "field", "delete", "insert", "swap", "position"]):
        case "byte":
            name = rng.choice(list(fields))
            at = rng.randrange(len(fields[name]))
            fields[name] = flipped(fields[name], at, rng)
            done.what = f"byte {at} of {name!r} at {position}"
        case "field":
            fields[rng.choice([b"x", b"root", b"form", b"source", b"origin"])] = rng.choice([b"", b"task-9", b"xml"])
            if fields == entries[i][1]:
                fields[b"y"] = b""
            done.what = f"a field more at {position}"
        case "delete":
            del changed[i]
            done.what = f"{position} gone"
        case "insert":
            ms, sequence = position.split("-")
            copy = dict(changed[j][1])
            if rng.random() < 0.5:
                copy = with_id(copy, b"01999999-9999-7999-8999-999999999999")
            place = f"{ms}-{int(sequence) + 1000}"
            changed.insert(i + 1, (place, copy))
            done.positions, done.numbers, done.ids = {place}, set(), {id_of(copy).decode()}
            done.what = f"one more at {place}"
        case "position":
            ms, sequence = position.split("-")
            changed[i] = (f"{ms}-{int(sequence) + 1000}", fields)
            done.what = f"{position} moved by a little"
        case _:
            changed[i], changed[j] = (position, changed[j][1]), (changed[j][0], fields)
            done.numbers.add(numbers[changed[j][0]])
            done.what = f"{position} and {changed[j][0]} swapped"
    await rewrite(bus, sorted(changed, key=lambda entry: tuple(map(int, entry[0].split("-")))))
    return done


async def rewrite(bus: Bus, entries: list[Raw]) -> None:
    """Write the stream of the log anew."""
    words: list[str | bytes | int] = []
    for position, fields in entries:
        words += [position, 2 * len(fields), *[word for field in fields.items() for word in field]]
    await bus.connection.execute("EVAL", REWRITE, 1, bus.keys.log, *words)


# --- the audit table ---


def in_the_table(path: Path, rng: random.Random) -> Tampering:
    """A column, or whole rows."""
    with sqlite3.connect(path) as database:
        columns = [name for _, name, *_ in database.execute("PRAGMA table_info(events)")]
        rows = [dict(zip(columns, row, strict=True)) for row in database.execute("SELECT * FROM events ORDER BY n")]
        one, other = rng.sample(rows, 2)
        n, m = one["n"], other["n"]
        done = Tampering("audit table", "", {n})
        match rng.choice(["column", "column", "column", "delete", "insert", "swap", "number"]):
            case "column":
                name = rng.choice(columns[1:])
                value = b"x" if name == "source" and one[name] is None else _another(one[name], rng)
                database.execute(f'UPDATE events SET "{name}" = ? WHERE n = ?', (value, n))
                done.what = f"{name} of row {n}"
            case "delete":
                database.execute("DELETE FROM events WHERE n = ?", (n,))
                done.what = f"row {n} gone"
            case "insert":
                forged = one | {"n": rows[-1]["n"] + 1, "id": "forged"}
                marks = ", ".join("?" * len(columns))
                database.execute(f"INSERT INTO events VALUES ({marks})", list(forged.values()))
                done.numbers, done.ids, done.what = {forged["n"]}, {"forged"}, "a row more"
            case "number":
                database.execute("UPDATE events SET n = ? WHERE n = ?", (rows[-1]["n"] + 5, n))
                done.what, done.ids = f"row {n} has another number", {one["id"]}
            case _:
                database.execute("UPDATE events SET id = 'aside' WHERE n = ?", (m,))
                sets = ", ".join(f'"{name}" = ?' for name in columns[1:])
                database.execute(f"UPDATE events SET {sets} WHERE n = ?", [*list(other.values())[1:], n])
                database.execute(f"UPDATE events SET {sets} WHERE n = ?", [*list(one.values())[1:], m])
                done.numbers.add(m)
                done.what = f"rows {n} and {m} swapped"
    database.close()
    return done


def _another(value: Any, rng: random.Random) -> Any:
    match value:
        case None:
            return "x"
        case int():
            return value + 1
        case bytes():
            return flipped(value, rng.randrange(len(value)), rng) if value else b"x"
        case str() as text if text:
            at = rng.randrange(len(text))
            return text[:at] + ("x" if text[at] != "x" else "y") + text[at + 1 :]
        case _:
            return "x"


def copied(source: Path, target: Path) -> Path:
    """A copy of a folder or file, in place of what stood there."""
    if target.is_dir():
        shutil.rmtree(target)
    if source.is_dir():
        shutil.copytree(source, target)
    else:
        shutil.copyfile(source, target)
    return target
