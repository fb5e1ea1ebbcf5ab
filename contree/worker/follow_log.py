"""The duty that keeps the audit index behind the log.

It goes on from the mark that the index holds, never from what it remembers: killed at any point, it
leaves whole batches behind. An index that was emptied (a new release, a rebuild) is folded again
from the beginning by the same loop.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing

from contree.app.audit_index import AuditIndexer, FoldedBatch, Mark
from contree.app.recorded_log import RecordedEvent, RecordedLog
from contree.domain.errors import ConflictError

BATCH_EVENTS = 1000

log = logging.getLogger(__name__)


class FollowLog:
    """worker.duties.Duty."""

    name = "audit index"

    def __init__(self, *, recorded: RecordedLog, index: AuditIndexer) -> None:
        self._recorded = recorded
        self._index = index

    async def run(self) -> None:
        while True:
            try:
                await self._follow()
            except ConflictError as error:
                log.info("%s: looking again where it is", error)

    async def _follow(self) -> None:
        mark = await self._index.begin()
        following = self._recorded.follow(after=mark.position, limit=BATCH_EVENTS)
        async with aclosing(following) as batches:
            batch = await self._next(batches, mark)
            while True:
                # Read and folded while the database takes this one.
                coming = asyncio.create_task(self._next(batches, batch.after))
                try:
                    await self._index.write(batch)
                    batch = await coming
                except BaseException:
                    coming.cancel()
                    await asyncio.gather(coming, return_exceptions=True)
                    raise

    async def _next(
        self, batches: AsyncGenerator[Sequence[RecordedEvent], None], mark: Mark
    ) -> FoldedBatch:
        return await self._index.fold(mark, await anext(batches))
