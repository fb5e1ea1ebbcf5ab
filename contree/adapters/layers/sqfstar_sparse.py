"""Sparse files in the one form of GNU 1.0 that sqfstar reads rightly.

squashfs-tools (4.5.1, measured; its issue 401 is open) loses its place in a sparse file unless
data begins and ends on its own blocks and the file begins and ends in data. So segments are widened
to whole blocks, the first and the last block always count as data, and a file that is then one
piece is sent plain. What is sent more than was stored is zeros, from which sqfstar makes holes
again: it looks for them in every block.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from contree.adapters.layers.entry import Segments

BLOCK_BYTES: Final = 128 * 1024
"""squashfs' data block, `-b` of sqfstar."""

_ZEROS: Final = bytes(256 * 1024)


def widened(segments: Segments, size_bytes: int) -> Segments | None:
    """Return what to send of the file; None when that is all of it."""
    if not size_bytes:
        return None
    last = (size_bytes - 1) // BLOCK_BYTES * BLOCK_BYTES
    extents: list[tuple[int, int]] = []
    for offset, length in ((0, 1), *segments, (last, size_bytes - last)):
        start = offset // BLOCK_BYTES * BLOCK_BYTES
        end = min(-(-(offset + length) // BLOCK_BYTES) * BLOCK_BYTES, size_bytes)
        if extents and start <= extents[-1][1]:
            extents[-1] = (extents[-1][0], max(end, extents[-1][1]))
        else:
            extents.append((start, end))
    if len(extents) == 1:
        return None
    return tuple((start, end - start) for start, end in extents)


def send_widened(
    segments: Segments,
    extents: Segments,
    *,
    data: Callable[[int, int], None],
    write: Callable[[bytes], None],
) -> None:
    """Send the bytes of `extents`: `data(at, length)` for stored ones, zeros by `write` between.

    `at` counts from the beginning of the file's stored bytes.
    """
    stored = 0
    remaining = iter(segments)
    segment = next(remaining, None)
    for start, length in extents:
        position, end = start, start + length
        # A segment never crosses an extent's end: extents are made of whole segments.
        while segment is not None and segment[0] < end:
            _zeros(segment[0] - position, write)
            data(stored, segment[1])
            stored += segment[1]
            position = sum(segment)
            segment = next(remaining, None)
        _zeros(end - position, write)


def _zeros(length: int, write: Callable[[bytes], None]) -> None:
    while length:
        piece = _ZEROS[:length]
        write(piece)
        length -= len(piece)
