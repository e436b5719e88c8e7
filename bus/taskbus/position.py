"""A position: where an envelope stands in the log, as a shard and a stream ID.

The text form is the stream ID (`1763625600000-0`), with the shard before it where it is not 0 (`3/1763625600000-0`).
"""

from __future__ import annotations

import re
from datetime import UTC, datetime

from msgspec import Struct

from taskbus.errors import UsageError

_FORM = re.compile(r"(?:(\d{1,5})/)?(\d{1,20})(?:-(\d{1,20}))?")


class Position(Struct, frozen=True, order=True, gc=False):
    """A place in the log of one shard; positions of one shard are ordered. `ms` is the server's time of the append."""

    shard: int
    ms: int
    sequence: int

    @classmethod
    def parse(cls, text: str, *, shard: int = 0) -> Position:
        """Read the text form. Raises UsageError for anything else."""
        ms, dash, sequence = text.partition("-")
        if dash and len(ms) < 16 and len(sequence) < 16 and ms.isdecimal() and sequence.isdecimal():
            return cls(shard, int(ms), int(sequence))  # what the server writes: a third of the time of the rest
        match = _FORM.fullmatch(text)
        if match is None:
            raise UsageError(
                f"{text!r} is not a position.",
                advice="Positions look like 1763625600000-0; see `bus tail --json`.",
            )
        numbers = int(match[1] or shard), int(match[2]), int(match[3] or 0)
        if max(numbers[1:]) >= 1 << 64:
            raise UsageError(f"{text!r} is later than any position can be.", advice="Its numbers have 64 bits.")
        return cls(*numbers)

    @classmethod
    def of(cls, entry: bytes, shard: int = 0) -> Position:
        """The position of a stream ID that the server gave."""
        ms, _, sequence = entry.partition(b"-")
        return cls(shard, int(ms), int(sequence))

    @property
    def entry(self) -> str:
        """The stream ID."""
        return f"{self.ms}-{self.sequence}"

    @property
    def time(self) -> datetime:
        """When the server appended it, in UTC, to the millisecond."""
        return datetime.fromtimestamp(self.ms / 1000, UTC)

    def __str__(self) -> str:
        return f"{self.shard}/{self.entry}" if self.shard else self.entry


START = Position(0, 0, 0)
"""Before the first entry of the log."""
