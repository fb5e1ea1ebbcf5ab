"""Add to the log what clients make a running operation do, in the clients' own names."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from uuid import UUID

from contree.app.clock import Clock
from contree.app.event_log import EventLog
from contree.app.guest.guest_control import GuestCommand
from contree.app.outages import Outages
from contree.app.retries import retry_conflicts
from contree.domain.context import Context
from contree.domain.errors import NotFoundError, OperationFailure, StorageFullError
from contree.domain.operation import Operation
from contree.domain.subprocess import SubprocessSpec


class OperationHistory:
    """The log of one operation, as the worker that runs it adds to it; one event at a time.

    Waits while the log is away. Raises OperationFailure when that has no room: what a client did
    may have begun by then, and must not go unrecorded.
    """

    def __init__(
        self, *, log: EventLog, outages: Outages, clock: Clock, operation_id: UUID
    ) -> None:
        self._log = log
        self._outages = outages
        self._clock = clock
        self._operation_id = operation_id
        self._turn = asyncio.Lock()
        self._known: Operation | None = None

    async def last_spid(self) -> int:
        """Return the highest number that a process of the operation ever had."""
        return (await self._outages.waited_out(self._what, self._load)).last_spid

    async def spawned(
        self, command: GuestCommand, *, spid: int, pid: int, spec: SubprocessSpec
    ) -> None:
        """A client's process runs. Raises InvalidTransitionError when the operation does not."""
        await self._record(
            command,
            lambda o, c: o.subprocess_spawned(c, spid=spid, pid=pid, spec=spec),
            count=lambda o: o.last_spid,
        )

    async def signalled(self, command: GuestCommand, *, signal: int) -> None:
        """A client's signal goes out. Raises InvalidTransitionError as `spawned` does."""
        await self._record(
            command,
            lambda o, c: o.signalled(c, spid=command.spid, signal=signal),
            count=lambda o: o.signals,
        )

    async def _record(
        self,
        command: GuestCommand,
        decide: Callable[[Operation, Context], None],
        *,
        count: Callable[[Operation], int],
    ) -> None:
        """`count` rises with each such event, of which nobody else adds any.

        So it tells whether the one is there of which the answer was lost.
        """
        due: int | None = None

        async def attempt() -> None:
            nonlocal due
            operation = self._known or await self._load()
            self._known = None  # until it is appended: a copy that lost a race is of no use
            if due is not None and count(operation) >= due:
                return
            context = Context(
                actor=command.actor,
                project_id=operation.project_id,
                request_id=command.request_id,
                at=self._clock.now(),
            )
            decide(operation, context)
            due = count(operation)
            await self._log.append(operation)
            self._known = operation

        async with self._turn:
            try:
                await self._outages.waited_out(self._what, lambda: retry_conflicts(attempt))
            except StorageFullError as error:
                raise OperationFailure(
                    f"what a client did to the instance cannot be recorded: {error}"
                ) from error

    @property
    def _what(self) -> str:
        return f"operation {self._operation_id}: what clients do to it"

    async def _load(self) -> Operation:
        operation = await self._log.load(Operation, self._operation_id)
        if operation is None:
            raise NotFoundError("operation", self._operation_id)
        return operation
