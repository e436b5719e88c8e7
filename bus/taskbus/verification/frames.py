"""Frames: what is really in the file of a segment, as far as it can be read, beside what its manifest says.

Refuses nothing: what cannot be read is said to be so, and reading goes on with the next frame. Called by the sealed
copy.
"""

from __future__ import annotations

import re
from hashlib import sha256
from typing import TYPE_CHECKING, Any, Final

import msgspec
import zstandard

from taskbus.archive import lines
from taskbus.archive.manifest import DATA, SUFFIX, Frame, Manifest, Name
from taskbus.chain import SIZE, Head
from taskbus.position import Position
from taskbus.verification.discrepancy import Item, Resumption

if TYPE_CHECKING:
    from collections.abc import Iterator

    from taskbus.archive.stores import Store
    from taskbus.keys import Keys

_FEED: Final = 512
"""A damaged frame is unpacked by so many bytes at a time, so that what stands before the damage is read."""
_MORE: Final = 64 << 20
_LARGEST: Final = 256 << 20
"""No frame that taskbus wrote is larger, unpacked."""


class Contents:
    """The file of a segment, frame by frame; what was seen of it is kept, to compare the manifest with.

    `heads` are those at the end of each frame.
    """

    def __init__(self, manifest: Manifest, store: Store, namespace: str) -> None:
        self.manifest = manifest
        self._namespace = namespace
        self.heads: list[Head] = []
        self._store = store
        self._sum = sha256()
        self._frames: list[Frame] = []
        self._offset = self._raw = 0

    def frames(self) -> Iterator[tuple[Frame, bytes]]:
        """Each frame as the manifest has it, with its bytes as they are."""
        manifest = self.manifest
        for frame in manifest.frames:
            # What was put behind the last frame belongs to it if it was packed anew, else to no envelope.
            more = _MORE if frame is manifest.frames[-1] else 0
            packed = self._store.read(manifest.file, frame.offset, frame.offset + frame.bytes + more) or b""
            self._sum.update(packed)
            yield frame, packed

    def read(self, frame: Frame, packed: bytes, raw: bytes, found: list[Item]) -> None:
        """Take note of a frame that was read to its end."""
        first, last = found[0], found[-1]
        if first.entry is None or last.entry is None:
            return
        self.heads.append(Head(last.n, last.entry.position, last.link))
        self._frames.append(
            Frame(
                offset=self._offset,
                bytes=len(packed),
                raw_bytes=len(raw),
                sha256=sha256(packed).hexdigest(),
                first=frame.first,
                count=len(found),
                first_position=first.entry.position.entry,
                last_position=last.entry.position.entry,
                head=last.link.hex(),
            )
        )
        self._offset += len(packed)
        self._raw += len(raw)

    def differing(self) -> str | None:
        """The first thing that the manifest says otherwise than it is, where every envelope is as it was."""
        given, frames = self.manifest, self._frames
        digest = self._sum.hexdigest()
        if self._offset != given.bytes or digest != given.sha256:
            return "the file is not the one that its manifest names: its bytes have another sum"
        begin, end = frames[0].first_position, frames[-1].last_position
        wanted = msgspec.structs.replace(
            given,
            namespace=self._namespace,
            file=f"{given.name}-{digest[:12]}{DATA}" if "-" in given.file[len(str(given.name)) :] else given.file,
            before=given.start.link.hex(),
            before_position=given.start.position.entry,
            first_position=begin,
            last_position=end,
            first_time=_time(Position.parse(begin)),
            last_time=_time(Position.parse(end)),
            raw_bytes=self._raw,
            frames=frames,
        )
        content: dict[str, Any] = msgspec.json.decode(self._store.read(f"{given.name}{SUFFIX}") or b"{}")
        document: dict[str, Any] = msgspec.to_builtins(wanted)
        names = [name for name in {**document, **content} if document.get(name) != content.get(name)]
        return f"its manifest has another {names[0]}" if names else None


def unusable(manifest: Manifest, name: Name, keys: Keys) -> str | None:
    """Why nothing can be read by a manifest; None where something can."""
    if manifest.name != name:
        return f"it is that of {manifest.name}"
    if (manifest.prefix, manifest.shard) != (keys.prefix, keys.shard):
        return f"it is that of a segment of {manifest.prefix!r}"
    if not re.fullmatch(rf"{name}(-[0-9a-f]{{12}})?{re.escape(DATA)}", manifest.file, re.ASCII):
        return f"it names another file, {manifest.file!r}"
    offset = 0
    for frame in manifest.frames:
        if frame.offset != offset or frame.bytes < 1 or frame.count < 1:
            return "its frames do not follow upon each other"
        offset += frame.bytes
    return None if len(manifest.start.link) == SIZE else "it goes on from no link"


def items(contents: Contents, frame: Frame, packed: bytes) -> Iterator[Item | Resumption]:
    """The envelopes of a frame, as far as they can be read."""
    manifest = contents.manifest
    place = f"segment {manifest.name}"
    raw, problem = _unpacked(packed, frame)
    texts = raw.split(b"\n")[:-1]
    start = frame.first - manifest.first + 1
    found = [
        _item(line, frame.first + at, manifest.shard, f"{place}, line {start + at}") for at, line in enumerate(texts)
    ]
    yield from found
    if problem:
        at = start + len(found)
        yield Resumption(frame.last, bytes.fromhex(frame.head), f"{place}, line {at}", problem)
    elif found:
        contents.read(frame, packed, raw, found)


def read_head(packed: bytes, manifest: Manifest, frame: Frame, n: int) -> Head | None:
    """The head at an envelope of a frame, by its number; None where it cannot be read."""
    texts = _unpacked(packed, frame)[0].split(b"\n")[:-1]
    if n - frame.first >= len(texts):
        return None
    item = _item(texts[n - frame.first], n, manifest.shard, "")
    return Head(n, item.entry.position, item.link) if item.entry else None


def _unpacked(packed: bytes, frame: Frame) -> tuple[bytes, str | None]:
    """What can be unpacked of a frame, in whole lines, and why no more of it can."""
    if not packed:
        return b"", "the file is gone, or it ends before"
    try:
        if zstandard.get_frame_parameters(packed).content_size == frame.raw_bytes <= _LARGEST:
            return zstandard.ZstdDecompressor().decompress(packed), None
    except zstandard.ZstdError:
        pass  # what comes before the damage is read below
    return _before_the_damage(packed)


def _before_the_damage(packed: bytes) -> tuple[bytes, str | None]:
    unpack = zstandard.ZstdDecompressor().decompressobj()
    found = bytearray()
    problem = None
    try:
        for start in range(0, len(packed), _FEED):
            found += unpack.decompress(packed[start : start + _FEED])
            if unpack.eof or len(found) > _LARGEST:
                break
        if not unpack.eof:
            problem = "it is cut off"
    except zstandard.ZstdError as error:
        problem = str(error)
    if problem is None and not found.endswith(b"\n"):
        problem = "its last line is cut off"
    return bytes(found[: found.rfind(b"\n") + 1]), problem


def _item(line: bytes, number: int, shard: int, place: str) -> Item:
    try:
        (read,) = lines.read(line)
        (entry,) = lines.entries([read], shard)
        link = bytes.fromhex(read.link)
        canonical = lines.write(read.n, entry, link)
    except ValueError as error:
        return Item(number, None, b"", place, str(error))
    is_whole = canonical == line and (entry.source is None) == (entry.source_type is None)
    return Item(read.n, entry, link, place, None if is_whole else "its line is not as it was written")


def _time(position: Position) -> str:
    return position.time.isoformat(timespec="milliseconds").replace("+00:00", "Z")
