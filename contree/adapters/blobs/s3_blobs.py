"""The blob store of a fleet: `contree.app.content.blob_store.BlobStore` in one S3 bucket.

An object's key is its space and its name. S3 cannot be told "put again" but by writing it again,
which is done once an object is REFRESH old; so a removal must ask for more than that.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final
from uuid import UUID

from contree.adapters.blobs.digests import checked
from contree.adapters.blobs.s3_objects import S3Objects, S3Place, open_objects
from contree.adapters.blobs.spool import Spool
from contree.app.content.blob_store import Removed
from contree.domain.errors import NotFoundError

REFRESH: Final = timedelta(minutes=15)
"""A quarter of what removals leave alone (app.content.remove_content.FRESH)."""


@asynccontextmanager
async def open_s3_blobs(place: S3Place, *, spool: Path) -> AsyncIterator[S3BlobStore]:
    """Give a store whose connections live as long as the context. `spool` is a local directory."""
    async with open_objects(place, spool=spool) as objects:
        yield S3BlobStore(objects)


class S3BlobStore:
    """Implements BlobStore; made by `open_s3_blobs`."""

    def __init__(self, objects: S3Objects, *, refresh: timedelta = REFRESH) -> None:
        self._objects = objects
        self._refresh = refresh

    async def put(
        self, space: UUID, chunks: AsyncIterator[bytes], *, name: Callable[[], str]
    ) -> None:
        with Spool(self._objects.spool) as spool:
            await spool.fill(chunks, bytes_max=1 << 62)
            known = name()
            if not await self.put_again(space, known):
                await self._objects.write(_key(space, known), spool)

    async def put_again(self, space: UUID, name: str) -> bool:
        """Whether it is there and not REFRESH old; else it must be put, which needs its bytes."""
        put_at = await self._objects.put_at(_key(space, name))
        return put_at is not None and put_at >= datetime.now(UTC) - self._refresh

    async def read(self, space: UUID, name: str) -> AsyncIterator[bytes]:
        async for piece in self._objects.read(_key(space, name)):
            yield piece

    async def has(self, space: UUID, name: str) -> bool:
        try:
            return await self._objects.put_at(_key(space, name)) is not None
        except NotFoundError:
            return False

    async def remove(self, space: UUID, name: str, *, put_before: datetime) -> Removed | None:
        put_at = await self._objects.put_at(_key(space, name))
        if put_at is not None and put_at >= put_before:
            return None
        return await self._removed(_key(space, name))

    async def clear(self, space: UUID) -> Removed:
        removed = Removed()
        async for key in self._objects.keys(f"{space.hex}/"):
            removed += await self._removed(key)
        return removed

    async def _removed(self, key: str) -> Removed:
        size_bytes = await self._objects.remove(key)
        return Removed() if size_bytes is None else Removed(blob_count=1, blob_bytes=size_bytes)


def _key(space: UUID, name: str) -> str:
    return f"{space.hex}/{checked(name)}"
