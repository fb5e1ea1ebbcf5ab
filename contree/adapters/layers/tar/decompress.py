"""A compressed layer or archive to its tar, in bounded memory and with a bound on its growth.

Understood: no compression, gzip and zstd. The first bytes say which, as for Docker: media types in
real manifests are sometimes wrong. The blob is hostile: a small one may expand without end.
"""

from __future__ import annotations

import hashlib
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, Final

import zstandard

from contree.adapters.layers.tar import bounds
from contree.domain.errors import LayerRefused

_READ_BYTES: Final = 256 * 1024
_MAGIC_BYTES: Final = 4
_GZIP_MAGIC: Final = b"\x1f\x8b"
"""RFC 1952."""
_ZSTD_MAGIC: Final = b"\x28\xb5\x2f\xfd"
_SKIPPABLE_TAIL: Final = b"\x2a\x4d\x18"
"""RFC 8878: a frame, and one to skip, whose first byte is 0x50 to 0x5F."""
_ZSTD_WINDOW_BYTES_MAX: Final = 128 * 1024**2
"""What decoders must accept at least is 8 MiB (RFC 8878); `zstd --ultra` makes up to 128 MiB."""


def uncompressed(blob: Path, *, bytes_max: int) -> Iterator[bytes]:
    """Yield the tar. Raises LayerRefused when the blob is damaged or over `bytes_max`."""
    with blob.open("rb") as stream:
        total = 0
        for piece in decompressed(stream):
            total += len(piece)
            if total > bytes_max:
                raise LayerRefused(
                    f"the image expands too far when uncompressed: this layer is over the"
                    f" {bytes_max} bytes that are left of what it may take for its compressed size"
                )
            yield piece


def uncompressed_sha256(blob: Path, *, bytes_max: int) -> str:
    """Return the digest of the tar, 64 hexadecimal digits. Raises LayerRefused as above."""
    digest = hashlib.sha256()
    for piece in uncompressed(blob, bytes_max=bytes_max):
        digest.update(piece)
    return digest.hexdigest()


def decompressed(stream: BinaryIO) -> Iterator[bytes]:
    """Yield the tar, without end if need be. Raises LayerRefused when its data is damaged."""
    head = stream.read(_MAGIC_BYTES)
    stream.seek(0)
    if head.startswith(_GZIP_MAGIC):
        return _gzip(stream)
    if head.startswith(_ZSTD_MAGIC) or (head[1:] == _SKIPPABLE_TAIL and head[0] >> 4 == 5):  # noqa: PLR2004 - RFC 8878
        return _zstd(stream)
    return iter(lambda: stream.read(_READ_BYTES), b"")


def _gzip(stream: BinaryIO) -> Iterator[bytes]:
    """Inflate every member of the file; zeros may follow the last one, as on tape."""
    try:
        rest = stream.read(_READ_BYTES)
        members = 0
        while rest:
            if members and not rest.strip(b"\0"):
                rest = stream.read(_READ_BYTES)
                continue
            inflater = zlib.decompressobj(wbits=31)
            while True:
                piece = inflater.decompress(rest, bounds.COPY_CHUNK_BYTES)
                rest = inflater.unconsumed_tail
                if piece:
                    yield piece
                elif inflater.eof:
                    break
                elif not rest:
                    rest = stream.read(_READ_BYTES)
                    if not rest:
                        raise LayerRefused("the gzip data is cut off")
            members += 1
            rest = inflater.unused_data or stream.read(_READ_BYTES)
    except zlib.error as error:
        raise LayerRefused(f"the gzip data is damaged: {error}") from error


def _zstd(stream: BinaryIO) -> Iterator[bytes]:
    try:
        decoder = zstandard.ZstdDecompressor(max_window_size=_ZSTD_WINDOW_BYTES_MAX)
        with decoder.stream_reader(stream, read_across_frames=True, closefd=False) as reader:
            while piece := reader.read(bounds.COPY_CHUNK_BYTES):
                yield piece
    except zstandard.ZstdError as error:
        raise LayerRefused(f"the zstd data is damaged: {error}") from error
