"""The log from its other side: every event of every aggregate, in the order it was recorded.

For what follows or proves the whole history (indexes, checkpoints, feeds), where `EventLog` is for
deciding about one aggregate. Implemented by adapters.postgres.recorded_log;
tests/contracts/test_recorded_log.py holds the fake and the real one to this text.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Collection, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol
from uuid import UUID

BATCH_EVENTS = 1000
BATCH_BYTES_MAX = 8 * 1024**2
"""Of the events' states in one batch; the last one may pass it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RecordedEvent:
    """One event as it lies in the log: the bytes that its hash covers, not yet decoded.

    position      grows in commit order and never comes twice; there may be gaps
    version       of the aggregate, from 1
    state         the event's encoded fields
    recorded_at   when the database took it, aware UTC
    hash          of this row and the hash of the row before it, 32 bytes
    """

    position: int
    aggregate_id: UUID
    version: int
    topic: str
    state: bytes
    recorded_at: datetime
    hash: bytes


def is_full(states: Collection[bytes], *, rows_max: int, bytes_max: int = BATCH_BYTES_MAX) -> bool:
    """Whether a batch that ends by rows and by bytes holds all it may: there may be more."""
    return len(states) >= rows_max or sum(map(len, states)) >= bytes_max


class RecordedLog(Protocol):
    """Reads the log forwards."""

    async def read(self, *, after: int, limit: int = BATCH_EVENTS) -> Sequence[RecordedEvent]:
        """Return at most `limit` events beyond position `after`, in order; empty at the end.

        Fewer, but one at least, when they hold BATCH_BYTES_MAX bytes: `is_full` says which it was.
        Nothing is ever recorded at or before a position that was read. Raises UnavailableError.
        """
        ...

    async def head(self) -> int:
        """Return the position of the last event, 0 for an empty log. Raises UnavailableError."""
        ...

    def follow(
        self, *, after: int, limit: int = BATCH_EVENTS
    ) -> AsyncGenerator[Sequence[RecordedEvent], None]:
        """Yield what `read` returns, and at the end wait for more, for ever; never empty.

        No event is left out or doubled, also when the connection that listens is lost. Close the
        generator (`contextlib.aclosing`). Raises UnavailableError when the database is away: go on
        from the last position that was yielded.
        """
        ...
