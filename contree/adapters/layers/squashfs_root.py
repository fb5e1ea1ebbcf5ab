"""Sets owner, mode and time of the root directory in a finished squashfs, by patching its inode.

Layout: kernel Documentation/filesystems/squashfs.rst and fs/squashfs/squashfs_fs.h (version 4.0,
little-endian). The image must have been made with `-noI`: inodes and ids lie there as they are.
The file is our own; whatever does not look as expected is a bug or another squashfs-tools:
RuntimeError.
"""

from __future__ import annotations

import mmap
import struct
from pathlib import Path
from typing import Final

from contree.adapters.layers.delta_view import squashfs_mtime
from contree.adapters.layers.entry import Kind, TarEntry

_SUPERBLOCK: Final = struct.Struct("<5I6H8Q")
_MAGIC: Final = 0x73717368
_METADATA_BYTES: Final = 8192
_UNCOMPRESSED: Final = 0x8000
_INODE_HEAD: Final = struct.Struct("<HHHHI")  # type, mode, uid index, gid index, mtime
_DIRECTORY_TYPES: Final = (1, 8)


def owner_mark(root: TarEntry) -> TarEntry:
    """A whiteout that brings the root's owner into the table of ids, where the inode needs it.

    It hides a name that nothing has, and overlayfs shows no whiteout: nobody ever sees it.
    """
    name = b".contree-owner-of-the-root-5d1c3f0e9a7b48d2"
    return TarEntry(path=name, kind=Kind.WHITEOUT, uid=root.uid, gid=root.gid)


def set_root(path: Path, root: TarEntry) -> None:
    """Give the image's root directory the mode, owner and time of `root`."""
    with path.open("r+b") as stream, mmap.mmap(stream.fileno(), 0) as image:
        fields = _SUPERBLOCK.unpack_from(image, 0)
        if fields[0] != _MAGIC:
            raise RuntimeError(f"{path} is not a squashfs")
        id_count, root_inode = fields[8], fields[11]
        id_table, inode_table = fields[13], fields[15]
        ids = _ids(image, id_table, id_count)
        at = _positions(image, inode_table, root_inode)
        kind = image[at[0]]
        if kind not in _DIRECTORY_TYPES:
            raise RuntimeError(f"{path}: the root inode is not a directory")
        packed = _INODE_HEAD.pack(
            kind,
            root.mode,
            ids.index(root.uid),
            ids.index(root.gid),
            squashfs_mtime(root.mtime_s),
        )
        for position, value in zip(at, packed, strict=True):
            image[position] = value


def _ids(image: mmap.mmap, table: int, count: int) -> list[int]:
    """Read the id table: blocks of 2,048 ids each, found through a list of their positions."""
    ids: list[int] = []
    for number in range(-(-count * 4 // _METADATA_BYTES)):
        (block,) = struct.unpack_from("<Q", image, table + 8 * number)
        (head,) = struct.unpack_from("<H", image, block)
        if not head & _UNCOMPRESSED:
            raise RuntimeError("the id table is compressed")
        size = head & (_UNCOMPRESSED - 1)
        ids += [value for (value,) in struct.iter_unpack("<I", image[block + 2 : block + 2 + size])]
    return ids


def _positions(image: mmap.mmap, inode_table: int, reference: int) -> list[int]:
    """Return where in the file each byte of an inode's head lies: it may cross metadata blocks."""
    block = inode_table + (reference >> 16)
    positions = []
    for at in range(reference & 0xFFFF, (reference & 0xFFFF) + _INODE_HEAD.size):
        number, offset = divmod(at, _METADATA_BYTES)
        start = block + number * (2 + _METADATA_BYTES)  # uncompressed blocks but the last are full
        (head,) = struct.unpack_from("<H", image, start)
        if not head & _UNCOMPRESSED:
            raise RuntimeError("the inode table is compressed")
        positions.append(start + 2 + offset)
    return positions
