"""Built with blobs of gzip and zstandard, whole, joined, cut and inflated."""

from __future__ import annotations

import gzip
import os
import zlib
from collections.abc import Callable
from pathlib import Path

import pytest
import zstandard

from contree.adapters.layers.tar import bounds
from contree.adapters.layers.tar.decompress import uncompressed
from contree.domain.errors import LayerRefused

BYTES_MAX = 64 * 1024**2
DATA = os.urandom(300_000) + bytes(2_000_000)


SKIPPABLE = b"\x5a\x2a\x4d\x18\x03\0\0\0abc"
"""A zstd frame that holds nothing of the content, as zstd:chunked has them."""


def read(tmp_path: Path, packed: bytes) -> bytes:
    path = tmp_path / "blob"
    path.write_bytes(packed)
    pieces = list(uncompressed(path, bytes_max=10**8))
    assert all(0 < len(piece) <= bounds.COPY_CHUNK_BYTES for piece in pieces)
    return b"".join(pieces)


@pytest.mark.parametrize(
    "packed",
    [
        DATA,
        gzip.compress(DATA),
        zstandard.compress(DATA),
        SKIPPABLE + zstandard.compress(DATA) + SKIPPABLE,
    ],
    ids=["plain", "gzip", "zstd", "zstd with frames to skip"],
)
def test_the_content_says_how_it_is_compressed(tmp_path: Path, packed: bytes) -> None:
    assert read(tmp_path, packed) == DATA


@pytest.mark.parametrize("content", [b"", b"x", b"\x1f"])
def test_what_is_too_short_to_be_compressed_is_plain(tmp_path: Path, content: bytes) -> None:
    assert read(tmp_path, content) == content


@pytest.mark.parametrize("pack", [gzip.compress, zstandard.compress])
def test_joined_members_are_one_stream(tmp_path: Path, pack: Callable[[bytes], bytes]) -> None:
    assert read(tmp_path, pack(b"one") + pack(b"") + pack(b"two")) == b"onetwo"


def test_zeros_after_gzip_are_padding_and_anything_else_is_damage(tmp_path: Path) -> None:
    packed = gzip.compress(DATA)
    assert read(tmp_path, packed + bytes(1_000_000)) == DATA
    with pytest.raises(LayerRefused, match="damaged"):
        read(tmp_path, packed + b"garbage")


@pytest.mark.parametrize("keep", [2, 5, 11, 1000, -1, -8])
def test_gzip_that_is_cut_off_is_refused(tmp_path: Path, keep: int) -> None:
    with pytest.raises(LayerRefused):
        read(tmp_path, gzip.compress(DATA)[:keep])


def test_a_wrong_checksum_is_refused(tmp_path: Path) -> None:
    packed = bytearray(gzip.compress(DATA))
    packed[-8] ^= 1
    with pytest.raises(LayerRefused, match="damaged"):
        read(tmp_path, bytes(packed))


def bomb(size: int) -> bytes:
    pack = zlib.compressobj(9, zlib.DEFLATED, 31)
    zeros = bytes(1 << 20)
    return b"".join([pack.compress(zeros) for _ in range(size >> 20)]) + pack.flush()


def test_a_bomb_is_refused_before_it_is_all_out(tmp_path: Path) -> None:
    path = tmp_path / "bomb"
    path.write_bytes(bomb(2 * BYTES_MAX))
    sizes: list[int] = []
    with pytest.raises(LayerRefused, match="expands too far"):
        sizes.extend(len(piece) for piece in uncompressed(path, bytes_max=BYTES_MAX))
    assert BYTES_MAX - bounds.COPY_CHUNK_BYTES <= sum(sizes) <= BYTES_MAX


def test_a_zstd_window_over_the_bound_is_refused(tmp_path: Path) -> None:
    parameters = zstandard.ZstdCompressionParameters(window_log=29, enable_ldm=True)
    packer = zstandard.ZstdCompressor(compression_params=parameters).compressobj()
    packed = packer.compress(DATA) + packer.flush()
    with pytest.raises(LayerRefused, match="zstd"):
        read(tmp_path, packed)
