"""Named bounds on everything that a layer from outside may make us hold or do.

A registry's blob and a guest's stream are hostile; each number here is what keeps a small input
from costing a large amount of memory, disk or time. Exceeding one is LayerRefused, never a crash.
"""

from __future__ import annotations

BLOCK_BYTES = 512
"""Unit of a tar stream, POSIX.1-2017 pax."""

PATH_BYTES_MAX = 4095
"""Linux PATH_MAX without its zero byte; paths and link targets."""

NAME_BYTES_MAX = 255
"""NAME_MAX of every Linux filesystem that matters, and of squashfs (256)."""

PAX_HEADER_BYTES_MAX = 1024 * 1024
"""One extended header; an xattr value is at most 64 KiB on Linux."""

XATTR_NAME_BYTES_MAX = 255
XATTR_VALUE_BYTES_MAX = 64 * 1024
"""XATTR_NAME_MAX and XATTR_SIZE_MAX, linux/limits.h."""

ENTRIES_MAX = 4_000_000
"""Entries of one layer; the largest public images have a few hundred thousand."""

LAYER_INDEX_BYTES_MAX = 512 * 1024**2
"""Names, link targets, xattrs and sparse maps that one layer's index may hold. A long name in a tar
may imply thousands of directories, each with its own long path."""

SPARSE_SEGMENTS_MAX = 65_536
"""Data segments of one sparse file."""

SPARSE_MAP_BYTES_MAX = 4 * 1024**2
"""Text of one GNU 1.0 sparse map: SPARSE_SEGMENTS_MAX pairs of 20 digits fit."""

LAYER_LOGICAL_BYTES_MAX = 256 * 1024**3
"""Sum of file sizes with their holes: what is noted of their blocks is 8 MiB then."""

SPARSE_EXPANSION_MAX = 8
SPARSE_EXPANSION_FREE_BYTES = 64 * 1024**2
"""Disk that copies of sparse files may take, beside so many times their layers' tars: a byte of
data takes a page, and a tar can have one in every 25 bytes."""

ID_MAX = 2**32 - 2
"""Largest uid and gid; 2**32 - 1 means "none" to the kernel."""

DEVICE_MAJOR_MAX = 4095
DEVICE_MINOR_MAX = 1_048_575
"""12 and 20 bits, linux/kdev_t.h."""

MTIME_ABS_MAX_S = 2**40
"""About 35,000 years either way: keeps every sum in 64 bits."""

SYMLINKS_MAX = 40
"""Links followed in one path, as the kernel has it (MAXSYMLINKS)."""

ACCOUNTS_FILE_BYTES_MAX = 1024 * 1024
"""How much of an image's /etc/passwd and /etc/group is read for names."""

NLINK_EXACT_MAX = 1000
"""Up to this many names of one file, list() counts those that the image still shows."""

CONTENT_CHUNK_BYTES = 1024 * 1024
"""Piece in which a stream is read: as much as is handed over at once (`feed.PIECE_BYTES`)."""

COPY_CHUNK_BYTES = 256 * 1024
"""Piece in which stored content is read and copied."""
