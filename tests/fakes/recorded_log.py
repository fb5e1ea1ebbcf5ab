"""The whole log in memory, read forwards: what the fake event log has stored, chained."""

from __future__ import annotations

import hashlib
from collections.abc import AsyncGenerator, Sequence

from contree.app.recorded_log import BATCH_EVENTS, RecordedEvent
from contree.domain.errors import UnavailableError
from tests.fakes.clock import EPOCH
from tests.fakes.event_log import FakeEventLog


class FakeRecordedLog:
    """Reads `log`. Positions count from 1, without gaps; hashes are a chain, not the real one."""

    def __init__(self, log: FakeEventLog) -> None:
        self._log = log
        self._hashes: list[bytes] = []

    async def read(self, *, after: int, limit: int = BATCH_EVENTS) -> Sequence[RecordedEvent]:
        if not self._log.available:
            raise UnavailableError("the fake database is not available")
        stored = self._log.stored
        while len(self._hashes) < len(stored):
            previous = self._hashes[-1] if self._hashes else b""
            self._hashes.append(hashlib.sha256(previous + stored[len(self._hashes)].state).digest())
        return [
            RecordedEvent(
                position=position,
                aggregate_id=stored[position - 1].originator_id,
                version=stored[position - 1].originator_version,
                topic=stored[position - 1].topic,
                state=stored[position - 1].state,
                recorded_at=EPOCH,
                hash=self._hashes[position - 1],
            )
            for position in range(after + 1, min(after + limit, len(stored)) + 1)
        ]

    async def head(self) -> int:
        if not self._log.available:
            raise UnavailableError("the fake database is not available")
        return len(self._log.stored)

    async def follow(
        self, *, after: int, limit: int = BATCH_EVENTS
    ) -> AsyncGenerator[Sequence[RecordedEvent], None]:
        while True:
            while events := await self.read(after=after, limit=limit):
                yield events
                after = events[-1].position
            async with self._log.grown:
                while len(self._log.stored) == after:
                    await self._log.grown.wait()
