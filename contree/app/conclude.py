"""Record how work on an operation begins and ends; the end with everything that comes of it.

A worker's copy of an operation may be old (a client cancelled it meanwhile), so the end is decided
on a fresh copy and repeated when somebody was first. A wish to cancel that was recorded before the
end wins over any other end. Each record is decided on a fresh copy again when its answer was lost
with the database, so it is there once.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from typing import Any
from uuid import UUID

from contree.app.clock import Clock, IdSource
from contree.app.event_log import EventLog
from contree.app.outages import LOG_AWAY, Outages
from contree.app.retries import retry_conflicts
from contree.domain.aggregate import Aggregate
from contree.domain.context import Context
from contree.domain.errors import ConflictError, NotFoundError
from contree.domain.operation import Operation, Status
from contree.domain.outcome import ProcessOutcome

Decide = Callable[[Operation, Context], Awaitable[Sequence[Aggregate]]]
"""Decides the end on the given operation; returns the other aggregates to append with it."""


class Conclude:
    """Appends beginnings and ends, in the name of one worker."""

    def __init__(
        self, *, log: EventLog, outages: Outages, clock: Clock, ids: IdSource, actor: str
    ) -> None:
        self._log = log
        self._outages = outages
        self._clock = clock
        self._ids = ids
        self._actor = actor

    async def conclude(
        self, mine: Operation, decide: Decide, *, journal_sha256: str | None = None
    ) -> Status:
        """End the operation that the worker holds as `mine`, as `decide` says; return its status.

        Does nothing when it has ended already, or another attempt has begun by now. Waits while
        the log is away.
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

        return await self._outages.waited_out(
            f"the end of operation {mine.id}", lambda: retry_conflicts(attempt), on=LOG_AWAY
        )

    async def started(self, mine: Operation, **facts: Any) -> None:
        """Record that the work of `mine` has begun; waits while the log is away.

        When a client cancelled meanwhile it is left out: the wish reaches the worker by itself.
        """
        known: Operation | None = mine

        async def attempt() -> None:
            nonlocal known
            operation, known = known or await self._load(mine.id), None
            if operation.status is Status.ASSIGNED and operation.attempts == mine.attempts:
                operation.start(self._context(operation), **facts)
                with suppress(ConflictError):
                    await self._log.append(operation)

        what = f"the start of operation {mine.id}"
        await self._outages.waited_out(what, attempt, on=LOG_AWAY)

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
        counted: bool = True,
    ) -> Status:
        """Put an operation back into the queue, or end it: Operation.lose. Waits for nothing.

        With `worker`, only when that one still holds it; with `attempt`, only when no other has
        begun by now (the same worker may have been given the next one).
        """

        async def lose_it() -> Status:
            operation = await self._load(operation_id)
            is_meant = worker in {None, operation.worker} and attempt in {None, operation.attempts}
            if operation.status.is_running and is_meant:
                operation.lose(self._context(operation), reason=reason, counted=counted)
                await self._log.append(operation)
            return operation.status

        return await retry_conflicts(lose_it)

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
