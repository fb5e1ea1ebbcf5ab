"""What a guest's capture stream must be as a whole (docs/guest-protocol.md, section 6), checked.

The root first, then strictly depth-first, siblings in byte order, each directory before what is in
it, no name twice, hard links to earlier files only, whiteouts as character devices 0:0. Whatever
else a guest sends is refused. In one form only, a stream can be turned into a canonical layer while
it arrives.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Final

from contree.adapters.layers.tar.entry import Kind, TarEntry, shown, split_path
from contree.adapters.layers.tar.names import WHITEOUT_PREFIX, order_key
from contree.adapters.layers.tar.reader import TarReader
from contree.domain.errors import LayerRefused

_OVERLAY: Final = b"trusted.overlay."
_OPAQUE: Final = (_OVERLAY + b"opaque", b"y")


def guest_entries(reader: TarReader) -> Iterator[TarEntry]:
    """Yield the entries in overlayfs' terms: WHITEOUT kinds, `opaque` set. Raises LayerRefused."""
    open_directories: list[bytes] = []
    previous = b""
    for raw in reader:
        entry = _overlay_terms(raw)
        path = entry.path
        if not open_directories:
            if path or entry.kind is not Kind.DIRECTORY:
                raise LayerRefused("the stream does not begin with its root")
        else:
            if not path or order_key(path) <= previous:
                raise LayerRefused(f"'{shown(path)}' is out of order or there twice")
            parent, name = split_path(path)
            if name.startswith(WHITEOUT_PREFIX):
                raise LayerRefused(f"'{shown(path)}': a layer cannot hold names that begin '.wh.'")
            while open_directories[-1] != parent:
                open_directories.pop()
                if not open_directories:
                    raise LayerRefused(f"'{shown(path)}' is in no directory of the stream")
        if entry.kind is Kind.DIRECTORY:
            open_directories.append(path)
        previous = order_key(path)
        yield entry
    if not open_directories:
        raise LayerRefused("the stream has no entry, not even its root")


def _overlay_terms(entry: TarEntry) -> TarEntry:
    if entry.kind is Kind.CHARACTER_DEVICE and entry.device == (0, 0):
        return TarEntry(path=entry.path, kind=Kind.WHITEOUT)
    overlay = tuple(pair for pair in entry.xattrs if pair[0].startswith(_OVERLAY))
    if not overlay:
        return entry
    if overlay != (_OPAQUE,) or entry.kind is not Kind.DIRECTORY:
        raise LayerRefused(f"'{shown(entry.path)}' has attributes that steer overlayfs")
    kept = tuple(pair for pair in entry.xattrs if pair != _OPAQUE)
    return replace(entry, xattrs=kept, opaque=True)
