"""Layers to squashfs that guests mount as overlayfs lower directories; merged ones as one layer.

What is made is metadata: the blocks of files are the bytes of the layers' tars where they lie
(squashfs_content), and the disk that a guest sees puts the two together (squashfs_head). It is made
from an index, so what a tar's headers say was checked before, and nothing is ever unpacked.
Whiteouts become character devices 0:0, opaque directories get `trusted.overlay.opaque`; attributes
that squashfs cannot hold (all but user., trusted., security.) are left out, and so are those of the
root, which overlayfs does not show.

overlayfs shows the metadata of the topmost directory. So a directory that the layer only implies,
its root first of all, must carry what the layers below show: see `variant`. Times are clamped
to 1970..2106, all that squashfs can say.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable, Iterable, Sequence
from contextlib import closing
from dataclasses import replace
from heapq import nlargest
from itertools import groupby
from pathlib import Path
from typing import BinaryIO, Final, Self

from contree.adapters.layers.index.reader import LayerIndex
from contree.adapters.layers.index.schema import SOURCE_SHIFT, Row
from contree.adapters.layers.reading.open_tars import OpenTars
from contree.adapters.layers.squashfs import format as form
from contree.adapters.layers.squashfs.content import Contents
from contree.adapters.layers.squashfs.directories import Directories
from contree.adapters.layers.squashfs.head import HEAD_BYTES, Tar, head, whole_pages
from contree.adapters.layers.squashfs.tables import (
    IdTable,
    Table,
    XattrTable,
    write_indexed,
)
from contree.adapters.layers.squashfs.variant import MountVariant
from contree.adapters.layers.staging import sync_file
from contree.adapters.layers.tar import bounds
from contree.adapters.layers.tar.entry import Kind, TarEntry
from contree.adapters.layers.writing.delta_view import squashfs_mtime
from contree.domain.errors import LayerRefused

_OPAQUE: Final = (b"trusted.overlay.opaque", b"y")

IMAGE_BYTES_MAX: Final = 64 * 1024**3
"""What a guest's disk has room for (docs/guest-protocol.md, `LAYER_ROOM`)."""

_WRITE_BYTES: Final = 1024**2

IN_PLACE_MIN_BYTES: Final = 1024**2
IN_PLACE_MAX: Final = 8
"""Of merged layers, so many of the largest tars are parts of the image if they are not smaller: a
guest's disk opens each; what the others hold is copied."""


def build_squashfs(
    *,
    index: LayerIndex,
    tars: Sequence[Path],
    variant: MountVariant,
    target: Path,
    pulse: Callable[[], None] = lambda: None,
) -> None:
    """Write the mountable file of a layer to `target`, fsynced; of merged ones, `tars` are all.

    `pulse` is called for each name; what it raises ends the work. Raises StorageFullError,
    LayerRefused when squashfs cannot hold what the layer has.
    """
    sizes = [path.stat().st_size for path in tars]
    with (
        target.open("wb", buffering=0) as stream,
        closing(OpenTars(tars)) as opened,
        _Builder(stream.fileno(), target.parent, opened, sizes, variant) as builder,
    ):
        for parent, rows in groupby(index.rows_upwards(), key=lambda row: row.parent):
            builder.directory(parent, rows, pulse)
        builder.finish(index.root())
    sync_file(target)


def _in_place(sizes: Sequence[int]) -> list[Tar]:
    """Choose the tars that are parts of the image."""
    if len(sizes) == 1:
        return [Tar(layer=0, size_bytes=sizes[0])]
    large = [n for n, size_bytes in enumerate(sizes) if size_bytes >= IN_PLACE_MIN_BYTES]
    largest = nlargest(IN_PLACE_MAX, large, key=lambda n: sizes[n])
    return [Tar(layer=n, size_bytes=sizes[n]) for n in sorted(largest)]


