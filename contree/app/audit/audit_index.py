"""The index that makes the log answer questions: kept behind the log, by one worker for all.

It finds; the log tells. Its tables hold positions and what they are looked for by; what an answer
shows is read from the log itself. Implemented by adapters.postgres.audit_index;
tests/contracts/test_audit_index.py holds the fake and the real one to this text.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Protocol

from contree.app.recorded_log import RecordedEvent

NEVER = datetime(1970, 1, 1, tzinfo=UTC)
"""Before everything in any log."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Mark:
    """How far the index has come.

    position    of the last event in it, 0 when it is empty
    log_time    the latest `recorded_at` so far: it never falls, also where the clock did
    latest_at   the latest time of the events so far, by the clocks of those who decided them
    """

    position: int = 0
    log_time: datetime = NEVER
    latest_at: datetime = NEVER


@dataclass(frozen=True, slots=True, kw_only=True)
class FoldedBatch:
    """What a batch of events puts into the index.

    before, after   the marks that it leads from and to
    columns         the rows, as the index takes them: nobody else's business
    """

    before: Mark
    after: Mark
    columns: Sequence[Sequence[object]]


class AuditIndexer(Protocol):
    """Writes the index, in two steps: the next batch can be folded while this one is written."""

    async def begin(self) -> Mark:
        """Return where to go on. Raises UnavailableError, also for another release's index."""
        ...

    async def fold(self, mark: Mark, events: Sequence[RecordedEvent]) -> FoldedBatch:
        """Work out what `events`, the ones that follow `mark`, put in. Changes nothing."""
        ...

    async def write(self, batch: FoldedBatch) -> None:
        """Put it in, all or nothing.

        Raises ConflictError when the index is not at `batch.before` any more (somebody else added
        them, or it was emptied), and UnavailableError.
        """
        ...


class AuditProgress(Protocol):
    """Tells readers how far the index has come."""

    async def reached(self, position: int, *, within_s: float) -> Mark:
        """Wait until the index has reached `position` or the time is over; return where it is.

        Raises UnavailableError.
        """
        ...
