"""The blob store of a fleet: `contree.app.content.blob_store.BlobStore` in one S3 bucket.

An object's key is its space and its name. S3 cannot be told "put again" but by writing it again,
which is done once an object is REFRESH old; so a removal leaves alone what is that much younger.

S3 cannot be told either to remove an object only if nobody wrote it meanwhile. So a removal looks
and removes in one moment, which it has for itself (`alone`), and who puts looks in such a moment
whether it is there: it sees what a removal has done, or the removal sees what was put.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
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


Alone = Callable[[str], AbstractAsyncContextManager[None]]
"""Lets one process of the fleet at a time be at the object of that key, for a moment."""


@asynccontextmanager
async def open_s3_blobs(
    place: S3Place, *, spool: Path, alone: Alone, attempts: int | None = None
) -> AsyncIterator[S3BlobStore]:
    """Give a store whose connections live as long as the context. `spool` is a local directory."""
    async with open_objects(place, spool=spool, attempts=attempts) as objects:
        yield S3BlobStore(objects, alone=alone)


class S3BlobStore:
    """Implements BlobStore; made by `open_s3_blobs`."""

    def __init__(self, objects: S3Objects, *, alone: Alone, refresh: timedelta = REFRESH) -> None:
        self._objects = objects
        self._alone = alone
        self._refresh = refresh

    async def check(self) -> None:
        """Raises UnavailableError when the bucket cannot be reached."""
        await self._objects.check()

    async def put(
        self, space: UUID, chunks: AsyncIterator[bytes], *, name: Callable[[], str]
    ) -> None:
        with Spool(self._objects.spool) as spool:
            await spool.fill(chunks, bytes_max=1 << 62)
            known = name()
            is_there = await self.put_again(space, known)
            while not is_there:
                await self._objects.write(_key(space, known), spool)
                is_there = await self._put_at(space, known) is not None

    async def put_again(self, space: UUID, name: str) -> bool:
        """Whether it is there and not REFRESH old; else it must be put, which needs its bytes."""
        put_at = await self._put_at(space, name)
        return put_at is not None and put_at >= datetime.now(UTC) - self._refresh

    async def read(
        self, space: UUID, name: str, *, start: int = 0, stop: int | None = None
    ) -> AsyncIterator[bytes]:
        async for piece in self._objects.read(_key(space, name), start=start, stop=stop):
            yield piece

    async def has(self, space: UUID, name: str) -> bool:
        try:
            return await self._objects.put_at(_key(space, name)) is not None
        except NotFoundError:
            return False

    async def remove(self, space: UUID, name: str, *, put_before: datetime) -> Removed | None:
        key = _key(space, name)
        async with self._alone(key):
            put_at = await self._objects.put_at(key)
            if put_at is not None and put_at >= put_before - self._refresh:
                return None
            return await self._removed(key)

    async def clear(self, space: UUID) -> Removed:
        removed = Removed()
        async for key in self._objects.keys(f"{space.hex}/"):
            removed += await self._removed(key)
        return removed

    async def _put_at(self, space: UUID, name: str) -> datetime | None:
        key = _key(space, name)
        async with self._alone(key):
            return await self._objects.put_at(key)

    async def _removed(self, key: str) -> Removed:
        size_bytes = await self._objects.remove(key)
        return Removed() if size_bytes is None else Removed(blob_count=1, blob_bytes=size_bytes)


def _key(space: UUID, name: str) -> str:
    return f"{space.hex}/{checked(name)}"
