"""Which journals are packed, on PostgreSQL (app.content.journal_packs.JournalPacks).

What is to be packed is found by an index that has unpacked journals only. Writers change the row of
a journal before they add entries, so holding that row holds them off.
"""

from __future__ import annotations

from collections.abc import Sequence
from uuid import UUID

import asyncpg

from contree.adapters.postgres.failures import translated
from contree.app.content.journal_packs import EndedJournal, Pack
from contree.domain.operation import OperationCancelled, OperationFailed, OperationSucceeded

ENDS = [OperationSucceeded.TOPIC, OperationFailed.TOPIC, OperationCancelled.TOPIC]
NIL = UUID(int=0)

ENDED = """
SELECT j.operation_id, o.project_id, j.next_number, (
    SELECT convert_from(e.state, 'UTF8')::json ->> 'journal_sha256'
    FROM public.stored_events e
    WHERE e.originator_id = j.operation_id AND e.topic = ANY($3::text[])
    ORDER BY e.originator_version DESC LIMIT 1) AS sha256
FROM public.operation_journals j JOIN operations o ON o.operation_id = j.operation_id
WHERE j.sha256 IS NULL AND j.operation_id > $1 AND o.finished_at IS NOT NULL
ORDER BY j.operation_id LIMIT $2
"""
SETTLE = """
WITH settled AS (
    UPDATE public.operation_journals SET sha256 = decode($3, 'hex'), size_bytes = $4
    WHERE operation_id = $1 AND sha256 IS NULL AND next_number = $2 RETURNING operation_id
), gone AS (
    DELETE FROM public.operation_journal WHERE operation_id IN (SELECT operation_id FROM settled)
)
SELECT count(*) FROM settled
"""
PACK_OF = """
SELECT o.project_id, encode(j.sha256, 'hex') AS sha256, j.size_bytes
FROM public.operation_journals j JOIN operations o ON o.operation_id = j.operation_id
WHERE j.operation_id = $1 AND j.sha256 IS NOT NULL AND j.size_bytes IS NOT NULL
"""


class PostgresJournalPacks:
    def __init__(self, pool: asyncpg.Pool) -> None:
        self._pool = pool

    async def ended(self, *, after: UUID | None = None, limit: int) -> Sequence[EndedJournal]:
        with translated():
            rows = await self._pool.fetch(ENDED, after or NIL, limit, ENDS)
        return [EndedJournal(**row) for row in rows]

    async def settle(self, journal: EndedJournal, pack: Pack) -> bool:
        with translated():
            settled = await self._pool.fetchval(
                SETTLE, journal.operation_id, journal.next_number, pack.sha256, pack.size_bytes
            )
        return bool(settled)

    async def pack_of(self, operation_id: UUID) -> Pack | None:
        with translated():
            row = await self._pool.fetchrow(PACK_OF, operation_id)
        return None if row is None else Pack(**row)
