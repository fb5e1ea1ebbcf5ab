"""Measures what happens, out of the log: whichever process did it, one that follows it all knows.

Counting begins at the log's end. An operation that was under way by then is looked up once, so that
its end is counted too; how long it stayed in a phase that began unseen is left out.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping
from contextlib import aclosing
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Protocol
from uuid import UUID

from contree.app.reads import OperationReads
from contree.app.recorded_log import RecordedEvent, RecordedLog
from contree.domain.errors import UnavailableError
from contree.domain.operation import Kind, Status

AGAIN_S = 2.0

OPERATION = "contree.operation."
REQUESTS = {"import_requested": Kind.IMPORT, "instance_requested": Kind.INSTANCE}
ENDS = {"succeeded": Status.SUCCESS, "failed": Status.FAILED, "cancelled": Status.CANCELLED}

log = logging.getLogger(__name__)

Decode = Callable[[bytes], Mapping[str, Any]]


class LogMeter(Protocol):
    """Takes what was measured. Times are seconds between two events, by their recorders' clocks."""

    def event(self, topic: str) -> None:
        """One event of this topic was recorded."""
        ...

    def guest(self, *, origin: str, accelerator: str) -> None:
        """A guest started: app.guest.microvm.Origin, kvm or tcg."""
        ...

    def queued(self, kind: Kind, seconds: float) -> None:
        """A worker took the operation, so long after it was requested or put back."""
        ...

    def prepared(self, kind: Kind, seconds: float) -> None:
        """The work itself began, so long after the worker took the operation."""
        ...

    def worked(self, kind: Kind, seconds: float) -> None:
        """It ended, so long after the work itself began."""
        ...

    def requeued(self, kind: Kind, *, counted: bool) -> None:
        """An attempt was lost (`counted`) or handed back; the operation is in the queue again."""
        ...

    def ended(self, kind: Kind, status: Status, seconds: float) -> None:
        """It ended, so long after it was requested."""
        ...


@dataclass(slots=True)
class _UnderWay:
    """When the last event of each sort was; None for one that was not seen."""

    kind: Kind
    requested_at: datetime
    queued_at: datetime | None = None
    assigned_at: datetime | None = None
    started_at: datetime | None = None


class MeasureLog:
    """Follows the log for `meter`."""

    def __init__(
        self, *, recorded: RecordedLog, operations: OperationReads, decode: Decode, meter: LogMeter
    ) -> None:
        self._recorded = recorded
        self._operations = operations
        self._decode = decode
        self._meter = meter
        self._position: int | None = None
        self._under_way: dict[UUID, _UnderWay] = {}

    async def run(self) -> None:
        """Follow for ever, also over times when the database is away."""
        while True:
            try:
                await self._follow()
            except UnavailableError as error:
                log.debug("metrics wait for the log: %s", error)
                await asyncio.sleep(AGAIN_S)

    async def _follow(self) -> None:
        if self._position is None:
            self._position = await self._recorded.head()
        async with aclosing(self._recorded.follow(after=self._position)) as batches:
            async for events in batches:
                for event in events:
                    await self._measure(event)
                    self._position = event.position

    async def _measure(self, event: RecordedEvent) -> None:
        if event.topic.startswith(OPERATION):
            facts = self._decode(event.state)
            happened = event.topic.removeprefix(OPERATION)
            await self._measure_operation(event.aggregate_id, happened, facts)
        self._meter.event(event.topic)

    async def _measure_operation(
        self, operation_id: UUID, happened: str, facts: Mapping[str, Any]
    ) -> None:
        at: datetime = facts["timestamp"]
        if happened in REQUESTS:
            self._under_way[operation_id] = _UnderWay(REQUESTS[happened], at, queued_at=at)
            return
        one = self._under_way.get(operation_id) or await self._known(operation_id, facts)
        if one is None:  # read models are being made anew, or the log was written to by hand
            return
        match happened:
            case "assigned":
                _between(one.queued_at, at, one.kind, self._meter.queued)
                one.assigned_at = at
            case "started":
                _between(one.assigned_at, at, one.kind, self._meter.prepared)
                one.started_at = at
                if "origin" in facts["facts"]:
                    self._meter.guest(
                        origin=facts["facts"]["origin"], accelerator=facts["facts"]["accelerator"]
                    )
            case "requeued":
                self._meter.requeued(one.kind, counted=facts["counted"])
                one.queued_at, one.assigned_at, one.started_at = at, None, None
            case _ if happened in ENDS:
                _between(one.started_at, at, one.kind, self._meter.worked)
                seconds = max(0.0, (at - one.requested_at).total_seconds())
                self._meter.ended(one.kind, ENDS[happened], seconds)
                self._under_way.pop(operation_id, None)
            case _:
                pass

    async def _known(self, operation_id: UUID, facts: Mapping[str, Any]) -> _UnderWay | None:
        row = await self._operations.get(facts["project_id"], operation_id)
        if row is None:
            return None
        return self._under_way.setdefault(operation_id, _UnderWay(row.kind, row.created_at))


def _between(
    begin: datetime | None, end: datetime, kind: Kind, measured: Callable[[Kind, float], None]
) -> None:
    """Clocks of several hosts may disagree: never less than nothing."""
    if begin is not None:
        measured(kind, max(0.0, (end - begin).total_seconds()))
