"""The queue against the log: what it must hold is in the freshly folded table of operations.

The queue changes in the statement that appends the event, so a difference means that somebody else
wrote to the database, or that only the log was restored. What the log does not tell (leases, what
is taken just now) is not compared, and stays as it is where the rest is right.
"""

from __future__ import annotations

import asyncpg

from contree.adapters.postgres.compare import TableCompared, differing_rows

COLUMNS = "operation_id, project_id, kind, created_at, worker, unwanted"
FOLDED = (
    "(SELECT operation_id, project_id, kind, created_at, worker, "
    "cancellation_requested AS unwanted FROM {schema}.operations "
    "WHERE status IN ('PENDING', 'ASSIGNED', 'EXECUTING'))"
)
# A lease that nobody knows of has run out: whoever runs the operation may still renew it.
REMOVE = (
    "DELETE FROM public.queue q "
    "WHERE NOT EXISTS (SELECT FROM {folded} f WHERE f.operation_id = q.operation_id)"
)
ADD = (
    f"INSERT INTO public.queue AS q ({COLUMNS}, until) "  # noqa: S608 - names are ours
    f"SELECT {COLUMNS}, CASE WHEN worker IS NOT NULL THEN now() END FROM {{folded}} f "
    "ON CONFLICT (operation_id) DO UPDATE SET project_id = EXCLUDED.project_id, "
    "kind = EXCLUDED.kind, created_at = EXCLUDED.created_at, worker = EXCLUDED.worker, "
    "unwanted = EXCLUDED.unwanted, until = EXCLUDED.until "
    "WHERE (q.project_id, q.kind, q.created_at, q.worker, q.unwanted) IS DISTINCT FROM "
    "(EXCLUDED.project_id, EXCLUDED.kind, EXCLUDED.created_at, EXCLUDED.worker, EXCLUDED.unwanted)"
)


async def compare_queue(connection: asyncpg.Connection, *, rebuilt: str) -> TableCompared:
    """Compare the queue with the operations that have not ended in the schema `rebuilt`."""
    differences = await differing_rows(
        connection,
        "queue",
        ["operation_id"],
        live=f"(SELECT {COLUMNS} FROM public.queue)",  # noqa: S608 - names are ours
        rebuilt=FOLDED.format(schema=rebuilt),
    )
    count = await connection.fetchval("SELECT count(*) FROM public.queue")
    return TableCompared(table="queue", row_count=count, differences=differences)


async def set_queue_right(connection: asyncpg.Connection, *, rebuilt: str) -> None:
    """Make it so that `compare_queue` finds nothing; nobody may append meanwhile."""
    folded = FOLDED.format(schema=rebuilt)
    await connection.execute(REMOVE.format(folded=folded))
    await connection.execute(ADD.format(folded=folded))
