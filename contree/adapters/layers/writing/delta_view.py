"""What a guest's change means beside the layers it was made on: the same, a new time, or a change.

overlayfs copies a file up on any attempt to write to it and marks every new directory opaque; tools
rewrite files with what they already held. None of that is a change of the image.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Final

from contree.adapters.layers.index.schema import Row, pack_segments, pack_xattrs
from contree.adapters.layers.index.stack import Node, Stack
from contree.adapters.layers.tar.entry import Kind, TarEntry

SQUASHFS_MTIME_MAX_S: Final = 2**32 - 1


def squashfs_mtime(mtime_s: int) -> int:
    """Return the time as a guest sees it: squashfs holds unsigned 32 bits."""
    return min(max(mtime_s, 0), SQUASHFS_MTIME_MAX_S)


class Below:
    """The image under a delta, walked along with it: depth-first, each directory once."""

    def __init__(self, stack: Stack) -> None:
        self._stack = stack
        self._trail: list[tuple[bytes, Node | None]] = [(b"", stack.root())]

    def at(self, parent: bytes, name: bytes) -> Node | None:
        """Return what the image shows there, None also in what the delta made opaque."""
        directory = self._directory(parent)
        if directory is None or not directory.is_directory:
            return None
        return self._stack.child(directory, name)

    @property
    def root(self) -> Node:
        return self._stack.root()

    def enter(self, path: bytes, node: Node | None) -> None:
        """Say what is below a directory that the delta has, None if it hides that."""
        while not _holds(self._trail[-1][0], path):
            self._trail.pop()
        self._trail.append((path, node))

    def has_children(self, node: Node) -> bool:
        return next(self._stack.children(node), None) is not None

    def _directory(self, path: bytes) -> Node | None:
        while self._trail[-1][0] != path:
            self._trail.pop()
        return self._trail[-1][1]


def _holds(directory: bytes, path: bytes) -> bool:
    return not directory or path.startswith(directory + b"/")


def inherited_root(entry: TarEntry, below: Node) -> TarEntry:
    """The delta's root entry, with the root's xattrs from below when it has none.

    The agent gives the upper directory the mode, owner and time of the root it covers, not its
    xattrs.
    """
    if entry.xattrs:
        return entry
    return replace(entry, xattrs=below.row.entry().xattrs)


def same_but_for_time(entry: TarEntry, row: Row) -> bool:
    """Tell whether everything but mtime and content is as below."""
    return (
        entry.kind == row.kind
        and entry.mode == row.mode
        and entry.uid == row.uid
        and entry.gid == row.gid
        and entry.size_bytes == row.size_bytes
        and entry.link == row.symlink
        and entry.device == (row.dev_major, row.dev_minor)
        and pack_xattrs(entry.xattrs) == row.xattrs
        and (entry.kind is not Kind.REGULAR or pack_segments(entry.segments) == row.segments)
    )


def same_time(entry: TarEntry, row: Row) -> bool:
    return squashfs_mtime(entry.mtime_s) == squashfs_mtime(row.mtime_s)
