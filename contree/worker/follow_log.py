"""The duty that keeps the audit index behind the log.

It goes on from the mark that the index holds, never from what it remembers: killed at any point, it
leaves whole batches behind. An index that was emptied (a new release, a rebuild) is folded again
from the beginning by the same loop.
"""

from __future__ import annotations

import logging
from contextlib import aclosing

from contree.app.audit_index import AuditIndexer
from contree.app.recorded_log import RecordedLog
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
        after = mark.position
        async with aclosing(self._recorded.follow(after=after, limit=BATCH_EVENTS)) as batches:
            async for events in batches:
                mark = await self._index.add(mark, events)
