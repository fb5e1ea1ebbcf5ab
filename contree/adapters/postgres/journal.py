"""The journals of operations on PostgreSQL (app.journal.Journal).

One statement takes the numbers and stores the entries, so a journal has no gaps but those that
`restart` leaves. A restart takes a number itself, so that a writer from before, who expects that
one, is refused: no lock, and nothing to renew. Bounds are the writer's duty.

For the same reason an entry has the number that its writer expected only if that writer wrote it:
so an append whose answer was lost finds, when it is repeated, that it was done.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from uuid import UUID

import asyncpg
import orjson

from contree.adapters.postgres.failures import translated
from contree.app.journal import JournalEntry, NumberedEntry
from contree.domain.errors import ConflictError

READ_MAX = 10_000
"""Bound on the entries of one read."""

WRITING_MAX = 1000
"""Journals that this process may be writing at once: far more than guests fit on a machine."""

APPEND = """
WITH taken AS (
    INSERT INTO public.operation_journals AS j (operation_id, next_number)
    VALUES ($1, cardinality($2::timestamptz[]))
    ON CONFLICT (operation_id)
    DO UPDATE SET next_number = j.next_number + EXCLUDED.next_number
        WHERE j.sha256 IS NULL AND ($6::bigint IS NULL OR j.next_number = $6)
    RETURNING next_number - cardinality($2::timestamptz[]) AS first
), added AS (
    INSERT INTO public.operation_journal (operation_id, number, at, type, spid, data)
    SELECT $1, taken.first + e.place - 1, e.at, e.type, e.spid, e.data::json
    FROM taken, unnest($2::timestamptz[], $3::text[], $4::integer[], $5::text[])
        WITH ORDINALITY AS e (at, type, spid, data, place)
)
SELECT first, pg_notify('operation_news', $1::text) FROM taken
"""
BEGIN_FIRST = """
INSERT INTO public.operation_journals (operation_id, next_number) VALUES ($1, 0)
ON CONFLICT (operation_id) DO NOTHING RETURNING next_number
"""
BEGIN = """
INSERT INTO public.operation_journals AS j (operation_id, next_number) VALUES ($1, 0)
ON CONFLICT (operation_id) DO UPDATE SET next_number = j.next_number + 1
    WHERE j.sha256 IS NULL
RETURNING next_number
"""
IS_THERE = """
SELECT EXISTS (SELECT FROM public.operation_journal WHERE operation_id = $1 AND number = $2)
"""
READ = """
SELECT number, at, type, spid, data FROM public.operation_journal
WHERE operation_id = $1 AND number > $2 ORDER BY number LIMIT $3
"""
READ_PROCESS = """
SELECT number, at, type, spid, data FROM public.operation_journal
WHERE operation_id = $1 AND number > $2 AND spid = $4 ORDER BY number LIMIT $3
"""
NEXT_NUMBER = "SELECT next_number FROM public.operation_journals WHERE operation_id = $1"
FORGET = "DELETE FROM public.operation_journal WHERE operation_id = $1"

FORGET_ALL = """
WITH known AS (
    SELECT operation_id, size_bytes FROM public.operation_journals
    WHERE operation_id = ANY($1::uuid[]) FOR UPDATE
), marked AS (
    UPDATE public.operation_journals AS j
    SET sha256 = coalesce(j.sha256, ''), size_bytes = NULL
    FROM known WHERE j.operation_id = known.operation_id
), gone AS (
    DELETE FROM public.operation_journal
    WHERE operation_id IN (SELECT operation_id FROM known) RETURNING operation_id
)
SELECT count(*) FROM (
    SELECT operation_id FROM known WHERE size_bytes > 0 UNION SELECT operation_id FROM gone
) AS had
"""


class PostgresJournal:
    def __init__(self, pool: asyncpg.Pool) -> None:
        self._pool = pool
        self._expected: OrderedDict[UUID, int] = OrderedDict()

    async def append(self, operation_id: UUID, entries: Sequence[JournalEntry]) -> None:
        if not entries:
            return
        expected = self._expected.get(operation_id)
        with translated():
            first: int | None = await self._pool.fetchval(
                APPEND,
                operation_id,
                [e.at for e in entries],
                [e.type for e in entries],
                [e.spid for e in entries],
                [orjson.dumps(dict(e.data)).decode() for e in entries],
                expected,
            )
            if first is None and not await self._pool.fetchval(IS_THERE, operation_id, expected):
                raise _not_its_writer(operation_id)
        if expected is not None:
            self._expected[operation_id] = expected + len(entries)

    async def read(
        self, operation_id: UUID, *, after: int = -1, limit: int = 1000, spid: int | None = None
    ) -> Sequence[NumberedEntry]:
        limit = min(limit, READ_MAX)
        with translated():
            if spid is None:
                rows = await self._pool.fetch(READ, operation_id, after, limit)
            else:
                rows = await self._pool.fetch(READ_PROCESS, operation_id, after, limit, spid)
        return [
            NumberedEntry(
                number=row["number"],
                entry=JournalEntry(
                    at=row["at"],
                    type=row["type"],
                    spid=row["spid"],
                    data=orjson.loads(row["data"]),
                ),
            )
            for row in rows
        ]

    async def next_number(self, operation_id: UUID) -> int:
        with translated():
            number: int | None = await self._pool.fetchval(NEXT_NUMBER, operation_id)
        return number or 0

    async def forget(self, operation_ids: Sequence[UUID]) -> int:
        with translated():
            return int(await self._pool.fetchval(FORGET_ALL, list(operation_ids)))

    async def restart(self, operation_id: UUID) -> int:
        with translated():
            # Mostly nobody has written it before: one statement, and nothing to delete.
            number: int | None = await self._pool.fetchval(BEGIN_FIRST, operation_id)
            if number is None:
                number = await self._begin_again(operation_id)
        self._expected[operation_id] = number
        self._expected.move_to_end(operation_id)
        if len(self._expected) > WRITING_MAX:
            self._expected.popitem(last=False)
        return number

    async def _begin_again(self, operation_id: UUID) -> int:
        async with self._pool.acquire() as connection, connection.transaction():
            # The lock first: then what a writer from before adds meanwhile is deleted too.
            number: int | None = await connection.fetchval(BEGIN, operation_id)
            if number is None:
                raise _not_its_writer(operation_id)
            await connection.execute(FORGET, operation_id)
        return number


def _not_its_writer(operation_id: UUID) -> ConflictError:
    return ConflictError(
        f"the journal of operation {operation_id} has another writer, or its operation has ended"
    )
