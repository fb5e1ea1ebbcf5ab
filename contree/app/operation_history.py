"""Add to the log what clients make a running operation do, in the clients' own names."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from uuid import UUID

from contree.app.clock import Clock
from contree.app.event_log import EventLog
from contree.app.guest.guest_control import GuestCommand
from contree.app.retries import retry_conflicts
from contree.domain.context import Context
from contree.domain.errors import NotFoundError
from contree.domain.operation import Operation
from contree.domain.subprocess import SubprocessSpec


class OperationHistory:
    """The log of one operation, as the worker that runs it adds to it; one event at a time."""

    def __init__(self, *, log: EventLog, clock: Clock, operation_id: UUID) -> None:
        self._log = log
        self._clock = clock
        self._operation_id = operation_id
        self._turn = asyncio.Lock()
        self._known: Operation | None = None

    async def last_spid(self) -> int:
        """Return the highest number that a process of the operation ever had."""
        return (await self._load()).last_spid

    async def spawned(
        self, command: GuestCommand, *, spid: int, pid: int, spec: SubprocessSpec
    ) -> None:
        """A client's process runs. Raises InvalidTransitionError when the operation does not."""
        await self._record(
            command, lambda o, c: o.subprocess_spawned(c, spid=spid, pid=pid, spec=spec)
        )

    async def signalled(self, command: GuestCommand, *, signal: int) -> None:
        """A client's signal goes out. Raises InvalidTransitionError as `spawned` does."""
        await self._record(command, lambda o, c: o.signalled(c, spid=command.spid, signal=signal))

    async def _record(
        self, command: GuestCommand, decide: Callable[[Operation, Context], None]
    ) -> None:
        async def attempt() -> None:
            operation = self._known or await self._load()
            self._known = None  # until it is appended: a copy that lost a race is of no use
            context = Context(
                actor=command.actor,
                project_id=operation.project_id,
                request_id=command.request_id,
                at=self._clock.now(),
            )
            decide(operation, context)
            await self._log.append(operation)
            self._known = operation

        async with self._turn:
            await retry_conflicts(attempt)

    async def _load(self) -> Operation:
        operation = await self._log.load(Operation, self._operation_id)
        if operation is None:
            raise NotFoundError("operation", self._operation_id)
        return operation
