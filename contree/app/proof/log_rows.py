"""The log's rows as the bytes that hashes cover, many at once: for whoever checks all of them.

Implemented by adapters.postgres.log_rows; tests/contracts/test_log_rows.py holds the fake to the
same text. `app.recorded_log` gives the same rows as fields.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Collection, Sequence
from typing import Protocol
from uuid import UUID

from contree.app.recorded_log import RecordedEvent
from contree.domain.errors import ContreeError

RawRow = tuple[bytes, bytes]
"""A row's bytes as `domain.log_row` lays them out, and the hash that stands beside it."""


BEFORE_ALL = -(2**63)
"""A position that no row comes before."""


class OddRowError(ContreeError):
    """A row lacks a value that the log's table demands: somebody took the demand away first."""

    code = "odd_row"


class LogRows(Protocol):
    """Reads rows in the order of their positions; says nothing about whether they are right."""

    def stream(self, *, after: int, until: int) -> AsyncGenerator[Sequence[RawRow], None]:
        """Yield the rows beyond position `after` up to and with `until`, in batches, never empty.

        Each batch is read by itself: no transaction is held open. Raises OddRowError,
        UnavailableError.
        """
        ...

    async def count(self, *, after: int, until: int) -> int:
        """Return how many rows there are in that range, or at no position at all."""
        ...

    async def hash_at(self, position: int) -> tuple[int, bytes] | None:
        """Return position and hash of the last row up to and with `position`."""
        ...

    async def of_aggregates(self, ids: Collection[UUID], *, limit: int) -> Sequence[RecordedEvent]:
        """Return at most `limit` events of these aggregates, in the order of their positions."""
        ...
