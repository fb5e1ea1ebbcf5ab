"""The work queue on PostgreSQL (app.work_queue.WorkQueue): claims, leases, wake-ups.

A claim first takes the log's own lock, then reads: so it sees every running operation, a project's
bound holds however many workers race, and no claim can deadlock with an append. To look whether
anything is pending takes no lock at all. The queue keeps no status of its own, but for the order in
which it served projects last: forgetting it, as a restart does, costs a project one turn.

Leases are counted by the database's clock. They are renewed on connections of their own, so that
nothing else that takes long makes them run out.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncGenerator, AsyncIterator, Collection, Sequence
from dataclasses import replace
from datetime import datetime
from typing import Any
from uuid import UUID

import asyncpg

from contree.adapters.postgres.event_log import EVENTS_OF, PostgresEventLog
from contree.adapters.postgres.failures import AWAY, translated
from contree.adapters.postgres.pool import connect
from contree.adapters.postgres.statement import LOCK_LOG
from contree.app.work_queue import Look
from contree.domain.context import Context
from contree.domain.errors import InvalidTransitionError
from contree.domain.operation import Kind, Operation

RECONNECT_S = 1.0
SERVED_MAX = 1000
"""Projects whose last turn is remembered."""

LOOK = """
SELECT ARRAY(SELECT operation_id FROM operations
             WHERE status IN ('ASSIGNED', 'EXECUTING') AND worker = $1 AND cancellation_requested
             ORDER BY created_at, operation_id) AS unwanted,
       ARRAY(SELECT k FROM unnest($2::text[]) AS k WHERE EXISTS
             (SELECT FROM operations WHERE status = 'PENDING' AND kind = k)) AS pending
