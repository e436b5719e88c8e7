"""The manifest: what stands beside a segment and says what is in it; a segment counts once its manifest stands.

Owns the names of the files, and the form of the manifest, which programs of others may read as well. It refuses a
manifest that is not complete. Called by whatever seals segments, looks for them, or reads them.
"""

from __future__ import annotations

import re
from functools import cached_property
from typing import Final, NamedTuple

import msgspec

from taskbus.chain import Head
from taskbus.position import Position

VERSION: Final = 1
SUFFIX: Final = ".json"
DATA: Final = ".jsonl.zst"
UNFINISHED: Final = ".tmp"
_NAME = re.compile(r"(\d{10,20})-(\d{10,20})")


class Name(NamedTuple):
    """Which envelopes a segment holds, by number; its text begins the names of its files."""

    first: int
    last: int

    def __str__(self) -> str:
        return f"{self.first:010d}-{self.last:010d}"

    @classmethod
    def of(cls, file: str) -> Name | None:
        """The segment whose file this is; None for a file of something else."""
        match = _NAME.match(file)
        return cls(int(match[1]), int(match[2])) if match else None


class Frame(msgspec.Struct, frozen=True):
    """A part of a segment that can be read by itself: where it stands in the file, and which envelopes it holds.

    `offset` and `bytes` are those of the file, `raw_bytes` what they are unpacked, `sha256` their sum; `first` is the
    number of its first envelope, `head` the link of its last one, both sums in hexadecimal digits.
    """

    offset: int
    bytes: int
    raw_bytes: int
    sha256: str
    first: int
    count: int
    first_position: str
    last_position: str
    head: str

    @property
    def last(self) -> int:
        """The number of its last envelope."""
        return self.first + self.count - 1


class Manifest(msgspec.Struct, frozen=True, kw_only=True, dict=True):
    """What a segment holds. `before` and `head` are the links before its first envelope and of its last one, in hex.

    `before_position` is that of the envelope before its first one, `0-0` where there is none.
    `file` is its name in the same folder, `sha256` that of all its `bytes`; `raw_bytes` is what they are unpacked.
    `tool` wrote it.
    """

    version: int
    namespace: str
    prefix: str
    shard: int
    file: str
    first: int
    last: int
    count: int
    first_position: str
    last_position: str
    first_time: str
    last_time: str
    bytes: int
    raw_bytes: int
    sha256: str
    before_position: str
    before: str
    head: str
    tool: str
    frames: list[Frame]

    @property
    def name(self) -> Name:
        """The name that it goes by."""
        return Name(self.first, self.last)

    @cached_property
    def begin(self) -> Position:
        """The position of its first envelope."""
        return Position.parse(self.first_position, shard=self.shard)

    @cached_property
    def start(self) -> Head:
        """The head before its first envelope."""
        place = Position.parse(self.before_position, shard=self.shard)
        return Head(self.first - 1, place, bytes.fromhex(self.before))

    @cached_property
    def end(self) -> Head:
        """The head with its last envelope."""
        return Head(self.last, Position.parse(self.last_position, shard=self.shard), bytes.fromhex(self.head))

    def encode(self) -> bytes:
        """As it is written: JSON, laid out for people."""
        return msgspec.json.format(msgspec.json.encode(self), indent=1) + b"\n"

    @classmethod
    def decode(cls, document: bytes) -> Manifest:
        """Read it. Raises ValueError for one that is not complete, or does not agree with itself."""
        found = _DECODER.decode(document)
        frames = found.frames
        if found.version != VERSION:
            raise ValueError(f"it has version {found.version}; this taskbus reads {VERSION}")
        numbers = [frame.first for frame in frames] + [found.last + 1]
        follows = all(frame.first + frame.count == after for frame, after in zip(frames, numbers[1:], strict=True))
        if not frames or numbers[0] != found.first or not follows or found.count != found.last - found.first + 1:
            raise ValueError("its frames do not follow upon each other")
        if (found.end.link.hex(), found.last_position) != (frames[-1].head, frames[-1].last_position):
            raise ValueError("its last frame does not end where it does")
        return found


_DECODER: Final = msgspec.json.Decoder(Manifest)
