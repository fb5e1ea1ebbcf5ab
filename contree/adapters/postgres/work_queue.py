"""The work queue on PostgreSQL (app.work_queue.WorkQueue): claims, leases, wake-ups.

    waiting --queue_take: one call--> taken for TAKE_S --the event is appended--> held under a lease
    taken --not appended in time, or refused--> waiting

Everything is in the table `queue` (migrations/009_queue.sql), which changes in the statement of the
event (coordination). A claim holds no lock between its steps: a worker that is stopped or cut off
there delays nobody, and what it has taken is free again after TAKE_S. The aggregate decides and the
append is optimistic, so whoever comes too late gets nothing.

Leases are counted by the database's clock. They are renewed on connections of their own, so that
nothing else that takes long makes them run out.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Collection, Iterable, Sequence
from dataclasses import replace
from datetime import datetime
from typing import Any
from uuid import UUID

import asyncpg

from contree.adapters.postgres.event_log import EVENTS_OF, PostgresEventLog
from contree.adapters.postgres.failures import translated
from contree.adapters.postgres.listener import PostgresListener
from contree.app.work_queue import Look, Wake
from contree.domain.context import Context
from contree.domain.errors import ConflictError, InvalidTransitionError, UnavailableError
from contree.domain.operation import Kind, Operation

TAKE_S = 10.0
"""How long what is taken is kept for the worker that is about to record it."""

CHANNEL = "work"
"""Told by the triggers of the table: `waiting KIND`, `unwanted WORKER`."""

LOOK = """
SELECT ARRAY(SELECT operation_id FROM public.queue WHERE worker = $1 AND unwanted
             ORDER BY created_at, operation_id) AS unwanted,
       ARRAY(SELECT k FROM unnest($2::text[]) AS k WHERE EXISTS
             (SELECT FROM public.queue WHERE worker IS NULL AND kind = k
              AND (taken_until IS NULL OR taken_until < now()))) AS pending
