"""Bring back what a lost worker left: its operations return to the queue, its guests are ended."""

from __future__ import annotations

from collections.abc import Container
from uuid import UUID

from contree.app.conclude import Conclude
from contree.app.work_queue import WorkQueue


class Recover:
    """Run at the start of a worker, and then now and then, for others."""

    def __init__(self, *, queue: WorkQueue, conclude: Conclude) -> None:
        self._queue = queue
        self._conclude = conclude

    async def own(self, worker: str) -> int:
        """Requeue all that an earlier life of `worker` still holds; return how many."""
        held = await self._queue.abandoned(worker=worker)
        for operation_id in held:
            await self._conclude.lose(operation_id, f"worker {worker} died", worker=worker)
        return len(held)

    async def unheard(self, worker: str, known: Container[UUID]) -> None:
        """Hand back what `worker` holds and does not know: the answer to its claim was lost."""
        for operation_id in await self._queue.abandoned(worker=worker):
            if operation_id not in known:
                reason = "the answer to its claim was lost"
                await self._conclude.lose(operation_id, reason, worker=worker, counted=False)

    async def others(self) -> int:
        """Requeue operations whose lease has run out; return how many."""
        abandoned = await self._queue.abandoned()
        for operation_id in abandoned:
            await self._conclude.lose(operation_id, "its worker is gone: the lease ran out")
        return len(abandoned)
