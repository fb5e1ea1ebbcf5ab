"""A project's content by its SHA-256: uploads, outputs, standard inputs; encrypted where it lies.

Inside a project equal content is stored once; between projects nothing is shared, and the store
shows neither content nor digest. Once the project's data key is destroyed nothing of it can be
read, from here or from a copy of the store.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncGenerator, AsyncIterator
from dataclasses import dataclass
from datetime import datetime
from typing import Final
from uuid import UUID

from contree.app.content.blob_store import BlobStore, Removed
from contree.app.content.project_keys import Encryption, ProjectKeys
from contree.domain.errors import LimitExceededError

_GATHER_BYTES: Final = 1024 * 1024
"""Encrypted at once, in a thread; less is done where it is."""

_INLINE_BYTES: Final = 64 * 1024
_NOTHING: Final = hashlib.sha256().hexdigest()


@dataclass(frozen=True, slots=True, kw_only=True)
class Content:
    """What was stored. `sha256` is lower-case hex, of what was put; so is the size."""

    sha256: str
    size_bytes: int


class ProjectContent:
    """Every method raises ContentErasedError once the project is erased, and UnavailableError."""

    def __init__(self, *, keys: ProjectKeys, blobs: BlobStore) -> None:
        self._keys = keys
        self._blobs = blobs

    async def put(
        self, project_id: UUID, chunks: AsyncIterator[bytes], *, bytes_max: int
    ) -> Content:
        """Store the concatenation of `chunks`, durable before returning; idempotent.

        Raises LimitExceededError past `bytes_max`, StorageFullError without room, and whatever
        `chunks` raises; in each case (and when cancelled) nothing is kept.
        """
        cipher = await self._keys.cipher(project_id)
        encryption = cipher.encryption()
        stored = self._encrypted(project_id, chunks, encryption, bytes_max=bytes_max)
        await self._blobs.put(project_id, stored, name=lambda: cipher.name_of(encryption.sha256))
        return Content(sha256=encryption.sha256, size_bytes=encryption.size_bytes)

    async def put_bytes(self, project_id: UUID, data: bytes) -> Content:
        """Store `data`; as `put`."""
        if not data and await self._put_nothing_again(project_id):
            return Content(sha256=_NOTHING, size_bytes=0)

        async def whole() -> AsyncIterator[bytes]:
            yield data

        return await self.put(project_id, whole(), bytes_max=len(data))

    async def _put_nothing_again(self, project_id: UUID) -> bool:
        """Nearly each run leaves an empty output: mostly it is there, and need not be written."""
        cipher = await self._keys.cipher(project_id)
        return await self._blobs.put_again(project_id, cipher.name_of(_NOTHING))

    async def read(
        self, project_id: UUID, sha256: str, *, start: int = 0
    ) -> AsyncGenerator[bytes, None]:
        """Yield the content from `start` on, which is inside of it, in pieces of about
        READ_CHUNK_BYTES.

        Raises NotFoundError (at the first step) when there is no such content, and
        ContentDamagedError. Whoever stops before the end has pieces that belong to the project, but
        not the proof that they are of this content.
        """
        cipher = await self._keys.cipher(project_id)
        name, decryption = cipher.name_of(sha256), cipher.decryption(sha256)
        begins, skipped = 0, start
        if start:
            async for head in self._blobs.read(project_id, name, stop=cipher.head_bytes):
                decryption.update(head)
            begins, first = decryption.go_to(start)
            skipped -= first
        async for stored in self._blobs.read(project_id, name, start=begins):
            piece = decryption.update(stored)
            if len(piece) > skipped:
                yield piece[skipped:]
            skipped = max(0, skipped - len(piece))
        if piece := decryption.finish()[skipped:]:
            yield piece

    async def read_bytes(self, project_id: UUID, sha256: str) -> bytes:
        """Return the whole content; for small things. Raises as `read`."""
        return b"".join([piece async for piece in self.read(project_id, sha256)])

    async def require(self, project_id: UUID) -> None:
        """Raise ContentErasedError when the project may have no content any more."""
        await self._keys.cipher(project_id)

    async def has(self, project_id: UUID, sha256: str) -> bool:
        cipher = await self._keys.cipher(project_id)
        return await self._blobs.has(project_id, cipher.name_of(sha256))

    async def remove(
        self, project_id: UUID, sha256: str, *, put_before: datetime
    ) -> Removed | None:
        """Remove one content, unless it was put (again) at `put_before` or later: None then."""
        cipher = await self._keys.cipher(project_id)
        return await self._blobs.remove(project_id, cipher.name_of(sha256), put_before=put_before)

    async def clear(self, project_id: UUID) -> Removed:
        """Remove all there is, key or no key."""
        return await self._blobs.clear(project_id)

    async def _encrypted(
        self,
        project_id: UUID,
        chunks: AsyncIterator[bytes],
        encryption: Encryption,
        *,
        bytes_max: int,
    ) -> AsyncIterator[bytes]:
        gathered: list[bytes] = []
        held = 0
        async for chunk in chunks:
            gathered.append(chunk)
            held += len(chunk)
            if encryption.size_bytes + held > bytes_max:
                raise LimitExceededError("content size", f"over {bytes_max} bytes, send less")
            if held >= _GATHER_BYTES:
                yield await _encrypted(encryption, gathered, held)
                gathered, held = [], 0
        yield await _encrypted(encryption, gathered, held)
        # Erased while it came: it must not be kept.
        await self._keys.cipher(project_id)
        yield encryption.finish()


async def _encrypted(encryption: Encryption, gathered: list[bytes], held: int) -> bytes:
    if held <= _INLINE_BYTES:
        return encryption.update(b"".join(gathered))
    return await asyncio.to_thread(encryption.update, b"".join(gathered))
