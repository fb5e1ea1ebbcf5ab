"""A blob store in memory. tests/contracts/test_blob_store.py holds it to the Protocol."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime
from uuid import UUID

from contree.app.content.blob_store import READ_CHUNK_BYTES, Removed
from contree.domain.errors import NotFoundError, StorageFullError, UnavailableError


class FakeBlobStore:
    """`stored` is all there is. `full` makes it refuse; `reads` counts what was fetched.

    While it is `away` nothing can be put, and `missed` has one entry for each that was to be.
    """

    def __init__(self) -> None:
        self.stored: dict[tuple[UUID, str], tuple[bytes, datetime]] = {}
        self.full = False
        self.away = False
        self.missed: asyncio.Queue[None] = asyncio.Queue()
        self.reads = 0

    async def check(self) -> None:
        if self.away:
            self.missed.put_nowait(None)
            raise UnavailableError("the store is away")

    async def put(
        self, space: UUID, chunks: AsyncIterator[bytes], *, name: Callable[[], str]
    ) -> None:
        data = b"".join([chunk async for chunk in chunks])
        await self.check()
        if self.full:
            raise StorageFullError("the store has no room")
        known, _ = self.stored.get((space, name()), (data, None))
        self.stored[space, name()] = (known, datetime.now(UTC))

    async def put_again(self, space: UUID, name: str) -> bool:
        await self.check()
        if (space, name) not in self.stored:
            return False
        data, _ = self.stored[space, name]
        self.stored[space, name] = (data, datetime.now(UTC))
        return True

    async def read(
        self, space: UUID, name: str, *, start: int = 0, stop: int | None = None
    ) -> AsyncIterator[bytes]:
        self.reads += 1
        if (space, name) not in self.stored:
            raise NotFoundError("content", name)
        data = self.stored[space, name][0][start:stop]
        for at in range(0, len(data), READ_CHUNK_BYTES):
            yield data[at : at + READ_CHUNK_BYTES]

    async def has(self, space: UUID, name: str) -> bool:
        return (space, name) in self.stored

    async def remove(self, space: UUID, name: str, *, put_before: datetime) -> Removed | None:
        data, put_at = self.stored.get((space, name), (None, None))
        if data is None or put_at is None:
            return Removed()
        if put_at >= put_before:
            return None
        del self.stored[space, name]
        return Removed(blob_count=1, blob_bytes=len(data))

    async def clear(self, space: UUID) -> Removed:
        gone = [key for key in self.stored if key[0] == space]
        removed = [self.stored.pop(key)[0] for key in gone]
        return Removed(blob_count=len(removed), blob_bytes=sum(map(len, removed)))
