"""The audit index on PostgreSQL (app.audit.audit_index): written by the duty, watched by readers.

One statement moves the index's mark and adds the rows, so that either both happen or neither, and
only for who found the mark where it was: of two that follow at once, one is told to look again.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Protocol

import asyncpg

from contree.adapters.postgres.failures import translated
from contree.adapters.postgres.listener import PostgresListener
from contree.app.audit.audit_index import FoldedBatch, Mark
from contree.app.recorded_log import RecordedEvent
from contree.domain.errors import ConflictError, UnavailableError

CHANNEL = "audit_index"
LOOK_AGAIN_S = 1.0
"""Who waits looks by itself this often: a notification is a hint, the mark is the truth."""

THREAD_EVENTS_MIN = 100
"""Smaller batches are folded where they are: a change of threads costs more."""

SCHEMA = "audit"
"""Of the index in use; a comparison folds into one aside."""

MARK = "SELECT fingerprint, position, log_time, latest_at FROM {schema}.follower"
ADD = """
WITH moved AS (
    UPDATE {schema}.follower SET position = $3, log_time = $4, latest_at = $5
    WHERE fingerprint = $1 AND position = $2 RETURNING position
), entries AS (
    INSERT INTO {schema}.entries SELECT rows.* FROM moved, unnest($6::bigint[], $7::timestamptz[],
        $8::timestamptz[], $9::uuid[], $10::text[], $11::text[], $12::uuid[], $13::text[]) rows
), mentions AS (
    INSERT INTO {schema}.mentions SELECT rows.* FROM moved, unnest($14::uuid[], $15::bigint[]) rows
), images AS (
    INSERT INTO {schema}.images SELECT rows.* FROM moved, unnest($16::uuid[], $17::uuid[],
        $18::uuid[], $19::uuid[], $20::timestamptz[], $21::bigint[]) rows
), operations AS (
    INSERT INTO {schema}.operations SELECT rows.* FROM moved, unnest($22::uuid[], $23::uuid[],
        $24::text[], $25::timestamptz[], $26::bigint[], $27::bigint[], $28::text[]) rows
), tag_moves AS (
    INSERT INTO {schema}.tag_moves SELECT rows.* FROM moved, unnest($29::uuid[], $30::text[],
        $31::bigint[], $32::uuid[], $33::timestamptz[]) rows
), ends AS (
    UPDATE {schema}.operations o SET ended = rows.ended, status = rows.status
    FROM moved, unnest($34::uuid[], $35::bigint[], $36::text[]) rows (operation_id, ended, status)
    WHERE o.operation_id = rows.operation_id
)
SELECT pg_notify('audit_index', '') FROM moved
"""
WIDTHS = {"entries": 8, "mentions": 2, "images": 6, "operations": 7, "tag_moves": 5, "ends": 3}
"""Columns of each kind of rows, in the order of ADD's placeholders."""

Decode = Callable[[bytes], Mapping[str, Any]]


class Fold(Protocol):
    """contree.projections.audit_index.fold_audit; the rows have WIDTHS' names."""

    def __call__(
        self, mark: Mark, events: Iterable[tuple[RecordedEvent, Mapping[str, Any]]]
    ) -> tuple[Mark, Any]: ...


class PostgresAuditIndexer:
    """app.audit.audit_index.AuditIndexer. `fingerprint` is this release's tables' and fold's.

    `database` is a pool, or a connection that nobody else uses.
    """

    def __init__(
        self,
        database: asyncpg.Pool | asyncpg.Connection,
        *,
        fold: Fold,
        decode: Decode,
        fingerprint: str,
        schema: str = SCHEMA,
    ) -> None:
        self._database = database
        self._fold = fold
        self._decode = decode
        self._fingerprint = fingerprint
        self._schema = schema
        self._add = ADD.format(schema=schema)

    async def begin(self) -> Mark:
        row = await _mark_row(self._database, self._schema)
        if row["fingerprint"] != self._fingerprint:
            raise UnavailableError("the audit index belongs to another release of contreed")
        return _mark(row)

    async def fold(self, mark: Mark, events: Sequence[RecordedEvent]) -> FoldedBatch:
        if len(events) < THREAD_EVENTS_MIN:
            return self._folded(mark, events)
        return await asyncio.to_thread(self._folded, mark, events)

    async def write(self, batch: FoldedBatch) -> None:
        before, after = batch.before, batch.after
        with translated():
            row = await self._database.fetchrow(
                self._add,
                *(self._fingerprint, before.position),
                *(after.position, after.log_time, after.latest_at),
                *batch.columns,
            )
        if row is None:
            raise ConflictError(f"the audit index is not at position {before.position} any more")

    async def add(self, mark: Mark, events: Sequence[RecordedEvent]) -> Mark:
        """Fold and write."""
        batch = await self.fold(mark, events)
        await self.write(batch)
        return batch.after

    def _folded(self, mark: Mark, events: Sequence[RecordedEvent]) -> FoldedBatch:
        """Fold, and turn rows into ADD's arguments: an array for each column."""
        after, rows = self._fold(mark, ((event, self._decode(event.state)) for event in events))
        columns: list[Sequence[Any]] = []
        for name, width in WIDTHS.items():
            columns += list(zip(*getattr(rows, name), strict=True)) or [()] * width
        return FoldedBatch(before=mark, after=after, columns=columns)


class PostgresAuditProgress:
    """app.audit.audit_index.AuditProgress. One connection listens, however many wait."""

    def __init__(self, pool: asyncpg.Pool, listener: PostgresListener) -> None:
        self._pool = pool
        self._listener = listener
        self._waiting: set[asyncio.Event] = set()

    async def reached(self, position: int, *, within_s: float) -> Mark:
        mark = _mark(await _mark_row(self._pool))
        if mark.position >= position:
            return mark
        self._listener.subscribe(CHANNEL, self._wake, self._wake)
        woken = asyncio.Event()
        self._waiting.add(woken)
        try:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(within_s):
                    while mark.position < position:
                        # Cleared before looking: what is added meanwhile wakes again.
                        woken.clear()
                        mark = _mark(await _mark_row(self._pool))
                        if mark.position < position:
                            with contextlib.suppress(TimeoutError):
                                async with asyncio.timeout(LOOK_AGAIN_S):
                                    await woken.wait()
        finally:
            self._waiting.discard(woken)
        return mark

    def _wake(self, _: str = "") -> None:
        for woken in self._waiting:
            woken.set()


async def _mark_row(
    database: asyncpg.Pool | asyncpg.Connection, schema: str = SCHEMA
) -> Mapping[str, Any]:
    try:
        with translated():
            row: Mapping[str, Any] | None = await database.fetchrow(MARK.format(schema=schema))
    except asyncpg.UndefinedTableError:  # it is being made anew, or the database is not migrated
        row = None
    if row is None:
        raise UnavailableError("the audit index is being made")
    return row


def _mark(row: Mapping[str, Any]) -> Mark:
    return Mark(position=row["position"], log_time=row["log_time"], latest_at=row["latest_at"])
