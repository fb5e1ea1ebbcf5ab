"""The tar of an OCI layer, as a registry or we ourselves stored it, to its index.

Who made the bytes: anybody. They are kept exactly as they are, since their digest is the layer's
name; what may not be in a layer refuses it as a whole. OCI whiteouts are translated to overlayfs'
terms here, and metadata with which a layer could steer overlayfs itself is left out or refused.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Final

from contree.adapters.layers.index.writer import IndexWriter
from contree.adapters.layers.reading.content import ContentHash
from contree.adapters.layers.tar import bounds
from contree.adapters.layers.tar.entry import Kind, TarEntry, join_path, shown, split_path
from contree.adapters.layers.tar.names import OPAQUE_NAME, WHITEOUT_PREFIX
from contree.adapters.layers.tar.reader import Rules, TarReader
from contree.domain.errors import LayerRefused

OVERLAY_XATTRS: Final = b"trusted.overlay."
_AUFS_PREFIX: Final = b".wh..wh."
"""Names that aufs kept for itself; image-spec reserves them, extractors skip them."""


def index_layer(tar: Path, index_path: Path) -> int:
    """Read the layer `tar` once and write its index; return the number of entries.

    Raises LayerRefused.
    """
    index = IndexWriter(index_path)
    try:
        with tar.open("rb", buffering=bounds.COPY_CHUNK_BYTES) as stream:
            reader = TarReader(stream, Rules.IMPORT)
            for entry in reader:
                _add(index, reader, entry)
        return index.finish(size_bytes=tar.stat().st_size)
    finally:
        index.close()


def _add(index: IndexWriter, reader: TarReader, entry: TarEntry) -> None:
    parent, name = split_path(entry.path)
    if b".wh." in entry.path and _is_marker(index, entry, parent, name):
        return
    if entry.kind is Kind.CHARACTER_DEVICE and entry.device == (0, 0):
        # To overlayfs this device is a whiteout: a layer could hide files without saying so.
        raise LayerRefused(f"'{shown(entry.path)}' is a character device 0:0")
    if entry.xattrs:
        kept = tuple(pair for pair in entry.xattrs if not pair[0].startswith(OVERLAY_XATTRS))
        entry = replace(entry, xattrs=kept)
    digest = b""
    if entry.kind is Kind.REGULAR:
        hashed = ContentHash(entry)
        for chunk in reader.chunks():
            hashed.update(chunk)
        digest = hashed.digest()
    index.put(entry, data_offset=entry.data_offset, sha256=digest)


def _is_marker(index: IndexWriter, entry: TarEntry, parent: bytes, name: bytes) -> bool:
    """Take note of a whiteout; tell whether `entry` is one, or is aufs' own and to be skipped."""
    if parent.startswith(_AUFS_PREFIX) or b"/" + _AUFS_PREFIX in parent:
        return True
    if b".wh." in parent and any(part.startswith(WHITEOUT_PREFIX) for part in parent.split(b"/")):
        raise LayerRefused(f"'{shown(entry.path)}' lies below a whiteout")
    if not name.startswith(WHITEOUT_PREFIX):
        return False
    if name == OPAQUE_NAME:
        index.make_opaque(parent)
    elif not name.startswith(_AUFS_PREFIX):
        hidden = name.removeprefix(WHITEOUT_PREFIX)
        if hidden in (b"", b".", b".."):
            raise LayerRefused(f"'{shown(entry.path)}' is a whiteout of no name")
        index.put(
            TarEntry(path=join_path(parent, hidden), kind=Kind.WHITEOUT), data_offset=0, sha256=b""
        )
    return True
