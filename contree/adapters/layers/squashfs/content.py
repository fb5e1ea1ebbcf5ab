"""Where an image has the contents of files: in the layers' tars, or copied into its own data.

A squashfs finds the blocks of a file one after the other from a byte of its choosing, and a tar has
a regular file's content in one piece. So what lies in a tar of the image is not copied, nor is a
sparse file whose holes are whole blocks. Copied is what another sparse file has in blocks that are
partly data, and what lies in a tar that is not part of the image.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping

from contree.adapters.layers.reading.open_tars import OpenTars
from contree.adapters.layers.squashfs.format import BLOCK_BYTES, HOLE, Stored, stored_blocks
from contree.adapters.layers.squashfs.head import PAGE_BYTES, whole_pages
from contree.adapters.layers.tar import bounds
from contree.adapters.layers.tar.entry import Segments, TarEntry, shown
from contree.domain.errors import LayerRefused


class Contents:
    """Finds and copies contents. `at` is where in the file `out` the next copy goes.

    bases  where in the image each tar begins that is part of it, by number of its layer
    shift  how much further on in the image than in `out` copies lie
    spare_bytes  how much of the disk copies of sparse files may take
    """

    def __init__(
        self,
        tars: OpenTars,
        *,
        bases: Mapping[int, int],
        out: int,
        at: int,
        shift: int,
        spare_bytes: int,
    ) -> None:
        self._tars = tars
        self._bases = bases
        self._out = out
        self.at = at
        self._shift = shift
        self._spare_bytes = spare_bytes

    def stored(self, layer: int, entry: TarEntry) -> Stored:
        """Return where the content of a regular file lies. Raises LayerRefused, EOFError."""
        if not entry.stored_bytes:
            hole = entry.size_bytes
            return Stored(blocks=HOLE * -(-hole // BLOCK_BYTES), hole_bytes=hole)
        runs = [(0, entry.size_bytes)]
        segments: Segments = ((0, entry.size_bytes),)
        if entry.segments is not None:
            segments = tuple(one for one in entry.segments if one[1])
            runs = _block_runs(segments, entry.size_bytes)
        base = self._bases.get(layer)
        data_bytes = sum(length for _, length in runs)
        if base is not None and data_bytes == entry.stored_bytes:
            start = base + entry.data_offset
        else:
            if entry.segments is not None:
                self._spend(segments, entry)
            start = self._copied(layer, entry, segments, runs)
        return Stored(
            start=start,
            blocks=b"".join(_list(runs, entry.size_bytes)),
            hole_bytes=entry.size_bytes - data_bytes,
        )

    def _spend(self, segments: Segments, entry: TarEntry) -> None:
        for offset, length in segments:
            self._spare_bytes -= whole_pages(offset + length) - offset // PAGE_BYTES * PAGE_BYTES
        if self._spare_bytes < 0:
            raise LayerRefused(
                f"'{shown(entry.path)}' is sparse in pieces so small that it takes"
                f" {bounds.SPARSE_EXPANSION_MAX} times as much room on disk"
            )

    def _copied(
        self, layer: int, entry: TarEntry, segments: Segments, runs: list[tuple[int, int]]
    ) -> int:
        """Copy the runs of blocks into `out`, zeros as holes; return where the image has them."""
        descriptor = self._tars.descriptor(layer)
        start = self.at
        stored_at = entry.data_offset
        remaining = iter(segments)
        segment = next(remaining, None)
        for begin, length in runs:
            # A segment is never in two runs: runs are made of whole segments.
            while segment is not None and segment[0] < begin + length:
                self._copy(descriptor, stored_at, segment[1], self.at + segment[0] - begin)
                stored_at += segment[1]
                segment = next(remaining, None)
            self.at += length
        self.at = whole_pages(self.at)
        return start + self._shift

    def _copy(self, source: int, offset: int, length: int, target: int) -> None:
        os.lseek(self._out, target, os.SEEK_SET)
        while length:
            sent = os.sendfile(self._out, source, offset, length)
            if not sent:
                raise EOFError("a layer's tar is shorter than its index says")
            offset += sent
            length -= sent


def _block_runs(segments: Segments, size_bytes: int) -> list[tuple[int, int]]:
    """Return (offset, length) of the whole blocks that have data, neighbours as one."""
    runs: list[tuple[int, int]] = []
    for offset, length in segments:
        begin = offset // BLOCK_BYTES * BLOCK_BYTES
        end = min(-(-(offset + length) // BLOCK_BYTES) * BLOCK_BYTES, size_bytes)
        if runs and begin <= sum(runs[-1]):
            begin = runs.pop()[0]
        runs.append((begin, end - begin))
    return runs


def _list(runs: list[tuple[int, int]], size_bytes: int) -> Iterator[bytes]:
    position = 0
    for offset, length in [*runs, (size_bytes, 0)]:
        yield HOLE * -(-(offset - position) // BLOCK_BYTES)
        yield stored_blocks(length)
        position = offset + length
