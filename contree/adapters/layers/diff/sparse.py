"""Whether two files hold the same bytes, where their digests cannot tell: one has holes.

Only what is stored is read. A hole may be of any size, so it is never turned into zeros as a whole.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator
from heapq import merge
from typing import Final

from contree.adapters.layers.reading.content import read_range
from contree.adapters.layers.tar.bounds import COPY_CHUNK_BYTES
from contree.adapters.layers.tar.entry import Segments, TarEntry

_ZEROS: Final = bytes(COPY_CHUNK_BYTES)


class StoredFile:
    """A regular file of a layer; `descriptor` is its tar's."""

    def __init__(self, descriptor: int, entry: TarEntry) -> None:
        self._descriptor = descriptor
        self.size_bytes = entry.size_bytes
        whole: Segments = ((0, entry.size_bytes),) if entry.size_bytes else ()
        self.segments = whole if entry.segments is None else entry.segments
        self._starts = [offset for offset, _ in self.segments]
        self._places: list[int] = []
        place = entry.data_offset
        for _, length in self.segments:
            self._places.append(place)
            place += length

    def read(self, offset: int, length: int) -> bytes:
        """Return bytes of the file, holes as zeros."""
        pieces: list[bytes] = []
        at, end = offset, offset + length
        number = max(0, bisect_right(self._starts, at) - 1)
        while at < end and number < len(self.segments):
            start, size = self.segments[number]
            if at < start:
                pieces.append(_ZEROS[: min(start, end) - at])
                at = min(start, end)
            count = min(start + size, end) - at
            if count > 0:
                place = self._places[number] + at - start
                pieces += read_range(self._descriptor, place, count)
                at += count
            number += 1
        pieces.append(_ZEROS[: end - at])
        return b"".join(pieces)


def hold_the_same(one: StoredFile, other: StoredFile) -> bool:
    """Compare two files byte by byte, wherever either stores something."""
    if one.size_bytes != other.size_bytes:
        return False
    return all(
        one.read(offset, length) == other.read(offset, length)
        for offset, length in _stored(one, other)
    )


def _stored(one: StoredFile, other: StoredFile) -> Iterator[tuple[int, int]]:
    """Yield every range in which either stores something, in pieces, none of it twice."""
    done = 0
    for offset, length in merge(one.segments, other.segments):
        at, end = max(offset, done), offset + length
        while at < end:
            size = min(COPY_CHUNK_BYTES, end - at)
            yield at, size
            at += size
        done = max(done, end)
