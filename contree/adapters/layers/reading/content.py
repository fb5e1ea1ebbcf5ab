"""Content of one file: where its bytes lie in a layer's tar, holes filled in when it is sparse."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from typing import Final

from contree.adapters.layers.tar.bounds import COPY_CHUNK_BYTES
from contree.adapters.layers.tar.entry import Segments, TarEntry

_ZEROS: Final = bytes(COPY_CHUNK_BYTES)


class ContentHash:
    """SHA-256 of a file's stored bytes; of a sparse file, with its size and map before them.

    Hashing holes as zeros would let a few bytes cost minutes of CPU (a hole may be 256 GiB), so
    equal content stored with other holes has another digest here.
    """

    def __init__(self, entry: TarEntry) -> None:
        self._digest = hashlib.sha256()
        if entry.segments is not None:
            self._digest.update(repr((entry.size_bytes, entry.segments)).encode())
        self.update = self._digest.update
        self.digest = self._digest.digest


def read_range(descriptor: int, offset: int, length: int) -> Iterator[bytes]:
    """Yield bytes of a file. Raises EOFError when it is shorter than its index says."""
    while length:
        piece = os.pread(descriptor, min(length, COPY_CHUNK_BYTES), offset)
        if not piece:
            raise EOFError("a layer's tar is shorter than its index says")
        yield piece
        offset += len(piece)
        length -= len(piece)


def read_content(descriptor: int, entry: TarEntry) -> Iterator[bytes]:
    """Yield the whole content of a regular file, holes as zeros."""
    segments: Segments = ((0, entry.size_bytes),) if entry.segments is None else entry.segments
    position = 0
    stored = entry.data_offset
    for offset, length in segments:
        yield from _zeros(offset - position)
        yield from read_range(descriptor, stored, length)
        stored += length
        position = offset + length
    yield from _zeros(entry.size_bytes - position)


def _zeros(length: int) -> Iterator[bytes]:
    while length:
        piece = _ZEROS[:length]
        yield piece
        length -= len(piece)
