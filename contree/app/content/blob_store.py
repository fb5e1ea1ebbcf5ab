"""Bytes under names of the caller's choice, in spaces that can be emptied: one a project.

What lies here is encrypted (app.content.project_content); the store knows no keys and no contents.
Implemented by adapters.blobs (local directory, S3); tests/contracts/test_blob_store.py.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol
from uuid import UUID

READ_CHUNK_BYTES = 256 * 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class Removed:
    """How much went. Sizes as stored."""

    blob_count: int = 0
    blob_bytes: int = 0

    def __add__(self, other: Removed) -> Removed:
        return Removed(
            blob_count=self.blob_count + other.blob_count,
            blob_bytes=self.blob_bytes + other.blob_bytes,
        )


class BlobStore(Protocol):
    """Every method may raise UnavailableError. Names are 64 lower-case hexadecimal digits."""

    async def put(
        self, space: UUID, chunks: AsyncIterator[bytes], *, name: Callable[[], str]
    ) -> None:
        """Store the concatenation of `chunks`, durable before returning.

        `name` is called once, after the last chunk. A name that is there keeps its bytes, and
        counts as put now. Raises StorageFullError, and whatever `chunks` raises; in each case (and
        when cancelled) nothing is kept.
        """
        ...

    async def put_again(self, space: UUID, name: str) -> bool:
        """Let what is there under `name` count as put now; False when it must be put instead."""
        ...

    def read(
        self, space: UUID, name: str, *, start: int = 0, stop: int | None = None
    ) -> AsyncIterator[bytes]:
        """Yield the bytes from `start` to before `stop`, in chunks of READ_CHUNK_BYTES at most.

        `start` is inside of what is there, but that of nothing is 0. Raises NotFoundError first.
        """
        ...

    async def has(self, space: UUID, name: str) -> bool: ...

    async def remove(self, space: UUID, name: str, *, put_before: datetime) -> Removed | None:
        """Remove one; what is not there is no error. None when it was put at `put_before` or later:
        it stays, since whoever put it may be about to say what for.
        """
        ...

    async def clear(self, space: UUID) -> Removed:
        """Remove everything in the space; begun and not finished, it may be repeated."""
        ...
