"""One read-only disk out of many squashfs images, by the names of their files: nothing is copied.

A VMDK descriptor puts the parts of each image side by side and gives it LAYER_ROOM_BYTES of the
disk; behind its end they read as zeros. So layer i is always at the same place, whatever the sizes:
a template's guest has the disk bound and cut into partitions before there is any layer, and a clone
need only mount them. It trusts the files.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from contree.adapters.microvm.agent.commands import LAYER_ROOM_BYTES, MAX_LAYERS
from contree.app.images.layer_store import FilePart
from contree.domain.errors import GuestFailure

SECTOR_BYTES = 512
DESCRIPTOR_NAME = "layers.vmdk"
ALIGNMENT_BYTES = 4096  # the guest reads in pages
LAYERS_MAX = MAX_LAYERS
DISK_BYTES = (LAYERS_MAX + 1) * LAYER_ROOM_BYTES
"""A disk with room for all of them: 12.6 TiB, a file system's files may be larger."""

EXTENT_PATH_BYTES_MAX = 511  # QEMU, block/vmdk.c: the buffer that an extent's name is read into

_LEAD_NAME = "lead.bin"


def write_layers_disk(directory: Path, squashfs: Sequence[Sequence[FilePart]]) -> Path:
    """Write the disk of `squashfs` (bottom to top, may be empty) and return its descriptor.

    It and the zeros before the first layer, in which no kernel sees a partition table, go into
    `directory`. Raises GuestFailure when a file is missing or cannot be a part of a disk.
    """
    if len(squashfs) > LAYERS_MAX:
        raise GuestFailure(f"{len(squashfs)} layers to mount, at most {LAYERS_MAX}: merge some")
    lead = directory / _LEAD_NAME
    lead.write_bytes(bytes(ALIGNMENT_BYTES))
    descriptor = directory / DESCRIPTOR_NAME
    images = [[FilePart(path=lead, offset_bytes=0, size_bytes=ALIGNMENT_BYTES)], *squashfs]
    descriptor.write_text(_vmdk([extent for image in images for extent in _extents(image)]))
    return descriptor


def _extents(image: Sequence[FilePart]) -> Iterator[str]:
    """Yield the descriptor's lines of an image; its last part has the rest of the room."""
    room = LAYER_ROOM_BYTES
    for number, part in enumerate(image, 1):
        _check(part)
        if part.size_bytes > room:
            raise GuestFailure(
                f"layer file {part.path} has {part.size_bytes} bytes, a disk has room for {room}"
            )
        size_bytes = room if number == len(image) else part.size_bytes
        room -= size_bytes
        sectors, offset = size_bytes // SECTOR_BYTES, part.offset_bytes // SECTOR_BYTES
        yield f'RW {sectors} FLAT "{_extent_path(part.path)}" {offset}'


def _vmdk(extents: Sequence[str]) -> str:
    """Virtual Disk Format 5.0: flat extents, as QEMU's block/vmdk.c reads them."""
    lines = [
        "# Disk DescriptorFile",
        "version=1",
        "CID=12345678",
        "parentCID=ffffffff",
        'createType="twoGbMaxExtentFlat"',
        *extents,
        'ddb.virtualHWVersion = "4"',
        'ddb.adapterType = "ide"',
        'ddb.geometry.cylinders = "16383"',
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


def _check(part: FilePart) -> None:
    try:
        part.path.stat()
    except OSError as error:
        raise GuestFailure(f"layer file {part.path}: {error.strerror}", retryable=True) from error
    if part.size_bytes <= 0 or (part.offset_bytes | part.size_bytes) % ALIGNMENT_BYTES:
        raise GuestFailure(
            f"layer file {part.path}: {part.size_bytes} bytes at {part.offset_bytes},"
            f" both must be multiples of {ALIGNMENT_BYTES}"
        )
