"""The rows of the fake recorded log as bytes."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Collection, Sequence
from uuid import UUID

from contree.app.proof.growth import bytes_of
from contree.app.proof.log_rows import RawRow
from contree.app.recorded_log import RecordedEvent
from tests.fakes.recorded_log import FakeRecordedLog


class FakeLogRows:
    """Reads `recorded`, `batch_rows` rows at a time."""

    def __init__(self, recorded: FakeRecordedLog, *, batch_rows: int = 100) -> None:
        self._recorded = recorded
        self._batch_rows = batch_rows

    async def stream(self, *, after: int, until: int) -> AsyncGenerator[Sequence[RawRow], None]:
        events = [e for e in self._recorded.events if after < e.position <= until]
        for at in range(0, len(events), self._batch_rows):
            yield [(bytes_of(e), e.hash) for e in events[at : at + self._batch_rows]]

    async def count(self, *, after: int, until: int) -> int:
        return sum(after < e.position <= until for e in self._recorded.events)

    async def hash_at(self, position: int) -> tuple[int, bytes] | None:
        before = [e for e in self._recorded.events if e.position <= position]
        return (before[-1].position, before[-1].hash) if before else None

    async def of_aggregates(self, ids: Collection[UUID], *, limit: int) -> Sequence[RecordedEvent]:
        return [e for e in self._recorded.events if e.aggregate_id in ids][:limit]
