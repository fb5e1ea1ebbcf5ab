"""What the kinds of a layer's entries are to those who look into an image."""

from __future__ import annotations

from typing import Final

from contree.adapters.layers.index.schema import Row, unpack_xattrs
from contree.adapters.layers.tar.entry import Kind
from contree.app.images.layer_comparison import LayerEntry
from contree.app.images.layer_store import EntryType

ENTRY_TYPES: Final = {
    Kind.DIRECTORY: EntryType.DIRECTORY,
    Kind.REGULAR: EntryType.REGULAR,
    Kind.SYMLINK: EntryType.SYMLINK,
    Kind.CHARACTER_DEVICE: EntryType.CHARACTER_DEVICE,
    Kind.BLOCK_DEVICE: EntryType.BLOCK_DEVICE,
    Kind.FIFO: EntryType.FIFO,
}
"""An image shows no whiteouts, and a hard link as the file that it is a name of."""


def layer_entry(row: Row) -> LayerEntry:
    """Return what a row says of its path."""
    kind = Kind(row.kind)
    if kind is Kind.WHITEOUT:
        return LayerEntry(type=None)
    return LayerEntry(
        type=ENTRY_TYPES[kind],
        mode=row.mode,
        uid=row.uid,
        gid=row.gid,
        mtime_s=row.mtime_s,
        size_bytes=row.size_bytes,
        sha256=row.sha256.hex(),
        sparse=row.segments is not None,
        symlink_to=row.symlink.decode("utf-8", "surrogateescape"),
        device=(row.dev_major, row.dev_minor),
        xattrs={
            name.decode("utf-8", "surrogateescape"): value
            for name, value in unpack_xattrs(row.xattrs)
        },
        opaque=bool(row.opaque),
    )
