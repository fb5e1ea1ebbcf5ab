"""The index of one layer: an SQLite file with a row for each name, written once, then read-only.

It answers list, download, archive, diff and blame without a VM and without unpacking. The same rows
describe imported layers and deltas, in overlayfs' terms. `WITHOUT ROWID` on (parent, name) makes a
lookup one descent of a B-tree and a listing one range of it, in byte order of the names.
"""

from __future__ import annotations

import struct
from typing import Final, NamedTuple

from contree.adapters.layers.tar.entry import Kind, Segments, TarEntry, Xattrs, join_path

INDEX_VERSION: Final = 1
"""Part of the file's name; an index of another version is made anew from the tar."""

ROOT_PARENT: Final = b"/"
"""Parent of the root's own row. No directory has this name, since stored names have no slash."""

SOURCE_SHIFT: Final = 32
"""In the index of merged layers the bits of `ino` from here on say which of them, 0 = the lowest,
holds the file's content; in the index of a layer they are zero. So numbers never meet."""

SCHEMA: Final = """
CREATE TABLE layer (entry_count INTEGER NOT NULL, size_bytes INTEGER NOT NULL) STRICT;
CREATE TABLE entry (
    parent       BLOB NOT NULL,     -- path of the directory, '' for the root's, '/' for the root
    name         BLOB NOT NULL,
    kind         INTEGER NOT NULL,  -- entry.Kind
    implied      INTEGER NOT NULL,  -- 1: a directory the tar does not name; its metadata is below's
    opaque       INTEGER NOT NULL,  -- 1: a directory that hides what is below
    mode         INTEGER NOT NULL,
    uid          INTEGER NOT NULL,
    gid          INTEGER NOT NULL,
    mtime_s      INTEGER NOT NULL,
    size_bytes   INTEGER NOT NULL,
    ino          INTEGER NOT NULL,  -- equal for the names of one file
    link_count   INTEGER NOT NULL,  -- names of this file in this layer
    symlink      BLOB NOT NULL,
    dev_major    INTEGER NOT NULL,
    dev_minor    INTEGER NOT NULL,
    xattrs       BLOB NOT NULL,     -- pack_xattrs
    sha256       BLOB NOT NULL,     -- of a regular file (content.ContentHash), else empty
    data_offset  INTEGER NOT NULL,  -- in layer.tar
    stored_bytes INTEGER NOT NULL,
    segments     BLOB,              -- pack_segments; NULL unless sparse
    PRIMARY KEY (parent, name)
) STRICT, WITHOUT ROWID;
"""

PARTIAL_INDEXES: Final = (
    "CREATE INDEX entry_ino ON entry (ino) WHERE link_count > 1",
    "CREATE INDEX entry_implied ON entry (parent, name) WHERE implied = 1",
    "CREATE INDEX entry_whiteout ON entry (parent, name) WHERE kind = 0",
)
"""Made last: small, and cheaper in one go."""

COLUMNS: Final = (
    "parent, name, kind, implied, opaque, mode, uid, gid, mtime_s, size_bytes, ino, link_count,"
    " symlink, dev_major, dev_minor, xattrs, sha256, data_offset, stored_bytes, segments"
)


class Row(NamedTuple):
    """A row as SQLite gives it. A NamedTuple, since rows come by the hundred thousand."""

    parent: bytes
    name: bytes
    kind: int
    implied: int
    opaque: int
    mode: int
    uid: int
    gid: int
    mtime_s: int
    size_bytes: int
    ino: int
    link_count: int
    symlink: bytes
    dev_major: int
    dev_minor: int
    xattrs: bytes
    sha256: bytes
    data_offset: int
    stored_bytes: int
    segments: bytes | None

    @property
    def path(self) -> bytes:
        return b"" if self.parent == ROOT_PARENT else join_path(self.parent, self.name)

    def entry(self) -> TarEntry:
        """The row as an entry; hard links are told by `ino`, so each is its file."""
        return TarEntry(
            path=self.path,
            kind=Kind(self.kind),
            mode=self.mode,
            uid=self.uid,
            gid=self.gid,
            mtime_s=self.mtime_s,
            size_bytes=self.size_bytes,
            link=self.symlink,
            device=(self.dev_major, self.dev_minor),
            xattrs=unpack_xattrs(self.xattrs),
            segments=unpack_segments(self.segments),
            opaque=bool(self.opaque),
            data_offset=self.data_offset,
            stored_bytes=self.stored_bytes,
        )


def implied_directory(parent: bytes, name: bytes, ino: int) -> Row:
    """A directory that nothing describes: root's, 0755, of 1970, as tar extractors make it."""
    return Row(
        parent,
        name,
        Kind.DIRECTORY,
        1,
        0,
        0o755,
        0,
        0,
        0,
        0,
        ino,
        1,
        b"",
        0,
        0,
        b"",
        b"",
        0,
        0,
        None,
    )


def pack_xattrs(xattrs: Xattrs) -> bytes:
    """u16 length of the name, u32 length of the value, name, value; and again."""
    return b"".join(
        struct.pack("<HI", len(name), len(value)) + name + value for name, value in xattrs
    )


def unpack_xattrs(packed: bytes) -> Xattrs:
    if not packed:
        return ()
    found = []
    at = 0
    while at < len(packed):
        name_bytes, value_bytes = struct.unpack_from("<HI", packed, at)
        name_end = at + 6 + name_bytes
        at_end = name_end + value_bytes
        found.append((packed[at + 6 : name_end], packed[name_end:at_end]))
        at = at_end
    return tuple(found)


def pack_segments(segments: Segments | None) -> bytes | None:
    """Pairs of u64: offset, length."""
    if segments is None:
        return None
    return b"".join(struct.pack("<QQ", offset, length) for offset, length in segments)


def unpack_segments(packed: bytes | None) -> Segments | None:
    if packed is None:
        return None
    return tuple(struct.iter_unpack("<QQ", packed))
