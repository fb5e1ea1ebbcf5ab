"""The records of a squashfs 4.0, as bytes. Nothing in it is ever compressed.

Layout: kernel Documentation/filesystems/squashfs.rst and fs/squashfs/squashfs_fs.h (little-endian).
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Final

from contree.adapters.layers.tar.entry import Kind

BLOCK_BYTES: Final = 128 * 1024
"""Data block: what a guest reads at least of a file that is as large; squashfs-tools' default."""

METADATA_BYTES: Final = 8192
STORED_METADATA_BYTES: Final = METADATA_BYTES + 2
"""A block of metadata with the length before it."""

UNCOMPRESSED_METADATA: Final = 0x8000
UNCOMPRESSED_DATA: Final = 1 << 24
HOLE: Final = bytes(4)
"""In a file's list of blocks: nothing is stored, the block reads as zeros."""

NAMES_OF_HEADER_MAX: Final = 256
NUMBER_DELTA_MAX: Final = 0x7FFF
INDEX_MAX: Final = 0xFFFF
IDS_MAX: Final = 0xFFFF
NOTHING: Final = 0xFFFF_FFFF_FFFF_FFFF
"""Start of a table that there is not."""

NO_XATTRS: Final = 0xFFFF_FFFF
_NO_FRAGMENT: Final = 0xFFFF_FFFF
_START_MAX: Final = 0xFFFF_FFFF

_MAGIC: Final = 0x73717368
_ZLIB: Final = 1  # a compressor must be named; this one wants no options after the superblock
# Inodes, data, fragments, xattrs and ids uncompressed (bits 0, 1, 3, 8, 11); no fragments (4);
# there is a table of inodes by number (7).
_FLAGS: Final = 1 << 0 | 1 << 1 | 1 << 3 | 1 << 4 | 1 << 7 | 1 << 8 | 1 << 11

_SUPERBLOCK: Final = struct.Struct("<5I6H8Q")
SUPERBLOCK_BYTES: Final = _SUPERBLOCK.size
_BASE: Final = struct.Struct("<4H2I")  # type, mode, uid index, gid index, mtime, number
_FILE: Final = struct.Struct("<4I")  # start, fragment, offset in it, size
_LONG_FILE: Final = struct.Struct("<3Q4I")  # start, size, holes, names, fragment, offset, xattrs
_DIRECTORY: Final = struct.Struct("<2I2HI")  # block, links, size, offset, parent
_LONG_DIRECTORY: Final = struct.Struct(
    "<4I2HI"
)  # links, size, block, parent, index, offset, xattrs
_DIRECTORY_MAX: Final = 0xFFFF

TYPES: Final = {
    Kind.DIRECTORY: 1,
    Kind.REGULAR: 2,
    Kind.SYMLINK: 3,
    Kind.BLOCK_DEVICE: 4,
    Kind.CHARACTER_DEVICE: 5,
    Kind.WHITEOUT: 5,
    Kind.FIFO: 6,
}
"""Types in directories; the extended inode of a type is EXTENDED more."""

_EXTENDED: Final = 7
_INVENTED_BYTES: Final = 3  # "." and "..", which no directory stores


@dataclass(frozen=True, slots=True, kw_only=True)
class Base:
    """What every inode has. `uid` and `gid` are indexes in the table of ids; `xattrs` may be
    NO_XATTRS.
    """

    mode: int
    uid: int
    gid: int
    mtime_s: int
    number: int
    xattrs: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Stored:
    """Where a file's content lies.

    start       of its first stored block, in the image
    blocks      its list: four bytes for each block, stored one after the other but for HOLE
    hole_bytes  how many of its bytes are in blocks that are not stored
    """

    start: int = 0
    blocks: bytes = b""
    hole_bytes: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Listing:
    """Where the names in a directory lie.

    position       in the table of directories, before it is cut into blocks
    subdirectories how many of the names are directories
    index          records of names that begin a block, `index_count` of them
    """

    position: int = 0
    size_bytes: int = 0
    subdirectories: int = 0
    index: bytes = b""
    index_count: int = 0


def stored_blocks(size_bytes: int) -> bytes:
    """The list of blocks of content that is stored whole."""
    whole, rest = divmod(size_bytes, BLOCK_BYTES)
    full = struct.pack("<I", BLOCK_BYTES | UNCOMPRESSED_DATA) * whole
    return full + struct.pack("<I", rest | UNCOMPRESSED_DATA) if rest else full