"""

# Steps from project to project along the index of pending operations, so that the cost follows the
# number of projects that wait and not the length of the queue. Each project's operations are
# numbered after what it has running: so turns go round, and a project that is served again while
# others wait must have no more than they. $4 are projects, the one served longest ago first.
PENDING = """
WITH RECURSIVE waiting AS (
    (SELECT project_id FROM operations WHERE status = 'PENDING' AND kind = $1
     ORDER BY project_id LIMIT 1)
    UNION ALL
    SELECT (SELECT o.project_id FROM operations o
            WHERE o.status = 'PENDING' AND o.kind = $1 AND o.project_id > w.project_id
            ORDER BY o.project_id LIMIT 1)
    FROM waiting w WHERE w.project_id IS NOT NULL
), running AS (
    SELECT project_id, count(*) AS held FROM operations
    WHERE status IN ('ASSIGNED', 'EXECUTING') AND kind = $1 GROUP BY project_id
), eligible AS (
    SELECT o.operation_id
    FROM waiting w
    LEFT JOIN running r USING (project_id)
    CROSS JOIN LATERAL (
        SELECT operation_id, created_at,
               coalesce(r.held, 0) + row_number() OVER (ORDER BY created_at, operation_id) AS turn
        FROM operations
        WHERE status = 'PENDING' AND kind = $1 AND project_id = w.project_id
        ORDER BY created_at, operation_id
        LIMIT greatest(0, least($2::bigint, $3::bigint - coalesce(r.held, 0)))
    ) o
    ORDER BY o.turn, array_position($4::uuid[], w.project_id) NULLS FIRST,
             o.created_at, o.operation_id
    LIMIT $2
)
SELECT operation_id FROM operations WHERE operation_id IN (SELECT operation_id FROM eligible)
ORDER BY created_at, operation_id
FOR UPDATE SKIP LOCKED
"""
# Waits for nobody, so no deadlock with appends, which lock leases in their own order: one that is
# locked is being ended, or is renewed the next time.
RENEW = """
WITH renewed AS (
    UPDATE public.leases SET until = now() + make_interval(secs => $3) WHERE operation_id IN (
        SELECT operation_id FROM public.leases WHERE operation_id = ANY($1::uuid[]) AND worker = $2
        FOR UPDATE SKIP LOCKED
    )
)
SELECT clock_timestamp()
"""
# A running operation without a lease is nobody's.
EXPIRED = """
SELECT o.operation_id FROM operations o LEFT JOIN public.leases l USING (operation_id)
WHERE o.status IN ('ASSIGNED', 'EXECUTING') AND (l.until IS NULL OR l.until < now())
ORDER BY o.created_at, o.operation_id
"""
HELD = """
SELECT operation_id FROM operations
WHERE status IN ('ASSIGNED', 'EXECUTING') AND worker = $1 ORDER BY created_at, operation_id
"""

_log = logging.getLogger(__name__)


class PostgresWorkQueue:
    """Claims over the `operations` read model, decided by the aggregates themselves.

    `leases` is the pool that leases are kept with; None: `pool`.
    """

    def __init__(
        self,
        pool: asyncpg.Pool,
        log: PostgresEventLog,
        *,
        dsn: str,
        leases: asyncpg.Pool | None = None,
    ) -> None:
        self._pool = pool
        self._leases = leases or pool
        self._event_log = log
        self._dsn = dsn
        self._served: dict[Kind, dict[UUID, None]] = {kind: {} for kind in Kind}

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
        if limit < 1:
            return ()
        with translated():
            async with self._pool.acquire() as connection, connection.transaction():
                await connection.execute(LOCK_LOG)
                served = list(self._served[kind])
                ids = _ids(
                    await connection.fetch(
                        PENDING, kind.value, limit, running_per_project_max, served
                    )
                )
                rows = await connection.fetch(EVENTS_OF, ids)
                operations = self._event_log.folded(Operation, rows)
                claimed = [
                    operations[id_]
                    for id_ in ids
                    if id_ in operations
                    and _assigned(operations[id_], context, worker=worker, lease_until=lease_until)
                ]
                await self._event_log.append_within(connection, claimed)
            self._remember(kind, claimed)
            return claimed

    def _remember(self, kind: Kind, claimed: Sequence[Operation]) -> None:
        served = self._served[kind]
        for operation in claimed:
            served.pop(operation.project_id, None)
            served[operation.project_id] = None
        while len(served) > SERVED_MAX:
            del served[next(iter(served))]

    async def renew(
        self, operation_ids: Collection[UUID], *, worker: str, lease_s: float
    ) -> datetime:
        with translated():
            now: datetime = await self._leases.fetchval(RENEW, list(operation_ids), worker, lease_s)
        return now

    async def abandoned(self, *, worker: str | None = None) -> Sequence[UUID]:
        with translated():
            if worker is None:
                return _ids(await self._leases.fetch(EXPIRED))
            return _ids(await self._leases.fetch(HELD, worker))

    async def look(self, *, worker: str) -> Look:
        with translated():
            row = await self._pool.fetchrow(LOOK, worker, [kind.value for kind in Kind])
        return Look(pending=frozenset(map(Kind, row["pending"])), unwanted=row["unwanted"])

    async def wakeups(self, *, poll_s: float) -> AsyncIterator[None]:
        while True:
            try:
                async with contextlib.aclosing(self._announcements(poll_s)) as announcements:
                    async for _ in announcements:
                        yield
            except (*AWAY, asyncpg.InterfaceError, asyncpg.InternalClientError) as error:
                _log.warning("waiting for work without the database: %s", error)
                await asyncio.sleep(min(poll_s, RECONNECT_S))
                yield

    async def _announcements(self, poll_s: float) -> AsyncGenerator[None, None]:
        """Yield as `wakeups`, on one connection; raises the driver's error when that is lost."""
        woken = asyncio.Event()

        def wake(*_: Any) -> None:
            woken.set()

        connection = await connect(self._dsn)
        try:
            connection.add_termination_listener(wake)
            # Listening first and waking once: what came before is found by whoever looks now.
            await connection.add_listener("stored_events", wake)
            while True:
                yield
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(woken.wait(), poll_s)
                woken.clear()
                if connection.is_closed():
                    raise ConnectionError("the connection that listens was lost")
        finally:
            with contextlib.suppress(*AWAY, asyncpg.InterfaceError):
                await connection.close(timeout=RECONNECT_S)


def _assigned(
    operation: Operation, context: Context, *, worker: str, lease_until: datetime
) -> bool:
    """Let the aggregate decide. A read model that disagrees with it must not block the queue."""
    try:
        own = replace(context, project_id=operation.project_id)
        operation.assign(own, worker=worker, lease_until=lease_until)
    except InvalidTransitionError as error:
        _log.error("the read model shows a pending operation that is not: %s", error)
        return False
    return True


def _ids(rows: Sequence[Any]) -> list[UUID]:
    return [row["operation_id"] for row in rows]
