"""The catalog: which segments stand in a store, and which of them to read for a part of the log.

Owns the choice among segments that overlap: the one that goes on where the reader is and reaches farthest. It looks at
names first, and reads few manifests, so that an archive may have any number of segments. It refuses a segment of
another log. Its calls block. Called by the archive, from threads.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import TYPE_CHECKING, Final, NamedTuple

from taskbus.archive.manifest import SUFFIX, Manifest, Name
from taskbus.errors import Damaged, OtherLog

if TYPE_CHECKING:
    from collections.abc import Iterator

    from taskbus.archive.stores import Store
    from taskbus.keys import Keys
    from taskbus.position import Position

_REMEMBERED: Final = 64
"""So many manifests are kept in memory; each has some kilobytes."""


class Piece(NamedTuple):
    """A segment to read from the envelope with number `first` on: what stands before is read from the one before."""

    name: Name
    first: int


class Catalog:
    """The segments of one log in one store, as they stood when it was made."""

    def __init__(self, store: Store, keys: Keys) -> None:
        self._store = store
        self._keys = keys
        self._manifests: OrderedDict[Name, Manifest] = OrderedDict()
        self.files = store.names()
        names = (Name.of(file) for file in self.files if file.endswith(SUFFIX))
        self.names = sorted({name for name in names if name is not None})
        # A store that is no folder may leave half a manifest, of a segment that was never done: it does not stand yet.
        while self.names and not self._is_whole(self.names[-1]):
            self.names.pop()
        self.pieces = list(self._pieces())

    def manifest(self, name: Name) -> Manifest:
        """The manifest of a segment. Raises Damaged, and OtherLog where it is from another log."""
        if (found := self._manifests.get(name)) is not None:
            self._manifests.move_to_end(name)
            return found
        content = self._store.read(f"{name}{SUFFIX}")
        try:
            found = _decoded(content, name)
        except ValueError as error:
            message = f"The manifest of segment {name} in {self._store.url} cannot be read: {error}."
            raise Damaged(message, store=self._store.url, segment=str(name), n=name.first, position="") from error
        if (found.prefix, found.shard) != (self._keys.prefix, self._keys.shard):
            message = f"Segment {name} in {self._store.url} is from the log of {found.prefix}, not {self._keys.prefix}."
            raise OtherLog(message)
        self._manifests[name] = found
        if len(self._manifests) > _REMEMBERED:
            self._manifests.popitem(last=False)
        return found

    def manifests(self) -> Iterator[Manifest]:
        """Those of all segments that stand. Raises as `manifest` does, but for one that others cover."""
        needed = {piece.name for piece in self.pieces}
        for name in self.names:
            # As above: it was made anew in another size.
            if name in needed or self._is_whole(name):
                yield self.manifest(name)

    def hole(self, index: int) -> int | None:
        """The number of the first envelope that is missing before a piece, where the one before it does not reach."""
        follows = self.pieces[index - 1].name.last + 1 if index else 1
        return follows if follows < self.pieces[index].first else None

    def unbroken(self) -> Manifest | None:
        """The last segment that is reached from the first one without a hole."""
        holes = (index for index in range(1, len(self.pieces)) if self.hole(index) is not None)
        end = next(holes, len(self.pieces))
        return self.manifest(self.pieces[end - 1].name) if end else None

    def after(self, position: Position) -> int:
        """The index of the first piece that has an envelope after a position; one past the last where none has."""
        low, high = 0, len(self.pieces)
        while low < high:
            middle = (low + high) // 2
            if self.manifest(self.pieces[middle].name).end.position > position:
                high = middle
            else:
                low = middle + 1
        return low

    def _pieces(self) -> Iterator[Piece]:
        """What to read of which segment, in order and nothing twice."""
        names = self.names
        n, index = names[0].first if names else 1, 0
        while index < len(names):
            fitting: list[Name] = []
            while index < len(names) and names[index].first <= n:
                if names[index].last >= n:
                    fitting.append(names[index])
                index += 1
            if fitting:
                best = self._farthest(fitting)
                yield Piece(best, n)
                n = best.last + 1
            elif index < len(names):
                n = names[index].first

    def _farthest(self, names: list[Name]) -> Name:
        """The one that reaches farthest, the first of them; none that was never done, where another one was."""
        found = sorted(names, key=lambda name: -name.last)
        return next((name for name in found if self._is_whole(name)), found[0]) if len(found) > 1 else found[0]

    def _is_whole(self, name: Name) -> bool:
        try:
            self.manifest(name)
        except Damaged:
            return False
        return True


def _decoded(content: bytes | None, name: Name) -> Manifest:
    if content is None:
        raise ValueError("it is gone")
    found = Manifest.decode(content)
    if found.name != name:
        raise ValueError(f"it is that of {found.name}")
    return found