class _Builder:
    """Inodes and names, deepest directories first: a name tells where its inode lies."""

    def __init__(
        self,
        out: int,
        directory: Path,
        tars: OpenTars,
        sizes: Sequence[int],
        variant: MountVariant,
    ) -> None:
        self._out = out
        self._variant = variant
        self._tars = _in_place(sizes)
        self._shift = sum(tar.room_bytes for tar in self._tars)
        bases, at = {}, HEAD_BYTES
        for tar in self._tars:
            bases[tar.layer] = at
            at += tar.room_bytes
        self._contents = Contents(
            tars,
            bases=bases,
            out=out,
            at=HEAD_BYTES,
            shift=self._shift,
            spare_bytes=bounds.SPARSE_EXPANSION_FREE_BYTES
            + bounds.SPARSE_EXPANSION_MAX * sum(sizes),
        )
        self._inodes = Table(directory)
        self._ids = IdTable()
        self._xattrs = XattrTable(directory)
        self._directories = Directories(directory)
        self._references = array("Q")  # of inodes, by number - 1
        self._numbers: dict[bytes, int] = {}  # of directories whose inodes are to come
        self._linked: dict[int, tuple[int, int]] = {}  # number and position of files by `ino`

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._inodes.close()
        self._xattrs.close()
        self._directories.close()

    def directory(self, parent: bytes, rows: Iterable[Row], pulse: Callable[[], None]) -> None:
        """Add what is in the directory `parent`, by name; what is below it has been added."""
        with self._directories.listing(parent) as names:
            for row in rows:
                pulse()
                path = row.path
                if path in self._variant.idle:
                    continue
                entry = self._shown(row, path)
                if entry.kind is Kind.DIRECTORY:
                    number, position = self._directory(entry, self._directory_number(parent))
                else:
                    number, position = self._file(row, entry)
                names.add(row.name, entry.kind, position=position, number=number)

    def finish(self, root: Row) -> None:
        """Add the root, write the tables and the head."""
        shown = replace(self._shown(root, b""), opaque=False, xattrs=())
        _, position = self._directory(shown, len(self._references) + 2)  # no inode has this
        with open(self._out, "r+b", buffering=_WRITE_BYTES, closefd=False) as stream:
            stream.seek(self._contents.at)
            tables = self._write_tables(stream, form.reference(position))
            end = stream.tell()
            stream.write(bytes(whole_pages(end) - end))
            stream.seek(0)
            stream.write(head(form.superblock(tables), self._tars))

    def _write_tables(self, stream: BinaryIO, root: int) -> form.Tables:
        """The kernel wants them in this order, and nothing between."""

        def here() -> int:
            return stream.tell() + self._shift

        inodes = here()
        self._inodes.write_to(stream.write)
        directories = here()
        names = self._directories.table
        if not names.size_bytes:
            names.append(b"\0")  # squashfs-tools take an empty table for a damaged one
        names.write_to(stream.write)
        directories_end = here()
        numbers = write_indexed(self._references.tobytes(), stream.write, here())
        ids = write_indexed(self._ids.packed(), stream.write, here())
        xattrs = form.NOTHING
        if len(self._xattrs):
            xattrs = self._xattrs.write_to(stream.write, here())
        bytes_used = here()
        if bytes_used > IMAGE_BYTES_MAX:
            raise LayerRefused(f"the layer takes {bytes_used} bytes, allowed {IMAGE_BYTES_MAX}")
        return form.Tables(
            inode_count=len(self._references),
            id_count=len(self._ids),
            root=root,
            inodes=inodes,
            directories=directories,
            directories_end=directories_end,
            numbers=numbers,
            ids=ids,
            xattrs=xattrs,
            bytes_used=bytes_used,
        )

    # -- inodes -------------------------------------------------------------------------------

    def _shown(self, row: Row, path: bytes) -> TarEntry:
        """Return what a guest is to see of a name."""
        entry = row.entry()
        shows = self._variant.borrowed.get(path) if row.implied else None
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

    def _directory(self, entry: TarEntry, parent: int) -> tuple[int, int]:
        """Add the inode of a directory whose names are written; return number and position."""
        number = self._directory_number(entry.path)
        del self._numbers[entry.path]
        inode = form.directory_inode(
            self._base(entry, number), listing=self._directories.take(entry.path), parent=parent
        )
        return number, self._added(inode, number)

    def _file(self, row: Row, entry: TarEntry) -> tuple[int, int]:
        """Add the inode of anything else unless it has one; return number and position."""
        known = self._linked.get(row.ino)
        if known is not None:
            return known
        number = self._new_number()
        base = self._base(entry, number)
        if entry.kind is Kind.REGULAR:
            stored = self._contents.stored(row.ino >> SOURCE_SHIFT, entry)
            inode = form.file_inode(
                base, size_bytes=entry.size_bytes, names=row.link_count, stored=stored
            )
        else:
            inode = form.other_inode(
                base, entry.kind, names=row.link_count, link=entry.link, device=entry.device
            )
        made = number, self._added(inode, number)
        if row.link_count > 1:
            self._linked[row.ino] = made
        return made

    def _base(self, entry: TarEntry, number: int) -> form.Base:
        xattrs = (*entry.xattrs, _OPAQUE) if entry.opaque else entry.xattrs
        return form.Base(
            mode=entry.mode,
            uid=self._ids.index(entry.uid),
            gid=self._ids.index(entry.gid),
            mtime_s=squashfs_mtime(entry.mtime_s),
            number=number,
            xattrs=self._xattrs.number(xattrs) if xattrs else form.NO_XATTRS,
        )

    def _added(self, inode: bytes, number: int) -> int:
        position = self._inodes.append(inode)
        self._references[number - 1] = form.reference(position)
        return position

    def _directory_number(self, path: bytes) -> int:
        """Return the number of a directory, whose inode comes after those of what is in it."""
        number = self._numbers.get(path)
        if number is None:
            number = self._numbers[path] = self._new_number()
        return number

    def _new_number(self) -> int:
        self._references.append(0)
        return len(self._references)
