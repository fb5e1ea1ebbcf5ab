"""Bytes by their SHA-256: uploads, outputs, initial stdin, layers. Immutable once stored.

Implemented by adapters.blobs (local directory, S3); tests/contracts/test_content_store.py.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Protocol

READ_CHUNK_BYTES = 256 * 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class Content:
    """What was stored. `sha256` is lower-case hex."""

    sha256: str
    size_bytes: int


class ContentStore(Protocol):
    """Content-addressed storage. Every method may raise UnavailableError."""

    async def put(self, chunks: AsyncIterator[bytes], *, bytes_max: int) -> Content:
        """Store the concatenation of `chunks`, durable before returning; idempotent.

        Raises LimitExceededError past `bytes_max`, StorageFullError without room, and whatever
        `chunks` raises; in each case (and when cancelled) nothing is kept.
        """
        ...

    async def put_bytes(self, data: bytes) -> Content:
        """Store `data`; as `put`."""
        ...

    def read(
        self, sha256: str, *, offset: int = 0, length: int | None = None
    ) -> AsyncIterator[bytes]:
        """Yield the bytes from `offset`, at most `length`, in chunks of READ_CHUNK_BYTES at most.

        Raises NotFoundError (at the first step) when there is no such content.
        """
        ...

    async def read_bytes(self, sha256: str) -> bytes:
        """Return the whole content; for small things. Raises NotFoundError."""
        ...

    async def has(self, sha256: str) -> bool: ...
