"""The content store of one machine: `app.content.content_store.ContentStore` in a directory.

    <root>/<first two digits>/<sha256>

A file gets its name only when it is whole and on disk (`spool`), and never changes afterwards. File
work happens in threads. Nothing here removes content.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from functools import partial
from pathlib import Path

from contree.adapters.blobs.digests import checked
from contree.adapters.blobs.spool import Spool, storage_errors, sweep, uninterrupted
from contree.app.content.content_store import READ_CHUNK_BYTES, Content
from contree.domain.errors import NotFoundError


class DirectoryContentStore:
    """Implements ContentStore."""

    def __init__(self, root: Path) -> None:
        with storage_errors():
            root.mkdir(parents=True, exist_ok=True)
        sweep(root)
        self._root = root

    async def put(self, chunks: AsyncIterator[bytes], *, bytes_max: int) -> Content:
        with Spool(self._root) as spool:
            await spool.fill(chunks, bytes_max=bytes_max)
            return await self._keep(spool)

    async def put_bytes(self, data: bytes) -> Content:
        with Spool(self._root) as spool:
            await uninterrupted(partial(spool.write, data))
            return await self._keep(spool)

    async def read(
        self, sha256: str, *, offset: int = 0, length: int | None = None
    ) -> AsyncIterator[bytes]:
        descriptor = self._open(sha256)
        try:
            left = length
            while left is None or left > 0:
                size = READ_CHUNK_BYTES if left is None else min(left, READ_CHUNK_BYTES)
                piece = await asyncio.to_thread(os.pread, descriptor, size, offset)
                if not piece:
                    return
                yield piece
                offset += len(piece)
                left = None if left is None else left - len(piece)
        finally:
            os.close(descriptor)

    async def read_bytes(self, sha256: str) -> bytes:
        return b"".join([piece async for piece in self.read(sha256)])

    async def has(self, sha256: str) -> bool:
        try:
            return self._path(sha256).exists()
        except NotFoundError:
            return False

    async def _keep(self, spool: Spool) -> Content:
        await uninterrupted(partial(spool.keep, self._path(spool.sha256)))
        return Content(sha256=spool.sha256, size_bytes=spool.size_bytes)

    def _open(self, sha256: str) -> int:
        try:
            return os.open(self._path(sha256), os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError as error:
            raise NotFoundError("content", sha256) from error

    def _path(self, sha256: str) -> Path:
        digest = checked(sha256)
        return self._root / digest[:2] / digest
