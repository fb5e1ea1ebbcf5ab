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


@dataclass(frozen=True, slots=True, kw_only=True)
class Wake:
    """Why a worker is woken; everything, when it is only time to look again.

    waiting   kinds of which operations came in: of no interest to who has no room for them
    unwanted  whether a client may want an operation stopped that the worker holds
    """

    waiting: frozenset[Kind]
    unwanted: bool


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
        fewest of the kind running, among equals to the one that was served longest ago, by
        whichever worker, then to the one that waits longest. Within a project the oldest comes
        first. A project never has more than `running_per_project_max` of the kind running at once.

        Each is taken for `worker` (SKIP LOCKED), decided by the aggregate, and appended as
        OperationAssigned, one by one; no operation is ever given to two workers. Between these
        steps nothing is locked: a worker that stops there delays nobody, and after some seconds
        others may take what it has taken. Should it come back just then, what it still records
        may be one more than the project's bound. What somebody else decided first (a client
        cancelled it) is left out. When this raises, some may have been given to `worker` without
        its knowing; the others wait again.

        `context.project_id` is replaced by each operation's own. A lease is as long as from
        `context.at` to `lease_until`.
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

    def wakeups(self, *, worker: str, poll_s: float) -> AsyncIterator[Wake]:
        """Yield at once, then whenever operations come in or `worker` is to stop one; and at least
        every `poll_s` seconds. Nothing else that is appended wakes.

        What comes while nobody waits is told in one. Survives loss of the database connection;
        never raises on its own account.
        """
        ...
