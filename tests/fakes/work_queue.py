"""The work queue over the fake event log."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Collection, Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from uuid import UUID

from contree.app.clock import Clock
from contree.app.work_queue import Look, Wake
from contree.domain.aggregate import Event
from contree.domain.context import Context
from contree.domain.operation import (
    CancellationRequested,
    ImportRequested,
    InstanceRequested,
    Kind,
    Operation,
    OperationAssigned,
    OperationRequeued,
    Status,
)
from tests.fakes.event_log import FakeEventLog

EVERYTHING = Wake(waiting=frozenset(Kind), unwanted=True)
NOTHING = Wake(waiting=frozenset(), unwanted=False)


class FakeWorkQueue:
    def __init__(self, log: FakeEventLog, clock: Clock) -> None:
        self._log = log
        self._clock = clock

    async def claim(
        self,
        *,
        worker: str,
        kind: Kind,
        limit: int,
        running_per_project_max: int,
        lease_until: datetime,
        context: Context,
    ) -> Sequence[Operation]:
        operations = [o for o in await self._operations() if o.kind is kind]
        running = Counter(o.project_id for o in operations if o.status.is_running)
        pending = [o for o in operations if o.status is Status.PENDING]
        claimed: list[Operation] = []
        while len(claimed) < limit:
            eligible = [o for o in pending if running[o.project_id] < running_per_project_max]
            if not eligible:
                break
            # `min` takes the first of equals: the oldest.
            operation = min(
                eligible,
                key=lambda o: (running[o.project_id], self._turn(kind, o.project_id)),
            )
            own = replace(context, project_id=operation.project_id)
            operation.assign(own, worker=worker, lease_until=lease_until)
            running[operation.project_id] += 1
            pending.remove(operation)
            claimed.append(operation)
        claimed.sort(key=operations.index)
        await self._log.append(*claimed)
        return claimed

    def _turn(self, kind: Kind, project_id: UUID) -> int:
        """When the project was served last, by whichever worker; -1 for never."""
        turns = [
            number
            for number, event in enumerate(self._log.events)
            if isinstance(event, OperationAssigned)
            and event.project_id == project_id
            and self._kind_of(event.originator_id) is kind
        ]
        return max(turns, default=-1)

    async def renew(
        self, operation_ids: Collection[UUID], *, worker: str, lease_s: float
    ) -> datetime:
        now = self._clock.now()
        for operation_id, (holder, _) in self._log.leases.items():
            if holder == worker and operation_id in operation_ids:
                self._log.leases[operation_id] = (worker, now + timedelta(seconds=lease_s))
        return now

    async def abandoned(self, *, worker: str | None = None) -> Sequence[UUID]:
        now = self._clock.now()
        return [
            operation_id
            for operation_id, (holder, until) in self._log.leases.items()
            if (until < now if worker is None else holder == worker)
        ]

    async def look(self, *, worker: str) -> Look:
        operations = await self._operations()
        return Look(
            pending=frozenset(o.kind for o in operations if o.status is Status.PENDING),
            unwanted=[
                o.id
                for o in operations
                if o.worker == worker and o.status.is_running and o.cancellation_requested
            ],
        )

    async def wakeups(self, *, worker: str, poll_s: float) -> AsyncIterator[Wake]:
        seen = len(self._log.events)
        yield EVERYTHING
        while True:
            for _ in range(max(1, int(poll_s / 0.01))):
                await asyncio.sleep(0.01)
                events, seen = self._log.events[seen:], len(self._log.events)
                wake = self._told(events, worker)
                if wake != NOTHING:
                    break
            else:
                wake = EVERYTHING
            yield wake

    def _told(self, events: Sequence[Event], worker: str) -> Wake:
        waiting, unwanted = set[Kind](), False
        for event in events:
            if isinstance(event, ImportRequested | InstanceRequested | OperationRequeued):
                waiting.add(self._kind_of(event.originator_id))
            elif isinstance(event, CancellationRequested):
                holder, _ = self._log.leases.get(event.originator_id, (None, None))
                unwanted |= holder == worker
        return Wake(waiting=frozenset(waiting), unwanted=unwanted)

    def _kind_of(self, operation_id: UUID) -> Kind:
        first = next(e for e in self._log.events if e.originator_id == operation_id)
        return Kind.IMPORT if isinstance(first, ImportRequested) else Kind.INSTANCE

    async def _operations(self) -> list[Operation]:
        """All operations, oldest request first."""
        requested = [
            e for e in self._log.events if isinstance(e, ImportRequested | InstanceRequested)
        ]
        requested.sort(key=lambda e: (e.timestamp, e.originator_id))
        loaded = [await self._log.load(Operation, e.originator_id) for e in requested]
        return [operation for operation in loaded if operation is not None]
