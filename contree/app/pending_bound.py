"""How many operations of one project may wait at once: no queue may grow for ever."""

from __future__ import annotations

from uuid import UUID

from contree.app.limits import Limits
from contree.app.reads import OperationReads
from contree.domain.errors import QueueFullError


class PendingBound:
    """Asked before each operation is recorded; without a lock, so requests at once may pass it."""

    def __init__(self, *, operations: OperationReads, limits: Limits) -> None:
        self._operations = operations
        self._most = limits.pending_max_per_project

    async def require_room(self, project_id: UUID) -> None:
        """Raise QueueFullError when as many operations of the project wait as may."""
        if await self._operations.as_many_wait(project_id, self._most):
            raise QueueFullError(self._most)
