"""One read-only disk out of many squashfs files: a GPT with a partition for each, nothing copied.

A VMDK descriptor lays files end to end: the head of the GPT, the layers as they lie in the store,
the tail of the GPT. Partition i+1 is layer i, bottom to top. It trusts the layer files.
"""

from __future__ import annotations

import struct
import uuid
import zlib
from collections.abc import Sequence
from pathlib import Path

from contree.domain.errors import GuestFailure

SECTOR_BYTES = 512
DESCRIPTOR_NAME = "layers.vmdk"
ALIGNMENT_SECTORS = 8  # squashfs-tools pad to 4 KiB; the guest reads in pages
LAYERS_MAX = 200
"""Partitions of one disk; the agent's MAX_LAYERS (docs/guest-protocol.md)."""

EXTENT_PATH_BYTES_MAX = 511  # QEMU, block/vmdk.c: the buffer that an extent's name is read into

_ENTRY_BYTES = 128
_ENTRIES_MIN = 128  # UEFI specification 2.10, section 5.3: at least 16 KiB of entries
_LINUX_DATA = uuid.UUID("0fc63daf-8483-4772-8e79-3d69d8477de4")
_DISK_GUID = b"\1" * 16


def write_layers_disk(directory: Path, squashfs: Sequence[Path]) -> Path:
    """Write the descriptor of a disk of `squashfs` (bottom to top, may be empty) and return it.

    It and the two ends of the partition table go into `directory`. Raises GuestFailure when a
    layer file is missing or cannot be a partition.
    """
    if len(squashfs) > LAYERS_MAX:
        raise GuestFailure(f"{len(squashfs)} layers to mount, at most {LAYERS_MAX}: merge some")
    sizes = [_sectors(path) for path in squashfs]
    head, tail = gpt(sizes)
    ends = (directory / "gpt-head.bin", directory / "gpt-tail.bin")
    ends[0].write_bytes(head)
    ends[1].write_bytes(tail)
    extents = [
        (len(head) // SECTOR_BYTES, ends[0]),
        *zip(sizes, squashfs, strict=True),
        (len(tail) // SECTOR_BYTES, ends[1]),
    ]
    descriptor = directory / DESCRIPTOR_NAME
    descriptor.write_text(_vmdk(extents))
    return descriptor


def gpt(partition_sectors: Sequence[int]) -> tuple[bytes, bytes]:
    """Return (head, tail) that make a GPT disk of partitions laid end to end between them.

    Sizes are in sectors, multiples of ALIGNMENT_SECTORS; head and tail have such sizes too. The
    entry array grows with the partitions. Source: UEFI specification 2.10, chapter 5.
    """
    entry_count = max(_ENTRIES_MIN, len(partition_sectors))
    entry_count += -entry_count % (SECTOR_BYTES // _ENTRY_BYTES)
    array_sectors = entry_count * _ENTRY_BYTES // SECTOR_BYTES
    lead = 2 + array_sectors
    lead += -lead % ALIGNMENT_SECTORS
    total = lead + sum(partition_sectors) + lead
    entries, first = b"", lead
    for number, size in enumerate(partition_sectors, start=1):
        entries += _LINUX_DATA.bytes_le + uuid.UUID(int=number).bytes_le
        entries += struct.pack("<QQQ", first, first + size - 1, 0) + bytes(72)
        first += size
    entries = entries.ljust(entry_count * _ENTRY_BYTES, b"\0")

    def header(here: int, other: int, entries_at: int) -> bytes:
        usable = (2 + array_sectors, total - 2 - array_sectors)
        text = struct.pack(
            "<8sIIIIQQQQ16sQIII", b"EFI PART", 0x10000, 92, 0, 0, here, other, *usable,
            _DISK_GUID, entries_at, entry_count, _ENTRY_BYTES, zlib.crc32(entries),
        )  # fmt: skip
        checked = text[:16] + struct.pack("<I", zlib.crc32(text)) + text[20:]
        return checked.ljust(SECTOR_BYTES, b"\0")

    head = _protective_mbr(total) + header(1, total - 1, 2) + entries
    tail = entries + header(total - 1, 1, total - 1 - array_sectors)
    return head.ljust(lead * SECTOR_BYTES, b"\0"), tail.rjust(lead * SECTOR_BYTES, b"\0")


def _protective_mbr(total_sectors: int) -> bytes:
    mbr = bytearray(SECTOR_BYTES)
    size = min(total_sectors - 1, 2**32 - 1)
    mbr[446:462] = struct.pack("<B3sB3sII", 0, b"\0\2\0", 0xEE, b"\xff\xff\xff", 1, size)
    mbr[510:512] = b"\x55\xaa"
    return bytes(mbr)


def _vmdk(extents: Sequence[tuple[int, Path]]) -> str:
    """Virtual Disk Format 5.0: a descriptor of flat extents, as QEMU's block/vmdk.c reads it."""
    cylinders = max(1, sum(size for size, _ in extents) // (16 * 63))
    lines = [
        "# Disk DescriptorFile",
        "version=1",
        "CID=12345678",
        "parentCID=ffffffff",
        'createType="twoGbMaxExtentFlat"',
        *(f'RW {size} FLAT "{_extent_path(path)}" 0' for size, path in extents),
        'ddb.virtualHWVersion = "4"',
        'ddb.adapterType = "ide"',
        f'ddb.geometry.cylinders = "{cylinders}"',
        'ddb.geometry.heads = "16"',
        'ddb.geometry.sectors = "63"',
    ]
    return "\n".join(lines) + "\n"


def _extent_path(path: Path) -> str:
    text = str(path)
    if not path.is_absolute() or any(c in text for c in '"\r\n'):
        raise GuestFailure(f"layer file {text!r}: the path must be absolute, without quotes")
    if len(text.encode()) > EXTENT_PATH_BYTES_MAX:
        raise GuestFailure(
            f"layer file {text}: longer than {EXTENT_PATH_BYTES_MAX} bytes, "
            "choose a shorter data directory"
        )
    return text


def _sectors(path: Path) -> int:
    try:
        size_bytes = path.stat().st_size
    except OSError as error:
        raise GuestFailure(f"layer file {path}: {error.strerror}", retryable=True) from error
    sectors, rest = divmod(size_bytes, SECTOR_BYTES)
    if rest or sectors == 0 or sectors % ALIGNMENT_SECTORS:
        raise GuestFailure(
            f"layer file {path} has {size_bytes} bytes, "
            f"must be a multiple of {ALIGNMENT_SECTORS * SECTOR_BYTES}"
        )
    return sectors
