"""Blank scratch disks: ext4 images made once for each size, then copied sparsely for each guest.

What a guest writes lands on its copy, so its size bounds what one guest may take of the host's
disk. It never mounts an image, and never reads one back.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
from pathlib import Path

from contree.domain.errors import GuestFailure, StorageFullError
from contree.programs import MKE2FS

_MIB = 1024**2
FORMAT_VERSION = 2
"""Part of the images' names: raise it when MKFS_OPTIONS changes."""

FEATURES = (
    # What every ext4 has; extra_isize with inodes of 256 bytes: nanoseconds, and years after 2038.
    "ext_attr", "dir_index", "filetype", "extent", "flex_bg", "sparse_super", "large_file",
    "huge_file", "dir_nlink", "extra_isize",
    # Bitmaps are written when a group is first used: a blank disk of 16 GiB has 0.2 MiB to copy,
    # without it 1.2. metadata_csum does so too, but the guest computes it for every block.
    "uninit_bg",
    # Not resize_inode, which reserves room to grow: 4 MiB more to copy. Not 64bit: from 16 TiB.
)  # fmt: skip
MKFS_OPTIONS = (
    "-q", "-F", "-b", "4096", "-i", "8192", "-I", "256", "-m", "0",
    "-O", ",".join(("none", *FEATURES)),
    # The file is sparse, so its inode tables are zero already.
    "-E", "lazy_itable_init=1,nodiscard,assume_storage_prezeroed=1",
)  # fmt: skip
SMALLEST_MIB = 128
OVERHEAD_MIB = 64
_FICLONE = 0x40049409  # ioctl_ficlone(2)
_COPY_BYTES = 8 * _MIB


def room_bytes(max_layer_bytes: int) -> int:
    """Return how much of its disk a run may take that may leave `max_layer_bytes` behind.

    A quarter is added for ext4 and what tar packs closer than blocks.
    """
    return max_layer_bytes * 5 // 4 + OVERHEAD_MIB * _MIB


def bucket_mib(max_layer_bytes: int) -> int:
    """Return the size of the disk for a layer of at most `max_layer_bytes`: a power of two, MiB.

    Sparse, so only what is written takes room. In what is more than `room_bytes` the guest's kernel
    lets nobody write.
    """
    wanted_mib = -(-room_bytes(max_layer_bytes) // _MIB)
    return max(SMALLEST_MIB, 1 << (wanted_mib - 1).bit_length())


class ScratchDisks:
    """The blank images in one directory."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._making = asyncio.Lock()

    async def copy_to(self, target: Path, *, max_layer_bytes: int) -> None:
        """Make `target` a blank disk. Raises GuestFailure (mke2fs), StorageFullError.

        Raises UnavailableError when mke2fs is not installed.
        """
        blank = await self._blank(bucket_mib(max_layer_bytes))
        await asyncio.to_thread(copy_sparsely, blank, target)

    async def _blank(self, size_mib: int) -> Path:
        blank = self._directory / f"scratch-{size_mib}m-v{FORMAT_VERSION}.img"
        async with self._making:
            if not blank.exists():
                await self._make(blank, size_mib)
        return blank

    async def _make(self, blank: Path, size_mib: int) -> None:
        self._directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        partial = blank.with_name(f"{blank.name}.{os.getpid()}.partial")
        try:
            with partial.open("wb") as file:
                file.truncate(size_mib * _MIB)
            mkfs = await asyncio.create_subprocess_exec(
                MKE2FS.path(), *MKFS_OPTIONS, str(partial), stdin=asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.PIPE,
                env={**os.environ, "MKE2FS_CONFIG": "/dev/null"},  # all hosts make the same
            )  # fmt: skip
            _, complaint = await mkfs.communicate()
            if mkfs.returncode != 0:
                text = complaint.decode(errors="replace").strip()[-500:]
                raise GuestFailure(f"mke2fs failed ({mkfs.returncode}): {text}")
            partial.replace(blank)
        finally:
            partial.unlink(missing_ok=True)


def copy_sparsely(source: Path, target: Path) -> None:
    """Copy data but not holes; by reference where the filesystem can (FICLONE). Blocks.

    Raises StorageFullError.
    """
    try:
        with source.open("rb") as src, target.open("xb") as dst:
            try:
                fcntl.ioctl(dst, _FICLONE, src.fileno())
            except OSError:
                size_bytes = os.fstat(src.fileno()).st_size
                _copy_extents(src.fileno(), dst.fileno(), size_bytes)
                dst.truncate(size_bytes)
    except OSError as error:
        with contextlib.suppress(OSError):
            target.unlink()
        raise StorageFullError(f"scratch disk {target}: {error.strerror}") from error


def _copy_extents(source: int, target: int, size_bytes: int) -> None:
    at = 0
    while at < size_bytes:
        try:
            at = os.lseek(source, at, os.SEEK_DATA)
        except OSError:  # ENXIO: only a hole is left
            return
        end = os.lseek(source, at, os.SEEK_HOLE)
        os.lseek(target, at, os.SEEK_SET)
        while at < end:
            at += os.sendfile(target, source, at, min(_COPY_BYTES, end - at))
