"""A content store in memory. tests/contracts/test_content_store.py holds it to the Protocol."""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator

from contree.app.content.content_store import READ_CHUNK_BYTES, Content
from contree.domain.errors import LimitExceededError, NotFoundError


class FakeContentStore:
    """`stored` is all there is, by digest."""

    def __init__(self) -> None:
        self.stored: dict[str, bytes] = {}

    async def put(self, chunks: AsyncIterator[bytes], *, bytes_max: int) -> Content:
        data = bytearray()
        async for chunk in chunks:
            data += chunk
            if len(data) > bytes_max:
                raise LimitExceededError("content size", f"over {bytes_max} bytes, send less")
        return await self.put_bytes(bytes(data))

    async def put_bytes(self, data: bytes) -> Content:
        digest = hashlib.sha256(data).hexdigest()
        self.stored[digest] = data
        return Content(sha256=digest, size_bytes=len(data))

    async def read(
        self, sha256: str, *, offset: int = 0, length: int | None = None
    ) -> AsyncIterator[bytes]:
        if sha256 not in self.stored:
            raise NotFoundError("content", sha256)
        end = None if length is None else offset + length
        data = self.stored[sha256][offset:end]
        for at in range(0, len(data), READ_CHUNK_BYTES):
            yield data[at : at + READ_CHUNK_BYTES]

    async def read_bytes(self, sha256: str) -> bytes:
        return b"".join([piece async for piece in self.read(sha256)])

    async def has(self, sha256: str) -> bool:
        return sha256 in self.stored
