"""The layers of a fleet: their tars in a blob store that every host reaches, by digest.

What is local on a host is a copy of it. Layers are of no project: equal ones are one.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from datetime import datetime
from typing import Final
from uuid import UUID

from contree.adapters.layers.digests import hex_of
from contree.app.content.blob_store import BlobStore
from contree.app.images.layer_store import RemovedLayers
from contree.app.outages import Outages

SPACE: Final = UUID(int=0)
"""Where they are in the store; no project has this id."""


class SharedLayers:
    """Implements app.images.layer_store.SharedLayerRemoval. Digests are 64 hexadecimal digits."""

    def __init__(self, blobs: BlobStore, outages: Outages) -> None:
        self._blobs = blobs
        self._outages = outages

    async def has(self, digest: str) -> bool:
        return await self._blobs.has(SPACE, digest)

    def read(self, digest: str) -> AsyncIterator[bytes]:
        """Yield the tar; whoever reads verifies it. Raises NotFoundError first."""
        return self._blobs.read(SPACE, digest)

    async def keep(self, digest: str, tar: Callable[[], AsyncIterator[bytes]]) -> None:
        """Have the layer here, durably, and count it as added now; `tar` is read only if need be.

        It is the only copy of what a guest or a registry gave: so it waits for a store that is
        away. Raises StorageFullError, UnavailableError.
        """

        async def put() -> None:
            if not await self._blobs.put_again(SPACE, digest):
                await self._blobs.put(SPACE, tar(), name=lambda: digest)

        await self._outages.waited_out(f"layer {digest}", put)

    async def remove(self, diff_id: str, *, added_before: datetime) -> RemovedLayers | None:
        gone = await self._blobs.remove(SPACE, hex_of(diff_id), put_before=added_before)
        if gone is None:
            return None
        return RemovedLayers(layer_count=gone.blob_count, layer_bytes=gone.blob_bytes)
