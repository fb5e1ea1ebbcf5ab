"""What content belongs to whom, on PostgreSQL (app.content.content_index.ContentIndex).

Who has a content is a read model, `content_refs`, and whose a layer is another, `project_layers`:
both are asked about what goes, and read nothing of what stays. A project that is removed at once is
large all the same, so lookups are given time.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from datetime import datetime
from typing import Any
from uuid import UUID

import asyncpg

from contree.adapters.postgres.failures import translated
from contree.app.content.content_index import OperationContent
from contree.domain.operation import SubprocessSpawned

TIMEOUT_S = 600
DIGESTS = ("stdin", "body", "stdout", "stderr", "journal")
NIL = UUID(int=0)
NOTHING = hashlib.sha256().hexdigest()

ENDED_COUNT = """
SELECT count(*) FROM operations
WHERE project_id = $1 AND finished_at < $2 AND ($3::timestamptz IS NULL OR finished_at >= $3)
"""
ENDED = """
SELECT operation_id, created_at,
       request -> 'stdin' ->> 'sha256' AS stdin,
       request -> 'body' ->> 'sha256' AS body,
       outcome -> 'stdout' ->> 'sha256' AS stdout,
       outcome -> 'stderr' ->> 'sha256' AS stderr,
       nullif(encode(sha256, 'hex'), '') AS journal,
       next_number IS NOT NULL AND sha256 IS NULL AS is_unpacked
FROM operations LEFT JOIN public.operation_journals USING (operation_id)
WHERE project_id = $1 AND finished_at IS NOT NULL
  AND ($2::timestamptz IS NULL OR finished_at < $2)
  AND ($3::timestamptz IS NULL OR finished_at >= $3)
  AND ($4::timestamptz IS NULL OR (created_at, operation_id) > ($4, $5))
ORDER BY created_at, operation_id LIMIT $6
"""
# Read by the primary key of the log: the events of each operation lie together.
SUBPROCESSES = """
SELECT originator_id AS operation_id,
       convert_from(state, 'UTF8')::json -> 'spec' -> 'stdin' ->> 'sha256' AS stdin,
       convert_from(state, 'UTF8')::json -> 'spec' -> 'body' ->> 'sha256' AS body
FROM public.stored_events WHERE originator_id = ANY($1::uuid[]) AND topic = $2
"""
# Subqueries and no EXISTS, which may become joins that read all operations.
# Journals are not among what needs a digest: whoever has the bytes of one as content has them from
# it, so began after it had ended, and expires after it.
NEEDED = """
SELECT sha256 FROM files WHERE project_id = $1 AND sha256 = ANY($2::text[])
UNION
SELECT encode(asked.sha256, 'hex')
FROM (SELECT decode(unnest($2::text[]), 'hex') AS sha256) AS asked
WHERE (
    SELECT r.operation_id
    FROM content_refs r, LATERAL (
        SELECT FROM operations o
        WHERE o.operation_id = r.operation_id AND (o.finished_at IS NULL OR o.finished_at >= $3)
        LIMIT 1
    ) AS lives
    WHERE r.project_id = $1 AND r.sha256 = asked.sha256 LIMIT 1) IS NOT NULL
"""
# A subquery and no NOT EXISTS, which may become a join that reads the layers of all projects.
OWN_LAYERS = """
SELECT own.layer
FROM (SELECT DISTINCT unnest(layers) AS layer FROM images WHERE project_id = $1) AS own
WHERE (SELECT p.project_id FROM project_layers p
       WHERE p.layer = own.layer AND p.project_id <> $1 LIMIT 1) IS NULL
ORDER BY own.layer
"""
OLDEST_RUN = "SELECT min(started_at) FROM operations WHERE status IN ('ASSIGNED', 'EXECUTING')"
UNENDED = """
SELECT operation_id FROM operations
WHERE project_id = $1 AND status IN ('PENDING', 'ASSIGNED', 'EXECUTING')
ORDER BY created_at, operation_id
"""


class PostgresContentIndex:
    def __init__(self, pool: asyncpg.Pool) -> None:
        self._pool = pool

    async def ended_count(
        self, project_id: UUID, *, since: datetime | None, before: datetime
    ) -> int:
        (row,) = await self._fetch(ENDED_COUNT, project_id, before, since)
        return int(row["count"])

    async def ended(
        self,
        project_id: UUID,
        *,
        since: datetime | None = None,
        before: datetime | None = None,
        after: OperationContent | None = None,
        limit: int,
    ) -> Sequence[OperationContent]:
        place = (None, NIL) if after is None else (after.created_at, after.operation_id)
        rows = await self._fetch(ENDED, project_id, before, since, *place, limit)
        digests = {row["operation_id"]: {row[name] for name in DIGESTS} for row in rows}
        for row in await self._fetch(SUBPROCESSES, list(digests), SubprocessSpawned.TOPIC):
            digests[row["operation_id"]] |= {row["stdin"], row["body"]}
        return [
            OperationContent(
                operation_id=row["operation_id"],
                created_at=row["created_at"],
                digests=frozenset(digests[row["operation_id"]] - {None}),
                is_unpacked=row["is_unpacked"],
            )
            for row in rows
        ]

    async def needed(
        self, project_id: UUID, digests: frozenset[str], *, ended_since: datetime
    ) -> frozenset[str]:
        if not digests:
            return frozenset()
        rows = await self._fetch(NEEDED, project_id, sorted(digests), ended_since)
        return frozenset(row["sha256"] for row in rows) | (digests & {NOTHING})

    async def own_layers(self, project_id: UUID) -> Sequence[str]:
        return [row["layer"] for row in await self._fetch(OWN_LAYERS, project_id)]

    async def oldest_run(self) -> datetime | None:
        (row,) = await self._fetch(OLDEST_RUN)
        at: datetime | None = row["min"]
        return at

    async def unended(self, project_id: UUID) -> Sequence[UUID]:
        return [row["operation_id"] for row in await self._fetch(UNENDED, project_id)]

    async def _fetch(self, statement: str, *arguments: Any) -> Sequence[asyncpg.Record]:
        with translated():
            async with self._pool.acquire() as connection, connection.transaction():
                await connection.execute(f"SET LOCAL statement_timeout = '{TIMEOUT_S}s'")
                rows: Sequence[asyncpg.Record] = await connection.fetch(
                    statement, *arguments, timeout=TIMEOUT_S
                )
        return rows
