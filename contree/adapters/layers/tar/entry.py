"""One entry of a layer, as tar readers give it and as writers and the index take it.

Names are bytes without leading or trailing slash; the root is the empty name. Whiteouts and opaque
directories are said in overlayfs' terms (`WHITEOUT`, `opaque`), whatever the stream called them.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import IntEnum

Segments = tuple[tuple[int, int], ...]
"""(offset, length) of the data of a sparse file, rising, without overlap; the rest is zero."""

Xattrs = tuple[tuple[bytes, bytes], ...]
"""(name, value), sorted by name."""


class Kind(IntEnum):
    """File type; the values of real files are the type bits of st_mode, shifted by 12."""

    WHITEOUT = 0
    FIFO = 1
    CHARACTER_DEVICE = 2
    DIRECTORY = 4
    BLOCK_DEVICE = 6
    REGULAR = 8
    SYMLINK = 10
    HARD_LINK = 16


SYMLINK_MODE = 0o777
"""What Linux shows of every symbolic link, whatever an archive says (symlink(7))."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TarEntry:
    """A validated entry.

    mode          low 12 bits
    size_bytes    length of a regular file, holes included; 0 for all else
    link          symlink: its target as is; hard link: the path of the file it is a name of
    segments      None unless the file is sparse
    opaque        a directory that hides what lower layers have in it
    offset        where the header (with its extended headers) begins in the stream
    data_offset   where the stored bytes begin; after the map for GNU sparse 1.0
    stored_bytes  how many bytes the stream holds for it: size_bytes unless sparse
    """

    path: bytes
    kind: Kind
    mode: int = 0
    uid: int = 0
    gid: int = 0
    mtime_s: int = 0
    size_bytes: int = 0
    link: bytes = b""
    device: tuple[int, int] = (0, 0)
    xattrs: Xattrs = ()
    segments: Segments | None = None
    opaque: bool = False
    offset: int = 0
    data_offset: int = 0
    stored_bytes: int = 0

    def named_again(self, first: bytes) -> TarEntry:
        """Return the hard link that says that this is one more name of the file at `first`."""
        return replace(
            self, kind=Kind.HARD_LINK, link=first, segments=None, stored_bytes=0, xattrs=()
        )


def split_path(path: bytes) -> tuple[bytes, bytes]:
    """Return (directory, name); the directory of a top-level name is the empty path."""
    parent, _, name = path.rpartition(b"/")
    return parent, name


def join_path(parent: bytes, name: bytes) -> bytes:
    return parent + b"/" + name if parent else name


def shown(path: bytes) -> str:
    """Return a name for an error message: printable, bounded."""
    text = path[:200].decode("utf-8", "backslashreplace")
    return text if text.isprintable() else ascii(text)[1:-1]
