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

from contree.app.audit.audit_index import AuditIndexer, FoldedBatch, Mark
from contree.app.recorded_log import RecordedEvent, RecordedLog
from contree.domain.errors import ConflictError

BATCH_EVENTS = 1000
LOOK_AGAIN_S = 1.0
"""How often it is looked, while nothing comes, whether the index is still where it was left."""

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
            coming = asyncio.create_task(self._next(batches, mark))
            try:
                while True:
                    batch = await self._arrived(coming, mark)
                    mark = batch.after
                    # The next one is read and folded while the database takes this one.
                    coming = asyncio.create_task(self._next(batches, mark))
                    await self._index.write(batch)
            finally:
                coming.cancel()
                await asyncio.gather(coming, return_exceptions=True)

    async def _next(
        self, batches: AsyncGenerator[Sequence[RecordedEvent], None], mark: Mark
    ) -> FoldedBatch:
        return await self._index.fold(mark, await anext(batches))

    async def _arrived(self, coming: asyncio.Task[FoldedBatch], mark: Mark) -> FoldedBatch:
        """Wait for a batch. Raises ConflictError when the index has left `mark` meanwhile.

        Where nothing is recorded any more, nothing else would tell that it was emptied.
        """
        while not (await asyncio.wait([coming], timeout=LOOK_AGAIN_S))[0]:
            if await self._index.begin() != mark:
                raise ConflictError(f"the audit index is not at position {mark.position} any more")
        return await coming
