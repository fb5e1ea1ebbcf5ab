"""A hostile tar, compressed or not, to entries and bytes. Blocking."""

from __future__ import annotations

from collections.abc import Iterator
from typing import BinaryIO, Final

from contree.adapters.layers.tar.bounds import COPY_CHUNK_BYTES
from contree.adapters.layers.tar.decompress import decompressed
from contree.adapters.layers.tar.entry import Kind, TarEntry, shown
from contree.adapters.layers.tar.reader import Rules, TarReader
from contree.adapters.layers.unpacking.limits import STREAM_SLACK_BYTES
from contree.app.content.archives import ArchiveEntry
from contree.app.guest.microvm import FileKind
from contree.domain.errors import LayerRefused

_KINDS: Final = {
    Kind.REGULAR: FileKind.FILE,
    Kind.DIRECTORY: FileKind.DIRECTORY,
    Kind.SYMLINK: FileKind.SYMLINK,
    Kind.HARD_LINK: FileKind.HARD_LINK,
}


def tar_items(stream: BinaryIO, *, bytes_max: int) -> Iterator[ArchiveEntry | bytes]:
    """Yield entries, each followed by its bytes. Raises LayerRefused."""
    reader = TarReader(_Source(decompressed(stream), bytes_max + STREAM_SLACK_BYTES), Rules.IMPORT)
    for entry in reader:
        kind = _KINDS.get(entry.kind)
        if kind is None:
            raise LayerRefused(
                f"'{shown(entry.path)}' is neither file, directory nor link; leave it out"
            )
        yield ArchiveEntry(
            path=entry.path,
            kind=kind,
            mode=entry.mode,
            uid=entry.uid,
            gid=entry.gid,
            mtime_s=entry.mtime_s,
            size_bytes=entry.size_bytes,
            target=entry.link,
        )
        yield from reader.chunks() if entry.segments is None else _expanded(reader, entry)


class _Source:
    """A ByteSource of pieces."""

    def __init__(self, pieces: Iterator[bytes], bytes_max: int) -> None:
        self._pieces = pieces
        self._left = bytes_max
        self._piece = memoryview(b"")

    def read(self, size: int, /) -> bytes:
        if not self._piece:
            piece = next(self._pieces, b"")
            self._left -= len(piece)
            if self._left < 0:
                raise LayerRefused("it expands too far when uncompressed")
            self._piece = memoryview(piece)
        taken, self._piece = self._piece[:size], self._piece[size:]
        return bytes(taken)


def _expanded(reader: TarReader, entry: TarEntry) -> Iterator[bytes]:
    """Yield a sparse file with its holes."""
    stored = _Source(reader.chunks(), entry.stored_bytes)
    at = 0
    for offset, length in (*(entry.segments or ()), (entry.size_bytes, 0)):
        for hole in range(at, offset, COPY_CHUNK_BYTES):
            yield bytes(min(COPY_CHUNK_BYTES, offset - hole))
        left = length
        while left:
            piece = stored.read(min(left, COPY_CHUNK_BYTES))
            left -= len(piece)
            yield piece
        at = offset + length
