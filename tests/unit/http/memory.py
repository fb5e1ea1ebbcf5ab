"""Image files in memory, for tests of the HTTP ring."""

from __future__ import annotations

import io
import posixpath
import tarfile
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

from contree.app.content.blob_store import READ_CHUNK_BYTES
from contree.app.images.layer_store import EntryType, FileContent, FileEntry
from contree.domain.errors import NotFoundError, WrongFileTypeError


class MemoryFiles:
    """An ImageFiles that shows the same tree for every image.

    sources     path to a local file (with the offset) that holds a file's bytes
    short_by    bytes that every stream lacks at its end: a source that breaks
    """

    def __init__(self) -> None:
        self.entries: dict[str, FileEntry] = {}
        self.data: dict[str, bytes] = {}
        self.sources: dict[str, tuple[Path, int]] = {}
        self.short_by = 0
        self.add("/", EntryType.DIRECTORY, mode=0o755)

    def add(
        self,
        path: str,
        type_: EntryType = EntryType.REGULAR,
        *,
        data: bytes = b"",
        mode: int = 0o644,
        symlink_to: str = "",
        mtime_s: int = 1_700_000_000,
    ) -> None:
        self.data[path] = data
        self.entries[path] = FileEntry(
            path=path,
            type=type_,
            mode=mode,
            uid=0,
            gid=0,
            owner="root",
            group="root",
            size_bytes=len(data),
            mtime_s=mtime_s,
            symlink_to=symlink_to,
        )

    async def stat(self, layers: Sequence[str], path: str, *, follow: bool = True) -> FileEntry:
        entry = self.entries.get(path)
        if entry is None:
            raise NotFoundError("path", path)
        if follow and entry.type is EntryType.SYMLINK:
            return await self.stat(layers, entry.symlink_to)
        return entry

    async def list(self, layers: Sequence[str], path: str) -> Sequence[FileEntry]:
        directory = await self.stat(layers, path)
        if directory.type is not EntryType.DIRECTORY:
            raise WrongFileTypeError(path, "is not a directory")
        return [
            entry
            for name, entry in sorted(self.entries.items())
            if name != "/" and posixpath.dirname(name) == directory.path
        ]

    async def open(self, layers: Sequence[str], path: str) -> FileContent:
        entry = await self.stat(layers, path)
        if entry.type is not EntryType.REGULAR:
            raise WrongFileTypeError(path, "is not a regular file")
        source, offset = self.sources.get(entry.path, (None, 0))
        data = self.data[entry.path]
        return FileContent(
            entry=entry,
            source=source,
            offset=offset,
            chunks=self._stream(data[: len(data) - self.short_by]),
        )

    async def archive(self, layers: Sequence[str], path: str) -> AsyncIterator[bytes]:
        entry = await self.stat(layers, path, follow=False)
        if entry.type in {EntryType.FIFO, EntryType.SOCKET, EntryType.CHARACTER_DEVICE}:
            raise WrongFileTypeError(path, "cannot be archived")
        buffer = io.BytesIO()
        with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT) as tar:
            base = entry.name if path != "/" else "."
            for name, found in sorted(self.entries.items()):
                if name == path or name.startswith(path.rstrip("/") + "/"):
                    relative = name[len(path.rstrip("/")) :].strip("/")
                    member = tarfile.TarInfo(f"{base}/{relative}" if relative else base)
                    member.type = (
                        tarfile.DIRTYPE if found.type is EntryType.DIRECTORY else tarfile.REGTYPE
                    )
                    member.size = len(self.data[name])
                    tar.addfile(member, io.BytesIO(self.data[name]))
        data = buffer.getvalue()
        return self._stream(data[: len(data) - self.short_by])

    async def _stream(self, data: bytes) -> AsyncIterator[bytes]:
        for start in range(0, len(data), READ_CHUNK_BYTES):
            yield data[start : start + READ_CHUNK_BYTES]
        if self.short_by:
            raise OSError("the disk broke")
