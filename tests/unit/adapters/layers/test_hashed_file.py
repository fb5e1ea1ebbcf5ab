"""Pieces small and large, in their order: what is hashed is what is written."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import pytest

from contree.adapters.layers.writing.hashed_file import HashedFile

LARGE = 256 * 1024


@pytest.mark.parametrize(
    "sizes",
    [
        [],
        [1],
        [LARGE],
        [LARGE - 1, LARGE, LARGE + 1],
        [LARGE, 1, LARGE, LARGE, 7],
        [1 << 20] * 40,
    ],
)
def test_the_digest_is_that_of_the_file(tmp_path: Path, sizes: list[int]) -> None:
    pieces = [os.urandom(size) for size in sizes]
    path = tmp_path / "file"
    with path.open("wb") as stream, HashedFile(stream) as out:
        for piece in pieces:
            out.write(piece)
        digest = out.hexdigest()
    assert path.read_bytes() == b"".join(pieces)
    assert digest == hashlib.sha256(b"".join(pieces)).hexdigest()
    assert out.position == sum(sizes)
