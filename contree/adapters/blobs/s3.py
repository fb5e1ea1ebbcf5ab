"""The content store of a fleet: `contree.app.content.content_store.ContentStore` in one S3 bucket.

An object's key is its SHA-256. A name must be known before an object is written, so content goes
through a local spool first. Content is immutable: what is there is not written again, nor removed.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path

from contree.adapters.blobs.digests import checked
from contree.adapters.blobs.s3_objects import PART_BYTES, S3Objects, S3Place, open_objects
from contree.adapters.blobs.spool import Spool, uninterrupted
from contree.app.content.content_store import Content
from contree.domain.errors import NotFoundError

__all__ = ["PART_BYTES", "S3ContentStore", "S3Place", "open_s3"]


@asynccontextmanager
async def open_s3(
    place: S3Place, *, spool: Path, attempts: int | None = None
) -> AsyncIterator[S3ContentStore]:
    """Give a store whose connections live as long as the context. `spool` is a local directory."""
    async with open_objects(place, spool=spool, attempts=attempts) as objects:
        yield S3ContentStore(objects)


class S3ContentStore:
    """Implements ContentStore; made by `open_s3`."""

    def __init__(self, objects: S3Objects) -> None:
        self._objects = objects

    async def put(self, chunks: AsyncIterator[bytes], *, bytes_max: int) -> Content:
        with Spool(self._objects.spool) as spool:
            await spool.fill(chunks, bytes_max=bytes_max)
            return await self._upload(spool)

    async def put_bytes(self, data: bytes) -> Content:
        with Spool(self._objects.spool) as spool:
            await uninterrupted(partial(spool.write, data))
            return await self._upload(spool)

    async def read(
        self, sha256: str, *, offset: int = 0, length: int | None = None
    ) -> AsyncIterator[bytes]:
        async for piece in self._objects.read(checked(sha256), offset=offset, length=length):
            yield piece

    async def read_bytes(self, sha256: str) -> bytes:
        return b"".join([piece async for piece in self.read(sha256)])

    async def has(self, sha256: str) -> bool:
        try:
            return await self._objects.put_at(checked(sha256)) is not None
        except NotFoundError:
            return False

    async def _upload(self, spool: Spool) -> Content:
        content = Content(sha256=spool.sha256, size_bytes=spool.size_bytes)
        if not await self.has(content.sha256):
            await self._objects.write(content.sha256, spool)
        return content
