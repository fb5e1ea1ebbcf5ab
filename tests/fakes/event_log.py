"""The event log in memory: same contract as the real one, events stored in their encoded form."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from typing import TypeVar, cast
from uuid import UUID

from eventsourcing.persistence import (
    DatetimeAsISO,
    DecimalAsStr,
    JSONTranscoder,
    Mapper,
    StoredEvent,
    UUIDAsHex,
)

from contree.app.event_log import EVENT_BYTES_MAX
from contree.domain.aggregate import Aggregate, Event
from contree.domain.errors import (
    ConflictError,
    EventTooLargeError,
    StorageFullError,
    UnavailableError,
)
from contree.domain.operation import (
    OperationAssigned,
    OperationCancelled,
    OperationFailed,
    OperationRequeued,
    OperationSucceeded,
)

A = TypeVar("A", bound=Aggregate)


def _mapper() -> Mapper[UUID]:
    transcoder = JSONTranscoder()
    for transcoding in (UUIDAsHex(), DatetimeAsISO(), DecimalAsStr()):
        transcoder.register(transcoding)
    return Mapper(transcoder)


class FakeEventLog:
    """All that was appended, in order.

    events      every event, decoded from its stored form, oldest first
    available   False makes every call raise UnavailableError
    full        True makes every append raise StorageFullError; `refused` is told each time
    ended       told of every operation that ends: news for followers
    grown       notified after every append
    leases      operation id to (worker, until), as the real log keeps beside running operations
    """

    def __init__(self) -> None:
        self.available = True
        self.full = False
        self.refused: asyncio.Queue[None] = asyncio.Queue()
        self.ended: Callable[[UUID], None] | None = None
        self.leases: dict[UUID, tuple[str, datetime]] = {}
        self.events: list[Event] = []
        self.grown = asyncio.Condition()
        self._stored: list[StoredEvent] = []
        self._versions: dict[UUID, int] = {}
        self._sealed: dict[UUID, bytes] = {}
        self._mapper = _mapper()

    async def load(self, cls: type[A], aggregate_id: UUID) -> A | None:
        self._check_available()
        aggregate: Aggregate | None = None
        for stored in self._stored:
            if stored.originator_id == aggregate_id:
                event = cast(Event, self._mapper.to_domain_event(stored))
                aggregate = event.mutate(aggregate)
        return aggregate if isinstance(aggregate, cls) else None

    async def append(
        self, *aggregates: Aggregate, seal: Mapping[UUID, bytes] | None = None
    ) -> None:
        pending = [cast(Event, event) for a in aggregates for event in a.collect_events()]
        self._check_available()
        if self.full and pending:
            self.refused.put_nowait(None)
            raise StorageFullError("the fake database has no room")
        versions = dict(self._versions)
        for event in pending:
            if event.originator_version != versions.get(event.originator_id, 0) + 1:
                raise ConflictError(f"somebody else appended to {event.originator_id} first")
            versions[event.originator_id] = event.originator_version
        if not pending:
            return
        stored = [self._mapper.to_stored_event(event) for event in pending]
        for one in stored:
            if len(one.state) > EVENT_BYTES_MAX:
                raise EventTooLargeError(one.topic, len(one.state), bytes_max=EVENT_BYTES_MAX)
        self._stored += stored
        self.events += [cast(Event, self._mapper.to_domain_event(s)) for s in stored]
        self._versions = versions
        self._sealed.update(seal or {})
        for event in pending:
            self._follow(event)
        async with self.grown:
            self.grown.notify_all()

    @property
    def stored(self) -> Sequence[StoredEvent]:
        """Every event in its stored form, oldest first."""
        return self._stored

    async def sealed(self, operation_id: UUID) -> bytes | None:
        self._check_available()
        return self._sealed.get(operation_id)

    def _follow(self, event: Event) -> None:
        operation_id = event.originator_id
        if isinstance(event, OperationAssigned):
            self.leases[operation_id] = (event.worker, event.lease_until)
        elif isinstance(event, OperationRequeued):
            self.leases.pop(operation_id, None)
        elif isinstance(event, OperationSucceeded | OperationFailed | OperationCancelled):
            self.leases.pop(operation_id, None)
            self._sealed.pop(operation_id, None)
            if self.ended is not None:
                self.ended(operation_id)

    def _check_available(self) -> None:
        if not self.available:
            raise UnavailableError("the fake database is not available")
