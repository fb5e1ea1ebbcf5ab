"""The journal of an operation: what its processes did, as events a client can follow.

One journal an operation, numbers rising from 0, in the wire form of the API's event log. It is
not the audit log: the audit log holds the digest of the finished journal. Implemented by
adapters.postgres.journal.

The last event a client sees, `completion`, is never stored here: whoever serves the journal derives
it from the terminal operation row, after the last entry and numbered one higher. So it exists
exactly when the log says that the operation has ended, and cannot be lost between two writes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Protocol
from uuid import UUID


@dataclass(frozen=True, slots=True, kw_only=True)
class JournalEntry:
    """One event of an operation. `spid` is 0 for the machine's own."""

    at: datetime
    type: str
    spid: int
    data: Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class NumberedEntry:
    """A journal entry with its place."""

    number: int
    entry: JournalEntry


class Journal(Protocol):
    """Appends and reads journals."""

    async def append(self, operation_id: UUID, entries: Sequence[JournalEntry]) -> None:
        """Append in order; durable and visible to followers when this returns. One writer."""
        ...

    async def read(
        self, operation_id: UUID, *, after: int = -1, limit: int = 1000
    ) -> Sequence[NumberedEntry]:
        """Return entries with a number greater than `after`, in order."""
        ...

    async def restart(self, operation_id: UUID) -> None:
        """Forget what an attempt that was lost has written; numbers go on from where they were."""
        ...
