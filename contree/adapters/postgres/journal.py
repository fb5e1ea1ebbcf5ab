"""The journals of operations on PostgreSQL (app.journal.Journal).

One statement takes the numbers and stores the entries, so a journal has no gaps but those that
`restart` leaves. It holds what clients see and refuses nothing; bounds are its writer's duty.
"""

from __future__ import annotations

from collections.abc import Sequence
from uuid import UUID

import asyncpg
import orjson

from contree.adapters.postgres.failures import translated
from contree.app.journal import JournalEntry, NumberedEntry

READ_MAX = 10_000
"""Bound on the entries of one read."""

APPEND = """
WITH taken AS (
    INSERT INTO public.operation_journals AS j (operation_id, next_number)
    VALUES ($1, cardinality($2::timestamptz[]))
    ON CONFLICT (operation_id)
    DO UPDATE SET next_number = j.next_number + EXCLUDED.next_number
    RETURNING next_number - cardinality($2::timestamptz[]) AS first
), added AS (
    INSERT INTO public.operation_journal (operation_id, number, at, type, spid, data)
    SELECT $1, taken.first + e.place - 1, e.at, e.type, e.spid, e.data::json
    FROM taken, unnest($2::timestamptz[], $3::text[], $4::integer[], $5::text[])
        WITH ORDINALITY AS e (at, type, spid, data, place)
)
SELECT pg_notify('operation_news', $1::text)
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


class PostgresJournal:
    def __init__(self, pool: asyncpg.Pool) -> None:
        self._pool = pool

    async def append(self, operation_id: UUID, entries: Sequence[JournalEntry]) -> None:
        if not entries:
            return
        with translated():
            await self._pool.execute(
                APPEND,
                operation_id,
                [e.at for e in entries],
                [e.type for e in entries],
                [e.spid for e in entries],
                [orjson.dumps(dict(e.data)).decode() for e in entries],
            )

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

    async def restart(self, operation_id: UUID) -> None:
        with translated():
            await self._pool.execute(FORGET, operation_id)
