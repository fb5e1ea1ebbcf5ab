"""The append-only log as the use cases see it.

Implemented by adapters.postgres.event_log; tests/contracts/test_event_log.py holds the fake and
the real one to this text.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol, TypeVar
from uuid import UUID

from contree.domain.aggregate import Aggregate

A = TypeVar("A", bound=Aggregate)

EVENT_BYTES_MAX = 64 * 1024
"""Of an event's encoded fields. What others choose the size of is bounded below it, or is content
that the event names by digest: the log keeps what it has for ever, and is read in whole batches.
"""


class EventLog(Protocol):
    """Loads aggregates from their events and appends what they have decided."""

    async def load(self, cls: type[A], aggregate_id: UUID) -> A | None:
        """Return the aggregate as of now, or None when it has no event.

        An id that belongs to another aggregate class counts as absent.
        """
        ...

    async def append(
        self, *aggregates: Aggregate, seal: Mapping[UUID, bytes] | None = None
    ) -> None:
        """Append the pending events of all `aggregates`, in order, all or nothing.

        The read models change in the same transaction, so whoever called reads its own writes.
        `seal` stores sealed secrets beside operations, by operation id, in that transaction; the
        sealed secret of an operation is destroyed in the transaction that ends it.
        With nothing pending this does nothing.

        Raises EventTooLargeError for an event over EVENT_BYTES_MAX, ConflictError when another
        writer got to one of the aggregates first (nothing is written; pending events are gone, load
        again) and UnavailableError when the database is not there.
        """
        ...

    async def sealed(self, operation_id: UUID) -> bytes | None:
        """Return the sealed secret of a live operation, None when there is none."""
        ...
