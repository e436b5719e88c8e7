"""Sealed copies: the segments of an archive, read line by line and byte by byte, also where a file is damaged.

Owns reading on behind what cannot be unpacked or decoded, with the manifest's help, and the check that segments follow
upon each other, agree where they overlap, and are what their manifests say. Its calls block. Called by the
verification.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from taskbus import chain
from taskbus.archive.catalog import Catalog
from taskbus.archive.manifest import SUFFIX, Manifest, Name
from taskbus.archive.reading import Reader
from taskbus.chain import Head
from taskbus.errors import UsageError
from taskbus.position import Position
from taskbus.verification.discrepancy import MOST, Discrepancy, Item, Resumption
from taskbus.verification.frames import Contents, items, read_head, unusable
from taskbus.verification.walk import Walk

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from taskbus.archive.stores import Store
    from taskbus.keys import Keys
    from taskbus.verification.discrepancy import Copy, Kind


class SealedCopy:
    """The archive as a copy that carries links; see `taskbus.verification.verifying.Linked`.

    `end` is the newest envelope that is reached from the first one without a hole, None without any.
    """

    copy: Copy = "archive"

    def __init__(self, store: Store, keys: Keys) -> None:
        self._store = store
        self._keys = keys
        names = (Name.of(file) for file in store.names() if file.endswith(SUFFIX))
        self._names = sorted({name for name in names if name is not None})
        self._heads: dict[int, tuple[Head, Name | None]] = {0: (chain.start(keys.prefix, keys.shard), None)}
        # Where one segment ends and another goes on, and how far it holds the same as that.
        self._joints = {name.first - 1 for name in self._names} | {name.last for name in self._names}
        self.found: list[Discrepancy] = []
        self.unchecked: list[str] = []
        self.unproven: list[Item] = []
        self.count = 0
        self.end: Head | None = None
        self.marks: list[Head] = []

    def check(self, moved: Callable[[int], None]) -> None:
        """Recompute everything; `moved` is told from time to time how many envelopes were read."""
        reached, whole = 0, True
        for name in self._names:
            if name.first > reached + 1:
                what = f"no segment holds #{reached + 1} to #{name.first - 1}"
                self._add("removed", what, n=reached + 1, last=name.first - 1, place=f"before segment {name}")
                whole = False
            manifest = self._manifest(name)
            if manifest is None:
                continue
            self._segment(manifest, moved)
            reached = max(reached, name.last)
            if whole and (self.end is None or name.last > self.end.n):
                self.end = manifest.end
            if len(self.found) >= MOST:
                self.unchecked.append(f"the archive behind #{name.last}, since so much is wrong before")
                break

    def head_at(self, n: int) -> Head | None:
        """The head at an envelope, by its number."""
        name = next((name for name in self._names if name.first <= n <= name.last), None)
        return self._head_in(name, n) if name else None

    def pages(self, after: Position, until: Position) -> Iterator[list[Item]]:
        """What stands after a position, up to and including another, in order; for a copy that was found sound."""
        for batch in Reader(self._store, Catalog(self._store, self._keys)).forwards(after, until):
            place = f"segment {batch.manifest.name}"
            yield [Item(line.n, line.entry, line.link, place) for line in batch.sealed()]

    def _head_in(self, name: Name, n: int) -> Head | None:
        manifest = self._read(name)
        frame = next(frame for frame in manifest.frames if n <= frame.last)
        if n == frame.last:
            return Head(n, Position.parse(frame.last_position, shard=manifest.shard), bytes.fromhex(frame.head))
        packed = self._store.read(manifest.file, frame.offset, frame.offset + frame.bytes) or b""
        return read_head(packed, manifest, frame, n)

    def _read(self, name: Name) -> Manifest:
        content = self._store.read(f"{name}{SUFFIX}")
        if content is None:
            raise ValueError("it is gone")
        return Manifest.decode(content)

    def _manifest(self, name: Name) -> Manifest | None:
        """The manifest of a segment; None where it is not one: that is said."""
        try:
            manifest = self._read(name)
            problem = unusable(manifest, name, self._keys)
        except (ValueError, UsageError) as error:
            problem = str(error)
        else:
            if problem is None:
                return manifest
        if name == self._names[-1] and not self._store.is_guarded:
            # Such a store may leave half a manifest, or is being written to at this moment.
            self.unchecked.append(f"segment {name} of the archive, since its manifest cannot be read: {problem}")
        else:
            what = f"its manifest cannot be read: {problem}"
            self._add("changed", what, n=name.first, last=name.last, place=f"manifest {name}{SUFFIX}")
        return None

    def _segment(self, manifest: Manifest, moved: Callable[[int], None]) -> None:
        name = manifest.name
        known = self._heads.get(name.first - 1)
        if known is not None and known[0] != manifest.start:
            what = "its manifest goes on from another envelope than the one before it"
            self._add("changed", what, n=name.first, place=f"manifest {name}{SUFFIX}")
        own: dict[int, Head] = {}

        def seen(item: Item) -> None:
            if item.n in self._joints and item.entry is not None:
                own[item.n] = Head(item.n, item.entry.position, item.link)

        contents = Contents(manifest, self._store, self._keys.namespace)
        walk = Walk("archive", manifest.start, on_item=seen)
        walk.through(self._items(contents, moved), manifest.end)
        self.count += walk.count
        self.found += walk.found
        self.marks += contents.heads
        if not walk.found:
            self._overlap(name, own)
            if what := contents.differing():
                self._add("changed", f"every envelope in it is as it was, but {what}", place=f"segment {name}")
        for n, head in own.items():
            self._heads.setdefault(n, (head, name))

    def _items(self, contents: Contents, moved: Callable[[int], None]) -> Iterator[Item | Resumption]:
        for frame, packed in contents.frames():
            moved(self.count + frame.last - contents.manifest.first + 1)
            yield from items(contents, frame, packed)

    def _overlap(self, name: Name, own: dict[int, Head]) -> None:
        """See whether segments that hold the same envelopes agree: they do as far as their links do."""
        for n in sorted(own):
            head, other = self._heads.get(n, (own[n], None))
            if other is None or head == own[n]:
                continue
            low, high = max(name.first, other.first), n
            while low < high:
                middle = (low + high) // 2
                if self._head_in(name, middle) == self._head_in(other, middle):
                    low = middle + 1
                else:
                    high = middle
            what = f"segments {other} and {name} differ from here on, and each agrees with its own links"
            self._add("changed", what, n=low, place=f"segment {name}")
            return

    def _add(self, kind: Kind, what: str, place: str, n: int | None = None, last: int | None = None) -> None:
        self.found.append(Discrepancy("archive", kind, what, n, last, place=place))