def block_at(position: int) -> int:
    """Return where the block of metadata with the byte `position` of its table begins."""
    return position // METADATA_BYTES * STORED_METADATA_BYTES


def reference(position: int) -> int:
    """Return the byte `position` of a table as other records say it: block and offset in it."""
    return block_at(position) << 16 | position % METADATA_BYTES


def file_inode(base: Base, *, size_bytes: int, names: int, stored: Stored) -> bytes:
    short = names == 1 and base.xattrs == NO_XATTRS and not stored.hole_bytes
    if short and max(size_bytes, stored.start) <= _START_MAX:
        told = _FILE.pack(stored.start, _NO_FRAGMENT, 0, size_bytes)
        return _base(base, Kind.REGULAR, extended=False) + told + stored.blocks
    told = _LONG_FILE.pack(
        stored.start, size_bytes, stored.hole_bytes, names, _NO_FRAGMENT, 0, base.xattrs
    )
    return _base(base, Kind.REGULAR, extended=True) + told + stored.blocks


def directory_inode(base: Base, *, listing: Listing, parent: int) -> bytes:
    links = 2 + listing.subdirectories
    size = listing.size_bytes + _INVENTED_BYTES
    block, offset = block_at(listing.position), listing.position % METADATA_BYTES
    if base.xattrs == NO_XATTRS and not listing.index and size <= _DIRECTORY_MAX:
        told = _DIRECTORY.pack(block, links, size, offset, parent)
        return _base(base, Kind.DIRECTORY, extended=False) + told
    told = _LONG_DIRECTORY.pack(
        links, size, block, parent, listing.index_count, offset, base.xattrs
    )
    return _base(base, Kind.DIRECTORY, extended=True) + told + listing.index


def other_inode(
    base: Base, kind: Kind, *, names: int, link: bytes, device: tuple[int, int]
) -> bytes:
    """Of a symbolic link, a device (whiteouts too) or a fifo."""
    extended = base.xattrs != NO_XATTRS
    if kind is Kind.SYMLINK:
        told = struct.pack("<2I", names, len(link)) + link
    elif kind is Kind.FIFO:
        told = struct.pack("<I", names)
    else:
        major, minor = device
        # As the kernel's new_encode_dev: 12 bits of major, 20 of minor.
        told = struct.pack("<2I", names, minor & 0xFF | major << 8 | (minor & ~0xFF) << 12)
    tail = struct.pack("<I", base.xattrs) if extended else b""
    return _base(base, kind, extended=extended) + told + tail


def names_header(*, count: int, position: int, number: int) -> bytes:
    """Before up to 256 names whose inodes lie in the block of inode `position`; numbers are told
    as differences from `number`.
    """
    return struct.pack("<3I", count - 1, block_at(position), number)


def name_record(name: bytes, kind: Kind, *, position: int, delta: int) -> bytes:
    head = struct.pack("<HhHH", position % METADATA_BYTES, delta, TYPES[kind], len(name) - 1)
    return head + name


def index_record(name: bytes, *, listed_bytes: int, position: int) -> bytes:
    """Says that the name, `listed_bytes` after the beginning of its directory, begins a header
    at `position`.
    """
    return struct.pack("<3I", listed_bytes, block_at(position), len(name) - 1) + name


@dataclass(frozen=True, slots=True, kw_only=True)
class Tables:
    """Where everything begins in the image. `bytes_used` is its end."""

    inode_count: int
    id_count: int
    root: int
    inodes: int
    directories: int
    numbers: int
    ids: int
    xattrs: int
    directories_end: int
    bytes_used: int


def superblock(tables: Tables) -> bytes:
    return _SUPERBLOCK.pack(
        _MAGIC,
        tables.inode_count,
        0,
        BLOCK_BYTES,
        0,
        _ZLIB,
        BLOCK_BYTES.bit_length() - 1,
        _FLAGS,
        tables.id_count,
        4,
        0,
        tables.root,
        tables.bytes_used,
        tables.ids,
        tables.xattrs,
        tables.inodes,
        tables.directories,
        tables.directories_end,  # of no fragments; squashfs-tools read directories up to it
        tables.numbers,
    )


def _base(base: Base, kind: Kind, *, extended: bool) -> bytes:
    number = TYPES[kind] + (_EXTENDED if extended else 0)
    return _BASE.pack(number, base.mode, base.uid, base.gid, base.mtime_s, base.number)
