"""Reading segments: frame by frame, in either direction, with every one of them checked against its manifest.

Owns what is held of a segment in memory: a few frames. It refuses a frame that was changed, cut off or exchanged, and
names the envelope from which on the segment cannot be read. What asks the store blocks, and is called from threads;
unpacking is quick, and done by whoever wants the lines. Called by the archive and by verification.
"""

from __future__ import annotations

from hashlib import sha256
from typing import TYPE_CHECKING, Final, NamedTuple

import zstandard

from taskbus.archive import lines
from taskbus.archive.lines import Line, Sealed
from taskbus.chain import Head
from taskbus.errors import Damaged, Gap
from taskbus.position import Position

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from taskbus.archive.catalog import Catalog, Piece
    from taskbus.archive.manifest import Frame, Manifest
    from taskbus.archive.stores import Store
    from taskbus.log import Entry


_AT_ONCE: Final = 2 << 20
"""About so many bytes are asked of a store at once, since one that is far away answers slowly."""


class Batch(NamedTuple):
    """The lines of a frame that are asked for, in order."""

    manifest: Manifest
    lines: list[Line]

    def entries(self) -> list[Entry]:
        """Their entries."""
        return lines.entries(self.lines, self.manifest.shard)

    def sealed(self) -> list[Sealed]:
        """Their entries with numbers and links."""
        return [
            Sealed(line.n, entry, bytes.fromhex(line.link))
            for line, entry in zip(self.lines, self.entries(), strict=True)
        ]


class Part(NamedTuple):
    """What is asked for: the envelopes from number `first` on, after a position, up to and including another."""

    first: int
    after: Position
    until: Position | None


class Reader:
    """Reads the segments of a catalog."""

    def __init__(self, store: Store, catalog: Catalog) -> None:
        self._store = store
        self._catalog = catalog

    def forwards(self, after: Position, until: Position | None) -> Iterator[Batch]:
        """What stands after a position, up to and including another. Raises Damaged, and Gap at a hole."""
        for chunk in self.chunks(after, until):
            yield from chunk.batches()

    def chunks(self, after: Position, until: Position | None) -> Iterator[Chunk]:
        """The same, still packed: this alone asks the store."""
        catalog = self._catalog
        for index in range(catalog.after(after), len(catalog.pieces)):
            if until is not None and after >= until:
                return
            piece = catalog.pieces[index]
            manifest = catalog.manifest(piece.name)
            self._check_seam(index)
            # Who has the last envelope before a hole's end misses nothing.
            self._check_hole(index, after, manifest)
            if until is not None and manifest.begin > until:
                return
            frames = self._frames(manifest, piece, after, until)
            while frames:
                size, count = 0, 0
                while count < len(frames) and size < _AT_ONCE:
                    size += frames[count].bytes
                    count += 1
                yield self._chunk(manifest, frames[:count], Part(piece.first, after, until))
                frames = frames[count:]
            after = max(after, manifest.end.position)

    def chunks_backwards(self, until: Position, after: Position) -> Iterator[Chunk]:
        """What stands up to and including a position, and after another: the newest frame first, each by itself."""
        catalog = self._catalog
        last = min(catalog.after(until), len(catalog.pieces) - 1)
        for index in range(last, -1, -1):
            piece = catalog.pieces[index]
            manifest = catalog.manifest(piece.name)
            if manifest.end.position <= after:
                return
            self._check_seam(index)
            for frame in reversed(self._frames(manifest, piece, after, until)):
                yield self._chunk(manifest, [frame], Part(piece.first, after, until))
            self._check_hole(index, after, manifest)

    def head_at(self, position: Position) -> Head | None:
        """The newest envelope at or before a position; None where there is none."""
        catalog = self._catalog
        index = catalog.after(position)
        if index < len(catalog.pieces):
            manifest = catalog.manifest(catalog.pieces[index].name)
            if frames := [
                frame for frame in manifest.frames if _place(frame.first_position, manifest.shard) <= position
            ]:
                return self._head_in(manifest, frames[-1], position)
        return catalog.manifest(catalog.pieces[index - 1].name).end if index else None

    def heads(self, after: Position, until: Position | None) -> list[Head]:
        """The heads at the end of each frame after a position, up to and including another."""
        catalog = self._catalog
        found: list[Head] = []
        for piece in catalog.pieces[catalog.after(after) :]:
            manifest = catalog.manifest(piece.name)
            for frame in self._frames(manifest, piece, after, until):
                place = _place(frame.last_position, manifest.shard)
                if until is not None and place > until:
                    return found
                found.append(Head(frame.last, place, bytes.fromhex(frame.head)))
        return found

    def _head_in(self, manifest: Manifest, frame: Frame, position: Position) -> Head:
        if _place(frame.last_position, manifest.shard) <= position:
            return Head(frame.last, _place(frame.last_position, manifest.shard), bytes.fromhex(frame.head))
        chunk = self._chunk(manifest, [frame], Part(0, Position(manifest.shard, 0, 0), position))
        line = next(chunk.batches()).lines[-1]
        place = _place(line.position, manifest.shard)
        return Head(line.n, place, bytes.fromhex(line.link))

    def _check_seam(self, index: int) -> None:
        """Raise Damaged where a piece does not go on from the one before it, or the second one from the first.

        Positions lead to a piece: among those of two logs they lead past others, and nobody would notice.
        """
        pieces, right = self._catalog.pieces, index or 1
        if right >= len(pieces) or self._catalog.hole(right) is not None:
            return
        left, piece = self._catalog.manifest(pieces[right - 1].name), pieces[right]
        try:
            manifest = self._catalog.manifest(piece.name)
        except Damaged:
            if index:
                raise
            return  # said when it is read
        if manifest.first == piece.first:
            follows = manifest.start == left.end
        else:
            follows = manifest.begin <= left.end.position < manifest.end.position
        if not follows:
            url, first = self._store.url, manifest if index else left
            message = f"In {url} the segments {left.name} and {manifest.name} are of two logs."
            raise Damaged(message, store=url, segment=str(first.name), n=first.first, position=first.first_position)

    def _check_hole(self, index: int, after: Position, manifest: Manifest) -> None:
        missing = self._catalog.hole(index)
        if missing is None or after >= manifest.start.position:
            return
        last = self._catalog.pieces[index].first - 1
        raise Gap(
            f"The archive {self._store.url} has no segment with the envelopes {missing} to {last}, "
            f"before {manifest.begin}.",
            advice=f"Put the missing segments there, or read from {manifest.begin} on.",
            after=str(after),
            until=str(manifest.start.position),
            first=missing,
            last=last,
            store=self._store.url,
        )

    def _frames(self, manifest: Manifest, piece: Piece, after: Position, until: Position | None) -> list[Frame]:
        place, shard = _place, manifest.shard
        return [
            frame
            for frame in manifest.frames
            if frame.last >= piece.first
            and place(frame.last_position, shard) > after
            and (until is None or place(frame.first_position, shard) <= until)
        ]

    def _chunk(self, manifest: Manifest, frames: Sequence[Frame], part: Part) -> Chunk:
        """Frames that stand behind each other, as the store has them."""
        start = frames[0].offset
        content = self._store.read(manifest.file, start, frames[-1].offset + frames[-1].bytes)
        if content is None:
            raise damaged(self._store.url, manifest, frames[0], "the file is gone")
        view = memoryview(content)
        packed = [view[frame.offset - start : frame.offset - start + frame.bytes] for frame in frames]
        return Chunk(self._store.url, manifest, list(zip(frames, packed, strict=True)), part)


