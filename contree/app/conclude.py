"""End an operation: one transaction that holds the end and everything that comes of it.

A worker's copy of an operation may be old (a client cancelled it meanwhile), so the end is decided
on a fresh copy and repeated when somebody was first. A wish to cancel that was recorded before the
end wins over any other end.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from uuid import UUID

from contree.app.clock import Clock, IdSource
from contree.app.event_log import EventLog
from contree.app.retries import retry_conflicts
from contree.domain.aggregate import Aggregate
from contree.domain.context import Context
from contree.domain.errors import ConflictError, NotFoundError
from contree.domain.operation import Operation, Status
from contree.domain.outcome import ProcessOutcome

Decide = Callable[[Operation, Context], Awaitable[Sequence[Aggregate]]]
"""Decides the end on the given operation; returns the other aggregates to append with it."""


class Conclude:
    """Appends ends."""

    def __init__(self, *, log: EventLog, clock: Clock, ids: IdSource, actor: str) -> None:
        self._log = log
        self._clock = clock
        self._ids = ids
        self._actor = actor

    async def conclude(
        self, mine: Operation, decide: Decide, *, journal_sha256: str | None = None
    ) -> Status:
        """End the operation that the worker holds as `mine`, as `decide` says; return its status.

        Does nothing when it has ended already, or another attempt has begun by now.
        """

        async def attempt() -> Status:
            operation = await self._load(mine.id)
            context = self._context(operation)
            if not operation.status.is_running or operation.attempts != mine.attempts:
                return operation.status
            if operation.cancellation_requested:
                operation.cancelled(context, journal_sha256=journal_sha256)
                await self._log.append(operation)
            else:
                others = await decide(operation, context)
                await self._log.append(*others, operation)
            return operation.status

        return await retry_conflicts(attempt)

    async def fail(
        self,
        mine: Operation,
        error: str,
        *,
        outcome: ProcessOutcome | None = None,
        journal_sha256: str | None = None,
    ) -> Status:
        """End it as FAILED with `error`, a text for the client.

        `outcome` is what is known of its command, None when that had not begun.
        """

        async def decide(operation: Operation, context: Context) -> Sequence[Aggregate]:
            operation.fail(context, error=error, outcome=outcome, journal_sha256=journal_sha256)
            return ()

        return await self.conclude(mine, decide, journal_sha256=journal_sha256)

    async def lose(
        self,
        operation_id: UUID,
        reason: str,
        *,
        worker: str | None = None,
        attempt: int | None = None,
    ) -> Status:
        """Put an operation whose worker or machine was lost back into the queue, or end it.

        With `worker`, only when that one still holds it; with `attempt`, only when no other has
        begun by now (the same worker may have been given the next one).
        """

        async def lose_it() -> Status:
            operation = await self._load(operation_id)
            is_meant = worker in {None, operation.worker} and attempt in {None, operation.attempts}
            if operation.status.is_running and is_meant:
                operation.lose(self._context(operation), reason=reason)
                await self._log.append(operation)
            return operation.status

        return await retry_conflicts(lose_it)

    async def append_unless_cancelled(self, operation: Operation) -> None:
        """Append what the worker decided on its copy; when a client cancelled meanwhile, leave it.

        The wish to cancel reaches the worker by itself and stops the work there.
        """
        with suppress(ConflictError):
            await self._log.append(operation)

    async def _load(self, operation_id: UUID) -> Operation:
        operation = await self._log.load(Operation, operation_id)
        if operation is None:
            raise NotFoundError("operation", operation_id)
        return operation

    def _context(self, operation: Operation) -> Context:
        return Context(
            actor=self._actor,
            project_id=operation.project_id,
            request_id=str(self._ids.new_id()),
            at=self._clock.now(),
        )
