"""Layers and what is made of them: storage, mounting, and reading files without a VM.

Implemented by adapters.layers; tests/contracts/test_layer_store.py and test_image_files.py.
A layer is an OCI changeset, named by its `diff_id` (`sha256:<hex>` of the uncompressed tar).
POSIX ACLs are not shown of it, and the modes that are shown give nobody more rights than they did.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from pathlib import Path
from typing import Protocol

IMPORTED_BYTES_MAX = 64 * 1024**3
"""Uncompressed size of an imported image, and so of a layer of one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Layer:
    """A stored layer. `size_bytes` is the uncompressed tar's."""

    diff_id: str
    size_bytes: int
    entry_count: int


@dataclass(frozen=True, slots=True, kw_only=True)
class FilePart:
    """A piece of a file, from `offset_bytes` on; behind the file's end there are zeros.

    Offset and size are whole pages of 4,096 bytes.
    """

    path: Path
    offset_bytes: int
    size_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class MountPlan:
    """What a guest mounts: squashfs images, bottom to top, each the sum of its parts.

    Derived state, apart from history.
    """

    squashfs: tuple[tuple[FilePart, ...], ...]


class LayerStore(Protocol):
    """Holds layers; content-addressed, idempotent, nothing half-made is ever visible."""

    async def has(self, diff_id: str) -> bool: ...

    async def add_imported(
        self, blob: Path, *, diff_id: str, bytes_max: int = IMPORTED_BYTES_MAX
    ) -> Layer:
        """Store a layer pulled from a registry, exactly as it is.

        `blob` is a tar, plain or compressed by gzip or zstd, as its content says; it stays the
        caller's. Untrusted: the layers of all projects are in one store and `diff_id` is no
        secret, so the bytes are always unpacked and compared with it, also when the layer is
        there already. Names count from the root, as Docker takes them. Raises LayerRefused when
        the blob is damaged, its uncompressed digest is not `diff_id`, a name has `..`, or it is
        over `bytes_max` uncompressed; StorageFullError.
        """
        ...

    async def add_delta(
        self, tar: AsyncIterator[bytes], *, below: Sequence[str], bytes_max: int
    ) -> Layer | None:
        """Store what a guest wrote, as a canonical OCI layer; None when it changed nothing.

        `tar` is the guest's stream (docs/guest-protocol.md, Capture): hostile. It is consumed to
        its end. `below` are the diff_ids it was written on top of, bottom to top. Equal content
        gives an equal digest. Directories that differ from `below` in nothing but their time do
        not count as a change by themselves.
        Raises LayerRefused (also past `bytes_max`), StorageFullError; nothing is kept then.
        """
        ...

    async def mount_plan(self, diff_ids: Sequence[str]) -> MountPlan:
        """Make the layers local and return how to mount them. Raises NotFoundError."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class RemovedLayers:
    """How much went; `layer_bytes` is the uncompressed tars'."""

    layer_count: int = 0
    layer_bytes: int = 0

    def __add__(self, other: RemovedLayers) -> RemovedLayers:
        return RemovedLayers(
            layer_count=self.layer_count + other.layer_count,
            layer_bytes=self.layer_bytes + other.layer_bytes,
        )


class SharedLayerRemoval(Protocol):
    """Takes layers out of what the hosts of a fleet share."""

    async def remove(self, diff_id: str, *, added_before: datetime) -> RemovedLayers | None:
        """Remove the layer; what is not there is no error. Raises UnavailableError.

        None when it was (last) added at `added_before` or later: it stays.
        """
        ...


class LayerRemoval(Protocol):
    """Takes layers out of a LayerStore, in two steps: what is set aside can be put back.

    A layer that is added again while it is there counts as added now.
    """

    def alone(self) -> AbstractAsyncContextManager[None]:
        """Wait until no other pass, of any process, is at work on this store, and keep it so.

        Outside of it nobody can tell a layer that another pass has just set aside from one that was
        left by a pass that was killed.
        """
        ...

    async def set_aside(self, diff_id: str, *, added_before: datetime) -> bool:
        """Take the layer out of use, unless it was (last) added at `added_before` or later.

        False when it stays, or is not there.
        """
        ...

    async def put_back(self, diff_id: str) -> None:
        """Have it in use again. What is not set aside is no error."""
        ...

    async def is_there(self, diff_id: str) -> bool:
        """Whether it is in use."""
        ...

    async def aside(self) -> Sequence[str]:
        """What is set aside, also by who was killed meanwhile."""
        ...

    async def destroy(self, diff_ids: Sequence[str]) -> RemovedLayers:
        """Destroy layers that are set aside, and all that was derived of them."""
        ...


class EntryType(StrEnum):
    """File types of st_mode."""

    DIRECTORY = "directory"
    REGULAR = "regular"
    SYMLINK = "symlink"
    CHARACTER_DEVICE = "character device"
    BLOCK_DEVICE = "block device"
    FIFO = "fifo"
    SOCKET = "socket"


@dataclass(frozen=True, slots=True, kw_only=True)
class FileEntry:
    """One file of an image, as the stacked layers show it.

    path      absolute, within the image; bytes decoded with surrogateescape
    mode      permission bits only, 0..0o7777
    mtime_s   whole seconds since 1970, may be negative
    nlink     1, or the number of names that the image shows for a hard-linked file in its layer
    """

    path: str
    type: EntryType
    mode: int
    uid: int
    gid: int
    owner: str
    group: str
    size_bytes: int
    mtime_s: int
    nlink: int = 1
    symlink_to: str = ""
    device: tuple[int, int] = (0, 0)
    xattrs: dict[str, bytes] = field(default_factory=dict)

    @property
    def name(self) -> str:
        return self.path.rsplit("/", 1)[-1] or "/"


@dataclass(frozen=True, slots=True, kw_only=True)
class FileContent:
    """Where the bytes of a regular file are.

    source     a local file that holds them in one piece from `offset` on, when there is one: the
               HTTP server may hand it to sendfile(2); None when they must be streamed
    chunks     the bytes, for every other use; read once
    """

    entry: FileEntry
    source: Path | None
    offset: int
    chunks: AsyncIterator[bytes]


class ImageFiles(Protocol):
    """Reads the filesystem of an image: `layers` are its diff_ids, bottom to top.

    Paths are absolute and normalised (domain.guest_path). Symbolic links are followed inside the
    image: absolute targets start at its root, and `..` never leaves it; a loop counts as absent.
    Every method raises NotFoundError when the path does not exist.
    """

    async def stat(self, layers: Sequence[str], path: str, *, follow: bool = True) -> FileEntry: ...

    async def list(self, layers: Sequence[str], path: str) -> Sequence[FileEntry]:
        """Return the entries of a directory, sorted by name. Raises WrongFileTypeError."""
        ...

    async def open(self, layers: Sequence[str], path: str) -> FileContent:
        """Return the content of a regular file. Raises WrongFileTypeError otherwise."""
        ...

    async def archive(self, layers: Sequence[str], path: str) -> AsyncIterator[bytes]:
        """Return a pax tar of a directory, regular file or symlink, with bounded memory.

        Members lie under the base name of `path` (`etc`, `etc/hosts`), for `/` under `.`; the
        directory's own entry comes first. Raises WrongFileTypeError on a device, fifo or socket;
        both errors come before the first byte.
        """
        ...
