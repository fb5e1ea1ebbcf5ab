"""Layers to squashfs that guests mount as overlayfs lower directories; merged ones as one layer.

`sqfstar` is fed a tar of our own making, entry by entry from the index, file contents by
sendfile(2) from the layer's tar: the headers of a hostile tar never reach it, nothing is ever
unpacked. Whiteouts go in as character devices 0:0, opaque directories with
`trusted.overlay.opaque`; attributes that squashfs cannot hold (all but user., trusted., security.)
are left out, and so are those of the root.

overlayfs shows the metadata of the topmost directory. So a directory that the layer only implies,
its root first of all, must carry what the layers below show: see `mount_variant`.

squashfs-tools 4.5 cannot set the root's metadata from a tar (it ignores `./`, and its options for
owner and time do nothing with sqfstar), hence `squashfs_root`. Times are clamped to 1970..2106, all
that squashfs can say.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Final

from contree.adapters.layers.delta_view import squashfs_mtime
from contree.adapters.layers.entry import TarEntry
from contree.adapters.layers.index_reader import LayerIndex
from contree.adapters.layers.index_schema import SOURCE_SHIFT, Row
from contree.adapters.layers.mount_variant import MountVariant
from contree.adapters.layers.open_tars import OpenTars
from contree.adapters.layers.sqfstar import Sqfstar
from contree.adapters.layers.sqfstar_sparse import send_widened, widened
from contree.adapters.layers.staging import sync_file
from contree.adapters.layers.tar_writer import END_OF_ARCHIVE, header, padding

_XATTR_PREFIXES: Final = (b"user.", b"trusted.", b"security.")
_OPAQUE: Final = (b"trusted.overlay.opaque", b"y")
_HEADERS_BYTES: Final = 64 * 1024
"""How many bytes of small entries are gathered before they are written to the pipe."""


def build_squashfs(
    *,
    index: LayerIndex,
    tars: Sequence[Path],
    variant: MountVariant,
    target: Path,
    pulse: Callable[[], None] = lambda: None,
) -> None:
    """Write the squashfs of a layer to `target`, fsynced; of merged layers, `tars` are all theirs.

    `pulse` is called for each name; what it raises ends the work. Raises StorageFullError,
    LayerRefused when sqfstar gives up on it.
    """
    root = variant.borrowed.get(b"") or index.root().entry()
    with Sqfstar(target, root) as sqfstar, closing(OpenTars(tars)) as opened:
        _feed(sqfstar, _with_pulse(index.rows(), pulse), opened, variant)
        sqfstar.finish()
    sync_file(target)


def _with_pulse(rows: Iterator[Row], pulse: Callable[[], None]) -> Iterator[Row]:
    for row in rows:
        pulse()
        yield row


def overlay_form(entry: TarEntry) -> TarEntry:
    """Return the entry as sqfstar is to make it: with what squashfs and overlayfs can hold."""
    xattrs = entry.xattrs
    if xattrs:
        xattrs = tuple(pair for pair in xattrs if pair[0].startswith(_XATTR_PREFIXES))
    if entry.opaque:
        xattrs = (*xattrs, _OPAQUE)
    return replace(entry, mtime_s=squashfs_mtime(entry.mtime_s), xattrs=xattrs)


def sendable(entry: TarEntry) -> TarEntry:
    """Return a sparse file with the segments that sqfstar is sent."""
    extents = widened(entry.segments or (), entry.size_bytes)
    sent = entry.size_bytes if extents is None else sum(length for _, length in extents)
    return replace(entry, segments=extents, stored_bytes=sent)


def _feed(sqfstar: Sqfstar, rows: Iterator[Row], tars: OpenTars, variant: MountVariant) -> None:
    """Write the overlay form of the layer to sqfstar."""
    first_names: dict[int, bytes] = {}
    pending = bytearray()
    for row in rows:
        path = row.path
        if not path or path in variant.idle:
            continue
        entry = overlay_form(_shown(row, variant.borrowed.get(path) if row.implied else None))
        if row.link_count > 1:
            first = first_names.setdefault(row.ino, path)
            if first != path:
                entry = entry.named_again(first)
        stored = entry
        if entry.segments is not None:
            entry = sendable(entry)
        pending += header(entry, charset=False)
        if entry.stored_bytes:
            sqfstar.write(pending)
            pending.clear()
            _content(sqfstar, tars.descriptor(row.ino >> SOURCE_SHIFT), stored, entry)
            pending += padding(entry.stored_bytes)
        elif len(pending) > _HEADERS_BYTES:
            sqfstar.write(pending)
            pending.clear()
    sqfstar.write(pending + END_OF_ARCHIVE)


def _shown(row: Row, shows: TarEntry | None) -> TarEntry:
    entry = row.entry()
    if shows is None:
        return entry
    return replace(
        entry,
        mode=shows.mode,
        uid=shows.uid,
        gid=shows.gid,
        mtime_s=shows.mtime_s,
        xattrs=shows.xattrs,
    )


def _content(sqfstar: Sqfstar, source: int, stored: TarEntry, sent: TarEntry) -> None:
    """Send a file's content; `stored` says how it lies in the layer, `sent` what was announced."""
    if stored.segments is None:
        sqfstar.send(source, stored.data_offset, stored.stored_bytes)
        return
    send_widened(
        stored.segments,
        sent.segments or ((0, stored.size_bytes),),
        data=lambda at, length: sqfstar.send(source, stored.data_offset + at, length),
        write=sqfstar.write,
    )
