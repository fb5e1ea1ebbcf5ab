"""Built with blobs of gzip and zstandard, whole, joined, cut and inflated."""

from __future__ import annotations

import gzip
import os
import zlib
from pathlib import Path

import pytest
import zstandard

from contree.adapters.layers.tar import bounds
from contree.adapters.layers.tar.decompress import uncompressed
from contree.domain.errors import LayerRefused
from tests.support.layer_tars import DOCKER_GZIP, TAR, TAR_GZIP, TAR_ZSTD

DATA = os.urandom(300_000) + bytes(2_000_000)


def read(tmp_path: Path, packed: bytes, media_type: str) -> bytes:
    path = tmp_path / "blob"
    path.write_bytes(packed)
    pieces = list(uncompressed(path, media_type))
    assert all(0 < len(piece) <= bounds.COPY_CHUNK_BYTES for piece in pieces)
    return b"".join(pieces)


@pytest.mark.parametrize(
    ("media_type", "packed"),
    [
        (TAR, DATA),
        (TAR_GZIP, gzip.compress(DATA)),
        (DOCKER_GZIP, gzip.compress(DATA)),
        (TAR_ZSTD, zstandard.compress(DATA)),
        (TAR_GZIP + "; charset=x", gzip.compress(DATA)),
        ("application/vnd.docker.image.rootfs.foreign.diff.tar.gzip", gzip.compress(DATA)),
        ("application/vnd.oci.image.layer.nondistributable.v1.tar+zstd", zstandard.compress(DATA)),
    ],
)
def test_each_media_type_is_read(tmp_path: Path, media_type: str, packed: bytes) -> None:
    assert read(tmp_path, packed, media_type) == DATA


@pytest.mark.parametrize("media_type", [TAR_GZIP, TAR_ZSTD])
def test_joined_members_are_one_stream(tmp_path: Path, media_type: str) -> None:
    pack = gzip.compress if media_type == TAR_GZIP else zstandard.compress
    assert read(tmp_path, pack(b"one") + pack(b"") + pack(b"two"), media_type) == b"onetwo"


def test_zeros_after_gzip_are_padding_and_anything_else_is_damage(tmp_path: Path) -> None:
    packed = gzip.compress(DATA)
    assert read(tmp_path, packed + bytes(1_000_000), TAR_GZIP) == DATA
    with pytest.raises(LayerRefused, match="damaged"):
        read(tmp_path, packed + b"garbage", TAR_GZIP)


@pytest.mark.parametrize("keep", [1, 5, 11, 1000, -1, -8])
def test_gzip_that_is_cut_off_is_refused(tmp_path: Path, keep: int) -> None:
    with pytest.raises(LayerRefused):
        read(tmp_path, gzip.compress(DATA)[:keep], TAR_GZIP)


def test_a_wrong_checksum_is_refused(tmp_path: Path) -> None:
    packed = bytearray(gzip.compress(DATA))
    packed[-8] ^= 1
    with pytest.raises(LayerRefused, match="damaged"):
        read(tmp_path, bytes(packed), TAR_GZIP)


def bomb(size: int) -> bytes:
    pack = zlib.compressobj(9, zlib.DEFLATED, 31)
    zeros = bytes(1 << 20)
    return b"".join([pack.compress(zeros) for _ in range(size >> 20)]) + pack.flush()


def test_a_bomb_is_refused_before_it_is_all_out(tmp_path: Path) -> None:
    path = tmp_path / "bomb"
    path.write_bytes(bomb(bounds.EXPANSION_FREE_BYTES * 2))
    sizes: list[int] = []
    with pytest.raises(LayerRefused, match="expands over 300 times"):
        sizes.extend(len(piece) for piece in uncompressed(path, TAR_GZIP))
    assert sum(sizes) <= bounds.EXPANSION_FREE_BYTES


def test_a_zstd_window_over_the_bound_is_refused(tmp_path: Path) -> None:
    parameters = zstandard.ZstdCompressionParameters(window_log=29, enable_ldm=True)
    packer = zstandard.ZstdCompressor(compression_params=parameters).compressobj()
    packed = packer.compress(DATA) + packer.flush()
    with pytest.raises(LayerRefused, match="zstd"):
        read(tmp_path, packed, TAR_ZSTD)
