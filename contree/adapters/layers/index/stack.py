"""The merged view of an image's layers: what overlayfs would show, computed from their indexes.

Rules (kernel overlayfs.rst; OCI image-spec layer.md says the same in other words): the topmost
layer that has a name decides it; a whiteout hides the name in all layers below; two directories
merge, until an opaque one or something that is not a directory hides the rest. One rule is ours: a
directory that a layer only implies shows the metadata of the layers below (`squashfs` makes the
guest's view agree). Nothing here reads file contents.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from heapq import merge
from itertools import groupby
from typing import Final

from contree.adapters.layers.index.reader import LayerIndex
from contree.adapters.layers.index.schema import SOURCE_SHIFT, Row, implied_directory
from contree.adapters.layers.tar import bounds
from contree.adapters.layers.tar.entry import Kind, join_path

_DIRECTORY: Final = int(Kind.DIRECTORY)
_WHITEOUT: Final = int(Kind.WHITEOUT)
_SYMLINK: Final = int(Kind.SYMLINK)


@dataclass(frozen=True, slots=True)
class Node:
    """A file of the image.

    path    where it is, without symbolic links, without a leading slash
    row     what describes it; of a directory, its metadata
    layer   number of the layer that `row` is from, 0 = bottom
    merged  for a directory: the indexes whose children it shows, by number, top first
    """

    path: bytes
    row: Row
    layer: int
    merged: tuple[int, ...] = ()

    @property
    def is_directory(self) -> bool:
        return self.row.kind == _DIRECTORY


class Stack:
    """`indexes` are those of the layers, bottom to top; they must stay open meanwhile.

    Some may be of several layers merged (`merging`): `starts` gives for each index the number of
    its lowest layer. What is shown is the same.
    """

    def __init__(self, indexes: Sequence[LayerIndex], starts: Sequence[int] | None = None) -> None:
        self._indexes = indexes
        self._starts = range(len(indexes)) if starts is None else starts

    def root(self) -> Node:
        """Return the root; of no layers at all it is empty."""
        top_first = range(len(self._indexes) - 1, -1, -1)
        node = self._node(b"", ((number, self._indexes[number].root()) for number in top_first))
        return node or Node(b"", implied_directory(b"/", b"", 0), 0)

    def child(self, directory: Node, name: bytes) -> Node | None:
        """Return what the image shows as `name` in `directory`."""
        parent = directory.path
        return self._node(
            join_path(parent, name),
            (
                (number, row)
                for number in directory.merged
                if (row := self._indexes[number].get(parent, name)) is not None
            ),
        )

    def children(self, directory: Node) -> Iterator[Node]:
        """Yield the directory's entries by name, in constant memory."""
        parent = directory.path
        streams = [
            _ranked(self._indexes[number].children(parent), rank, number)
            for rank, number in enumerate(directory.merged)
        ]
        same: list[tuple[int, Row]] = []
        for name, _, number, row in streams[0] if len(streams) == 1 else merge(*streams):
            if same and same[0][1].name != name:
                if (node := self._node(join_path(parent, same[0][1].name), same)) is not None:
                    yield node
                same = []
            same.append((number, row))
        if same and (node := self._node(join_path(parent, same[0][1].name), same)) is not None:
            yield node

    def named_from(self, first: int, directory: Node) -> Iterator[bytes]:
        """Yield the names in the directory that indexes from `first` on say something of, in order.

        Some may be of nothing that is shown: whiteouts.
        """
        parent = directory.path
        names = (
            (row.name for row in self._indexes[number].children(parent))
            for number in directory.merged
            if number >= first
        )
        return (name for name, _ in groupby(merge(*names)))

    def find(self, path: bytes) -> Node | None:
        """Return what stands at `path` itself; no symbolic link is followed."""
        node: Node | None = self.root()
        for name in path.split(b"/") if path else ():
            if node is None or not node.is_directory:
                return None
            node = self.child(node, name)
        return node

    def resolve(self, path: bytes, *, follow: bool = True) -> Node | None:
        """Return what `path` leads to, links followed inside the image as with chroot(2).

        The last component's link is followed only with `follow`. More than SYMLINKS_MAX links, or
        a dangling one, lead nowhere: None.
        """
        trail = [self.root()]
        pending = _components(path)
        links_left = bounds.SYMLINKS_MAX
        while pending:
            name = pending.pop()
            if not trail[-1].is_directory:
                return None
            if name == b"..":
                if len(trail) > 1:
                    trail.pop()
                continue
            node = self.child(trail[-1], name)
            if node is None:
                return None
            if node.row.kind != _SYMLINK or not (pending or follow):
                trail.append(node)
                continue
            links_left -= 1
            if links_left < 0:
                return None
            target = node.row.symlink
            if target.startswith(b"/"):
                del trail[1:]
            pending.extend(_components(target))
        return trail[-1]

    def links_shown(self, node: Node) -> int:
        """Return how many names of `node`'s file the image shows, itself included."""
        row = node.row
        if row.link_count == 1 or node.is_directory:
            return 1
        if row.link_count > bounds.NLINK_EXACT_MAX:
            return row.link_count
        index = self._indexes[bisect_right(self._starts, node.layer) - 1]
        names = index.names_of(row.ino, limit=bounds.NLINK_EXACT_MAX)
        return sum(1 for other in names if self._shows(other, node.layer))

    def _node(self, path: bytes, found: Iterable[tuple[int, Row]]) -> Node | None:
        what = decided(found)
        if what is None:
            return None
        number, row, merged, _ = what
        return Node(path, row, self._starts[number] + (row.ino >> SOURCE_SHIFT), merged)

    def _shows(self, row: Row, layer: int) -> bool:
        node = self.find(row.path)
        return node is not None and node.layer == layer and node.row.ino == row.ino


def _components(path: bytes) -> list[bytes]:
    """Return the components, last first, empty ones and `.` left out."""
    return [name for name in reversed(path.split(b"/")) if name not in (b"", b".")]


def _ranked(rows: Iterable[Row], rank: int, number: int) -> Iterator[tuple[bytes, int, int, Row]]:
    """Tag rows so that merging sorts by name, then top layer first."""
    return ((row.name, rank, number, row) for row in rows)


def decided(found: Iterable[tuple[int, Row]]) -> tuple[int, Row, tuple[int, ...], bool] | None:
    """Decide what a name is, from what the indexes have there, top to bottom; None = nothing there.

    Returns the number of the index that describes it, the row, for a directory the indexes whose
    children it shows, and whether it was seen to the end: False when something on the way hides
    whatever is further down, metadata included.
    """
    shown: tuple[int, Row] | None = None
    numbers: list[int] = []
    hidden = False  # what is below an opaque directory: it may still lend its metadata
    to_the_end = True
    for number, row in found:
        if row.kind == _WHITEOUT or (row.kind != _DIRECTORY and shown is not None):
            to_the_end = False
            break
        if row.kind != _DIRECTORY:
            return number, row, (), False
        if not hidden:
            numbers.append(number)
        if shown is None or (shown[1].implied and not row.implied):
            shown = (number, row)
        hidden = hidden or bool(row.opaque)
        if hidden and not shown[1].implied:
            to_the_end = False
            break
    return None if shown is None else (*shown, tuple(numbers), to_the_end)