class Chunk:
    """Frames of one segment, packed, and which of their envelopes are asked for."""

    def __init__(self, url: str, manifest: Manifest, frames: list[tuple[Frame, memoryview]], part: Part) -> None:
        self._url = url
        self._manifest = manifest
        self._frames = frames
        self._part = part

    def batches(self) -> Iterator[Batch]:
        """Unpack frame by frame. Raises Damaged, with what stands before given out."""
        unpack = zstandard.ZstdDecompressor()
        for frame, packed in self._frames:
            try:
                found = _checked(frame, packed, unpack)
            except (ValueError, IndexError, zstandard.ZstdError, RecursionError) as error:
                raise damaged(self._url, self._manifest, frame, str(error)) from error
            if found := _chosen(found, self._part, self._manifest.shard):
                yield Batch(self._manifest, found)


def damaged(url: str, manifest: Manifest, frame: Frame, why: str) -> Damaged:
    """What to raise where a segment cannot be read from a frame on."""
    message = (
        f"Segment {manifest.name} in {url} cannot be read from envelope {frame.first} at {frame.first_position} on: "
        f"{why.rstrip('.')}."
    )
    return Damaged(message, store=url, segment=str(manifest.name), n=frame.first, position=frame.first_position)


def _checked(frame: Frame, packed: memoryview, unpack: zstandard.ZstdDecompressor) -> list[Line]:
    if len(packed) < frame.bytes:
        raise ValueError("the file is cut off")
    if sha256(packed).hexdigest() != frame.sha256:
        raise ValueError("its bytes are not those that its manifest says")
    if zstandard.get_frame_parameters(packed).content_size != frame.raw_bytes:
        raise ValueError("it has another size than its manifest says")
    found = lines.read(unpack.decompress(packed))
    if (len(found), found[0].n, found[-1].n) != (frame.count, frame.first, frame.last):
        raise ValueError("it has other envelopes than its manifest says")
    if (found[-1].position, found[-1].link) != (frame.last_position, frame.head):
        raise ValueError("it ends otherwise than its manifest says")
    return found


def _chosen(found: list[Line], part: Part, shard: int) -> list[Line]:
    """The lines of a frame that are asked for."""
    first, after, until = part
    if found[0].n < first:
        found = [line for line in found if line.n >= first]
    if found and _place(found[0].position, shard) <= after:
        found = [line for line in found if _place(line.position, shard) > after]
    if found and until is not None and _place(found[-1].position, shard) > until:
        found = [line for line in found if _place(line.position, shard) <= until]
    return found


def _place(text: str, shard: int) -> Position:
    ms, _, sequence = text.partition("-")
    return Position(shard, int(ms), int(sequence))
