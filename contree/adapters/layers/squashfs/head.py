"""The first bytes of a mountable file: superblock, and which tars belong to the image.

The image is a file of ours cut in two, with layers' tars between:

    HEAD_BYTES of the file | tar | tar | ... | the rest of the file

Each part begins on a page; behind a tar's end there are zeros up to the next one. So no byte of a
tar is stored twice. A file without tars is an image by itself.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from contree.adapters.layers.squashfs.format import SUPERBLOCK_BYTES
from contree.app.images.layer_store import FilePart

PAGE_BYTES: Final = 4096
HEAD_BYTES: Final = PAGE_BYTES
_COUNT: Final = struct.Struct("<8sI")
_MARK: Final = b"contree2"
_TAR: Final = struct.Struct("<IQ")
TARS_MAX: Final = (HEAD_BYTES - SUPERBLOCK_BYTES - _COUNT.size) // _TAR.size


@dataclass(frozen=True, slots=True, kw_only=True)
class Tar:
    """A tar in an image. `layer` counts from the lowest layer that the image shows."""

    layer: int
    size_bytes: int

    @property
    def room_bytes(self) -> int:
        return whole_pages(self.size_bytes)


def whole_pages(size_bytes: int) -> int:
    return -(-size_bytes // PAGE_BYTES) * PAGE_BYTES


def head(superblock: bytes, tars: Sequence[Tar]) -> bytes:
    told = [_TAR.pack(tar.layer, tar.size_bytes) for tar in tars]
    noted = superblock + _COUNT.pack(_MARK, len(tars)) + b"".join(told)
    return noted.ljust(HEAD_BYTES, b"\0")


def image_parts(path: Path, tar_path: Callable[[int], Path]) -> tuple[FilePart, ...]:
    """Return what the image of the mountable file `path` consists of.

    `tar_path` gives the tar of a layer by its number in the image. Raises FileNotFoundError;
    ValueError when it is no such file.
    """
    with path.open("rb", buffering=0) as stream:
        noted = stream.read(HEAD_BYTES)
        size_bytes = stream.seek(0, 2)
    if len(noted) < HEAD_BYTES:
        raise ValueError(f"{path} is cut off: remove it, it is made again")
    mark, count = _COUNT.unpack_from(noted, SUPERBLOCK_BYTES)
    if mark != _MARK or count > TARS_MAX:
        raise ValueError(f"{path} is not of this version: remove it, it is made again")
    if not count:
        return (FilePart(path=path, offset_bytes=0, size_bytes=size_bytes),)
    found = [FilePart(path=path, offset_bytes=0, size_bytes=HEAD_BYTES)]
    for number in range(count):
        at = SUPERBLOCK_BYTES + _COUNT.size + number * _TAR.size
        layer, tar_bytes = _TAR.unpack_from(noted, at)
        tar = Tar(layer=layer, size_bytes=tar_bytes)
        found.append(FilePart(path=tar_path(layer), offset_bytes=0, size_bytes=tar.room_bytes))
    rest = FilePart(path=path, offset_bytes=HEAD_BYTES, size_bytes=size_bytes - HEAD_BYTES)
    return (*found, rest)
