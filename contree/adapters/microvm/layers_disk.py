"""One read-only disk out of many squashfs files, by their names: nothing is copied.

A VMDK descriptor gives each file LAYER_ROOM_BYTES of the disk; behind the file's end they read as
zeros. So layer i is always at the same place, whatever the sizes: a template's guest has the disk
bound and cut into partitions before there is any layer, and a clone need only mount them. It trusts
the layer files.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from contree.adapters.microvm.commands import LAYER_ROOM_BYTES, MAX_LAYERS
from contree.domain.errors import GuestFailure

SECTOR_BYTES = 512
DESCRIPTOR_NAME = "layers.vmdk"
ALIGNMENT_BYTES = 4096  # squashfs-tools pad to it; the guest reads in pages
LAYERS_MAX = MAX_LAYERS
DISK_BYTES = (LAYERS_MAX + 1) * LAYER_ROOM_BYTES
"""A disk with room for all of them: 12.6 TiB, a file system's files may be larger."""

EXTENT_PATH_BYTES_MAX = 511  # QEMU, block/vmdk.c: the buffer that an extent's name is read into

_LEAD_NAME = "lead.bin"


def write_layers_disk(directory: Path, squashfs: Sequence[Path]) -> Path:
    """Write the disk of `squashfs` (bottom to top, may be empty) and return its descriptor.

    It and the zeros before the first layer, in which no kernel sees a partition table, go into
    `directory`. Raises GuestFailure when a layer file is missing or cannot be a part of a disk.
    """
    if len(squashfs) > LAYERS_MAX:
        raise GuestFailure(f"{len(squashfs)} layers to mount, at most {LAYERS_MAX}: merge some")
    for path in squashfs:
        _check_size(path)
    lead = directory / _LEAD_NAME
    lead.write_bytes(bytes(ALIGNMENT_BYTES))
    descriptor = directory / DESCRIPTOR_NAME
    descriptor.write_text(_vmdk([lead, *squashfs]))
    return descriptor


def _vmdk(files: Sequence[Path]) -> str:
    """Virtual Disk Format 5.0: flat extents of one size, as QEMU's block/vmdk.c reads them."""
    sectors = LAYER_ROOM_BYTES // SECTOR_BYTES
    cylinders = len(files) * sectors // (16 * 63)
    lines = [
        "# Disk DescriptorFile",
        "version=1",
        "CID=12345678",
        "parentCID=ffffffff",
        'createType="twoGbMaxExtentFlat"',
        *(f'RW {sectors} FLAT "{_extent_path(path)}" 0' for path in files),
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


def _check_size(path: Path) -> None:
    try:
        size_bytes = path.stat().st_size
    except OSError as error:
        raise GuestFailure(f"layer file {path}: {error.strerror}", retryable=True) from error
    if size_bytes == 0 or size_bytes % ALIGNMENT_BYTES:
        raise GuestFailure(
            f"layer file {path} has {size_bytes} bytes, must be a multiple of {ALIGNMENT_BYTES}"
        )
    if size_bytes > LAYER_ROOM_BYTES:
        raise GuestFailure(
            f"layer file {path} has {size_bytes} bytes, a disk has room for {LAYER_ROOM_BYTES}"
        )
