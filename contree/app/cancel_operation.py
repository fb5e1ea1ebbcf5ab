"""Record the wish to stop an operation; the worker that holds it acts on it."""

from __future__ import annotations

from uuid import UUID

from contree.app.access import Requester
from contree.app.clock import Clock
from contree.app.event_log import EventLog
from contree.app.retries import retry_conflicts
from contree.domain.errors import NotFoundError
from contree.domain.operation import Operation
from contree.domain.token import Permission


class CancelOperation:
    def __init__(self, *, log: EventLog, clock: Clock) -> None:
        self._log = log
        self._clock = clock

    async def cancel(self, caller: Requester, operation_id: UUID) -> None:
        """Cancel at once when nobody has begun, else ask the worker.

        Raises PermissionMissingError, NotFoundError, InvalidTransitionError (it has ended).
        """
        caller.require(Permission.CANCEL)

        async def attempt() -> None:
            operation = await self._log.load(Operation, operation_id)
            if operation is None or operation.project_id != caller.project_id:
                raise NotFoundError("operation", operation_id)
            operation.cancel(caller.context(self._clock.now()))
            await self._log.append(operation)

        await retry_conflicts(attempt)
