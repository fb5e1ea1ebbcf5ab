"""The blob store of one machine: `contree.app.content.blob_store.BlobStore` in a directory.

    <root>/<space>/<first two digits>/<name>

A file gets its name only when it is whole and on disk (`spool`). Its time of modification says when
it was put last. File work happens in threads.
"""

from __future__ import annotations

import asyncio
import os
import shutil
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Final
from uuid import UUID

from contree.adapters.blobs.digests import checked
from contree.adapters.blobs.spool import Spool, storage_errors, sweep, uninterrupted
from contree.app.content.blob_store import READ_CHUNK_BYTES, Removed
from contree.domain.errors import NotFoundError

_GOING: Final = ".going"
"""Ends the name of a file that is being looked at for the last time."""


class DirectoryBlobStore:
    """Implements BlobStore."""

    def __init__(self, root: Path) -> None:
        with storage_errors():
            root.mkdir(parents=True, exist_ok=True, mode=0o700)
        sweep(root)
        self._root = root

    async def put(
        self, space: UUID, chunks: AsyncIterator[bytes], *, name: Callable[[], str]
    ) -> None:
        with Spool(self._root) as spool:
            await spool.fill(chunks, bytes_max=1 << 62)
            await uninterrupted(partial(self._keep, spool, space, name()))

    async def put_again(self, space: UUID, name: str) -> bool:
        try:
            os.utime(self._path(space, name))
        except FileNotFoundError:  # or a removal is looking at it: it must be put
            return False
        return True

    async def read(
        self, space: UUID, name: str, *, start: int = 0, stop: int | None = None
    ) -> AsyncIterator[bytes]:
        try:
            descriptor = os.open(self._path(space, name), os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError as error:
            raise NotFoundError("content", name) from error
        try:
            offset, end = start, (1 << 62) if stop is None else stop
            while piece := await asyncio.to_thread(
                os.pread, descriptor, min(READ_CHUNK_BYTES, end - offset), offset
            ):
                yield piece
                offset += len(piece)
                if len(piece) < READ_CHUNK_BYTES:
                    break  # only the end of a file gives less: most are read in one hop
        finally:
            os.close(descriptor)

    async def has(self, space: UUID, name: str) -> bool:
        try:
            return self._path(space, name).exists()
        except NotFoundError:
            return False

    async def remove(self, space: UUID, name: str, *, put_before: datetime) -> Removed | None:
        return await asyncio.to_thread(self._remove, self._path(space, name), put_before)

    async def clear(self, space: UUID) -> Removed:
        return await asyncio.to_thread(self._clear, self._root / space.hex)

    # -- in threads ---------------------------------------------------------------------------

    def _keep(self, spool: Spool, space: UUID, name: str) -> None:
        target = self._path(space, name)
        with storage_errors():
            target.parent.parent.mkdir(exist_ok=True)
        spool.keep(target)
        with suppress(FileNotFoundError):  # erased in this moment
            os.utime(target)

    def _remove(self, path: Path, put_before: datetime) -> Removed | None:
        going = path.with_name(path.name + _GOING)
        with suppress(FileNotFoundError):
            if _put_at(path) >= put_before:
                return None
            path.rename(going)
        try:
            # It may have been put again since we looked: then it comes back.
            if _put_at(going) >= put_before:
                with suppress(FileExistsError):
                    os.link(going, path)
                going.unlink()
                return None
            size_bytes = going.stat().st_size
            going.unlink()
        except FileNotFoundError:
            return Removed()
        return Removed(blob_count=1, blob_bytes=size_bytes)

    def _clear(self, directory: Path) -> Removed:
        removed = Removed()
        for parent, _, names in os.walk(directory):
            for name in names:
                path = Path(parent, name)
                with suppress(FileNotFoundError):
                    size_bytes = path.stat().st_size
                    path.unlink()
                    removed += Removed(blob_count=1, blob_bytes=size_bytes)
        shutil.rmtree(directory, ignore_errors=True)
        return removed

    def _path(self, space: UUID, name: str) -> Path:
        return self._root / space.hex / checked(name)[:2] / name


def _put_at(path: Path) -> datetime:
    return datetime.fromtimestamp(path.stat().st_mtime, UTC)
