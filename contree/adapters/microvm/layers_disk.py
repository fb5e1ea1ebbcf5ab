"""One read-only disk out of many squashfs files, laid end to end, nothing copied.

A VMDK descriptor names the files as they lie in the store. No table on the disk says where a layer
begins: the guest is told their sizes (docs/guest-protocol.md, CONFIGURE), so it reads nothing to
find them, and a template may have the disk bound before there is any. It trusts the layer files.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from contree.adapters.microvm.commands import LAYERS_AT_BYTES, MAX_LAYERS
from contree.domain.errors import GuestFailure

SECTOR_BYTES = 512
DESCRIPTOR_NAME = "layers.vmdk"
ALIGNMENT_BYTES = 4096  # squashfs-tools pad to it; the guest reads in pages
LAYERS_MAX = MAX_LAYERS
DISK_BYTES_MAX = 1 << 40
"""What a template's guest believes the size of the disk to be: it has seen only the placeholder."""

EXTENT_PATH_BYTES_MAX = 511  # QEMU, block/vmdk.c: the buffer that an extent's name is read into

_LEAD_NAME = "lead.bin"


@dataclass(frozen=True, slots=True, kw_only=True)
class LayersDisk:
    """`descriptor` is what QEMU opens; `layer_bytes` are the sizes of the layers, bottom first."""

    descriptor: Path
    layer_bytes: tuple[int, ...]


def write_layers_disk(directory: Path, squashfs: Sequence[Path]) -> LayersDisk:
    """Write the disk of `squashfs` (bottom to top, may be empty) into `directory`.

    Before the layers lies a page of zeros, in which no kernel will see a partition table. Raises
    GuestFailure when a layer file is missing or cannot be a part of it.
    """
    if len(squashfs) > LAYERS_MAX:
        raise GuestFailure(f"{len(squashfs)} layers to mount, at most {LAYERS_MAX}: merge some")
    layer_bytes = tuple(map(_size_bytes, squashfs))
    total_bytes = LAYERS_AT_BYTES + sum(layer_bytes)
    if total_bytes > DISK_BYTES_MAX:
        raise GuestFailure(f"layers of {total_bytes} bytes in all, at most {DISK_BYTES_MAX}")
    lead = directory / _LEAD_NAME
    lead.write_bytes(bytes(LAYERS_AT_BYTES))
    descriptor = directory / DESCRIPTOR_NAME
    descriptor.write_text(
        _vmdk([(LAYERS_AT_BYTES, lead), *zip(layer_bytes, squashfs, strict=True)])
    )
    return LayersDisk(descriptor=descriptor, layer_bytes=layer_bytes)


def _vmdk(extents: Sequence[tuple[int, Path]]) -> str:
    """Virtual Disk Format 5.0: flat extents (bytes, file), as QEMU's block/vmdk.c reads them."""
    cylinders = max(1, sum(size for size, _ in extents) // SECTOR_BYTES // (16 * 63))
    lines = [
        "# Disk DescriptorFile",
        "version=1",
        "CID=12345678",
        "parentCID=ffffffff",
        'createType="twoGbMaxExtentFlat"',
        *(f'RW {size // SECTOR_BYTES} FLAT "{_extent_path(path)}" 0' for size, path in extents),
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


def _size_bytes(path: Path) -> int:
    try:
        size_bytes = path.stat().st_size
    except OSError as error:
        raise GuestFailure(f"layer file {path}: {error.strerror}", retryable=True) from error
    if size_bytes == 0 or size_bytes % ALIGNMENT_BYTES:
        raise GuestFailure(
            f"layer file {path} has {size_bytes} bytes, must be a multiple of {ALIGNMENT_BYTES}"
        )
    return size_bytes
