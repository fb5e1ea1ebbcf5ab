"""The whole log in memory, read forwards: what the fake event log has stored, chained."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from dataclasses import replace

from contree.app.proof.growth import bytes_of
from contree.app.recorded_log import BATCH_BYTES_MAX, BATCH_EVENTS, RecordedEvent
from contree.domain.errors import UnavailableError
from contree.domain.log_row import chain_hash, row_bytes
from tests.fakes.clock import EPOCH
from tests.fakes.event_log import FakeEventLog


def filling(
    events: Sequence[RecordedEvent], bytes_max: int = BATCH_BYTES_MAX
) -> Sequence[RecordedEvent]:
    """The first ones, up to the one that fills `bytes_max`."""
    held = 0
    for number, event in enumerate(events):
        held += len(event.state)
        if held >= bytes_max:
            return events[: number + 1]
    return events


class FakeRecordedLog:
    """Reads `log`. Positions count from 1, without gaps, or by `step`; the chain is the real one.

    events   what was recorded so far, for tests that change it
    """

    def __init__(self, log: FakeEventLog, *, step: int = 1) -> None:
        self._log = log
        self._step = step
        self._events: list[RecordedEvent] = []

    @property
    def events(self) -> list[RecordedEvent]:
        for stored in self._log.stored[len(self._events) :]:
            fields = {
                "position": (len(self._events) + 1) * self._step,
                "aggregate_id": stored.originator_id,
                "version": stored.originator_version,
                "topic": stored.topic,
                "state": stored.state,
                "recorded_at": EPOCH,
            }
            previous = self._events[-1].hash if self._events else b""
            hash_ = chain_hash(previous, row_bytes(**fields))
            self._events.append(RecordedEvent(**fields, hash=hash_))
        return self._events

    def rechain(self) -> None:
        """Recompute every hash, as an owner would who has changed `events`."""
        previous = b""
        for number, event in enumerate(self.events):
            previous = chain_hash(previous, bytes_of(event))
            self._events[number] = replace(event, hash=previous)

    async def read(self, *, after: int, limit: int = BATCH_EVENTS) -> Sequence[RecordedEvent]:
        if not self._log.available:
            raise UnavailableError("the fake database is not available")
        return filling([event for event in self.events if event.position > after][:limit])

    async def head(self) -> int:
        if not self._log.available:
            raise UnavailableError("the fake database is not available")
        return self.events[-1].position if self.events else 0

    async def follow(
        self, *, after: int, limit: int = BATCH_EVENTS
    ) -> AsyncGenerator[Sequence[RecordedEvent], None]:
        while True:
            while events := await self.read(after=after, limit=limit):
                yield events
                after = events[-1].position
            async with self._log.grown:
                while await self.head() <= after:
                    await self._log.grown.wait()
