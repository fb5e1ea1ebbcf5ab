"""The whole log, read forwards (app.recorded_log.RecordedLog): keyset batches, woken by NOTIFY."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Mapping, Sequence
from typing import Any

import asyncpg

from contree.adapters.postgres.byte_bound import by_bytes
from contree.adapters.postgres.failures import translated
from contree.adapters.postgres.listener import PostgresListener
from contree.app.recorded_log import BATCH_BYTES_MAX, BATCH_EVENTS, RecordedEvent, is_full

CHANNEL = "stored_events"
LOOK_AGAIN_S = 5.0
"""A follower looks by itself this often: a notification is a hint, the log is the truth."""

FIELDS = "notification_id, originator_id, originator_version, topic, state, recorded_at, hash"
READ = by_bytes(FIELDS, where="notification_id > $1", rows_max="$2", bytes_max="$3")
HEAD = "SELECT notification_id FROM public.stored_events ORDER BY notification_id DESC LIMIT 1"


class PostgresRecordedLog:
    """One connection listens, however many follow."""

    def __init__(self, pool: asyncpg.Pool, listener: PostgresListener) -> None:
        self._pool = pool
        self._listener = listener
        self._followers: set[asyncio.Event] = set()

    async def read(self, *, after: int, limit: int = BATCH_EVENTS) -> Sequence[RecordedEvent]:
        with translated():
            rows = await self._pool.fetch(READ, after, limit, BATCH_BYTES_MAX)
        return [recorded_event(row) for row in rows]

    async def head(self) -> int:
        with translated():
            return await self._pool.fetchval(HEAD) or 0

    async def follow(
        self, *, after: int, limit: int = BATCH_EVENTS
    ) -> AsyncGenerator[Sequence[RecordedEvent], None]:
        self._listener.subscribe(CHANNEL, self._wake, self._wake)
        woken = asyncio.Event()
        self._followers.add(woken)
        try:
            while True:
                # Cleared before reading: what is recorded meanwhile wakes again.
                woken.clear()
                if events := await self.read(after=after, limit=limit):
                    yield events
                    after = events[-1].position
                if is_full([event.state for event in events], rows_max=limit):
                    continue
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(LOOK_AGAIN_S):
                        await woken.wait()
        finally:
            self._followers.discard(woken)

    def _wake(self, _: str = "") -> None:
        for woken in self._followers:
            woken.set()


def recorded_event(row: Mapping[str, Any]) -> RecordedEvent:
    """The event in a row of `FIELDS`."""
    return RecordedEvent(
        position=row["notification_id"],
        aggregate_id=row["originator_id"],
        version=row["originator_version"],
        topic=row["topic"],
        state=row["state"],
        recorded_at=row["recorded_at"],
        hash=row["hash"],
    )
