"""Take an erased project's own layers out of a store: a host's, or the one that a fleet shares.

Another project's operation may find a layer there and record an image with it a moment later. Such
an operation runs now, then the layer counts as added since it began, and stays for now; or it has
ended, then its image tells.
"""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Final
from uuid import UUID

from contree.app.clock import Clock
from contree.app.content.content_index import ContentIndex
from contree.app.images.layer_store import LayerRemoval, RemovedLayers, SharedLayerRemoval

SETTLED: Final = timedelta(seconds=2)
"""The clocks of workers and of the layers' store may differ by so much."""

Removed = tuple[RemovedLayers, bool]
"""What went, and whether none is left."""


class RemoveLayers:
    """Repeated, it goes on where it was."""

    def __init__(self, *, index: ContentIndex, clock: Clock, settled: timedelta = SETTLED) -> None:
        self._index = index
        self._clock = clock
        self._settled = settled

    async def from_fleet(self, store: SharedLayerRemoval, project_id: UUID) -> Removed:
        """Remove them from what the hosts share; their copies are their own duty (drop_layers)."""
        added_before = await self._added_before()
        removed, is_complete = RemovedLayers(), True
        for diff_id in await self._index.own_layers(project_id):
            gone = await store.remove(diff_id, added_before=added_before)
            is_complete = is_complete and gone is not None
            removed += gone or RemovedLayers()
        return removed, is_complete

    async def from_host(self, store: LayerRemoval, project_id: UUID) -> Removed:
        """Remove them, and what was derived of them, from this host.

        Whoever does not find a layer that was set aside adds it anew.
        """
        async with store.alone():
            return await self._from_host(store, project_id)

    async def _from_host(self, store: LayerRemoval, project_id: UUID) -> Removed:
        for diff_id in await store.aside():
            await store.put_back(diff_id)  # left by a pass that was killed
        added_before = await self._added_before()
        own = await self._index.own_layers(project_id)
        taken = [d for d in own if await store.set_aside(d, added_before=added_before)]
        own_still = set(await self._index.own_layers(project_id))
        for diff_id in set(taken) - own_still:
            await store.put_back(diff_id)
        doomed = [diff_id for diff_id in taken if diff_id in own_still]
        removed = await store.destroy(doomed)
        left = [d for d in own_still - set(doomed) if await store.is_there(d)]
        return removed, not left

    async def _added_before(self) -> datetime:
        now = self._clock.now()  # first: what begins after this adds after it
        oldest = await self._index.oldest_run()
        return (now if oldest is None else min(now, oldest)) - self._settled
