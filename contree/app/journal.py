"""The journal of an operation: what its processes did, as events a client can follow.

One journal an operation, numbers rising from 0, in the wire form of the API's event log. It is
not the audit log: the audit log holds the digest of the finished journal. Implemented by
adapters.postgres.journal.

The last event a client sees, `completion`, is never stored here: whoever serves the journal derives
it from the terminal operation row, numbered `next_number`, after the last entry. So it exists
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
        """Append in order; durable and told to followers when this returns. One writer.

        After `restart`, the same entries may be appended again when it raised UnavailableError:
        they are there once, also when only the answer was lost. Raises ConflictError once another
        process has restarted the journal, or it is packed.
        """
        ...

    async def read(
        self, operation_id: UUID, *, after: int = -1, limit: int = 1000, spid: int | None = None
    ) -> Sequence[NumberedEntry]:
        """Return entries with a number greater than `after`, in order; of `spid` only if given."""
        ...

    async def next_number(self, operation_id: UUID) -> int:
        """Return the number that the next entry would get, 0 for a journal that is not there.

        Once the operation has ended it is greater than every number that was ever shown.
        """
        ...

    async def forget(self, operation_ids: Sequence[UUID]) -> int:
        """Remove the entries of these operations for good; return how many had some."""
        ...

    async def restart(self, operation_id: UUID) -> int:
        """Become its one writer: forget what an attempt that was lost has written.

        Returns the number of the first entry; further ones follow without a gap, above all that
        were ever shown. Raises ConflictError when the operation has ended and its journal is
        packed (app.content.journal_packs). A writer from before, in another process that
        is believed dead and is not, is refused from now on.
        """
        ...