"""
TAKE = "SELECT * FROM public.queue_take($1, $2, $3, $4, $5) AS operation_id"
RELEASE = """
UPDATE public.queue SET taken_by = NULL, taken_until = NULL
WHERE operation_id = ANY($1::uuid[]) AND taken_by = $2
"""
# Waits for nobody, so no deadlock with appends, which lock leases in their own order: one that is
# locked is being ended, or is renewed the next time.
RENEW = """
WITH renewed AS (
    UPDATE public.queue SET until = now() + make_interval(secs => $3) WHERE operation_id IN (
        SELECT operation_id FROM public.queue WHERE operation_id = ANY($1::uuid[]) AND worker = $2
        FOR UPDATE SKIP LOCKED
    )
)
SELECT clock_timestamp()
"""
EXPIRED = """
SELECT operation_id FROM public.queue WHERE worker IS NOT NULL AND until < now()
ORDER BY created_at, operation_id
"""
HELD = """
SELECT operation_id FROM public.queue WHERE worker = $1 ORDER BY created_at, operation_id
"""

_log = logging.getLogger(__name__)


class _Sleeper:
    """What one worker has not been woken for yet: any number of announcements wake it once."""

    def __init__(self, worker: str) -> None:
        self.worker = worker
        self.woken = asyncio.Event()
        self._waiting: set[Kind] = set()
        self._is_unwanted = False

    def wake(self, *, waiting: Iterable[Kind] = (), unwanted: bool = False) -> None:
        self._waiting.update(waiting)
        self._is_unwanted |= unwanted
        self.woken.set()

    def taken(self) -> Wake:
        wake = Wake(waiting=frozenset(self._waiting), unwanted=self._is_unwanted)
        self._waiting, self._is_unwanted = set(), False
        self.woken.clear()
        return wake


class PostgresWorkQueue:
    """Claims over the table `queue`, decided by the aggregates themselves.

    `leases` is the pool that leases are kept with; None: `pool`.
    """

    def __init__(
        self,
        pool: asyncpg.Pool,
        log: PostgresEventLog,
        *,
        listener: PostgresListener,
        leases: asyncpg.Pool | None = None,
    ) -> None:
        self._pool = pool
        self._leases = leases or pool
        self._event_log = log
        self._listener = listener
        self._sleepers: set[_Sleeper] = set()

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
        late_at_s = asyncio.get_running_loop().time() + TAKE_S
        with translated():
            wanted = (kind.value, worker, limit, running_per_project_max, TAKE_S)
            ids = _ids(await self._pool.fetch(TAKE, *wanted))
        if not ids:
            return ()
        try:
            with translated():
                rows = await self._pool.fetch(EVENTS_OF, ids)
            operations = self._event_log.folded(Operation, rows)
            assigned = [
                operations[id_]
                for id_ in ids
                if id_ in operations
                and _assigned(operations[id_], context, worker=worker, lease_until=lease_until)
            ]
            if asyncio.get_running_loop().time() >= late_at_s:
                _log.warning("%d operations are left to others: claiming took too long", len(ids))
                return ()
            return await self._recorded(assigned)
        except Exception:
            await self._release(ids, worker)
            raise

    async def _recorded(self, assigned: Sequence[Operation]) -> Sequence[Operation]:
        """Append what was decided; return those of which nobody else decided otherwise first.

        Each on its own, in one transaction if none is refused (ADR 11).
        """
        appends = (self._event_log.append(operation) for operation in assigned)
        outcomes = await asyncio.gather(*appends, return_exceptions=True)
        for outcome in outcomes:
            if isinstance(outcome, BaseException) and not isinstance(outcome, ConflictError):
                raise outcome
        return [o for o, outcome in zip(assigned, outcomes, strict=True) if outcome is None]

    async def _release(self, operation_ids: Sequence[UUID], worker: str) -> None:
        """Let others have at once what was taken and not recorded; else they wait for TAKE_S."""
        with contextlib.suppress(UnavailableError), translated():
            await self._pool.execute(RELEASE, operation_ids, worker)

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

    async def wakeups(self, *, worker: str, poll_s: float) -> AsyncIterator[Wake]:
        loop = asyncio.get_running_loop()
        sleeper = _Sleeper(worker)
        self._sleepers.add(sleeper)
        self._listener.subscribe(CHANNEL, self._heard, self._missed)
        try:
            # Listening first and waking once: what came before is found by whoever looks now.
            with contextlib.suppress(UnavailableError):
                await self._listener.listening(CHANNEL)
            sleeper.wake(waiting=Kind, unwanted=True)
            poll_at_s = loop.time() + poll_s
            while True:
                try:
                    async with asyncio.timeout_at(poll_at_s):
                        await sleeper.woken.wait()
                except TimeoutError:
                    sleeper.wake(waiting=Kind, unwanted=True)
                    poll_at_s = loop.time() + poll_s
                yield sleeper.taken()
        finally:
            self._sleepers.discard(sleeper)

    def _heard(self, text: str) -> None:
        what, _, name = text.partition(" ")
        for sleeper in self._sleepers:
            if what == "waiting":
                sleeper.wake(waiting={Kind(name)})
            elif name == sleeper.worker:
                sleeper.wake(unwanted=True)

    def _missed(self) -> None:
        for sleeper in self._sleepers:
            sleeper.wake(waiting=Kind, unwanted=True)


def _assigned(
    operation: Operation, context: Context, *, worker: str, lease_until: datetime
) -> bool:
    """Let the aggregate decide. A row that disagrees with it must not block the queue."""
    try:
        own = replace(context, project_id=operation.project_id)
        operation.assign(own, worker=worker, lease_until=lease_until)
    except InvalidTransitionError as error:
        _log.error("the queue shows a waiting operation that is not: %s", error)
        return False
    return True


def _ids(rows: Sequence[Any]) -> list[UUID]:
    return [row["operation_id"] for row in rows]
