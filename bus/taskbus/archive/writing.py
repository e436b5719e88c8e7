"""Writing a segment: entries of the log become lines, lines frames, and frames a file; the chain runs along.

Owns how large a frame is. Holds one frame in memory. It refuses nothing that stands in a log. Its calls take
processor time, so they are made from threads. Called by sealing alone.
"""

from __future__ import annotations

from hashlib import sha256
from importlib.metadata import version
from typing import TYPE_CHECKING, BinaryIO, Final

import zstandard

from taskbus import chain
from taskbus.archive import lines
from taskbus.archive.manifest import DATA, VERSION, Frame, Manifest, Name
from taskbus.chain import Head
from taskbus.position import Position

if TYPE_CHECKING:
    from collections.abc import Sequence

    from taskbus.keys import Keys
    from taskbus.log import Entry


LEVEL: Final = 3
FRAME_BYTES: Final = 1 << 20
"""A frame ends with the line that takes it to so many bytes, unpacked."""
FRAME_LINES: Final = 1000
"""Or with so many lines: the log is trimmed from the end of a frame to the end of another."""
_DIGITS: Final = 12


class Writer:
    """Writes one segment to a file, which stays open; `head` is that of the newest envelope in it."""

    def __init__(self, file: BinaryIO, keys: Keys, before: Head) -> None:
        self._file = file
        self._keys = keys
        self._before = self.head = before
        self._pack = zstandard.ZstdCompressor(LEVEL, write_checksum=True, write_content_size=True)
        self._lines: list[bytes] = []
        self._size = 0
        self._positions: list[Position] = []
        self._sum = sha256()
        self._frames: list[Frame] = []
        self._written = 0

    @property
    def count(self) -> int:
        """How many envelopes it holds."""
        return self.head.n - self._before.n

    def add(self, entries: Sequence[Entry]) -> None:
        """Put entries behind those that it holds. Raises OSError."""
        n, link = self.head.n, self.head.link
        for entry in entries:
            n += 1
            link = chain.link(link, entry)
            line = lines.write(n, entry, link)
            self._lines.append(line)
            self._positions.append(entry.position)
            self._size += len(line) + 1
            if self._size >= FRAME_BYTES or len(self._lines) == FRAME_LINES:
                self._end_frame(n, link)
        if entries:
            self.head = Head(n, entries[-1].position, link)

    def finish(self, *, by_sum: bool) -> Manifest:
        """Write what is left, and say what the segment holds; `by_sum` puts its sum into the file's name."""
        if self._lines:
            self._end_frame(self.head.n, self.head.link)
        self._file.flush()
        frames, name, keys = self._frames, Name(self._before.n + 1, self.head.n), self._keys
        digest = self._sum.hexdigest()
        first = Position.parse(frames[0].first_position, shard=keys.shard)
        return Manifest(
            version=VERSION,
            namespace=keys.namespace,
            prefix=keys.prefix,
            shard=keys.shard,
            file=f"{name}{f'-{digest[:_DIGITS]}' if by_sum else ''}{DATA}",
            first=name.first,
            last=name.last,
            count=self.count,
            first_position=frames[0].first_position,
            last_position=frames[-1].last_position,
            first_time=_time(first),
            last_time=_time(self.head.position),
            bytes=self._written,
            raw_bytes=sum(frame.raw_bytes for frame in frames),
            sha256=digest,
            before_position=self._before.position.entry,
            before=self._before.link.hex(),
            head=self.head.link.hex(),
            tool=f"taskbus {version('taskbus')}",
            frames=frames,
        )

    def _end_frame(self, last: int, link: bytes) -> None:
        raw = b"\n".join((*self._lines, b""))
        packed = self._pack.compress(raw)
        count = len(self._lines)
        self._frames.append(
            Frame(
                offset=self._written,
                bytes=len(packed),
                raw_bytes=len(raw),
                sha256=sha256(packed).hexdigest(),
                first=last - count + 1,
                count=count,
                first_position=self._positions[0].entry,
                last_position=self._positions[-1].entry,
                head=link.hex(),
            )
        )
        self._file.write(packed)
        self._sum.update(packed)
        self._written += len(packed)
        self._lines, self._positions, self._size = [], [], 0


def _time(position: Position) -> str:
    return position.time.isoformat(timespec="milliseconds").replace("+00:00", "Z")
