"""How workers get their work: PostgreSQL is the queue. Implemented by adapters.postgres."""

from __future__ import annotations

from collections.abc import AsyncIterator, Collection, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol
from uuid import UUID

from contree.domain.context import Context
from contree.domain.operation import Kind, Operation


@dataclass(frozen=True, slots=True, kw_only=True)
class Look:
    """What there is to do.

    pending   kinds of which operations wait for a worker
    unwanted  operations held by the worker that a client wants stopped, oldest first
    """

    pending: frozenset[Kind]
    unwanted: Sequence[UUID]


class WorkQueue(Protocol):
    """Pending operations, leases of workers, and wake-ups."""

    async def claim(
        self,
        *,
        worker: str,
        kind: Kind,
        limit: int,
        running_per_project_max: int,
        lease_until: datetime,
        context: Context,
    ) -> Sequence[Operation]:
        """Give up to `limit` pending operations of `kind` to `worker`.

        Fair between projects, however long their queues: each goes to the project that has the
        fewest of the kind running, among equals to the one that this queue served longest ago,
        then to the one that waits longest. Within a project the oldest comes first. A project
        never has more than `running_per_project_max` of the kind running at once.

        Each is locked (SKIP LOCKED), decided by the aggregate and appended as OperationAssigned in
        one transaction; no operation is ever given to two workers. `context.project_id` is replaced
        by each operation's own. A lease is as long as from `context.at` to `lease_until`.
        """
        ...

    async def renew(
        self, operation_ids: Collection[UUID], *, worker: str, lease_s: float
    ) -> datetime:
        """Extend the leases of those of `operation_ids` that `worker` holds; return the time now.

        It names what it works on: what the log calls its own without its knowing (the answer to a
        claim was lost) must run out. One that an append is changing just then is left as it is.
        The time is the queue's, by which all leases are counted.
        """
        ...

    async def abandoned(self, *, worker: str | None = None) -> Sequence[UUID]:
        """Running operations whose lease has run out; with `worker`, all that it still holds."""
        ...

    async def look(self, *, worker: str) -> Look:
        """Return what there is to do for `worker`. Takes no lock."""
        ...

    def wakeups(self, *, poll_s: float) -> AsyncIterator[None]:
        """Yield whenever something was appended, and at least every `poll_s` seconds.

        Survives loss of the database connection; never raises on its own account.
        """
        ...
