"""A registry's compressed layer to its tar, in bounded memory and with a bound on its growth.

Understood: OCI and Docker layer media types with no compression, gzip or zstd. The blob is hostile:
a small one may claim to expand without end, so growth past EXPANSION_RATIO_MAX is refused.
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
_ZSTD_WINDOW_BYTES_MAX: Final = 128 * 1024**2
"""What decoders must accept at least is 8 MiB (RFC 8878); `zstd --ultra` makes up to 128 MiB."""


def uncompressed(blob: Path, media_type: str) -> Iterator[bytes]:
    """Yield the tar. Raises LayerRefused when the blob is damaged, unknown or grows too far."""
    packed_bytes = blob.stat().st_size
    with blob.open("rb") as stream:
        total = 0
        for piece in _pieces(stream, media_type):
            total += len(piece)
            if total > bounds.IMPORTED_LAYER_BYTES_MAX:
                raise LayerRefused(
                    f"the layer is over {bounds.IMPORTED_LAYER_BYTES_MAX} bytes uncompressed"
                )
            if total > max(bounds.EXPANSION_FREE_BYTES, bounds.EXPANSION_RATIO_MAX * packed_bytes):
                raise LayerRefused(
                    f"the layer expands over {bounds.EXPANSION_RATIO_MAX} times when uncompressed"
                )
            yield piece


def uncompressed_sha256(blob: Path, media_type: str) -> str:
    """Return the digest of the tar, 64 hexadecimal digits. Raises LayerRefused as above."""
    digest = hashlib.sha256()
    for piece in uncompressed(blob, media_type):
        digest.update(piece)
    return digest.hexdigest()


def _pieces(stream: BinaryIO, media_type: str) -> Iterator[bytes]:
    # Parameters may follow a `;`. Suffixes: OCI image-spec media-types.md, Docker schema 2.
    plain = media_type.partition(";")[0].strip().lower()
    if plain.endswith(("tar+gzip", "tar.gzip")):
        return _gzip(stream)
    if plain.endswith(("tar+zstd", "tar.zstd")):
        return _zstd(stream)
    if plain.endswith("tar"):
        return iter(lambda: stream.read(_READ_BYTES), b"")
    raise LayerRefused(f"layers of media type '{media_type[:100]}' are not supported")


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
                        raise LayerRefused("the layer's gzip data is cut off")
            members += 1
            rest = inflater.unused_data or stream.read(_READ_BYTES)
    except zlib.error as error:
        raise LayerRefused(f"the layer's gzip data is damaged: {error}") from error


def _zstd(stream: BinaryIO) -> Iterator[bytes]:
    try:
        decoder = zstandard.ZstdDecompressor(max_window_size=_ZSTD_WINDOW_BYTES_MAX)
        with decoder.stream_reader(stream, read_across_frames=True, closefd=False) as reader:
            while piece := reader.read(bounds.COPY_CHUNK_BYTES):
                yield piece
    except zstandard.ZstdError as error:
        raise LayerRefused(f"the layer's zstd data is damaged: {error}") from error
